"""What the meters read from pictures of which it is known."""

from __future__ import annotations

import pytest
import torch
from conceptlens.evaluation.meters import ink, place
from torch import Tensor


def box(left: int, top: int, width: int, height: int) -> Tensor:
    """A dark box on a pale picture (1, 3, 100, 100)."""
    picture = torch.full((1, 3, 100, 100), 0.9)
    picture[..., top : top + height, left : left + width] = -1
    return picture


def test_what_is_not_pale_is_shown() -> None:
    assert ink(box(10, 20, 30, 40)).sum() == 30 * 40
    assert ink(torch.tensor([1.0, 1.0, -1.0]).view(1, 3, 1, 1).expand(1, 3, 4, 4)).all()  # yellow is no background


def test_place_and_spread_of_a_box() -> None:
    middles, spreads = place(torch.cat([box(0, 0, 100, 100), box(0, 50, 20, 50)]))
    pixel = 2 / 99
    assert middles[0].tolist() == pytest.approx([0, 0], abs=1e-6)
    assert middles[1].tolist() == pytest.approx([-1 + 9.5 * pixel, 1 - 24.5 * pixel], abs=1e-5)
    for side, spread in ((20, spreads[1, 0]), (50, spreads[1, 1]), (100, spreads[0, 0])):  # of a uniform distribution
        assert float(spread) == pytest.approx(pixel * ((side**2 - 1) / 12) ** 0.5, rel=1e-3)


def test_an_empty_picture_has_a_place_too() -> None:
    middles, spreads = place(torch.ones(1, 3, 8, 8))
    assert middles.isfinite().all()
    assert spreads.isfinite().all()
