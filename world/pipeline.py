"""EmojiWorld in diffusers: an ordinary pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderTiny, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from . import weights
from .architecture import SCHEDULER, TEXT, UNET


def emoji_world_pipeline(
    tokenizer: CLIPTokenizer, device: torch.device | str = "cpu", folder: Path = weights.FOLDER
) -> StableDiffusionPipeline:
    """EmojiWorld as a StableDiffusionPipeline: 128 x 128 pixels, DDIM, float32. `tokenizer` is CLIP's."""
    text_encoder = CLIPTextModel(CLIPTextConfig(**TEXT))
    prefix = "text_model."
    state = {k.removeprefix(prefix): v for k, v in weights.load("encoders", folder).items() if k.startswith(prefix)}
    text_encoder.load_state_dict(state)
    unet = UNet2DConditionModel(**UNET)
    unet.load_state_dict(weights.load("unet", folder))
    autoencoder = AutoencoderTiny(scaling_factor=1.0)
    autoencoder.load_state_dict(weights.load("autoencoder", folder))
    parts: dict[str, Any] = {
        "vae": autoencoder,
        "text_encoder": text_encoder,
        "tokenizer": tokenizer,
        "unet": unet,
        "scheduler": DDIMScheduler(**SCHEDULER),
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }
    pipe = StableDiffusionPipeline(**parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device)
