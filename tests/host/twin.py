"""The host's MODEL and CLIP with the weights of a tiny diffusers pipeline."""

from __future__ import annotations

from typing import Any

import comfy.sd
import comfy.supported_models
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher
from conceptlens.core.model.protocols import Family
from conceptlens.tests.tiny import LAYERS, text_config
from torch import Tensor

CONFIGS: dict[Family, Any] = {
    "SD 1.x": comfy.supported_models.SD15,
    "SD 2.x": comfy.supported_models.SD20,
    "SDXL": comfy.supported_models.SDXL,
}
UNET = {"image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32, "use_checkpoint": False}
UNET |= {"use_spatial_transformer": True, "legacy": False, "adm_in_channels": None, "num_res_blocks": [2, 2]}
UNET |= {"channel_mult": [1, 2], "transformer_depth": [1] * 4, "transformer_depth_output": [1] * 6, "num_heads": 4}
UNET |= {"transformer_depth_middle": 1, "dtype": torch.float32}


def twin_model(pipe: Any, family: Family) -> ModelPatcher:
    unet = {
        **UNET,
        "context_dim": pipe.unet.config.cross_attention_dim,
        "use_linear_in_transformer": family != "SD 1.x",
    }
    if family == "SDXL":
        unet |= {"transformer_depth": [0, 0, 2, 2], "transformer_depth_output": [0, 0, 0, 2, 2, 2]}
        unet |= {"transformer_depth_middle": 2, "num_classes": "sequential", "adm_in_channels": 96 + 6 * 256}
    config = CONFIGS[family](unet)
    config.unet_config |= {"num_heads": 4, "num_head_channels": -1}  # SD 2.x would set heads wider than this model
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, "")
    names = comfy.utils.unet_to_diffusers(unet)
    for own, place in (("linear_1", 0), ("linear_2", 2)):  # SDXL's size embedding, which the host's table leaves out
        names |= {f"add_embedding.{own}.{part}": f"label_emb.0.{place}.{part}" for part in ("weight", "bias")}
    weights = {names[key]: tensor.clone() for key, tensor in pipe.unet.state_dict().items()}
    model.diffusion_model.load_state_dict(weights)
    return ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))


def twin_clip(pipe: Any, family: Family) -> comfy.sd.CLIP:
    encoders = [pipe.text_encoder, *([pipe.text_encoder_2] if family == "SDXL" else [])]
    prefixes = {"SD 1.x": ["clip_l"], "SD 2.x": ["clip_h"], "SDXL": ["clip_l", "clip_g"]}[family]
    options: dict[str, Any] = {"dtype": torch.float32}
    if family == "SD 2.x":
        options["model_name"] = "clip_h"
    weights: dict[str, Tensor] = {}
    for which, (prefix, encoder) in enumerate(zip(prefixes, encoders, strict=True)):
        options[f"{prefix}_model_config"] = {**text_config(family, which), "num_hidden_layers": LAYERS}
        for key, tensor in encoder.state_dict().items():
            path = key if key.startswith(("text_model.", "text_projection.")) else f"text_model.{key}"
            weights[f"{prefix}.transformer.{path}"] = tensor.clone()
    clip = comfy.sd.CLIP(CONFIGS[family](dict(UNET)).clip_target(), model_options=options)
    missing, unexpected = clip.cond_stage_model.load_state_dict(weights, strict=False)
    assert not unexpected
    unread = (f"layers.{LAYERS - 1}." if family == "SD 2.x" else "logit_scale", "logit_scale", "text_projection")
    assert all(any(part in key for part in unread) for key in missing)
    for key in missing:
        if "layers." in key:  # the host runs it for the pooled output, which SD 2.x does not read
            torch.nn.init.normal_(clip.cond_stage_model.get_parameter(key), std=0.02)
    return clip
