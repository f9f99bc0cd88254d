"""Words by their texts and by their embeddings, without a model."""

from __future__ import annotations

import pytest
import torch
from conceptlens.core.errors import UserError
from conceptlens.core.vocabulary import Vocabulary, completions, nearest_tokens, token_texts
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
    found = nearest_tokens(table, candidates, [4, 5], 3)
    for token, near in zip([4, 5], found, strict=True):
        scores = {other: float(cosine_similarity(table[token], table[other], dim=0)) for other in candidates}
        scores.pop(token, None)
        assert near == sorted(scores, key=lambda other: -scores[other])[:3]


def test_only_some_words_stay_whole_ones_first() -> None:
    """With all that belongs to them, in the order of their ids."""
    numbers = torch.arange(5.0)[:, None]
    whole = [True, False, True, True, False]
    words = Vocabulary(
        torch.tensor([3, 4, 6, 8, 9]), ["cat", "dog", "dog", "Snow", "sn"], whole, [numbers], [1], numbers
    )
    some = words.only(["snow", "DOG", "dog"])
    assert (some.ids.tolist(), some.texts, some.whole_words) == ([6, 8], ["dog", "Snow"], [True, True])
    assert some.embeddings[0].tolist() == some.features.tolist() == [[2.0], [3.0]]
    assert words.only(["sn"]).ids.tolist() == [9]
    with pytest.raises(UserError, match="of 5 tokens has no ice cream, mouse; write words of one token each"):
        words.only(["mouse", "cat", "ice cream"])
