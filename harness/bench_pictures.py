"""`bench-pictures`: single pictures of EmojiWorld's keywords, explained by few words, held against what they show.

The mixes are those of `bench-concepts`; missing ones are made first, which takes minutes each.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..benchmarks.measures import Measure, report
from ..core.pruning import Pruned, Search, bundles_in, explain_picture
from ..world.architecture import GUIDANCE
from .bench_concepts import PROMPT, Bench, add_folders, mean
from .bench_hspace import judged
from .console import Console
from .explain import picture_tools

if TYPE_CHECKING:
    from torch import Tensor

    from ..core.mixture import TokenMix
    from .studio import DiffusersStudio

KEYWORDS, SEEDS = 10, range(10)
COMPARED = 3  # seeds of each keyword for which the published search is made too
STEPS = 12
THRESHOLD, SIMILAR = 0.93, 0.95  # the paper's
TOKENS = 50  # of a mix, as published


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_folders(parser)
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the measures are written as well")


def run(arguments: argparse.Namespace, console: Console) -> None:
    bench = Bench(arguments.out, arguments.cache, arguments.packages, console)
    settings = {"keywords": KEYWORDS, "seeds": len(SEEDS), "sampling steps": STEPS, "guidance scale": GUIDANCE}
    settings |= {"threshold": THRESHOLD, "similar": SIMILAR, "published search": f"{COMPARED} seeds a keyword"}
    command = "python -m conceptlens.harness bench-pictures"
    report(command, settings, list(measured(bench)), arguments.json)


def measured(bench: Bench) -> Iterator[Measure]:
    """What is left for the pictures of each keyword: does it name what they show?"""
    from .pictures import Sampling
    from .studio import DiffusersStudio

    studio = DiffusersStudio(bench.lab.pipe, Sampling((), STEPS, GUIDANCE))
    named, largest, similar, left, ratios, same = ([] for _ in range(6))
    for keyword in bench.keywords[:KEYWORDS]:
        mix = bench.mix(keyword).top(TOKENS)
        for seed in SEEDS:
            pruned, pictures = explained(bench, studio, mix, seed, "bisection")
            before, _, *alone = (seen[0] for seen in bench.lab.seen(judged(pictures)))
            words = ", ".join(pruned.mix.texts)
            bench.console.line(f"{keyword}, seed {seed}: {before}; {words} ({pruned.pictures} pictures)")
            left.append(float(len(pruned.mix)))
            similar.append(100.0 * (pruned.similarity >= THRESHOLD))
            if before in bench.lab.truth.keywords[keyword]:
                named.append(100.0 * (before in alone))
                largest.append(100.0 * (before == alone[0]))
            if seed < COMPARED:
                published, _ = explained(bench, studio, mix, seed, "published")
                ratios.append(pruned.pictures / published.pictures)
                same.append(100.0 * (len(pruned.mix) <= len(published.mix)))
    yield mean("single pictures: a remaining word draws the exemplar shown", named)
    yield mean("single pictures: the largest remaining word draws it", largest)
    yield mean("single pictures: words that remain", left, "words")
    yield mean("single pictures: similarity at the threshold or above", similar)
    yield Measure.of("single pictures: pictures made, of those of the published search", ratios, "")
    yield mean("single pictures: no more words remain than by the published search", same)


def explained(bench: Bench, studio: DiffusersStudio, mix: TokenMix, seed: int, search: Search) -> tuple[Pruned, Tensor]:
    draw, features = picture_tools(studio, PROMPT, seed)
    bundles = bundles_in(bench.vocabulary, mix, SIMILAR)
    return explain_picture(mix, draw([mix]), draw, features, THRESHOLD, bundles, search, together=1)
