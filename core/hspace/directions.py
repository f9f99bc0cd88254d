"""Shifts of the bottleneck that mean something: what the methods of h-space find, and what is added to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from .. import storage
from ..errors import UserError
from ..model.protocols import Bottleneck

KIND, VERSION = "h-space directions", 1
# Where a UNet is looked into and shifted, of its middle block:
#
#   x -> down blocks -> | before | resnet | inside | attention, resnet | after | -> up blocks -> prediction
#            |                                                                        ^
#            +------------------------------ skip connections -----------------------+
#
# What stands to the left of a position runs once when halves are taken there; what stands to the right is the decoder.
Position = Literal["after", "before", "inside"]


@dataclass(frozen=True, eq=False)
class HSpaceDirections:
    """Directions, each a shift of the bottleneck at every noise level at which it was found."""

    sigmas: Tensor  # (levels,), falling: noise over signal, as the host counts it
    shifts: Tensor  # (directions, levels, channels, height, width): h + scale * shift
    values: Tensor  # (directions, levels): standard deviations, singular values or lengths, by the method
    family: str  # of the model: one of model.protocols.Family, or the class of an unconditional UNet
    position: Position
    made_by: Mapping[str, Any]
    downsampling: int | None = None  # the latents' side over the bottleneck's; older files do not say it

    def __len__(self) -> int:
        return len(self.shifts)

    def shift(self, index: int, sigma: float, size: tuple[int, int] | None = None) -> Tensor:
        """The shift (channels, height, width) of one direction at a noise level, and for a bottleneck of that size.

        Between the levels at which it was found it is interpolated over log(sigma), so that neither the number of steps
        nor the sampler matters; beyond them it is that of the last level. Raises UserError for an index out of range
        and for a size of another shape.
        """
        self._check(index)
        lower, upper, part = self._between(sigma)
        found = torch.lerp(self.shifts[index, lower], self.shifts[index, upper], part)
        return found if size is None else resized(found, size)

    def added(
        self, h: Tensor, index: int, scale: float, sigma: float, prompted: Sequence[bool] | None = None
    ) -> Tensor:
        """A bottleneck h (rows, channels, height, width) at noise level `sigma` plus `scale` times direction `index`.

        To all of its rows, or to those chunks of them of which `prompted` says that they are for the prompt:
        classifier-free guidance then multiplies the shift.
        """
        height, width = h.shape[-2:]
        shift = scale * self.shift(index, sigma, (height, width)).to(h)
        if prompted is None:
            return h + shift
        rows = torch.tensor(list(prompted)).repeat_interleave(len(h) // len(prompted)).to(h)
        return h + rows[:, None, None, None] * shift

    def check_model(self, bottleneck: Bottleneck) -> None:
        """Raises UserError, naming both, for a model of another family, width or depth."""
        found = kind_of(self.family, self.shifts.shape[2], self.downsampling)
        depth = None if self.downsampling is None else bottleneck.downsampling
        own = kind_of(bottleneck.family, bottleneck.channels, depth)
        if found != own:
            raise UserError(f"The directions are of {found}, the model is {own}; find directions on this model.")

    def _between(self, sigma: float) -> tuple[int, int, float]:
        """The two levels around a noise level, and how far it is from the first to the second."""
        places = -self.sigmas.double().log()  # rising
        place = -torch.tensor(sigma).double().log()
        upper = int(torch.searchsorted(places, place).clamp(1, max(1, len(places) - 1)))
        lower = upper - 1
        upper = min(upper, len(places) - 1)
        if lower == upper:
            return lower, upper, 0.0
        part = (place - places[lower]) / (places[upper] - places[lower])
        return lower, upper, float(part.clamp(0, 1))

    def chosen(self, indices: Sequence[int]) -> HSpaceDirections:
        """Some of its directions. Raises UserError for an index out of range."""
        for index in indices:
            self._check(index)
        return replace(self, shifts=self.shifts[list(indices)], values=self.values[list(indices)])

    def _check(self, index: int) -> None:
        if not 0 <= index < len(self):
            raise UserError(
                f"There is no direction {index}; there are {len(self)}, counted from 0: choose one of them."
            )

    def save(self, path: Path, metadata: Mapping[str, str] = {}) -> None:
        """Writes a file that `load` reads: in half precision where that holds the shifts.

        `metadata` are further entries of the file. Raises UserError for directions that are not finite.
        """
        half = self.shifts.half()
        small = float((half.float() - self.shifts).norm()) <= 1e-3 * float(self.shifts.norm())
        tensors = {"sigmas": self.sigmas, "shifts": half if small else self.shifts.float(), "values": self.values}
        for name, tensor in tensors.items():
            if not tensor.isfinite().all():
                raise UserError(f"The {name} of the directions are not finite numbers; find them on pictures that are.")
        storage.write(path, tensors, {"kind": KIND, "version": VERSION, **origin_of(self)}, metadata)

    @classmethod
    def load(cls, path: Path) -> HSpaceDirections:
        """Reads what `save` wrote. Raises UserError for any other file."""
        tensors, header = storage.read(path, KIND, VERSION, ("sigmas", "shifts", "values"))
        storage.check_numbers(path, {"sigmas": 1, "shifts": 5, "values": 2}, tensors)
        sigmas, shifts, values = (tensors[name].float() for name in ("sigmas", "shifts", "values"))
        check_levels(path, sigmas, shifts.shape[1])
        if values.shape != shifts.shape[:2] or not shifts.numel():
            shapes = f"{tuple(shifts.shape)} and {tuple(values.shape)}"
            raise UserError(f"{path} holds tensors of shapes that do not fit together ({shapes}); make it anew.")
        return cls(sigmas, shifts, values, **read_origin(path, header))


@dataclass(frozen=True, eq=False)
class Shift:
    """A direction that is added to a bottleneck between two noise levels."""

    directions: HSpaceDirections
    index: int
    scale: float  # times the direction's shift
    window: tuple[float, float]  # the noise levels, the higher one first
    positive_only: bool  # or for the negative prompt as well

    @classmethod
    def of(
        cls,
        bottleneck: Bottleneck,
        directions: HSpaceDirections,
        index: int,
        scale: float,
        *,
        start: float = 0.0,
        end: float = 1.0,
        positive_only: bool = False,
    ) -> Shift:
        """start, end: parts of the sampling, 0 to 1.

        Raises UserError for directions of another model and for an index out of range.
        """
        directions.check_model(bottleneck)
        directions.chosen([index])
        window = (bottleneck.sigma_at(start), bottleneck.sigma_at(end))
        return cls(directions, index, scale, window, positive_only)

    def added(self, h: Tensor, sigma: float, prompted: Callable[[], Sequence[bool]]) -> Tensor:
        """A bottleneck h (rows, channels, height, width) at noise level `sigma`, shifted if that is in the window.

        prompted: whether each chunk of its rows is for the prompt; asked only where it matters.
        """
        if not self.window[1] <= sigma <= self.window[0]:
            return h
        return self.directions.added(h, self.index, self.scale, sigma, prompted() if self.positive_only else None)


def check_levels(path: Path, sigmas: Tensor, count: int) -> None:
    """Raises UserError unless a file's noise levels (levels,) are `count`, above 0 and falling."""
    if len(sigmas) != count or not count or not (sigmas > 0).all() or not (sigmas.diff() < 0).all():
        raise UserError(
            f"{path} is damaged: its {len(sigmas)} noise levels are not {count} falling ones; make it anew."
        )


