"""A prompt with a place for a pseudo-token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..errors import UserError
from .protocols import TextEncoder, check_fits
from .template import Template
from .text_tower import CONTEXT_LENGTH, Encoded, TextTower, encode


class PromptSlot(Protocol):
    """What a mix is judged in."""

    @property
    def device(self) -> torch.device:
        """Where losses are computed."""
        ...

    def check(self, name: str) -> None:
        """Raises UserError when the prompt with the name in its place is longer than the encoder reads."""
        ...

    def encode(self, vectors: Sequence[Tensor]) -> Encoded:
        """The prompt with each pseudo-token in turn; vectors: of each encoder (prompts, width)."""
        ...

    def named(self, name: str) -> Encoded:
        """The prompt with a name in its place."""
        ...


@dataclass(frozen=True, eq=False)
class Slot:
    """That of CLIP, which can be differentiated with respect to the pseudo-token: a mix is trained in it, too."""

    encoder: TextEncoder
    template: Template
    towers: Sequence[TextTower]
    tokens: Sequence[int]  # of the prompt, with start and end token
    places: Sequence[int]  # of the pseudo-token among them

    @classmethod
    def of(cls, encoder: TextEncoder, towers: Sequence[TextTower], template: Template) -> Slot:
        """The place of the concept in a prompt with one. Raises UserError when the prompt is too long for it."""
        before, after = template.parts
        head, tail = encoder.tokenize(before)[:-1], encoder.tokenize(after)[1:]
        tokens = [*head, towers[0].end, *tail]
        if len(tokens) > CONTEXT_LENGTH:
            raise UserError(
                f'The prompt "{template}" has {len(tokens)} tokens with start and end; a concept is explained in '
                f"one of {CONTEXT_LENGTH} at most: write a shorter one."
            )
        return cls(encoder, template, towers, tokens, [len(head)])

    @property
    def device(self) -> torch.device:
        return self.towers[0].table.device

    def check(self, name: str) -> None:
        whole = self.template.filled(name)
        check_fits(self.encoder, whole, self.encoder.tokenize(whole))

    def named_tokens(self, name: str) -> list[int]:
        """The tokens of the prompt with a name in its place."""
        *tokens, end = self.encoder.tokenize(self.template.filled(name))
        return [*tokens[: CONTEXT_LENGTH - 1], end]  # as diffusers cuts it

    @torch.no_grad()
    def named(self, name: str) -> Encoded:
        return encode(self.towers, self.named_tokens(name), [], [tower.table[:1] for tower in self.towers])

    def encode(self, vectors: Sequence[Tensor]) -> Encoded:
        here = [vector.to(tower.table.device) for tower, vector in zip(self.towers, vectors, strict=True)]
        return encode(self.towers, self.tokens, self.places, here)
