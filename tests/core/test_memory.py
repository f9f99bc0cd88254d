"""Work goes on in smaller portions where memory runs out."""

from __future__ import annotations

import pytest
import torch
from conceptlens.core.errors import UserError
from conceptlens.core.model.memory import Portions


class Crowded:
    """A model beside others: each of three ways to save memory lets one more picture fit."""

    def __init__(self, others: int, fits: int) -> None:
        self.others, self.fits, self.sizes = others, fits, list[int]()

    def make_room(self) -> bool:
        moved, self.others = self.others, 0
        return moved > 0

    def save_memory(self) -> bool:
        self.fits += 1
        return self.fits == 1

    def work(self, size: int) -> int:
        self.sizes.append(size)
        if size > self.fits - self.others:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return size


@pytest.mark.parametrize(
    ("others", "fits", "sizes"),
    [(0, 8, [8]), (2, 8, [8, 8]), (2, 2, [8, 8, 4, 2]), (0, 0, [8, 4, 2, 1, 1])],
    ids=["enough", "others make room", "smaller portions", "activations anew"],
)
def test_memory_is_found(others: int, fits: int, sizes: list[int]) -> None:
    model = Crowded(others, fits)
    assert Portions(8, model).run(model.work) == sizes[-1]
    assert model.sizes == sizes


def test_others_that_come_back_are_moved_once() -> None:
    model = Crowded(0, 2)
    model.make_room = lambda: True
    assert Portions(8, model).run(model.work) == 2
    assert model.sizes == [8, 8, 4, 2]


def test_one_picture_that_does_not_fit_is_a_sentence() -> None:
    for model in (Crowded(0, -1), None):
        with pytest.raises(UserError, match="does not hold one picture"):
            Portions(4, model).run(Crowded(0, -1).work)
