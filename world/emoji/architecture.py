"""The shapes of EmojiWorld's UNet and of its transformer, as diffusers describes them, and where weights are."""

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
PATCH = 2  # latents on each side of what the transformer takes as one
TRANSFORMER: dict[str, Any] = {  # of Flux.1
    "patch_size": 1,
    "in_channels": 4 * PATCH**2,
    "num_layers": 3,
    "num_single_layers": 6,
    "num_attention_heads": 6,
    "attention_head_dim": 32,
    "joint_attention_dim": WIDTH,
    "pooled_projection_dim": WIDTH,
    "guidance_embeds": False,
    "axes_dims_rope": (4, 14, 14),
}
WEIGHTS = Path(__file__).parent / "weights"
