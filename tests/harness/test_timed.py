"""TIMED's evaluation on EmojiWorld, from the command line."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from conceptlens.harness.__main__ import main
from conceptlens.harness.studio import DiffusersStudio
from conceptlens.world.timed import TEST

pytestmark = pytest.mark.usefixtures("comfyui")
SAMPLING = ("--num-seeds", "2", "--steps", "6", "--guidance-scale", "4", "--lambda", "30")
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
    found = timed(file, tmp_path / "found", "--num-seeds", "8")
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
