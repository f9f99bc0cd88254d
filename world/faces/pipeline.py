"""FaceWorld in diffusers: an ordinary pipeline."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from transformers import CLIPTokenizer

from .. import weights
from ..pipeline import world_pipeline
from .architecture import SCHEDULER, UNET, WEIGHTS


def face_world_pipeline(
    tokenizer: CLIPTokenizer, device: torch.device | str = "cpu", folder: Path = WEIGHTS
) -> StableDiffusionPipeline:
    """FaceWorld as a StableDiffusionPipeline: 128 x 128 pixels, DDIM; the text encoder is EmojiWorld's."""
    read = {**weights.load("encoders"), **weights.load("vision", folder)}
    return world_pipeline(tokenizer, device, unet=UNET, scheduler=SCHEDULER, encoders=read, folder=folder)
