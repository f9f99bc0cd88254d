"""EmojiWorld and FaceWorld as the host's own MODEL, CLIP, VAE and CLIP_VISION."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import comfy.latent_formats
import comfy.model_detection
import comfy.model_management
import comfy.model_sampling
import comfy.supported_models
import comfy.utils
import comfyui_version
import folder_paths
import torch
from comfy.clip_vision import ClipVisionModel
from comfy.model_base import BaseModel
from comfy.model_patcher import CoreModelPatcher, ModelPatcher
from comfy.sd import CLIP, VAE
from comfy.sd1_clip import SD1ClipModel
from comfy.supported_models_base import ClipTarget
from torch import Tensor

from ...core.errors import UserError, out_of_memory
from ...world import architecture, weights
from ...world.emoji import architecture as emoji
from ...world.faces import architecture as faces

SUPPORTED_HOSTS = "0.24 to 0.30"


def _depths(blocks: Iterable[str]) -> list[int]:
    """Of the transformer in each of a UNet's levels, by diffusers' names of their blocks."""
    return [int("CrossAttn" in kind) for kind in blocks]


class EmojiClipModel(SD1ClipModel):
    """SD 1.x's text encoder in EmojiWorld's size."""

    def __init__(self, model_options: dict[str, Any] = {}, **how: Any) -> None:
        super().__init__(model_options={**model_options, "clip_l_model_config": architecture.TEXT}, **how)


class EmojiWorld(comfy.supported_models.SD15):
    """How the host knows EmojiWorld's UNet in a checkpoint, and what it makes of the rest, as of SD 1.x."""

    unet_config: ClassVar = comfy.supported_models.SD15.unet_config | {
        "context_dim": architecture.WIDTH,
        "model_channels": emoji.UNET["block_out_channels"][0],
        "transformer_depth": _depths(emoji.UNET["down_block_types"]),
    }
    unet_extra_config: ClassVar = {"num_heads": emoji.UNET["attention_head_dim"], "num_head_channels": -1}

    def clip_target(self, state_dict: Any = {}) -> ClipTarget:
        return ClipTarget(super().clip_target(state_dict).tokenizer, EmojiClipModel)

    def process_clip_state_dict(self, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """With the projection where the text encoder has it: SD 1.x takes it for a part of what it projects."""
        read = super().process_clip_state_dict(state_dict)
        return {name.replace(".text_model.text_projection.", ".text_projection."): read[name] for name in read}

    def process_clip_state_dict_for_saving(self, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """With the projection into the space of pictures, which SD 1.x leaves out."""
        kept = {name: tensor for name, tensor in state_dict.items() if name.endswith(".text_projection.weight")}
        renamed = {name.replace("clip_l.", "cond_stage_model."): tensor for name, tensor in kept.items()}
        return super().process_clip_state_dict_for_saving(state_dict) | renamed


class PictureSampling(comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.X0):
    """Of a UNet that predicts the picture itself, at training's timesteps: as Model Sampling Discrete sets it."""


class FaceWorld(EmojiWorld):
    """How the host knows FaceWorld's UNet."""

    unet_config: ClassVar = EmojiWorld.unet_config | {"transformer_depth": _depths(faces.UNET["down_block_types"])}

    def get_model(self, *given: Any, **how: Any) -> BaseModel:
        model: Any = super().get_model(*given, **how)
        model.model_sampling = PictureSampling(model.model_config)
        return model


class EmojiWorldTransformer(comfy.supported_models.FluxSchnell):
    """How the host knows EmojiWorld's transformer: Flux.1's, of this size, on EmojiWorld's latents."""

    unet_config: ClassVar = comfy.supported_models.FluxSchnell.unet_config | {"context_in_dim": architecture.WIDTH}
    unet_extra_config: ClassVar = {
        "num_heads": emoji.TRANSFORMER["num_attention_heads"],
        "axes_dim": list(emoji.TRANSFORMER["axes_dims_rope"]),
        "out_channels": emoji.TRANSFORMER["in_channels"] // emoji.PATCH**2,
    }
    latent_format = comfy.latent_formats.SD15

    def clip_target(self, state_dict: Any = {}) -> ClipTarget:
        return EmojiWorld({}).clip_target(state_dict)

    def process_clip_state_dict(self, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        return EmojiWorld({}).process_clip_state_dict(state_dict)

    def process_clip_state_dict_for_saving(self, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        return EmojiWorld({}).process_clip_state_dict_for_saving(state_dict)

    def process_vae_state_dict_for_saving(self, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        return EmojiWorld({}).process_vae_state_dict_for_saving(state_dict)


# So that Load Checkpoint reads what Save Checkpoint makes of the worlds, a trained or merged one among them; the first
# that matches is taken.
for kind in (EmojiWorld, FaceWorld, EmojiWorldTransformer):
    if kind not in comfy.supported_models.models:
        comfy.supported_models.models.insert(0, kind)


@dataclass(frozen=True)
class World:
    """One of the worlds that come with this pack; the text encoder is shared."""

    loader: str  # the node
    model: Callable[..., ModelPatcher]  # of the weights of the `denoiser`
    denoiser: weights.Part
    vision: weights.Part  # with its image encoder
    folder: Path  # of its weights


def load_world(world: World) -> tuple[ModelPatcher, CLIP, VAE, ClipVisionModel]:
    """A world as MODEL, CLIP, VAE and CLIP_VISION: the host's own classes with this repository's weights.

    Raises UserError when weights are missing or damaged, and when the host's classes are not those that it knows.
    """
    texts = weights.load("encoders", emoji.WEIGHTS)
    parts: tuple[weights.Part, ...] = ("autoencoder", world.denoiser, world.vision)
    autoencoder, denoiser, vision = (weights.load(part, world.folder) for part in parts)
    try:
        model, clip, vae = world.model(denoiser), _sd1_clip(texts), _tiny_vae(autoencoder)
        # How the host makes them anew where it needs a copy of its own: in training, on a second GPU.
        model.cached_patcher_init = (
            lambda **how: world.model(weights.load(world.denoiser, world.folder), **how),
            (),
        )
        clip.patcher.cached_patcher_init = (
            lambda **how: _sd1_clip(weights.load("encoders", emoji.WEIGHTS), **how).patcher,
            (),
        )
        vae.patcher.cached_patcher_init = (
            lambda **_: _tiny_vae(weights.load("autoencoder", world.folder)).patcher,
            (),
        )
        return model, clip, vae, _clip_vision(vision)
    except (AttributeError, TypeError, KeyError, RuntimeError) as error:
        if out_of_memory(error):  # the host says so itself
            raise
        raise UserError(
            f"This ComfyUI ({comfyui_version.__version__}) builds its models in a way that {world.loader} does "
            f"not know ({str(error).splitlines()[0]}); use ComfyUI {SUPPORTED_HOSTS}, or a newer ConceptLens."
        ) from error


def _sd1_model(
    kind: type[EmojiWorld], unet: Mapping[str, Any], state: dict[str, Tensor], disable_dynamic: bool = False
) -> ModelPatcher:
    """A UNet as diffusers describes it, of weights by diffusers' names."""
    channels, blocks = unet["block_out_channels"], unet["layers_per_block"]
    down, up = _depths(unet["down_block_types"]), _depths(reversed(unet["up_block_types"]))
    unet_config = {
        "image_size": 32,
        "in_channels": 4,
        "out_channels": 4,
        "model_channels": channels[0],
        "channel_mult": [width // channels[0] for width in channels],
        "num_res_blocks": [blocks] * len(channels),
        "transformer_depth": [depth for depth in down for _ in range(blocks)],
        "transformer_depth_output": [depth for depth in up for _ in range(blocks + 1)],
        "transformer_depth_middle": 1,
        "context_dim": architecture.WIDTH,
        "use_spatial_transformer": True,
        "use_linear_in_transformer": False,
        "use_checkpoint": False,
        "legacy": False,
        "adm_in_channels": None,
    }
    names = comfy.utils.unet_to_diffusers(unet_config)
    return _model(kind(unet_config), {names[name]: tensor for name, tensor in state.items()}, disable_dynamic)


def _flux_model(state: dict[str, Tensor], disable_dynamic: bool = False) -> ModelPatcher:
    """A transformer of weights by diffusers' names."""
    found: Any = comfy.model_detection.convert_diffusers_mmdit(state)
    config: Any = comfy.model_detection.model_config_from_unet(found, "")
    return _model(config, found, disable_dynamic)


def _model(config: Any, state: dict[str, Tensor], disable_dynamic: bool) -> ModelPatcher:
    """As the host makes it of a checkpoint; its weights are never streamed with `disable_dynamic`."""
    management: Any = comfy.model_management
    device = management.get_torch_device()
    parameters = sum(tensor.numel() for tensor in state.values())
    dtype = management.unet_dtype(model_params=parameters, supported_dtypes=config.supported_inference_dtypes)
    cast = management.unet_manual_cast(dtype, device, config.supported_inference_dtypes)
    config.set_inference_dtype(dtype, cast)
    model = config.get_model({}, "")
    kind = ModelPatcher if disable_dynamic else CoreModelPatcher
    patcher = kind(model, load_device=device, offload_device=management.unet_offload_device())
    model.diffusion_model.load_state_dict(
        {name: tensor.to(dtype) for name, tensor in state.items()}, assign=patcher.is_dynamic()
    )
    return patcher


def _sd1_clip(state: dict[str, Tensor], **how: Any) -> CLIP:
    """`how`: what further the host's class is told."""
    texts = {f"clip_l.transformer.{name}": tensor for name, tensor in state.items() if name.startswith("text_")}
    return CLIP(
        EmojiWorld({}).clip_target(),
        embedding_directory=folder_paths.get_folder_paths("embeddings"),
        parameters=sum(tensor.numel() for tensor in texts.values()),
        state_dict=texts,
        **how,
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


EMOJI_WORLD = World("EmojiWorldLoader", partial(_sd1_model, EmojiWorld, emoji.UNET), "unet", "encoders", emoji.WEIGHTS)
EMOJI_WORLD_TRANSFORMER = World("EmojiWorldLoader", _flux_model, "transformer", "encoders", emoji.WEIGHTS)
FACE_WORLD = World("FaceWorldLoader", partial(_sd1_model, FaceWorld, faces.UNET), "unet", "vision", faces.WEIGHTS)
