"""Single-picture decomposition as published, written plainly."""

from __future__ import annotations

from collections.abc import Sequence

from ..core.conceptor.mixture import TokenMix
from ..core.conceptor.pruning import Like


def published_pruning(
    mix: TokenMix, like: Like, threshold: float, bundles: Sequence[Sequence[int]]
) -> tuple[TokenMix, int]:
    """One bundle after another leaves, in passes until nothing more can go (arXiv 2306.00966).

    Returns with the words that remain how many pictures were made.
    """
    pictures = 0
    while True:
        kept = []
        for bundle in bundles:
            candidate = mix.without(bundle)
            if len(candidate):
                pictures += 1
                (similarity,) = like([candidate])
                if similarity >= threshold:
                    mix = candidate
                    continue
            kept.append(bundle)
        if len(kept) == len(bundles):
            return mix, pictures
        bundles = kept
