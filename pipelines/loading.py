"""Pipelines and LoRAs from disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from safetensors import SafetensorError
from safetensors.torch import load_file

from ..core.errors import UserError, out_of_memory
from .adapter import Pipeline


def best_device() -> str:
    """The GPU where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def load_folder(path: Path, device: str) -> DiffusionPipeline:
    """The pipeline in a diffusers folder, whatever it is. Raises UserError for a folder that can't be loaded."""
    try:
        dtype = torch.float16 if torch.cuda.is_available() else torch.float32
        pipe = DiffusionPipeline.from_pretrained(path, dtype=dtype, local_files_only=True)
    except (OSError, ValueError, KeyError, RuntimeError, AttributeError, TypeError) as error:
        if out_of_memory(error):
            raise
        reason = f"{path} could not be loaded as a diffusers model ({str(error).splitlines()[0]})"
        raise UserError(f"{reason}; check that it is complete.") from error
    pipe.set_progress_bar_config(disable=True)  # whoever draws shows one
    return pipe.to(device)


def check_loras(files: Sequence[Path]) -> None:
    """Raises UserError for a LoRA file that is not there."""
    if absent := [file for file in files if not file.is_file()]:
        raise UserError(f"{absent[0]} does not exist; give a LoRA file.")


def load_loras(pipe: Pipeline, files: Sequence[Path]) -> None:
    """Applies LoRA files to the pipeline, all of them at strength 1.

    Raises UserError for one that is not there or not made for this model.
    """
    check_loras(files)
    names = [f"lora_{number}" for number in range(len(files))]
    for name, file in zip(names, files, strict=True):
        try:
            pipe.load_lora_weights(load_file(file), adapter_name=name)
            pipe.set_adapters(names[: names.index(name) + 1])  # loading one would leave only that one active
        except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
            if out_of_memory(error):
                raise
            reason = f"{file} could not be loaded as a LoRA of this model ({str(error).splitlines()[0]})"
            raise UserError(f"{reason}; give a safetensors file made for it.") from error
