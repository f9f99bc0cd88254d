"""A context edit as an ordinary LoRA: factors, names, file.

A context edit makes W (I + E) of a projection W; with E = L S R that is a LoRA with `down` = S^1/2 R, the same for all
layers, and `up` = W L S^1/2. The names are those that most programs read: for UNets kohya's, for transformers PEFT's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from .. import storage
from ..errors import UserError
from ..model.protocols import Family, Progress, PromptStates, TextLayers, unseen
from .context_edit import ContextEdit

# By what other programs tell families apart, as kohya's tools write it: A1111 and Forge hide a LoRA of another family
# than the loaded model's, by `ss_base_model_version` and `ss_v2`; others read Stability AI's model specification.
FAMILY_METADATA: dict[Family, dict[str, str]] = {
    "SD 1.x": {
        "ss_base_model_version": "sd_v1",
        "ss_v2": "False",
        "modelspec.architecture": "stable-diffusion-v1/lora",
        "modelspec.implementation": "diffusers",
    },
    "SD 2.x": {
        "ss_base_model_version": "sd_v2",
        "ss_v2": "True",
        "modelspec.architecture": "stable-diffusion-v2-512/lora",
        "modelspec.implementation": "diffusers",
    },
    "SDXL": {
        "ss_base_model_version": "sdxl_base_v1-0",
        "ss_v2": "False",
        "modelspec.architecture": "stable-diffusion-xl-v1-base/lora",
        "modelspec.implementation": "https://github.com/Stability-AI/generative-models",  # whose names the layers have
    },
}


class Form(NamedTuple):
    """How a file names the factors of a layer, and whether it holds an alpha for each."""

    up: str
    down: str
    alpha: bool


KOHYA = Form(".lora_up.weight", ".lora_down.weight", alpha=True)  # of UNets
PEFT = Form(".lora_B.weight", ".lora_A.weight", alpha=False)  # of transformers
# What diffusers calls the layers that take text, where ComfyUI reads these names too; both add "transformer.".
DIFFUSERS_NAMES = {
    "Flux.1": {"txt_in": "context_embedder", "vector_in.in_layer": "time_text_embed.text_embedder.linear_1"},
    "Flux.2": {"txt_in": "context_embedder"},
    "Chroma": {"txt_in": "context_embedder"},
    "SD 3": {"context_embedder": "context_embedder", "y_embedder.mlp.0": "time_text_embed.text_embedder.linear_1"},
    "AuraFlow": {"cond_seq_linear": "context_embedder"},
    "PixArt": {"y_embedder.y_proj.fc1": "caption_projection.linear_1"},
    "Qwen-Image": {"txt_in": "txt_in"},
    "Ernie-Image": {"text_proj": "text_proj"},
}


class LoraFactors(NamedTuple):
    """A low-rank change of one weight: W -> W + up @ down, with up (out, rank) and down (rank, in)."""

    up: Tensor
    down: Tensor


def balanced_factors(edit: ContextEdit, dtype: torch.dtype) -> LoraFactors:
    """E itself as up (width, rank) @ down (rank, width), both of the same size: the factors for the weight I."""
    root = edit.singular_values.sqrt()
    return LoraFactors((edit.left * root).to(dtype), (root[:, None] * edit.right).to(dtype))


def lora_factors(balanced: LoraFactors, weight: Tensor) -> LoraFactors:
    """The factors that turn `weight` (out, width) into weight (I + E), from those of E; `down` is the same tensor.

    Channels of the weight behind E's own are read as before: `down` has zeros for them.
    """
    width, more = len(balanced.up), weight.shape[1] - len(balanced.up)
    return LoraFactors(weight[:, :width] @ balanced.up, pad(balanced.down, (0, more)) if more else balanced.down)


def sufficient_rank(singular_values: Tensor, dtype: torch.dtype) -> int:
    """The smallest rank at which truncation loses no more of E than rounding its factors to `dtype` does.

    E's singular values (rank,) are descending. Rounding changes a number by up to eps / 2 of itself, truncation E by
    the Frobenius norm of what it drops.
    """
    dropped = singular_values.flip(0).square().cumsum(0).flip(0).sqrt()  # [k]: what is lost when k are kept
    return int((dropped > dropped[:1] * torch.finfo(dtype).eps / 2).sum())


def _narrowed(factor: Tensor, dtype: torch.dtype, name: str) -> Tensor:
    narrow = factor.to(dtype)
    if not torch.isfinite(narrow).all():
        raise UserError(f"The edit of {name} is too strong for half precision; raise the regularization.")
    return narrow


def check_match(encoder: PromptStates, denoiser: TextLayers) -> None:
    """UserError when the text encoder belongs to another family of models than the denoiser."""
    if encoder.width != denoiser.context_width:
        raise UserError(
            f"The model ({denoiser.family}) reads text contexts of width {denoiser.context_width}, the text encoder "
            f"gives width {encoder.width}; take both from the same checkpoint."
        )


def edit_denoiser(
    edit: ContextEdit, denoiser: TextLayers, *, keys: bool = True, progress: Progress = unseen
) -> dict[str, LoraFactors]:
    """The edit as factors for each projection of text to keys and values (or to values only) of `denoiser`.

    In float32 for a float32 model; in float16 for smaller ones, which round the edited weight to their own precision
    anyway; of the rank that this precision can tell from a higher one. All layers share one `down` tensor. Raises
    UserError for weights that are not finite and for factors that float16 can't hold.
    """
    dtype = torch.float32 if denoiser.dtype in (torch.float32, torch.float64) else torch.float16
    edit, _ = edit.truncated(sufficient_rank(edit.singular_values, dtype))
    balanced = balanced_factors(edit, torch.float32)
    names = denoiser.text_layers(keys)
    down = _narrowed(balanced.down, dtype, names[0])
    factors: dict[str, LoraFactors] = {}
    for done, name in enumerate(names, start=1):
        weight = denoiser.text_weight(name)
        if not torch.isfinite(weight).all():
            raise UserError(f"The model's weight {name} holds values that are not finite numbers; load an intact one.")
        up, own = lora_factors(LoraFactors(balanced.up, down), weight)
        factors[name] = LoraFactors(_narrowed(up, dtype, name), own)
        progress(done, len(names))
    return factors


def lora_names(names: Iterable[str], family: str) -> dict[str, str]:
    """Module paths -> layer names of a LoRA file.

    Transformers have diffusers' names where ComfyUI reads them too, else those of a checkpoint. For SD 1.x and 2.x
    kohya's tools join the diffusers path with underscores; for SDXL they use the original names, in which level i's
    layer j is input block (layers + 1) i + j + 1 and output block (layers + 1) i + j.
    """
    names = list(names)
    if family not in FAMILY_METADATA:
        known = DIFFUSERS_NAMES.get(family, {})
        return {name: f"transformer.{known[name]}" if name in known else f"diffusion_model.{name}" for name in names}
    if family != "SDXL":
        return {name: "lora_unet_" + name.replace(".", "_") for name in names}
    # An upward level has one layer more than a downward one.
    found = (re.match(r"up_blocks\.\d+\.attentions\.(\d+)", name) for name in names)
    layers = max((int(match[1]) for match in found if match), default=0)

    def original(match: re.Match[str]) -> str:
        number = (layers + 1) * int(match[2]) + int(match[3])
        return f"input_blocks.{number + 1}.1" if match[1] == "down" else f"output_blocks.{number}.1"

    result = {}
    for name in names:
        path = re.sub(r"^(down|up)_blocks\.(\d+)\.attentions\.(\d+)", original, name)
        path = path.replace("mid_block.attentions.0", "middle_block.1")
        path = path.replace("add_embedding.linear_1", "label_emb.0.0")
        result[name] = "lora_unet_" + path.replace(".", "_")
    return result


def lora_state_dict(factors: Mapping[str, LoraFactors], family: str) -> dict[str, Tensor]:
    """The factors of an edit as tensors of a LoRA file: float16, of the rank that it can tell from a higher one.

    Each tensor has memory of its own, as safetensors asks. Raises UserError for factors that float16 can't hold.
    """
    state: dict[str, Tensor] = {}
    names = lora_names(factors, family) if factors else {}
    form = KOHYA if family in FAMILY_METADATA else PEFT
    ranks = {name: _half_rank(down) for name, (_, down) in factors.items()}
    for name, (up, down) in factors.items():
        rank = ranks[name]
        # The columns and rows are sorted by singular value: the first ones are the best approximation of their rank.
        more = max(ranks.values()) - rank if form is PEFT else 0  # PEFT reads one rank for all: the rest are zeros
        up, down = _narrowed(up[:, :rank], torch.float16, name), _narrowed(down[:rank], torch.float16, name)
        state[f"{names[name]}{form.up}"] = pad(up, (0, more)).clone(memory_format=torch.contiguous_format)
        state[f"{names[name]}{form.down}"] = pad(down, (0, 0, 0, more)).clone()
        if form.alpha:
            state[f"{names[name]}.alpha"] = torch.tensor(float(rank))  # alpha / rank = 1: the factors as they are
    return state


def _half_rank(down: Tensor) -> int:
    """The rank of balanced factors that float16 can tell from a higher one: all of what is in float16 already."""
    squares = down.double().square().sum(1)  # E's singular values
    return len(down) if down.dtype == torch.float16 else sufficient_rank(squares, torch.float16)


def save_lora(path: Path, state: Mapping[str, Tensor], metadata: Mapping[str, str] = {}) -> None:
    """Writes a LoRA file with the metadata by which other tools recognise it; the old file survives a failure.

    state: what `lora_state_dict` gives; `metadata` are further entries. Raises UserError for a state that is empty or
    of another kind, and when the file can't be written.
    """
    if not state:
        raise UserError("This edit changes nothing, so there is no LoRA to save; give it a strength other than 0.")
    form = KOHYA if any(name.startswith("lora_unet_") for name in state) else PEFT
    downs = [tensor for name, tensor in state.items() if name.endswith(form.down) and tensor.ndim == 2]
    if (2 + form.alpha) * len(downs) != len(state):
        raise UserError("This LoRA is not one of a TIME edit; save it with the node that belongs to what made it.")
    rank, width = downs[0].shape
    recognised = {"modelspec.sai_model_spec": "1.0.0", "modelspec.title": path.stem}
    if form is KOHYA:
        original = any("_input_blocks_" in name for name in state)
        recognised |= FAMILY_METADATA["SDXL" if original else "SD 2.x" if width == 1024 else "SD 1.x"]
        recognised |= {"ss_network_module": "networks.lora", "ss_network_dim": str(rank), "ss_network_alpha": str(rank)}
    header = {"kind": "TIME LoRA", "version": 1, "rank": rank, "width": width}
    storage.write(path, state, header, {**recognised, **metadata})
