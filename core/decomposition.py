"""Conceptor (arXiv 2306.00966): which words of its own vocabulary a diffusion model pictures a concept with."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, normalize

from .diffusion import Diffusion, denoising_loss, draws
from .errors import UserError
from .text_tower import Encoded, TextTower, encode

HIDDEN = 100  # of the paper's MLP
WEIGHT_DECAY = 1e-2
ROWS_AT_ONCE = 32  # of latents and prompts in one pass through the UNet without gradients


@dataclass(frozen=True, eq=False)
class Slot:
    """A prompt with a pseudo-token: what a mix is trained and judged in."""

    towers: Sequence[TextTower]
    tokens: Sequence[int]  # of the prompt, with start and end token
    places: Sequence[int]  # of the pseudo-token among them

    def encode(self, vectors: Sequence[Tensor]) -> Encoded:
        """The prompt with each pseudo-token in turn; vectors: of each tower (prompts, width)."""
        return encode(self.towers, self.tokens, self.places, vectors)


@dataclass(frozen=True, eq=False)
class Dictionary:
    """The tokens among which an explanation is looked for."""

    ids: Tensor  # (tokens,)
    embeddings: Sequence[Tensor]  # of each tower (tokens, width)
    norms: Sequence[float]  # of each tower: the mean length of its whole table's rows

    def pseudo_token(self, coefficients: Tensor) -> list[Tensor]:
        """w* = normalise(sum_i alpha_i w_i) times the mean length, of each tower (1, width); coefficients (tokens,)."""
        return [
            normalize(coefficients[None] @ embeddings, dim=-1) * norm
            for embeddings, norm in zip(self.embeddings, self.norms, strict=True)
        ]

    def singles(self) -> list[Tensor]:
        """Each token alone as a pseudo-token, of each tower (tokens, width)."""
        return [normalize(e, dim=-1) * norm for e, norm in zip(self.embeddings, self.norms, strict=True)]


def score_tokens(
    diffusion: Diffusion, slot: Slot, vectors: Sequence[Tensor], latents: Tensor, count: int, generator: torch.Generator
) -> list[Tensor]:
    """The gradient of the denoising loss with respect to a pseudo-token, of each tower (1, width), over `count` draws.

    A token's embedding enters the loss through its product with the gradient only: one backward pass scores them all.
    """
    leaves = [vector.detach().requires_grad_() for vector in vectors]
    total = [torch.zeros_like(leaf) for leaf in leaves]
    for some in _chunks(draws(latents, count, len(diffusion.alphas_cumprod), generator)):
        encoded = slot.encode(leaves)
        loss = denoising_loss(diffusion, *some, _repeated(encoded, len(some[0]))).sum() / count
        for sum_, gradient in zip(total, torch.autograd.grad(loss, leaves), strict=True):
            sum_ += gradient
    return total


@torch.no_grad()
def token_losses(
    diffusion: Diffusion, slot: Slot, vectors: Sequence[Tensor], drawn: tuple[Tensor, Tensor, Tensor]
) -> Tensor:
    """The denoising loss (pseudo-tokens, draws) of each pseudo-token on each draw: the same noise for all."""
    encoded = slot.encode(vectors)
    rows = []
    for number in range(len(encoded.context)):
        one = Encoded(encoded.context[number : number + 1], encoded.pooled[number : number + 1])
        rows.append(
            torch.cat([denoising_loss(diffusion, *some, _repeated(one, len(some[0]))) for some in _chunks(drawn)])
        )
    return torch.stack(rows)


def _chunks(drawn: tuple[Tensor, Tensor, Tensor]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    return zip(*(part.split(ROWS_AT_ONCE) for part in drawn), strict=True)


def _repeated(encoded: Encoded, count: int) -> Encoded:
    return Encoded(*(part.expand(count, *part.shape[1:]) for part in encoded))


class CoefficientMLP(nn.Module):
    """The paper's f: a coefficient >= 0 for each token from its embedding, by two layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1))

    def forward(self, embeddings: Tensor) -> Tensor:
        return self.layers(embeddings).squeeze(-1).abs()


@dataclass(frozen=True)
class FitStep:
    """What one step of a fit reports."""

    step: int
    loss: float
    coefficients: Tensor  # (tokens,), detached


def fit_conceptor(
    diffusion: Diffusion,
    slot: Slot,
    dictionary: Dictionary,
    latents: Tensor,
    *,
    steps: int = 500,
    batch_size: int = 6,
    learning_rate: float = 1e-3,
    sparsity: float = 0.001,
    num_tokens: int = 50,
    seed: int = 0,
) -> Iterator[FitStep]:
    """The published fit: coefficients by an MLP, and the loss MSE + sparsity (1 - cos(w*_N, w*)) (its equation 4).

    Raises UserError, naming the step, when the loss is no finite number.
    """
    generator = torch.Generator().manual_seed(seed)
    device = latents.device
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        mlp = CoefficientMLP(sum(e.shape[1] for e in dictionary.embeddings)).to(device)
    optimizer = torch.optim.AdamW(mlp.parameters(), lr=learning_rate, weight_decay=WEIGHT_DECAY)
    inputs = torch.cat(list(dictionary.embeddings), dim=1)
    for step in range(1, steps + 1):
        coefficients = mlp(inputs)
        whole = dictionary.pseudo_token(coefficients)
        kept = torch.zeros_like(coefficients).index_fill(0, coefficients.topk(min(num_tokens, len(inputs))).indices, 1)
        largest = dictionary.pseudo_token(coefficients * kept)
        drawn = draws(latents, batch_size, len(diffusion.alphas_cumprod), generator)
        loss = denoising_loss(diffusion, *drawn, _repeated(slot.encode(whole), batch_size)).mean()
        distances = [1 - cosine_similarity(a, b).mean() for a, b in zip(largest, whole, strict=True)]
        loss = loss + sparsity * torch.stack(distances).mean()
        value = float(loss.detach())
        if not math.isfinite(value):
            raise UserError(
                f"The loss of step {step} is {value}; half precision overflowed, or the pictures hold numbers that are "
                "not finite: run the model in float32, or lower the learning rate."
            )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield FitStep(step, value, coefficients.detach())
