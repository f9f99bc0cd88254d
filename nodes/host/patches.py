"""What a MODEL carries besides its weights: what of it a UNet of ours can be given, and what is refused by name.

The host's sampler needs nothing of this, it draws with all of it. What is here is for methods that evaluate a UNet of
their own (explanations, the Jacobian) or look into the host's (h-space).
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from copy import deepcopy
from typing import Any

import comfy.hooks
import comfy.patcher_extension
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch.autograd.graph import saved_tensors_hooks

from ...core.errors import UserError

Options = dict[str, Any]
"""The host's transformer options: what patches the UNet calls, and what they are told of the evaluation."""
Wrappers = dict[str, dict[Any, list[Any]]]
"""Functions that the host calls around its own: by the place and a key."""
KEY = "conceptlens"  # of our wrappers
POSITIVES = "conceptlens_positives"  # the transformer option with the uuids of the positive prompt's parts
# Wrappers by the places where the host calls them, the outermost first.
AROUND_GUIDANCE = (WrappersMP.PREDICT_NOISE, WrappersMP.CALC_COND_BATCH)
AROUND_UNET = (WrappersMP.APPLY_MODEL, WrappersMP.DIFFUSION_MODEL)
STEP_CACHES = {"easycache": "EasyCache", "lazycache": "LazyCache"}  # by the keys of their wrappers
# What an object patch may replace without changing the UNet: a sampling that is read where it matters, the latents'
# scale, and the precision.
OBJECTS = ("model_sampling", "latent_format", "manual_cast_dtype")
SAME = ("torch.compile", KEY)  # keys of wrappers that do not change what the UNet computes
AROUND_MODEL = ("model_function_wrapper", "context_handler")  # model options
GUIDANCE = (
    "sampler_cfg_function",
    "sampler_pre_cfg_function",
    "sampler_post_cfg_function",
    "sampler_calc_cond_batch_function",
)


def name_of(patch: Any) -> str:
    """Who made a patch: its node's class where it is a function of one, or its own class."""
    return getattr(patch, "__qualname__", type(patch).__qualname__).split(".")[0]


def check_prediction(model: ModelPatcher) -> None:
    """Raises UserError, naming it, for what changes the UNet's prediction and can't be given to another UNet."""
    wrappers, options = wrappers_of(model), model.model_options
    carried = [*_caches(wrappers), *_around(wrappers, AROUND_UNET)]
    carried += [f"{name_of(options[kind])} ({kind})" for kind in AROUND_MODEL if kind in options]
    carried += [f"a replacement of {name}" for name in model.object_patches if name not in OBJECTS]
    carried += [f"{name} (injection)" for name in model.injections]
    carried += [f"a wrapper of the weight {name}" for name in model.weight_wrapper_patches]
    _refuse(carried, "which acts in the host's sampler alone: what is drawn would not be what is explained")


def check_guidance(model: ModelPatcher) -> None:
    """Raises UserError, naming it, for what combines the predictions for two prompts in a way of its own."""
    options = model.model_options
    carried = list(_around(wrappers_of(model), AROUND_GUIDANCE))
    for kind in GUIDANCE:
        found = options.get(kind, [])
        carried += [f"{name_of(patch)} ({kind})" for patch in (found if isinstance(found, list) else [found])]
    _refuse(carried, "which changes guidance in a way that can't be differentiated")


def check_evaluated(wrappers: Wrappers, why: str) -> None:
    """Raises UserError, naming it, for a cache of the host that answers in place of the UNet; `why` it does harm."""
    _refuse(list(_caches(wrappers)), why)


def answered_without_unet(model_options: dict[str, Any], why: str) -> UserError:
    """What is raised when something else than the UNet has answered, naming all that may have; `why` it does harm."""
    wrappers = model_options["transformer_options"].get("wrappers", {})
    carried = [*_caches(wrappers), *_around(wrappers, (*AROUND_GUIDANCE, *AROUND_UNET))]
    carried += [f"{name_of(model_options[kind])} ({kind})" for kind in AROUND_MODEL if kind in model_options]
    return _refusal(carried or ["a step cache"], why)


def check_conditioning(name: str, conditioning: Any) -> None:
    """Raises UserError for a prompt that comes with weights or models of its own."""
    for _, options in conditioning:
        hooks = options.get("hooks")
        if hooks is not None and hooks.get_type(comfy.hooks.EnumHookType.Weight):
            raise UserError(
                f"The {name} prompt carries a LoRA or another weight hook, but one UNet is differentiated for both "
                "prompts; connect the prompt before its hooks, and load the LoRA into the model."
            )
        if "gligen" in options:
            raise UserError(
                f"The {name} prompt carries GLIGEN's boxes, which can't be differentiated; connect it before them."
            )


