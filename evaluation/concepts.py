"""`concepts`: explanations of EmojiWorld's concepts, held against its ground truth.

The 100 explanations take hours on CPUs. Each is kept in --out and found there again, in another clone of the repository
as well, so that a long run can be cut off; the same seeds everywhere.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from scipy.stats import spearmanr
from torch import Tensor

from ..core.conceptor.dictionary import plurals
from ..core.conceptor.explanation import NotDrawnError, explain
from ..core.conceptor.fit import Settings
from ..core.conceptor.mixture import TokenMix
from ..core.conceptor.quality import QUALITIES, Preset, Quality
from ..core.conceptor.vocabulary import Vocabulary, embed_vocabulary
from ..core.model.template import Template
from ..core.model.text_tower import Encoded
from ..core.pictures.grid import from_pil
from ..harness.commands.decompose import ConsoleLive, checkpoint_of, finished
from ..harness.terminal.console import Console
from ..harness.terminal.options import file_name
from ..pipelines.pictures import Sampling
from ..pipelines.studio import DiffusersStudio
from ..world.emoji.architecture import GUIDANCE
from ..world.emoji.captions import Caption
from ..world.emoji.pictures import DRAWN, varied
from .laboratory import STEPS, Laboratory
from .measures import Measure, report

PROMPT = Template.of("a photo of a {}")
CONCEPTS = 20  # of each kind
HALVES = Path(__file__).parent / "concept_halves.json"  # on which settings were chosen, and on which they are reported
# As many pictures as the paper's 500 steps of 6, in a tenth of the time on CPUs.
PUBLISHED = Preset(
    Settings("conceptor", steps=100, batch_size=32, validate_every=25),
    num_images=32,
    validation_images=16,
    sampling_steps=25,
    sampler="ddim",
)
SECOND = 1000  # the other seed; the pictures of the first are those of 0 and some after it
TOP = 10  # tokens of a mix that are looked at
JUDGED = 32  # pictures in which a share is counted
GIVEN = 12  # pictures without a word
FACTORS = (0.0, 0.5, 1.0, 2.0, 4.0)  # of one coefficient
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of one object in a mix of two
PAIRS = 5  # of objects
PLACEHOLDER = "thing"  # stands in a prompt until states of other words come there
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
    add("--quality", choices=list(QUALITIES), default="quick", help="of the explanations (default quick)")
    add("--transformer", action="store_true", help="of the transformer's concepts, by it")


def run(arguments: argparse.Namespace, console: Console) -> None:
    out = arguments.out / "transformer" if arguments.transformer else arguments.out
    bench = Bench(out, arguments.cache, arguments.packages, console, arguments.quality, arguments.transformer)
    measures = [measure for part in arguments.only or PARTS for measure in PARTS[part](bench)]
    settings = {**asdict(bench.preset), "quality": bench.quality, "guidance scale": GUIDANCE}
    command = "python -m conceptlens.evaluation concepts"
    if bench.transformer:
        command += " --transformer"
        measures = [replace(measure, name=f"transformer, {measure.name}") for measure in measures]
    report(command, settings, measures, arguments.json)


@dataclass(frozen=True, eq=False)
class Bench:
    """EmojiWorld, its truth and its judges, and the explanations that are made of its concepts."""

    out: Path
    cache: Path
    packages: Path
    console: Console
    quality: Quality = "quick"
    transformer: bool = False

    @property
    def preset(self) -> Preset:
        return PUBLISHED if self.quality == "published" else QUALITIES[self.quality]

    @cached_property
    def lab(self) -> Laboratory:
        return Laboratory(self.packages, self.transformer)

    @cached_property
    def studio(self) -> DiffusersStudio:
        """For the pictures that are judged, and those of the published fit."""
        return DiffusersStudio(self.lab.pipe, Sampling(STEPS, GUIDANCE, sampler="dpmpp_2m"), self.cache)

    def studio_of(self, preset: Preset) -> DiffusersStudio:
        """For explanations."""
        sampling = Sampling(preset.sampling_steps, GUIDANCE, sampler=preset.sampler)
        return DiffusersStudio(self.lab.pipe, sampling, self.cache)

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

    def mix(self, concept: str, preset: Preset | None = None, seed: int = 0) -> TokenMix:
        """The explanation of a concept without its own words."""
        preset = preset or self.preset
        preset = replace(preset, settings=replace(preset.settings, seed=seed))
        quality = "published" if preset.settings.method == "conceptor" else self.quality
        return self.explained(f"{concept} {quality} {seed}", concept, PROMPT, preset)

    def mix_of_pictures(self, name: str) -> TokenMix:
        """The explanation of clean pictures of an emoji, of which no word is known."""
        settings = replace(self.preset.settings, exclude_concept=False)
        preset = replace(self.preset, settings=settings)
        return self.explained(f"pictures of {name} {self.quality}", "", PROMPT, preset, self.clean(name))

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
        preset: Preset,
        given: Tensor | None = None,
        words: Vocabulary | None = None,
    ) -> TokenMix:
        """The explanation of a concept, or of pictures (n, height, width, 3), by all words or by those; made once."""
        file = self.out / f"{file_name(title)}.safetensors"
        if not finished(file, preset.settings, concept=concept, prompt=str(template)):
            studio = self.studio_of(preset)
            checkpoint = checkpoint_of(file, studio)
            with self.console.progress(title) as progress:
                explained = explain(
                    studio,
                    words or self.vocabulary,
                    concept,
                    template,
                    preset.settings,
                    ConsoleLive(progress),
                    num_images=preset.num_images,
                    validation_images=preset.validation_images,
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

    @torch.no_grad()
    def shown_by_states(self, mix: TokenMix, alone: bool) -> list[str]:
        """The same of a mix of the states of its words in the prompt: of their own slot alone, or of all slots."""
        slot = self.studio.slot(PROMPT)
        (placeholder,) = self.studio.encoder.tokenize(PLACEHOLDER)[1:-1]
        rows = [placeholder, *mix.ids]
        context, pooled = slot.encode([table.of(rows) for table in self.studio.words])
        shares = torch.tensor(mix.coefficients).view(-1, 1)
        mixed = (shares[..., None] * context[1:]).sum(0, keepdim=True)
        if alone:
            mixed, states = context[:1].clone(), mixed
            mixed[:, slot.places] = states[:, slot.places]
        encoded = Encoded(mixed, (shares * pooled[1:]).sum(0, keepdim=True))
        return self._seen(self.studio.latents_of_encoded(encoded, range(JUDGED)))

    def _seen(self, latents: Tensor) -> list[str]:
        pictures = self.studio.pictures(latents).permute(0, 3, 1, 2) * 2 - 1
        return [seen[0] for seen in self.lab.seen(pictures)]


def keywords(bench: Bench) -> Iterator[Measure]:
    """Whether the exemplars of keywords are found."""
    yield from _exemplars(bench, None, "")


def published(bench: Bench) -> Iterator[Measure]:
    """The same by the published fit."""
    yield from _exemplars(bench, PUBLISHED, ", published fit")


def _exemplars(bench: Bench, preset: Preset | None, note: str) -> Iterator[Measure]:
    found: dict[str, list[bool]] = {}
    unrelated: dict[str, list[float]] = {}
    for keyword in bench.keywords:
        top = [text.casefold() for text in bench.mix(keyword, preset).texts[:TOP]]
        frequent = [name for name, share in bench.lab.truth.keywords[keyword].items() if share >= 0.2]
        found[keyword] = [name in top for name in frequent]
        unrelated[keyword] = [float(len(set(top) - bench.related(keyword)))]
    yield from by_halves(f"keywords: frequent exemplars among the top 10{note}", found, Measure.share)
    yield from by_halves(f"keywords: unrelated words among the top 10{note}", unrelated, in_unit("words"))


def by_halves(
    name: str, values: Mapping[str, Sequence[Any]], measure: Callable[[str, Sequence[Any]], Measure]
) -> Iterator[Measure]:
    """A measure of all concepts' values, and of those of each of HALVES."""
    yield measure(name, [value for some in values.values() for value in some])
    for half, concepts in json.loads(HALVES.read_text(encoding="utf-8")).items():
        if chosen := [value for concept in concepts for value in values.get(concept, ())]:
            yield measure(f"{name} (settings {half})", chosen)


