"""FaceWorld's autoencoder: EmojiWorld's, trained on with faces."""

from __future__ import annotations

import torch
from diffusers import AutoencoderTiny
from torch import Tensor

from ..emoji import autoencoder
from ..emoji.architecture import WEIGHTS
from ..emoji.autoencoder import CROP

LATENT_NOISE = 0.1  # a sampler of faces is less exact than EmojiWorld's decoder was prepared for


def build() -> AutoencoderTiny:
    """With EmojiWorld's weights."""
    return autoencoder.load(WEIGHTS)


def batch(pictures: Tensor, size: int, step: int) -> Tensor:
    """Crops of faces (n, 3, height, width) uint8: (size, 3, CROP, CROP) in -1..1; the same for the same step."""
    generator = torch.Generator().manual_seed(step)
    rows = torch.randint(len(pictures), (size,), generator=generator).tolist()
    corners = torch.randint(pictures.shape[-1] - CROP + 1, (size, 2), generator=generator).tolist()
    crops = [
        pictures[row, :, top : top + CROP, left : left + CROP] for row, (top, left) in zip(rows, corners, strict=True)
    ]
    return torch.stack(crops).float() / 127.5 - 1


def loss(model: AutoencoderTiny, crops: Tensor) -> Tensor:
    return autoencoder.loss(model, crops, LATENT_NOISE)
