"""Which token of a destination prompt each token of a source prompt shall mean."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from ..errors import UserError
from ..model.protocols import PromptEncoder, Section
from ..model.text_tower import CONTEXT_LENGTH


class Articles(NamedTuple):
    """The pieces of "a" and "an", which count as one word."""

    same: Mapping[int, int] = {}  # the last piece of "an" to that of "a"
    more: Collection[int] = ()  # pieces before those, which only one of the two may have

    @classmethod
    def of(cls, encoder: PromptEncoder) -> Articles:
        """Those of an encoder, at the beginning of a prompt and in it."""
        same: dict[int, int] = {}
        more: set[int] = set()
        for beginning in ("", "x "):
            for an, a in zip(*(encoder.sections(f"{beginning}{word}") for word in ("an", "a")), strict=True):
                head = _shared(an.tokens, a.tokens)
                tail = _shared(an.tokens[head:][::-1], a.tokens[head:][::-1])
                one, other = (tokens[head : len(tokens) - tail] for tokens in (an.tokens, a.tokens))
                if one and other:
                    same[one[-1]] = other[-1]
                    more |= {*one[:-1], *other[:-1]}
        return cls(same, more)


NO_ARTICLES = Articles()


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two prompts begin with alike."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((count for count, (a, b) in pairs if a != b), min(len(one), len(other)))


def match_tokens(source: Sequence[int], destination: Sequence[int], articles: Articles = NO_ARTICLES) -> list[int]:
    """For each source token the place of the same token further right in the destination.

    Those of a template and the end count too; "an" counts as "a". Raises LookupError with the position of the first
    source token that the destination lacks.
    """
    wanted, offered = ([articles.same.get(token, token) for token in tokens] for tokens in (source, destination))
    places: list[int] = []
    first = 0  # of the destination's tokens that are left
    for position, token in enumerate(wanted):
        if token in offered[first:]:
            places.append(offered.index(token, first))
            first = places[-1] + 1
        elif token in articles.more:  # the article's next piece stands there
            places.append(min(first, len(offered) - 1))
        else:
            raise LookupError(position)
    return places


def align_tokens(
    source: Sequence[int],
    destination: Sequence[int],
    articles: Articles = NO_ARTICLES,
    slots: tuple[int, int] = (CONTEXT_LENGTH, CONTEXT_LENGTH),
) -> list[int]:
    """For each slot of the source prompt the slot of the destination prompt that it shall mean.

    Tokens as `match_tokens` has it; for the padding after them the destination's other slots follow in order, and the
    last one stands for what is missing. slots: how many the two prompts have. Raises LookupError as `match_tokens`.
    """
    own, others = slots
    places = match_tokens(source, destination, articles)
    places += range(places[-1] + 1, others)
    return (places + [others - 1] * own)[:own]


def align_sections(
    source: Sequence[Section], destination: Sequence[Section], articles: Articles, slots: tuple[int, int]
) -> list[int]:
    """`align_tokens` for contexts of one encoder after another; slots: how many the whole contexts have."""
    prompts = (source, destination)
    left = [total - sum(each.slots or 0 for each in prompt) for prompt, total in zip(prompts, slots, strict=True)]
    aligned: list[int] = []
    start = 0
    for one, other in zip(source, destination, strict=True):
        own = left[0] if one.slots is None else one.slots
        others = left[1] if other.slots is None else other.slots
        aligned += [start + slot for slot in align_tokens(one.tokens, other.tokens, articles, (own, others))]
        start += others
    return aligned


def check_aligned(encoder: PromptEncoder, source: str, destination: str, articles: Articles) -> None:
    """Raises UserError that names the first word of the source that the destination lacks in its place."""
    for place, (one, other) in enumerate(zip(encoder.sections(source), encoder.sections(destination), strict=True)):
        try:
            match_tokens(one.tokens, other.tokens, articles)
        except LookupError as missing:
            word = _word_at(encoder, source, place, missing.args[0])
            raise UserError(
                f'The destination "{destination}" lacks the source\'s word "{word}" in its place: it must contain all '
                f'words of the source "{source}" in order, with words added that say what should be assumed.'
            ) from None


def _word_at(encoder: PromptEncoder, prompt: str, place: int, position: int) -> str:
    """The word of a prompt to which the token at `position` of its section `place` belongs."""
    words, empty = prompt.split(), encoder.sections("")[place].tokens
    head = _shared(empty, encoder.sections(prompt)[place].tokens)
    parts = (" ".join(words[:count]) for count in range(len(words)))
    starts = [head + len(encoder.sections(part)[place].tokens) - len(empty) for part in parts]
    return [word for word, start in zip(words, starts, strict=True) if start <= position][-1]
