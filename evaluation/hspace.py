"""`hspace`: directions of EmojiWorld's bottleneck, judged by meters that look at pictures only.

A direction is found in pictures of its own seeds and tried on new ones, for the predicted picture only (Asyrp) and for
the prompt only. Beside it stands a random direction of the same length: what that one moves needs no direction.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise, product
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from ..core.errors import UserError
from ..core.hspace.contrast import contrast, ends_of
from ..core.hspace.directions import HSpaceDirections, disentangled
from ..core.hspace.samples import HSpaceSamples, joined
from ..core.pictures.grid import labelled_grid, save_picture
from ..harness.terminal.console import Console
from ..harness.terminal.options import file_name
from ..pipelines.bottleneck import DiffusersBottleneck
from ..pipelines.studio import portions
from ..world.emoji.architecture import GUIDANCE
from .laboratory import Laboratory
from .measures import Measure, report
from .meters import ink, place

STEPS = 10
FOUND_IN = range(1000, 1032)  # seeds of each side of a contrast
NEW = range(32)  # seeds of the pictures on which a direction is tried
RANKED = range(1000, 1064)  # seeds of pictures that are parted by a meter: into two sides of 32
SCALES, STARTS = (20.0, 80.0, 160.0), (0.0, 0.3)  # that are tried; from which part of the sampling on
MOVED, KEPT = 75.0, 70.0  # % of the pictures: what a direction must reach
PARTS = (0.0, 0.25, 0.5, 0.75, 1.0)  # of a scale, over which strength shall rise
SIDE_SCALE = 80.0  # at which side effects are looked at
SHOWN = 6  # pictures of a row that is kept to be looked at

Meter = Callable[["Laboratory", "Tensor"], "Tensor"]
"""From pictures (n, 3, height, width) in -1..1 to numbers (n,) that rise with an attribute."""


def channel(more: int, less: int) -> Meter:
    """How much more of one colour channel there is than of another."""
    return lambda _, pictures: (pictures[:, more] - pictures[:, less]).mean((1, 2))


def odds(more: Sequence[str], less: Sequence[str]) -> Meter:
    """How much surer the classifier is of some kinds than of others."""

    def meter(lab: Laboratory, pictures: Tensor) -> Tensor:
        sides = (lab.logits(pictures)[:, [lab.kinds.index(kind) for kind in kinds]] for kinds in (more, less))
        likely, unlikely = (side.logsumexp(1) for side in sides)
        return likely - unlikely

    return meter


def area(_: Laboratory, pictures: Tensor) -> Tensor:
    return ink(pictures).mean((1, 2))


def rightness(_: Laboratory, pictures: Tensor) -> Tensor:
    return place(pictures)[0][:, 0]


def width(_: Laboratory, pictures: Tensor) -> Tensor:
    """Against the height."""
    spread = place(pictures)[1]
    return spread[:, 0] - spread[:, 1]


def brightness(_: Laboratory, pictures: Tensor) -> Tensor:
    return pictures.mean((1, 2, 3))


@dataclass(frozen=True)
class Attribute:
    """What a direction shall bring: in which pictures it is found, on which it is tried, and who judges."""

    name: str
    positive: str  # prompt
    negative: str | None  # prompt; None: the pictures of the first are parted by the meter
    tried: str  # prompt
    meter: Meter
    kinds: Sequence[str]  # of which what is tried has to stay


def person(profession: str, found: str) -> Attribute:
    """A woman of one profession for a man, by what women and men of another have."""
    women, men = f"female {profession}", f"male {profession}"
    prompts = (f"a photo of a female {found}", f"a photo of a male {found}", f"a photo of a {profession}")
    return Attribute(f"woman: {profession}, found in {found}", *prompts, odds([women], [men]), [women, men])


def colour(thing: str, before: str, after: str, more: int) -> Attribute:
    """Another colour; `more` is its channel, of red, green and blue, that the red thing lacks."""
    prompts = (f"a photo of a {after} {thing}", f"a photo of a {before} {thing}", f"a photo of a {before} {thing}")
    return Attribute(f"{after}: {thing}", *prompts, channel(more, 0), [thing])


def ranked(name: str, thing: str, meter: Meter) -> Attribute:
    prompt = f"a photo of a {thing}"
    return Attribute(f"{name}: {thing}", prompt, None, prompt, meter, [thing])


HAPPY = ("grinning face", "laughing face", "winking face", "partying face")
SAD = ("crying face", "frowning face", "fearful face", "angry face")
GREEN, BLUE = 1, 2
ATTRIBUTES = (
    colour("heart", "red", "blue", BLUE),
    colour("apple", "red", "green", GREEN),
    person("mechanic", "mechanic"),
    person("farmer", "farmer"),
    Attribute(
        "sad: grinning face",
        *("a photo of a frowning face", "a photo of a grinning face", "a photo of a grinning face"),
        *(odds(SAD, HAPPY), [*HAPPY, *SAD]),
    ),
    Attribute(
        "smiling: frowning face",
        *("a photo of a grinning face", "a photo of a frowning face", "a photo of a frowning face"),
        *(odds(HAPPY, SAD), [*HAPPY, *SAD]),
    ),
    ranked("large", "tree", area),
    ranked("right", "fish", rightness),
    ranked("wide", "house", width),
    ranked("bright", "dog", brightness),
)
# Of a thing, a direction found in pictures with two attributes together, and the one of the two that is taken out.
ENTANGLED: tuple[tuple[str, Meter, Meter], ...] = (
    ("dog", area, brightness),
    ("dog", brightness, area),
    ("tree", area, rightness),
    ("house", width, area),
    ("fish", rightness, width),
)


@dataclass(frozen=True)
class Trial:
    """What a direction did to the new pictures."""

    scale: float
    start: float
    moved: float  # % whose meter rises
    kept: float  # % that still show their kind
    effect: float  # mean rise of the meter, in standard deviations of the pictures before

    @property
    def reached(self) -> bool:
        return self.moved >= MOVED and self.kept >= KEPT


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--out", type=Path, default=Path("directions"), metavar="DIR", help="where pictures go (default directions)")
    add("--packages", type=Path, default=Path(".world"), metavar="DIR", help="where EmojiWorld's packages are kept")
    add("--only", action="append", metavar="NAME", help="attributes whose names begin so; may be given again")


def run(arguments: argparse.Namespace, console: Console) -> None:
    bench = Bench(arguments.out, arguments.packages, console)
    wanted = tuple(arguments.only or ("",))
    attributes = [attribute for attribute in ATTRIBUTES if attribute.name.startswith(wanted)]
    if not attributes:
        raise UserError(f"No attribute's name begins so; there are {', '.join(each.name for each in ATTRIBUTES)}.")
    details: dict[str, object] = {}
    measures = list(measured(bench, attributes, details))
    settings = {"sampling steps": STEPS, "guidance scale": GUIDANCE, "scales": SCALES, "starts": STARTS}
    settings |= {"pictures": len(NEW), "attributes": details}
    report("python -m conceptlens.evaluation hspace", settings, measures, arguments.json)


class Bench:
    """EmojiWorld's bottleneck and its judges."""

    def __init__(self, out: Path, packages: Path, console: Console) -> None:
        self.out, self.packages, self.console = out, packages, console
        self._before: dict[tuple[str, int], Tensor] = {}

    @cached_property
    def lab(self) -> Laboratory:
        return Laboratory(self.packages)

    @cached_property
    def pipe(self) -> StableDiffusionPipeline:
        pipe = self.lab.fast_pipe()
        for block in (*pipe.unet.down_blocks, *pipe.unet.up_blocks):  # not the middle, which is looked into
            block.compile(dynamic=False)
        return pipe

    def bottleneck(self, prompt: str) -> DiffusersBottleneck:
        return DiffusersBottleneck(self.pipe, prompt, GUIDANCE)

    def samples(self, prompt: str, seeds: Sequence[int], steps: int) -> tuple[HSpaceSamples, Tensor]:
        """Samples of a prompt, and their pictures (n, 3, height, width) in -1..1."""
        bottleneck = self.bottleneck(prompt)
        together = portions(seeds, len(NEW))  # always as many: another size would be compiled anew
        drawn = [bottleneck.record(some, steps, "after", {"prompt": prompt}) for some in together]
        pictures = torch.cat([judged(bottleneck.pictures(latents)) for _, latents in drawn])
        return joined([samples for samples, _ in drawn]), pictures

    def direction(self, attribute: Attribute, steps: int = STEPS) -> HSpaceDirections:
        """From the pictures without an attribute to those with it."""
        if attribute.negative is None:
            samples, pictures = self.samples(attribute.positive, RANKED, steps)
            high, low = ends_of(attribute.meter(self.lab, pictures), len(FOUND_IN))
            return contrast(samples.chosen(high), samples.chosen(low))
        sides = (self.samples(prompt, FOUND_IN, steps)[0] for prompt in (attribute.positive, attribute.negative))
        return contrast(*sides)

    def before(self, prompt: str, steps: int = STEPS) -> Tensor:
        """The new pictures without a direction."""
        if (prompt, steps) not in self._before:
            self._before[prompt, steps] = self._drawn(prompt, steps, None, 0.0, 0.0)
        return self._before[prompt, steps]

    def after(self, prompt: str, direction: HSpaceDirections, scale: float, start: float, steps: int = STEPS) -> Tensor:
        """The new pictures along a direction."""
        return self._drawn(prompt, steps, direction, scale, start)

    def _drawn(self, prompt: str, steps: int, direction: HSpaceDirections | None, scale: float, start: float) -> Tensor:
        bottleneck = self.bottleneck(prompt)
        shift = bottleneck.shifted(direction, 0, scale, start=start, positive_only=True) if direction else nullcontext()
        with shift:
            return judged(bottleneck.pictures(bottleneck.draw(NEW, steps, asymmetric=direction is not None)))

    def effect(self, attribute: Attribute, pictures: Tensor, steps: int = STEPS) -> Tensor:
        """The rise (n,) of an attribute's meter, in standard deviations of the pictures before."""
        before = attribute.meter(self.lab, self.before(attribute.tried, steps))
        return (attribute.meter(self.lab, pictures) - before) / before.std()

    def trial(self, attribute: Attribute, direction: HSpaceDirections, scale: float, start: float) -> Trial:
        pictures = self.after(attribute.tried, direction, scale, start)
        rise = self.effect(attribute, pictures)
        kept = statistics.mean(seen[0] in attribute.kinds for seen in self.lab.seen(pictures))
        return Trial(scale, start, 100 * float((rise > 0).float().mean()), 100 * kept, float(rise.mean()))

    def best(self, attribute: Attribute, direction: HSpaceDirections) -> Trial:
        """The trial that moves most pictures, of those that keep the kind."""
        trials = [self.trial(attribute, direction, scale, start) for scale, start in product(SCALES, STARTS)]
        return max(trials, key=lambda trial: (trial.kept >= KEPT, trial.moved, trial.effect))

    def keep(self, attribute: Attribute, scale: float, rows: Sequence[Tensor]) -> None:
        """A grid to be looked at: a row of pictures for each part of the scale."""
        pictures = [picture.permute(1, 2, 0) / 2 + 0.5 for row in rows for picture in row[:SHOWN]]
        labels = [f"{attribute.name} {part * scale:g}" for part in PARTS for _ in range(SHOWN)]
        save_picture(labelled_grid(pictures, labels, columns=SHOWN), self.out / f"{file_name(attribute.name)}.png")


