"""The host's model, VAE and CLIP_VISION as a studio."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import comfy.sample
import comfy.samplers
import comfy.utils
import torch
from comfy.clip_vision import ClipVisionModel
from comfy.model_patcher import ModelPatcher
from comfy.sd import CLIP, VAE
from torch import Tensor
from torch.nn.functional import normalize

from ...core.conceptor.vocabulary import Vocabulary
from ...core.model.diffusion import check_channels
from ...core.model.protocols import Family, OpenTextEncoder, Progress, PseudoToken, unseen
from ...core.model.slot import Slot
from ...core.model.template import Template
from ...core.model.text_tower import TextTower, WordTable
from .evaluations import check_alone
from .forward import Conditionings, HostForward, HostSlot
from .language import HostLanguageEncoder, mix_encoder_of
from .model import HostDiffusion, prediction_of
from .patches import check_prediction
from .sampling import PICTURES_AT_ONCE, Sampling, decoded, rows_at_once, sampled, sampled_together
from .text import HostTextEncoder, encoded


def image_features(clip_vision: ClipVisionModel, images: Tensor) -> Tensor:
    """Unit-length features (images, width) of pictures (images, height, width, 3) in 0..1."""
    outputs: list[Any] = [clip_vision.encode_image(some) for some in images.split(PICTURES_AT_ONCE)]
    return normalize(torch.cat([output["image_embeds"].float() for output in outputs]), dim=-1)


class HostPictures:
    """What the host draws and sees, with its own sampler.

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
        self._model, self._clip, self._vae, self._clip_vision = model, clip, vae, clip_vision
        self._sampling = sampling

    def latents_of_prompt(self, prompt: str, seeds: Sequence[int], progress: Progress = unseen) -> Tensor:
        return self._sample(encoded(self._clip, prompt), seeds, progress)

    def evaluations(self, pictures: int) -> int:
        return pictures * self._sampling.steps * (1 if self._sampling.cfg == 1 else 2)

    def latents_of_pictures(self, pictures: Tensor) -> Tensor:
        size = (self._sampling.width, self._sampling.height)
        with torch.inference_mode():
            upright = pictures[..., :3].movedim(-1, 1)
            scaled: Any = comfy.utils.common_upscale(upright, *size, "lanczos", "center")
            # One by one: the VAEs of some families read a batch as a film.
            found = torch.cat([self._vae.encode(picture[None]).float() for picture in scaled.movedim(1, -1)])
            if self._latent_format().latent_dimensions == 3 and found.ndim == 4:
                found = found.unsqueeze(2)  # as the host does for a sampler
            latents = self._latent_format().process_in(found)
        return latents.cpu().clone()

    def pictures(self, latents: Tensor) -> Tensor:
        with torch.inference_mode():
            pictures = decoded(self._vae, self._latent_format().process_out(latents))
        return pictures.float().cpu().clone()

    def features(self, pictures: Tensor) -> Tensor | None:
        if self._clip_vision is None:
            return None
        with torch.inference_mode():
            features = image_features(self._clip_vision, pictures)
        return features.cpu().clone()

    def _latents_of_mix(
        self,
        reader: HostTextEncoder | HostLanguageEncoder,
        template: Template,
        mix: PseudoToken,
        seeds: Sequence[int],
        progress: Progress,
    ) -> Tensor:
        """reader: what puts a mix into a prompt of the CLIP."""
        with torch.inference_mode():
            conditioning = reader.conditioning(template, mix)
        return self._sample(conditioning, seeds, progress)

    def _latent_format(self) -> Any:
        return self._model.get_model_object("latent_format")

    def _sample(self, positive: Any, seeds: Sequence[int], progress: Progress = unseen) -> Tensor:
        together = rows_at_once(self._model, (1, 4, self._sampling.height // 8, self._sampling.width // 8))
        with torch.inference_mode():
            found = sampled(self._model, positive, seeds, self._sampling, progress, together)
            latents = self._latent_format().process_in(found.float()).cpu()
        return latents.clone()


class HostStudio(HostPictures):
    """A model whose prompts CLIP alone reads as `core.model.studio.Studio`."""

    def __init__(
        self, model: ModelPatcher, clip: CLIP, vae: VAE, clip_vision: ClipVisionModel | None, sampling: Sampling
    ) -> None:
        self.encoder: HostTextEncoder = HostTextEncoder(clip)
        super().__init__(model, clip, vae, clip_vision, sampling)

    @property
    def family(self) -> Family:
        return self.encoder.family

    @property
    def towers(self) -> list[TextTower]:
        return self._towers

    @cached_property
    def _towers(self) -> list[TextTower]:
        return self.encoder.towers()

    @property
    def words(self) -> list[WordTable]:
        return [tower.words for tower in self.towers]

    def slot(self, template: Template) -> Slot:
        return Slot.of(self.encoder, self.towers, template)

    def latents_of_mix(
        self, template: Template, mix: PseudoToken, seeds: Sequence[int], progress: Progress = unseen
    ) -> Tensor:
        return self._latents_of_mix(self.encoder, template, mix, seeds, progress)

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


class HostLanguageStudio(HostPictures):
    """A model whose prompts T5 or a language model reads as `core.model.studio.Studio`, without gradients."""

    family = None

    def __init__(
        self,
        model: ModelPatcher,
        clip: CLIP,
        vae: VAE,
        clip_vision: ClipVisionModel | None,
        sampling: Sampling,
        encoder: OpenTextEncoder,
    ) -> None:
        """encoder: the CLIP that reads the vocabulary's words."""
        self.encoder = encoder
        self._language = HostLanguageEncoder(clip)
        self._conditionings = Conditionings()
        super().__init__(model, clip, vae, clip_vision, sampling)

    @property
    def towers(self) -> list[TextTower]:
        return self._towers

    @cached_property
    def _towers(self) -> list[TextTower]:
        return self.encoder.towers()

    @property
    def words(self) -> list[WordTable]:
        return list(self._language.words().values())

    def slot(self, template: Template) -> HostSlot:
        return HostSlot(self._clip, self._language, template, self._conditionings)

    def latents_of_mix(
        self, template: Template, mix: PseudoToken, seeds: Sequence[int], progress: Progress = unseen
    ) -> Tensor:
        return self._latents_of_mix(self._language, template, mix, seeds, progress)

    def diffusion(self) -> HostForward:
        return HostForward(self._model, self._conditionings)

    def check_diffusion(self) -> None:
        self.diffusion()


def studio_of(
    model: ModelPatcher,
    clip: CLIP,
    vae: VAE,
    clip_vision: ClipVisionModel | None,
    sampling: Sampling,
    vocabulary: Vocabulary,
) -> HostStudio | HostLanguageStudio:
    """The studio of a model for concepts that are explained with these words."""
    parts = (model, clip, vae, clip_vision, sampling)
    if isinstance(mix_encoder_of(clip), HostTextEncoder):
        return HostStudio(*parts)
    return HostLanguageStudio(*parts, encoder=vocabulary.encoder)


@dataclass(frozen=True, eq=False)
class HostFixedNoise:
    """`core.conceptor.pruning.FixedNoise`: KSampler's of a seed, or the noise of `start` (1, 4, h, w)."""

    model: ModelPatcher
    encoder: HostTextEncoder | HostLanguageEncoder
    vae: VAE
    clip_vision: ClipVisionModel | None
    template: Template
    seed: int
    sampling: Sampling
    start: Tensor | None = None

    def draw(self, mixes: Sequence[PseudoToken]) -> Tensor:
        prompts = [self.encoder.conditioning(self.template, mix) for mix in mixes]
        return decoded(self.vae, sampled_together(self.model, prompts, self.seed, self.sampling, self.start))

    def features(self, pictures: Tensor) -> Tensor | None:
        return None if self.clip_vision is None else image_features(self.clip_vision, pictures)

    def latents(self, pictures: Tensor) -> Tensor:
        return self.vae.encode(pictures)
