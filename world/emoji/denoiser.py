"""The UNet, and SD 1.x's objective."""

from __future__ import annotations

import random

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor

from ..architecture import SCHEDULER
from .architecture import UNET
from .lessons import Lessons

NOISE = DDIMScheduler(**SCHEDULER)
GAMMA = 5.0  # of Min-SNR weighting: noise that is hardly there is not worth learning to the last bit


def build() -> UNet2DConditionModel:
    """Untrained."""
    unet = UNet2DConditionModel(**UNET)
    unet.set_attn_processor(AttnProcessor())  # plain products: torch's fused attention is slow for heads this narrow
    return unet


def loss(unet: UNet2DConditionModel, lessons: Lessons, batch: int, step: int) -> Tensor:
    """The squared error of the predicted noise over timesteps spread evenly, weighted as the error of v would be.

    The error of v is that of epsilon divided by the signal's share: shapes are decided where there is hardly any
    signal, and there the plain error of epsilon is next to nothing whatever the shape (Salimans and Ho, Progressive
    Distillation, 2022). Where there is much signal, Min-SNR holds it down (Hang et al., 2023). Where noise hides which
    of a caption's pictures it was, the target is their mean (`Lessons.wanted`): each example of a keyword teaches all
    of its exemplars.
    """
    weight = next(unet.parameters())
    captions, latents = lessons.draw(batch, random.Random(f"unet {step}"))
    timesteps = (torch.arange(batch) + torch.rand(batch)) * (NOISE.config["num_train_timesteps"] / batch)
    timesteps = timesteps.long()
    noisy = NOISE.add_noise(latents, torch.randn(latents.shape), timesteps)
    signal = NOISE.alphas_cumprod[timesteps]
    wanted = lessons.wanted(captions, latents, noisy, signal)
    signal = signal[:, None, None, None]
    noise = (noisy - signal.sqrt() * wanted) / (1 - signal).sqrt()
    prediction = unet(
        noisy.to(weight, memory_format=torch.channels_last),
        timesteps.to(weight.device),
        lessons.contexts(captions).to(weight),
    ).sample
    ratio = signal / (1 - signal)
    weights = ratio.clamp(max=GAMMA) / ratio / signal
    return ((prediction.cpu().float() - noise).square() * weights).mean()
