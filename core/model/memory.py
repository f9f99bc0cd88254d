"""Work in portions that the device's memory holds."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol, TypeVar

import torch

from ..errors import UserError

Result = TypeVar("Result")


class Thrifty(Protocol):
    """What can trade time for memory."""

    def make_room(self) -> bool:
        """Moves what else lies in the device's memory elsewhere; False when there was nothing."""
        ...

    def save_memory(self) -> bool:
        """Uses less memory from now on; False when there is nothing left to save."""
        ...


class Portions:
    """How many pictures go through a UNet at once.

    `size` of them to begin with. When memory runs out other things make room, then there are half as many, then
    activations are computed anew; `model` does the first and the last, and without one they are left out.
    """

    def __init__(self, size: int, model: Thrifty | None = None) -> None:
        self.size = size
        self._model = model

    def run(self, work: Callable[[int], Result]) -> Result:
        """work(size), in portions of as many pictures as fit. Raises UserError when one picture does not."""
        tried = False  # once only: a host may load what it needs itself again and again
        while True:
            try:
                return work(self.size)
            except torch.OutOfMemoryError as error:
                if self._model and not tried:
                    tried = True
                    if self._model.make_room():
                        continue
                if self.size == 1 and not (self._model and self._model.save_memory()):
                    raise UserError(
                        "The memory does not hold one picture; choose a smaller image size, or "
                        "close other programs that use the GPU."
                    ) from error
            self.size = math.ceil(self.size / 2)
