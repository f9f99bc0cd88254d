"""What the loss of a denoiser leads to, without the chance of a single picture (Xu, Tong and Jaakkola, 2302.00670)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class References:
    """All pictures that there are."""

    pictures: Tensor  # (m, numbers), in the type in which products are made
    shares: Tensor | None = None  # (m,): how often each comes; equally often without them

    @cached_property
    def _squares(self) -> Tensor:
        """(m,): the squared length of each."""
        return self.pictures.float().square().sum(1)

    @torch.no_grad()
    def posterior_mean(self, noisy: Tensor, signal: Tensor) -> Tensor:
        """The mean of the pictures that noise may hide, weighted by how likely each is; shaped as `noisy` (n, numbers).

        `signal` (n,) is alpha-bar. With p_j the shares, the weights are the softmax over j of
        log p_j - ||x_t - sqrt(signal) x_j||^2 / (2 (1 - signal)).
        """
        signal = signal[:, None]
        products = (noisy.to(self.pictures) @ self.pictures.T).float()
        logits = (signal.sqrt() * products - signal * self._squares / 2) / (1 - signal)
        chances = (logits if self.shares is None else logits + self.shares.log()).softmax(1)
        return (chances.to(self.pictures) @ self.pictures).to(noisy)
