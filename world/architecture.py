"""The shapes of EmojiWorld's parts, in the words of the configuration files that diffusers and the host read."""

from __future__ import annotations

from typing import Any

LATENT_SIZE = 16  # a picture's side in latents; 8 pixels each
GUIDANCE = 2.5  # with which it draws best: more sharpens mixtures, the shares of exemplars to the power of it
# The host divides SD 1.x latents by it; ours have unit variance, so the autoencoder multiplies.
SCALING_FACTOR = 0.18215

WIDTH = 384  # of the text encoder, and of the space that texts and pictures share: all-MiniLM-L6-v2's
TEXT: dict[str, Any] = {
    "hidden_size": WIDTH,
    "intermediate_size": 2 * WIDTH,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "projection_dim": WIDTH,
    "hidden_act": "quick_gelu",
    "max_position_embeddings": 77,
    "vocab_size": 49408,
    "bos_token_id": 49406,
    "eos_token_id": 49407,
    "pad_token_id": 49407,
}
VISION: dict[str, Any] = {
    "model_type": "clip_vision_model",
    "hidden_size": 192,
    "intermediate_size": 384,
    "num_hidden_layers": 5,
    "num_attention_heads": 6,
    "projection_dim": WIDTH,
    "hidden_act": "quick_gelu",
    "num_channels": 3,
    "image_size": 128,
    "patch_size": 16,
    "layer_norm_eps": 1e-5,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
UNET: dict[str, Any] = {
    "sample_size": LATENT_SIZE,
    "block_out_channels": (64, 128, 192),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": WIDTH,
    "attention_head_dim": 4,  # diffusers' name for the number of heads
}
SCHEDULER: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "prediction_type": "epsilon",
}
