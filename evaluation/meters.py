"""What a picture shows, judged without opinion: its colour, its emoji, and whether a person is a man or a woman."""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.pictures.grid import to_pil
from ..world.emoji.colours import colour_name, main_hue

PALE = 0.85  # as bright as that in all channels, a pixel is background
PROTOTYPE_VARIANTS = 8  # of each clean picture, whose mean embedding stands for it


def shown_colour(picture: Tensor) -> str | None:
    """The name of the colour that most of a picture (height, width, 3) in 0..1 has; None when it bears none."""
    image = to_pil(picture).convert("RGBA")  # pale backgrounds are no colour to `main_hue`
    return colour_name(main_hue(image).hue)


def ink(pictures: Tensor) -> Tensor:
    """Where pictures (n, 3, height, width) in -1..1 show something, and not pale background: (n, height, width)."""
    return (pictures.amin(1) / 2 + 0.5 < PALE).float()


def place(pictures: Tensor) -> tuple[Tensor, Tensor]:
    """The middle and the spread of what pictures show, each (n, 2) for x and y: -1 is left or top, 1 the other end."""
    shown = ink(pictures)
    middles, spreads = [], []
    for axis in (2, 1):
        along = shown.sum(3 - axis)
        part = along / along.sum(1, keepdim=True).clamp(min=1)
        scale = torch.linspace(-1, 1, part.shape[1])
        middles.append(part @ scale)
        spreads.append((part @ scale.square() - middles[-1].square()).clamp(min=0).sqrt())
    return torch.stack(middles, 1), torch.stack(spreads, 1)
