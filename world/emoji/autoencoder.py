"""The autoencoder: TAESD's architecture, trained from nothing on EmojiWorld's pictures."""

from __future__ import annotations

import random
from pathlib import Path

import torch
from diffusers import AutoencoderTiny
from diffusers.models.autoencoders.vae import AutoencoderTinyBlock
from torch import Tensor, nn

from .. import weights
from ..pictures import to_tensor
from .captions import draw_caption
from .pictures import SEEN, Pictures, varied

CROP = 64  # pixels: four crops teach more than one whole picture and take the same time
LATENT_NOISE = 0.05  # what the decoder has to forgive a sampler, in units of the latents' deviation
LATENT_PULL = 0.1  # of the latents' statistics towards mean 0 and deviation 1
EDGE_WEIGHT = 1.0


def build() -> AutoencoderTiny:
    """Untrained; latents (batch, 4, height / 8, width / 8) of about unit variance, pictures in -1..1."""
    autoencoder = AutoencoderTiny(scaling_factor=1.0)
    for layer in autoencoder.modules():
        if isinstance(layer, nn.Conv2d):  # what ReLUs need; torch's own choice shrinks the signal with every layer
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    for block in autoencoder.modules():
        if isinstance(block, AutoencoderTinyBlock):
            nn.init.zeros_(block.conv.get_parameter("4.weight"))  # of the last layer: begins as the identity
    return autoencoder


def load(folder: Path) -> AutoencoderTiny:
    """The weights in a folder."""
    autoencoder = AutoencoderTiny(scaling_factor=1.0)
    autoencoder.load_state_dict(weights.load("autoencoder", folder))
    return autoencoder.eval()


def batch(pictures: Pictures, size: int, step: int) -> Tensor:
    """Crops of training pictures (size, 3, CROP, CROP) in -1..1; the same for the same step."""
    generator = random.Random(f"autoencoder {step}")
    crops = []
    for _ in range(size):
        picture = varied(pictures.clean(draw_caption(pictures.truth, generator)), generator, SEEN)
        left, top = (generator.randint(0, side - CROP) for side in picture.size)
        crops.append(to_tensor(picture.crop((left, top, left + CROP, top + CROP))))
    return torch.stack(crops)


def loss(autoencoder: AutoencoderTiny, pictures: Tensor, latent_noise: float = LATENT_NOISE) -> Tensor:
    """How far decoded pictures are from their originals, in value and at edges.

    pictures: (batch, 3, height, width) in -1..1. Edges count by themselves: without that term a small autoencoder
    makes everything soft.
    """
    dtype = next(autoencoder.parameters()).dtype
    latents = autoencoder.encoder(pictures.to(dtype, memory_format=torch.channels_last))
    decoded = autoencoder.decoder(latents + latent_noise * torch.randn_like(latents)).float()
    deviation, mean = torch.std_mean(latents.float(), dim=(0, 2, 3))
    pull = (mean.square() + (deviation - 1).square()).mean()
    edges = sum((decoded.diff(dim=axis) - pictures.diff(dim=axis)).abs().mean() for axis in (2, 3))
    difference = decoded - pictures
    return difference.abs().mean() + difference.square().mean() + EDGE_WEIGHT * edges + LATENT_PULL * pull
