"""The judge: which attributes a face shows, by a classifier that knows pictures only."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, cross_entropy, interpolate, normalize

from ..classifier import Classifier
from .truth import VALUES

COUNTS = [len(values) for values in VALUES.values()]
UNKNOWN = -100  # the label of what a picture does not tell; torch's cross entropy leaves it out
SHIFT = 4  # pixels at most, and
NOISE = 0.08  # of the values: what a decoder or a sampler does to a picture must not count


def build() -> Classifier:
    """Untrained."""
    return Classifier(sum(COUNTS))


def logits(judge: nn.Module, pictures: Tensor) -> Sequence[Tensor]:
    """For each attribute (pictures, values), of pictures (n, 3, 128, 128) in -1..1."""
    return judge(_small(judge, pictures)).float().split(COUNTS, dim=1)


@torch.no_grad()
def features(judge: Classifier, pictures: Tensor) -> Tensor:
    """What the classifier sees (pictures, channels, height, width), each place of length 1: to compare pictures."""
    return normalize(judge.features(_small(judge, pictures)).float(), dim=1)


def _small(judge: nn.Module, pictures: Tensor) -> Tensor:
    weight = next(judge.parameters())
    return avg_pool2d(pictures, 2).to(weight, memory_format=torch.channels_last)


@torch.no_grad()
def attributes(judge: nn.Module, pictures: Tensor) -> Tensor:
    """The places in VALUES of what pictures show: (pictures, attributes), in the order of VALUES."""
    return torch.stack([scores.argmax(1) for scores in logits(judge, pictures)], dim=1)


def roughened(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures (n, 3, 128, 128) shifted, blurred and with noise, as generated ones may be."""
    down, right = (int(torch.randint(-SHIFT, SHIFT + 1, (), generator=generator)) for _ in range(2))
    pictures = pictures.roll((down, right), dims=(2, 3))
    if torch.rand((), generator=generator) < 0.5:
        pictures = interpolate(avg_pool2d(pictures, 2), scale_factor=2.0, mode="bilinear")
    return pictures + NOISE * torch.rand((), generator=generator) * torch.randn(pictures.shape, generator=generator)


def loss(judge: nn.Module, pictures: Tensor, labels: Tensor) -> Tensor:
    """The mean cross entropy of the attributes; labels (pictures, attributes), UNKNOWN where a picture tells none."""
    return torch.stack(
        [cross_entropy(scores, wanted) for scores, wanted in zip(logits(judge, pictures), labels.T, strict=True)]
    ).mean()