def has_patches(model: ModelPatcher) -> bool:
    """Whether the UNet calls patches while it computes."""
    options = model.model_options["transformer_options"]
    return any(any(options.get(name, {}).values()) for name in ("patches", "patches_replace"))


def patch_names(model: ModelPatcher) -> str:
    """The patches that the UNet calls while it computes, as a user knows them."""
    options = model.model_options["transformer_options"]
    names = [name_of(patch) for patches in options.get("patches", {}).values() for patch in patches]
    names += [name_of(patch) for blocks in options.get("patches_replace", {}).values() for patch in blocks.values()]
    return " and ".join(dict.fromkeys(names))


def portable(options: Options, device: torch.device, dtype: torch.dtype, copies: dict[int, Any]) -> Options:
    """Transformer options for a UNet of ours, whose patches may be differentiated.

    What the patches hold is copied to where the UNet is, as the host moves it; the host's own stay as they are.
    `copies` remembers what has been copied, for further calls.
    """

    def moved(patch: Any) -> Any:
        return deepcopy(patch, copies).to(device).to(dtype) if hasattr(patch, "to") else patch

    def differentiable(patch: Any) -> Any:
        if not callable(patch):  # a layer's class and what runs it
            return patch

        def run(*inputs: Any) -> Any:
            # Patches write into what they are given, which a backward pass may still need.
            with saved_tensors_hooks(lambda saved: saved.clone(), lambda saved: saved):
                return patch(*inputs)

        return run

    own = {name: value for name, value in options.items() if name not in ("wrappers", "callbacks")}
    own = comfy.patcher_extension.copy_nested_dicts(own)
    for patches in own.get("patches", {}).values():
        patches[:] = [differentiable(moved(patch)) for patch in patches]
    for blocks in own.get("patches_replace", {}).values():
        blocks.update({block: moved(patch) for block, patch in blocks.items()})
    return own


def tell_positives(model: ModelPatcher) -> None:
    """Lets the patches of a clone know which evaluations are for the positive prompt; see `prompted`.

    The host numbers prompts as each guider hands them over (self-attention guidance evaluates the negative prompt as
    the first, Dual CFG Guider its positive one as the third), but a guider knows its positive prompt by name.
    """

    def tell(executor: Any, guider: Any, sigmas: Any, extra_args: Options, *others: Any) -> Any:
        conds = guider.conds
        if "positive" in conds:
            positives = {cond["uuid"] for cond in conds["positive"]}
            for cond in (cond for name in conds if name != "positive" for cond in conds[name]):
                if cond["uuid"] in positives:  # what the host puts beside a positive prompt's area has its uuid
                    cond["uuid"] = uuid.uuid4()
            extra_args["model_options"]["transformer_options"][POSITIVES] = frozenset(positives)
        return executor(guider, sigmas, extra_args, *others)

    # Not by add_wrapper: the host keeps these in its options anyway, and a clone takes options along.
    wrappers = model.model_options["transformer_options"].setdefault("wrappers", {})
    wrappers.setdefault(WrappersMP.SAMPLER_SAMPLE, {})[KEY] = [tell]


def prompted(options: Options) -> list[bool]:
    """Whether each chunk of an evaluation is for the positive prompt. Raises UserError where the sampler can't tell."""
    if POSITIVES not in options:
        raise UserError(
            "The sampler or guider does not say which prompt is the positive one; use one that has a positive prompt, "
            'or h-space Direction with apply_to = "both".'
        )
    return [which in options[POSITIVES] for which in options["uuids"]]


def wrappers_of(model: ModelPatcher) -> Wrappers:
    found = model.model_options["transformer_options"].get("wrappers", {})
    return comfy.patcher_extension.merge_nested_dicts(found, model.wrappers)


def _caches(wrappers: Wrappers) -> Iterator[str]:
    keys = dict.fromkeys(key for kind in wrappers.values() for key in kind)
    return (f"{STEP_CACHES[key]} (a step cache)" for key in keys if key in STEP_CACHES)


def _around(wrappers: Wrappers, kinds: Iterable[str]) -> Iterator[str]:
    for kind in kinds:
        for key, functions in wrappers.get(kind, {}).items():
            if key not in SAME and key not in STEP_CACHES:
                yield from (f"{name_of(function) if key is None else key} ({kind} wrapper)" for function in functions)


def _refuse(carried: list[str], why: str) -> None:
    if carried:
        raise _refusal(carried, why)


def _refusal(carried: list[str], why: str) -> UserError:
    return UserError(f"The model carries {' and '.join(dict.fromkeys(carried))}, {why}; connect it before that node.")
