"""`explain-picture`: one picture of a mix on a diffusers model, by the fewest of its words that still make it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import get_args

from ...core.conceptor.mixture import TokenMix
from ...core.conceptor.pruning import Search, bundles_in, check_threshold, explain_picture
from ...core.conceptor.vocabulary import TEMPLATES
from ...core.model.template import Template
from ..terminal.console import Console
from ..terminal.options import add_model_options, add_sampling_options, check_folder, open_model, sampling_of, seeds_of


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
    from ...pipelines.studio import DiffusersFixedNoise, DiffusersStudio

    template = Template.of(arguments.prompt, "<>")
    check_threshold(arguments.threshold)
    check_folder("--out", arguments.out)
    sampling, seeds, mix = sampling_of(arguments), seeds_of(arguments), TokenMix.load(arguments.mix)
    studio = DiffusersStudio(open_model(arguments), sampling)
    mix.check_family(studio.family)
    own = studio.encoder.tokenize(mix.made_by.get("concept", ""))[1:-1]
    words = embed_vocabulary(studio.encoder, arguments.templates, [*mix.ids, *own])
    bundles = bundles_in(words, mix, arguments.similar)
    found = {}
    for seed in seeds:
        noise = DiffusersFixedNoise(studio, template, seed)
        explained = explain_picture(
            mix, noise, threshold=arguments.threshold, bundles=bundles, search=arguments.search, together=1
        )
        left = explained.found.mix
        console.line(f"seed {seed}: {explained.report}: {', '.join(left.texts)}")
        file = arguments.out / f"seed-{seed}.safetensors"
        pictures = [*explained.before, *explained.after, *explained.alone]
        save_picture(labelled_grid(pictures, ["before", "after", *left.texts]), file.with_suffix(".png"))
        left.save(file)
        found[str(seed)] = {"words": list(left.texts), "coefficients": list(left.coefficients)}
        found[str(seed)] |= {"similarity": explained.found.similarity, "pictures": explained.found.pictures}
    console.result(found)
