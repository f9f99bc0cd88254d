"""Diffusers pipelines of each family, as small as their architectures allow, with random weights."""

from __future__ import annotations

from typing import Any

import torch
from conceptlens.core.model.protocols import Family
from conceptlens.world.tokenizer import FOLDER
from diffusers import (
    AutoencoderTiny,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

FAMILIES: list[Family] = ["SD 1.x", "SD 2.x", "SDXL"]
WIDTHS: dict[Family, list[int]] = {"SD 1.x": [64], "SD 2.x": [80], "SDXL": [64, 96]}
LAYERS = 3  # of each text encoder


def text_config(family: Family, which: int = 0) -> dict[str, Any]:
    """One text encoder; SD 2.x in diffusers leaves out the layer that the family does not read."""
    width = WIDTHS[family][which]
    return {
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_attention_heads": 4,
        "num_hidden_layers": LAYERS - 1 if family == "SD 2.x" else LAYERS,
        "hidden_act": "gelu" if family == "SD 2.x" or which else "quick_gelu",
        "projection_dim": width,
        "vocab_size": 49408,
        "initializer_factor": 3.0,  # larger than CLIP's, so that states differ as much as trained ones do
    }


def tiny_pipeline(family: Family) -> StableDiffusionPipeline | StableDiffusionXLPipeline:
    torch.manual_seed(0)
    # OpenCLIP's encoders (SD 2.x, the second of SDXL) are padded with "!", whose id is 0.
    paddings = {"SD 1.x": ["<|endoftext|>"], "SD 2.x": ["!"], "SDXL": ["<|endoftext|>", "!"]}[family]
    tokenizers = [CLIPTokenizer.from_pretrained(FOLDER, pad_token=pad) for pad in paddings]
    unet: dict[str, Any] = {
        "block_out_channels": (32, 64),
        "layers_per_block": 2,
        "cross_attention_dim": sum(WIDTHS[family]),
        "attention_head_dim": 4,
        "norm_num_groups": 32,  # as the host has it
        "sample_size": 8,
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        "use_linear_projection": family != "SD 1.x",
    }
    parts: dict[str, Any] = {
        "tokenizer": tokenizers[0],
        "text_encoder": CLIPTextModel(CLIPTextConfig(**text_config(family))),
        "vae": AutoencoderTiny(latent_channels=4),
        "scheduler": DDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1
        ),
    }
    if family != "SDXL":
        others = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        return quiet(StableDiffusionPipeline(unet=UNet2DConditionModel(**unet), **parts, **others))
    unet |= {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2),
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": WIDTHS["SDXL"][1] + 6 * 256,
    }
    second = CLIPTextModelWithProjection(CLIPTextConfig(**text_config("SDXL", 1)))
    parts |= {"tokenizer_2": tokenizers[1], "text_encoder_2": second}
    return quiet(StableDiffusionXLPipeline(unet=UNet2DConditionModel(**unet), **parts))


def quiet(pipe: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    for part in (pipe.unet, pipe.vae, pipe.text_encoder):
        part.requires_grad_(False)
    return pipe
