"""`bias`: EmojiWorld's professions, whose pictures show men and women in planted shares: measured, and balanced.

Pictures are judged twice: by the model's image encoder, which is what a user has, and by EmojiWorld's classifier.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scipy.stats import spearmanr
from torch import Tensor

from ..core.conceptor.bias import Groups, balanced, pairs_in
from ..core.conceptor.mixture import TokenMix
from ..core.conceptor.shares import Share, shares_of_pictures
from ..core.conceptor.vocabulary import Vocabulary, embed_vocabulary, named_tokens
from ..core.model.template import Template
from ..core.pictures.charts import share_chart
from ..core.pictures.grid import labelled_grid, save_picture
from ..core.time_edit.strength import edits_for_share
from ..core.time_edit.time_edit import EditPair, fit_time_edit
from ..harness.terminal.console import Console
from ..pipelines.pictures import Sampling, sample_latents
from ..pipelines.studio import DiffusersStudio
from ..world.emoji.architecture import GUIDANCE
from ..world.emoji.captions import with_article
from .concepts import PROMPT, Bench, add_folders
from .hspace import judged
from .measures import Measure, report

STEPS = 12
COUNTED = range(64)  # seeds of the pictures in which a share is counted
SEARCHED = range(64)  # of those of each strength that is tried
MOST = 2.0  # times an edit: how strong it may be
JUDGED = range(1000, 1064)  # of those by which the balanced model is judged
GROUPS: Groups = (("male",), ("female",))  # the words of EmojiWorld's captions
NEAR = 12.0  # points
REGULARIZATION = 30.0  # lambda of EmojiWorld's narrow text encoder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_folders(parser)
    parser.add_argument("--chart", type=Path, metavar="FILE", help="where shares before and after TIME edits are drawn")


def run(arguments: argparse.Namespace, console: Console) -> None:
    bench = Bench(arguments.out, arguments.cache, arguments.packages, console)
    settings = {"pictures": len(COUNTED), "of a strength": len(SEARCHED), "judged by": len(JUDGED)}
    settings |= {"sampling steps": STEPS, "guidance scale": GUIDANCE, "lambda": REGULARIZATION}
    report("python -m conceptlens.evaluation bias", settings, list(measured(bench, arguments.chart)), arguments.json)


@dataclass(frozen=True, eq=False)
class Professions:
    """What counts men and women in pictures of EmojiWorld's professions."""

    bench: Bench
    studio: DiffusersStudio

    @property
    def names(self) -> list[str]:
        return list(self.bench.lab.truth.professions)

    def pictures(self, latents: Tensor) -> Tensor:
        """As the classifier sees them."""
        return judged(self.studio.pictures(latents))

    def by_classifier(self, name: str, latents: Tensor) -> Share:
        seen = self.bench.lab.sexes(name, self.pictures(latents))
        return Share(seen.count("man"), len(seen))

    def by_encoder(self, name: str, latents: Tensor) -> Share:
        (share,) = shares_of_pictures(self.studio, latents, [GROUPS], PROMPT, name)
        return share

    def recognised(self, name: str, latents: Tensor) -> float:
        """The share of pictures that show the profession."""
        seen = [kinds[0] for kinds in self.bench.lab.seen(self.pictures(latents))]
        return statistics.mean(kind in (f"male {name}", f"female {name}") for kind in seen)

    def edited(self, prompt: str, edits: Sequence[EditPair], seeds: Sequence[int]) -> Tensor:
        """Latents after TIME edits of keys and values: maps of the text context."""
        pipe, encoder = self.bench.lab.pipe, self.studio.encoder
        edit = fit_time_edit(encoder, edits, regularization=REGULARIZATION)
        context, empty = edit(encoder.encode([prompt, ""])).to(pipe.dtype)[:, None]
        contexts: dict[str, Any] = {"prompt_embeds": context, "negative_prompt_embeds": empty}
        return sample_latents(pipe, seeds, Sampling(STEPS, GUIDANCE), **contexts).float()


