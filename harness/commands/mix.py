"""`mix`: pictures of a token mix on a diffusers model, its coefficients changed, saved as an embedding."""

from __future__ import annotations

import argparse
from pathlib import Path

from ...core.conceptor.mixture import MixEdits, TokenMix, mix_from_text
from ...core.errors import UserError
from ...core.model.template import Template
from ..terminal.console import Console
from ..terminal.options import add_model_options, add_sampling_options, check_ending, open_model, sampling_of, seeds_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_options(parser)
    add = parser.add_argument
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--mix", type=Path, metavar="FILE", help="a mix that decompose or the host has saved")
    source.add_argument("--words", metavar="TEXT", help='or words with coefficients: "dog: 0.6, snow: 0.2"')
    add("--set", default="", metavar="TEXT", help='coefficients to change or add: "dog: 0.9, night: 0.3"')
    add("--without", default="", metavar="TEXT", help='words to leave out: "snow, night"')
    add("--top", type=int, metavar="N", help="use the N largest coefficients only")
    add("--prompt", default="a photo of a <>", help='with <> for the mix (default "a photo of a <>")')
    add_sampling_options(parser)
    add("--out", type=Path, required=True, metavar="FILE", help="picture to write (.png)")
    add("--embedding", type=Path, metavar="FILE", help="textual-inversion file to write (.safetensors)")


def run(arguments: argparse.Namespace, console: Console) -> None:
    # Imported here: diffusers takes seconds, which --help and wrong usage should not.
    from ...core.pictures.grid import labelled_grid, save_picture
    from ...pipelines.studio import DiffusersStudio

    if arguments.top is not None and arguments.top < 1:
        raise UserError(f"--top is {arguments.top}; use at least 1 coefficient.")
    check_ending("--out", arguments.out, ".png")
    if arguments.embedding:
        check_ending("--embedding", arguments.embedding, ".safetensors")
    template = Template.of(arguments.prompt, "<>")
    sampling, seeds = sampling_of(arguments), seeds_of(arguments)
    loaded = TokenMix.load(arguments.mix) if arguments.mix else None
    studio = DiffusersStudio(open_model(arguments), sampling)
    encoder, family = studio.encoder, studio.family
    mix = loaded or mix_from_text(encoder, arguments.words, family)
    mix.check_family(family)
    changed, left_out = (
        mix_from_text(encoder, text, family) if text.strip() else None for text in (arguments.set, arguments.without)
    )
    added = dict(zip(changed.ids, changed.coefficients, strict=True)) if changed else {}
    if left_out and (unknown := left_out.without([*mix.ids, *added])):
        raise UserError(f'"{unknown.texts[0]}" of --without is not in the mix; it has {", ".join(mix.top(10).texts)}.')
    edits = MixEdits(added=added, off=frozenset(left_out.ids if left_out else ()), top=arguments.top)
    mix = edits.apply(mix, encoder)
    console.line(mix.to_text())
    pictures = studio.pictures(studio.latents_of_mix(template, mix, seeds))
    save_picture(labelled_grid([*pictures], [f"seed {seed}" for seed in seeds]), arguments.out)
    console.line(str(arguments.out))
    if arguments.embedding:
        mix.save_embedding(arguments.embedding, {tower.name: tower.words for tower in studio.towers})
        console.line(str(arguments.embedding))
    console.result({"mix": dict(zip(mix.texts, mix.coefficients, strict=True)), "picture": str(arguments.out)})
