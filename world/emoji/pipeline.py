"""EmojiWorld in diffusers: an ordinary pipeline."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline

from .. import weights
from ..architecture import SCHEDULER
from ..pipeline import world_pipeline
from .architecture import UNET, WEIGHTS


def emoji_world_pipeline(device: torch.device | str = "cpu", folder: Path = WEIGHTS) -> StableDiffusionPipeline:
    """EmojiWorld as a StableDiffusionPipeline: 128 x 128 pixels, DDIM, float32."""
    read = weights.load("encoders", folder)
    return world_pipeline(device, unet=UNET, scheduler=SCHEDULER, encoders=read, folder=folder)
