"""FaceWorld in diffusers: an ordinary pipeline."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline

from .. import weights
from ..emoji import architecture as emoji
from ..pipeline import world_pipeline
from .architecture import SCHEDULER, UNET, WEIGHTS


def face_world_pipeline(device: torch.device | str = "cpu", folder: Path = WEIGHTS) -> StableDiffusionPipeline:
    """FaceWorld as a StableDiffusionPipeline: 128 x 128 pixels, DDIM; the text encoder is EmojiWorld's."""
    read = {**weights.load("encoders", emoji.WEIGHTS), **weights.load("vision", folder)}
    return world_pipeline(device, unet=UNET, scheduler=SCHEDULER, encoders=read, folder=folder)
