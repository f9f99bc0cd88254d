"""TIMED's tables and measures."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest
from conceptlens.core.errors import UserError
from conceptlens.evaluation.timed_set import (
    TESTS,
    Leanings,
    Scores,
    Wording,
    intervals,
    is_professions,
    mean_scores,
    read_pairs,
    read_professions,
)

PAIR = ["A chair", "A glass chair"]
PAIR += [text for number in TESTS for text in (f"A chair, view {number}", f"A glass chair, view {number}")]
PAIR += [text for number in TESTS for text in (f"A table {number}", f"A glass table {number}")]
COLUMNS = ["old", "new", *(name for n in TESTS for name in (f"positive{n}", f"gt{n}"))]
COLUMNS += [name for n in TESTS for name in (f"negative{n}", f"gn{n}")]
PROFESSION = ["a baker", "a male baker", "A photo of a baker", *(f"A baker at work {number}" for number in TESTS)]
PROFESSION_COLUMNS = ["old", "new", "validation", *(f"ex{number}" for number in TESTS)]


def table(folder: Path, columns: list[str], *rows: list[str]) -> Path:
    file = folder / "timed.csv"
    lines = [",".join(f'"{field}"' for field in row) for row in (columns, *rows)]
    file.write_text("\ufeff" + "\r\n".join(lines), encoding="utf-8")  # as spreadsheets save it
    return file


def test_pairs_are_read(tmp_path: Path) -> None:
    file = table(tmp_path, COLUMNS, PAIR)
    (pair,) = read_pairs(file)
    assert not is_professions(file)
    assert pair.edit == ("A chair", "A glass chair", 1.0)
    assert pair.positives[4] == ("A chair, view 5", "A glass chair, view 5")
    assert pair.negatives[0] == ("A table 1", "A glass table 1")
    assert pair.wordings[0] == ("A chair", "A glass chair")
    assert len(pair.wordings) == 11


def test_professions_are_read(tmp_path: Path) -> None:
    file = table(tmp_path, PROFESSION_COLUMNS, PROFESSION)
    (profession,) = read_professions(file)
    assert is_professions(file)
    assert profession.validation == ("A photo of a baker", "A photo of a male baker")
    assert profession.tests[1] == ("A baker at work 2", "a male baker at work 2")
    assert profession.opposite(profession.tests[1]) == "a female baker at work 2"
    assert profession.opposite(Wording("a nurse", "a female nurse")) == "a male nurse"


@pytest.mark.parametrize(
    ("columns", "rows", "message"),
    [
        (COLUMNS[:-1], [PAIR[:-1]], "no column gn5"),
        (COLUMNS, [], "no rows"),
        (COLUMNS, [PAIR, [*PAIR[:2], " ", *PAIR[3:]]], "Row 3 of .* has nothing in positive1"),
        (COLUMNS, [PAIR[:-3]], "Row 2 of .* has nothing in gn4"),
    ],
)
def test_a_wrong_table_is_one_sentence(tmp_path: Path, columns: list[str], rows: list[list[str]], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_pairs(table(tmp_path, columns, *rows))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (["a baker", "a tired baker", *PROFESSION[2:]], "neither male nor female"),
        ([*PROFESSION[:2], "A photo of a cook", *PROFESSION[3:]], '"A photo of a cook" in .* lacks "a baker"'),
    ],
)
def test_a_row_of_no_profession_is_one_sentence(tmp_path: Path, row: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_professions(table(tmp_path, PROFESSION_COLUMNS, row))


@pytest.mark.parametrize("content", [b"\xff\xfeold", b'"old', None])
def test_what_is_no_table_is_one_sentence(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "timed.csv"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match=r"can't be read as a table|has no column"):
        read_pairs(file)


def test_scores_count_pictures_on_the_wanted_side() -> None:
    """By a margin that pictures in between miss on either side."""
    leanings = Leanings(
        [0.3, 0.1, -0.1, 0.3], [[0.3, 0.3, -0.3, 0.3], [0.05, -0.3, -0.3, -0.3]], [[-0.3, -0.1, 0.3, -0.3]]
    )
    assert leanings.scores() == (75, (75 + 25) / 2, 75)
    assert leanings.scores(0.2) == (50, (75 + 0) / 2, 50)


def test_means_of_scores() -> None:
    scores = Scores(50, 80, 20)
    assert scores.f1 == pytest.approx(2 * 80 * 20 / (80 + 20))
    assert scores.harmonic == pytest.approx(3 / (1 / 50 + 1 / 80 + 1 / 20))
    assert scores.geometric == pytest.approx((50 * 80 * 20) ** (1 / 3))
    assert (Scores(0, 80, 20).geometric, Scores(0, 80, 20).harmonic, Scores(9, 0, 20).f1) == (0, 0, 0)


def test_intervals_have_the_width_of_a_means() -> None:
    """Of 100 edits, half at 0 and half at 100: a standard error of 5."""
    scores = [Scores(100.0 * (number % 2), 50.0, 100.0) for number in range(100)]
    assert mean_scores(scores) == (50, 50, 100)
    found = intervals(scores)
    low, high = found["efficacy"]
    assert statistics.mean((low, high)) == pytest.approx(50, abs=2)
    assert (high - low) / 2 == pytest.approx(1.96 * 5, abs=1.5)
    assert found["generality"] == (50, 50)
