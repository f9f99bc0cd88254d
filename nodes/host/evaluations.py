"""What the host's UNet was given and said while a sampler ran."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import comfy.patcher_extension
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...core.errors import UserError
from .halves import Evaluation
from .patches import KEY, Options, has_patches, patch_names, prompted, tell_positives
from .sampling import Sampling, sampled


@dataclass(frozen=True, eq=False)
class Evaluated:
    """One chunk of an evaluation of the UNet, on the CPU in float32."""

    prompted: bool
    prompt: object  # the host's id of the part of a prompt
    given: Evaluation
    output: Tensor  # (1, 4, height, width)


def watched(model: ModelPatcher, seen: Callable[[float, list[Evaluated]], object]) -> ModelPatcher:
    """A clone that tells the noise level and the chunks of each evaluation of its UNet, for one picture."""

    def look(executor: Any, x: Tensor, timesteps: Tensor, context: Tensor, *others: Any, **named: Any) -> Tensor:
        *_, options = others
        chunks = [_chunk(row, x, timesteps, context, *others) for row in range(len(x))]
        # On the CPU, whatever the host does with its tensors afterwards.
        kept = [chunk.copied(torch.device("cpu"), torch.float32) for chunk in chunks]
        output = executor(x, timesteps, context, *others, **named)
        told = zip(prompted(options), options["uuids"], kept, output.float().cpu().split(1), strict=True)
        seen(float(options["sigmas"][0]), [Evaluated(*each) for each in told])
        return output

    clone = model.clone()
    tell_positives(clone)
    clone.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, KEY, look)
    return clone


def check_alone(model: ModelPatcher, positive: Any, sampling: Sampling) -> None:
    """Raises UserError, naming them, for patches by which a prompt's prediction hangs on others beside it or on chance.

    Those can't be followed with one prompt at a time. Two evaluations of a model with patches at the first noise level.
    """
    if not has_patches(model):
        return

    def compare(executor: Any, x: Tensor, timesteps: Tensor, context: Tensor, *others: Any, **named: Any) -> Tensor:
        chunks = [_chunk(row, x, timesteps, context, *others) for row in range(len(x))]
        together = executor(x, timesteps, context, *others, **named)
        for row, part in enumerate(chunks):
            given = (part.x, part.timesteps, part.context, part.label, part.control or None, part.options)
            if apart(executor(*given, **named), together[row : row + 1]) > tolerance(model):
                raise UserError(
                    f"The model carries {patch_names(model)}, which makes its prediction for a prompt depend on "
                    "the prompts beside it or on chance, so that it can't be followed; connect it before that node."
                )
        return together

    clone = model.clone()
    clone.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, KEY, compare)
    with torch.inference_mode():
        sampled(clone, positive, [0], replace(sampling, steps=1, sampler_name="euler", scheduler="normal"))


@torch.no_grad()
def apart(one: Tensor, other: Tensor) -> float:
    """How far a prediction is from another one, as a share of its size."""
    return float((one.float() - other.float()).norm() / other.float().norm().clamp(min=1e-30))


def tolerance(model: ModelPatcher) -> float:
    """By how much two evaluations of the host's UNet may be `apart` that are the same but for rounding."""
    return 1e-3 if model.model.get_dtype_inference() == torch.float32 else 3e-2


def _chunk(
    row: int, x: Tensor, timesteps: Tensor, context: Tensor, label: Tensor | None, control: Any, options: Options
) -> Evaluation:
    """One chunk of what the UNet is given, with lists of its own: the UNet writes into those."""

    def its(part: Tensor | None) -> Any:
        return None if part is None else part[row % len(part)][None]

    added = {name: [its(part) for part in parts] for name, parts in (control or {}).items()}
    told = {"cond_or_uncond": [options["cond_or_uncond"][row]], "uuids": [options["uuids"][row]]}
    own = comfy.patcher_extension.copy_nested_dicts(options) | told
    return Evaluation(its(x), its(timesteps), its(context), its(label), added, own)
