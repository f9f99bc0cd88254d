"""A classifier that judges what a world draws."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import Conv2d, GroupNorm, Linear, Sequential, SiLU

WIDTHS = (32, 64, 128, 192)


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
