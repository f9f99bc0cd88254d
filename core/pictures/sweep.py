"""Evenly spaced values to try, and how to write them."""

from __future__ import annotations

import math

from ..errors import UserError


def sweep(start: float, stop: float, count: int) -> tuple[list[float], list[str]]:
    """`count` evenly spaced values from `start` to `stop`, and their texts, with as few digits as tell them apart.

    Raises UserError for a count below 1 and for ends that are not finite.
    """
    if count < 1 or not (math.isfinite(start) and math.isfinite(stop)):
        raise UserError(
            f"A sweep of {count} values from {start:g} to {stop:g} can't be made; give finite numbers and a count "
            "above 0."
        )
    step = (stop - start) / max(1, count - 1)
    values = [round(start + number * step, 12) for number in range(count)]  # 0.1 steps meet 0, not 1e-17
    texts = ([f"{value:.{digits}g}" for value in values] for digits in range(3, 18))
    return values, next((text for text in texts if len(set(text)) == len(set(values))), [str(v) for v in values])
