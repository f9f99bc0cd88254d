"""`pictures`: single pictures of EmojiWorld's keywords, explained by few words, held against what they show.

The mixes are those of `concepts`; missing ones are made first, which takes minutes each.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..core.conceptor.dictionary import Slot
from ..core.conceptor.mixture import TokenMix
from ..core.conceptor.pruning import Pruned, bundles_in, explain_picture
from ..core.hspace.process import Denoise, asyrp, invert
from ..harness.commands.explain_picture import picture_tools
from ..harness.terminal.console import Console
from ..pipelines.pictures import Sampling
from ..pipelines.studio import DiffusersStudio
from ..world.emoji.architecture import GUIDANCE
from .concepts import PROMPT, SETTINGS, Bench, add_folders
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

    studio = DiffusersStudio(bench.lab.pipe, Sampling((), STEPS, GUIDANCE))
    named, largest, similar, left, ratios, same = ([] for _ in range(6))
    for keyword in bench.keywords[:KEYWORDS]:
        mix = bench.mix(keyword).top(TOKENS)
        bundles = bundles_in(bench.vocabulary, mix, SIMILAR)
        for seed in SEEDS:
            pruned, pictures = explained(studio, mix, seed, bundles)
            before, _, *alone = (seen[0] for seen in bench.lab.seen(judged(pictures)))
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


def explained(studio: DiffusersStudio, mix: TokenMix, seed: int, bundles: Bundles) -> tuple[Pruned, Tensor]:
    draw, features = picture_tools(studio, PROMPT, seed)
    return explain_picture(mix, draw([mix]), draw, features, THRESHOLD, bundles, together=1)


def plainly(studio: DiffusersStudio, mix: TokenMix, seed: int, bundles: Bundles) -> tuple[TokenMix, int]:
    """What the published procedure leaves, and the pictures that it makes."""
    draw, features = picture_tools(studio, PROMPT, seed)
    (wanted,) = features(draw([mix]))
    return published_pruning(mix, lambda mixes: (features(draw(mixes)) @ wanted).tolist(), THRESHOLD, bundles)


def without_seed(bench: Bench) -> Iterator[Measure]:
    """A clean picture of each keyword's most frequent exemplar, which no seed gives, explained in two ways."""

    studio = DiffusersStudio(bench.lab.pipe, Sampling((), STEPS, GUIDANCE))
    _, features = picture_tools(studio, PROMPT, 0)
    named: dict[str, list[bool]] = {"inverted, words of the keyword's mix": [], "fitted, words of all": []}
    for keyword in bench.keywords[:KEYWORDS]:
        shares = bench.lab.truth.keywords[keyword]
        exemplar = max(shares, key=shares.__getitem__)
        picture, mix = bench.clean(exemplar)[:1], bench.mix(keyword).top(TOKENS)
        draw = from_noise_of(studio, mix, picture)
        bundles = bundles_in(bench.vocabulary, mix, SIMILAR)
        pruned, _ = explain_picture(mix, draw([mix]), draw, features, THRESHOLD, bundles, together=1)
        settings = replace(SETTINGS, exclude_concept=False)
        fitted = bench.explained(f"picture of {exemplar}", "", PROMPT, settings, picture)
        for way, words in zip(named, (pruned.mix.texts, fitted.texts[:FITTED]), strict=True):
            bench.console.line(f"picture of {keyword}, {exemplar}, {way}: {', '.join(words)}")
            named[way].append(exemplar in words)
    for way, hits in named.items():
        yield Measure.share(f"pictures without a seed: the exemplar named, {way}", hits)


def from_noise_of(studio: DiffusersStudio, mix: TokenMix, picture: Tensor) -> Callable[[Sequence[TokenMix]], Tensor]:
    """What draws mixes from the noise of which the whole mix makes `picture` (1, height, width, 3): DDIM inversion."""

    slot = Slot.of(studio.encoder, studio.towers, PROMPT)
    tables, diffusion = [tower.table for tower in studio.towers], studio.diffusion()
    sigmas = ((1 - diffusion.alphas_cumprod) / diffusion.alphas_cumprod).sqrt().cpu()
    timesteps = torch.linspace(len(sigmas) - 1, 0, INVERSION_STEPS).round().long()
    levels = torch.cat([sigmas[timesteps], torch.zeros(1)])

    def denoiser(some: TokenMix) -> Denoise:
        encoded = slot.encode(some.pseudo_token(tables))

        @torch.no_grad()
        def denoised(x: Tensor, sigma: float) -> Tensor:
            timestep = (sigmas - sigma).abs().argmin()[None].to(x.device)
            return x - sigma * diffusion.predict(x / (1 + sigma**2) ** 0.5, timestep, encoded)

        return denoised

    noise = invert(denoiser(mix), studio.latents_of_pictures(picture), levels, 0.0, torch.Tensor).path[0]

    def draw(mixes: Sequence[TokenMix]) -> Tensor:
        made = [asyrp(denoiser(some), None, noise, levels, 0.0, torch.Tensor) for some in mixes]
        return studio.pictures(torch.cat(made))

    return draw
