"""How near pictures of a mix come to pictures of its concept, by features of encoders (arXiv 2306.00966)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize


def pairwise_similarity(pictures: Tensor, others: Tensor) -> float:
    """The mean cosine of features (n, width) of unit length, each picture with its partner of the same seed."""
    return float((pictures * others).sum(1).mean())


def perceptual_distance(layers: Sequence[Tensor], others: Sequence[Tensor]) -> float:
    """LPIPS' distance (arXiv 1801.03924, equation 1, all weights 1) of pictures to their partners: 0 for the same.

    Of each layer's activations (n, positions, channels), scaled to length 1 at every position, the squared differences
    are averaged over positions and pictures; the mean of the layers.
    """
    apart = [
        (normalize(a, dim=-1) - normalize(b, dim=-1)).square().sum(-1).mean()
        for a, b in zip(layers, others, strict=True)
    ]
    return float(torch.stack(apart).mean())


def diversity(features: Tensor) -> float:
    """The mean of 1 - cosine between different rows (n, width) of unit length; 0 for fewer than two."""
    n = len(features)
    if n < 2:
        return 0.0
    return float(1 - ((features @ features.T).sum() - features.square().sum()) / (n * (n - 1)))
