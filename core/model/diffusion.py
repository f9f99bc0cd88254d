"""The denoising loss of a diffusion model, as its training defined it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from ..errors import UserError
from .text_tower import Encoded

# A model says the noise, v, the latents without noise, or the velocity of a rectified flow.
Prediction = Literal["epsilon", "v", "sample", "flow"]


class Diffusion(Protocol):
    """A UNet, or a transformer: differentiable with respect to its text where the slot that encodes it is.

    A rectified flow's latents (1 - sigma) x_0 + sigma eps are sqrt((1 - sigma)^2 + sigma^2) times those of
    a_t = (1 - sigma)^2 / ((1 - sigma)^2 + sigma^2), which is how they are given here (`flow_alphas_cumprod`).
    """

    prediction: Prediction
    alphas_cumprod: Tensor  # (timesteps,): the share of the signal's variance that each training timestep leaves

    def predict(self, noisy: Tensor, timesteps: Tensor, encoded: Encoded) -> Tensor:
        """The model's output, float32, for noisy latents (n, 4, h, w) at timesteps (n,) with n encoded prompts."""
        ...

    def make_room(self) -> bool:
        """Moves other models out of the device's memory; False when there was none."""
        ...

    def save_memory(self) -> bool:
        """Computes activations anew in a backward pass from now on; False when it does so already."""
        ...


def check_channels(channels: int) -> None:
    """Raises UserError for a model that reads more than noisy latents of Stable Diffusion's 4 channels."""
    if channels != 4:
        raise UserError(
            f"The model reads {channels} channels; ConceptLens explains concepts with models that read 4, not with "
            "inpainting models or larger latents: load a plain checkpoint of SD 1.x, SD 2.x or SDXL."
        )


def flow_alphas_cumprod(sigmas: Tensor) -> Tensor:
    """The signal's share (timesteps,) of the variance of a rectified flow's latents at noise levels (timesteps,)."""
    return ((1 - sigmas) / flow_scale(sigmas)) ** 2


def flow_scale(sigmas: Tensor) -> Tensor:
    """How many times the latents of a variance-preserving process those of a rectified flow are, (timesteps,)."""
    return ((1 - sigmas) ** 2 + sigmas**2).sqrt()


def add_noise(alphas_cumprod: Tensor, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) eps (DDPM, arXiv 2006.11239, equation 4).

    x_0 are `latents` and eps `noise`, both (n, channels, ..., h, w); a_t is `alphas_cumprod` (all timesteps,) at
    `timesteps` (n,).
    """
    signal = alphas_cumprod.to(latents)[timesteps].view(-1, *[1] * (latents.ndim - 1))
    return signal.sqrt() * latents + (1 - signal).sqrt() * noise


@dataclass(frozen=True, eq=False)
class Draws:
    """Clean latents with the noise and the timestep that they get."""

    latents: Tensor  # (n, 4, h, w)
    noise: Tensor  # (n, 4, h, w)
    timesteps: Tensor  # (n,), counted from 0
    pictures: Tensor  # (n,): which picture each latent is
    target: Tensor | None = None  # (n, 4, h, w): what the UNet shall say; None for what its training wants

    @classmethod
    def none_of(cls, latents: Tensor) -> Draws:
        """No draws yet, of such latents."""
        nothing = torch.empty(0, dtype=torch.long)
        return cls(latents[:0], latents[:0], nothing.to(latents.device), nothing)

    def __len__(self) -> int:
        return len(self.latents)

    def split(self, size: int) -> Iterator[Draws]:
        """The draws in portions of at most `size`."""
        return (Draws(*portion) for portion in zip(*(part.split(size) for part in self._parts()), strict=True))

    def at(self, rows: Tensor) -> Draws:
        """Some of the draws, as often as they are named."""
        return Draws(*(part[rows.to(part.device)] for part in self._parts()))

    def and_also(self, others: Draws) -> Draws:
        """These draws, and then others."""
        return Draws(*(torch.cat(parts) for parts in zip(self._parts(), others._parts(), strict=True)))

    def _parts(self) -> list[Tensor]:
        parts = [self.latents, self.noise, self.timesteps, self.pictures]
        return parts if self.target is None else [*parts, self.target]


def draw(latents: Tensor, count: int, timesteps: tuple[int, int], generator: torch.Generator) -> Draws:
    """`count` draws from `latents` with random noise: each picture as often as the others, in random order.

    latents: (pictures, 4, h, w) in the scale that the UNet is trained on; the noise is standard normal. Their timesteps
    are spread evenly over `timesteps`, from the first to before the last. The generator is on the CPU.
    """
    pictures = torch.randperm(max(count, len(latents)), generator=generator)[:count] % len(latents)
    noise = torch.randn((count, *latents.shape[1:]), generator=generator).to(latents)
    first, last = timesteps
    spread = torch.randperm(count, generator=generator) + torch.rand(count, generator=generator)
    times = (first + spread * ((last - first) / count)).long()
    return Draws(latents[pictures.to(latents.device)], noise, times.to(latents.device), pictures)


def denoising_loss(diffusion: Diffusion, drawn: Draws, encoded: Encoded) -> Tensor:
    """The mean squared error (n,) of each prediction: of eps, x_0, v = sqrt(a_t) eps - sqrt(1 - a_t) x_0, or eps - x_0.

    Of the draws' own target where they have one. Of eps it is DDPM's simplified loss (arXiv 2006.11239, equation 14); v
    is that of Progressive Distillation (arXiv 2202.00512, section 4), eps - x_0 the velocity of a rectified flow (arXiv
    2209.03003, equation 1). `encoded` has n prompts, one for each of the n draws.
    """
    target = drawn.target
    if target is None and diffusion.prediction == "v":
        target = add_noise(diffusion.alphas_cumprod, drawn.noise, -drawn.latents, drawn.timesteps)
    elif target is None and diffusion.prediction == "flow":
        target = drawn.noise - drawn.latents
    elif target is None:
        target = drawn.latents if diffusion.prediction == "sample" else drawn.noise
    noisy = add_noise(diffusion.alphas_cumprod, drawn.latents, drawn.noise, drawn.timesteps)
    return (diffusion.predict(noisy, drawn.timesteps, encoded) - target).square().flatten(1).mean(1)


def predicted_x_0(prediction: Prediction, x: Tensor, sigma: float, output: Tensor) -> Tensor:
    """The picture that a UNet's output says is in x = x_0 + sigma eps.

    v is that of x / sqrt(1 + sigma^2), as in training: Progressive Distillation (arXiv 2202.00512), section 4. x and
    `output` have one shape, (n, channels, height, width); `sigma` is noise over signal.
    """
    if prediction == "v":
        return (x - sigma * (1 + sigma**2) ** 0.5 * output) / (1 + sigma**2)
    return output if prediction == "sample" else x - sigma * output
