"""Command-line options that several commands share."""

from __future__ import annotations

import argparse
import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.errors import UserError

if TYPE_CHECKING:
    from ...pipelines.adapter import Pipeline
    from ...pipelines.pictures import Sampling


def add_model_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        type=Path,
        required=True,
        metavar="PATH",
        help="diffusers model folder (SD 1.x, SD 2.x, SDXL), or emoji-world or face-world",
    )
    parser.add_argument(
        "--lora", type=Path, action="append", default=[], metavar="FILE", help="LoRA to apply first (repeatable)"
    )


def open_model(arguments: argparse.Namespace, device: str | None = None) -> Pipeline:
    """The model of `add_model_options` with its LoRAs, on the GPU where there is one or on `device`.

    Raises UserError, before the model is loaded, for LoRAs that are not there.
    """
    from ...pipelines.loading import check_loras, load_loras
    from .models import load_pipeline

    check_loras(arguments.lora)
    pipe = load_pipeline(arguments.model, device)
    load_loras(pipe, arguments.lora)
    return pipe


def add_sampling_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--seed", type=int, action="append", default=[], help="seed of a picture (repeatable; default 0)"
    )
    add_drawing_options(parser, steps=25)


def add_drawing_options(parser: argparse.ArgumentParser, steps: int) -> None:
    """How pictures are drawn, whatever their seeds are."""
    add = parser.add_argument
    add("--steps", type=int, default=steps, help=f"sampling steps (default {steps})")
    add("--guidance-scale", type=float, default=7.5, help="classifier-free guidance (default 7.5)")
    add("--size", type=int, help="picture size in pixels (default: the model's own)")


def sampling_of(arguments: argparse.Namespace) -> Sampling:
    """What `add_drawing_options` was given."""
    from ...pipelines.pictures import Sampling

    return Sampling(arguments.steps, arguments.guidance_scale, arguments.size)


def seeds_of(arguments: argparse.Namespace, count: int | None = None) -> Sequence[int]:
    """What --seed was given, or `count` seeds from the first on. Raises UserError for those that are none."""
    from ...pipelines.pictures import check_seeds

    given: list[int] = [arguments.seed] if isinstance(arguments.seed, int) else (arguments.seed or [0])
    seeds = given if count is None else range(given[0], given[0] + count)
    check_seeds(seeds)
    return seeds


def check_ending(option: str, file: Path, ending: str) -> None:
    """Raises UserError for a file that is not named after what it will hold, or that can't be written."""
    if file.suffix != ending:
        raise UserError(f"{option} is {file}; its name must end in {ending}.")
    check_file(option, file)


def check_file(option: str, file: Path | None) -> None:
    """Raises UserError for a file to be written, if one is wanted, that can't be."""
    if file is None:
        return
    if file.is_dir():
        raise UserError(f"{option} is {file}, which is a folder; give the name of a file.")
    check_folder(option, file.parent)


def check_folder(option: str, folder: Path) -> None:
    """Raises UserError unless files can be written into a folder, which need not be there yet."""
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if not there.is_dir():
        raise UserError(f"{there} is a file; {option} needs a folder there: choose another name.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"{there} can't be written to, which {option} needs; choose another folder.")


def asked(arguments: argparse.Namespace, *names: str) -> dict[str, Any]:
    """The model and other arguments, as a result is marked with them."""
    model = {"model": str(arguments.model), "loras": [str(file) for file in arguments.lora]}
    given = {name: getattr(arguments, name) for name in names}
    return model | {name: str(value) if isinstance(value, Path) else value for name, value in given.items()}


def add_json_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", type=Path, metavar="FILE", help="where what was found is written as JSON as well")


def add_concept_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--concept", action="append", default=[], metavar="WORD", help="a concept (repeatable)")
    parser.add_argument("--concepts", type=Path, metavar="FILE", help="a text file with one concept a line")


def concepts_of(arguments: argparse.Namespace) -> list[str]:
    """What `add_concept_options` were given. Raises UserError when that is nothing, or two have one file name."""
    given = [concept.strip() for concept in [*arguments.concept, *_lines(arguments.concepts)]]
    concepts = list(dict.fromkeys(given))
    if not all(concepts):
        raise UserError("A --concept is empty; write a word.")
    if not concepts:
        raise UserError("There is no concept; name a --concept, or a file of --concepts.")
    if len({file_name(concept).casefold() for concept in concepts}) < len(concepts):
        raise UserError(
            "Two concepts would be written to the same file; their names differ in signs or capitals only: drop one."
        )
    return concepts


def _lines(file: Path | None) -> list[str]:
    if file is None:
        return []
    try:
        return [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} can't be read ({error}); give a text file with one concept a line.") from error


def file_name(concept: str) -> str:
    """A concept as a file is named after it, in at most 110 bytes: a name may have 255, and more is added to it."""
    name = re.sub(r"[^\w-]+", "_", concept).strip("_") or "concept"
    if len(name.encode()) <= 110:
        return name
    return f"{name.encode()[:100].decode(errors='ignore')}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
