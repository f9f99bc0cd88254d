"""`edit`: TIME on a diffusers model, saved as a LoRA, with pictures before and after."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import get_args

from ...core.errors import UserError
from ...core.time_edit.lora import lora_state_dict, save_lora
from ...core.time_edit.time_edit import EditPair, PreserveMode, Regularize, edit_model
from ..terminal.console import Console
from ..terminal.options import add_model_options, add_sampling_options, check_ending, open_model, sampling_of, seeds_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    repeated = {"action": "append", "default": [], "metavar": "PROMPT"}
    required = {"action": "append", "required": True, "metavar": "PROMPT"}
    add_model_options(parser)
    add("--source", **required, help="prompt whose meaning shall change (repeatable)")
    add("--destination", **required, help="what it shall mean (one for each source)")
    add("--lambda", dest="regularization", type=float, default=0.1, metavar="L", help="above 0 (default 0.1)")
    add("--regularize", choices=get_args(Regularize), default="relative", help="the unit of lambda (default relative)")
    add("--values-only", action="store_true", help="edit values only, not keys")
    add("--no-augment", action="store_true", help='do not fit the prompts after "A photo of" and its kin')
    add("--strength", type=float, default=1.0, metavar="S", help="share of the edit that is applied (default 1)")
    add("--preserve", **repeated, help="prompt that shall keep its meaning (repeatable)")
    add("--preserve-mode", choices=get_args(PreserveMode), default="weighted", help="how (default weighted)")
    add("--no-pooled", action="store_true", help="leave alone the layer that reads SDXL's pooled text")
    add("--rank", type=int, default=0, metavar="R", help="0: exact (default), else the best approximation of this rank")
    add(
        "--out",
        type=Path,
        required=True,
        metavar="FILE",
        help="LoRA file to write (.safetensors); pictures go beside it",
    )
    add("--prompt", **repeated, help="show this prompt before and after (repeatable)")
    add_sampling_options(parser)


def run(arguments: argparse.Namespace, console: Console) -> None:
    # Imported here: diffusers takes seconds, which --help and wrong usage should not.
    from ...core.pictures.grid import save_picture
    from ...pipelines.adapter import DiffusersDenoiser, DiffusersTextEncoder
    from ...pipelines.pictures import before_and_after, comparison

    if len(arguments.source) != len(arguments.destination):
        raise UserError(
            f"{len(arguments.source)} --source came with {len(arguments.destination)} --destination; give one for each."
        )
    check_ending("--out", arguments.out, ".safetensors")
    sampling, seeds = sampling_of(arguments), seeds_of(arguments)
    pipe = open_model(arguments)
    denoiser = DiffusersDenoiser(pipe)
    with console.progress("editing weights") as progress:
        edited = edit_model(
            DiffusersTextEncoder(pipe),
            denoiser,
            [EditPair(*pair) for pair in zip(arguments.source, arguments.destination, strict=True)],
            regularization=arguments.regularization,
            edit_keys=not arguments.values_only,
            augment=not arguments.no_augment,
            strength=arguments.strength,
            preserve=arguments.preserve,
            rank=arguments.rank,
            regularize=arguments.regularize,
            preserve_mode=arguments.preserve_mode,
            edit_pooled=not arguments.no_pooled,
            progress=progress,
        )
    console.line(edited.report)
    lora = lora_state_dict(edited.factors, denoiser.family)
    save_lora(arguments.out, lora)
    console.line(str(arguments.out))
    result = {
        "edit": str(arguments.out),
        "rank": edited.edit.context.rank,
        "layers": len(edited.factors),
        "pictures": None,
    }
    if arguments.prompt:
        with console.progress("sampling pictures") as progress:
            before, after = before_and_after(pipe, lora, arguments.prompt, seeds, sampling, progress)
        pictures = arguments.out.with_suffix(".png")
        save_picture(comparison(before, after, arguments.prompt), pictures)
        console.line(str(pictures))
        result["pictures"] = str(pictures)
    console.result(result)
