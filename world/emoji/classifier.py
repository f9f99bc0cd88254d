"""What EmojiWorld's classifier learns from: every emoji, and men and women of each profession."""

from __future__ import annotations

import random

import torch
from PIL import ImageFilter
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ..pictures import to_tensor
from .captions import SEXES, Caption
from .colours import HUES
from .pictures import SEEN, Pictures, varied
from .truth import STYLES, Truth

BLUR = 1.2  # pixels at most: what an autoencoder does to a picture must not count


def kinds(truth: Truth) -> dict[str, list[str]]:
    """What the classifier tells apart -> characters that show it: every emoji, men and women of each profession."""
    people = {
        f"{SEXES[sex]} {name}": profession[sex] for name, profession in truth.professions.items() for sex in SEXES
    }
    return {**{name: [characters] for name, characters in truth.emoji.items()}, **people}


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
