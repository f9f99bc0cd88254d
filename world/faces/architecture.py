"""The shape of FaceWorld's UNet and its noise, as diffusers describes them, and where its weights are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .. import architecture

UNET: dict[str, Any] = {
    "sample_size": architecture.LATENT_SIZE,
    "block_out_channels": (64, 192),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D"),
    "cross_attention_dim": architecture.WIDTH,
    "attention_head_dim": 4,  # diffusers' name for the number of heads
}
SCHEDULER: dict[str, Any] = {**architecture.SCHEDULER, "prediction_type": "sample"}
WEIGHTS = Path(__file__).parent / "weights"
