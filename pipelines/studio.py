"""A diffusers pipeline as the studio in which concepts are explained."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor
from torch.nn.functional import normalize

from ..core import storage
from ..core.conceptor.vocabulary import fingerprint
from ..core.errors import UserError
from ..core.model.diffusion import check_channels
from ..core.model.protocols import Family, Progress, PseudoToken, unseen
from ..core.model.slot import Slot
from ..core.model.template import Template
from ..core.model.text_tower import Encoded, TextTower, WordTable
from .adapter import DiffusersDiffusion, DiffusersTextEncoder, Pipeline, denoiser_module, reads_pooled
from .pictures import PICTURES_AT_ONCE, Sampling, decoded, latent_channels, latent_size, sample_latents

# Of the pictures that CLIP was trained on, unless an encoder's configuration names its own.
CLIP_COLOURS = (("mean", (0.48145466, 0.4578275, 0.40821073)), ("std", (0.26862954, 0.26130258, 0.27577711)))


class DiffusersStudio:
    """`core.model.studio.Studio`, with the pipeline's image encoder where it has one.

    What was drawn from a prompt is kept in the folder `cache` and found there again.
    """

    def __init__(self, pipe: Pipeline, sampling: Sampling, cache: Path | None = None) -> None:
        self._pipe, self._sampling, self._cache = pipe, sampling, cache
        self.encoder: DiffusersTextEncoder = DiffusersTextEncoder(pipe)
        self.family: Family = self.encoder.family

    @property
    def towers(self) -> list[TextTower]:
        return self._towers

    @cached_property
    def _towers(self) -> list[TextTower]:
        return self.encoder.towers()  # a copy of all weights: made once, not for each picture of a mix

    @property
    def words(self) -> list[WordTable]:
        return [tower.words for tower in self.towers]

    def slot(self, template: Template) -> Slot:
        return Slot.of(self.encoder, self.towers, template)

    @property
    def device(self) -> torch.device:
        return self._pipe.device

    @property
    def image_encoder(self) -> Any:
        return image_encoder(self._pipe)

    def diffusion(self) -> DiffusersDiffusion:
        return DiffusersDiffusion(self._pipe)

    def check_diffusion(self) -> None:
        self.diffusion()  # refuses other predictions
        check_channels(latent_channels(self._pipe))

    def evaluations(self, pictures: int) -> int:
        return pictures * self._sampling.num_inference_steps * (2 if self._sampling.guidance_scale > 1 else 1)

    def latents_of_prompt(self, prompt: str, seeds: Sequence[int], progress: Progress = unseen) -> Tensor:
        drawn = []
        for some in portions(range(len(seeds))):
            drawn.append(self._drawn(prompt, [seeds[row] for row in some], _of_part(some, len(seeds), progress)))
        return torch.cat(drawn)

    def latents_of_mix(
        self, template: Template, mix: PseudoToken, seeds: Sequence[int], progress: Progress = unseen
    ) -> Tensor:
        return self.latents_of_mixes(template, [mix], seeds, progress)

    @torch.no_grad()
    def latents_of_mixes(
        self, template: Template, mixes: Sequence[PseudoToken], seeds: Sequence[int], progress: Progress = unseen
    ) -> Tensor:
        """The same for one mix, or for as many as seeds, one each."""
        vectors = [torch.cat(rows) for rows in zip(*(mix.pseudo_token(self.words) for mix in mixes), strict=True)]
        return self.latents_of_encoded(self.slot(template).encode(vectors), seeds, progress)

    @torch.no_grad()
    def latents_of_encoded(self, encoded: Encoded, seeds: Sequence[int], progress: Progress = unseen) -> Tensor:
        """The same for one encoded prompt, or for as many as seeds, one each."""
        named = zip(("prompt_embeds", "pooled_prompt_embeds"), encoded, strict=True)
        prompts = {
            name: part.to(self._pipe.device, self._pipe.dtype).expand(len(seeds), *part.shape[1:])
            for name, part in named
            if name == "prompt_embeds" or reads_pooled(self._pipe)
        }
        drawn = []
        for some in portions(range(len(seeds))):
            rows = {name: part[some[0] : some[-1] + 1] for name, part in prompts.items()}
            drawn.append(self._sample([seeds[row] for row in some], _of_part(some, len(seeds), progress), **rows))
        return torch.cat(drawn)

    @torch.no_grad()
    def latents_of_pictures(self, pictures: Tensor) -> Tensor:
        vae: Any = self._pipe.vae
        size = self._sampling.size or latent_size(self._pipe) * 8
        square = _cut_to_square(pictures.permute(0, 3, 1, 2), size)
        encoded = vae.encode((2 * square - 1).to(vae.device, vae.dtype))
        latents = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()
        return (latents * vae.config.scaling_factor).float()

    def pictures(self, latents: Tensor) -> Tensor:
        return decoded(self._pipe, latents)

    def features(self, pictures: Tensor) -> Tensor | None:
        return image_features(self._pipe, pictures)

    def _drawn(self, prompt: str, seeds: Sequence[int], progress: Progress) -> Tensor:
        """Latents of one portion of seeds, from the cache if they are there."""
        if self._cache is None:
            return self._sample(seeds, progress, prompt=prompt)
        sampling = {**asdict(self._sampling), "seeds": list(seeds)}
        made_by = {"kind": "latents", "version": 1, "model": self._model, "prompt": prompt, "sampling": sampling}
        file = self._cache / f"{hashlib.sha256(json.dumps(made_by).encode()).hexdigest()[:24]}.safetensors"
        try:
            kept, _ = storage.read(file, "latents", 1, ("latents",))
            storage.check_numbers(file, {"latents": 4}, kept)
            progress(1, 1)
            return kept["latents"].to(self._pipe.device)
        except UserError:  # not there, or cut off while it was written
            latents = self._sample(seeds, progress, prompt=prompt)
            if storage.keep(file, {"latents": latents}, made_by):
                self._cache = None  # one warning is enough
            return latents

    @cached_property
    def _model(self) -> str:
        """A hash of all that a picture depends on before the VAE."""
        read = [(tower.layer, tower.normed) for tower in self.towers]
        settings = json.dumps([read, dict(self._pipe.scheduler.config)], default=str, sort_keys=True)
        return _digest(fingerprint(self.towers) + settings, denoiser_module(self._pipe))

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all that an explanation rests on: also what makes pictures of latents and what looks at them."""
        drawn = json.dumps(asdict(self._sampling))
        return _digest(self._model + drawn, self._pipe.vae, self.image_encoder)

    def _sample(self, seeds: Sequence[int], progress: Progress, **prompt: Any) -> Tensor:
        return sample_latents(self._pipe, seeds, self._sampling, progress=progress, **prompt).float()


