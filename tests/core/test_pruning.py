"""The fewest words that still make a picture: against the published search written plainly."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import torch
from conceptlens.core.conceptor.mixture import TokenMix
from conceptlens.core.conceptor.pruning import Search, bundles_of, prune
from conceptlens.core.errors import UserError
from conceptlens.evaluation.pruning import published_pruning

THRESHOLD = 0.93


def mix_of(count: int, seed: int) -> TokenMix:
    generator = random.Random(seed)
    return TokenMix.of(
        range(count), [f"word{n}" for n in range(count)], [generator.random() ** 4 for _ in range(count)]
    )


class World:
    """Where a picture's similarity falls with the coefficients that it lost, each by its own weight."""

    def __init__(self, mix: TokenMix, seed: int) -> None:
        generator = random.Random(seed)
        self.loss = {
            token: value * generator.uniform(0.2, 2.0) for token, value in zip(mix.ids, mix.coefficients, strict=True)
        }
        self.all = sum(self.loss.values())
        self.drawn = 0

    def like(self, mixes: Sequence[TokenMix]) -> list[float]:
        self.drawn += len(mixes)
        return [sum(self.loss[token] for token in mix.ids) / self.all for mix in mixes]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("together", [1, 4])
def test_the_published_search_is_the_one_written_plainly(seed: int, together: int) -> None:
    mix = mix_of(40, seed)
    bundles = bundles_of(mix, torch.eye(40), 0.95)
    plain, ours = World(mix, seed), World(mix, seed)
    expected, drawn = published_pruning(mix, plain.like, THRESHOLD, bundles)
    found = prune(mix, ours.like, THRESHOLD, bundles, "published", together)
    assert found.mix == expected
    assert found.pictures == ours.drawn
    if together == 1:
        assert found.pictures <= drawn  # none is made twice
    assert found.similarity == plain.like([expected])[0] >= THRESHOLD


def test_bisection_leaves_as_few_words_with_fewer_pictures() -> None:
    ours, plain, made, drawn = 0, 0, 0, 0
    for seed in range(40):
        mix = mix_of(50, seed)
        world, bundles = World(mix, seed), bundles_of(mix, torch.eye(50), 0.95)
        found = prune(mix, world.like, THRESHOLD, bundles, together=1)
        expected, pictures = published_pruning(mix, world.like, THRESHOLD, bundles)
        assert world.like([found.mix])[0] >= THRESHOLD
        ours, plain = ours + len(found.mix), plain + len(expected)
        made, drawn = made + found.pictures, drawn + pictures
    assert ours <= 1.02 * plain
    assert made <= 0.5 * drawn


@pytest.mark.parametrize("search", ["published", "bisection"])
def test_one_word_stays_though_none_is_needed(search: Search) -> None:
    mix = mix_of(9, 0)
    found = prune(mix, lambda mixes: [1.0] * len(mixes), THRESHOLD, bundles_of(mix, torch.eye(9), 0.95), search)
    assert found.mix.ids == mix.ids[:1]
    alone = prune(mix.top(1), lambda _: pytest.fail("nothing to draw"), THRESHOLD, [[mix.ids[0]]], search)
    assert (alone.mix, alone.pictures, alone.similarity) == (mix.top(1), 0, 1.0)


def test_what_is_found_is_told_while_it_is_searched() -> None:
    mix = mix_of(12, 1)
    world, told = World(mix, 1), list[tuple[int, int]]()
    bundles = bundles_of(mix, torch.eye(12), 0.95)
    found = prune(mix, world.like, THRESHOLD, bundles, watch=lambda left, pictures: told.append((len(left), pictures)))
    assert told[-1][1] == found.pictures
    assert [pictures for _, pictures in told] == sorted(pictures for _, pictures in told)


def test_similar_words_leave_together_and_some_come_first() -> None:
    mix = TokenMix.of([10, 11, 12, 13], ["cat", "cats", "snow", "kitten"], [0.9, 0.1, 0.3, 0.05])
    likeness = torch.eye(4)
    likeness[0, 3] = likeness[3, 0] = 0.99  # cat and kitten, by their places 0 and 3
    places = {token: place for place, token in enumerate(mix.ids)}
    assert mix.ids == (10, 12, 11, 13)
    likeness[places[10], places[11]] = likeness[places[11], places[10]] = 0.97
    assert bundles_of(mix, likeness, 0.95) == [[13, 10], [11], [12]]
    assert bundles_of(mix, likeness, 0.95, first=[12])[0] == [12]


@pytest.mark.parametrize("threshold", [0.0, 1.1])
def test_a_threshold_that_is_no_similarity_is_refused(threshold: float) -> None:
    with pytest.raises(UserError, match="above 0, up to 1"):
        prune(mix_of(3, 0), lambda _: [], threshold, [])
