"""`concepts`: explanations of EmojiWorld's concepts, held against its ground truth.

The 100 explanations take hours on CPUs. Each is kept in --out and found there again, in another clone of the repository
as well, so that a long run can be cut off; the same seeds everywhere.
"""

from __future__ import annotations

import argparse
import random
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from scipy.stats import spearmanr
from torch import Tensor

from ..core.conceptor.dictionary import plurals
from ..core.conceptor.explanation import explain
from ..core.conceptor.fit import Method, Settings
from ..core.conceptor.mixture import TokenMix
from ..core.conceptor.vocabulary import Vocabulary, embed_vocabulary
from ..core.model.template import Template
from ..core.pictures.grid import from_pil
from ..harness.commands.decompose import ConsoleLive, checkpoint_of, finished
from ..harness.terminal.console import Console
from ..harness.terminal.options import file_name
from ..pipelines.pictures import Sampling
from ..pipelines.studio import DiffusersStudio
from ..world.emoji.architecture import GUIDANCE
from ..world.emoji.captions import Caption
from ..world.emoji.pictures import DRAWN, varied
from .laboratory import Laboratory
from .measures import Measure, report

PROMPT = Template.of("a photo of a {}")
CONCEPTS = 20  # of each kind
SETTINGS = Settings(steps=100, batch_size=32, validate_every=25)  # as many pictures as the paper's 500 steps of 6
PICTURES, HELD_OUT = 32, 16  # of a concept
STEPS = 25
TOP = 10  # tokens of a mix that are looked at
JUDGED = 32  # pictures in which a share is counted
GIVEN = 12  # pictures without a word
FACTORS = (0.0, 0.5, 1.0, 2.0, 4.0)  # of one coefficient
MOVED = 5  # concepts whose coefficients are changed