def judged(pictures: Tensor) -> Tensor:
    """Pictures (n, height, width, 3) in 0..1 as the judges take them."""
    return pictures.permute(0, 3, 1, 2) * 2 - 1


def random_like(direction: HSpaceDirections) -> HSpaceDirections:
    """A direction of noise, as long as another at each noise level."""
    noise = torch.randn(direction.shifts.shape, generator=torch.Generator().manual_seed(0))
    lengths = (values.flatten(2).norm(dim=2)[..., None, None, None] for values in (direction.shifts, noise))
    wanted, own = lengths
    return replace(direction, shifts=noise * wanted / own)


def measured(bench: Bench, attributes: Sequence[Attribute], details: dict[str, object]) -> Iterator[Measure]:
    """What the directions of all attributes reach; what each does goes to `details`."""
    reached: list[float] = []
    by_chance: list[float] = []
    monotone: list[bool] = []
    transfers: list[float] = []
    for attribute in attributes:
        direction = bench.direction(attribute)
        best = bench.best(attribute, direction)
        chance = bench.trial(attribute, random_like(direction), best.scale, best.start)
        rows = [bench.after(attribute.tried, direction, part * best.scale, best.start) for part in PARTS]
        bench.keep(attribute, best.scale, rows)
        strengths = [float(bench.effect(attribute, row).mean()) for row in rows]
        transfer = of_more_steps(bench, attribute, direction, best)
        details[attribute.name] = {
            "best": vars(best),
            "random direction of the same length": vars(chance),
            "effect over five scales": strengths,
            "effect with 20 steps, of that of a direction of 20": transfer,
        }
        bench.console.line(
            f"{attribute.name}: {best.moved:.0f} % moved, {best.kept:.0f} % kept, by {best.effect:+.2f} at scale "
            f"{best.scale:g} from {best.start:g} on; a random direction {chance.moved:.0f} % and {chance.kept:.0f} %, "
            f"by {chance.effect:+.2f}; over five scales {', '.join(f'{value:+.2f}' for value in strengths)}; "
            f"with 20 steps {transfer:.2f} of a direction of 20"
        )
        reached.append(float(best.reached))
        by_chance.append(float(chance.reached))
        if best.reached:
            monotone.append(all(a < b for a, b in pairwise(strengths)))
            transfers.append(100 * transfer)
    count = len(attributes)
    yield Measure("attributes moved, class kept", sum(reached), "attributes", count, None)
    yield Measure("attributes that a random direction moves, class kept", sum(by_chance), "attributes", count, None)
    if monotone:
        yield Measure.share("strength: attributes monotone over five scales", monotone)
        yield Measure.of("direction of 10 steps in 20, of the effect of one of 20", transfers, "%")
    sides = [side_effect(bench, *pair) for pair in ENTANGLED]
    details["side effects with and without the direction of the side"] = sides
    ratios = [100 * abs(after / before) for before, after in sides]
    yield Measure.of("disentangled: side effect, of that before", ratios, "%")


