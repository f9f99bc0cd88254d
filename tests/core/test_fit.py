"""What a fit learns, and by what."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conceptlens.core.conceptor.dictionary import Dictionary
from conceptlens.core.conceptor.fit import FitState, Settings


@pytest.mark.parametrize(("method", "stays"), [("shares", True), ("conceptor", False)])
def test_only_the_papers_network_decays(method: Any, stays: bool) -> None:
    """Without a gradient coefficients stay: a decay of their logarithms would make all of them alike."""
    embeddings = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))
    words = Dictionary(torch.arange(8), list("abcdefgh"), [embeddings], [1.0])
    settings = Settings(method, num_tokens=4, learning_rate=0.01)
    state = FitState.begin(words, torch.arange(1.0, 9.0), settings, torch.Generator())
    before = state.coefficients(embeddings)
    for _ in range(20):
        for weight in state.coefficients.parameters():
            weight.grad = torch.zeros_like(weight)
        state.optimizer.step()
    assert torch.equal(state.coefficients(embeddings), before) == stays
