"""What directions of h-space are worth, as charts."""

from __future__ import annotations

from torch import Tensor

from ..hspace.directions import HSpaceDirections
from .charts import line_chart


def variance_chart(directions: HSpaceDirections, shares: Tensor) -> Tensor:
    """The share (components, levels) of the variance that each principal component explains, (height, width, 3)."""
    last = len(directions.sigmas) - 1
    levels = dict.fromkeys([0, last // 2, last] if directions.made_by["per step"] else [0])
    lines = {
        f"sigma {directions.sigmas[level]:.3g}" if directions.made_by["per step"] else "all levels": [
            (float(number), 100 * share) for number, share in enumerate(shares[:, level].tolist(), start=1)
        ]
        for level in levels
    }
    return line_chart(lines, "component; % of the variance")


def values_chart(directions: HSpaceDirections, most: int = 5) -> Tensor:
    """The singular values of the first `most` directions over the noise levels, (height, width, 3)."""
    places = directions.sigmas.log10().tolist()
    lines = {
        f"direction {number}": list(zip(places, values, strict=True))
        for number, values in enumerate(directions.values[:most].tolist())
    }
    return line_chart(lines, "log10 sigma; singular value")
