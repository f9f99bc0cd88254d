"""Directions from pictures that differ in one thing."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..errors import UserError
from .directions import HSpaceDirections
from .samples import HSpaceSamples, check_alike


def contrast(positive: HSpaceSamples, negative: HSpaceSamples) -> HSpaceDirections:
    """The direction from the mean of the `negative` samples to that of the `positive` ones, at each noise level.

    A difference of means, as Haas et al. (arXiv 2303.11073) take it for an attribute. Raises UserError when they were
    not drawn alike, or when one set is empty.
    """
    check_alike(positive, negative)
    if not len(positive) or not len(negative):
        raise UserError("A contrast needs pictures on both sides; one set is empty.")
    ends = [samples.activations.float().mean(1) for samples in (positive, negative)]
    shift = (ends[0] - ends[1])[None]
    made_by = {"method": "contrast", "positive": positive.made_by, "negative": negative.made_by}
    return HSpaceDirections(
        positive.sigmas,
        shift,
        shift.flatten(2).norm(dim=2),
        positive.family,
        positive.position,
        made_by,
        positive.downsampling,
    )


def contrast_by_text(
    samples: HSpaceSamples, pictures: Tensor, texts: Tensor, balance: Tensor, count: int
) -> tuple[HSpaceDirections, list[int], list[int]]:
    """The direction from the `count` pictures that the second text fits best to those that the first does.

    pictures (samples, width), texts (2, width) and balance (2 or 0, width): features of unit length in one space. With
    a balance both ends have equally many pictures that its first text fits better than its second. Returns the numbers
    of the pictures at both ends, too. Raises UserError when there are not enough.
    """
    scores = pictures @ (texts[0] - texts[1])
    groups = (pictures @ (balance[0] - balance[1]) > 0).tolist() if len(balance) else None
    high, low = ends_of(scores, count, groups)
    return contrast(samples.chosen(high), samples.chosen(low)), high, low


def ends_of(scores: Tensor, count: int, balance: Sequence[object] | None = None) -> tuple[list[int], list[int]]:
    """The `count` pictures with the highest and those with the lowest scores (pictures,).

    `balance` names each picture's group of a second attribute: both ends then have equally many of each group, at
    most `count` in all. Raises UserError when there are not enough pictures.
    """
    order = scores.argsort(descending=True).tolist()
    groups = {} if balance is None else dict.fromkeys(balance)
    each = [[picture for picture in order if balance[picture] == group] for group in groups] if balance else [order]
    share = count // len(each)
    if share < 1 or any(len(group) < 2 * share for group in each):
        smallest = min(map(len, each))
        raise UserError(
            f"{count} pictures at each end were asked for; the smallest of {len(each)} groups has {smallest} in all: "
            "draw more samples or choose fewer."
        )
    high = [picture for group in each for picture in group[:share]]
    return high, [picture for group in each for picture in group[-share:]]
