"""EmojiWorld in diffusers: ordinary pipelines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel, StableDiffusionPipeline
from diffusers.models.modeling_utils import no_init_weights

from .. import weights
from ..architecture import LATENT_SIZE, SCHEDULER
from ..pipeline import world_parts, world_pipeline
from .architecture import TRANSFORMER, UNET, WEIGHTS


def emoji_world_pipeline(device: torch.device | str = "cpu", folder: Path = WEIGHTS) -> StableDiffusionPipeline:
    """EmojiWorld as a StableDiffusionPipeline: 128 x 128 pixels, DDIM, float32."""
    read = weights.load("encoders", folder)
    return world_pipeline(device, unet=UNET, scheduler=SCHEDULER, encoders=read, folder=folder)


def emoji_world_transformer_pipeline(device: torch.device | str = "cpu", folder: Path = WEIGHTS) -> FluxPipeline:
    """EmojiWorld's transformer as a FluxPipeline: 128 x 128 pixels, float32; CLIP reads its prompts in both ways."""
    with no_init_weights():
        transformer = FluxTransformer2DModel(**TRANSFORMER)
    transformer.load_state_dict(weights.load("transformer", folder))
    parts: dict[str, Any] = world_parts(weights.load("encoders", folder), folder)
    both = {"text_encoder_2": parts["text_encoder"], "tokenizer_2": parts["tokenizer"]}
    pipe = FluxPipeline(**parts, **both, transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler())
    pipe.default_sample_size = LATENT_SIZE
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device)
