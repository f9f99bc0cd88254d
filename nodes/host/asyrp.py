"""The asymmetric reverse process among the host's samplers, and pictures inverted with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.sample
import comfy.sampler_helpers
import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...core.hspace.process import Denoise, Fresh, Inversion, asyrp, invert, restored
from ...core.model.protocols import Progress
from .hspace import UNSHIFTED, HostBottleneck
from .patches import answered_without_unet, check_evaluated, wrappers_of

CACHED = "which answers in place of the UNet where the model is evaluated twice, with and without a shift"
Sampled = Callable[[Denoise, Denoise, Tensor, Tensor, Fresh, Callable[..., object]], Tensor]
"""From the model with and without a shift, x, noise levels, new noise and a callback after each step to the last x."""


def asyrp_sampler(eta: float) -> comfy.samplers.KSAMPLER:
    """A SAMPLER that shifts the bottleneck for the predicted picture only."""

    def sampled(
        shifted: Denoise, plain: Denoise, x: Tensor, sigmas: Tensor, fresh: Fresh, watch: Callable[..., object]
    ) -> Tensor:
        return asyrp(shifted, plain, x, sigmas, eta, fresh, watch)

    return _sampler(sampled)


def inverted(
    model: ModelPatcher,
    positive: Any,
    negative: Any,
    latents: Tensor,
    sigmas: Tensor,
    *,
    mask: Tensor | None,
    cfg: float,
    eta: float,
    seed: int,
    progress: Progress,
) -> tuple[Tensor, comfy.samplers.KSAMPLER]:
    """The noise (n, 4, h, w) of pictures' latents, and the SAMPLER that comes back to them over the same sigmas.

    `mask` (n or 1, height, width) as the host's noise masks: the pictures stay where it is 0.
    """
    HostBottleneck(model)  # refuses other models
    check_evaluated(wrappers_of(model), CACHED)
    part = None if mask is None else comfy.sampler_helpers.prepare_mask(mask, latents.shape, torch.device("cpu"))
    found: list[Inversion] = []
    total = (len(sigmas) - 1) * (1 if eta else 2)

    def find(_: Denoise, plain: Denoise, x: Tensor, levels: Tensor, fresh: Fresh, *__: Any) -> Tensor:
        steps = iter(range(1, total + 1))
        inversion = invert(plain, x, levels, eta, fresh, lambda *_: progress(next(steps), total))
        # The SAMPLER is kept for as long as the graph: not in the GPU's memory.
        path, corrections = ([each.cpu() for each in parts] for parts in (inversion.path, inversion.corrections))
        found.append(replace(inversion, path=path, corrections=corrections))
        return inversion.path[0]

    sample_custom: Any = comfy.sample.sample_custom
    empty = torch.zeros_like(latents)
    noise = sample_custom(
        model, empty, cfg, _sampler(find), sigmas, positive, negative, latents, disable_pbar=True, seed=seed
    )

    def back(shifted: Denoise, plain: Denoise, x: Tensor, levels: Tensor, _: Fresh, watch: Any) -> Tensor:
        return restored(shifted, plain, found[0], x, levels, watch, part)

    return noise, _sampler(back)


def _sampler(sampled: Sampled) -> comfy.samplers.KSAMPLER:
    """A process of core as the host runs a sampler."""

    def run(
        model: Any, x: Tensor, sigmas: Tensor, extra_args: dict[str, Any], callback: Any = None, disable: Any = None
    ) -> Tensor:
        del disable  # of a bar in the terminal
        management: Any = comfy.model_management
        runs = 0  # of the UNet to its bottleneck

        def ran(state: dict[str, Any]) -> dict[str, Any]:
            nonlocal runs
            runs += 1
            return state

        watched = comfy.model_patcher.create_model_options_clone(extra_args["model_options"])
        wrappers = watched["transformer_options"].get("wrappers", {})
        check_evaluated(wrappers, CACHED)
        patches = watched["transformer_options"].setdefault("patches", {})
        patches["middle_block_after_patch"] = [*patches.get("middle_block_after_patch", []), ran]
        unshifted = comfy.model_patcher.create_model_options_clone(watched)
        unshifted["transformer_options"][UNSHIFTED] = True
        # As the host's own samplers do: a seed's second random numbers, the first are its start noise.
        seed = (extra_args.get("seed") or 0) + (x.device.type == "cpu")
        generator = torch.Generator(x.device).manual_seed(seed % 2**64)

        def denoise(options: dict[str, Any], x: Tensor, sigma: float) -> Tensor:
            management.throw_exception_if_processing_interrupted()
            before = runs
            denoised = model(x, x.new_full((len(x),), sigma), **{**extra_args, "model_options": options})
            if before and runs == before:
                raise answered_without_unet(watched, CACHED)
            return denoised

        def fresh() -> Tensor:
            return torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)

        def watch(number: int, x: Tensor, denoised: Tensor) -> None:
            if callback is not None:
                sigma = sigmas[number]
                callback({"x": x, "i": number, "sigma": sigma, "sigma_hat": sigma, "denoised": denoised})

        return sampled(partial(denoise, watched), partial(denoise, unshifted), x, sigmas, fresh, watch)

    return comfy.samplers.KSAMPLER(run)
