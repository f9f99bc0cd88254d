"""What the loss of a denoiser leads to, without the chance of a single picture (Xu, Tong and Jaakkola, 2302.00670)."""

from __future__ import annotations

from torch import Tensor


def posterior_mean(noisy: Tensor, signal: Tensor, references: Tensor, shares: Tensor | None = None) -> Tensor:
    """The mean of the pictures that noise may hide, weighted by how likely each is; shaped as `noisy` (n, numbers).

    `references` (m, numbers) are all pictures that there are, `shares` (m,) how often each comes, equally often
    without them; `signal` (n,) is alpha-bar. With p_j the shares, the weights are the softmax over j of
    log p_j - ||x_t - sqrt(signal) x_j||^2 / (2 (1 - signal)). The products are made in the type of `references`.
    """
    signal = signal[:, None]
    products = (noisy.to(references) @ references.T).float()
    squares = references.float().square().sum(1)
    logits = (signal.sqrt() * products - signal * squares / 2) / (1 - signal)
    chances = (logits if shares is None else logits + shares.log()).softmax(1)
    return (chances.to(references) @ references).to(noisy)