def in_unit(unit: str) -> Callable[[str, Sequence[float]], Measure]:
    return lambda name, values: Measure.mean(name, values, unit)


def reconstruction(bench: Bench) -> Iterator[Measure]:
    """Whether pictures of a mix show what pictures of the word show."""
    ratios: dict[int, dict[str, list[float]]] = {bench.preset.settings.num_tokens: {}, TOP: {}}
    for concept in [*bench.keywords, *bench.singles]:
        wanted = bench.lab.truth.keywords.get(concept, {concept: 1.0})
        own, mix = statistics.mean(seen in wanted for seen in bench.shown_by_word(concept)), bench.mix(concept)
        if own > 0:
            mixes = {len(mix.top(count)): mix.top(count) for count in ratios}  # most have no more words than TOP
            mixed = {size: statistics.mean(seen in wanted for seen in bench.shown(mixes[size])) for size in mixes}
            for count, values in ratios.items():
                values[concept] = [100 * mixed[len(mix.top(count))] / own]
            bench.console.line(f"{concept}: {mixed} of the mix's pictures show it, {own} of the word's")
    for count, values in ratios.items():
        name = f"reconstruction: top {count}, of what the word's own pictures reach"
        yield from by_halves(name, values, Measure.mean)


def faithfulness(bench: Bench) -> Iterator[Measure]:
    """Whether the order of coefficients is the order of what removal costs."""
    correlations: dict[str, list[float]] = {}
    for concept in [*bench.keywords, *bench.singles]:
        mix = bench.mix(concept)
        if len(mix) > 2:
            removal = [mix.made_by["removal"][str(token)] for token in mix.ids]
            found: Any = spearmanr(mix.coefficients, removal)
            correlations[concept] = [float(found.statistic)]
    name = "faithfulness: rank correlation of coefficient and removal cost"
    yield from by_halves(name, correlations, in_unit(""))


