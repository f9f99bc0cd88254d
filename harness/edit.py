"""`edit`: TIME on a diffusers model, saved as a LoRA, with pictures before and after."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..core.errors import UserError
from ..core.lora import lora_state_dict, save_lora
from ..core.model_edit import EditPair, edit_model
from .console import Console


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    repeated = {"action": "append", "default": [], "metavar": "PROMPT"}
    required = {"action": "append", "required": True, "metavar": "PROMPT"}
    add("--model", type=Path, required=True, metavar="PATH", help="diffusers model folder (SD 1.x, SD 2.x, SDXL)")
    add("--tokenizer", type=Path, metavar="PATH", help="CLIP's tokenizer folder, for a model that carries none")
    add("--lora", **{**repeated, "metavar": "FILE"}, type=Path, help="LoRA to apply before the edit (repeatable)")
    add("--source", **required, help="prompt whose meaning shall change (repeatable)")
    add("--destination", **required, help="what it shall mean (one for each source)")
    add("--lambda", dest="regularization", type=float, default=0.1, metavar="L", help="above 0 (default 0.1)")
    add("--values-only", action="store_true", help="edit values only, not keys")
    add("--no-augment", action="store_true", help='do not fit the prompts after "A photo of" and its kin')
    add("--strength", type=float, default=1.0, metavar="S", help="share of the edit that is applied (default 1)")
    add("--preserve", **repeated, help="prompt that shall keep its meaning (repeatable)")
    add("--rank", type=int, default=0, metavar="R", help="0: exact (default), else the best approximation of this rank")
    add("--out", type=Path, required=True, metavar="FILE", help="LoRA file to write (.safetensors)")
    add("--prompt", **repeated, help="show this prompt before and after (repeatable)")
    add("--seed", type=int, action="append", default=[], help="seed of a picture (repeatable; default 0)")
    add("--steps", type=int, default=25, help="sampling steps (default 25)")
    add("--guidance-scale", type=float, default=7.5, help="classifier-free guidance (default 7.5)")
    add("--size", type=int, help="picture size in pixels (default: the model's own)")


def run(arguments: argparse.Namespace, console: Console) -> None:
    # Imported here: diffusers takes seconds, which --help and wrong usage should not.
    from .diffusers_backend import DiffusersDenoiser, DiffusersTextEncoder, load_loras, load_pipeline
    from .pictures import Sampling, before_and_after, comparison, save_picture

    if len(arguments.source) != len(arguments.destination):
        raise UserError(
            f"{len(arguments.source)} --source came with {len(arguments.destination)} --destination; give one for each."
        )
    if arguments.out.suffix != ".safetensors":
        raise UserError(f"--out is {arguments.out}; its name must end in .safetensors, pictures go beside it.")
    sampling = Sampling(arguments.seed or (0,), arguments.steps, arguments.guidance_scale, arguments.size)
    pipe = load_pipeline(arguments.model, arguments.tokenizer)
    load_loras(pipe, arguments.lora)
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
            progress=progress,
        )
    console.line(edited.report)
    lora = lora_state_dict(edited.edit, edited.factors, denoiser.family)
    save_lora(arguments.out, lora)
    console.line(str(arguments.out))
    result = {"edit": str(arguments.out), "rank": edited.edit.rank, "layers": len(edited.factors), "pictures": None}
    if arguments.prompt:
        before, after = before_and_after(pipe, lora, arguments.prompt, sampling, console)
        pictures = arguments.out.with_suffix(".png")
        save_picture(comparison(before, after, arguments.prompt), pictures)
        console.line(str(pictures))
        result["pictures"] = str(pictures)
    console.result(result)