def side_effect(bench: Bench, thing: str, wanted: Meter, side: Meter) -> tuple[float, float]:
    """The effect on one attribute of a direction that was found with it, and of the same direction without it."""

    def both(lab: Laboratory, pictures: Tensor) -> Tensor:
        values = (meter(lab, pictures) for meter in (wanted, side))
        one, other = ((value - value.mean()) / value.std() for value in values)
        return one + other

    removed = ranked(side.__name__, thing, side)
    entangled = bench.direction(ranked("both", thing, both))
    alone = disentangled(entangled, bench.direction(removed))
    before, after = (
        float(bench.effect(removed, bench.after(removed.tried, found, SIDE_SCALE, 0.0)).mean())
        for found in (entangled, alone)
    )
    bench.console.line(f"{thing}, {wanted.__name__} without {side.__name__}: {before:+.2f}, then {after:+.2f}")
    return before, after


def of_more_steps(bench: Bench, attribute: Attribute, direction: HSpaceDirections, best: Trial) -> float:
    """The effect in pictures of 20 steps, of that of a direction that was found in 20."""
    effects = []
    for found in (direction, bench.direction(attribute, 2 * STEPS)):
        pictures = bench.after(attribute.tried, found, best.scale, best.start, 2 * STEPS)
        effects.append(float(bench.effect(attribute, pictures, 2 * STEPS).mean()))
    return effects[0] / effects[1]
