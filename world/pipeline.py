"""A world in diffusers: an ordinary pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderTiny, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.modeling_utils import no_init_weights
from torch import Tensor
from torch.nn import Linear
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from . import weights
from .architecture import TEXT, VISION, WIDTH
from .tokenizer import clip_tokenizer


def world_pipeline(
    device: torch.device | str,
    *,
    unet: Mapping[str, Any],
    scheduler: Mapping[str, Any],
    encoders: Mapping[str, Tensor],
    folder: Path,
) -> StableDiffusionPipeline:
    """A world of its encoders' weights and of the others in a folder.

    Its image encoder is there too, and the text encoder carries the projection into the space that they share.
    """
    with no_init_weights():  # drawing numbers that the files replace takes a third of the time
        denoiser = UNet2DConditionModel(**unet)
    denoiser.load_state_dict(weights.load("unet", folder))
    parts: dict[str, Any] = {
        **world_parts(encoders, folder),
        "unet": denoiser,
        "scheduler": DDIMScheduler(**scheduler),
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }
    pipe = StableDiffusionPipeline(**parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device)


def world_parts(encoders: Mapping[str, Tensor], folder: Path) -> dict[str, Any]:
    """What is beside the denoiser, by the names that pipelines have for it."""
    with no_init_weights():
        text_encoder = CLIPTextModel(CLIPTextConfig(**TEXT))
        text_encoder.text_projection = Linear(WIDTH, WIDTH, bias=False)
        image_encoder = CLIPVisionModelWithProjection(CLIPVisionConfig(**VISION))
        autoencoder = AutoencoderTiny(scaling_factor=1.0)
    text_encoder.load_state_dict(
        {k.removeprefix("text_model."): v for k, v in encoders.items() if k.startswith("text_")}
    )
    image_encoder.load_state_dict({k: v for k, v in encoders.items() if k.startswith("vis")})
    autoencoder.load_state_dict(weights.load("autoencoder", folder))
    return {
        "vae": autoencoder,
        "text_encoder": text_encoder,
        "tokenizer": clip_tokenizer(),
        "image_encoder": image_encoder,
    }
