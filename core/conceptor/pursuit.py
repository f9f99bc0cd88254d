"""A concept from many words whose sum the text encoder reads as it reads the concept's name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..model.slot import Slot
from ..model.text_tower import Encoded
from .dictionary import Dictionary

ROUNDS = 8  # in which words come in
STEPS, LAST_STEPS = 20, 60  # of gradient descent in a round, and after the last one
RATE = 0.15  # of the coefficients' logarithms; a third of it after the last round
NEWCOMER = 0.05  # of all coefficients' sum: what a word begins with


@dataclass(frozen=True, eq=False)
class Reading:
    """How the text encoder reads a concept's own name in a prompt, to compare with pseudo-tokens in its place."""

    slot: Slot
    own: Encoded  # one prompt
    longer: int  # tokens that the name has more than a pseudo-token

    @classmethod
    def of_name(cls, slot: Slot, name: str) -> Reading:
        return cls(slot, slot.named(name), len(slot.named_tokens(name)) - len(slot.tokens))

    def distance(self, vectors: Sequence[Tensor]) -> Tensor:
        """The mean squared difference of states, each tower in units of its states' variance; a scalar.

        vectors: of each tower (1, width). The prompt's beginning is compared with its beginning; the pseudo-token and
        what follows with the name's last token and what follows.
        """
        states = self.slot.encode(vectors).context[0]
        place = self.slot.places[0]
        wanted = torch.cat([self.own.context[0, :place], self.own.context[0, place + self.longer :]])
        widths = [tower.table.shape[1] for tower in self.slot.towers]
        apart = [
            (a - b).square().mean() / b.var()
            for a, b in zip(states[: len(wanted)].split(widths, 1), wanted.split(widths, 1), strict=True)
        ]
        return torch.stack(apart).mean()


def pursue(reading: Reading, pool: Dictionary, first: Sequence[int], num_tokens: int) -> tuple[Dictionary, Tensor]:
    """At most `num_tokens` words of the pool and coefficients > 0 (words,) of sum 1, whose pseudo-token reads alike.

    Orthogonal matching pursuit (Pati, Rezaiifar and Krishnaprasad, 1993) through the text encoder: `first`, rows of
    the pool, begin; round after round those words join towards which the distance falls most steeply, and all
    coefficients are fitted anew. The UNet is not asked.
    """
    units = [normalize(table, dim=-1) for table in pool.embeddings]
    kept = list(first)[:num_tokens]
    values = torch.full((len(kept),), 1 / len(kept), device=units[0].device)
    room = min(num_tokens, len(pool)) - len(kept)
    for number in range(ROUNDS):
        words = pool.only(torch.tensor(kept))
        distance = _of_coefficients(reading, words)
        values = _descend(distance, values, STEPS, RATE)
        joining = room * (number + 1) // ROUNDS - room * number // ROUNDS
        if joining == 0:
            continue
        leaves = [vector.requires_grad_() for vector in words.pseudo_token(values)]
        gradients = torch.autograd.grad(reading.distance(leaves), leaves)
        promised = -sum((unit @ gradient[0] for unit, gradient in zip(units, gradients, strict=True)), torch.zeros(1))
        promised[kept] = -torch.inf
        kept += promised.topk(joining).indices.tolist()
        values = torch.cat([values, values.new_full((joining,), NEWCOMER)])
    words = pool.only(torch.tensor(kept))
    return words, _descend(_of_coefficients(reading, words), values, LAST_STEPS, RATE / 3)


def _of_coefficients(reading: Reading, words: Dictionary) -> Callable[[Tensor], Tensor]:
    return lambda values: reading.distance(words.pseudo_token(values))


def _descend(distance: Callable[[Tensor], Tensor], values: Tensor, steps: int, rate: float) -> Tensor:
    """Coefficients of sum 1 with a smaller distance, from `values` (words,), by Adam on their logarithms."""
    logarithms = values.clamp(min=1e-6).log().requires_grad_()
    optimizer = torch.optim.Adam([logarithms], lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        distance(logarithms.exp()).backward()
        optimizer.step()
    return logarithms.detach().softmax(0)
