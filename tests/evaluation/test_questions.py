"""The published evaluations on EmojiWorld, from the command line."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conceptlens.core.conceptor.mixture import mix_from_text
from conceptlens.evaluation.__main__ import main
from conceptlens.evaluation.judges import ClipJudge, OwnJudge
from conceptlens.evaluation.timed import preserved
from conceptlens.evaluation.timed_set import read_pairs
from conceptlens.harness.terminal.models import EMOJI_WORLD, load_pipeline
from conceptlens.pipelines.adapter import DiffusersTextEncoder
from conceptlens.pipelines.pictures import Sampling
from conceptlens.pipelines.studio import DiffusersStudio
from conceptlens.world.architecture import VISION
from conceptlens.world.emoji import encoders
from conceptlens.world.emoji.timed import TEST
from conceptlens.world.tokenizer import clip_tokenizer

pytestmark = pytest.mark.usefixtures("comfyui")
SAMPLING = ("--num-seeds", "1", "--steps", "6", "--guidance-scale", "4", "--lambda", "30")
PROFESSION = ["a mechanic", "a female mechanic", "a photo of a mechanic", "a mechanic", "a picture of a mechanic"]
PROFESSION += ["an image of a mechanic", "a photo of a mechanic", "a flat picture of a mechanic"]


@pytest.fixture
def one_edit(tmp_path: Path) -> Path:
    """The first one of EmojiWorld's test set."""
    file = tmp_path / "one.csv"
    file.write_text("".join(TEST.read_text(encoding="utf-8").splitlines(keepends=True)[:2]), encoding="utf-8")
    return file


def timed(dataset: Path, out: Path, *more: str) -> dict[str, float]:
    """The measures of a run."""
    file = out.with_suffix(".json")
    given = ("--model", "emoji-world", "--dataset", str(dataset), "--out", str(out), "--json", str(file))
    assert main(["timed", *given, *SAMPLING, *more]) == 0
    return {row["name"].removeprefix("timed: "): row["value"] for row in json.loads(file.read_text())["measures"]}


def test_an_edit_does_what_words_do_and_the_model_itself_does_not(one_edit: Path, tmp_path: Path) -> None:
    found = {method: timed(one_edit, tmp_path / method, "--method", method) for method in ("none", "words", "time")}
    assert found["none"]["efficacy"] == found["none"]["generality"] == 0
    assert found["words"]["efficacy"] == 100
    assert found["time"]["efficacy"] == 100
    assert found["time"]["generality"] >= 80
    assert found["words"]["specificity"] == found["none"]["specificity"] >= 80


def test_no_prompt_by_which_an_edit_is_judged_is_preserved() -> None:
    entries = read_pairs(TEST)
    others = {prompt for entry in entries for prompt in (entry.edit.source, entry.edit.destination)}
    for entry in entries:
        judged = {entry.edit.source, entry.edit.destination, *(wording.prompt for wording in entry.wordings)}
        kept = preserved(entry, entries)
        assert len(kept) == len(set(kept))
        assert set(kept) == others - judged


def test_a_clip_folder_judges_as_the_same_clip_inside_the_model(tmp_path: Path) -> None:
    """EmojiWorld's encoders are a CLIP: saved as a folder they say of pictures and texts what they say in the model."""
    clip_tokenizer().save_pretrained(tmp_path)
    clip: Any = encoders.load()
    clip.config.vision_config.update({name: VISION[name] for name in ("image_mean", "image_std")})
    clip.save_pretrained(tmp_path)
    inside = OwnJudge(DiffusersStudio(load_pipeline(EMOJI_WORLD), Sampling(1, 1.0)))
    outside = ClipJudge(tmp_path, torch.device("cpu"))
    pictures = torch.rand(3, 128, 128, 3, generator=torch.Generator().manual_seed(0))
    texts = ["a photo of a rose", "a mechanic"]
    torch.testing.assert_close(outside.pictures(pictures), inside.pictures(pictures))
    torch.testing.assert_close(outside.texts(texts), inside.texts(texts), atol=1e-5, rtol=1e-4)
    for one, other in zip(outside.layers(pictures), inside.layers(pictures), strict=True):
        torch.testing.assert_close(one, other)


