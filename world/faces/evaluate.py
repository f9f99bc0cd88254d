"""`python -m conceptlens.world.faces.evaluate`: what directions of h-space do on FaceWorld, against its truth.

The claims of the papers, on faces: pictures of the prompt "a face", 20 steps of DDIM without guidance; directions from
200 generated pictures that the judge has labelled, tried on 64 new seeds. Beside each stands a random direction of the
same length. Each direction is tried at a few scales, and the best counts.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...benchmarks.measures import Measure, report
from ...core.errors import UserError
from ...core.hspace.contrast import contrast
from ...core.hspace.directions import HSpaceDirections, disentangled
from ...core.hspace.jacobian import along_levels, directions_of_levels
from ...core.hspace.pca import pca
from ...core.hspace.process import invert, restored
from ...core.hspace.samples import HSpaceSamples, joined
from ...harness.bottleneck import DiffusersBottleneck
from ...harness.console import quiet_libraries
from ...harness.studio import portions
from .. import weights
from ..language import clip_tokenizer
from ..pictures import to_tensor
from . import judge
from .architecture import WEIGHTS
from .pictures import Personas
from .pipeline import face_world_pipeline
from .truth import HELD_OUT_SEEDS, VALUES, Face

PROMPT = "a face"
STEPS, FEW_STEPS = 20, 10
FOUND_IN = range(1000, 1200)  # seeds of the pictures that directions are found in
NEW = range(64)  # seeds of those that they are tried on
PAIRS = 32  # of new seeds that swap their bottlenecks
AT_ONCE = 64  # pictures
SCALES = (0.5, 1.0, 1.5, 2.0, 3.0)
PARTS = (0.2, 0.4, 0.6, 0.8, 1.0)  # of the best scale, over which the share shall rise
FLIPPED, KEPT = 75.0, 85.0  # % of the pictures: what a direction must reach
COMPONENTS, CORRELATED = 8, 0.7
FACES = 10  # whose Jacobian is looked at, and that are inverted
JACOBIAN_LEVELS = slice(4, 14, 3)  # of the steps: while the picture's parts are decided
PUSHES = (-2.0, -1.0, 1.0, 2.0)  # along a singular vector, in lengths of the direction of the attribute that shall move
INSIDE = 80.0  # % of a change that a mask shall hold
# Of the latents: rows and columns, and the attribute that is to be seen there.
MASKS = {"smile": (slice(9, 12), slice(5, 11)), "glasses": (slice(4, 8), slice(3, 13))}
CLOSE = 0.25  # of the distance between two faces, outside of the eyes: as near an edited picture stays
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


class Studio:
    """FaceWorld's bottleneck and its judge."""

    def __init__(self, folder: Path = WEIGHTS) -> None:
        self.bottleneck = DiffusersBottleneck(face_world_pipeline(clip_tokenizer(), folder=folder), PROMPT)
        self.judge = judge.build()
        self.judge.load_state_dict(weights.load("classifier", folder))
        self.judge.eval()

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

    def best(self, attribute: Attribute, direction: HSpaceDirections, before: Tensor) -> Trial:
        """The trial that flips most pictures, of those that keep the rest."""
        trials = [
            Trial.of(attribute, scale, before, self.labels(self.drawn(NEW, direction, scale))) for scale in SCALES
        ]
        return max(trials, key=lambda trial: (trial.kept >= KEPT, trial.flipped, trial.kept))


def direction(samples: HSpaceSamples, there: Tensor) -> HSpaceDirections:
    """From the pictures without an attribute to those with it. Raises UserError when there are none of either."""
    with_it, without = (samples.chosen(rows.nonzero().flatten().tolist()) for rows in (there, ~there))
    return contrast(with_it, without)


def random_like(found: HSpaceDirections) -> HSpaceDirections:
    """A direction of noise, as long as another at each noise level."""
    noise = torch.randn(found.shifts.shape, generator=torch.Generator().manual_seed(0))
    lengths = (shifts.flatten(2).norm(dim=2)[..., None, None, None] for shifts in (found.shifts, noise))
    wanted, own = lengths
    return replace(found, shifts=noise * wanted / own)


def swap(studio: Studio, details: dict[str, Any]) -> Iterator[Measure]:
    """With B's bottleneck in A's trajectory: which of the attributes in which they differ become B's."""
    seeds, others = list(NEW)[:PAIRS], list(NEW)[PAIRS : 2 * PAIRS]
    one, two = (studio.labels(studio.drawn(some)) for some in (seeds, others))
    got = studio.labels(studio.swapped(seeds, studio.samples(others)[0]))
    differ = ~unchanged(one, two)
    hits = (got == two)[differ].tolist()
    details["swap: share by attribute"] = {
        name: float((got == two)[:, place][differ[:, place]].float().mean()) for place, name in enumerate(NAMES)
    }
    yield Measure.share("faces: with B's bottleneck, differing attributes that become B's", hits)


