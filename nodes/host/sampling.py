"""The host's sampler with the settings of its KSampler and Empty Latent Image nodes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from inspect import signature
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from comfy.sd import VAE
from torch import Tensor

from ...core.model.protocols import Progress, unseen
from .patches import KEY

PICTURES_AT_ONCE = 16  # sampled together, where memory allows
_batched: dict[str, bool] = {}  # of each sampler: whether `draws_each_alone`


@dataclass(frozen=True, eq=False)
class Sampling:
    """What KSampler and Empty Latent Image are given beside the model and the positive prompt; the size in pixels.

    The default sampler is DDIM at its own timesteps: what diffusers' pipelines do with the same noise.
    """

    negative: Any  # CONDITIONING
    steps: int
    cfg: float
    width: int
    height: int
    sampler_name: str = "ddim"
    scheduler: str = "ddim_uniform"


def samplers() -> list[str]:
    return comfy.samplers.KSampler.SAMPLERS


def schedulers() -> list[str]:
    return comfy.samplers.KSampler.SCHEDULERS


def drawn(model: ModelPatcher, vae: VAE, positive: Any, seed: int, sampling: Sampling) -> Tensor:
    """The picture (height, width, 3) that Empty Latent Image, KSampler and VAE Decode make of these settings."""
    with torch.inference_mode():
        return decoded(vae, sampled(model, positive, [seed], sampling))[0]


def decoded(vae: VAE, latents: Tensor) -> Tensor:
    """Pictures (n, height, width, 3) of n latents; some models draw films of one picture."""
    pictures: Any = vae.decode(latents)
    return pictures.reshape(-1, *pictures.shape[-3:])


def draws_each_alone(model: ModelPatcher, positive: Any, sampling: Sampling) -> bool:
    """Whether a sampler makes of each row of a batch what it makes of it alone.

    Not those that add noise, which give each row its own, nor those that choose steps by the whole batch. Found out by
    letting the host's sampler run on a formula in place of the UNet, once for each sampler.
    """
    name = sampling.sampler_name
    if name not in _batched:

        def formula(executor: Any, x: Tensor, sigma: Tensor, model_options: dict[str, Any], _: Any) -> Tensor:
            guider = executor.class_obj
            row = (x / (1 + sigma.view(-1, *[1] * (x.ndim - 1)) ** 2)).tanh()
            others = {"model_options": model_options, "cond": [], "uncond": []}  # CFG++ looks at both predictions
            return comfy.samplers.cfg_function(guider.inner_model, row, 0.5 * row, guider.cfg, x, sigma, **others)

        toy: Any = model.clone()
        toy.model_options, toy.wrappers = {"transformer_options": {}}, {WrappersMP.PREDICT_NOISE: {KEY: [formula]}}
        few = replace(sampling, steps=4, cfg=2.0, scheduler="normal", width=64, height=64)
        both = _batch(toy, positive, [5, 6], few)
        alone = torch.cat([_batch(toy, positive, [seed], few) for seed in (5, 6)])
        _batched[name] = torch.allclose(both, alone, rtol=1e-3, atol=1e-4)
    return _batched[name]


def rows_at_once(model: ModelPatcher, shape: Sequence[int]) -> int:
    """How many latents of shape (n, channels, ..., h, w) the free memory holds, with and without the prompt."""
    management: Any = comfy.model_management
    free = management.get_free_memory(model.load_device)
    need = model.memory_required([2, *shape[1:]])
    return max(1, min(PICTURES_AT_ONCE, int(free / (2 * need))))


def portions(
    model: ModelPatcher, positive: Any, seeds: Sequence[int], sampling: Sampling, at_once: int
) -> Iterator[Sequence[int]]:
    """Seeds that can be drawn together: each picture is then KSampler's of its seed, whatever is drawn beside it."""
    several = at_once > 1 and len(seeds) > 1 and draws_each_alone(model, positive, sampling)
    size = at_once if several else 1
    return (seeds[first : first + size] for first in range(0, len(seeds), size))


def sampled(
    model: ModelPatcher,
    positive: Any,
    seeds: Sequence[int],
    sampling: Sampling,
    progress: Progress = unseen,
    at_once: int = 1,
) -> Tensor:
    """Latents (seeds, 4, height / 8, width / 8), each what Empty Latent Image and KSampler make of its seed.

    `progress` counts the steps of all pictures, of which at most `at_once` are drawn together.
    """
    latents: list[Tensor] = []
    for some in portions(model, positive, seeds, sampling, at_once):
        before, total = sum(map(len, latents)) * sampling.steps, len(seeds) * sampling.steps

        def count(done: int, _: int, before: int = before, total: int = total) -> None:
            progress(before + done, total)

        latents.append(_batch(model, positive, some, sampling, count))
    return torch.cat(latents)


def sampled_together(
    model: ModelPatcher,
    positives: Sequence[Any],
    seed: int,
    sampling: Sampling,
    start: Tensor | None = None,
) -> Tensor:
    """Latents (positives, 4, height / 8, width / 8), all from the noise that KSampler gives one seed.

    Or from `start`, latents (1, 4, h, w) that hold their noise already; the size is theirs then. In one batch where
    that changes nothing.
    """
    plain = all(len(positive) == 1 and positive[0][0].shape == positives[0][0][0].shape for positive in positives)
    together = plain and len(positives) > 1
    if not together or not draws_each_alone(model, positives[0], sampling):
        return torch.cat([_batch(model, one, [seed], sampling, start=start) for one in positives])
    states = torch.cat([positive[0][0] for positive in positives])
    options = dict(positives[0][0][1])
    if options.get("pooled_output") is not None:
        options["pooled_output"] = torch.cat([positive[0][1]["pooled_output"] for positive in positives])
    return _batch(model, [[states, options]], [seed] * len(positives), sampling, start=start)


def _batch(
    model: ModelPatcher,
    positive: Any,
    seeds: Sequence[int],
    sampling: Sampling,
    progress: Progress = unseen,
    start: Tensor | None = None,
) -> Tensor:
    """One run of the host's sampler: a row for each seed, from the seed's noise or from `start`."""
    names = ("sample", "prepare_noise", "fix_empty_latent_channels")
    sample, prepare_noise, fix_empty = (getattr(comfy.sample, name) for name in names)
    management: Any = comfy.model_management
    if start is None:
        empty = torch.zeros(1, 4, sampling.height // 8, sampling.width // 8)
        empty = fix_empty(model, empty, *[8] * ("downscale_ratio_spacial" in signature(fix_empty).parameters))
        noise = torch.cat([prepare_noise(empty, seed) for seed in seeds])
        latents = torch.zeros_like(noise)
    else:
        latents = start.repeat(len(seeds), 1, 1, 1)
        noise = torch.zeros_like(latents)

    def step(number: int, *_: Any) -> None:
        management.throw_exception_if_processing_interrupted()
        progress(len(seeds) * min(number + 1, sampling.steps), len(seeds) * sampling.steps)

    return sample(
        model,
        noise,
        sampling.steps,
        sampling.cfg,
        sampling.sampler_name,
        sampling.scheduler,
        positive,
        sampling.negative,
        latents,
        seed=seeds[0],
        callback=step,
        disable_pbar=True,
    )
