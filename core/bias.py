"""Bias of a concept: how its mix, and its pictures, are balanced between two groups of words; and another balance."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile, zip_longest

import torch
from torch import Tensor

from .backend import TextEncoder
from .errors import UserError
from .explanation import Studio
from .mixture import TokenMix
from .model_edit import EditPair
from .text_tower import PROJECTION
from .vocabulary import check_space, nearest_tokens, text_feature

CONFIDENT = 1.96  # standard errors, for 95 %
AT_ONCE = 16  # pictures that the image encoder looks at together
OFFERED = 5  # words of a mix, where it has none of a group
HALVINGS = 6  # of the interval in which a setting is looked for

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


@dataclass(frozen=True)
class Share:
    """How many of some pictures belong to a group."""

    count: int
    total: int

    @property
    def value(self) -> float:
        return self.count / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's, with 95 % confidence: it stays within 0 and 1, and is right for few pictures too."""
        squared = CONFIDENT**2
        middle = (self.count + squared / 2) / (self.total + squared)
        room = self.total * self.value * (1 - self.value) + squared / 4
        half = CONFIDENT * room**0.5 / (self.total + squared)
        return max(0.0, middle - half), min(1.0, middle + half)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:.0%} ({low:.0%} to {high:.0%} with 95 % confidence)"


@dataclass(frozen=True)
class Reached:
    """The setting at which pictures come nearest to a wanted share."""

    setting: float
    share: Share
    tried: Mapping[float, Share]


def word_groups(group_a: str, group_b: str) -> list[Groups]:
    """The pairs of groups in two texts: words between commas, a pair in each line.

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


def nearness(encoder: TextEncoder, table: Tensor) -> Near:
    """By the direction of input embeddings; table: those of all tokens (tokens, width)."""

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

    What is near to both groups belongs to neither. Raises UserError for a group of which the mix has nothing, and for a
    token that belongs to two pairs.
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
            raise UserError(f'"{mix.texts[mix.ids.index(min(twice))]}" belongs to two lines; let one have it.')
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
    """The share of the first group in the coefficients of both, 0 to 1. Negative ones count as 0."""
    one, other = _sums(mix, pair)
    if one + other == 0:
        raise UserError(f"All coefficients of {pair.name} are 0; there is no balance between them.")
    return one / (one + other)


def balanced(mix: TokenMix, pairs: Sequence[Pair], target: float, strength: float = 1.0) -> TokenMix:
    """The mix with the first group of each pair at the share `target` of both, the rest and each pair's sum as before.

    strength: 0 leaves the mix as it is, 1 goes all the way; negative coefficients of a group become 0. Raises
    UserError for a target outside 0..1.
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


def picture_share(pictures: Tensor, group_a: Tensor, group_b: Tensor) -> Share:
    """How many pictures are more like a text of the first group than like any of the second.

    pictures (n, width), group_a and group_b (texts, width): features of unit length in one space.
    """
    one, other = ((pictures @ group.T).amax(1) for group in (group_a, group_b))
    return Share(int((one > other).sum()), len(pictures))


def check_judge(studio: Studio, groups: Sequence[Groups], prompt: str, concept: str) -> None:
    """Raises UserError, before a picture is drawn, for what `shares_of_pictures` could not judge."""
    shares_of_pictures(studio, torch.zeros(1, 4, 8, 8), groups, prompt, concept)


def shares_of_pictures(
    studio: Studio, latents: Tensor, groups: Sequence[Groups], prompt: str, concept: str
) -> list[Share]:
    """The share of the first group of each pair in pictures, given as latents (n, 4, h, w).

    Each picture is compared with the prompt for each word, which stands with the concept in place of {}. Raises
    UserError without an image encoder that shares a space with the text encoder.
    """
    encoder = studio.encoder
    tower = encoder.towers()[-1]
    seen = [studio.features(studio.pictures(some)) for some in latents.split(AT_ONCE)]
    pictures = torch.cat([features for features in seen if features is not None] or [torch.zeros(0, 0)])
    if not len(pictures):
        raise UserError("Pictures are judged by an image encoder; give one that was trained with the text encoder.")

    def features(words: Sequence[str]) -> Tensor:
        texts = [prompt.replace("{}", f"{word} {concept}".strip()) for word in words]
        return torch.stack([text_feature(encoder, tower, text, ["{}"]).cpu() for text in texts])

    texts = [(features(one), features(other)) for one, other in groups]
    check_space(PROJECTION in tower.weights, texts[0][0].shape[-1], pictures)
    return [picture_share(pictures, one, other) for one, other in texts]


def reach_share(share_at: Callable[[float], Share], target: float, most: float) -> Reached:
    """The setting between 0 and `most` at which the share comes nearest to `target`, by bisection.

    `share_at` counts pictures of a setting, of the same seeds each time. Where the target is not between the shares of
    0 and `most`, the nearer of these is what can be reached.
    """
    tried: dict[float, Share] = {}

    def beyond(setting: float) -> float:
        if setting not in tried:
            tried[setting] = share_at(setting)
        return tried[setting].value - target

    low, high = 0.0, most
    if beyond(low) * beyond(high) < 0:
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if beyond(middle) * beyond(low) > 0 else (low, middle)
            if abs(beyond(middle)) * tried[middle].total <= 0.5:
                break  # no number of pictures comes nearer
    best = min(tried, key=lambda setting: (abs(beyond(setting)), abs(setting)))
    return Reached(best, tried[best], tried)


def edits_for_share(
    pairs: Sequence[EditPair],
    share_of: Callable[[EditPair, Sequence[EditPair]], Share],
    target: float,
    most: float,
) -> list[Reached]:
    """How strong each of several TIME edits has to be for pictures of its source to have a share, 0 to `most`.

    `share_of` counts it in pictures of one pair's source after edits of all pairs, of which it is one. While it is
    looked at, the others keep their meaning. Raises UserError for a target outside 0..1.
    """
    check_share(target)

    def searched(number: int, pair: EditPair) -> Reached:
        def share_at(strength: float) -> Share:
            edits = [other._replace(strength=0.0) for other in pairs]
            edits[number] = pair._replace(strength=strength)
            return share_of(edits[number], edits)

        return reach_share(share_at, target, most)

    return [searched(number, pair) for number, pair in enumerate(pairs)]


def slot_of(pair: EditPair) -> str:
    """The source with {} where the destination has its first new word: a {} doctor, of a doctor => a female doctor.

    As TIME aligns them: capitals do not count, and "an" is "a" (an engineer => a female engineer).
    """
    source, destination = pair.source.split(), pair.destination.split()
    words = zip(map(_aligned, source), map(_aligned, destination), strict=False)
    same = sum(1 for _ in takewhile(lambda both: both[0] == both[1], words))
    return " ".join([*destination[:same], "{}", *source[same:]])


def _aligned(word: str) -> str:
    return "a" if word.casefold() == "an" else word.casefold()


def check_share(target: float) -> None:
    """Raises UserError for what is no share."""
    if not 0 <= target <= 1:
        raise UserError(f"The target is {target:g}; it is a share: give a number from 0 to 1.")
