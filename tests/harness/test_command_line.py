"""The command line as a user types it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conceptlens.core.mixture import TokenMix
from conceptlens.core.plots import from_pil, to_pil
from conceptlens.harness.__main__ import main
from conceptlens.tests.conftest import ROOT
from conceptlens.tests.tiny import tiny_pipeline
from PIL import Image
from safetensors.torch import load_file

EDIT = ("--source", "a pack of roses", "--destination", "a pack of blue roses")
SMALL_MODEL = ROOT.parent / "shared/emoji_world_start"


def harness(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "conceptlens.harness", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def model(comfyui: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny_pipeline("SD 1.x", comfyui / "comfy/sd1_tokenizer").save_pretrained(folder)
    return folder


def test_edit_writes_the_lora_and_the_pictures(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "edits" / "blue.safetensors"
    sampling = ("--prompt", "a rose", "--prompt", "a cat", "--seed", "3", "--steps", "2", "--size", "64")
    result = harness("edit", "--model", model, *EDIT, "--lambda", "0.5", "--out", out, *sampling, "--json")
    assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout)
    assert told == {"edit": str(out), "rank": told["rank"], "layers": 22, "pictures": str(out.with_suffix(".png"))}
    assert len(load_file(out)) == 3 * 22
    assert Image.open(told["pictures"]).width >= 2 * 128
    assert "lambda 0.5" in result.stderr
    assert "editing weights (22)" in result.stderr


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
        ((*EDIT, "--prompt", "a rose", "--seed", str(2**70)), "not all between 0 and 2^63"),
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


SMALL = ["--num-tokens", "4", "--dictionary-size", "6", "--steps", "2", "--num-images", "2", "--validation-images", "1"]
SMALL += ["--sampling-steps", "2", "--size", "64", "--templates", "none"]


def test_concepts_are_explained_once(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Into files of their own; finished ones are not made again, and a lost one is."""
    listed = tmp_path / "concepts.txt"
    listed.write_text("ice cream\n\n日本の犬\n", encoding="utf-8")
    out = tmp_path / "out"
    command = ["decompose", "--json", "--model", str(model), "--out", str(out), *SMALL]
    command += ["--concept", "castle", "--concepts", str(listed)]
    assert main(command) == 0
    results = json.loads(capsys.readouterr().out)
    assert list(results) == ["castle", "ice cream", "日本の犬"]
    for name in ("castle", "ice_cream", "日本の犬"):
        mix = TokenMix.load(out / f"{name}.safetensors")
        assert len(mix) == 4
        for suffix in (".png", ".bars.png", ".loss.png"):
            assert (out / f"{name}{suffix}").is_file()
    (out / "castle.safetensors").unlink()
    written = {file: file.stat().st_mtime_ns for file in out.glob("*.safetensors")}
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out) == results
    assert {file: file.stat().st_mtime_ns for file in written} == written
    assert main([*command, "--steps", "3"]) == 1
    assert "was made with other settings" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ((), "nothing to explain"),
        (("--concept", "dog", "--prompt", "a photo"), "must have one {}"),
        (("--concepts", "missing.txt"), "missing.txt can't be read"),
        (("--concept", "dog", "--size", "100"), "multiple of 64"),
    ],
)
def test_what_can_not_be_explained_is_one_line(
    model: Path, tmp_path: Path, options: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["decompose", "--model", str(model), "--out", str(tmp_path / "out"), *options]) == 1
    told = capsys.readouterr().err
    assert says in told
    assert len(told.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_wrong_usage_is_exit_code_2() -> None:
    assert harness("edit").returncode == 2
    assert harness("unknown").returncode == 2


def test_help_names_every_option() -> None:
    text = harness("edit", "--help").stdout
    for option in ("--source", "--destination", "--lambda", "--preserve", "--rank", "--prompt", "--json"):
        assert option in text


@pytest.mark.skipif(not SMALL_MODEL.is_dir(), reason="the small trained model does not lie beside the repository")
def test_rose_turns_blue_and_apple_stays_red(comfyui: Path) -> None:
    """On a trained model: the edit is seen in the edited and in a related prompt, and not in a preserved one."""
    from conceptlens.core.lora import lora_state_dict
    from conceptlens.core.model_edit import EditPair, edit_model
    from conceptlens.harness.diffusers_backend import DiffusersDenoiser, DiffusersTextEncoder, load_pipeline
    from conceptlens.harness.pictures import Sampling, sample

    pipe = load_pipeline(SMALL_MODEL, comfyui / "comfy/sd1_tokenizer")
    sampling = Sampling(seeds=(1, 2, 3), steps=15, guidance_scale=4.0)
    prompts = ["a rose", "a photo of a rose", "an apple"]

    def redness() -> list[torch.Tensor]:
        """Red minus blue of each picture's coloured pixels."""
        values = []
        for prompt in prompts:
            pictures = sample(pipe, prompt, sampling)
            coloured = (pictures.amax(-1) - pictures.amin(-1) > 0.3).float()
            difference = (pictures[..., 0] - pictures[..., 2]) * coloured
            values.append(difference.sum((1, 2)) / coloured.sum((1, 2)))
        return values

    denoiser, encoder = DiffusersDenoiser(pipe), DiffusersTextEncoder(pipe)
    before = redness()
    roses = [EditPair("a rose", "a blue rose")]
    edited = edit_model(encoder, denoiser, roses, regularization=1000.0, preserve=["an apple"])
    denoiser.apply(lora_state_dict(edited.edit, edited.factors, denoiser.family))
    after = redness()
    assert all((values > 0.3).all() for values in before)
    assert (after[0] < -0.1).all()
    assert (after[1] < -0.1).all()
    assert (after[2] - before[2]).abs().max() < 0.1


def test_picture_files_are_what_was_sampled(tmp_path: Path) -> None:
    picture = torch.rand(8, 8, 3)
    to_pil(picture).save(tmp_path / "a.png")
    assert (from_pil(Image.open(tmp_path / "a.png")) - picture).abs().max() <= 0.5 / 255 + 1e-6
