"""ComfyUI's MODEL and CLIP seen through core's protocols, and its folders. The only file that touches the host."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import comfy.lora
import comfy.model_management
import comfy.supported_models
import comfy.utils
import comfyui_version
import folder_paths
import torch
from comfy.cli_args import args
from comfy.clip_model import CLIPTextModel
from comfy.clip_vision import ClipVisionModel
from comfy.model_patcher import CoreModelPatcher, ModelPatcher
from comfy.sd import CLIP, VAE
from comfy.sd1_clip import SD1ClipModel, SDTokenizer
from comfy.sdxl_clip import SDXLClipModel
from comfy.weight_adapter import LoRAAdapter
from torch import Tensor

from ..core.backend import CONTEXT_LENGTH, Family, Progress
from ..core.errors import UserError
from ..core.lora import LoraFactors
from ..world import architecture, weights

FAMILIES: dict[type, Family] = {
    comfy.supported_models.SD15: "SD 1.x",
    comfy.supported_models.SD20: "SD 2.x",
    comfy.supported_models.SDXL: "SDXL",
}
PROMPTS_AT_ONCE = 128  # bounds the memory of one pass through the text encoder


class HostTextEncoder:
    """A CLIP of the host as `core.backend.TextEncoder`: its clip skip and LoRAs count."""

    def __init__(self, clip: CLIP) -> None:
        model = clip.cond_stage_model
        names = [n for n in ("l", "h", "g") if isinstance(getattr(model, f"clip_{n}", None), torch.nn.Module)]
        encoders = [getattr(model, f"clip_{name}").transformer for name in names]
        known = isinstance(model, (SD1ClipModel, SDXLClipModel)) and names in (["l"], ["h"], ["l", "g"])
        if not known or not all(isinstance(encoder, CLIPTextModel) for encoder in encoders):
            raise UserError(
                f"The CLIP is a {type(model).__name__}; ConceptLens reads the text encoders of SD 1.x, SD 2.x and "
                "SDXL: connect the CLIP of such a checkpoint."
            )
        self._clip = clip
        self._tokenizer: SDTokenizer = getattr(clip.tokenizer, f"clip_{names[0]}")
        if self._tokenizer.max_length != CONTEXT_LENGTH:
            raise UserError(
                f"The CLIP reads {self._tokenizer.max_length} tokens; ConceptLens reads encoders of {CONTEXT_LENGTH}: "
                "connect the CLIP of an SD 1.x, SD 2.x or SDXL checkpoint."
            )
        self._ends: tuple[int, int] = tuple(self._tokenizer.tokenizer("").input_ids)
        self.width: int = sum(encoder.get_input_embeddings().weight.shape[1] for encoder in encoders)

    def tokenize(self, prompt: str) -> list[int]:
        start, end = self._ends
        if "embedding:" in prompt:  # the host drops one that it does not find
            raise UserError(f'The prompt "{prompt}" names an embedding, which has no meaning here; write plain words.')
        inner: list[int] = []
        for section in next(iter(self._clip.tokenize(prompt).values())):
            for token, weight in section[1:]:
                if not isinstance(token, int) or weight != 1.0:
                    raise UserError(
                        f'The prompt "{prompt}" contains a weight, which has no meaning here; write plain words, '
                        r"and \( \) for parentheses."
                    )
                if token == end:
                    break
                inner.append(token)
        return [start, *inner, end]

    def decode(self, tokens: Sequence[int]) -> str:
        return self._tokenizer.decode(list(tokens))

    def encode(self, prompts: Sequence[str]) -> Tensor:
        contexts = []
        for first in range(0, len(prompts), PROMPTS_AT_ONCE):
            some = prompts[first : first + PROMPTS_AT_ONCE]
            # The host encodes the sections of a long prompt as one batch and joins them: that serves many prompts.
            sections: dict[str, list[Any]] = {}
            for prompt in some:
                for name, tokens in self._clip.tokenize(prompt).items():
                    sections.setdefault(name, []).extend(tokens)
            context: Any = self._clip.encode_from_tokens(sections)
            contexts.append(context.float().cpu().reshape(len(some), CONTEXT_LENGTH, self.width))
        return torch.cat(contexts)


class HostDenoiser:
    """A MODEL of the host as `core.backend.Denoiser`."""

    def __init__(self, model: ModelPatcher) -> None:
        config = model.model.model_config
        families: list[Family] = [family for kind, family in FAMILIES.items() if isinstance(config, kind)]
        if not families:
            raise UserError(
                f"The model is a {type(config).__name__}; ConceptLens edits the cross-attention of SD 1.x, SD 2.x and "
                "SDXL: load such a checkpoint."
            )
        diffusers_names = {v: k for k, v in comfy.utils.unet_to_diffusers(config.unet_config).items()}
        pattern = re.compile(r"diffusion_model\.(.*\.attn2\.to_[kv]\.weight)$")
        matches = [match for key in model.model_state_dict() if (match := pattern.match(key))]
        self._keys: dict[str, str] = {
            diffusers_names[match[1]].removesuffix(".weight"): match[0]
            for match in matches
            if match[1] in diffusers_names
        }
        if not matches or len(self._keys) < len(matches):
            raise UserError(
                f"The {families[0]} model does not show the weights of its cross-attention ({len(self._keys)} found); "
                "connect it before nodes that compile, quantise or replace it."
            )
        self._model = model
        self._patches = model.get_key_patches("diffusion_model.")
        self.family: Family = families[0]
        self.dtype: torch.dtype = model.model_dtype() or torch.float32
        self.context_width: int = config.unet_config["context_dim"]

    def cross_attention_names(self, keys: bool = True) -> list[str]:
        return [name for name in self._keys if keys or name.endswith("to_v")]

    def cross_attention_weight(self, name: str) -> Tensor:
        """The weight as the host would load it: the stored one, dequantised, with the patches made so far."""
        key = self._keys[name]
        patches: Any = self._patches[key]
        (stored, convert), *applied = patches
        cast: Any = comfy.model_management.cast_to_device
        weight = convert(cast(stored, torch.device("cpu"), torch.float32, copy=True), inplace=True)
        if not stored.is_floating_point() or type(weight) is not Tensor or weight.shape[-1] != self.context_width:
            raise UserError(
                f"The weight {key} is quantised as {type(stored).__name__} of {stored.dtype}, which ConceptLens can't "
                "read; load the model in float16, bfloat16 or float32."
            )
        calculate_weight: Any = comfy.lora.calculate_weight
        return calculate_weight(applied, weight, key).detach()

    def noise_levels(self) -> Tensor:
        model_sampling: Any = self._model.get_model_object("model_sampling")
        return model_sampling.sigmas.float().cpu()

    def patched(self, factors: Mapping[str, LoraFactors]) -> ModelPatcher:
        """A clone of the MODEL to which the host adds the factors on loading; the shared weights stay as they are."""
        clone = self._model.clone()
        adapters = {
            name: LoRAAdapter(set(), (up, down, None, None, None, None)) for name, (up, down) in factors.items()
        }
        clone.add_patches({self._keys[name]: adapter for name, adapter in adapters.items()})
        return clone


SUPPORTED_HOSTS = "0.30"


def emoji_world() -> tuple[ModelPatcher, CLIP, VAE, ClipVisionModel]:
    """EmojiWorld as MODEL, CLIP, VAE and CLIP_VISION: the host's own classes with this repository's weights.

    Raises UserError when weights are missing or damaged, and when the host's classes are not those that it knows.
    """
    encoders, autoencoder, unet = (weights.load(part) for part in ("encoders", "autoencoder", "unet"))
    try:
        return (_sd1_model(unet), _sd1_clip(encoders), _tiny_vae(autoencoder), _clip_vision(encoders))
    except (AttributeError, TypeError, KeyError, RuntimeError) as error:
        raise UserError(
            f"This ComfyUI ({comfyui_version.__version__}) builds its models in another way than EmojiWorldLoader "
            f"knows ({str(error).splitlines()[0]}); use ComfyUI {SUPPORTED_HOSTS}, or a newer ConceptLens."
        ) from error


def _sd1_model(state: dict[str, Tensor]) -> ModelPatcher:
    """What the host does with a checkpoint, but for its detection, which knows Stable Diffusion's own sizes only."""
    management: Any = comfy.model_management
    channels, blocks = architecture.UNET["block_out_channels"], architecture.UNET["layers_per_block"]
    attends = [int("CrossAttn" in kind) for kind in architecture.UNET["down_block_types"]]
    unet_config = {
        "image_size": 32,
        "in_channels": 4,
        "out_channels": 4,
        "model_channels": channels[0],
        "channel_mult": [width // channels[0] for width in channels],
        "num_res_blocks": [blocks] * len(channels),
        "transformer_depth": [depth for depth in attends for _ in range(blocks)],
        "transformer_depth_output": [depth for depth in attends for _ in range(blocks + 1)],
        "transformer_depth_middle": 1,
        "context_dim": architecture.WIDTH,
        "use_spatial_transformer": True,
        "use_linear_in_transformer": False,
        "use_checkpoint": False,
        "legacy": False,
        "adm_in_channels": None,
    }
    config = comfy.supported_models.SD15(unet_config)
    config.unet_config |= {"num_heads": architecture.UNET["attention_head_dim"]}
    device = management.get_torch_device()
    parameters = sum(tensor.numel() for tensor in state.values())
    dtype = management.unet_dtype(model_params=parameters, supported_dtypes=config.supported_inference_dtypes)
    cast = management.unet_manual_cast(dtype, device, config.supported_inference_dtypes)
    config.set_inference_dtype(dtype, cast, device=device)
    names = comfy.utils.unet_to_diffusers(config.unet_config)
    model = config.get_model({}, "")
    patcher = CoreModelPatcher(model, load_device=device, offload_device=management.unet_offload_device())
    model.diffusion_model.load_state_dict(
        {names[name]: tensor.to(dtype) for name, tensor in state.items()}, assign=patcher.is_dynamic()
    )
    return patcher


def _sd1_clip(state: dict[str, Tensor]) -> CLIP:
    texts = {f"clip_l.transformer.{name}": tensor for name, tensor in state.items() if name.startswith("text_")}
    return CLIP(
        comfy.supported_models.SD15({}).clip_target(),
        embedding_directory=folder_paths.get_folder_paths("embeddings"),
        parameters=sum(tensor.numel() for tensor in texts.values()),
        state_dict=texts,
        model_options={"clip_l_model_config": architecture.TEXT},
    )


def _tiny_vae(state: dict[str, Tensor]) -> VAE:
    """TAESD's architecture. The decoder's clamp is a layer here, and part of `forward` in diffusers."""
    renamed = {"vae_scale": torch.tensor(architecture.SCALING_FACTOR), "vae_shift": torch.tensor(0.0)}
    for name, tensor in state.items():
        part, _, number, rest = name.split(".", 3)
        renamed[f"taesd_{part}.{int(number) + (part == 'decoder')}.{rest}"] = tensor
    return VAE(sd=renamed)


def _clip_vision(state: dict[str, Tensor]) -> ClipVisionModel:
    vision = ClipVisionModel(architecture.VISION)
    missing, _ = vision.load_sd({name: tensor for name, tensor in state.items() if name.startswith("vis")})
    if missing:
        raise KeyError(f"no weights for {missing[0]}")
    return vision


def progress() -> Progress:
    """The bar of the node that is being executed; it raises when the user has pressed Cancel."""
    return comfy.utils.ProgressBar(1).update_absolute


FOLDERS = ("loras", "output")


def check_inside(prefix: str, folder: str) -> str:
    """The path of the host's `folder`; UserError when a file named `prefix` would lie outside of it."""
    if folder not in FOLDERS:
        raise UserError(f'The folder "{folder}" is none of {" and ".join(FOLDERS)}; choose one of them.')
    root = folder_paths.get_folder_paths("loras")[0] if folder == "loras" else folder_paths.get_output_directory()
    usable = prefix.isprintable() and Path(prefix).name.strip(". ")
    if not usable or not folder_paths.is_within_directory(root, str(Path(root, prefix).parent)):
        raise UserError(f'The file name "{prefix}" is empty or leaves the folder {root}; choose one inside of it.')
    return root


def numbered_path(prefix: str, folder: str) -> Path:
    """The next free `<prefix>_00001_.safetensors` in one of the host's FOLDERS, never outside of it."""
    root = check_inside(prefix, folder)
    try:
        place, name, counter, _, _ = folder_paths.get_save_image_path(prefix, root)
    except OSError as error:
        raise UserError(f'No file "{prefix}" can be made in {root} ({error.strerror}); choose another name.') from error
    return Path(place) / f"{name}_{counter:05}_.safetensors"


def workflow_metadata(prompt: Any, extra_pnginfo: Any) -> dict[str, str]:
    """The graph as metadata of a saved file, as the host's own nodes write it, unless the user has turned that off."""
    if args.disable_metadata:
        return {}
    parts = {"prompt": prompt, **(extra_pnginfo or {})}
    return {name: json.dumps(part) for name, part in parts.items() if part is not None}
