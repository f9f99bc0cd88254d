"""Seeds of the pictures of an explanation."""

from __future__ import annotations

from conceptlens.core.conceptor.decomposition import Settings
from conceptlens.core.conceptor.explanation import seeds_of


def test_after_the_largest_seed_they_begin_anew() -> None:
    """torch takes seeds below 2^64 only, and the host offers all of them."""
    assert seeds_of(Settings(seed=2**64 - 2), 3, 2) == ([2**64 - 2, 2**64 - 1, 0], [1, 2])
    assert seeds_of(Settings(seed=7), 2, 1) == ([7, 8], [9])
