"""Pictures of a diffusers pipeline, and their comparison before and after an edit."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, FluxPipeline
from torch import Tensor

from ..core.conceptor.quality import Sampler
from ..core.errors import UserError
from ..core.model.protocols import Progress, unseen
from ..core.model.text_tower import CONTEXT_LENGTH
from ..core.pictures.grid import labelled_grid
from .adapter import DiffusersDenoiser, Pipeline, denoiser_module

SCHEDULERS: dict[Sampler, Any] = {"ddim": DDIMScheduler, "dpmpp_2m": DPMSolverMultistepScheduler}
MOST_STEPS = 1000  # as many timesteps as Stable Diffusion was trained with
PICTURES_AT_ONCE = 16


@dataclass(frozen=True)
class Sampling:
    """How pictures are made; `size` in pixels, None for the model's own.

    `guidance_scale` is that of classifier-free guidance (arXiv 2207.12598, its 1 + w): none up to 1. `sampler`: None
    for the pipeline's own scheduler. Raises UserError for settings that make no picture.
    """

    num_inference_steps: int = 25
    guidance_scale: float = 7.5
    size: int | None = None
    sampler: Sampler | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.num_inference_steps <= MOST_STEPS:
            raise UserError(f"{self.num_inference_steps} sampling steps make no picture; give 1 to {MOST_STEPS}.")
        if not math.isfinite(self.guidance_scale):
            raise UserError(f"The guidance scale is {self.guidance_scale}; give a finite number.")
        if self.size is not None and (self.size < 64 or self.size % 64):
            raise UserError(f"A size of {self.size} pixels does not suit the model; give a multiple of 64.")


def check_seeds(seeds: Sequence[int]) -> None:
    """Raises UserError for a number that seeds no generator."""
    if strange := [seed for seed in seeds if not 0 <= seed < 2**63]:
        raise UserError(f"The seed {strange[0]} is not between 0 and 2^63; give another one.")


def sample(pipe: Pipeline, prompt: str | Sequence[str], seeds: Sequence[int], sampling: Sampling) -> Tensor:
    """One picture for each seed, (seeds, height, width, 3) in 0..1; a seed gives the same start noise everywhere.

    prompt: one for all, or one for each seed.
    """
    prompts = [prompt] * len(seeds) if isinstance(prompt, str) else list(prompt)
    pictures = _run(pipe, seeds, sampling, "pt", prompt=prompts)
    return pictures.permute(0, 2, 3, 1).float().cpu()


def sample_latents(
    pipe: Pipeline, seeds: Sequence[int], sampling: Sampling, progress: Progress = unseen, **prompt: Any
) -> Tensor:
    """The same before the VAE, (seeds, 4, h, w) in the UNet's scale; `prompt`: a text, or embeddings of one prompt.

    By the names that the pipeline has for them; embeddings are (1, ...), or (seeds, ...) for one each. `progress` is
    called after each step.
    """
    prompts = {
        name: [value] * len(seeds) if isinstance(value, str) else value.expand(len(seeds), *value.shape[1:])
        for name, value in prompt.items()
    }
    return _run(pipe, seeds, sampling, "latent", progress, **prompts)


@contextmanager
def sampled_by(pipe: Pipeline, sampler: Sampler | None) -> Iterator[None]:
    """Inside, the pipeline samples by `sampler`, by its own scheduler without one; a rectified flow always does."""
    scheduler = pipe.scheduler
    if sampler and not isinstance(pipe, FluxPipeline):
        pipe.scheduler = SCHEDULERS[sampler].from_config(scheduler.config)
    try:
        yield
    finally:
        pipe.scheduler = scheduler


def _run(
    pipe: Pipeline, seeds: Sequence[int], sampling: Sampling, output: str, progress: Progress = unseen, **prompt: Any
) -> Tensor:
    call: Any = pipe

    def tell(_: Any, step: int, __: Any, kept: dict[str, Any]) -> dict[str, Any]:
        progress(
            min(step + 1, sampling.num_inference_steps), sampling.num_inference_steps
        )  # some schedulers take one more
        return kept

    if "negative_prompt_embeds" not in prompt:
        prompt["negative_prompt"] = [""] * len(seeds)  # as the host has it; without one SDXL's pipeline takes zeros
    flux, size = isinstance(pipe, FluxPipeline), sampling.size
    if flux:
        size = size or 8 * latent_size(pipe)
        prompt |= {"true_cfg_scale": sampling.guidance_scale, "max_sequence_length": CONTEXT_LENGTH}
    else:
        prompt["guidance_scale"] = sampling.guidance_scale
    with sampled_by(pipe, sampling.sampler):
        made = call(
            **prompt,
            num_inference_steps=sampling.num_inference_steps,
            height=size,
            width=size,
            generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
            output_type=output,
            callback_on_step_end=tell,
        ).images
    return call._unpack_latents(made, size, size, call.vae_scale_factor) if flux and output == "latent" else made


def latent_size(pipe: Pipeline) -> int:
    """A side of the latents that a model draws by itself."""
    return pipe.default_sample_size if isinstance(pipe, FluxPipeline) else pipe.unet.config.sample_size


def latent_channels(pipe: Pipeline) -> int:
    """Of the latents that a model reads."""
    channels = denoiser_module(pipe).config.in_channels
    return channels // 4 if isinstance(pipe, FluxPipeline) else channels


def before_and_after(
    pipe: Pipeline,
    lora: dict[str, Tensor],
    prompts: Sequence[str],
    seeds: Sequence[int],
    sampling: Sampling,
    progress: Progress = unseen,
) -> tuple[Tensor, Tensor]:
    """Pictures of each prompt without and with the LoRA of an edit, each (prompts, seeds, height, width, 3).

    `progress` counts prompts. The pipeline is left as it was.
    """
    denoiser = DiffusersDenoiser(pipe)

    def pictures(first: int) -> Tensor:
        rows = []
        for number, prompt in enumerate(prompts, start=first):
            rows.append(sample(pipe, prompt, seeds, sampling))
            progress(number, 2 * len(prompts))
        return torch.stack(rows)

    before = pictures(1)
    denoiser.apply(lora)
    try:
        return before, pictures(1 + len(prompts))
    finally:
        denoiser.remove()


def comparison(before: Tensor, after: Tensor, prompts: Sequence[str], least_width: int = 128) -> Tensor:
    """A grid with a column for each prompt and, for each seed, a row before and a row after the edit.

    before, after: what `before_and_after` gives. Pictures narrower than `least_width` pixels are enlarged by a whole
    factor.
    """
    factor = max(1, least_width // before.shape[3])
    images, labels = [], []
    for seed in range(before.shape[1]):
        for name, rows in (("before", before), ("after", after)):
            images += [row[seed].repeat_interleave(factor, 0).repeat_interleave(factor, 1) for row in rows]
            labels += [f"{prompt} ({name})" for prompt in prompts]
    return labelled_grid(images, labels, columns=len(prompts))


@torch.no_grad()
def decoded(pipe: Pipeline, latents: Tensor) -> Tensor:
    """Pictures (n, height, width, 3) in 0..1 of latents (n, 4, h, w) in the UNet's scale."""
    vae: Any = pipe.vae
    parts = [
        vae.decode(some.to(vae.device, vae.dtype) / vae.config.scaling_factor).sample
        for some in latents.split(PICTURES_AT_ONCE)
    ]
    return in_range(torch.cat(parts))


def in_range(pictures: Tensor) -> Tensor:
    """Pictures (n, 3, height, width) in -1..1 as (n, height, width, 3) in 0..1."""
    return (pictures.float().cpu() / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
