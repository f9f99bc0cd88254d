"""The shapes of what the worlds share, in the words of the configuration files that diffusers and the host read."""

from __future__ import annotations

from typing import Any

LATENT_SIZE = 16  # a picture's side in latents; 8 pixels each
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
