"""Bias of a concept: how its mix, and its pictures, are balanced between two groups of words; and another balance."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

from ..errors import UserError
from ..model.protocols import TextEncoder
from ..model.text_tower import WordTable
from .mixture import TokenMix
from .vocabulary import nearest_tokens

MEN, WOMEN = "man, male, he", "woman, female, she"  # the groups that are weighed unless others are named
OFFERED = 5  # words of a mix, where it has none of a group

Groups = tuple[tuple[str, ...], tuple[str, ...]]
Near = Callable[[Sequence[str], Sequence[int], int], list[int]]
"""From words, the tokens that may be found and a number to the so many nearest tokens of each word, nearest first."""


@dataclass(frozen=True)
class Pair:
    """Two groups of words, and the tokens of a mix that belong to each."""

    words: Groups
    ids: tuple[frozenset[int], frozenset[int]]

    @property
    def name(self) -> str:
        return " / ".join(words[0] for words in self.words)


def word_groups(group_a: str, group_b: str) -> list[Groups]:
    """The pairs of groups in the texts `group_a` and `group_b`: words between commas, a pair in each line of both.

    Raises UserError for a group without words, for lines without a partner and for a word on both sides.
    """
    lines = [[line for line in text.splitlines() if line.strip()] for text in (group_a, group_b)]
    if not all(lines):
        raise UserError("A group has no words; write words between commas in both: man, male, he")
    if len(lines[0]) != len(lines[1]):
        raise UserError(
            f"group_a has {len(lines[0])} lines and group_b {len(lines[1])}; each line of one is weighed against the "
            "same line of the other."
        )
    found = []
    for pair in zip(*lines, strict=True):
        one, other = (tuple(word.strip() for word in line.split(",") if word.strip()) for line in pair)
        if not one or not other:
            raise UserError(f'"{pair[bool(one)]}" has no word; write words between commas.')
        if both := {word.casefold() for word in one} & {word.casefold() for word in other}:
            raise UserError(f'"{min(both)}" is in both groups; a word can be on one side only.')
        found.append((one, other))
    return found


def word_pair(group_a: str, group_b: str) -> Groups:
    """The same for one pair of groups. Raises UserError for several."""
    groups, *more = word_groups(group_a, group_b)
    if more:
        raise UserError("The groups have several lines; look at one pair of groups at a time.")
    return groups


def nearness(encoder: TextEncoder, table: WordTable) -> Near:
    """Nearness by the cosine similarity of input embeddings in `table`; to a word of several tokens nothing is near."""

    def near(words: Sequence[str], among: Sequence[int], top: int) -> list[int]:
        tokens = [encoder.tokenize(word)[1:-1] for word in words]
        rows = nearest_tokens(table, among, [found[0] for found in tokens if len(found) == 1], top) if tokens else []
        ranked = (token for rank in zip_longest(*rows) for token in rank if token is not None)
        return list(dict.fromkeys(ranked))

    return near


def pairs_in(
    mix: TokenMix, groups: Iterable[Groups], near: Near | None = None, among: Sequence[int] = (), widen: int = 0
) -> list[Pair]:
    """The tokens of a mix that belong to each group: its words, and the `widen` nearest to each of them of `among`.

    `among` are token ids; without `near` there are a group's own words alone. What is near to both groups belongs to
    neither. Raises UserError for a group of which the mix has nothing, and for a token that belongs to two pairs.
    """
    texts = [text.casefold() for text in mix.texts]  # a word and a beginning of the same letters have the same
    pairs: list[Pair] = []
    taken: set[int] = set()
    for words in groups:
        spelled = [{word.casefold() for word in group} for group in words]
        sides = [{token for token, text in zip(mix.ids, texts, strict=True) if text in group} for group in spelled]
        if near and widen:
            wide = [set(near(group, among, widen)) & set(mix.ids) for group in words]
            clear = (wide[0] - wide[1] - sides[1], wide[1] - wide[0] - sides[0])
            sides = [side | more for side, more in zip(sides, clear, strict=True)]
        for group, side in zip(words, sides, strict=True):
            if not side:
                raise UserError(_absent(group, mix, near))
        if twice := taken & (sides[0] | sides[1]):
            raise UserError(f'"{mix.texts[mix.ids.index(min(twice))]}" belongs to two lines; leave it in one of them.')
        taken |= sides[0] | sides[1]
        pairs.append(Pair(words, (frozenset(sides[0]), frozenset(sides[1]))))
    return pairs


def _absent(group: Sequence[str], mix: TokenMix, near: Near | None) -> str:
    texts = dict(zip(mix.ids, mix.texts, strict=True))
    offered = near(group, mix.ids, OFFERED) if near else mix.ids
    said = "nearest" if near else "largest"
    return (
        f"None of {', '.join(group)} is in the mix, whose {said} words are "
        f"{', '.join(texts[token] for token in offered[:OFFERED]) or 'none'}; write one of those, or add a word with "
        "Token Mix Conditioning."
    )


def balance(mix: TokenMix, pair: Pair) -> float:
    """The share of the first group in the coefficients of both, 0 to 1. Negative ones count as 0.

    Raises UserError when all are 0.
    """
    one, other = _sums(mix, pair)
    if one + other == 0:
        raise UserError(f"All coefficients of {pair.name} are 0; there is no balance between them.")
    return one / (one + other)


def balanced(mix: TokenMix, pairs: Sequence[Pair], target: float, strength: float = 1.0) -> TokenMix:
    """The mix with the first group of each pair at the share `target` of both, the rest and each pair's sum as before.

    strength: 0 leaves the mix as it is, 1 goes all the way; negative coefficients of a group become 0. Raises
    UserError for a target outside 0..1, and for a pair whose coefficients are all 0.
    """
    check_share(target)
    if strength == 0:
        return mix
    values = dict(zip(mix.ids, mix.coefficients, strict=True))
    for pair in pairs:
        before, total = balance(mix, pair), sum(_sums(mix, pair))
        after = before + strength * (target - before)
        for side, share, old in zip(pair.ids, (after, 1 - after), _sums(mix, pair), strict=True):
            for token in side:
                part = max(0.0, values[token]) / old if old else 1 / len(side)  # of its group
                values[token] = share * total * part
    return replace(TokenMix.of(list(values), mix.texts, list(values.values())), made_by=mix.made_by)


def _sums(mix: TokenMix, pair: Pair) -> tuple[float, float]:
    values = dict(zip(mix.ids, mix.coefficients, strict=True))
    one, other = (sum(max(0.0, values[token]) for token in side) for side in pair.ids)
    return one, other


def check_share(target: float) -> None:
    """Raises UserError for a target that is no share: outside 0..1."""
    if not 0 <= target <= 1:
        raise UserError(f"The target is {target:g}; it is a share: give a number from 0 to 1.")
