"""What the encoders are taught is true."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
import torch
from conceptlens.world.emoji.captions import draw_caption
from conceptlens.world.emoji.encoders import contrastive_loss, shows
from conceptlens.world.emoji.truth import Truth
from torch.nn.functional import normalize


def test_the_contrastive_loss_is_the_mean_cross_entropy_of_both_directions() -> None:
    texts, images = (normalize(torch.randn(6, 16, dtype=torch.float64), dim=-1) for _ in range(2))
    matches = torch.eye(6, dtype=torch.bool)
    matches[0, 3] = matches[2, 5] = matches[3, 0] = True
    scale = torch.tensor(10.0, dtype=torch.float64)
    total = 0.0
    for a, b, true in ((texts, images, matches), (images, texts, matches.T)):
        for i in range(6):
            chances = torch.softmax(torch.stack([scale * a[i] @ b[j] for j in range(6)]), 0)
            right = [j for j in range(6) if true[i, j]]
            total -= sum(float(chances[j].log()) for j in right) / len(right) / 12
    assert float(contrastive_loss(texts.float(), images.float(), matches, scale)) == pytest.approx(total, rel=1e-5)


def test_what_may_be_drawn_for_a_caption_shows_it() -> None:
    truth, generator = Truth.load(), random.Random(0)
    captions = [draw_caption(truth, generator) for _ in range(3000)]
    assert all(shows(truth, caption, caption) for caption in captions)
    by_text: dict[str, list] = {}
    for caption in captions:
        by_text.setdefault(caption.text, []).append(caption)
    assert all(shows(truth, a, b) for same in by_text.values() for a in same for b in same)
    wrong = 0
    for a, b in pairwise(captions):
        if a.kind == b.kind == "colour" and shows(truth, a, b):
            wrong += (a.name, a.colour) != (b.name, b.colour)
        if a.kind == "name" and b.kind == "colour" and shows(truth, a, b):
            wrong += b.colour != truth.default_colours[b.name] or a.name != b.name
    assert wrong == 0
