"""The transformer: Flux.1's architecture in small, and its objective."""

from __future__ import annotations

import random
from typing import Any

import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from torch import Tensor, nn

from .architecture import PATCH, TRANSFORMER
from .lessons import Lessons

POOLED_DROPOUT = 0.3  # so that a prompt's states say all of it too
SHORT = 24  # slots of a prompt in seven steps of eight: captions are shorter, and paddings cost as much as words


def build() -> FluxTransformer2DModel:
    """Untrained: each block begins as if it were not there (Peebles and Xie, arXiv 2212.09748)."""
    transformer = FluxTransformer2DModel(**TRANSFORMER)
    for name, module in transformer.named_modules():
        if isinstance(module, nn.Linear) and (".norm" in name or name.startswith(("norm_out", "proj_out"))):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    return transformer


def loss(transformer: FluxTransformer2DModel, lessons: Lessons, batch: int, step: int) -> Tensor:
    """The squared error of the velocity noise - picture of rectified flow (Liu et al., arXiv 2209.03003).

    x = (1 - sigma) picture + sigma noise, with sigma from a logit-normal distribution (Esser et al., arXiv 2403.03206),
    spread evenly over its quantiles. The picture is the mean of what noise hides (`Lessons.wanted`).
    """
    weight = next(transformer.parameters())
    captions, latents = lessons.draw(batch, generator := random.Random(f"transformer {step}"))
    quantiles = (torch.arange(batch) + torch.rand(batch)) / batch
    sigmas = torch.special.ndtri(quantiles.clamp(1e-4, 1 - 1e-4)).sigmoid()[:, None, None, None]
    noisy = (1 - sigmas) * latents + sigmas * torch.randn(latents.shape)
    length = ((1 - sigmas) ** 2 + sigmas**2).sqrt()
    wanted = lessons.wanted(captions, latents, noisy / length, ((1 - sigmas) / length).square().flatten())
    contexts = lessons.contexts(captions)[:, : SHORT if step % 8 else None]
    pooled = lessons.pooled(captions) * torch.tensor([[generator.random() >= POOLED_DROPOUT] for _ in captions])
    prediction = velocity(
        transformer, noisy.to(weight), sigmas.flatten().to(weight), contexts.to(weight), pooled.to(weight)
    )
    return (prediction.cpu().float() - (noisy - wanted) / sigmas).square().mean()


def velocity(
    transformer: FluxTransformer2DModel, noisy: Tensor, sigmas: Tensor, contexts: Tensor, pooled: Tensor
) -> Tensor:
    """What the transformer says of latents (n, 4, h, w), in their shape; sigmas (n,), pooled (n, width)."""
    flux: Any = FluxPipeline  # whose packing of latents into patches needs no pipeline
    n, channels, height, width = noisy.shape
    said = transformer(
        hidden_states=flux._pack_latents(noisy, n, channels, height, width),
        encoder_hidden_states=contexts,
        pooled_projections=pooled,
        timestep=sigmas,
        img_ids=flux._prepare_latent_image_ids(n, height // PATCH, width // PATCH, noisy.device, torch.float32),
        txt_ids=torch.zeros(contexts.shape[1], 3, device=noisy.device),
    ).sample
    return flux._unpack_latents(said, height, width, 1)
