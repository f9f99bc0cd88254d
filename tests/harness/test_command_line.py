"""The command line as a user types it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conceptlens.core.conceptor.mixture import TokenMix
from conceptlens.core.pictures.grid import from_pil, labelled_grid, to_pil
from conceptlens.harness.__main__ import main
from conceptlens.harness.terminal.options import file_name
from conceptlens.tests.conftest import ROOT
from conceptlens.tests.harness.found import found_in, json_to
from PIL import Image
from safetensors.torch import load_file

EDIT = ("--source", "a pack of roses", "--destination", "a pack of blue roses")


def harness(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "conceptlens.harness", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_edit_writes_the_lora_and_the_pictures(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "edits" / "blue.safetensors"
    sampling = ("--prompt", "a rose", "--prompt", "a cat", "--seed", "3", "--steps", "2", "--size", "64")
    result = harness(
        "edit", "--model", model, *EDIT, "--lambda", "0.5", "--out", out, *sampling, "--json", tmp_path / "found.json"
    )
    assert result.returncode == 0, result.stderr
    told = found_in(tmp_path)
    assert told == {"edit": str(out), "rank": told["rank"], "layers": 22, "pictures": str(out.with_suffix(".png"))}
    assert len(load_file(out)) == 3 * 22
    assert Image.open(told["pictures"]).width >= 2 * 128
    assert "lambda 0.5" in result.stdout
    assert "editing weights (22)" in result.stdout


def test_edit_on_top_of_a_lora_differs(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, plain, stacked = (tmp_path / f"{name}.safetensors" for name in ("first", "plain", "stacked"))
    style = ("--source", "a house", "--destination", "a burning house")
    cats = ("--source", "a cat", "--destination", "a red cat")
    for out, options in ((first, (*style, *cats)), (plain, EDIT), (stacked, (*EDIT, "--lora", str(first)))):
        assert main(["edit", "--model", str(model), *options, "--out", str(out)]) == 0
        assert str(out) in capsys.readouterr().out.splitlines()
    key = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_v.lora_up.weight"
    assert not torch.allclose(load_file(plain)[key], load_file(stacked)[key], rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--source", "a pack of roses", "--destination", "blue roses"), 'lacks the source\'s word "a"'),
        ((*EDIT, "--lambda", "0"), "regularization is 0"),
        ((*EDIT, "--rank", "-1"), "rank is -1"),
        ((*EDIT, "--strength", "nan"), "strength is nan"),
        ((*EDIT, "--out", "edit.png"), "must end in .safetensors"),
        ((*EDIT, "--prompt", "a rose", "--size", "100"), "multiple of 64"),
        ((*EDIT, "--prompt", "a rose", "--steps", "0"), "0 sampling steps"),
        ((*EDIT, "--prompt", "a rose", "--steps", "1001"), "give 1 to 1000"),
        ((*EDIT, "--prompt", "a rose", "--seed", str(2**70)), f"The seed {2**70} is not between 0 and 2^63"),
        ((*EDIT, "--strength", "0"), "changes nothing"),
        ((*EDIT, "--source", "a cat"), "2 --source came with 1 --destination"),
        ((*EDIT, "--lora", "missing.safetensors"), "missing.safetensors does not exist"),
        ((*EDIT, "--lora", str(ROOT / "README.md")), "README.md could not be loaded as a LoRA"),
        ((*EDIT, "--model", "nowhere"), "nowhere is not a folder"),
    ],
)
def test_unusable_input_is_one_line_and_exit_code_1(
    model: Path, tmp_path: Path, options: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["edit", "--model", str(model), "--out", str(tmp_path / "edit.safetensors"), *options]) == 1
    told = capsys.readouterr().err
    assert says in told
    assert len(told.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_words_nearest_to_a_text(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["vocab", *json_to(tmp_path), "--model", str(model), "--templates", "none", "--cache", str(tmp_path)]
    assert main([*command, "--text", "castle", "--text", "ice cream", "--top", "3"]) == 0
    told = found_in(tmp_path)
    assert told["tokens"] > 30_000
    assert next(iter(told["nearest"]["castle"].items())) == ("castle", pytest.approx(1, abs=1e-3))
    assert len(told["nearest"]["ice cream"]) == 3
    assert len(list(tmp_path.glob("*.safetensors"))) == 1
    picture = tmp_path / "picture.png"
    Image.new("RGB", (64, 64)).save(picture)
    assert main([*command, "--picture", str(picture)]) == 1
    assert "has no image encoder" in capsys.readouterr().err
    assert main([*command, "--picture", str(tmp_path / "missing.png")]) == 1
    assert "can't be read as a picture" in capsys.readouterr().err


def test_a_mix_is_pictured_changed_and_kept_as_an_embedding(model: Path, tmp_path: Path) -> None:
    """`mix` draws what its prompt would with the embedding in the place of <>."""
    from conceptlens.harness.terminal.models import load_pipeline
    from conceptlens.pipelines.pictures import Sampling, sample

    picture, embedding = tmp_path / "mix.png", tmp_path / "mix.safetensors"
    command = ["mix", "--model", str(model), "--words", "dog: 0.6, snow: 0.3, night: 0.1", "--steps", "2"]
    command += ["--size", "64", "--seed", "3", "--out", str(picture), *json_to(tmp_path)]
    changes = ["--set", "snow: 0.8, river: 0.4", "--without", "night", "--top", "2", "--embedding", str(embedding)]
    assert main([*command, *changes]) == 0
    told = found_in(tmp_path)
    assert told == {"mix": {"snow": 0.8, "dog": 0.6}, "picture": str(picture)}
    pipe = load_pipeline(model)
    pipe.load_textual_inversion(str(embedding), token="<mix>")
    drawn = sample(pipe, "a photo of a <mix>", (3,), Sampling(2, size=64))
    expected = to_pil(labelled_grid(list(drawn), ["seed 3"]))
    assert np.abs(np.asarray(Image.open(picture), dtype=int) - np.asarray(expected, dtype=int)).max() <= 2


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--words", "dog", "--prompt", "a photo"), "must have one <>"),
        (("--words", "dog: many"), "has no number after its colon"),
        (("--words", "dog", "--without", "dog"), "empty or its coefficients cancel out"),
        (("--words", "dog", "--top", "0"), "use at least 1 coefficient"),
        (("--mix", "missing.safetensors"), "missing.safetensors does not exist"),
    ],
)
def test_what_can_not_be_mixed_is_one_line(
    model: Path, tmp_path: Path, options: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mix.png"
    assert main(["mix", "--model", str(model), "--out", str(out), *options]) == 1
    told = capsys.readouterr().err
    assert says in told
    assert len(told.strip().splitlines()) == 1
    assert not out.exists()


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (("bias", "--concept", "cat", "--seed", str(2**64)), f"The seed {2**64} is not between 0 and 2^63"),
        (("bias", "--concept", "cat", "--steps", "2000"), "give 1 to 1000"),
        (("decompose", "--concept", "cat", "--seed", "-3"), "The seed 18446744073709551613 is not between"),
        (("hspace", "sample", "--prompt", "a cat", "--seed", str(2**63 - 5)), f"The seed {2**63} is not between"),
        (("mix", "--words", "dog: 1"), "must end in .png"),
        (("bias", "--concept", "cat", "--mixes", "nowhere"), "cat.safetensors does not exist"),
        (("bias", "--concept", "cat", "--lora", "none.safetensors"), "none.safetensors does not exist"),
        (("mix", "--words", "dog: 1", "--out", str(ROOT / "README.md/a.png")), "README.md is a file"),
        (("hspace", "sample", "--prompt", "a cat", "--out", str(ROOT / "README.md")), "README.md is a file"),
        (("hspace", "jacobian", "--prompt", "a cat", "--mask", "none.png"), "none.png can't be read as a picture"),
        (("decompose", "--concept", " "), "A --concept is empty"),
        (("decompose", "--concept", "cat", "--num-images", "-1"), "-1 pictures for training"),
        (("decompose", "--concept", "cat", "--batch-size", "-1"), "batch_size is -1"),
        (("decompose", "--concept", "cat", "--learning-rate", "nan"), "learning_rate is nan"),
        (("decompose", "--concept", "cat", "--out", str(ROOT / "README.md")), "README.md is a file"),
        (("bias", "--concept", "cat", "--guidance-scale", "nan"), "guidance scale is nan"),
        (("hspace", "sample", "--prompt", "a cat", "--samples", "0"), "--samples is 0"),
        (("hspace", "jacobian", "--prompt", "a cat", "--components", "0"), "--components is 0"),
        (
            ("hspace", "apply", "--prompt", "a", "--directions", "d", "--scale", "nan", "--out", "a.png"),
            "scale is [nan]",
        ),
        (("hspace", "apply", "--prompt", "a", "--directions", "d", "--eta", "-3", "--out", "a.png"), "--eta is -3.0"),
        (("mix", "--words", "dog: 1", "--out", "a.png", "--embedding", "dog"), "must end in .safetensors"),
        (("hspace", "apply", "--prompt", "a cat", "--directions", "d"), "must end in .png"),
    ],
)
def test_what_can_not_be_drawn_or_written_is_said_first(
    command: tuple[str, ...], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before a model is loaded: there is none at that place."""
    out = [] if "--out" in command else ["--out", str(tmp_path / "out")]
    assert main([*command, "--model", str(tmp_path / "none"), *out]) == 1
    told = capsys.readouterr().err
    assert says in told
    assert len(told.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_chart_does_not_overwrite_its_directions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["hspace", "pca", str(tmp_path), "--out", str(tmp_path / "faces.png")]) == 1
    assert "must end in .safetensors" in capsys.readouterr().err


