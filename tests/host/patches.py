"""Other people's patches on a MODEL, for tests of what is followed and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from conceptlens.core.hspace.directions import HSpaceDirections
from conceptlens.core.model.protocols import unseen
from torch import Tensor

Patch = Callable[[Any], Any]


def prompt(seed: int) -> Any:
    return [[torch.randn(1, 77, 64, generator=torch.Generator().manual_seed(seed)), {}]]


POSITIVE, NEGATIVE = prompt(1), prompt(2)
UNUSED: Any = None


def directions(position: Any = "after") -> HSpaceDirections:
    shifts = torch.randn(1, 2, 64, 4, 4, generator=torch.Generator().manual_seed(4))
    return HSpaceDirections(torch.tensor([10.0, 0.1]), shifts, torch.ones(1, 2), "SD 1.x", position, {})


EULER: dict[str, Any] = {"sampler_name": "euler", "scheduler": "normal"}
RECORDED: dict[str, Any] = {"at_once": 1, "position": "after", "made_by": {}, "progress": unseen}


def sampling(**changes: Any) -> Any:
    from conceptlens.nodes.host import Sampling

    return Sampling(NEGATIVE, **{"steps": 3, "cfg": 4.0, "width": 64, "height": 64, **EULER, **changes})


def stock(kind: str, /, **inputs: Any) -> Patch:
    """A node of the host that takes and gives a MODEL."""
    import importlib

    module, name = kind.split(".")

    def patched(model: Any) -> Any:
        node: Any = getattr(importlib.import_module(f"comfy_extras.nodes_{module}"), name)
        if not hasattr(node, "execute"):
            return node().patch(model, **inputs)[0]
        output = node.execute(model, **inputs)
        return output[0] if isinstance(output, tuple) else output.args[0]

    return patched


def direction(position: Any = "after", scale: float = 1.0, positive: bool = False) -> Patch:
    def patched(model: Any) -> Any:
        from conceptlens.nodes.host import HostBottleneck

        return HostBottleneck(model).shifted(directions(position), 0, scale, positive_only=positive)

    return patched


def chained(*patches: Patch) -> Patch:
    def patched(model: Any) -> Any:
        for patch in patches:
            model = patch(model)
        return model

    return patched


CACHE = {"reuse_threshold": 0.2, "start_percent": 0.0, "end_percent": 1.0, "verbose": False}


def custom(model: Any, sampler: Any, steps: int = 4, scale: float = 4.0, **given: Any) -> Tensor:
    """SamplerCustom's latents."""
    import comfy.sample
    import comfy.samplers

    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", steps)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    start = {"noise": noise, "latent_image": torch.zeros_like(noise), **given}
    with torch.inference_mode():
        sample: Any = comfy.sample.sample_custom
        how = {"cfg": scale, "sampler": sampler, "sigmas": sigmas, "positive": POSITIVE, "negative": NEGATIVE}
        return sample(model, **start, **how, disable_pbar=True, seed=0)


def wrapped(kind: str) -> Patch:
    """A MODEL whose UNet or guidance a function stands around."""

    def patched(model: Any) -> Any:
        clone = model.clone()
        clone.add_wrapper(kind, lambda executor, *given, **named: executor(*given, **named))
        return clone

    return patched


def with_function_wrapper(model: Any) -> Any:
    clone = model.clone()
    clone.set_model_unet_function_wrapper(lambda apply, given: apply(given["input"], given["timestep"], **given["c"]))
    return clone
