"""A model that makes pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from .diffusion import Diffusion
from .protocols import Family, OpenTextEncoder, Progress, PseudoToken, unseen
from .slot import PromptSlot
from .template import Template
from .text_tower import TextTower, WordTable


class Pictures(Protocol):
    """What a model draws, and an image encoder that looks at it."""

    def evaluations(self, pictures: int) -> int:
        """Of the UNet, that so many pictures take: one for each step of each, with guidance two."""
        ...

    def latents_of_prompt(self, prompt: str, seeds: Sequence[int], progress: Progress = unseen) -> Tensor:
        """A picture for each seed, (seeds, 4, h, w) in the scale that the UNet is trained on."""
        ...

    def pictures(self, latents: Tensor) -> Tensor:
        """Latents (n, 4, h, w) as pictures (n, height, width, 3) in 0..1."""
        ...

    def features(self, pictures: Tensor) -> Tensor | None:
        """Unit-length image features (n, width) in the space of the text features; None without an image encoder.

        pictures: (n, height, width, 3) in 0..1.
        """
        ...


class Studio(Pictures, Protocol):
    """A model that makes pictures, and what it is made of."""

    @property
    def encoder(self) -> OpenTextEncoder:
        """What reads the vocabulary's words: the model's own text encoder, or the CLIP of an image encoder."""
        ...

    @property
    def towers(self) -> Sequence[TextTower]:
        """Of the encoder: copied once."""
        ...

    @property
    def family(self) -> Family | None:
        """None of a model whose mixes are for all that read words."""
        ...

    @property
    def words(self) -> Sequence[WordTable]:
        """The input embeddings of CLIP's tokens for each encoder that reads the model's prompts."""
        ...

    def slot(self, template: Template) -> PromptSlot:
        """A prompt with a place, as the model's text encoder reads it. Raises UserError for one that is too long."""
        ...

    def diffusion(self) -> Diffusion:
        """Its UNet or transformer: differentiable, if the slot is."""
        ...

    def check_diffusion(self) -> None:
        """Raises UserError when `diffusion` can't be had."""
        ...

    def latents_of_mix(
        self, template: Template, mix: PseudoToken, seeds: Sequence[int], progress: Progress = unseen
    ) -> Tensor:
        """The same for a prompt with a mix in its place."""
        ...

    def latents_of_pictures(self, pictures: Tensor) -> Tensor:
        """The latents (n, 4, h, w), in the same scale, of pictures (n, height, width, 3) in 0..1."""
        ...


def seeds_from(seed: int, count: int) -> list[int]:
    """`count` seeds from `seed` up, one for each picture; after 2^64 - 1 they begin anew at 0."""
    return [(seed + number) % 2**64 for number in range(count)]
