"""One picture explained: the fewest words of a mix that still make it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..errors import UserError
from .mixture import TokenMix
from .vocabulary import Vocabulary

NEARLY = 0.92  # cosine similarity of text features from which on a word is nearly the concept itself
Search = Literal["bisection", "published"]
Like = Callable[[Sequence[TokenMix]], Sequence[float]]
"""From mixes to the cosine similarities of their pictures to the one that is explained: 1 for the same."""


@dataclass(frozen=True)
class Pruned:
    """What is left of a mix."""

    mix: TokenMix
    similarity: float  # of its picture
    pictures: int  # that were made to find it


def unwatched(_: TokenMix, __: int) -> None:
    """The search that nobody watches."""


def prune(
    mix: TokenMix,
    like: Like,
    threshold: float,
    bundles: Sequence[Sequence[int]],
    search: Search = "bisection",
    together: int = 4,
    watch: Callable[[TokenMix, int], object] = unwatched,
) -> Pruned:
    """The mix without the words that its picture does not need (single-picture decomposition, arXiv 2306.00966).

    bundles: the mix's tokens in the order in which they are tried; those of a bundle leave together. "published" tries
    one after another and keeps a removal when the picture's similarity by `like` stays at `threshold` or above, in
    passes until nothing more can go (backward elimination). "bisection" first looks for the longest run of bundles from
    the first on that can leave at once, and then does the same with the few that stay. No picture is made twice.
    `together` candidates are drawn in one batch, as if those before them ended as the last one did: some are drawn in
    vain, but what is found is the same. `watch` is called with what is left and the pictures made so far, and may raise
    to stop the search. Raises UserError for a threshold that is no similarity.
    """
    check_threshold(threshold)
    known = {mix.ids: 1.0}
    current, left = mix, [list(bundle) for bundle in bundles]

    def similarities(candidates: Sequence[TokenMix]) -> list[float]:
        new = [candidate for candidate in candidates if candidate.ids not in known]
        found = like(new) if new else ()
        known.update({candidate.ids: similarity for candidate, similarity in zip(new, found, strict=True)})
        good = [candidate for candidate in candidates if known[candidate.ids] >= threshold]
        watch(min([current, *good], key=len), len(known) - 1)
        return [known[candidate.ids] for candidate in candidates]

    if search == "bisection":
        gone = _longest_run(mix, left, threshold, similarities)
        current, left = _without(mix, left[:gone]), left[gone:]
    changed = True
    while changed:
        current, kept = _one_pass(current, left, threshold, together, similarities)
        changed, left = len(kept) < len(left), kept
    return Pruned(current, known[current.ids], len(known) - 1)


class FixedNoise(Protocol):
    """What draws mixes from one noise and in one prompt, and what pictures are compared by."""

    def draw(self, mixes: Sequence[TokenMix]) -> Tensor:
        """A picture of each mix, (mixes, height, width, 3) in 0..1."""
        ...

    def features(self, pictures: Tensor) -> Tensor | None:
        """Unit-length image features (pictures, width); None without an image encoder."""
        ...

    def latents(self, pictures: Tensor) -> Tensor:
        """The VAE's, (pictures, 4, h, w)."""
        ...


@dataclass(frozen=True, eq=False)
class ExplainedPicture:
    """What is left of a mix for one picture, and pictures of it, each (n, height, width, 3)."""

    found: Pruned
    before: Tensor  # of the whole mix
    after: Tensor  # of what is left
    alone: Tensor  # of each word that is left
    report: str


def explain_picture(
    mix: TokenMix,
    noise: FixedNoise,
    *,
    threshold: float,
    bundles: Sequence[Sequence[int]],
    search: Search = "bisection",
    together: int = 4,
    watch: Callable[[TokenMix, int], object] = unwatched,
    meant: Tensor | None = None,
) -> ExplainedPicture:
    """Prunes a mix for the picture that it makes of some noise; `threshold` to `watch` are those of `prune`.

    Raises UserError when that is not the picture `meant` (n, height, width, channels), if one is, and as `prune` does.
    """
    before = noise.draw([mix])
    if meant is not None:
        _check_same(meant, before, noise, threshold)
    by, (wanted,) = compared(noise, before)

    def like(mixes: Sequence[TokenMix]) -> list[float]:
        return (compared(noise, noise.draw(mixes))[1] @ wanted).tolist()

    found = prune(mix, like, threshold, bundles, search, together, watch)
    report = (
        f"{len(found.mix)} of {len(mix)} words remain; their picture is {found.similarity:.3f} like the one before "
        f"(threshold {threshold:g}, by {by}); {found.pictures} pictures were made, by {search}"
    )
    alone = torch.cat([noise.draw([word]) for word in found.mix.singles()])
    return ExplainedPicture(found, before, noise.draw([found.mix]), alone, report)


def compared(noise: FixedNoise, pictures: Tensor) -> tuple[str, Tensor]:
    """By what pictures are compared, and unit vectors (pictures, width) whose products are cosine similarities."""
    if (features := noise.features(pictures)) is not None:
        return "the image encoder's features", features
    latents = normalize(noise.latents(pictures).flatten(1).float(), dim=-1)
    return "the VAE's latents, for want of an image encoder", latents