def check_one_size(shapes: Sequence[Sequence[int]]) -> None:
    """Raises UserError unless bottlenecks (..., height, width) of several noise levels have one size."""
    sizes = dict.fromkeys(f"{shape[-2]} x {shape[-1]}" for shape in shapes)
    if len(sizes) > 1:
        raise UserError(
            f"The bottleneck is {' at some noise levels and '.join(sizes)} at others, as with a patch that shrinks "
            "what the model computes at a part of the sampling (Deep Shrink); connect the model before that node."
        )


def kind_of(family: str, channels: int, downsampling: int | None) -> str:
    """A UNet's bottleneck in words."""
    depth = "" if downsampling is None else f" at 1/{downsampling} of the latents' size"
    return f"{family} with {channels} channels{depth}"


class Origin(Protocol):
    """What samples and directions say of the bottleneck that they are of."""

    @property
    def family(self) -> str: ...
    @property
    def position(self) -> Position: ...
    @property
    def made_by(self) -> Mapping[str, Any]: ...
    @property
    def downsampling(self) -> int | None: ...


def origin_of(found: Origin) -> dict[str, Any]:
    """As a file's header has it."""
    told = {"family": found.family, "position": found.position, "made_by": dict(found.made_by)}
    return told if found.downsampling is None else {**told, "downsampling": found.downsampling}