def test_a_long_concept_has_a_short_file_name_of_its_own() -> None:
    ends = [file_name("\u72ac" * 300 + end) for end in ("a", "b")]
    assert len(set(ends)) == 2
    assert all(len(name.encode()) <= 110 for name in ends)
    assert file_name("ice cream") == "ice_cream"


def test_a_console_with_few_letters_shows_all_words(model: Path, tmp_path: Path) -> None:
    """As Windows' pipes: what they lack is written by its number; the JSON file has it."""
    command = ["mix", "--model", str(model), "--words", "\U0001f602: 1", "--out", str(tmp_path / "a.png")]
    command += ["--steps", "1", "--size", "64"]
    narrow = {**os.environ, "PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0"}
    program = [sys.executable, "-m", "conceptlens.harness"]
    told = subprocess.run([*program, *command], capture_output=True, env=narrow, check=False)
    assert told.returncode == 0, told.stderr
    assert b"\\U0001f602" in told.stdout
    assert main([*command, *json_to(tmp_path)]) == 0
    assert list(found_in(tmp_path)["mix"]) == ["\U0001f602"]


def test_cards_are_drawn_once_and_for_what_they_show(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "pets.safetensors", tmp_path / "cards"
    TokenMix.of([1929, 2368], ["dog", "cat"], [2.0, 1.0]).save(file)
    command = ["card", "--model", str(model), "--mix", str(file), "--steps", "1", "--size", "64", "--out", str(out)]
    assert main(command) == 0
    drawn = (out / "pets.png").stat().st_mtime_ns
    assert "dog" in (out / "report.html").read_text(encoding="utf-8")
    assert main(command) == 0
    assert (out / "pets.png").stat().st_mtime_ns == drawn
    capsys.readouterr()
    assert main([*command, "--seed", "5"]) == 1
    assert "was made with other seed" in capsys.readouterr().err
    TokenMix.of([1929, 2368], ["dog", "cat"], [1.0, 2.0]).save(file)
    assert main(command) == 1
    assert "was made with other words" in capsys.readouterr().err
    (out / "pets.png").unlink()
    (out / "pets.json").unlink()
    assert main(command) == 0


@pytest.mark.parametrize("command", ["edit", "unknown"])
def test_wrong_usage_is_exit_code_2(command: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command])
    assert ended.value.code == 2


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["edit", "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for option in ("--source", "--destination", "--lambda", "--preserve", "--rank", "--prompt", "--json"):
        assert option in text


@pytest.mark.usefixtures("comfyui")
def test_rose_turns_blue_and_apple_stays_red() -> None:
    """On a trained model: the edit is seen in the edited and in a related prompt, and not in a preserved one."""
    from conceptlens.core.time_edit.lora import lora_state_dict
    from conceptlens.core.time_edit.time_edit import EditPair, edit_model
    from conceptlens.harness.terminal.models import EMOJI_WORLD, load_pipeline
    from conceptlens.pipelines.adapter import DiffusersDenoiser, DiffusersTextEncoder
    from conceptlens.pipelines.pictures import Sampling, sample

    pipe = load_pipeline(EMOJI_WORLD)
    sampling = Sampling(15, guidance_scale=4.0)
    prompts = ["a rose", "a photo of a rose", "an apple"]

    def redness() -> list[torch.Tensor]:
        """Red minus blue of each picture's coloured pixels."""
        values = []
        for prompt in prompts:
            pictures = sample(pipe, prompt, (1, 2, 3), sampling)
            coloured = (pictures.amax(-1) - pictures.amin(-1) > 0.3).float()
            difference = (pictures[..., 0] - pictures[..., 2]) * coloured
            values.append(difference.sum((1, 2)) / coloured.sum((1, 2)))
        return values

    denoiser, encoder = DiffusersDenoiser(pipe), DiffusersTextEncoder(pipe)
    before = redness()
    roses = [EditPair("a rose", "a blue rose")]
    edited = edit_model(encoder, denoiser, roses, preserve=["an apple"])
    denoiser.apply(lora_state_dict(edited.factors, denoiser.family))
    after = redness()
    assert all((values > 0.3).all() for values in before)
    assert (after[0] < -0.1).all()
    assert (after[1] < -0.1).all()
    assert (after[2] - before[2]).abs().max() < 0.1


def test_picture_files_are_what_was_sampled(tmp_path: Path) -> None:
    picture = torch.rand(8, 8, 3)
    to_pil(picture).save(tmp_path / "a.png")
    assert (from_pil(Image.open(tmp_path / "a.png")) - picture).abs().max() <= 0.5 / 255 + 1e-6
