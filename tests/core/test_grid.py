"""Grids hold every picture, unchanged, under its label."""

from __future__ import annotations

import pytest
import torch
from conceptlens.core.errors import UserError
from conceptlens.core.pictures.charts import font_for
from conceptlens.core.pictures.grid import label_each, labelled_grid, wrapped
from torch import Tensor


def colour(value: float, height: int = 64, width: int = 64) -> Tensor:
    return torch.full((height, width, 3), value)


def test_every_picture_is_there() -> None:
    values = [0.2, 0.4, 0.6, 0.8, 0.0]
    grid = labelled_grid([colour(v) for v in values], [f"label {v}" for v in values], columns=3)
    for value in values:
        assert (grid == torch.tensor(value)).all(-1).sum() >= 64 * 64
    assert grid.shape[1] < 4 * 64 + 64
    assert grid.shape[0] > 2 * 64


def test_labels_are_drawn() -> None:
    plain, labelled = (labelled_grid([colour(1.0)], [label]) for label in ("", "rose"))
    assert plain.min() == 1.0
    assert labelled.min() < 0.5


def test_long_labels_are_broken_into_lines() -> None:
    short, long = (labelled_grid([colour(1.0)], [label]) for label in ("a", "a pack of blue roses on a table"))
    assert long.shape[0] > short.shape[0]


def test_a_word_that_is_too_long_stays_in_its_cell() -> None:
    pictures = [colour(1.0, 64, 64)] * 3
    grid = labelled_grid(pictures, ["", "unbreakable" * 4, ""], columns=3)
    assert grid[:, :60].min() == 1.0
    assert grid[:, -60:].min() == 1.0
    assert grid.min() < 0.5


def test_a_word_of_thousands_of_letters_is_broken_where_it_has_to_be() -> None:
    """Each line as long as it can be. (Letter by letter this took hours.)"""
    font, word = font_for("a", 16), "ab" * 2000
    lines = wrapped(word, font, 100).splitlines()
    assert "".join(lines) == word
    assert all(font.getlength(line) <= 100 for line in lines)
    assert font.getlength(word[: len(lines[0]) + 1]) > 100
    assert wrapped("abc", font, 1).splitlines() == ["a", "b", "c"]


def test_pictures_of_different_sizes_are_not_scaled() -> None:
    grid = labelled_grid([colour(0.0, 32, 32), colour(0.5, 64, 96)], ["", ""], columns=2)
    assert (grid < 0.01).all(-1).sum() == 32 * 32


@pytest.mark.parametrize(("count", "columns"), [(1, 1), (4, 2), (5, 3), (9, 3)])
def test_automatic_columns_make_a_square(count: int, columns: int) -> None:
    automatic, explicit = (labelled_grid([colour(0.5)] * count, [""] * count, c) for c in (0, columns))
    assert torch.equal(automatic, explicit)


def test_wrong_numbers_are_one_sentence() -> None:
    with pytest.raises(UserError, match="no pictures"):
        labelled_grid([], [])
    with pytest.raises(UserError, match="1 labels came with 2 pictures"):
        labelled_grid([colour(0.0)] * 2, ["a"])


def test_labels_for_pictures_batches_and_lines() -> None:
    batches = [torch.zeros(2, 4, 4, 3), torch.ones(1, 4, 4, 3)]
    assert label_each(batches, ["a", "b"])[1] == ["a", "a", "b"]
    assert label_each(batches, ["a\nb\nc"])[1] == ["a", "b", "c"]
    pictures, _ = label_each(batches, ["a", "b", "c"])
    assert [float(picture.mean()) for picture in pictures] == [0.0, 0.0, 1.0]
