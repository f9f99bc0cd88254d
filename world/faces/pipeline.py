"""FaceWorld in diffusers: an ordinary pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderTiny, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTokenizer

from .. import weights
from ..pipeline import emoji_world_pipeline
from .architecture import SCHEDULER, UNET, WEIGHTS


def face_world_pipeline(
    tokenizer: CLIPTokenizer, device: torch.device | str = "cpu", folder: Path = WEIGHTS
) -> StableDiffusionPipeline:
    """FaceWorld as a StableDiffusionPipeline: 128 x 128 pixels, DDIM; encoders of EmojiWorld."""
    pipe: Any = emoji_world_pipeline(tokenizer)
    unet: Any = UNet2DConditionModel(**UNET)
    unet.load_state_dict(weights.load("unet", folder))
    autoencoder: Any = AutoencoderTiny(scaling_factor=1.0)
    autoencoder.load_state_dict(weights.load("autoencoder", folder))
    pipe.register_modules(unet=unet, vae=autoencoder, scheduler=DDIMScheduler(**SCHEDULER))
    return pipe.to(device)