def test_a_finished_edit_is_not_drawn_again(
    one_edit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It can be judged by another margin; what was made by other settings is not taken for it."""
    out = tmp_path / "found"
    first = timed(one_edit, out, "--method", "none")
    monkeypatch.setattr(DiffusersStudio, "latents_of_prompt", lambda *_: pytest.fail("drawn again"))
    assert timed(one_edit, out, "--method", "none") == first
    assert timed(one_edit, out, "--method", "none", "--margin", "9")["specificity"] == 0
    given = ("--model", "emoji-world", "--dataset", str(one_edit), "--out", str(out))
    assert main(["timed", *given, *SAMPLING, "--method", "words"]) == 1
    assert "was made with other method (none, not words)" in capsys.readouterr().err


def test_professions_come_nearer_to_even_shares(tmp_path: Path) -> None:
    file = tmp_path / "professions.csv"
    with file.open("w", newline="") as lines:
        columns = ["old", "new", "validation", *(f"ex{number}" for number in range(1, 6))]
        csv.writer(lines).writerows([columns, PROFESSION])
    found = timed(file, tmp_path / "found", "--num-seeds", "5")
    assert found["share of the rarer sex before the edit"] < 30
    assert found["share of the rarer sex after the edit"] > 30
    before, after = (found[f"distance from even shares {when} the edit, 0 to 1"] for when in ("before", "after"))
    assert after < 0.5 * before


def test_what_can_not_be_evaluated_is_one_sentence(
    one_edit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    twice = tmp_path / "twice.csv"
    twice.write_text(one_edit.read_text() + one_edit.read_text().splitlines()[1], encoding="utf-8")
    for dataset, more, message in (
        (one_edit, ("--num-seeds", "0"), "needs at least 1 picture"),
        (twice, (), "have the same destination"),
        (one_edit, ("--clip", str(tmp_path)), "could not be loaded as a CLIP model"),
        (tmp_path / "none.csv", (), "can't be read as a table"),
    ):
        given = ("--model", "emoji-world", "--dataset", str(dataset), "--out", str(tmp_path / "out"))
        assert main(["timed", *given, *more]) == 1
        assert message in capsys.readouterr().err


def test_a_mix_is_the_nearer_to_its_concept_the_better_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The concept's own word makes the same pictures, a like word others, an unlike one others still."""
    encoder = DiffusersTextEncoder(load_pipeline(EMOJI_WORLD))
    found = {}
    for words in ("rose: 1", "tulip: 1", "car: 1"):
        mixes = tmp_path / words[0]
        mix_from_text(encoder, words, "SD 1.x").save(mixes / "rose.safetensors")
        file = tmp_path / "found.json"
        given = ("--model", "emoji-world", "--concept", "rose", "--mixes", str(mixes), "--out", str(mixes / "out"))
        options = ("--num-images", "3", "--steps", "6", "--guidance-scale", "2.5", "--json", str(file))
        assert main(["conceptor", *given, *options]) == 0
        found[words[:-3]] = [row["value"] for row in json.loads(file.read_text())["measures"]]
        assert (mixes / "out" / "rose.png").is_file()
    similarity, distance, concept, mix, tokens = zip(*found.values(), strict=True)
    assert similarity[0] == pytest.approx(1, abs=1e-3)
    assert distance[0] == pytest.approx(0, abs=1e-3)
    assert similarity[0] > similarity[1] > similarity[2]
    assert distance[0] < distance[1] < distance[2]
    assert concept[0] == pytest.approx(mix[0], abs=1e-3)
    assert mix[0] > 0
    assert tokens == (0, 0, 0)
    monkeypatch.setattr(DiffusersStudio, "latents_of_prompt", lambda *_: pytest.fail("drawn again"))
    assert main(["conceptor", *given, *options]) == 0