class DiffusersFixedNoise:
    """`core.conceptor.pruning.FixedNoise` of one seed."""

    def __init__(self, studio: DiffusersStudio, template: Template, seed: int) -> None:
        self._studio, self._template, self._seed = studio, template, seed

    def draw(self, mixes: Sequence[PseudoToken]) -> Tensor:
        return self._studio.pictures(self._studio.latents_of_mixes(self._template, mixes, [self._seed] * len(mixes)))

    def features(self, pictures: Tensor) -> Tensor | None:
        return self._studio.features(pictures)

    def latents(self, pictures: Tensor) -> Tensor:
        return self._studio.latents_of_pictures(pictures)


def image_encoder(pipe: DiffusionPipeline) -> Any:
    """The pipeline's own, or None."""
    return getattr(pipe, "image_encoder", None)


@torch.no_grad()
def image_features(pipe: DiffusionPipeline, pictures: Tensor) -> Tensor | None:
    """Features (n, width) of pictures (n, height, width, 3) in 0..1, of unit length; None without an image encoder."""
    if (model := image_encoder(pipe)) is None:
        return None
    inputs = clip_inputs(pictures, model.config)
    embeds = model(inputs.to(model.device, model.dtype)).image_embeds
    return normalize(embeds.float().cpu(), dim=-1)


def _digest(text: str, *modules: torch.nn.Module | None) -> str:
    """A hash of a text and of all weights of some modules, and of which LoRAs count in them and how much."""
    digest = hashlib.sha256(text.encode())
    for module in filter(None, modules):
        for name, weight in sorted(module.state_dict().items()):
            digest.update(name.encode())
            digest.update(weight.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        layers = (layer for layer in module.modules() if hasattr(layer, "merged_adapters"))
        loras = [[layer.active_adapters, layer.scaling, layer.merged_adapters] for layer in layers]
        digest.update(json.dumps(loras).encode())
    return digest.hexdigest()


def _of_part(rows: Sequence[int], total: int, progress: Progress) -> Progress:
    """What tells of the steps of some of so many pictures as of steps of all."""

    def show(done: int, steps: int) -> None:
        progress(rows[0] * steps + len(rows) * done, total * steps)

    return show


def portions(seeds: Sequence[int], size: int = PICTURES_AT_ONCE) -> list[Sequence[int]]:
    """Seeds as they are drawn together, at most `size` at once."""
    return [seeds[first : first + size] for first in range(0, len(seeds), size)]


def clip_inputs(pictures: Tensor, config: Any) -> Tensor:
    """Pictures (n, height, width, 3) in 0..1 as CLIP's vision model with this configuration sees them: (n, 3, h, w)."""
    square = _cut_to_square(pictures.permute(0, 3, 1, 2), config.image_size)
    mean, std = (torch.tensor(getattr(config, f"image_{name}", clip)).view(3, 1, 1) for name, clip in CLIP_COLOURS)
    return (square.mul(255).round() / 255 - mean).div(std)


def _cut_to_square(pictures: Tensor, size: int) -> Tensor:
    """The middle of pictures (n, 3, height, width), scaled to `size`."""
    side = min(pictures.shape[-2:])
    top, left = ((length - side) // 2 for length in pictures.shape[-2:])
    square = pictures[..., top : top + side, left : left + side]
    if side == size:
        return square
    return torch.nn.functional.interpolate(square, (size, size), mode="bicubic", antialias=True).clamp(0, 1)
