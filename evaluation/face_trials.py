"""Trials of directions on FaceWorld: what is drawn along them, and what the judge sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core.hspace.contrast import contrast
from ..core.hspace.directions import HSpaceDirections, disentangled
from ..core.hspace.samples import HSpaceSamples, joined
from ..pipelines.bottleneck import DiffusersBottleneck
from ..pipelines.studio import portions
from ..world import weights
from ..world.faces import judge
from ..world.faces.architecture import WEIGHTS
from ..world.faces.pictures import Personas
from ..world.faces.pipeline import face_world_pipeline
from ..world.faces.truth import VALUES

PROMPT = "a face"
STEPS = 20
FOUND_IN = range(1000, 1200)  # seeds of the pictures that directions are found in
CHOSEN_ON = 32  # the first of these: on them the scale of each direction is chosen
NEW = range(64)  # seeds of those that they are tried on
AT_ONCE = 64  # pictures
SCALES = (0.3, 0.45, 0.6, 0.8, 1.1)
FLIPPED, KEPT = 75.0, 85.0  # % of the pictures: what a direction must reach
SPARE = 10.0  # % more, where a scale is chosen: other pictures may be harder
NAMES = list(VALUES)
UNDER_CAPS = [NAMES.index("long_hair"), NAMES.index("hair")]


@dataclass(frozen=True)
class Attribute:
    """One value of one attribute: what a direction shall bring."""

    name: str
    place: int  # of its attribute in VALUES
    label: int  # of its value

    @classmethod
    def of(cls, field: str, value: Any) -> Attribute:
        name = field.replace("_", " ") if value is True else f"{value} {field}"
        return cls(name, NAMES.index(field), list(VALUES[field]).index(value))

    def there(self, labels: Tensor) -> Tensor:
        """Which of some pictures show it: (pictures,) bool of labels (pictures, attributes)."""
        return labels[:, self.place] == self.label


YES = tuple(Attribute.of(field, True) for field in ("glasses", "smile", "cap", "beard", "long_hair"))
COLOURS = {"hair": "red", "skin": "dark", "clothes": "blue", "background": "pink"}
ATTRIBUTES = (*YES, *(Attribute.of(field, value) for field, value in COLOURS.items()), Attribute.of("hair", "blond"))
EVERY = (*YES, *(Attribute.of(field, value) for field in COLOURS for value in VALUES[field]))


def unchanged(before: Tensor, after: Tensor) -> Tensor:
    """Where attributes are what they were: (pictures, attributes) bool. Hair that a cap hides counts as unchanged."""
    cap = NAMES.index("cap")
    same = before == after
    same[:, UNDER_CAPS] |= (before[:, cap] | after[:, cap]).bool()[:, None]
    return same


@dataclass(frozen=True)
class Trial:
    """What a direction did to new pictures."""

    scale: float
    flipped: float  # % of the pictures without the attribute that have it now
    kept: float  # % of the other attributes that are what they were

    @classmethod
    def of(cls, attribute: Attribute, scale: float, before: Tensor, after: Tensor) -> Trial:
        without = ~attribute.there(before)
        others = [place for place in range(len(NAMES)) if place != attribute.place]
        flipped = attribute.there(after)[without].float().mean()
        return cls(scale, 100 * float(flipped), 100 * float(unchanged(before, after)[:, others].float().mean()))

    @property
    def reached(self) -> bool:
        return self.flipped >= FLIPPED and self.kept >= KEPT


class Faces:
    """FaceWorld's bottleneck and its judge."""

    def __init__(self, packages: Path, folder: Path = WEIGHTS) -> None:
        """packages: where those of pictures are kept; folder: of the weights."""
        self._packages = packages
        self.bottleneck = DiffusersBottleneck(face_world_pipeline(folder=folder), PROMPT)
        self.judge = judge.build()
        self.judge.load_state_dict(weights.load("classifier", folder))
        self.judge.eval()
        self._scales: dict[Attribute, float] = {}

    @cached_property
    def personas(self) -> Personas:
        return Personas(self._packages)

    @cached_property
    def drawn_to_find(self) -> tuple[HSpaceSamples, Tensor, Tensor]:
        """The bottleneck of the pictures that directions are found in, their latents and their labels."""
        samples, latents = self.samples(FOUND_IN)
        return samples, latents, self.labels(latents)

    @cached_property
    def found(self) -> Mapping[str, HSpaceDirections]:
        """The direction of each value of each attribute that these pictures show, by its name."""
        samples, _, labels = self.drawn_to_find
        return directions(samples, labels)

    @cached_property
    def before(self) -> Tensor:
        """The labels of the new pictures without a direction."""
        return self.labels(self.drawn(NEW))

    def labels(self, latents: Tensor) -> Tensor:
        """What the judge sees: (pictures, attributes)."""
        pictures = (self.bottleneck.pictures(some) for some in latents.split(AT_ONCE))
        return torch.cat([judge.attributes(self.judge, some.permute(0, 3, 1, 2) * 2 - 1) for some in pictures])

    def samples(self, seeds: Sequence[int], steps: int = STEPS) -> tuple[HSpaceSamples, Tensor]:
        """The bottleneck of plain pictures, and their latents."""
        made_by = {"prompt": PROMPT}
        parts = [self.bottleneck.record(some, steps, "after", made_by) for some in portions(seeds, AT_ONCE)]
        return joined([samples for samples, _ in parts]), torch.cat([latents for _, latents in parts])

    def drawn(
        self, seeds: Sequence[int], direction: HSpaceDirections | None = None, scale: float = 0.0, eta: float = 0.0
    ) -> Tensor:
        """Latents along a direction."""
        with self.bottleneck.shifted(direction, 0, scale) if direction else nullcontext():
            return torch.cat([self.bottleneck.draw(some, STEPS, eta) for some in portions(seeds, AT_ONCE)])

    def swapped(self, seeds: Sequence[int], others: HSpaceSamples) -> Tensor:
        """Latents of seeds whose bottleneck is at each step that of other pictures."""
        levels = others.sigmas.tolist()

        def replaced(h: Tensor, sigma: float, _: Sequence[bool]) -> Tensor:
            return others.activations[min(range(len(levels)), key=lambda place: abs(levels[place] - sigma))].to(h)

        with self.bottleneck.visited("after", replaced):
            return self.bottleneck.draw(seeds, STEPS)

    def tried(self, attribute: Attribute, direction: HSpaceDirections, scale: float) -> Trial:
        """On new pictures."""
        return Trial.of(attribute, scale, self.before, self.labels(self.drawn(NEW, direction, scale)))

    def scale(self, attribute: Attribute) -> float:
        """The best of SCALES for the direction of an attribute alone, on pictures that it was found in."""
        if attribute not in self._scales:
            before = self.drawn_to_find[2][:CHOSEN_ON]
            direction, seeds = alone(attribute, self.found), FOUND_IN[:CHOSEN_ON]
            trials = [
                Trial.of(attribute, scale, before, self.labels(self.drawn(seeds, direction, scale))) for scale in SCALES
            ]
            self._scales[attribute] = max(trials, key=rank).scale
        return self._scales[attribute]


