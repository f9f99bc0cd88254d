"""`pictures`: single pictures of EmojiWorld's keywords, explained by few words, held against what they show.

The mixes are those of `concepts`; missing ones are made first, which takes minutes each.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..core.conceptor.mixture import TokenMix
from ..core.conceptor.pruning import ExplainedPicture, bundles_in, compared, explain_picture
from ..core.hspace.process import Denoise, asyrp, invert
from ..core.model.diffusion import predicted_x_0
from ..harness.terminal.console import Console
from ..pipelines.pictures import Sampling
from ..pipelines.studio import DiffusersFixedNoise, DiffusersStudio
from ..world.emoji.architecture import GUIDANCE
from .concepts import PROMPT, Bench, add_folders
from .hspace import judged
from .measures import Measure, report
from .pruning import published_pruning

Bundles = Sequence[Sequence[int]]
KEYWORDS, SEEDS = 10, range(10)
COMPARED = 3  # seeds of each keyword for which the published search is made too
STEPS = 12
THRESHOLD, SIMILAR = 0.93, 0.95  # the paper's
TOKENS = 50  # of a mix, as published
INVERSION_STEPS = 25
FITTED = 5  # words of a fitted mix that are looked at


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_folders(parser)


def run(arguments: argparse.Namespace, console: Console) -> None:
    bench = Bench(arguments.out, arguments.cache, arguments.packages, console)
    settings = {"keywords": KEYWORDS, "seeds": len(SEEDS), "sampling steps": STEPS, "guidance scale": GUIDANCE}
    settings |= {"threshold": THRESHOLD, "similar": SIMILAR, "published search": f"{COMPARED} seeds a keyword"}
    command = "python -m conceptlens.evaluation pictures"
    report(command, settings, [*measured(bench), *without_seed(bench)], arguments.json)


def measured(bench: Bench) -> Iterator[Measure]:
    """What is left for the pictures of each keyword: does it name what they show?"""
    studio = DiffusersStudio(bench.lab.pipe, Sampling(STEPS, GUIDANCE))
    named, largest, similar, left, ratios, same = ([] for _ in range(6))
    for keyword in bench.keywords[:KEYWORDS]:
        mix = bench.mix(keyword).top(TOKENS)
        bundles = bundles_in(bench.vocabulary, mix, SIMILAR)
        for seed in SEEDS:
            shown = explained(studio, mix, seed, bundles)
            pruned = shown.found
            before, *alone = (seen[0] for seen in bench.lab.seen(judged(torch.cat([shown.before, shown.alone]))))
            words = ", ".join(pruned.mix.texts)
            bench.console.line(f"{keyword}, seed {seed}: {before}; {words} ({pruned.pictures} pictures)")
            left.append(float(len(pruned.mix)))
            similar.append(pruned.similarity >= THRESHOLD)
            if before in bench.lab.truth.keywords[keyword]:
                named.append(before in alone)
                largest.append(before == alone[0])
            if seed < COMPARED:
                published, made = plainly(studio, mix, seed, bundles)
                ratios.append(pruned.pictures / made)
                same.append(len(pruned.mix) <= len(published))
    yield Measure.share("single pictures: a remaining word draws the exemplar shown", named)
    yield Measure.share("single pictures: the largest remaining word draws it", largest)
    yield Measure.mean("single pictures: words that remain", left, "words")
    yield Measure.share("single pictures: similarity at the threshold or above", similar)
    yield Measure.of("single pictures: pictures made, of those of the published search", ratios, "")
    yield Measure.share("single pictures: no more words remain than by the published search", same)


def explained(studio: DiffusersStudio, mix: TokenMix, seed: int, bundles: Bundles) -> ExplainedPicture:
    noise = DiffusersFixedNoise(studio, PROMPT, seed)
    return explain_picture(mix, noise, threshold=THRESHOLD, bundles=bundles, together=1)


def plainly(studio: DiffusersStudio, mix: TokenMix, seed: int, bundles: Bundles) -> tuple[TokenMix, int]:
    """What the published procedure leaves, and the pictures that it makes."""
    noise = DiffusersFixedNoise(studio, PROMPT, seed)
    _, (wanted,) = compared(noise, noise.draw([mix]))

    def like(mixes: Sequence[TokenMix]) -> list[float]:
        return (compared(noise, noise.draw(mixes))[1] @ wanted).tolist()

    return published_pruning(mix, like, THRESHOLD, bundles)


def without_seed(bench: Bench) -> Iterator[Measure]:
    """A clean picture of each keyword's most frequent exemplar, which no seed gives, explained in two ways."""
    studio = DiffusersStudio(bench.lab.pipe, Sampling(STEPS, GUIDANCE))
    named: dict[str, list[bool]] = {"inverted, words of the keyword's mix": [], "fitted, words of all": []}
    for keyword in bench.keywords[:KEYWORDS]:
        shares = bench.lab.truth.keywords[keyword]
        exemplar = max(shares, key=shares.__getitem__)
        picture, mix = bench.clean(exemplar)[:1], bench.mix(keyword).top(TOKENS)
        noise = InvertedNoise(studio, mix, picture)
        bundles = bundles_in(bench.vocabulary, mix, SIMILAR)
        pruned = explain_picture(mix, noise, threshold=THRESHOLD, bundles=bundles, together=1).found
        preset = replace(bench.preset, settings=replace(bench.preset.settings, exclude_concept=False))
        fitted = bench.explained(f"picture of {exemplar}", "", PROMPT, preset, picture)
        for way, words in zip(named, (pruned.mix.texts, fitted.texts[:FITTED]), strict=True):
            bench.console.line(f"picture of {keyword}, {exemplar}, {way}: {', '.join(words)}")
            named[way].append(exemplar in words)
    for way, hits in named.items():
        yield Measure.share(f"pictures without a seed: the exemplar named, {way}", hits)


class InvertedNoise(DiffusersFixedNoise):
    """The noise of which a whole mix makes a picture (1, height, width, 3), found by DDIM inversion."""

    def __init__(self, studio: DiffusersStudio, mix: TokenMix, picture: Tensor) -> None:
        super().__init__(studio, PROMPT, 0)
        self._slot = studio.slot(PROMPT)
        self._diffusion = studio.diffusion()
        self._sigmas = ((1 - self._diffusion.alphas_cumprod) / self._diffusion.alphas_cumprod).sqrt().cpu()
        timesteps = torch.linspace(len(self._sigmas) - 1, 0, INVERSION_STEPS).round().long()
        self._levels = torch.cat([self._sigmas[timesteps], torch.zeros(1)])
        x_0 = studio.latents_of_pictures(picture)
        self._noise = invert(self._denoiser(mix), x_0, self._levels, 0.0, torch.Tensor).path[0]

    def draw(self, mixes: Sequence[TokenMix]) -> Tensor:
        made = [asyrp(self._denoiser(some), None, self._noise, self._levels, 0.0, torch.Tensor) for some in mixes]
        return self._studio.pictures(torch.cat(made))

    def _denoiser(self, mix: TokenMix) -> Denoise:
        encoded = self._slot.encode(mix.pseudo_token(self._studio.words))

        @torch.no_grad()
        def denoised(x: Tensor, sigma: float) -> Tensor:
            timestep = (self._sigmas - sigma).abs().argmin()[None].to(x.device)
            output = self._diffusion.predict(x / (1 + sigma**2) ** 0.5, timestep, encoded)
            return predicted_x_0(self._diffusion.prediction, x, sigma, output)

        return denoised
