"""The denoising loss of a diffusion model, as its training defined it."""

from __future__ import annotations

from typing import Literal, Protocol

import torch
from torch import Tensor

from .text_tower import Encoded

Prediction = Literal["epsilon", "v"]


class Diffusion(Protocol):
    """A UNet that can be differentiated with respect to its text."""

    prediction: Prediction
    alphas_cumprod: Tensor  # (timesteps,): the share of the signal's variance that each training timestep leaves

    def predict(self, noisy: Tensor, timesteps: Tensor, encoded: Encoded) -> Tensor:
        """The UNet's output, float32, for noisy latents (n, 4, h, w) at timesteps (n,) with n encoded prompts."""
        ...


def add_noise(alphas_cumprod: Tensor, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) eps (DDPM, equation 4)."""
    signal = alphas_cumprod.to(latents)[timesteps].view(-1, 1, 1, 1)
    return signal.sqrt() * latents + (1 - signal).sqrt() * noise


def denoising_loss(diffusion: Diffusion, latents: Tensor, noise: Tensor, timesteps: Tensor, encoded: Encoded) -> Tensor:
    """The mean squared error (n,) of each prediction: of the noise, or of v = sqrt(a_t) eps - sqrt(1 - a_t) x_0."""
    target = noise
    if diffusion.prediction == "v":
        target = add_noise(diffusion.alphas_cumprod, noise, -latents, timesteps)
    noisy = add_noise(diffusion.alphas_cumprod, latents, noise, timesteps)
    return (diffusion.predict(noisy, timesteps, encoded) - target).square().mean((1, 2, 3))


def draws(latents: Tensor, count: int, timesteps: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """`count` random draws from `latents` with noise and timesteps spread evenly; the generator is on the CPU."""
    rows = torch.randperm(max(count, len(latents)), generator=generator)[:count] % len(latents)
    noise = torch.randn((count, *latents.shape[1:]), generator=generator).to(latents)
    spread = (torch.arange(count) + torch.rand(count, generator=generator)) * (timesteps / count)
    return latents[rows.to(latents.device)], noise, spread.long().to(latents.device)
