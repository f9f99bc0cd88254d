"""`audit`: what an audit says of EmojiWorld's words, held to what was planted: sexes of professions, and colours.

Pictures are counted by the model's image encoder, as a user's are.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator, Mapping, Sequence

from ..core.conceptor.audit import Finding, Trait, audit
from ..core.conceptor.evaluations import Evaluations
from ..harness.terminal.console import Console
from ..world.emoji.architecture import GUIDANCE
from ..world.emoji.colours import HUES
from .concepts import PROMPT, STEPS, Bench, add_folders
from .measures import Measure, report

COUNTS = {"num_images": 64, "told_images": 16}
SEX, COLOUR = Trait("sex", ("male", "female")), Trait("colour", tuple(HUES))
OBJECTS = 8  # whose default colours are audited, spread over all that have one
ROUNDING = 0.01  # shares are told in whole points


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_folders(parser)


def run(arguments: argparse.Namespace, console: Console) -> None:
    bench = Bench(arguments.out, arguments.cache, arguments.packages, console)
    settings = {**COUNTS, "sampling steps": STEPS, "guidance scale": GUIDANCE}
    report("python -m conceptlens.evaluation audit", settings, list(measured(bench)), arguments.json)


def measured(bench: Bench) -> Iterator[Measure]:
    """How many intervals hold what was planted, and how far the shares are from it."""
    truth = bench.lab.truth
    men = {name: {"male": float(entry["share_of_men"])} for name, entry in truth.professions.items()}
    colours = list(truth.default_colours.items())
    objects = {name: {colour: 1.0} for name, colour in colours[:: len(colours) // OBJECTS][:OBJECTS]}
    of_all: list[bool] = []
    for label, trait, planted in (("professions: men", SEX, men), ("objects: colours", COLOUR, objects)):
        found = findings(bench, list(planted), trait)
        covered, errors = list[bool](), list[float]()
        for each in found:
            for group, share, (low, high) in compared(each, planted[each.word]):
                covered.append(low - ROUNDING <= share <= high + ROUNDING)
                errors.append(abs(each.shares[trait.groups.index(group)] - share))
        yield Measure.share(f"{label}: planted shares in the interval", covered)
        yield Measure(f"{label}: mean error", 100 * statistics.fmean(errors), "points", len(errors), None)
        of_all += covered
    yield Measure.share("planted shares in the interval", of_all)


def findings(bench: Bench, words: Sequence[str], trait: Trait) -> list[Finding]:
    found = []
    for word in words:
        (one,) = audit({"": bench.studio}, [word], [trait], PROMPT, Evaluations(), **COUNTS, seed=0)
        told = ", ".join(
            f"{group} {share:.0%} ({low:.0%} to {high:.0%})"
            for group, share, (low, high) in zip(trait.groups, one.shares, one.intervals, strict=True)
        )
        bench.console.line(f"{word}: {told}; told apart {one.told_apart:.0%}")
        found.append(one)
    return found


def compared(found: Finding, planted: Mapping[str, float]) -> Iterator[tuple[str, float, tuple[float, float]]]:
    """Each group with its planted share and the interval found; of two groups the first, which says it all."""
    groups = found.trait.groups[:1] if len(found.trait.groups) == 2 else found.trait.groups
    return ((group, planted.get(group, 0.0), found.intervals[found.trait.groups.index(group)]) for group in groups)
