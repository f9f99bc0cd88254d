"""EmojiWorld's transformer: what it is taught, and what it learns from."""

from __future__ import annotations

import random
from typing import Any, cast

import torch
from conceptlens.world.architecture import TEXT
from conceptlens.world.emoji import transformer
from conceptlens.world.emoji.captions import draw_caption, subjects
from conceptlens.world.emoji.lessons import Lessons, key
from conceptlens.world.emoji.part import KEYWORDS, OBJECTS, part_of
from conceptlens.world.emoji.truth import Truth
from conceptlens.world.tokenizer import clip_tokenizer
from diffusers import FluxPipeline
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel


def test_the_part_shows_nothing_that_it_does_not_name() -> None:
    whole = Truth.load()
    part = part_of(whole)
    assert len(part.default_colours) == OBJECTS
    assert list(part.keywords) == list(KEYWORDS)
    assert set(part.professions) == set(whole.professions)
    generator = random.Random(0)
    for _ in range(3000):
        caption = draw_caption(part, generator)
        known = part.professions if caption.kind in ("profession", "man or woman") else part.emoji
        assert all(subject.name in known for subject in subjects(part, caption.kind, caption.content))
        assert (
            subjects(whole, caption.kind, caption.content).keys()
            >= subjects(part, caption.kind, caption.content).keys()
        )


def lessons() -> Lessons:
    """Of random pictures, by a text encoder of random weights."""
    part = part_of(Truth.load())
    generator = torch.Generator().manual_seed(0)
    drawn = random.Random(1)
    keys = {key(draw_caption(part, drawn)) for _ in range(30_000)}
    latents = {name: torch.randn(2, 4, 16, 16, generator=generator) for name in sorted(keys)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        text_encoder = CLIPTextModel(CLIPTextConfig(**TEXT)).eval()
    return Lessons(part, latents, clip_tokenizer(), text_encoder)


def test_it_learns_the_velocity_of_a_rectified_flow() -> None:
    """A transformer that says the velocity has no loss but what the mean of hidden pictures takes from it."""
    taught = lessons()
    seen: list[tuple[Tensor, ...]] = []

    class Teller(torch.nn.Module):
        """Says nothing, and keeps what it is given."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, **given: Any) -> Any:
            seen.append((given["hidden_states"], given["timestep"], given["pooled_projections"]))
            return type("Said", (), {"sample": torch.zeros_like(given["hidden_states"])})

    torch.manual_seed(3)
    value = transformer.loss(cast("Any", Teller()), taught, 64, 5)
    ((patches, sigmas, pooled),) = seen
    assert patches.shape == (64, 64, 16)
    assert 0.1 < (pooled == 0).all(1).float().mean() < 0.5
    captions, latents = taught.draw(64, random.Random("transformer 5"))
    noisy: Any = FluxPipeline._unpack_latents(patches, 128, 128, 8)
    wanted = latents.double()
    for row, caption in enumerate(captions):
        signal = (1 - sigmas[row]).double() ** 2 / ((1 - sigmas[row]).double() ** 2 + sigmas[row].double() ** 2)
        if caption is not None and signal <= 0.754:
            shown = subjects(taught.truth, caption.kind, caption.content)
            pools = [(taught.latents[f"{s.characters} {caption.style} {caption.colour}"], p) for s, p in shown.items()]
            pictures = torch.cat([pool for pool, _ in pools]).double()
            shares = torch.cat([torch.full((len(pool),), p / len(pool)) for pool, p in pools]).double()
            errors = (noisy[row].double() - (1 - sigmas[row]) * pictures).square().flatten(1).sum(1)
            chances = (shares.log() - errors / (2 * sigmas[row].double() ** 2)).softmax(0)
            wanted[row] = torch.einsum("f,fchw->chw", chances, pictures)
    expected = ((noisy - wanted) / sigmas[:, None, None, None]).square().mean()
    torch.testing.assert_close(value.double(), expected, rtol=1e-4, atol=0)


def test_it_takes_latents_as_the_pipeline_packs_them() -> None:
    class Mirror(torch.nn.Module):
        def forward(self, **given: Any) -> Any:
            assert torch.equal(given["img_ids"], FluxPipeline._prepare_latent_image_ids(1, 8, 8, "cpu", torch.float32))
            return type("Said", (), {"sample": given["hidden_states"]})

    noisy = torch.randn(2, 4, 16, 16)
    given = torch.zeros(2), torch.zeros(2, 77, 384), torch.zeros(2, 384)
    assert torch.equal(transformer.velocity(cast("Any", Mirror()), noisy, *given), noisy)


def test_texts_are_summed_up_as_the_encoder_does() -> None:
    taught = lessons()
    captions = [None, *(draw_caption(taught.truth, random.Random(seed)) for seed in range(5))]
    texts = ["" if caption is None else caption.text for caption in captions]
    inputs = taught.tokenizer(texts, padding="max_length", return_tensors="pt")
    with torch.no_grad():
        whole: Any = taught.text_encoder(inputs.input_ids)
    torch.testing.assert_close(taught.contexts(captions).float(), whole.last_hidden_state, rtol=2e-3, atol=2e-3)
    ends = (inputs.input_ids == 49407).int().argmax(1)
    expected = whole.last_hidden_state[torch.arange(len(texts)), ends]
    torch.testing.assert_close(taught.pooled(captions).float(), expected, rtol=2e-3, atol=2e-3)
