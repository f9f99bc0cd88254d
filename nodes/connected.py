"""What is connected to a node, looked at before the node does anything."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

from comfy_api.v0_0_2 import io
from torch import Tensor

from ..core.errors import UserError
from . import host

# What an input of a type lacks when nothing comes through its link, and what to do.
EMPTY = {
    "MODEL": "the loader behind it has no model; load a checkpoint",
    "CLIP": "the checkpoint behind it has no text encoder; load one, for example with Load CLIP",
    "VAE": "the checkpoint behind it has no VAE; load one with Load VAE",
    "CLIP_VISION": "the loader behind it has no image encoder; load one with Load CLIP Vision, or disconnect it",
    "CONDITIONING": "no prompt comes through it; connect CLIP Text Encode",
    "CONTEXT_EDIT": "no edit comes through it; connect TIME Edit Model",
    "IMAGE": "no picture comes through it; connect Load Image or VAE Decode",
    "MASK": "no mask comes through it; draw one, or disconnect it",
    "LATENT": "no latent comes through it; connect VAE Encode or an empty latent",
    "SIGMAS": "no step comes through it; connect a scheduler with one step or more",
}


class Node(io.ComfyNode):
    """A node of the pack: what it does begins when `check_connected` has nothing to say."""

    reads: host.Reads = "unets"

    def __init_subclass__(cls, **others: Any) -> None:
        super().__init_subclass__(**others)
        own = cls.__dict__.get("execute")
        # The host makes locked copies of a class with all that it has: there it is wrapped already.
        if own and not hasattr(own.__func__, "__wrapped__"):
            cls.execute = classmethod(_after_check(own.__func__))  # pyright: ignore[reportAttributeAccessIssue]


def _after_check(execute: Callable[..., io.NodeOutput]) -> Callable[..., io.NodeOutput]:
    _, *names = inspect.signature(execute).parameters

    @wraps(execute)
    def checked(cls: type[Node], *listed: Any, **named: Any) -> io.NodeOutput:
        given = {**dict(zip(names, listed, strict=False)), **named}
        schema = cls.SCHEMA or cls.GET_SCHEMA()
        if not schema.is_input_list:
            check_connected(schema, given, cls.reads)
        return execute(cls, **given)

    return checked


def check_connected(schema: io.Schema, given: Mapping[str, Any], reads: host.Reads = "unets") -> None:
    """Raises UserError for what comes empty, is no number, or does not belong together."""
    for each in schema.inputs:
        if each.id not in given:
            continue
        value, kind = given[each.id], each.get_io_type()
        if is_empty(kind, value):
            raise UserError(f"The input {each.id} is empty: {EMPTY.get(kind, 'nothing comes through it')}.")
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"The input {each.id} is {value}; give a finite number.")
    latents = {each.id: given[each.id] for each in schema.inputs if each.get_io_type() == "LATENT" and each.id in given}
    host.check_parts(given.get("model"), given.get("clip"), given.get("vae"), latents, reads)


def is_empty(kind: str, value: Any) -> bool:
    """Whether an input of the host's type `kind` holds nothing that could be used."""
    if value is None:
        return kind != "*"
    if kind == "VAE":  # what a checkpoint without one gives
        return getattr(value, "first_stage_model", value) is None
    if kind == "CLIP":
        return getattr(value, "cond_stage_model", value) is None
    if kind == "CONDITIONING":
        return len(value) == 0
    if kind == "LATENT":
        return value.get("samples") is None
    if kind in ("IMAGE", "MASK"):
        return isinstance(value, Tensor) and value.numel() == 0
    return kind == "SIGMAS" and len(value) < 2


def in_range(node: type[io.ComfyNode], **values: Any) -> bool | str:
    """What the host says of widgets' values, for `validate_inputs`: it leaves the inputs that are named there to us.

    A value of None comes from another node.
    """
    inputs: dict[str, Any] = {each.id: each for each in (node.SCHEMA or node.GET_SCHEMA()).inputs}
    for name, value in values.items():
        if value is None:
            continue
        options, low, high = (getattr(inputs[name], part, None) for part in ("options", "min", "max"))
        if options is not None and value not in options:
            return f"{name} is {value!r:.80}; choose {', '.join(map(str, options))}."
        if low is not None and high is not None and not low <= value <= high:
            return f"{name} is {value}; give a number from {low} to {high}."
    return True
