"""The host's model, VAE and CLIP_VISION as a studio."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.utils
import torch
from comfy.clip_vision import ClipVisionModel
from comfy.model_patcher import ModelPatcher
from comfy.sd import CLIP, VAE
from torch import Tensor
from torch.nn.functional import normalize

from ...core.model.diffusion import check_channels
from ...core.model.protocols import Family, Progress, PseudoToken, unseen
from ...core.model.template import Template
from ...core.model.text_tower import TextTower
from .evaluations import check_alone
from .model import HostDiffusion, prediction_of
from .patches import check_prediction
from .sampling import Sampling, sampled, sampled_together
from .text import HostTextEncoder, encoded

PICTURES_AT_ONCE = 16  # sampled or looked at together, where memory allows


def image_features(clip_vision: ClipVisionModel, images: Tensor) -> Tensor:
    """Unit-length features (images, width) of pictures (images, height, width, 3) in 0..1."""
    outputs: list[Any] = [clip_vision.encode_image(some) for some in images.split(PICTURES_AT_ONCE)]
    return normalize(torch.cat([output["image_embeds"].float() for output in outputs]), dim=-1)


class HostStudio:
    """The host's model as `core.model.studio.Studio`, with its own sampler.

    A seed gives the same picture whatever is sampled beside it. Results are no inference tensors, but for a caller in
    inference mode.
    """

    def __init__(
        self,
        model: ModelPatcher,
        clip: CLIP,
        vae: VAE,
        clip_vision: ClipVisionModel | None,
        sampling: Sampling,
    ) -> None:
        self.encoder: HostTextEncoder = HostTextEncoder(clip)
        self._model, self._clip, self._vae, self._clip_vision = model, clip, vae, clip_vision
        self._sampling = sampling

    @property
    def family(self) -> Family:
        return self.encoder.family

    @property
    def towers(self) -> list[TextTower]:
        return self._towers

    @cached_property
    def _towers(self) -> list[TextTower]:
        return self.encoder.towers()

    def with_model(self, model: ModelPatcher) -> HostStudio:
        """The same with another version of its model; what was copied of the text encoder serves both."""
        other = copy(self)
        other._model = model
        return other

    def diffusion(self) -> HostDiffusion:
        return HostDiffusion(self._model)

    def check_diffusion(self) -> None:
        prediction_of(self._model)
        check_channels(self._model.model.model_config.unet_config["in_channels"])
        check_prediction(self._model)
        check_alone(self._model, encoded(self._clip, ""), self._sampling)

    def latents_of_prompt(self, prompt: str, seeds: Sequence[int], progress: Progress = unseen) -> Tensor:
        return self._sample(encoded(self._clip, prompt), seeds, progress)

    def evaluations(self, pictures: int) -> int:
        return pictures * self._sampling.steps * (1 if self._sampling.cfg == 1 else 2)

    def latents_of_mix(
        self, template: Template, mix: PseudoToken, seeds: Sequence[int], progress: Progress = unseen
    ) -> Tensor:
        with torch.inference_mode():
            conditioning = self.encoder.conditioning(template, mix)
        return self._sample(conditioning, seeds, progress)

    def latents_of_pictures(self, pictures: Tensor) -> Tensor:
        size = (self._sampling.width, self._sampling.height)
        with torch.inference_mode():
            upright = pictures[..., :3].movedim(-1, 1)
            scaled: Any = comfy.utils.common_upscale(upright, *size, "lanczos", "center")
            latents = self._latent_format().process_in(self._vae.encode(scaled.movedim(1, -1)).float())
        return latents.cpu().clone()

    def pictures(self, latents: Tensor) -> Tensor:
        with torch.inference_mode():
            pictures = self._vae.decode(self._latent_format().process_out(latents))
        return pictures.float().cpu().clone()

    def features(self, pictures: Tensor) -> Tensor | None:
        if self._clip_vision is None:
            return None
        with torch.inference_mode():
            features = image_features(self._clip_vision, pictures)
        return features.cpu().clone()

    def _latent_format(self) -> Any:
        return self._model.get_model_object("latent_format")

    def _sample(self, positive: Any, seeds: Sequence[int], progress: Progress = unseen) -> Tensor:
        management: Any = comfy.model_management
        free = management.get_free_memory(self._model.load_device)
        size = (self._sampling.height // 8, self._sampling.width // 8)
        need = self._model.memory_required([2, 4, *size])  # a picture with and without the prompt
        together = max(1, min(PICTURES_AT_ONCE, int(free / (2 * need))))
        with torch.inference_mode():
            found = sampled(self._model, positive, seeds, self._sampling, progress, together)
            latents = self._latent_format().process_in(found.float()).cpu()
        return latents.clone()


@dataclass(frozen=True, eq=False)
class HostFixedNoise:
    """`core.conceptor.pruning.FixedNoise`: KSampler's of a seed, or the noise of `start` (1, 4, h, w)."""

    model: ModelPatcher
    encoder: HostTextEncoder
    vae: VAE
    clip_vision: ClipVisionModel | None
    template: Template
    seed: int
    sampling: Sampling
    start: Tensor | None = None

    def draw(self, mixes: Sequence[PseudoToken]) -> Tensor:
        prompts = [self.encoder.conditioning(self.template, mix) for mix in mixes]
        return self.vae.decode(sampled_together(self.model, prompts, self.seed, self.sampling, self.start))

    def features(self, pictures: Tensor) -> Tensor | None:
        return None if self.clip_vision is None else image_features(self.clip_vision, pictures)

    def latents(self, pictures: Tensor) -> Tensor:
        return self.vae.encode(pictures)
