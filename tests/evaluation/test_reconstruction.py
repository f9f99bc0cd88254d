"""How near pictures come to others, by features."""

from __future__ import annotations

import pytest
import torch
from conceptlens.evaluation.reconstruction import diversity, pairwise_similarity, perceptual_distance
from torch.nn.functional import cosine_similarity, normalize


def test_partners_are_compared_not_strangers() -> None:
    rows = normalize(torch.randn(5, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64), dim=-1)
    assert pairwise_similarity(rows, rows) == pytest.approx(1)
    expected = sum(float(rows[i] @ rows[i - 1]) for i in range(5)) / 5
    assert pairwise_similarity(rows, rows.roll(1, 0)) == pytest.approx(expected)


def test_the_distance_is_lpips() -> None:
    """One position after the other; blind to the length of activations."""
    generator = torch.Generator().manual_seed(1)
    layers = [torch.randn(3, 4, width, generator=generator) for width in (6, 5)]
    others = [torch.randn(3, 4, width, generator=generator) for width in (6, 5)]
    expected = []
    for a, b in zip(layers, others, strict=True):
        cosines = [cosine_similarity(a[n, p], b[n, p], dim=0) for n in range(3) for p in range(4)]
        expected.append(sum(2 - 2 * float(cosine) for cosine in cosines) / 12)
    assert perceptual_distance(layers, others) == pytest.approx(sum(expected) / 2)
    assert perceptual_distance(layers, [3 * layer for layer in layers]) == pytest.approx(0, abs=1e-6)


def test_diversity_is_of_different_pictures() -> None:
    rows = normalize(torch.randn(4, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64), dim=-1)
    pairs = [1 - float(rows[i] @ rows[j]) for i in range(4) for j in range(4) if i != j]
    assert diversity(rows) == pytest.approx(sum(pairs) / 12)
    assert diversity(rows[:1]) == 0
    assert diversity(rows[:1].repeat(3, 1)) == pytest.approx(0, abs=1e-6)
