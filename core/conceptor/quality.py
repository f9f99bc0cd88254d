"""How much an explanation may cost: what a user chooses instead of single numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from .fit import Settings

Quality = Literal["quick", "thorough", "published"]
Sampler = Literal["dpmpp_2m", "ddim"]
PICTURES = ("num_images", "validation_images", "sampling_steps")


@dataclass(frozen=True)
class Preset:
    """What an explanation of some quality is made with."""

    settings: Settings
    num_images: int
    validation_images: int
    sampling_steps: int
    sampler: Sampler  # DPM-Solver++ (arXiv 2211.01095) needs a third of DDIM's steps

    def with_numbers(self, numbers: Mapping[str, Any]) -> Preset:
        """The same with some numbers of its own or of its settings; None leaves one as it is, and 0 where 0 is none.

        Pictures whose steps are given are drawn by DDIM, as published.
        """
        given = {name: value for name, value in numbers.items() if value or (value == 0 and name == "sparsity")}
        own = {name: given.pop(name) for name in PICTURES if name in given}
        sampler: Sampler = "ddim" if "sampling_steps" in own else self.sampler
        return replace(self, settings=replace(self.settings, **given), sampler=sampler, **own)


QUALITIES: dict[Quality, Preset] = {
    "quick": Preset(
        Settings(steps=8, batch_size=32, learning_rate=3e-3, validate_every=8, racers=64, draws=12),
        num_images=24,
        validation_images=8,
        sampling_steps=12,
        sampler="dpmpp_2m",
    ),
    "thorough": Preset(
        Settings(steps=30, batch_size=32, learning_rate=2e-3, validate_every=15, racers=64, draws=32),
        num_images=48,
        validation_images=16,
        sampling_steps=20,
        sampler="dpmpp_2m",
    ),
    "published": Preset(
        Settings(method="conceptor"), num_images=100, validation_images=20, sampling_steps=50, sampler="ddim"
    ),
}