def rank(trial: Trial) -> tuple[bool, float]:
    """How good a trial is: where it flips enough, and some to spare, what it keeps counts."""
    enough = trial.flipped >= FLIPPED + SPARE
    return enough, trial.kept if enough else trial.flipped


def direction(samples: HSpaceSamples, there: Tensor) -> HSpaceDirections:
    """From the pictures without an attribute to those with it. Raises UserError when there are none of either."""
    with_it, without = (samples.chosen(rows.nonzero().flatten().tolist()) for rows in (there, ~there))
    return contrast(with_it, without)


def directions(samples: HSpaceSamples, labels: Tensor) -> Mapping[str, HSpaceDirections]:
    """The direction of each value that some pictures show and others do not, by its name."""
    there = {attribute.name: attribute.there(labels) for attribute in EVERY}
    return {name: direction(samples, rows) for name, rows in there.items() if rows.any() and not rows.all()}


def alone(
    attribute: Attribute, found: Mapping[str, HSpaceDirections], among: Sequence[Attribute] = EVERY
) -> HSpaceDirections:
    """The direction of an attribute without those of other attributes, as h-space Disentangle makes it."""
    others = [found[each.name] for each in among if each.place != attribute.place and each.name in found]
    return disentangled(found[attribute.name], stacked(others))


def stacked(several: Sequence[HSpaceDirections]) -> HSpaceDirections:
    """Directions of the same noise levels as one set."""
    shifts, values = (torch.cat([getattr(each, name) for each in several]) for name in ("shifts", "values"))
    return replace(several[0], shifts=shifts, values=values)
