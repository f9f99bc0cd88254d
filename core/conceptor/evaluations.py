"""How far long work of several phases is, counted in evaluations of a model."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from torch import Tensor

from ..model.diffusion import Diffusion, Prediction
from ..model.protocols import Progress, unseen
from ..model.text_tower import Encoded

BACKWARD = 2  # evaluations that a backward pass takes as long as


class Evaluations:
    """One bar over all phases of long work.

    An evaluation is one row through the UNet; its backward pass counts as BACKWARD more.
    What is told of it never falls, and is less than everything until `finish`: phases that turn out longer slow it
    down, and what is left out makes it jump ahead. Whatever counts asks whether to go on, too: `progress` may raise.
    """

    def __init__(
        self, expected: Mapping[str, int] = {}, progress: Progress = unseen, say: Callable[[str], object] = id
    ) -> None:
        """expected: the evaluations of each phase, in their order; `say` is told the name of each that begins."""
        self._progress, self._say = progress, say
        self._expected = dict(expected)
        self._total = max(1, sum(expected.values()))
        self._shown = self._done = self._of_phase = 0
        self._phase = ""
        self._start = time.monotonic()

    @property
    def position(self) -> tuple[int, int]:
        """Evaluations done and in all, as they were expected."""
        return self._shown, self._total

    @property
    def done(self) -> int:
        """Evaluations that were made."""
        return self._done

    @property
    def seconds_left(self) -> float:
        """Of all phases, if the rest takes as long as what was done."""
        return (time.monotonic() - self._start) * self._left() / max(1, self._done)

    def begin(self, phase: str, done: int = 0) -> None:
        """The next phase, of which `done` evaluations were made earlier; the phases before it are over."""
        self._expected[phase] = max(0, self._expected.get(phase, 0) - done)
        for name in list(self._expected):
            if name == phase:
                break
            del self._expected[name]
        self._phase, self._of_phase = phase, 0
        left = f", {self.seconds_left:.0f} s left" if self._done else ""
        self._say(f"{phase}{left}")

    def add(self, count: int) -> None:
        """Tells of `count` further evaluations."""
        self._done += count
        self._of_phase += count
        reached = int(self._total * self._done / max(1, self._done + self._left()))
        self._shown = max(self._shown, min(reached, self._total - 1))
        self._progress(*self.position)

    def counted(self, count: int) -> Progress:
        """What tells of work that takes `count` evaluations and reports in steps of its own."""
        before = 0

        def show(done: int, total: int) -> None:
            nonlocal before
            now = count * done // total
            before, new = now, now - before
            self.add(new)

        return show

    def finish(self) -> None:
        """All is done."""
        self._shown = self._total
        self._progress(*self.position)

    def _left(self) -> int:
        later = sum(count for name, count in self._expected.items() if name != self._phase)
        return later + max(0, self._expected.get(self._phase, 0) - self._of_phase)


class Counted:
    """A diffusion whose evaluations are counted, whatever loop they are made in."""

    def __init__(self, diffusion: Diffusion, work: Evaluations) -> None:
        self._diffusion, self._work = diffusion, work
        self.prediction: Prediction = diffusion.prediction
        self.alphas_cumprod: Tensor = diffusion.alphas_cumprod

    def predict(self, noisy: Tensor, timesteps: Tensor, encoded: Encoded) -> Tensor:
        predicted = self._diffusion.predict(noisy, timesteps, encoded)
        self._work.add(len(noisy) * (1 + BACKWARD * predicted.requires_grad))
        return predicted

    def make_room(self) -> bool:
        return self._diffusion.make_room()

    def save_memory(self) -> bool:
        return self._diffusion.save_memory()
