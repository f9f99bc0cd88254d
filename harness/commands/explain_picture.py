"""`explain`: one picture of a mix explained on a diffusers model, by the fewest of its words that still make it."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from ...core.conceptor.mixture import TokenMix
from ...core.conceptor.pruning import Search, bundles_in, check_threshold, explain_picture
from ...core.conceptor.vocabulary import TEMPLATES
from ...core.errors import UserError
from ..terminal.console import Console
from ..terminal.options import add_model_options, add_sampling_options, check_folder, open_model, sampling_of

if TYPE_CHECKING:
    from torch import Tensor

    from ...pipelines.studio import DiffusersStudio


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_options(parser)
    add = parser.add_argument
    add("--mix", type=Path, required=True, metavar="FILE", help="a mix that decompose or the host has saved")
    add("--prompt", default="a photo of a <>", help='with <> for the mix (default "a photo of a <>")')
    add_sampling_options(parser)
    add("--threshold", type=float, default=0.93, help="how similar the picture has to stay (default 0.93)")
    add("--similar", type=float, default=0.95, help="cosine of words that leave together (default 0.95)")
    add("--search", choices=get_args(Search), default="bisection", help="default bisection")
    add("--templates", choices=list(TEMPLATES), default="conceptor27", help="of text features (default conceptor27)")
    add("--out", type=Path, required=True, metavar="DIR", help="where mixes and pictures go, one of each a seed")


def run(arguments: argparse.Namespace, console: Console) -> None:
    # Imported here: diffusers takes seconds, which --help and wrong usage should not.
    from ...core.conceptor.vocabulary import embed_vocabulary
    from ...core.pictures.grid import labelled_grid, save_picture
    from ...pipelines.studio import DiffusersStudio

    if arguments.prompt.count("<>") != 1:
        raise UserError(f'The prompt "{arguments.prompt}" must have one <>, where the mix stands: a photo of a <>')
    check_threshold(arguments.threshold)
    check_folder("--out", arguments.out)
    sampling, mix = sampling_of(arguments, arguments.seed or (0,)), TokenMix.load(arguments.mix)
    studio = DiffusersStudio(open_model(arguments), sampling)
    mix.check_family(studio.family)
    own = studio.encoder.tokenize(mix.made_by.get("concept", ""))[1:-1]
    words = embed_vocabulary(studio.encoder, arguments.templates, [*mix.ids, *own])
    bundles = bundles_in(words, mix, arguments.similar)
    found = {}
    for seed in sampling.seeds:
        draw, features = picture_tools(studio, arguments.prompt.replace("<>", "{}"), seed)
        how = (arguments.threshold, bundles, arguments.search)
        pruned, pictures = explain_picture(mix, draw([mix]), draw, features, *how, together=1)
        left = pruned.mix
        console.line(
            f"seed {seed}: {len(left)} of {len(mix)} words, {pruned.similarity:.3f} like the picture before, "
            f"{pruned.pictures} pictures made: {', '.join(left.texts)}"
        )
        file = arguments.out / f"seed-{seed}.safetensors"
        save_picture(labelled_grid([*pictures], ["before", "after", *left.texts]), file.with_suffix(".png"))
        left.save(file)
        found[str(seed)] = {"words": list(left.texts), "coefficients": list(left.coefficients)}
        found[str(seed)] |= {"similarity": pruned.similarity, "pictures": pruned.pictures}
    console.result(found)


def picture_tools(
    studio: DiffusersStudio, prompt: str, seed: int
) -> tuple[Callable[[Sequence[TokenMix]], Tensor], Callable[[Tensor], Tensor]]:
    """What draws the picture of each mix for one seed, and what tells how similar pictures are.

    That is the image encoder or, where there is none, the VAE's latents.
    """
    import torch
    from torch.nn.functional import normalize

    tables = [tower.table for tower in studio.towers]

    def draw(mixes: Sequence[TokenMix]) -> Tensor:
        rows = zip(*(mix.pseudo_token(tables) for mix in mixes), strict=True)
        return studio.pictures(studio.latents_of_mix(prompt, [torch.cat(tower) for tower in rows], [seed] * len(mixes)))

    def features(pictures: Tensor) -> Tensor:
        seen = studio.features(pictures)
        return normalize(studio.latents_of_pictures(pictures).flatten(1), dim=-1) if seen is None else seen

    return draw, features
