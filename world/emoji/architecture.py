"""The shape of EmojiWorld's UNet, as diffusers describes it, and where its weights are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..architecture import LATENT_SIZE, WIDTH

GUIDANCE = 2.5  # with which it draws best: more sharpens mixtures, the shares of exemplars to the power of it
UNET: dict[str, Any] = {
    "sample_size": LATENT_SIZE,
    "block_out_channels": (64, 128, 192),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": WIDTH,
    "attention_head_dim": 4,  # diffusers' name for the number of heads
}
WEIGHTS = Path(__file__).parent / "weights"
