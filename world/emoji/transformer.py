"""The transformer: Flux.1's architecture in small, and its objective."""

from __future__ import annotations

import random
from typing import Any

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor, nn

from .architecture import PATCH, TRANSFORMER
from .lessons import Lessons

POOLED_DROPOUT = 0.3  # so that a prompt's states say all of it too


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
    contexts = lessons.contexts(captions)
    pooled = lessons.pooled(captions) * torch.tensor([[generator.random() >= POOLED_DROPOUT] for _ in captions])
    prediction = velocity(
        transformer, noisy.to(weight), sigmas.flatten().to(weight), contexts.to(weight), pooled.to(weight)
    )
    return (prediction.cpu().float() - (noisy - wanted) / sigmas).square().mean()


def velocity(
    transformer: FluxTransformer2DModel, noisy: Tensor, sigmas: Tensor, contexts: Tensor, pooled: Tensor
) -> Tensor:
    """What the transformer says of latents (n, 4, h, w), in their shape; sigmas (n,), pooled (n, width)."""
    n, channels, height, width = noisy.shape
    rows, columns = height // PATCH, width // PATCH
    patches = noisy.view(n, channels, rows, PATCH, columns, PATCH).permute(0, 2, 4, 1, 3, 5)
    places = torch.zeros(rows, columns, 3, device=noisy.device)
    places[..., 1] = torch.arange(rows, device=noisy.device)[:, None]
    places[..., 2] = torch.arange(columns, device=noisy.device)
    given: dict[str, Any] = {
        "hidden_states": patches.reshape(n, rows * columns, -1),
        "encoder_hidden_states": contexts,
        "pooled_projections": pooled,
        "timestep": sigmas,
        "img_ids": places.view(-1, 3),
        "txt_ids": torch.zeros(contexts.shape[1], 3, device=noisy.device),
    }
    said = transformer(**given).sample.view(n, rows, columns, channels, PATCH, PATCH)
    return said.permute(0, 3, 1, 4, 2, 5).reshape(noisy.shape)
