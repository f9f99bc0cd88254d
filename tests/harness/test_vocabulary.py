"""Towers read what the programs' encoders read, and the vocabulary is what one prompt at a time gives."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conceptlens.core.conceptor.mixture import TokenMix
from conceptlens.core.conceptor.vocabulary import (
    CONCEPTOR_TEMPLATES,
    TEMPLATES,
    embed_vocabulary,
    fingerprint,
    template_features,
    text_feature,
)
from conceptlens.core.errors import UserError
from conceptlens.core.model.protocols import Family
from conceptlens.core.model.text_tower import CONTEXT_LENGTH, TextTower, WordTable, encode
from conceptlens.pipelines.adapter import DiffusersTextEncoder
from torch import Tensor
from torch.nn.functional import normalize

PROMPTS = ["a photo of a dog", "an old house on a hill, painted in oil", ""]


def no_vectors(towers: list[TextTower], count: int = 1) -> list[Tensor]:
    return [torch.zeros(count, tower.table.shape[1]) for tower in towers]


def test_towers_read_what_the_pipeline_reads(pipe: Any, encoder: DiffusersTextEncoder, family: Family) -> None:
    towers = encoder.towers()
    for prompt, context in zip(PROMPTS, encoder.encode(PROMPTS), strict=True):
        encoded = encode(towers, encoder.tokenize(prompt), [], no_vectors(towers))
        torch.testing.assert_close(encoded.context[0], context, rtol=1e-4, atol=1e-4)
        if family == "SDXL":
            pooled = pipe.encode_prompt(prompt, device="cpu", num_images_per_prompt=1)[2]
            torch.testing.assert_close(encoded.pooled, pooled, rtol=1e-4, atol=1e-4)


def test_a_token_as_pseudo_token_is_the_token(encoder: DiffusersTextEncoder) -> None:
    towers, tokens = encoder.towers(), encoder.tokenize("a photo of a dog on a dog")
    dog = encoder.tokenize("dog")[1]
    places = [slot for slot, token in enumerate(tokens) if token == dog]
    other = [token if token != dog else encoder.tokenize("cat")[1] for token in tokens]
    assert len(places) == 2
    embeddings = [tower.embed([dog]) for tower in towers]
    encoded = encode(towers, other, places, embeddings)
    expected = encode(towers, tokens, [], no_vectors(towers))
    torch.testing.assert_close(encoded.context, expected.context)
    torch.testing.assert_close(encoded.pooled, expected.pooled)


def test_the_gradient_of_a_pseudo_token_is_that_of_finite_differences(encoder: DiffusersTextEncoder) -> None:
    towers = [
        TextTower(**{**vars(tower), "weights": {k: v.double() for k, v in tower.weights.items()}})
        for tower in encoder.towers()
    ]
    tokens = encoder.tokenize("a photo of a dog")
    leaves = [tower.embed([320]).requires_grad_() for tower in towers]
    weight = torch.randn(CONTEXT_LENGTH, sum(leaf.shape[1] for leaf in leaves), dtype=torch.float64)

    def value(vectors: list[Tensor]) -> Tensor:
        return (encode(towers, tokens, [5], vectors).context * weight).sum()

    gradients = torch.autograd.grad(value(leaves), leaves)
    for number, leaf in enumerate(leaves):
        direction = torch.randn_like(leaf)
        there, back = ([*leaves[:number], leaf + s * direction, *leaves[number + 1 :]] for s in (1e-5, -1e-5))
        difference = (value(there) - value(back)) / 2e-5
        torch.testing.assert_close(difference, (gradients[number] * direction).sum(), rtol=1e-5, atol=1e-7)


@torch.no_grad()
def one_at_a_time(pipe: Any, token: int, templates: tuple[str, ...]) -> Tensor:
    """The published way: one prompt of 77 slots after another through the program's own encoder."""
    two = hasattr(pipe, "text_encoder_2")
    tokenizer, model = (pipe.tokenizer_2, pipe.text_encoder_2) if two else (pipe.tokenizer, pipe.text_encoder)
    total = torch.zeros(1)
    for template in templates:
        before, after = (tokenizer(part, add_special_tokens=False).input_ids for part in template.split("{}"))
        ids = [tokenizer.bos_token_id, *before, token, *after, tokenizer.eos_token_id]
        padded = torch.tensor([ids + [tokenizer.pad_token_id] * (CONTEXT_LENGTH - len(ids))])
        output = model(padded)
        feature = output.text_embeds[0] if two else output.last_hidden_state[0, len(ids) - 1]
        total = total + normalize(feature, dim=-1)
    return normalize(total, dim=-1)


@pytest.mark.parametrize("templates", TEMPLATES)
def test_features_are_those_of_one_prompt_at_a_time(pipe: Any, encoder: DiffusersTextEncoder, templates: str) -> None:
    ids = [1929, 320, 5, 40000]
    found = template_features(encoder, encoder.towers()[-1], torch.tensor(ids)[:, None], TEMPLATES[templates])
    for token, feature in zip(ids, found, strict=True):
        torch.testing.assert_close(feature, one_at_a_time(pipe, token, TEMPLATES[templates]), rtol=1e-4, atol=1e-5)


