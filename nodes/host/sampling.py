"""The host's sampler with the settings of its KSampler and Empty Latent Image nodes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

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

_batched: dict[str, bool] = {}  # of each sampler: whether `draws_each_alone`


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


def draws_each_alone(model: ModelPatcher, positive: Any, negative: Any, sampler_name: str) -> bool:
    """Whether a sampler makes of each row of a batch what it makes of it alone.

    Not those that add noise, which give each row its own, nor those that choose steps by the whole batch. Found out by
    letting the host's sampler run on a formula in place of the UNet, once for each sampler.
    """
    if sampler_name not in _batched:

        def formula(executor: Any, x: Tensor, sigma: Tensor, model_options: dict[str, Any], _: Any) -> Tensor:
            guider = executor.class_obj
            row = (x / (1 + sigma.view(-1, 1, 1, 1) ** 2)).tanh()
            others = {"model_options": model_options, "cond": [], "uncond": []}  # CFG++ looks at both predictions
            return comfy.samplers.cfg_function(guider.inner_model, row, 0.5 * row, guider.cfg, x, sigma, **others)

        toy: Any = model.clone()
        toy.model_options, toy.wrappers = {"transformer_options": {}}, {WrappersMP.PREDICT_NOISE: {KEY: [formula]}}
        how = Sampling(4, 2.0, sampler_name, "normal", 64, 64)
        both = _batch(toy, positive, negative, [5, 6], how, unseen)
        alone = torch.cat([_batch(toy, positive, negative, [seed], how, unseen) for seed in (5, 6)])
        _batched[sampler_name] = torch.allclose(both, alone, rtol=1e-3, atol=1e-4)
    return _batched[sampler_name]


def portions(
    model: ModelPatcher, positive: Any, negative: Any, seeds: Sequence[int], sampler_name: str, at_once: int
) -> Iterator[Sequence[int]]:
    """Seeds that can be drawn together: each picture is then KSampler's of its seed, whatever is drawn beside it."""
    several = at_once > 1 and len(seeds) > 1 and draws_each_alone(model, positive, negative, sampler_name)
    size = at_once if several else 1
    return (seeds[first : first + size] for first in range(0, len(seeds), size))


def sampled(
    model: ModelPatcher,
    positive: Any,
    negative: Any,
    seeds: Sequence[int],
    sampling: Sampling,
    progress: Progress = unseen,
    at_once: int = 1,
) -> Tensor:
    """Latents (seeds, 4, height / 8, width / 8), each what Empty Latent Image and KSampler make of its seed.

    `progress` counts the steps of all pictures, of which at most `at_once` are drawn together.
    """
    latents: list[Tensor] = []
    for some in portions(model, positive, negative, seeds, sampling.sampler_name, at_once):
        before, total = sum(map(len, latents)) * sampling.steps, len(seeds) * sampling.steps

        def count(done: int, _: int, before: int = before, total: int = total) -> None:
            progress(before + done, total)

        latents.append(_batch(model, positive, negative, some, sampling, count))
    return torch.cat(latents)


def sampled_together(
    model: ModelPatcher,
    positives: Sequence[Any],
    negative: Any,
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
    if not together or not draws_each_alone(model, positives[0], negative, sampling.sampler_name):
        return torch.cat([_batch(model, one, negative, [seed], sampling, unseen, start) for one in positives])
    states = torch.cat([positive[0][0] for positive in positives])
    options = dict(positives[0][0][1])
    if options.get("pooled_output") is not None:
        options["pooled_output"] = torch.cat([positive[0][1]["pooled_output"] for positive in positives])
    return _batch(model, [[states, options]], negative, [seed] * len(positives), sampling, unseen, start)


def _batch(
    model: ModelPatcher,
    positive: Any,
    negative: Any,
    seeds: Sequence[int],
    sampling: Sampling,
    progress: Progress,
    start: Tensor | None = None,
) -> Tensor:
    """One run of the host's sampler: a row for each seed, from the seed's noise or from `start`."""
    sample, prepare_noise = (getattr(comfy.sample, name) for name in ("sample", "prepare_noise"))
    management: Any = comfy.model_management
    if start is None:
        empty = torch.zeros(1, 4, sampling.height // 8, sampling.width // 8)
        noise = torch.cat([prepare_noise(empty, seed) for seed in seeds])
        latents = torch.zeros_like(noise)
    else:
        latents = start.repeat(len(seeds), 1, 1, 1)
        noise = torch.zeros_like(latents)

    def step(number: int, *_: Any) -> None:
        management.throw_exception_if_processing_interrupted()
        progress(len(seeds) * min(number + 1, sampling.steps), len(seeds) * sampling.steps)

    how = (*sampling[:4], positive, negative, latents)
    return sample(model, noise, *how, seed=seeds[0], callback=step, disable_pbar=True)
