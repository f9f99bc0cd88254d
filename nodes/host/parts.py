"""What of a model comes through several inputs of a node: does it belong together?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from comfy.model_patcher import ModelPatcher
from comfy.sd import CLIP, VAE
from torch import Tensor

from ...core.errors import UserError
from ...core.time_edit.lora import check_match
from .language import mix_encoder_of
from .model import FAMILIES, HostDenoiser
from .text import HostTextEncoder
from .transformers import HostTransformer, denoiser_of

Reads = Literal["unets", "edits", "mixes", "layers"]
"""What a node reads: UNets alone, with them transformers that are edited, all that mixes go into, or all that draws."""


def check_parts(
    model: ModelPatcher | None,
    clip: CLIP | None,
    vae: VAE | None,
    latents: Mapping[str, Mapping[str, Any]],
    reads: Reads = "unets",
) -> None:
    """Raises UserError for models that ConceptLens does not read, and for what is of another one.

    latents: LATENTs by the names of their inputs.
    """
    if reads == "edits" and model is not None and isinstance(denoiser_of(model), HostTransformer):
        return  # what belongs to it is seen when its text encoder runs
    if reads == "mixes" and clip is not None:
        unet = model is None or isinstance(model.model.model_config, tuple(FAMILIES))
        if not (unet and isinstance(mix_encoder_of(clip), HostTextEncoder)):
            return  # likewise
    if reads == "layers" and model is not None and not isinstance(model.model.model_config, tuple(FAMILIES)):
        return
    encoder = None if clip is None else HostTextEncoder(clip)
    if model is None:
        return
    denoiser, channels = HostDenoiser(model), model.get_model_object("latent_format").latent_channels
    if encoder:
        check_match(encoder, denoiser)
    if vae is not None and vae.latent_channels != channels:
        raise UserError(
            f"The model ({denoiser.family}) draws latents of {channels} channels, the VAE reads {vae.latent_channels}; "
            "take both from the same checkpoint."
        )
    for name, latent in latents.items():
        samples = latent["samples"]
        shape = tuple(samples.shape) if type(samples) is torch.Tensor and not samples.is_nested else ()
        if len(shape) != 4 or shape[1] != channels or 0 in shape:
            held = " x ".join(map(str, shape)) or type(samples).__name__
            raise UserError(
                f"The input {name} holds latents of shape {held}; the model ({denoiser.family}) draws pictures of "
                f"{channels} channels: connect latents of this model."
            )


def check_noise(model: ModelPatcher, samples: Tensor) -> None:
    """Raises UserError for latents (n, channels, height, width) that are no noise with which the model could begin."""
    latent_format: Any = model.get_model_object("latent_format")
    spread = float(latent_format.process_in(samples.detach()).std())
    sampling: Any = model.get_model_object("model_sampling")
    largest = float(sampling.sigma_max)
    if not spread > largest / 2:
        raise UserError(
            f"The latent holds a picture or nothing, but no noise (its values deviate by {spread:.2g}, noise by about "
            f"{largest:.2g}); connect the latent of h-space Invert with eta 0."
        )