def supervised(studio: Studio, found: Mapping[str, HSpaceDirections], details: dict[str, Any]) -> Iterator[Measure]:
    """Directions from labelled pictures, over their strengths, and from fewer steps by another sampler."""
    before = studio.labels(studio.drawn(NEW))
    noisy = studio.labels(studio.drawn(NEW, eta=1.0))
    few, latents = studio.samples(FOUND_IN, FEW_STEPS)
    few_labels = studio.labels(latents)
    reached, chance, monotone, kept = [], [], [], []
    for attribute in ATTRIBUTES:
        shift = found[attribute.name]
        best = studio.best(attribute, shift, before)
        random = studio.best(attribute, random_like(shift), before)
        shares = [
            float(attribute.there(studio.labels(studio.drawn(NEW, shift, part * best.scale))).float().mean())
            for part in PARTS
        ]
        reached.append(best.reached)
        chance.append(random.reached)
        monotone.append(all(a <= b for a, b in pairwise(shares)) and shares[-1] > shares[0])
        sooner = direction(few, attribute.there(few_labels))
        effects = [
            Trial.of(attribute, best.scale, noisy, studio.labels(studio.drawn(NEW, each, best.scale, eta=1.0))).flipped
            for each in (sooner, shift)
        ]
        kept.append(100 * effects[0] / max(effects[1], 1e-9))
        details[attribute.name] = {
            "best": vars(best),
            "random direction of the same length": vars(random),
            "share over five scales": shares,
            "flipped by directions of 10 and of 20 steps, eta 1": effects,
        }
    count = len(ATTRIBUTES)
    yield Measure("faces: attributes of 10 that directions flip, the rest kept", sum(reached), "", count, None)
    yield Measure("faces: attributes of 10 that random directions flip", sum(chance), "", count, None)
    yield Measure("faces: attributes of 10 whose share rises over five scales", sum(monotone), "", count, None)
    yield Measure.of("faces: effect of a direction of 10 steps in another sampler's 20", kept, "%")


def projections(studio: Studio, found: Mapping[str, HSpaceDirections], details: dict[str, Any]) -> Iterator[Measure]:
    """Table I: the effect of five directions on five attributes, before and after the other four are taken out."""
    before = torch.stack([each.there(studio.labels(studio.drawn(NEW))).float().mean() for each in YES])
    tables: dict[str, Tensor] = {}
    for name in ("before", "after"):
        rows = []
        for attribute in YES:
            shift = found[attribute.name]
            if name == "after":
                others = [found[other.name] for other in YES if other is not attribute]
                together = replace(others[0], shifts=torch.cat([each.shifts for each in others]))
                shift = disentangled(shift, together)
            seen = studio.labels(studio.drawn(NEW, shift, 1.0))
            rows.append(torch.stack([each.there(seen).float().mean() for each in YES]) - before)
        tables[name] = torch.stack(rows)
        details[f"Table I {name}"] = tables[name].tolist()
    largest = tables["after"].abs().argmax(1) == torch.arange(len(YES))
    yield Measure("faces: Table I, rows of 5 with the intended effect largest", int(largest.sum()), "", len(YES), None)
    smile, hair = (
        next(place for place, each in enumerate(YES) if each.name == name) for name in ("smile", "long hair")
    )
    side, kept = (tables["after"][smile, place] / tables["before"][smile, place] for place in (hair, smile))
    yield Measure(
        "faces: smile on the length of hair after projection, of before", 100 * abs(float(side)), "%", 1, None
    )
    yield Measure("faces: smile's own effect after projection, of before", 100 * float(kept), "%", 1, None)


def components(samples: HSpaceSamples, labels: Tensor, details: dict[str, Any]) -> Iterator[Measure]:
    """The principal components of one prompt's pictures that go with an attribute."""
    found, _ = pca(samples, COMPONENTS, per_step=False)
    centred = samples.activations.float() - samples.activations.float().mean(1, keepdim=True)
    scores = torch.einsum("lpchw,dlchw->dp", centred, found.shifts)
    shown = [labels[:, place] == label for place, values in enumerate(VALUES.values()) for label in range(len(values))]
    table = torch.stack([rows.float() for rows in shown if rows.any() and not rows.all()])
    correlations = torch.corrcoef(torch.cat([scores, table]))[:COMPONENTS, COMPONENTS:].abs().amax(1)
    details["largest correlation of each component with an attribute"] = correlations.tolist()
    high = int((correlations >= CORRELATED).sum())
    yield Measure("faces: principal components of 8 that go with an attribute", high, "", COMPONENTS, None)


