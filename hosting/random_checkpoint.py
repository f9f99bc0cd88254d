"""Checkpoints of random weights in the published layouts, to exercise the host's own loaders without a real model.

`python -m conceptlens.hosting.random_checkpoint {sd1-small,sd1,sd2,sdxl} FILE` writes one (float16). Shapes and key
names are asked of ComfyUI. `sd1-small` is an SD 1.x model with two UNet levels and a TAESD autoencoder: pictures in
seconds on a CPU.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from .folder import comfyui_folder

SHARED = {"image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "use_checkpoint": False}
SHARED |= {"use_spatial_transformer": True, "legacy": False, "transformer_depth_middle": 1, "adm_in_channels": None}
FOUR_LEVELS = SHARED | {"num_res_blocks": [2, 2, 2, 2], "channel_mult": [1, 2, 4, 4]}
FOUR_LEVELS |= {"transformer_depth": [1] * 6 + [0] * 2, "transformer_depth_output": [1] * 9 + [0] * 3}
UNETS = {
    "sd1-small": SHARED
    | {"num_res_blocks": [1, 1], "channel_mult": [1, 1], "transformer_depth": [1, 1], "num_heads": 8}
    | {"transformer_depth_output": [1, 1, 1, 1], "context_dim": 768, "use_linear_in_transformer": False},
    "sd1": FOUR_LEVELS | {"context_dim": 768, "use_linear_in_transformer": False, "num_heads": 8},
    "sd2": FOUR_LEVELS | {"context_dim": 1024, "use_linear_in_transformer": True, "num_head_channels": 64},
    "sdxl": SHARED
    | {"num_res_blocks": [2, 2, 2], "channel_mult": [1, 2, 4], "transformer_depth": [0, 0, 2, 2, 10, 10]}
    | {"transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10], "transformer_depth_middle": 10}
    | {"context_dim": 2048, "use_linear_in_transformer": True, "num_head_channels": 64}
    | {"num_classes": "sequential", "adm_in_channels": 2816},
}
AUTOENCODER = {"double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128}
AUTOENCODER |= {"ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0}


def tensor_shapes(kind: str) -> dict[str, torch.Size]:
    """Key -> shape of a checkpoint of this kind, as the host would save it."""
    sys.path.insert(0, str(comfyui_folder()))
    sys.argv = ["main.py", "--cpu"]  # the host reads its options when it is imported
    import comfy.options

    comfy.options.enable_args_parsing()
    import comfy.ops
    import comfy.supported_models
    from comfy.ldm.models.autoencoder import AutoencoderKL
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
    from comfy.taesd.taesd import TAESD

    configs = {
        "sd1": comfy.supported_models.SD15,
        "sd2": comfy.supported_models.SD20,
        "sdxl": comfy.supported_models.SDXL,
    }
    config = configs[kind.removesuffix("-small")](dict(UNETS[kind]))
    with torch.device("meta"):
        unet = UNetModel(**UNETS[kind], device="meta", operations=comfy.ops.disable_weight_init)
        clip = config.clip_target().clip(device="meta", dtype=torch.float16)
        vae = TAESD() if kind.endswith("-small") else AutoencoderKL(ddconfig=AUTOENCODER, embed_dim=4)
    parts = (
        config.process_unet_state_dict_for_saving(unet.state_dict()),
        config.process_clip_state_dict_for_saving(clip.state_dict()),
        config.process_vae_state_dict_for_saving(vae.state_dict()),
    )
    return {key: tensor.shape for part in parts for key, tensor in part.items() if not key.endswith("position_ids")}


def random_tensors(shapes: dict[str, torch.Size], seed: int = 0) -> Iterator[tuple[str, Tensor]]:
    """float16 tensors that keep activations near unit size: norms are the identity, matrices scaled by their inputs."""
    # Drawn once, and in half: gigabytes would take minutes.
    pool = torch.randn(1_048_583, generator=torch.Generator().manual_seed(seed)).half()
    position = 0
    for key, shape in shapes.items():
        count = math.prod(shape)
        if len(shape) > 1:
            values = pool.repeat(-(-(position + count) // len(pool)))[position : position + count].reshape(shape)
            position = (position + count) % len(pool)
            # Token and position tables are looked up, not multiplied: CLIP's are of this size.
            values = values * (0.02 if "embedding" in key else math.prod(shape[1:]) ** -0.5)
        else:
            values = (torch.zeros if key.endswith("bias") else torch.ones)(shape, dtype=torch.float16)
        yield key, values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=UNETS)
    parser.add_argument("file", type=Path)
    arguments = parser.parse_args()
    arguments.file.parent.mkdir(parents=True, exist_ok=True)
    save_file(dict(random_tensors(tensor_shapes(arguments.kind))), arguments.file)


if __name__ == "__main__":
    main()