def test_a_vocabulary_is_kept_and_never_taken_for_another(
    pipe: Any, encoder: DiffusersTextEncoder, tmp_path: Path
) -> None:
    seen: list[tuple[int, int]] = []
    first = embed_vocabulary(encoder, "none", cache=tmp_path, progress=lambda *done: seen.append(done))
    assert seen[-1][0] == seen[-1][1]
    (file,) = tmp_path.iterdir()
    seen.clear()
    again = embed_vocabulary(encoder, "none", cache=tmp_path, progress=lambda *done: seen.append(done))
    assert not seen
    assert torch.equal(first.features, again.features)
    whole = file.read_bytes()
    for broken in (whole[: len(whole) // 2], b"", whole.replace(b"words", b"wordz")):
        file.write_bytes(broken)
        mended = embed_vocabulary(encoder, "none", cache=tmp_path, progress=lambda *done: seen.append(done))
        assert seen
        assert torch.equal(first.features, mended.features)
        assert file.read_bytes() == whole
        seen.clear()
    with torch.no_grad():
        pipe.text_encoder.get_input_embeddings().weight[1929] += 1
    assert fingerprint(encoder.towers()) != first.made_by["encoder"]
    embed_vocabulary(encoder, "none", cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def changed(tower: TextTower, weights: Mapping[str, Tensor]) -> TextTower:
    return replace(tower, weights={**tower.weights, **weights})


def test_a_vocabulary_belongs_to_one_encoder_with_its_loras(encoder: DiffusersTextEncoder) -> None:
    """Whatever is left alike: the embeddings, the width, the first tower. A clip skip changes no word."""
    towers, words = encoder.towers(), embed_vocabulary(encoder, "none", [320, 1929])
    words.check_encoder(towers)
    words.check_encoder([replace(tower, layer=tower.layer - 1, normed=not tower.normed) for tower in towers])
    *before, last = towers
    name, table = "encoder.layers.1.mlp.fc1.weight", "embeddings.token_embedding.weight"
    rows, columns = last.weights[name].shape
    lora = {name: last.weights[name] + 1e-3 * torch.randn(rows, 2) @ torch.randn(2, columns)}
    for others in (
        [*before, changed(last, lora)],
        [*before, changed(last, {table: torch.randn_like(last.table)})],
        [*towers, last],
        before,
    ):
        with pytest.raises(UserError, match="made with another text encoder"):
            words.check_encoder(others)


def test_a_folder_that_can_not_be_used_costs_no_vocabulary(
    encoder: DiffusersTextEncoder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "occupied").write_text("x")
    expected = embed_vocabulary(encoder, "none", [320, 1929], tmp_path / "free")
    with caplog.at_level(logging.WARNING):
        found = embed_vocabulary(encoder, "none", [320, 1929], tmp_path / "occupied" / "cache")
    assert torch.equal(found.features, expected.features)
    (said,) = caplog.messages
    assert said == found.warning
    assert str(tmp_path / "occupied") in said
    assert expected.warning is None


def test_words_are_what_a_reader_would_write(encoder: DiffusersTextEncoder) -> None:
    vocabulary = embed_vocabulary(encoder, "none")
    texts = dict(zip(vocabulary.ids.tolist(), vocabulary.texts, strict=True))
    assert texts[1929] == "dog"
    assert all(vocabulary.whole_words)
    assert not any("</w>" in text or " " in text for text in texts.values())
    assert 30_000 < len(vocabulary) < 40_000
    assert vocabulary.rows([1929]) == [list(texts).index(1929)]
    everything = embed_vocabulary(encoder, "none", tokens="all")
    assert len(everything) == 49406
    assert not all(everything.whole_words)
    few = embed_vocabulary(encoder, "none", [40000, 1929])
    rows = everything.rows([1929, 40000])
    assert (few.ids.tolist(), few.texts) == ([1929, 40000], [everything.texts[row] for row in rows])
    torch.testing.assert_close(few.features, everything.features[rows], rtol=0, atol=1e-3)  # kept in half precision
    tower = encoder.towers()[-1]
    feature = text_feature(encoder, tower, "dog", TEMPLATES["none"])
    (best, score), *_ = vocabulary.nearest(feature, 3)
    assert vocabulary.texts[best] == "dog"
    assert score == pytest.approx(1, abs=1e-3)
    with pytest.raises(UserError, match="empty"):
        text_feature(encoder, tower, " ", CONCEPTOR_TEMPLATES)
    long = " ".join(["dog"] * 75)
    assert text_feature(encoder, tower, long, TEMPLATES["none"]).isfinite().all()
    with pytest.raises(UserError, match="has 81 tokens and 77 fit"):
        text_feature(encoder, tower, long, ["a photo of a {}"])


def test_a_mix_of_one_token_is_that_token(encoder: DiffusersTextEncoder) -> None:
    vocabulary = embed_vocabulary(encoder, "none")
    tables = [tower.table for tower in encoder.towers()]
    mix = TokenMix.of([1929, 320], ["dog", "a"], [2.0, 0.0])
    vectors = mix.pseudo_token([WordTable(table) for table in tables])
    for vector, table, norm in zip(vectors, tables, vocabulary.norms, strict=True):
        torch.testing.assert_close(vector[0], normalize(table[1929], dim=0) * norm)
