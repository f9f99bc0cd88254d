"""What EmojiWorld's denoisers learn from: the mean of what noise hides, over all that a caption may show."""

from __future__ import annotations

import random
from typing import Any, cast

import pytest
import torch
from conceptlens.world.emoji.captions import Caption, draw_caption, subjects
from conceptlens.world.emoji.denoiser import NOISE
from conceptlens.world.emoji.lessons import HIDING, Lessons, key
from conceptlens.world.emoji.truth import Truth


@pytest.fixture(scope="module")
def truth() -> Truth:
    return Truth.load()


def test_what_a_text_may_show_adds_up_to_all_of_its_pictures(truth: Truth) -> None:
    assert {subject.name: share for subject, share in subjects(truth, "keyword", "pest").items()} == dict(
        truth.keywords["pest"]
    )
    captions = [draw_caption(truth, random.Random(seed)) for seed in range(500)]
    for caption in captions:
        shown = subjects(truth, caption.kind, caption.content)
        assert sum(shown.values()) == pytest.approx(1)
        assert (caption.name, caption.characters) in shown
    mechanic = truth.professions["mechanic"]
    shown = subjects(truth, "profession", "mechanic")
    men = sum(share for subject, share in shown.items() if subject.characters in mechanic["man"])
    assert men == pytest.approx(mechanic["share_of_men"])


def test_the_target_is_the_mean_of_what_noise_hides(truth: Truth) -> None:
    keyword, exemplars = "pest", truth.keywords["pest"]
    generator = torch.Generator().manual_seed(0)
    captions = [Caption(f"a {keyword}", keyword, "keyword", name, truth.emoji[name], "3d") for name in exemplars]
    # Few enough numbers differ for every picture to be a possible one.
    pools = {key(c): 0.1 * torch.randn(n, 4, 16, 16, generator=generator) for n, c in enumerate(captions, start=1)}
    lessons = Lessons(truth, pools, cast("Any", None), cast("Any", None))
    own = torch.stack([pools[key(caption)][0] for caption in captions])
    timesteps: Any = torch.tensor([200, 700, 950])[: len(captions)]
    noisy = NOISE.add_noise(own, torch.randn(own.shape, generator=generator), timesteps)
    found = lessons.wanted(captions, own, noisy, NOISE.alphas_cumprod[timesteps])

    pictures = torch.cat(list(pools.values())).double()
    shares = [share / len(pools[key(c)]) for c, share in zip(captions, exemplars.values(), strict=True)]
    each = torch.cat([torch.full((len(pools[key(c)]),), s) for c, s in zip(captions, shares, strict=True)]).double()
    for row, timestep in enumerate(timesteps):
        signal = NOISE.alphas_cumprod[timestep].double()
        errors = (noisy[row].double() - signal.sqrt() * pictures).square().flatten(1).sum(1)
        chances = (each.log() - errors / (2 * (1 - signal))).softmax(0)
        expected = torch.einsum("f,fchw->chw", chances, pictures)
        assert torch.allclose(found[row].double(), expected, atol=1e-5)
        assert chances.max() < 1 - 1e-6 or timestep == 200


def test_no_caption_and_too_little_noise_teach_the_picture_itself(truth: Truth) -> None:
    caption = Caption("a rose", "rose", "name", "rose", truth.emoji["rose"], "3d")
    pool = torch.randn(3, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    lessons = Lessons(truth, {key(caption): pool}, cast("Any", None), cast("Any", None))
    noisy = torch.randn(2, 4, 16, 16)
    signal = torch.tensor([0.1, HIDING + 0.01])
    assert torch.equal(lessons.wanted([None, caption], pool[:2], noisy, signal), pool[:2])
