"""Charts show what they are given: bars in proportion, words in the order of their weights."""

from __future__ import annotations

import pytest
import torch
from conceptlens.core.errors import UserError
from conceptlens.core.pictures.charts import bar_chart, word_cloud
from PIL import ImageColor
from torch import Tensor


def lengths(picture: Tensor, colour: str) -> list[int]:
    """The width of each row's bar of a colour, from the top."""
    wanted = torch.tensor(ImageColor.getrgb(colour)) / 255
    rows = ((picture - wanted).abs().amax(-1) < 0.01).sum(1).tolist()
    return [max(rows[top : top + 18]) for top in range(10, len(rows) - 10, 28)]


def test_bars_are_as_long_as_their_values() -> None:
    values = [4.0, 2.0, 1.0, -2.0]
    picture = bar_chart(["dog", "snow", "a much longer word", "wolf"], values)
    above, below = lengths(picture, "#3a7bd5"), lengths(picture, "#d5573a")
    unit = above[0] / 4
    assert unit > 20
    assert above[:3] == pytest.approx([4 * unit, 2 * unit, unit], abs=2)
    assert below == pytest.approx([0, 0, 0, 2 * unit], abs=2)
    assert picture.shape == (4 * 28 + 10, 640, 3)


def test_a_chart_of_equal_or_no_values_is_drawn() -> None:
    assert lengths(bar_chart(["a", "b"], [0.0, 0.0]), "#3a7bd5") == pytest.approx([1, 1], abs=1)
    with pytest.raises(UserError, match="nothing to draw"):
        bar_chart([], [])


def test_a_cloud_gives_more_ink_to_larger_weights() -> None:
    picture = word_cloud(["mmmm", "nnnn"], [1.0, 0.1])
    first, second = (
        ((picture - torch.tensor(ImageColor.getrgb(colour)) / 255).abs().amax(-1) < 0.01).sum()
        for colour in ("#3a7bd5", "#1f2430")
    )
    assert first > 3 * second > 0
    for weights in ([], [0.0, 0.0]):
        with pytest.raises(UserError, match="nothing to draw"):
            word_cloud(["mmmm", "nnnn"][: len(weights)], weights)


def test_every_word_of_a_cloud_finds_a_place() -> None:
    few, many = (word_cloud([f"word{i}" for i in range(n)], [1.0 / (i + 1) for i in range(n)]) for n in (5, 30))
    assert (many < 0.9).any(-1).sum() > (few < 0.9).any(-1).sum()
