"""How strong an edit has to be for the pictures of its source to have a wanted share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

from ..conceptor.bias import check_share
from ..conceptor.shares import Share
from ..model.template import Template
from .time_edit import EditPair

HALVINGS = 6  # of the interval in which a setting is looked for


@dataclass(frozen=True)
class Reached:
    """The setting at which pictures come nearest to a wanted share."""

    setting: float
    share: Share
    tried: Mapping[float, Share]


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


def slot_of(pair: EditPair) -> Template:
    """The source with a place where the destination has its first new word: a {} doctor, of a doctor => a female one.

    As TIME aligns them: capitals do not count, and "an" is "a" (an engineer => a female engineer).
    """
    source, destination = pair.source.split(), pair.destination.split()
    words = zip(map(_aligned, source), map(_aligned, destination), strict=False)
    same = sum(1 for _ in takewhile(lambda both: both[0] == both[1], words))
    return Template.of(" ".join([*destination[:same], "{}", *source[same:]]))


def _aligned(word: str) -> str:
    return "a" if word.casefold() == "an" else word.casefold()
