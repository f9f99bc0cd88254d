"""A context edit as an ordinary LoRA: factors, names, file.

A context edit makes W (I + E) of a projection W; with E = L S R that is a LoRA with `down` = S^1/2 R, the same for all
layers, and `up` = W L S^1/2. The names are those of kohya's tools, which ComfyUI, A1111/Forge and diffusers read too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from . import storage
from .backend import Denoiser, Family, TextEncoder
from .context_edit import ContextEdit
from .errors import UserError

ARCHITECTURES: dict[Family, str] = {  # as the Stability AI model specification writes them
    "SD 1.x": "stable-diffusion-v1/lora",
    "SD 2.x": "stable-diffusion-v2-512/lora",
    "SDXL": "stable-diffusion-xl-v1-base/lora",
}


class LoraFactors(NamedTuple):
    """A low-rank change of one weight: W -> W + up @ down, with up (out, rank) and down (rank, in)."""

    up: Tensor
    down: Tensor


def lora_factors(edit: ContextEdit, weight: Tensor) -> LoraFactors:
    """The factors that turn `weight` (out, width) into weight (I + E), in the precision of `weight`."""
    root = edit.singular_values.sqrt()
    return LoraFactors(weight @ (edit.left * root).to(weight), (root[:, None] * edit.right).to(weight))


def factor_dtype(weight_dtype: torch.dtype) -> torch.dtype:
    """The precision in which factors are kept: float32 for a float32 model, else float16.

    A half-precision (or smaller) model rounds the edited weight to its own precision anyway.
    """
    return torch.float32 if weight_dtype in (torch.float32, torch.float64) else torch.float16


def check_match(encoder: TextEncoder, denoiser: Denoiser) -> None:
    """UserError when the text encoder belongs to another family of models than the denoiser."""
    if encoder.width != denoiser.context_width:
        raise UserError(
            f"The model ({denoiser.family}) reads text contexts of width {denoiser.context_width}, the text encoder gives "
            f"width {encoder.width}; take both from the same checkpoint."
        )


def edit_denoiser(
    edit: ContextEdit, denoiser: Denoiser, *, keys: bool = True, progress: Callable[[], None] = lambda: None
) -> dict[str, LoraFactors]:
    """The edit as factors for each projection of text to keys and values (or to values only) of `denoiser`.

    All layers share one `down` tensor. `progress` is called after each. Raises UserError for weights that are not finite
    and for factors that float16 can't hold.
    """
    factors: dict[str, LoraFactors] = {}
    dtype = factor_dtype(denoiser.dtype)
    down: Tensor | None = None
    for name, weight in denoiser.cross_attention_weights(keys):
        if not torch.isfinite(weight).all():
            raise UserError(f"The model's weight {name} holds values that are not finite numbers; load an intact one.")
        up, down_exact = lora_factors(edit, weight)
        down = down_exact.to(dtype) if down is None else down
        factors[name] = LoraFactors(up.to(dtype), down)
        if not all(torch.isfinite(factor).all() for factor in factors[name]):
            raise UserError(f"The edit of {name} is too strong for half precision; raise the regularization.")
        progress()
    return factors


def lora_names(names: Iterable[str], family: Family) -> dict[str, str]:
    """Module paths in diffusers' naming -> layer names of a LoRA file.

    For SD 1.x and 2.x kohya's tools join the diffusers path with underscores; for SDXL they use the original names, in
    which level i's layer j is input block (layers + 1) i + j + 1 and output block (layers + 1) i + j.
    """
    names = list(names)
    if family != "SDXL":
        return {name: "lora_unet_" + name.replace(".", "_") for name in names}
    # An upward level has one layer more than a downward one.
    layers = max(int(match[1]) for name in names if (match := re.match(r"up_blocks\.\d+\.attentions\.(\d+)", name)))

    def original(match: re.Match[str]) -> str:
        number = (layers + 1) * int(match[2]) + int(match[3])
        return f"input_blocks.{number + 1}.1" if match[1] == "down" else f"output_blocks.{number}.1"

    result = {}
    for name in names:
        path = re.sub(r"^(down|up)_blocks\.(\d+)\.attentions\.(\d+)", original, name)
        path = path.replace("mid_block.attentions.0", "middle_block.1")
        result[name] = "lora_unet_" + path.replace(".", "_")
    return result


def lora_state_dict(factors: Mapping[str, LoraFactors], family: Family) -> dict[str, Tensor]:
    """The factors as tensors of a LoRA file; each is a tensor of its own, as safetensors asks."""
    state: dict[str, Tensor] = {}
    for name, layer in lora_names(factors, family).items() if factors else ():
        up, down = factors[name]
        state[f"{layer}.lora_up.weight"] = up.contiguous()
        state[f"{layer}.lora_down.weight"] = down.clone(memory_format=torch.contiguous_format)
        state[f"{layer}.alpha"] = torch.tensor(float(down.shape[0]))  # alpha / rank = 1: the factors as they are
    return state


def save_lora(path: Path, state: Mapping[str, Tensor], metadata: Mapping[str, str] = {}) -> None:
    """Writes a LoRA file with the metadata by which other tools recognise it; the old file survives a failure."""
    downs = [tensor for name, tensor in state.items() if name.endswith(".lora_down.weight")]
    if not downs:
        raise UserError("This edit changes nothing, so there is no LoRA to save; give it a strength other than 0.")
    rank, width = downs[0].shape
    family: Family = "SDXL" if any("_input_blocks_" in n for n in state) else "SD 2.x" if width == 1024 else "SD 1.x"
    header = {"kind": "TIME LoRA", "version": 1, "rank": rank, "width": width}
    recognised = {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": ARCHITECTURES[family],
        "modelspec.title": path.stem,
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(rank),
        "ss_network_alpha": str(rank),
    }
    storage.write(path, state, header, {**recognised, **metadata})