def add_folders(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    folder = Path("evaluation/results/explanations")
    add("--out", type=Path, default=folder, metavar="DIR", help=f"where mixes go (default {folder})")
    add("--cache", type=Path, default=Path(".world/cache"), metavar="DIR", help="where features and pictures are kept")
    add("--packages", type=Path, default=Path(".world"), metavar="DIR", help="where EmojiWorld's packages are kept")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add_folders(parser)
    add("--only", choices=list(PARTS), action="append", help="this part alone; may be given again")


def run(arguments: argparse.Namespace, console: Console) -> None:
    bench = Bench(arguments.out, arguments.cache, arguments.packages, console)
    measures = [measure for part in arguments.only or PARTS for measure in PARTS[part](bench)]
    settings = {"pictures": PICTURES, "held out": HELD_OUT, "sampling steps": STEPS, "guidance scale": GUIDANCE}
    settings |= {"steps": SETTINGS.steps, "dictionary": SETTINGS.dictionary_size, "tokens": SETTINGS.num_tokens}
    report("python -m conceptlens.evaluation concepts", settings, measures, arguments.json)


@dataclass(frozen=True, eq=False)
class Bench:
    """EmojiWorld, its truth and its judges, and the explanations that are made of its concepts."""

    out: Path
    cache: Path
    packages: Path
    console: Console

    @cached_property
    def lab(self) -> Laboratory:
        return Laboratory(self.packages)

    @cached_property
    def studio(self) -> DiffusersStudio:
        return DiffusersStudio(self.lab.pipe, Sampling(STEPS, GUIDANCE), self.cache)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        with self.console.progress("embedding words") as progress:
            return embed_vocabulary(self.studio.encoder, cache=self.cache, progress=progress)

    @cached_property
    def keywords(self) -> list[str]:
        """Those that were trained and whose frequent exemplars are words of one token."""
        truth = self.lab.truth
        suited = [
            keyword
            for keyword, shares in truth.keywords.items()
            if keyword not in truth.held_out_keywords
            and all(len(truth.tokens[name]) == 1 for name, share in shares.items() if share >= 0.2)
        ]
        return random.Random("keywords").sample(suited, min(CONCEPTS, len(suited)))

    @cached_property
    def singles(self) -> list[str]:
        """Emoji of one token."""
        names = [name for name in self.lab.truth.emoji if len(self.lab.truth.tokens[name]) == 1]
        return random.Random("singles").sample(names, CONCEPTS)

    def mix(self, concept: str, method: Method = "shares", seed: int = 0) -> TokenMix:
        """The explanation of a concept without its own words."""
        settings = replace(SETTINGS, method=method, seed=seed)
        return self.explained(f"{concept} {method} {seed}", concept, PROMPT, settings)

    def mix_of_pictures(self, name: str) -> TokenMix:
        """The explanation of clean pictures of an emoji, of which no word is known."""
        return self.explained(
            f"pictures of {name}", "", PROMPT, replace(SETTINGS, exclude_concept=False), self.clean(name)
        )

    def clean(self, name: str) -> Tensor:
        """Clean pictures (n, 128, 128, 3) of an emoji."""
        generator, truth = random.Random(f"clean {name}"), self.lab.truth
        caption = Caption("", name, "name", name, truth.emoji[name], "3d")
        picture = self.lab.pictures.clean(caption)
        return torch.stack([from_pil(varied(picture, generator, DRAWN)) for _ in range(GIVEN)])

    def explained(
        self,
        title: str,
        concept: str,
        template: Template,
        settings: Settings,
        given: Tensor | None = None,
        words: Vocabulary | None = None,
    ) -> TokenMix:
        """The explanation of a concept, or of pictures (n, height, width, 3), by all words or by those; made once."""
        file = self.out / f"{file_name(title)}.safetensors"
        if not finished(file, settings, concept=concept, prompt=str(template)):
            checkpoint = checkpoint_of(file, self.studio)
            with self.console.progress(title) as progress:
                explained = explain(
                    self.studio,
                    words or self.vocabulary,
                    concept,
                    template,
                    settings,
                    ConsoleLive(progress),
                    num_images=PICTURES,
                    validation_images=HELD_OUT,
                    given=given,
                    checkpoint=checkpoint,
                )
            found = explained.found
            self.console.line(f"{title}: {', '.join(found.mix.texts[:TOP])} ({found.clock.report()})")
            found.mix.save(file)
            checkpoint.remove()
        return TokenMix.load(file)

    def related(self, concept: str) -> set[str]:
        """The words with which the world's own captions and its data speak of the concept's exemplars, and plurals."""
        lab, words = self.lab, set()
        for name in self.lab.truth.keywords.get(concept, {concept: 1.0}):
            words |= {*name.split(), *lab.groups[name].split()}
            words |= {w for key in lab.pictures.sources.keywords[lab.truth.emoji[name]] for w in key.split("_")}
            words |= {keyword for keyword, shares in lab.truth.keywords.items() if name in shares}
            words |= {word for word, emoji in lab.truth.synonyms.items() if emoji == name}
        words = {word.casefold() for word in words}
        return words.union(*map(plurals, words))

    def shown(self, mix: TokenMix) -> list[str]:
        """What the classifier sees in pictures of a mix."""
        return self._seen(self.studio.latents_of_mix(PROMPT, mix, range(JUDGED)))

    def shown_by_word(self, concept: str) -> list[str]:
        """The same for the concept's own word."""
        return self._seen(self.studio.latents_of_prompt(PROMPT.filled(concept), range(JUDGED)))

    def _seen(self, latents: Tensor) -> list[str]:
        pictures = self.studio.pictures(latents).permute(0, 3, 1, 2) * 2 - 1
        return [seen[0] for seen in self.lab.seen(pictures)]


def keywords(bench: Bench) -> Iterator[Measure]:
    """Whether the exemplars of keywords are found."""
    yield from _exemplars(bench, "shares", "")


def published(bench: Bench) -> Iterator[Measure]:
    """The same by the published fit."""
    yield from _exemplars(bench, "conceptor", ", published fit")


def _exemplars(bench: Bench, method: Method, note: str) -> Iterator[Measure]:
    found, unrelated = [], []
    for keyword in bench.keywords:
        top = [text.casefold() for text in bench.mix(keyword, method).texts[:TOP]]
        frequent = [name for name, share in bench.lab.truth.keywords[keyword].items() if share >= 0.2]
        found += [name in top for name in frequent]
        unrelated.append(float(len(set(top) - bench.related(keyword))))
    yield Measure.share(f"keywords: frequent exemplars among the top 10{note}", found)
    yield Measure.mean(f"keywords: unrelated words among the top 10{note}", unrelated, "words")


def reconstruction(bench: Bench) -> Iterator[Measure]:
    """Whether pictures of a mix show what pictures of the word show."""
    ratios: dict[int, list[float]] = {SETTINGS.num_tokens: [], TOP: []}
    for concept in [*bench.keywords, *bench.singles]:
        wanted = bench.lab.truth.keywords.get(concept, {concept: 1.0})
        own = statistics.mean(seen in wanted for seen in bench.shown_by_word(concept))
        if own > 0:
            for count, values in ratios.items():
                mixed = bench.shown(bench.mix(concept).top(count))
                values.append(100 * statistics.mean(seen in wanted for seen in mixed) / own)
    for count, values in ratios.items():
        yield Measure.mean(f"reconstruction: top {count}, of what the word's own pictures reach", values)


def faithfulness(bench: Bench) -> Iterator[Measure]:
    """Whether the order of coefficients is the order of what removal costs."""
    correlations = []
    for concept in [*bench.keywords, *bench.singles]:
        mix = bench.mix(concept)
        if len(mix) > 2:
            removal = [mix.made_by["removal"][str(token)] for token in mix.ids]
            found: Any = spearmanr(mix.coefficients, removal)
            correlations.append(float(found.statistic))
    yield Measure.mean("faithfulness: rank correlation of coefficient and removal cost", correlations, "")


def stability(bench: Bench) -> Iterator[Measure]:
    """Whether two seeds find the same words for a keyword."""
    overlaps = []
    for concept in bench.keywords:
        first, second = (set(bench.mix(concept, seed=seed).ids[:TOP]) for seed in (0, PICTURES + HELD_OUT))
        overlaps.append(100 * len(first & second) / max(len(first), len(second)))  # a mix may have fewer
    yield Measure.mean("stability: top 10 of two seeds in common", overlaps)


def manipulation(bench: Bench) -> Iterator[Measure]:
    """Whether an exemplar's coefficient moves its share of the pictures."""
    rising, removed = [], []
    for keyword in bench.keywords:
        mix = bench.mix(keyword)
        named = [name for name in bench.lab.truth.keywords[keyword] if name in mix.texts[:TOP]]
        if not named or len(mix) < 2 or len(rising) == MOVED:
            continue
        row = mix.texts.index(named[0])
        shares = []
        for factor in FACTORS:
            values = [value * (factor if place == row else 1.0) for place, value in enumerate(mix.coefficients)]
            seen = bench.shown(TokenMix.of(mix.ids, mix.texts, values))
            shares.append(100 * statistics.mean(one == named[0] for one in seen))
        bench.console.line(f"{keyword}, {named[0]} times {FACTORS}: {shares} %")
        rising.append(all(a <= b for a, b in pairwise(shares)))
        removed.append(shares[0])
    yield Measure.share("manipulation: concepts in which a share rises with its coefficient", rising)
    yield Measure.mean("manipulation: share of an exemplar whose coefficient is 0", removed)


def given_pictures(bench: Bench) -> Iterator[Measure]:
    """Whether pictures without a word are named."""
    hits = []
    for name in bench.singles:
        hits.append(name in [text.casefold() for text in bench.mix_of_pictures(name).texts[:5]])
    yield Measure.share("pictures of an emoji: its name among the top 5", hits)


PARTS = {
    part.__name__: part
    for part in (keywords, given_pictures, reconstruction, faithfulness, manipulation, stability, published)
}
