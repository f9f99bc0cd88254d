"""The host's sampler, VAE and CLIP_VISION as a studio."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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

from ...core.backend import Family, Progress, unseen
from .model import HostDenoiser, HostDiffusion
from .text import SLOT, HostTextEncoder, encoded

PICTURES_AT_ONCE = 16  # sampled together, where memory allows
# Samplers that add no noise of their own.
NOISELESS = {"euler", "heun", "heunpp2", "dpm_2", "lms", "dpmpp_2m", "ddim"}
NOISELESS |= {"uni_pc", "uni_pc_bh2", "ipndm", "ipndm_v", "deis"}


def image_features(clip_vision: ClipVisionModel, images: Tensor) -> Tensor:
    """Unit-length features (images, width) of pictures (images, height, width, 3) in 0..1."""
    output: Any = clip_vision.encode_image(images)
    return normalize(output["image_embeds"].float(), dim=-1)


def samplers() -> list[str]:
    return comfy.samplers.KSampler.SAMPLERS


def schedulers() -> list[str]:
    return comfy.samplers.KSampler.SCHEDULERS


def drawn(
    model: ModelPatcher,
    vae: VAE,
    positive: Any,
    negative: Any,
    seed: int,
    steps: int,
    cfg: float,
    sampler_name: str,
    scheduler: str,
    width: int,
    height: int,
) -> Tensor:
    """The picture (height, width, 3) that Empty Latent Image, KSampler and VAE Decode make of these settings."""
    with torch.inference_mode():
        how = (steps, cfg, sampler_name, scheduler, positive, negative)
        return vae.decode(sampled(model, [seed], (width, height), *how))[0]


def sampled(
    model: ModelPatcher,
    seeds: Sequence[int],
    size: tuple[int, int],
    steps: int,
    cfg: float,
    sampler_name: str,
    scheduler: str,
    positive: Any,
    negative: Any,
    callback: Callable[..., None] | None = None,
    start: Tensor | None = None,
) -> Tensor:
    """Latents (seeds, 4, height / 8, width / 8), each from the noise that KSampler gives its seed.

    `start`: latents (1, 4, h, w) that hold their noise already, for all seeds instead; the size is theirs.
    """
    width, height = size
    sample, prepare_noise = (getattr(comfy.sample, name) for name in ("sample", "prepare_noise"))
    if start is None:
        noise = torch.cat([prepare_noise(torch.zeros(1, 4, height // 8, width // 8), seed) for seed in seeds])
        latents = torch.zeros_like(noise)
    else:
        latents = start.repeat(len(seeds), 1, 1, 1)
        noise = torch.zeros_like(latents)
    how = (steps, cfg, sampler_name, scheduler, positive, negative, latents)
    return sample(model, noise, *how, seed=seeds[0], callback=callback, disable_pbar=True)


def sampled_together(
    model: ModelPatcher,
    positives: Sequence[Any],
    negative: Any,
    seed: int,
    size: tuple[int, int],
    steps: int,
    cfg: float,
    sampler_name: str,
    scheduler: str,
    start: Tensor | None = None,
) -> Tensor:
    """Latents (positives, 4, height / 8, width / 8), all from the noise that KSampler gives one seed, or from `start`.

    In one batch where that changes nothing: samplers that add noise give each row of a batch its own.
    """
    plain = all(len(positive) == 1 and positive[0][0].shape == positives[0][0][0].shape for positive in positives)
    if len(positives) > 1 and not (plain and sampler_name in NOISELESS):
        how = (steps, cfg, sampler_name, scheduler)
        drawn = (sampled(model, [seed], size, *how, positive, negative, start=start) for positive in positives)
        return torch.cat([*drawn])
    states = torch.cat([positive[0][0] for positive in positives])
    options = dict(positives[0][0][1])
    if options.get("pooled_output") is not None:
        options["pooled_output"] = torch.cat([positive[0][1]["pooled_output"] for positive in positives])
    how = (steps, cfg, sampler_name, scheduler)
    return sampled(model, [seed] * len(positives), size, *how, [[states, options]], negative, start=start)


class HostStudio:
    """The host's model as `core.explanation.Studio`, with its own sampler.

    DDIM at its own timesteps, which is what diffusers' pipelines do with the same noise. A seed gives the same picture
    whatever is sampled beside it. Results are no inference tensors where the caller is not in inference mode.
    """

    def __init__(
        self,
        model: ModelPatcher,
        clip: CLIP,
        vae: VAE,
        clip_vision: ClipVisionModel | None,
        negative: Any,
        steps: int,
        cfg: float,
        size: int,
    ) -> None:
        self.encoder: HostTextEncoder = HostTextEncoder(clip)
        self.family: Family = HostDenoiser(model).family
        self._model, self._clip, self._vae, self._clip_vision = model, clip, vae, clip_vision
        self._negative = negative or encoded(clip, "")
        self._steps, self._cfg, self._size = steps, cfg, size

    def diffusion(self) -> HostDiffusion:
        return HostDiffusion(self._model)

    def latents_of_prompt(self, prompt: str, seeds: Sequence[int], progress: Progress = unseen) -> Tensor:
        return self._sample(encoded(self._clip, prompt), seeds, progress)

    def latents_of_mix(self, prompt: str, vectors: Sequence[Tensor], seeds: Sequence[int]) -> Tensor:
        with torch.inference_mode():
            conditioning = self.encoder.conditioning(prompt.replace("{}", SLOT), vectors)
        return self._sample(conditioning, seeds)

    def latents_of_pictures(self, pictures: Tensor) -> Tensor:
        side = self._size
        with torch.inference_mode():
            upright = pictures[..., :3].movedim(-1, 1)
            square: Any = comfy.utils.common_upscale(upright, side, side, "lanczos", "center")
            latents = self._latent_format().process_in(self._vae.encode(square.movedim(1, -1)).float())
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
        side = self._size // 8
        need = self._model.memory_required([2, 4, side, side])  # a picture with and without the prompt
        together = max(1, min(PICTURES_AT_ONCE, int(free / (2 * need))))
        latents = []
        for first in range(0, len(seeds), together):
            some = seeds[first : first + together]

            def step(number: int, *_: Any, first: int = first, count: int = len(some)) -> None:
                progress(first * self._steps + count * (number + 1), len(seeds) * self._steps)

            with torch.inference_mode():
                how = (self._steps, self._cfg, "ddim", "ddim_uniform", positive, self._negative, step)
                found = sampled(self._model, some, (self._size, self._size), *how)
                latents.append(self._latent_format().process_in(found.float()).cpu())
        return torch.cat(latents).clone()
