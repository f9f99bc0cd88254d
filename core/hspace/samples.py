"""The bottleneck of a UNet while it draws pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import storage
from ..errors import UserError
from .directions import Position, check_levels, read_origin

KIND, VERSION = "h-space samples", 1


@dataclass(frozen=True, eq=False)
class HSpaceSamples:
    """The bottleneck at each noise level of pictures that were drawn alike."""

    sigmas: Tensor  # (levels,), falling
    activations: Tensor  # (levels, pictures, channels, height, width) float16: for the prompt
    unprompted: Tensor | None  # the same for the negative prompt, where there was guidance
    family: str  # of the model: one of backend.Family, or the class of an unconditional UNet
    position: Position
    made_by: dict[str, Any]

    def __len__(self) -> int:
        return self.activations.shape[1]

    def chosen(self, pictures: Sequence[int]) -> HSpaceSamples:
        """Some of its pictures."""
        rows = list(pictures)
        unprompted = None if self.unprompted is None else self.unprompted[:, rows]
        return HSpaceSamples(
            self.sigmas, self.activations[:, rows], unprompted, self.family, self.position, self.made_by
        )

    def save(self, path: Path) -> None:
        """Writes a file that `load` reads."""
        tensors = {"sigmas": self.sigmas, "activations": self.activations}
        tensors |= {} if self.unprompted is None else {"unprompted": self.unprompted}
        header = {"family": self.family, "position": self.position, "made_by": dict(self.made_by)}
        storage.write(path, tensors, {"kind": KIND, "version": VERSION, **header})

    @classmethod
    def load(cls, path: Path) -> HSpaceSamples:
        """Reads what `save` wrote. Raises UserError for any other file."""
        tensors, header = storage.read(path, KIND, VERSION)
        if missing := {"sigmas", "activations"} - set(tensors):
            raise UserError(f"{path} does not hold its {min(missing)}; draw the samples anew.")
        kinds = {"sigmas": 1, "activations": 5, "unprompted": 5}
        storage.check_numbers(path, {name: kinds[name] for name in kinds if name in tensors}, tensors)
        sigmas, activations, unprompted = tensors["sigmas"], tensors["activations"], tensors.get("unprompted")
        check_levels(path, sigmas, len(activations))
        if unprompted is not None and unprompted.shape != activations.shape:
            raise UserError(f"{path} is damaged: its samples without the prompt are others; draw them anew.")
        return cls(sigmas, activations, unprompted, *read_origin(path, header))


@dataclass(eq=False)
class Recorder:
    """Collects the bottleneck of one batch of pictures while a sampler runs."""

    sigmas: Sequence[float]  # the sampler's levels; what is evaluated between them is not kept
    kept: dict[tuple[int, bool], Tensor] = field(default_factory=dict)  # (level, prompted) -> (pictures, c, h, w)

    def record(self, sigma: float, h: Tensor, prompted: Sequence[bool]) -> None:
        """One evaluation: h (chunks * pictures, c, height, width), a chunk for each entry of `prompted`.

        Several chunks of the same kind, of regional prompts, count together. A sampler that comes back to a level keeps
        what was there first. Raises UserError for regions of different sizes.
        """
        level = min(range(len(self.sigmas)), key=lambda place: abs(self.sigmas[place] - sigma))
        if abs(self.sigmas[level] - sigma) > 1e-4 * max(self.sigmas[level], 1e-8):
            return
        for kind in set(prompted):
            if (level, kind) in self.kept:
                continue
            chunks = [chunk for chunk, its in zip(h.chunk(len(prompted)), prompted, strict=True) if its == kind]
            self.kept[level, kind] = torch.stack(chunks).float().mean(0).to("cpu", torch.float16)

    def stacked(self, prompted: bool) -> Tensor | None:
        """(levels, pictures, c, height, width) float16, or None when nothing of that kind was evaluated."""
        levels = [self.kept.get((level, prompted)) for level in range(len(self.sigmas))]
        there = [level for level in levels if level is not None]
        if not there:
            return None
        if len(there) < len(levels):
            raise UserError(
                f"The sampler evaluated the model at {len(there)} of its {len(levels)} noise levels only; use another."
            )
        return torch.stack(there)


def joined(parts: Sequence[HSpaceSamples]) -> HSpaceSamples:
    """Batches as one. Raises UserError when they were not drawn alike."""
    first = parts[0]
    for part in parts:
        check_alike(first, part)
    activations = torch.cat([part.activations for part in parts], 1)
    unprompted = [part.unprompted for part in parts if part.unprompted is not None]
    together = torch.cat(unprompted, 1) if len(unprompted) == len(parts) else None
    return HSpaceSamples(first.sigmas, activations, together, first.family, first.position, first.made_by)


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
