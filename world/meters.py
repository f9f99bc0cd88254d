"""What a picture shows, judged without opinion: its colour, its emoji, and whether a person is a man or a woman."""

from __future__ import annotations

import random

import torch
from PIL import ImageFilter
from torch import Tensor, nn
from torch.nn import Conv2d, GroupNorm, Linear, Sequential, SiLU
from torch.nn.functional import cross_entropy

from ..core.plots import to_pil
from .captions import SEXES, Caption
from .colours import HUES, colour_name, main_hue
from .pictures import SEEN, Pictures, to_tensor, varied
from .truth import STYLES, Truth

WIDTHS = (32, 64, 128, 192)
PALE = 0.85  # as bright as that in all channels, a pixel is background
BLUR = 1.2  # pixels at most: what an autoencoder does to a picture must not count
PROTOTYPE_VARIANTS = 8  # of each clean picture, whose mean embedding stands for it


def kinds(truth: Truth) -> dict[str, list[str]]:
    """What the classifier tells apart -> characters that show it: every emoji, men and women of each profession."""
    people = {
        f"{SEXES[sex]} {name}": profession[sex] for name, profession in truth.professions.items() for sex in SEXES
    }
    return {**{name: [characters] for name, characters in truth.emoji.items()}, **people}


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


class Classifier(nn.Module):
    """A small convolutional network that knows pictures only: no text, and no part of the model that it judges."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, width in zip((3, *WIDTHS), WIDTHS, strict=False):
            layers += [Conv2d(before, width, 3, stride=2, padding=1), GroupNorm(8, width), SiLU()]
            layers += [Conv2d(width, width, 3, padding=1), GroupNorm(8, width), SiLU()]
        self.features = Sequential(*layers)
        self.head = Linear(WIDTHS[-1], classes)

    def forward(self, pictures: Tensor) -> Tensor:
        """Logits (pictures, classes) of pictures (n, 3, 128, 128) in -1..1."""
        return self.head(self.features(pictures).mean((2, 3)))


def classifier_batch(pictures: Pictures, size: int, generator: random.Random) -> tuple[Tensor, Tensor]:
    """Varied pictures (size, 3, 128, 128) of all kinds alike, in any style and colour, and their classes (size,)."""
    known = list(kinds(pictures.truth).items())
    labels = generator.choices(range(len(known)), k=size)
    shown = []
    for label in labels:
        name, characters = known[label]
        colour = generator.choice(list(HUES)) if name in pictures.truth.default_colours else None
        caption = Caption("", "", "name", name, generator.choice(characters), generator.choice(STYLES), colour)
        picture = varied(pictures.clean(caption), generator, SEEN)
        shown.append(to_tensor(picture.filter(ImageFilter.GaussianBlur(BLUR * generator.random()))))
    return torch.stack(shown), torch.tensor(labels)


def classifier_loss(classifier: nn.Module, pictures: Tensor, labels: Tensor) -> Tensor:
    weight = next(classifier.parameters())
    logits = classifier(pictures.to(weight, memory_format=torch.channels_last))
    return cross_entropy(logits.float(), labels.to(weight.device), label_smoothing=0.05)
