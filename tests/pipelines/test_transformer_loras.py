"""The LoRA files of edited transformers, in diffusers' own models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conceptlens.core.time_edit.lora import LoraFactors, lora_state_dict, save_lora
from safetensors.torch import load_file

# A tiny model of a family by diffusers' class, and the layers that an edit changes, by ComfyUI's names and diffusers'.
MODELS: dict[str, tuple[str, dict[str, Any], dict[str, str]]] = {
    "Flux.1": (
        "FluxTransformer2DModel",
        {
            "in_channels": 4,
            "num_layers": 1,
            "num_single_layers": 1,
            "attention_head_dim": 16,
            "axes_dims_rope": (4, 4, 8),
        }
        | {"num_attention_heads": 2, "joint_attention_dim": 24, "pooled_projection_dim": 20},
        {"txt_in": "context_embedder", "vector_in.in_layer": "time_text_embed.text_embedder.linear_1"},
    ),
    "SD 3": (
        "SD3Transformer2DModel",
        {"sample_size": 8, "patch_size": 1, "in_channels": 4, "num_layers": 1, "attention_head_dim": 8}
        | {"num_attention_heads": 4, "caption_projection_dim": 32, "joint_attention_dim": 24}
        | {"pooled_projection_dim": 20, "out_channels": 4, "pos_embed_max_size": 8},
        {"context_embedder": "context_embedder", "y_embedder.mlp.0": "time_text_embed.text_embedder.linear_1"},
    ),
    "Qwen-Image": (
        "QwenImageTransformer2DModel",
        {"patch_size": 2, "in_channels": 16, "out_channels": 4, "num_layers": 1, "attention_head_dim": 16}
        | {"num_attention_heads": 2, "joint_attention_dim": 24, "axes_dims_rope": (8, 4, 4)},
        {"txt_in": "txt_in"},
    ),
}


@pytest.mark.parametrize("family", MODELS)
def test_the_file_of_a_transformer_changes_the_same_layers_in_diffusers(family: str, tmp_path: Path) -> None:
    import diffusers

    kind, sizes, layers = MODELS[family]
    torch.manual_seed(0)
    model: Any = getattr(diffusers, kind)(**sizes)
    weights = {name: model.get_submodule(name).weight.detach().clone() for name in layers.values()}
    factors = {
        layer: LoraFactors(0.1 * torch.randn(len(weights[name]), rank), 0.1 * torch.randn(rank, weights[name].shape[1]))
        for rank, (layer, name) in enumerate(layers.items(), start=2)
    }
    save_lora(tmp_path / "edit.safetensors", lora_state_dict(factors, family))
    file = load_file(tmp_path / "edit.safetensors")
    assert len({len(tensor) for name, tensor in file.items() if ".lora_A." in name}) == 1
    model.load_lora_adapter(file, prefix="transformer", adapter_name="edit")
    model.fuse_lora()
    for layer, name in layers.items():
        change = factors[layer].up @ factors[layer].down
        found = model.get_submodule(name).base_layer.weight - weights[name]
        assert (found - change).norm() <= 2**-9 * change.norm()
