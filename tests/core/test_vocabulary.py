"""Words by their texts and by their embeddings, without a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from conceptlens.core.conceptor.vocabulary import completions, named_tokens, nearest_tokens, token_texts
from conceptlens.core.errors import UserError
from conceptlens.core.model.text_tower import WordTable
from torch.nn.functional import cosine_similarity

ENTRIES = ["<|startoftext|>", "dog</w>", "dog", "Hund</w>", "3</w>", "don't</w>", "\u72ac</w>", "<|endoftext|>"]


def test_words_are_whole_and_made_of_letters() -> None:
    texts = {token: entry.removesuffix("</w>") for token, entry in enumerate(ENTRIES)}
    found = token_texts(ENTRIES, lambda tokens: f" {texts[tokens[0]]} ", "words")
    assert found == {1: "dog", 3: "Hund", 5: "don't", 6: "\u72ac"}
    assert list(token_texts(ENTRIES, lambda tokens: texts[tokens[0]], "all")) == [1, 2, 3, 4, 5, 6]


def test_completions_begin_with_the_word_itself() -> None:
    words = {9: "hotdog", 5: "dogs", 7: "Dog", 3: "dogma", 1: "cat", 2: "\u72ac\u5c0f\u5c4b"}
    assert completions(words, "dog", 3) == [(7, "Dog"), (3, "dogma"), (5, "dogs")]
    assert completions(words, "DOG", 9)[-1] == (9, "hotdog")
    assert completions(words, "\u72ac", 9) == [(2, "\u72ac\u5c0f\u5c4b")]
    assert completions(words, "x", 9) == []


def test_nearest_tokens_are_those_of_largest_cosine() -> None:
    table = torch.randn(40, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    candidates = list(range(0, 40, 2))
    found = nearest_tokens(WordTable(table), candidates, [4, 5], 3)
    for token, near in zip([4, 5], found, strict=True):
        scores = {other: float(cosine_similarity(table[token], table[other], dim=0)) for other in candidates}
        scores.pop(token, None)
        assert near == sorted(scores, key=lambda other: -scores[other])[:3]


class Entries:
    """What is asked of a text encoder about its words."""

    def vocabulary(self) -> list[str]:
        return ENTRIES

    def decode(self, tokens: Sequence[int]) -> str:
        return ENTRIES[tokens[0]].removesuffix("</w>")


def test_words_are_found_whole_ones_first() -> None:
    """In the order of their ids, whatever their case."""
    encoder: Any = Entries()
    assert named_tokens(encoder, ["hund", "DOG", "dog"]) == [1, 3]
    assert named_tokens(encoder, ["dog", "3"], "all") == [1, 4]
    with pytest.raises(UserError, match="of 4 tokens has no 3, ice cream; write words of one token each"):
        named_tokens(encoder, ["3", "dog", "ice cream"])