def stability(bench: Bench) -> Iterator[Measure]:
    """Whether two seeds find the same words for a keyword."""
    overlaps: dict[str, list[float]] = {}
    for concept in bench.keywords:
        first, second = (set(bench.mix(concept, seed=seed).ids[:TOP]) for seed in (0, SECOND))
        overlaps[concept] = [100 * len(first & second) / max(len(first), len(second))]  # a mix may have fewer
    yield from by_halves("stability: top 10 of two seeds in common", overlaps, Measure.mean)


def manipulation(bench: Bench) -> Iterator[Measure]:
    """Whether an exemplar's coefficient moves its share of the pictures, and whether it leaves with its word.

    Where the coefficient is 0, so are those of the words that draw the exemplar too: that alone show it most often.
    """
    rising, removed = [], []
    for keyword in bench.keywords:
        mix = bench.mix(keyword)
        named = [name for name in bench.lab.truth.keywords[keyword] if name in mix.texts[:TOP]]
        if not named or len(mix) < 2 or len(rising) == MOVED:
            continue
        row = mix.texts.index(named[0])
        alone = [statistics.mean(seen == named[0] for seen in bench.shown(word)) for word in mix.singles()]
        too = [place for place, share in enumerate(alone) if share >= 0.5 or place == row]
        shares = []
        for factor in FACTORS:
            moved = too if factor == 0 and len(too) < len(mix) else [row]
            values = [value * (factor if place in moved else 1.0) for place, value in enumerate(mix.coefficients)]
            seen = bench.shown(TokenMix.of(mix.ids, mix.texts, values))
            shares.append(100 * statistics.mean(one == named[0] for one in seen))
        words = ", ".join(mix.texts[place] for place in too)
        bench.console.line(f"{keyword}, {named[0]} times {FACTORS}: {shares} % (drawn by {words})")
        rising.append(all(a <= b for a, b in pairwise(shares)))
        removed.append(shares[0])
    yield Measure.share("manipulation: concepts in which a share rises with its coefficient", rising)
    yield Measure.mean("manipulation: share of an exemplar whose coefficient is 0", removed)


def pairs(bench: Bench) -> Iterator[Measure]:
    """Whether a mix of two objects shows one of them the more, the more of the mix it is."""
    yield from _pairs(bench, "mixes of two objects", bench.shown)


def word_states(bench: Bench) -> Iterator[Measure]:
    """The same of mixes that live one step later, in what the encoder says: states of words instead of embeddings.

    The state of each word in the prompt is mixed and put where a placeholder's state was; or those of all slots are,
    which the word's meaning has entered too, as an encoder reads from left to right.
    """
    yield from _pairs(bench, "mixes of the word's state", lambda mix: bench.shown_by_states(mix, alone=True))
    yield from _pairs(bench, "mixes of all slots' states", lambda mix: bench.shown_by_states(mix, alone=False))


def _pairs(bench: Bench, what: str, shown: Callable[[TokenMix], list[str]]) -> Iterator[Measure]:
    rising = []
    objects = random.Random("pairs").sample(bench.singles, 2 * PAIRS)
    for one, other in zip(objects[::2], objects[1::2], strict=True):
        ids = [bench.lab.truth.tokens[name][0] for name in (one, other)]
        shares = []
        for share in SHARES:
            seen = shown(TokenMix.of(ids, [one, other], [share, 1 - share]))
            shares.append(100 * statistics.mean(kind == one for kind in seen))
        bench.console.line(f"{what}: {one} with {other}, shares of {SHARES}: {shares} %")
        rising.append(all(a <= b for a, b in pairwise(shares)) and shares[0] < shares[-1])
    yield Measure.share(f"{what}: pairs in which the share rises", rising)


def given_pictures(bench: Bench) -> Iterator[Measure]:
    """Whether pictures without a word are named."""
    hits = []
    for name in bench.singles:
        hits.append(name in [text.casefold() for text in bench.mix_of_pictures(name).texts[:5]])
    yield Measure.share("pictures of an emoji: its name among the top 5", hits)


def cost(bench: Bench) -> Iterator[Measure]:
    """What an explanation costs, from its name to its reconstructions."""
    concepts = [*bench.keywords, *bench.singles]
    made = {concept: [bench.mix(concept).made_by["evaluations"]] for concept in concepts}
    yield from by_halves("cost: evaluations of the UNet", made, in_unit(""))
    most = max(count for (count,) in made.values())
    yield Measure("cost: evaluations of the UNet, at most", most, "", len(made), None)


def untrained(bench: Bench) -> Iterator[Measure]:
    """Whether words that the model never learned are told from those that it knows."""
    refused = []
    for keyword in bench.lab.truth.held_out_keywords:
        try:
            bench.mix(keyword)
        except NotDrawnError as error:
            bench.console.line(str(error))
            refused.append(True)
        else:
            refused.append(False)
    yield Measure.share("keywords never trained: no explanation", refused)


PARTS = {
    part.__name__: part
    for part in (
        keywords,
        cost,
        untrained,
        given_pictures,
        reconstruction,
        faithfulness,
        manipulation,
        pairs,
        word_states,
        stability,
        published,
    )
}
