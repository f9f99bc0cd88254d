"""Command-line options that several commands share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .diffusers_backend import Pipeline
    from .pictures import Sampling


def add_model_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        type=Path,
        required=True,
        metavar="PATH",
        help="diffusers model folder (SD 1.x, SD 2.x, SDXL), or emoji-world",
    )
    parser.add_argument(
        "--lora", type=Path, action="append", default=[], metavar="FILE", help="LoRA to apply first (repeatable)"
    )


def open_model(arguments: argparse.Namespace, device: str | None = None) -> Pipeline:
    """The model of `add_model_options` with its LoRAs, on the GPU where there is one or on `device`."""
    from .diffusers_backend import load_loras, load_pipeline

    pipe = load_pipeline(arguments.model, device)
    load_loras(pipe, arguments.lora)
    return pipe


def add_sampling_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--seed", type=int, action="append", default=[], help="seed of a picture (repeatable; default 0)")
    add("--steps", type=int, default=25, help="sampling steps (default 25)")
    add("--guidance-scale", type=float, default=7.5, help="classifier-free guidance (default 7.5)")
    add("--size", type=int, help="picture size in pixels (default: the model's own)")


def sampling_of(arguments: argparse.Namespace) -> Sampling:
    """What `add_sampling_options` were given."""
    from .pictures import Sampling

    return Sampling(arguments.seed or (0,), arguments.steps, arguments.guidance_scale, arguments.size)


def add_json_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the result as a JSON object, the rest on stderr")