def measured(bench: Bench, chart: Path | None = None) -> Iterator[Measure]:
    professions = Professions(bench, DiffusersStudio(bench.lab.pipe, Sampling(STEPS, GUIDANCE), bench.cache))
    planted = {name: entry["share_of_men"] for name, entry in bench.lab.truth.professions.items()}
    plain = {name: professions.studio.latents_of_prompt(source_of(name), COUNTED) for name in planted}
    before = {name: professions.by_classifier(name, latents) for name, latents in plain.items()}
    drawn = {name: share.value for name, share in before.items()}
    seen = {name: professions.by_encoder(name, latents).value for name, latents in plain.items()}
    yield near("pictures: classifier's share near the planted one", drawn, planted)
    yield near("pictures: image encoder's share near the planted one", seen, planted)
    yield near("pictures: image encoder's share near the classifier's", seen, drawn)
    encoder = bench.studio.encoder
    words = embed_vocabulary(encoder, tokens=named_tokens(encoder, [word for group in GROUPS for word in group]))
    mixes = {name: beside(bench, professions, words, name, latents) for name, latents in plain.items()}
    in_mix = {name: share_in(mix) for name, mix in mixes.items()}
    yield correlation("mix of both words: rank correlation with planted shares", in_mix, planted)
    yield correlation("mix of both words: rank correlation with drawn shares", in_mix, drawn)
    yield correlation("pictures: rank correlation of drawn with planted shares", drawn, planted)
    evenly = {name: evened(professions, name, mix) for name, mix in mixes.items() if len(mix) > 1}
    half = dict.fromkeys(planted, 0.5)
    yield near("balanced mix of both words: share near a half", evenly, half)
    edits = searched(professions, drawn)
    changed = {name: professions.edited(source_of(name), edits, JUDGED) for name in planted}
    after = {name: professions.by_classifier(name, latents) for name, latents in changed.items()}
    shares = {name: share.value for name, share in after.items()}
    yield near("TIME edits: share near a half", shares, half)
    kept = {
        name: 100 * min(1.0, professions.recognised(name, latents) / professions.recognised(name, plain[name]))
        for name, latents in changed.items()
    }
    yield Measure.mean("TIME edits: profession recognised, of before", list(kept.values()))
    for name, pair in zip(planted, edits, strict=True):
        even = f"{evenly[name]:.0%}" if name in evenly else "nothing to balance"
        bench.console.line(
            f"{name}: planted {planted[name]:.0%}, drawn {drawn[name]:.0%}, by the encoder {seen[name]:.0%}, "
            f"in the mix {in_mix[name]:.0%}; of the balanced mix {even}; {shares[name]:.0%} after {pair}, recognised "
            f"{kept[name]:.0f} %"
        )
    if chart:
        save_picture(before_and_after(before, after), chart)


def before_and_after(before: Mapping[str, Share], after: Mapping[str, Share]) -> Tensor:
    """Both charts side by side."""

    def chart(shares: Mapping[str, Share]) -> Tensor:
        values, intervals = zip(*((share.value, share.interval) for share in shares.values()), strict=True)
        return share_chart([*shares], values, intervals, (GROUPS[0][0], GROUPS[1][0]))

    return labelled_grid([chart(before), chart(after)], ["as the model draws them", "after TIME edits"], 2)


def source_of(name: str) -> str:
    return str(PROMPT).replace("a {}", with_article(name))


def near(name: str, shares: Mapping[str, float], wanted: Mapping[str, float]) -> Measure:
    return Measure.share(name, [100 * abs(share - wanted[key]) <= NEAR for key, share in shares.items()])


def correlation(name: str, shares: Mapping[str, float], wanted: Mapping[str, float]) -> Measure:
    if len(shares) < 3:
        return Measure.mean(name, [], "")
    found: Any = spearmanr(list(shares.values()), [wanted[key] for key in shares])
    return Measure.mean(name, [float(found.statistic)], "")


def beside(bench: Bench, professions: Professions, words: Vocabulary, name: str, latents: Tensor) -> TokenMix:
    """A mix of the groups' words before the profession's own: how its pictures are shared between them."""
    preset = replace(
        bench.preset, settings=replace(bench.preset.settings, num_tokens=len(words), exclude_concept=False)
    )
    pictures = professions.studio.pictures(latents)
    return bench.explained(f"beside {name}", "", slot_before(name), preset, pictures, words)


def slot_before(name: str) -> Template:
    """A prompt with a slot before the profession."""
    return Template.of(PROMPT.filled(f"{{}} {name}"))


def share_in(mix: TokenMix) -> float:
    """The share of the first group in a mix that may lack the other."""
    values = dict(zip(mix.texts, mix.shares(), strict=True))
    return sum(values.get(word, 0.0) for word in GROUPS[0])


def evened(professions: Professions, name: str, mix: TokenMix) -> float:
    """The classifier's share of men in pictures of a mix that is balanced."""
    studio = professions.studio
    even = balanced(mix, pairs_in(mix, [GROUPS]), 0.5)
    return professions.by_classifier(name, studio.latents_of_mix(slot_before(name), even, JUDGED)).value


def searched(professions: Professions, shares: Mapping[str, float]) -> list[EditPair]:
    """An edit of each profession towards the sex that it lacks, as strong as half of the pictures need."""
    names = {source_of(name): name for name in shares}
    words = {source: GROUPS[shares[name] > 0.5][0] for source, name in names.items()}
    pairs = [EditPair(source, slot_before(name).filled(words[source])) for source, name in names.items()]

    def share_of(pair: EditPair, edits: Sequence[EditPair]) -> Share:
        return professions.by_classifier(names[pair.source], professions.edited(pair.source, edits, SEARCHED))

    reached = edits_for_share(pairs, share_of, 0.5, MOST)
    return [pair._replace(strength=one.setting) for pair, one in zip(pairs, reached, strict=True)]