def masked(studio: Studio, found: Mapping[str, HSpaceDirections], details: dict[str, Any]) -> Iterator[Measure]:
    """The first singular vector of the Jacobian with a mask on the mouth or on the eyes: what it moves, and where."""
    bottleneck = studio.bottleneck
    sigmas = bottleneck.sigmas(STEPS)[:-1].tolist()
    for name, (rows, columns) in MASKS.items():
        attribute = next(each for each in ATTRIBUTES if each.name == name)
        mask = torch.zeros(bottleneck.shape[1:])
        mask[rows, columns] = 1
        area = mask.repeat_interleave(8, 0).repeat_interleave(8, 1)[..., None]
        shares, moved = [], []
        for seed in NEW[:FACES]:
            visited: list[Tensor] = []
            plain = bottleneck.draw([seed], STEPS, watch=lambda _, x, __, to=visited: to.append(x))
            levels = list(zip(sigmas, visited, strict=True))[JACOBIAN_LEVELS]
            halves = [(sigma, *bottleneck.halves(x, sigma, "after")) for sigma, x in levels]
            vectors = along_levels(halves, 1, 20, 1e-3, mask, lambda *_: None)
            singular = directions_of_levels(vectors, bottleneck.family, "after", {"method": "jacobian"})
            lengths = found[name].shifts.flatten(2).norm(dim=2).mean() / singular.shifts.flatten(2).norm(dim=2)
            singular = replace(singular, shifts=singular.shifts * lengths[..., None, None, None])
            pushed = torch.cat([studio.drawn([seed], singular, push) for push in PUSHES])
            there = attribute.there(studio.labels(torch.cat([plain, pushed])))
            moved.append(bool((there[1:] != there[0]).any()))
            change = (bottleneck.pictures(pushed) - bottleneck.pictures(plain)).square()
            shares.append(100 * float((change * area).sum() / change.sum()))
        details[f"Jacobian, mask for {name}: share inside, moved"] = [shares, moved]
        yield Measure.of(f"faces: Jacobian with a mask for {name}, share of the change inside", shares, "%")
        yield Measure(f"faces: Jacobian with a mask moves {name}, of 10 faces", sum(moved), "", FACES, None)


def real(
    studio: Studio, personas: Personas, glasses: HSpaceDirections, scale: float, details: dict[str, Any]
) -> Iterator[Measure]:
    """Held-out faces inverted, and glasses put on them."""
    bottleneck = studio.bottleneck
    seeds = [seed for seed in HELD_OUT_SEEDS if not Face.of_seed(seed).glasses][: 2 * FACES]
    pictures = torch.stack([to_tensor(personas.picture(seed)) for seed in seeds])
    with torch.no_grad():
        latents = bottleneck.pipe.vae.encode(pictures).latents
    sigmas = bottleneck.sigmas(STEPS)
    inversion = invert(bottleneck.predict_plainly, latents[:FACES], sigmas, 0.0, lambda: torch.randn(()))
    with bottleneck.shifted(glasses, 0, scale):
        edited = restored(bottleneck.predict, bottleneck.predict_plainly, inversion, inversion.path[0], sigmas)
    outside = torch.ones(1, 1, *pictures.shape[2:])
    outside[..., MASKS["glasses"][0].start * 8 : MASKS["glasses"][0].stop * 8, :] = 0
    shown = [
        (bottleneck.pictures(some).permute(0, 3, 1, 2) * 2 - 1) * outside for some in (*latents.split(FACES), edited)
    ]
    one, other, after = (judge.features(studio.judge, some) for some in shown)
    apart, moved = ((one - some).square().mean((1, 2, 3)) for some in (other, after))
    labels = studio.labels(edited)
    wearing = labels[:, NAMES.index("glasses")].bool()
    close = moved <= CLOSE * apart.mean()
    details["real faces: wearing glasses, distance of that between two faces"] = [
        wearing.tolist(),
        (moved / apart.mean()).tolist(),
    ]
    hits = int((wearing & close).sum())
    yield Measure("faces: inverted faces of 10 that wear glasses now and stay close", hits, "", FACES, None)


def measured(studio: Studio, personas: Personas, details: dict[str, Any]) -> Iterator[Measure]:
    yield from swap(studio, details)
    samples, latents = studio.samples(FOUND_IN)
    labels = studio.labels(latents)
    found = {attribute.name: direction(samples, attribute.there(labels)) for attribute in ATTRIBUTES}
    yield from supervised(studio, found, details)
    yield from projections(studio, found, details)
    yield from components(samples, labels, details)
    yield from masked(studio, found, details)
    scale = details["glasses"]["best"]["scale"]
    yield from real(studio, personas, found["glasses"], scale, details)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=WEIGHTS, metavar="DIR", help="where the weights are")
    parser.add_argument("--packages", type=Path, default=Path(".world"), metavar="DIR", help="where packages are kept")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the measures are written as well")
    arguments = parser.parse_args()
    quiet_libraries()
    details: dict[str, Any] = {}
    try:
        measures = list(measured(Studio(arguments.weights), Personas(arguments.packages), details))
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    settings = {"sampling steps": STEPS, "found in": len(FOUND_IN), "tried on": len(NEW), "scales": SCALES, **details}
    report("python -m conceptlens.world.faces.evaluate", settings, measures, arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
