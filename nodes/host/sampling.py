"""The host's sampler with the settings of its KSampler and Empty Latent Image nodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import comfy.sample
import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher
from comfy.sd import VAE
from torch import Tensor

# Samplers that add no noise of their own.
NOISELESS = {"euler", "heun", "heunpp2", "dpm_2", "lms", "dpmpp_2m", "ddim"}
NOISELESS |= {"uni_pc", "uni_pc_bh2", "ipndm", "ipndm_v", "deis"}


class Sampling(NamedTuple):
    """What KSampler and Empty Latent Image are set to; the size in pixels."""

    steps: int
    cfg: float
    sampler_name: str
    scheduler: str
    width: int
    height: int


def samplers() -> list[str]:
    return comfy.samplers.KSampler.SAMPLERS


def schedulers() -> list[str]:
    return comfy.samplers.KSampler.SCHEDULERS


def drawn(model: ModelPatcher, vae: VAE, positive: Any, negative: Any, seed: int, sampling: Sampling) -> Tensor:
    """The picture (height, width, 3) that Empty Latent Image, KSampler and VAE Decode make of these settings."""
    with torch.inference_mode():
        return vae.decode(sampled(model, positive, negative, [seed], sampling))[0]


def sampled(
    model: ModelPatcher,
    positive: Any,
    negative: Any,
    seeds: Sequence[int],
    sampling: Sampling,
    callback: Callable[..., None] | None = None,
    start: Tensor | None = None,
) -> Tensor:
    """Latents (seeds, 4, height / 8, width / 8), each from the noise that KSampler gives its seed.

    `start`: latents (1, 4, h, w) that hold their noise already, for all seeds instead; the size is theirs.
    """
    sample, prepare_noise = (getattr(comfy.sample, name) for name in ("sample", "prepare_noise"))
    if start is None:
        empty = torch.zeros(1, 4, sampling.height // 8, sampling.width // 8)
        noise = torch.cat([prepare_noise(empty, seed) for seed in seeds])
        latents = torch.zeros_like(noise)
    else:
        latents = start.repeat(len(seeds), 1, 1, 1)
        noise = torch.zeros_like(latents)
    how = (*sampling[:4], positive, negative, latents)
    return sample(model, noise, *how, seed=seeds[0], callback=callback, disable_pbar=True)


def sampled_together(
    model: ModelPatcher,
    positives: Sequence[Any],
    negative: Any,
    seed: int,
    sampling: Sampling,
    start: Tensor | None = None,
) -> Tensor:
    """Latents (positives, 4, height / 8, width / 8), all from the noise that KSampler gives one seed, or from `start`.

    In one batch where that changes nothing: samplers that add noise give each row of a batch its own.
    """
    plain = all(len(positive) == 1 and positive[0][0].shape == positives[0][0][0].shape for positive in positives)
    if len(positives) > 1 and not (plain and sampling.sampler_name in NOISELESS):
        return torch.cat([sampled(model, one, negative, [seed], sampling, start=start) for one in positives])
    states = torch.cat([positive[0][0] for positive in positives])
    options = dict(positives[0][0][1])
    if options.get("pooled_output") is not None:
        options["pooled_output"] = torch.cat([positive[0][1]["pooled_output"] for positive in positives])
    return sampled(model, [[states, options]], negative, [seed] * len(positives), sampling, start=start)
