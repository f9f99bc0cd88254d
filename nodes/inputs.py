"""Inputs that several nodes have: those of the host's KSampler, Empty Latent Image and Save Image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from comfy_api.v0_0_2 import io

from ..core.conceptor.bias import MEN, WOMEN
from ..core.errors import UserError
from . import host


def checked(check: Callable[..., object], *values: Any) -> bool | str:
    """What `validate_inputs` says: the sentence of a UserError, or True. A value of None comes from another node."""
    try:
        if None not in values:
            check(*values)
    except UserError as error:
        return str(error)
    return True


def model_inputs() -> list[Any]:
    return [
        io.Model.Input("model", tooltip="The model that draws."),
        io.Clip.Input("clip", tooltip="Its text encoder."),
        io.Vae.Input("vae", tooltip="Its VAE."),
    ]


def seed_input(tooltip: str, optional: bool = False) -> Any:
    return io.Int.Input(
        "seed", default=0, min=0, max=2**64 - 1, control_after_generate=True, optional=optional, tooltip=tooltip
    )


def filename_input(default: str) -> Any:
    said = "Name of the file, with subfolders if you like; a number is added, nothing is overwritten."
    return io.String.Input("filename_prefix", default=default, tooltip=said)


def cfg_input(default: float = 7.5, optional: bool = False) -> Any:
    said = "Guidance scale, 0 to 100; 1: none."
    return io.Float.Input("cfg", default=default, min=0.0, max=100.0, step=0.1, optional=optional, tooltip=said)


def sampler_inputs() -> list[Any]:
    return [
        io.Int.Input("steps", default=20, min=1, max=1000, tooltip="Sampling steps, 1 to 1000."),
        cfg_input(),
        *sampler_choice(),
    ]


def sampler_choice(optional: bool = False) -> list[Any]:
    choices = (("sampler_name", host.samplers(), "euler"), ("scheduler", host.schedulers(), "normal"))
    return [
        io.Combo.Input(
            name,
            options=options,
            default=default,
            optional=optional,
            tooltip=f"The {name.removesuffix('_name')}, as in KSampler.",
        )
        for name, options, default in choices
    ]


def size_inputs() -> list[Any]:
    said = "Pixels, 64 to 8192, a multiple of 64."
    return [io.Int.Input(name, default=512, min=64, max=8192, step=64, tooltip=said) for name in ("width", "height")]


def group_inputs(optional: bool = False, several: bool = True) -> list[Any]:
    """Words of two groups that are weighed against each other; in lines, where there may be several pairs."""
    said = "separated by commas."
    if several:
        said += " For several pairs, each line of one group is weighed against the same line of the other."
    return [
        io.String.Input(
            "group_a",
            default=MEN,
            multiline=True,
            optional=optional,
            tooltip=f"The words of the first group, {said}",
        ),
        io.String.Input(
            "group_b",
            default=WOMEN,
            multiline=True,
            optional=optional,
            tooltip=f"The words of the second group, {said}",
        ),
    ]


def picture_inputs() -> list[Any]:
    """Of pictures in which a share is counted."""
    return [
        io.Int.Input(
            "num_images",
            default=32,
            min=1,
            max=10_000,
            optional=True,
            tooltip="How many pictures are judged, 1 to 10000: 32 give the share to within about 16 points, 128 to "
            "within 8.",
        ),
        io.Int.Input(
            "image_size",
            default=512,
            min=64,
            max=2048,
            step=64,
            optional=True,
            tooltip="Width and height of the pictures in pixels, 64 to 2048.",
        ),
        io.Int.Input(
            "sampling_steps",
            default=25,
            min=1,
            max=1000,
            optional=True,
            tooltip="Steps per picture, by DDIM, 1 to 1000.",
        ),
        cfg_input(optional=True),
        seed_input("The seed of the first picture; the others use the seeds that follow.", optional=True),
    ]