def read_origin(path: Path, header: Mapping[str, Any]) -> dict[str, Any]:
    """What `origin_of` told. Raises UserError when a part is missing."""
    position: Any = header.get("position")
    if position not in get_args(Position):
        raise UserError(f"{path} is damaged: its position is {position}, not after, before or inside; make it anew.")
    told: dict[str, Any] = {"family": storage.entry(path, header, "family", str), "position": position}
    told["made_by"] = storage.entry(path, header, "made_by", dict)
    if "downsampling" in header:
        told["downsampling"] = storage.entry(path, header, "downsampling", int)
    return told


def resized(shift: Tensor, size: tuple[int, int]) -> Tensor:
    """A shift (channels, height, width) for a bottleneck of `size` (height, width): resampled, its strength is kept.

    Raises UserError for another aspect ratio: what was at the left might be in the middle then.
    """
    height, width = shift.shape[-2:]
    if (height, width) == size:
        return shift
    if height * size[1] != width * size[0]:
        raise UserError(
            f"The directions were found at a bottleneck of {height} x {width}, and the picture's is {size[0]} x "
            f"{size[1]}, of another shape; use pictures of the same aspect ratio, or find directions at this size."
        )
    return interpolate(shift[None], size, mode="bilinear", antialias=True, align_corners=False)[0]


def aligned(shifts: Tensor) -> Tensor:
    """Shifts (directions, levels, ...) of which each points as it does at the level before.

    A singular vector's sign is free: at the first level the entry of the largest magnitude is positive.
    """
    flat = shifts.flatten(2)
    first = first_signs(shifts)
    steps = (flat[:, 1:] * flat[:, :-1]).sum(2).sign()
    signs = torch.cat([first, torch.where(steps == 0, 1.0, steps)], 1).cumprod(1)
    return shifts * signs.view(*signs.shape, *[1] * (shifts.ndim - 2))


def first_signs(shifts: Tensor) -> Tensor:
    """The sign (directions, 1) of each direction's entry of the largest magnitude at the first level; 1 for zeros."""
    first = shifts[:, 0].flatten(1)
    signs = first.gather(1, first.abs().argmax(1, keepdim=True)).sign()
    return torch.where(signs == 0, 1.0, signs)


def disentangled(directions: HSpaceDirections, remove: HSpaceDirections) -> HSpaceDirections:
    """The directions without what they share with others: n - N^T (N N^T)^-1 N n at each noise level.

    This is an orthogonal projection (Haas et al., arXiv 2303.11073). The others, `remove`, are taken at these noise
    levels and this size. Raises UserError when the two are of different models.
    """
    check_together(directions, remove)
    height, width = directions.shifts.shape[-2:]
    left = directions.shifts.flatten(2).double()  # (directions, levels, d)
    kept = torch.empty_like(left)
    for level, sigma in enumerate(directions.sigmas.tolist()):
        others = torch.stack([remove.shift(i, sigma, (height, width)).flatten() for i in range(len(remove))]).double()
        basis = torch.linalg.svd(others, full_matrices=False)
        spanned = basis.Vh[basis.S[0] * 1e-9 < basis.S]
        kept[:, level] = left[:, level] - left[:, level] @ spanned.T @ spanned
    shifts = kept.view(directions.shifts.shape).to(directions.shifts.dtype)
    made_by = {**directions.made_by, "without": dict(remove.made_by)}
    return replace(directions, shifts=shifts, values=shifts.flatten(2).norm(dim=2), made_by=made_by)


def check_window(start: float, end: float) -> None:
    """Raises UserError unless a direction ends after it starts, in parts of the sampling."""
    if start >= end:
        raise UserError(f"The direction starts at {start} and ends at {end}; let it end after it starts.")


def check_together(one: HSpaceDirections, other: HSpaceDirections) -> None:
    """Raises UserError, naming both, unless two sets of directions are of the same bottleneck."""
    depths = (one.downsampling, other.downsampling)
    known = None not in depths  # older files do not say it
    kinds = [
        f"{kind_of(d.family, d.shifts.shape[2], depth if known else None)}, {d.position} the middle block"
        for d, depth in zip((one, other), depths, strict=True)
    ]
    if kinds[0] != kinds[1]:
        first, second = kinds
        raise UserError(f"The directions are of {first}, the others of {second}; find both on the same model.")