def _check_same(meant: Tensor, before: Tensor, noise: FixedNoise, threshold: float) -> None:
    """Raises UserError when the picture that is meant is not the one that is made."""
    if meant.shape[1:3] != before.shape[1:3]:
        given, made = (f"{picture.shape[2]} x {picture.shape[1]}" for picture in (meant, before))
        raise UserError(
            f"The picture has {given} pixels and the one that is made {made}; give the size that it was made with."
        )
    one, other = compared(noise, torch.cat([meant[:1, ..., :3], before]))[1]
    if (similarity := float(one @ other)) < threshold:
        raise UserError(
            f"The noise and settings give another picture than the connected one (similarity {similarity:.3f}, "
            f"threshold {threshold:g}); give those that it was made with, and the same mix and prompt."
        )


def check_threshold(threshold: float) -> None:
    """Raises UserError unless the threshold is above 0 and at most 1: no picture is more similar."""
    if not 0 < threshold <= 1:
        raise UserError(f"The threshold is {threshold:g}; no picture is that similar: give a number above 0, up to 1.")


def _without(mix: TokenMix, bundles: Sequence[Sequence[int]]) -> TokenMix:
    return mix.without([token for bundle in bundles for token in bundle])


def _longest_run(
    mix: TokenMix,
    bundles: Sequence[Sequence[int]],
    threshold: float,
    similarities: Callable[[Sequence[TokenMix]], list[float]],
) -> int:
    """How many bundles can leave at once; one stays at least.

    Most pictures need few: one is tried, two, three, four, then half as many more each time, until they are enough;
    then the numbers between.
    """

    def enough(gone: int) -> bool:
        (similarity,) = similarities([_without(mix, bundles[:gone])])
        return similarity >= threshold

    low, high, staying = 0, len(bundles) - 1, 1
    while staying < len(bundles):
        if enough(len(bundles) - staying):
            low = len(bundles) - staying
            break
        high = len(bundles) - staying - 1
        staying += max(1, staying // 2)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if enough(middle) else (low, middle - 1)
    return low


def _one_pass(
    mix: TokenMix,
    bundles: Sequence[list[int]],
    threshold: float,
    together: int,
    similarities: Callable[[Sequence[TokenMix]], list[float]],
) -> tuple[TokenMix, list[list[int]]]:
    """Each bundle is tried once; the mix without those that can leave, and the bundles that stay."""
    waiting, kept, leaving = list(bundles), list[list[int]](), True
    while waiting:
        some = waiting[:together]
        tried = [some[: place + 1] if leaving else [bundle] for place, bundle in enumerate(some)]
        candidates = [candidate for bundles in tried if len(candidate := _without(mix, bundles))]
        if not candidates:  # what is left is one bundle, and it is the picture
            return mix, [*kept, *waiting]
        expected = leaving
        for candidate, similarity in zip(candidates, similarities(candidates), strict=True):
            leaving, bundle = similarity >= threshold, waiting.pop(0)
            if leaving:
                mix = candidate
            else:
                kept.append(bundle)
            if leaving != expected:  # the other candidates are not those that come now
                break
    return mix, kept


def bundles_in(vocabulary: Vocabulary, mix: TokenMix, similar: float) -> list[list[int]]:
    """The bundles of a mix by the words' features; what is nearly the concept itself comes first, as published.

    `similar` is that of `bundles_of`. Raises UserError when the vocabulary lacks a word of the mix.
    """
    try:
        rows = vocabulary.rows(mix.ids)
    except KeyError as error:
        text = dict(zip(mix.ids, mix.texts, strict=True))[error.args[0]]
        raise UserError(
            f'The vocabulary has no "{text}", which is in the mix; embed the vocabulary with tokens = all.'
        ) from error
    features, concept = vocabulary.features[rows], mix.made_by.get("concept", "").casefold()
    own = [row for row, text in enumerate(vocabulary.texts) if text.casefold() == concept][:1]
    near = (features @ vocabulary.features[own].T > NEARLY).any(1).tolist()
    first = [token for token, like in zip(mix.ids, near, strict=True) if like]
    return bundles_of(mix, features @ features.T, similar, first)


def bundles_of(mix: TokenMix, likeness: Tensor, similar: float, first: Sequence[int] = ()) -> list[list[int]]:
    """The tokens of a mix from the smallest coefficient up, each with those more like it than `similar`.

    likeness: cosine similarities (tokens, tokens) of the mix's text features, with which `similar` is compared.
    The tokens `first` come before all others.
    """
    order = sorted(range(len(mix)), key=lambda row: (mix.ids[row] not in first, mix.coefficients[row]))
    bundles, taken = [], set[int]()
    for row in order:
        if row not in taken:
            members = [
                other for other in order if other not in taken and (other == row or likeness[row, other] > similar)
            ]
            taken.update(members)
            bundles.append([mix.ids[member] for member in members])
    return bundles
