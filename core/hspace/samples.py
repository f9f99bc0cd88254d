"""The bottleneck of a UNet while it draws pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import storage
from ..errors import UserError
from .directions import Position, check_levels, check_one_size, origin_of, read_origin

KIND, VERSION = "h-space samples", 1


@dataclass(frozen=True, eq=False)
class HSpaceSamples:
    """The bottleneck at each noise level of pictures that were drawn alike."""

    sigmas: Tensor  # (levels,), falling
    activations: Tensor  # (levels, pictures, channels, height, width) float16: for the prompt
    family: str  # of the model: one of model.protocols.Family, or the class of an unconditional UNet
    position: Position
    made_by: dict[str, Any]
    downsampling: int | None = None  # the latents' side over the bottleneck's; older files do not say it

    def __len__(self) -> int:
        return self.activations.shape[1]

    def chosen(self, pictures: Sequence[int]) -> HSpaceSamples:
        """Some of its pictures. Raises UserError for one that is not there."""
        if absent := [picture for picture in pictures if not 0 <= picture < len(self)]:
            raise UserError(f"There is no picture {absent[0]}; the set has {len(self)}, counted from 0.")
        return replace(self, activations=self.activations[:, list(pictures)])

    def save(self, path: Path) -> None:
        """Writes a file that `load` reads."""
        tensors = {"sigmas": self.sigmas, "activations": self.activations}
        storage.write(path, tensors, {"kind": KIND, "version": VERSION, **origin_of(self)})

    @classmethod
    def load(cls, path: Path) -> HSpaceSamples:
        """Reads what `save` wrote. Raises UserError for any other file."""
        tensors, header = storage.read(path, KIND, VERSION, ("sigmas", "activations"))
        storage.check_numbers(path, {"sigmas": 1, "activations": 5}, tensors)
        check_levels(path, tensors["sigmas"], len(tensors["activations"]))
        return cls(tensors["sigmas"], tensors["activations"], **read_origin(path, header))


@dataclass(eq=False)
class Recorder:
    """Collects the bottleneck of one batch of pictures while a sampler runs: what it holds for the prompt."""

    sigmas: Sequence[float]  # the sampler's levels; what is evaluated between them is not kept
    kept: list[dict[object, Tensor]] = field(init=False)  # of each level: region -> (pictures, c, h, w) float16

    def __post_init__(self) -> None:
        self.kept = [{} for _ in self.sigmas]

    def record(
        self, sigma: float, h: Tensor, prompted: Sequence[bool], regions: Sequence[object] | None = None
    ) -> None:
        """One evaluation at `sigma`: h (chunks * pictures, c, height, width), a chunk for each entry of `prompted`.

        `regions` names the prompt of each chunk: several, of regional prompts, count together, whether a host evaluates
        them at once or one by one. A sampler that comes back to a level keeps what was there first.
        """
        level = min(range(len(self.sigmas)), key=lambda place: abs(self.sigmas[place] - sigma))
        if abs(self.sigmas[level] - sigma) > 1e-4 * max(self.sigmas[level], 1e-8):
            return
        names = range(len(prompted)) if regions is None else regions
        for chunk, its, region in zip(h.chunk(len(prompted)), prompted, names, strict=True):
            if its and region not in self.kept[level]:
                self._check_size(level, chunk)
                self.kept[level][region] = chunk.to("cpu", torch.float16, copy=True)  # a program may write into its own

    def _check_size(self, level: int, found: Tensor) -> None:
        """Raises UserError for a bottleneck of another size than one before."""
        here = [region.shape for region in self.kept[level].values()]
        if any(shape != found.shape for shape in here):
            raise UserError(
                "The prompt has regions of different sizes; use masks, or one prompt for all of the picture."
            )
        check_one_size([*(region.shape for regions in self.kept for region in regions.values()), found.shape])

    def stacked(self) -> Tensor:
        """(levels, pictures, c, height, width) float16: the mean over regions.

        Raises UserError for levels without the prompt, and for numbers beyond half precision.
        """
        there = [list(regions.values()) for regions in self.kept if regions]
        if len(there) < len(self.sigmas):
            raise UserError(
                f"The UNet was run for the prompt at {len(there)} of the {len(self.sigmas)} noise levels only; use a "
                "sampler that visits each of them, a prompt that applies from beginning to end, and a model without a "
                "step cache."
            )
        stacked = torch.stack([torch.stack(regions).float().mean(0).half() for regions in there])
        if not stacked.isfinite().all():
            raise UserError(
                "The bottleneck holds numbers that are not finite in half precision; run the model in float32, and "
                "check whether its pictures are black."
            )
        return stacked


def joined(parts: Sequence[HSpaceSamples]) -> HSpaceSamples:
    """Batches as one. Raises UserError when they were not drawn alike."""
    first = parts[0]
    for part in parts:
        check_alike(first, part)
    activations = torch.cat([part.activations for part in parts], 1)
    return replace(first, activations=activations)


def check_alike(one: HSpaceSamples, other: HSpaceSamples) -> None:
    """Raises UserError, naming both, unless two sets were drawn by the same kind of model in the same way."""

    def kind(samples: HSpaceSamples) -> str:
        shape = " x ".join(map(str, samples.activations.shape[2:]))
        levels = f"{len(samples.sigmas)} noise levels from {samples.sigmas[0]:.3g} to {samples.sigmas[-1]:.3g}"
        return f"{samples.family}, {samples.position} the middle block, {shape}, {levels}"

    same = one.sigmas.shape == other.sigmas.shape and torch.allclose(one.sigmas, other.sigmas, rtol=1e-3)
    if kind(one) != kind(other) or not same:
        raise UserError(
            f"The samples are of {kind(one)}, the others of {kind(other)}; draw both with the same model, sampler, "
            "scheduler, steps and size."
        )
