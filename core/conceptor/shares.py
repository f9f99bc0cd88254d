"""Shares in pictures: how many of a concept's pictures are more like one group of words than like another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import UserError
from ..model.studio import Studio
from ..model.template import Template
from .bias import Groups
from .vocabulary import zero_shot_features

CONFIDENT = 1.96  # standard errors, for 95 %
AT_ONCE = 16  # pictures that the image encoder looks at together


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
        """Wilson's score interval, with 95 % confidence: it stays within 0 and 1, and is right for few pictures too."""
        squared = CONFIDENT**2
        middle = (self.count + squared / 2) / (self.total + squared)
        room = self.total * self.value * (1 - self.value) + squared / 4
        half = CONFIDENT * room**0.5 / (self.total + squared)
        return max(0.0, middle - half), min(1.0, middle + half)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:.0%} ({low:.0%} to {high:.0%} with 95 % confidence)"


def picture_share(pictures: Tensor, group_a: Tensor, group_b: Tensor) -> Share:
    """How many pictures are more like a text of the first group than like any of the second.

    pictures (n, width), group_a and group_b (texts, width): features of unit length in one space, compared by cosine
    similarity (zero-shot classification as by CLIP, arXiv 2103.00020).
    """
    one, other = ((pictures @ group.T).amax(1) for group in (group_a, group_b))
    return Share(int((one > other).sum()), len(pictures))


def check_judge(studio: Studio, groups: Sequence[Groups], template: Template, concept: str) -> None:
    """Raises UserError, before a picture is drawn, for what `shares_of_pictures` could not judge."""
    shares_of_pictures(studio, torch.zeros(1, 4, 8, 8), groups, template, concept)


def shares_of_pictures(
    studio: Studio, latents: Tensor, groups: Sequence[Groups], template: Template, concept: str
) -> list[Share]:
    """The share of the first group of each pair in pictures, given as latents (n, 4, h, w).

    Each picture is compared with the prompt for each word, which stands with the concept in its place. Raises
    UserError without an image encoder that shares a space with the text encoder.
    """
    tower = studio.towers[-1]
    seen = [studio.features(studio.pictures(some)) for some in latents.split(AT_ONCE)]
    pictures = torch.cat([features for features in seen if features is not None] or [torch.zeros(0, 0)])
    if not len(pictures):
        raise UserError("Pictures are judged by an image encoder; give one that was trained with the text encoder.")

    def features(words: Sequence[str]) -> Tensor:
        texts = [template.filled(f"{word} {concept}".strip()) for word in words]
        return zero_shot_features(studio.encoder, tower, texts, pictures)

    return [picture_share(pictures, features(one), features(other)) for one, other in groups]
