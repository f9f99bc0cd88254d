"""Conceptor's fit (arXiv 2306.00966, equation 4), resumable."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import Linear, ReLU, Sequential
from torch.nn.functional import cosine_similarity

from ..errors import UserError
from ..model.diffusion import Diffusion, Draws, draw
from ..model.memory import Portions
from ..model.slot import Slot
from .dictionary import Dictionary, encoded_gradient
from .mixture import TokenMix

Method = Literal["shares", "conceptor"]
Judge = Callable[[Dictionary, Tensor], float]
"""How well a mix of a few tokens with coefficients does on held-out pictures: lower is better."""
HIDDEN = 100  # of the paper's MLP
WEIGHT_DECAY = 1e-2  # of the paper's MLP
OWN_LEARNING = 100.0  # times the learning rate, of coefficients that are learned themselves and not by an MLP
PATIENCE = 4  # validations without a better one, after which a fit of `shares` ends; the paper takes all steps


class LossNotFiniteError(UserError):
    """The loss of a fit overflowed."""


@dataclass(frozen=True)
class Settings:
    """How an explanation is found; the defaults are the paper's, but for the method."""

    method: Method = "shares"
    num_tokens: int = 50  # N of equation 4: of a mix, at most
    dictionary_size: int = 5000  # tokens among which those are looked for
    steps: int = 500
    batch_size: int = 6  # draws in a step
    learning_rate: float = 1e-3
    sparsity: float = 0.001  # the weight of equation 4's second term
    validate_every: int = 50  # steps
    exclude_concept: bool = True  # leaves out the words that name the concept itself
    seed: int = 0
    racers: int = 64  # words that `shares` compares with each other
    draws: int = 32  # on which it does so in the first round

    def __post_init__(self) -> None:
        """Raises UserError for numbers with which nothing can be found."""
        for name in ("num_tokens", "dictionary_size", "steps", "batch_size", "validate_every", "racers", "draws"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it has to be at least 1.")
        for name in ("learning_rate", "sparsity"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UserError(f"{name} is {getattr(self, name)}; it has to be a finite number, 0 or above.")


@dataclass(frozen=True, eq=False)
class FitStep:
    """What is known after one step of a fit, or after a round of a race before it."""

    step: int
    loss: float | None  # of the step's draws; step 0 is the start
    validation: float | None  # of the largest coefficients, where it was measured; lower is better
    best: bool  # whether it is the lowest so far
    dictionary: Dictionary
    coefficients: Tensor  # (tokens,), detached
    intervals: Tensor | None = None  # (tokens, 2): within which they lie, where that is known

    def largest(self, count: int) -> TokenMix:
        """The `count` tokens with the largest coefficients."""
        words, values = self.dictionary.largest(self.coefficients, count)
        ends = {} if self.intervals is None else self.dictionary.by_token(self.intervals)
        return words.mix(values, interval=ends)


class CoefficientMLP(nn.Module):
    """The paper's f: a coefficient >= 0 for each token from its embedding, by two layers.

    From embeddings (tokens, width) to coefficients (tokens,); `seed`: of its first weights.
    """

    def __init__(self, width: int, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.layers = Sequential(Linear(width, HIDDEN), ReLU(), Linear(HIDDEN, 1))

    def forward(self, embeddings: Tensor) -> Tensor:
        return self.layers(embeddings).squeeze(-1).abs()


class OwnCoefficients(nn.Module):
    """A coefficient > 0 for each token, learned by its logarithm from a start (tokens,)."""

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.logarithms = nn.Parameter(start.clamp(min=1e-3 / len(start)).log())

    def forward(self, embeddings: Tensor) -> Tensor:  # noqa: ARG002  (of the same form as the MLP)
        return self.logarithms.exp()


@dataclass(eq=False)
class FitState:
    """Where a fit is: what is learned, by what, and what it has come to."""

    coefficients: nn.Module  # embeddings (tokens, widths of all towers) -> values >= 0 (tokens,)
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    losses: list[tuple[int, float]] = field(default_factory=list)  # (step, loss)
    validations: list[tuple[int, float]] = field(default_factory=list)
    best: FitStep | None = None

    @classmethod
    def begin(cls, dictionary: Dictionary, start: Tensor, settings: Settings, generator: torch.Generator) -> FitState:
        """Before the first step: the paper's MLP, or coefficients that start as `start` (tokens,)."""
        coefficients: nn.Module = OwnCoefficients(start)
        decay = 0.0  # of a logarithm it would pull each ratio of coefficients towards 1
        rate = settings.learning_rate * OWN_LEARNING
        if settings.method == "conceptor":
            coefficients = CoefficientMLP(sum(e.shape[1] for e in dictionary.embeddings), settings.seed)
            rate, decay = settings.learning_rate, WEIGHT_DECAY
        coefficients.to(dictionary.embeddings[0].device)
        optimizer = torch.optim.AdamW(coefficients.parameters(), lr=rate, weight_decay=decay)
        return cls(coefficients, optimizer, generator)

    @property
    def step(self) -> int:
        """How many steps were taken."""
        return len(self.losses)

    @property
    def patience(self) -> int:
        """How many validations without a better one it may still make."""
        since = sum(self.best is None or step > self.best.step for step, _ in self.validations)
        return PATIENCE - since

    def tensors(self) -> dict[str, Tensor]:
        """What `resume` takes up, with `numbers`."""
        moments = {
            f"optimizer.{index}.{name}": value
            for index, values in self.optimizer.state_dict()["state"].items()
            for name, value in values.items()
        }
        learned = {f"coefficients.{name}": value for name, value in self.coefficients.state_dict().items()}
        best = {"best": self.best.coefficients} if self.best else {}
        return {**learned, **moments, **best, "generator": self.generator.get_state()}

    def numbers(self) -> dict[str, Any]:
        """What `resume` takes up, with `tensors`."""
        best = self.best and [self.best.step, self.best.validation]
        return {"losses": self.losses, "validations": self.validations, "best": best}

    def resume(self, dictionary: Dictionary, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """Goes on where another fit of the same tokens was, by its `tensors` and `numbers`."""
        parts: dict[str, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            part, _, rest = name.partition(".")
            parts.setdefault(part, {})[rest] = value
        self.coefficients.load_state_dict(parts["coefficients"])
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in parts.get("optimizer", {}).items():
            index, _, moment = name.partition(".")
            moments.setdefault(int(index), {})[moment] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})
        self.generator.set_state(tensors["generator"])
        self.losses = [(step, loss) for step, loss in numbers["losses"]]
        self.validations = [(step, value) for step, value in numbers["validations"]]
        if numbers["best"]:
            step, validation = numbers["best"]
            best = tensors["best"].to(dictionary.embeddings[0].device)
            self.best = FitStep(step, None, validation, True, dictionary, best)


def untaught(drawn: Draws) -> Draws:
    """The draws as they are: what training wants of the UNet is their target."""
    return drawn


def fit_conceptor(
    diffusion: Diffusion,
    slot: Slot,
    dictionary: Dictionary,
    state: FitState,
    latents: Tensor,
    judge: Judge,
    settings: Settings,
    teacher: Callable[[Draws], Draws] = untaught,
) -> Iterator[FitStep]:
    """The published fit: the loss MSE + sparsity (1 - cos(w*_N, w*)) (its equation 4), its start included.

    w* is the pseudo-token of all coefficients, w*_N that of the N largest; latents: (pictures, 4, h, w) in the scale
    that the UNet is trained on. `teacher` may give the draws of a step another target. Goes on from `state`, which is
    up to date at each step it gives. A fit of `shares` ends early when validations by `judge` no longer get better.
    Raises LossNotFiniteError, naming the step, when a loss overflows.
    """
    inputs = torch.cat(list(dictionary.embeddings), dim=1)
    portions = Portions(settings.batch_size, diffusion)

    def descend(size: int, drawn: Draws) -> float:
        """The loss of one step, with its gradients."""
        state.optimizer.zero_grad()
        values = state.coefficients(inputs)
        whole = dictionary.pseudo_token(values)
        kept = torch.zeros_like(values).index_fill(0, values.topk(min(settings.num_tokens, len(values))).indices, 1)
        largest = dictionary.pseudo_token(values * kept)
        apart = [1 - cosine_similarity(a, b).mean() for a, b in zip(largest, whole, strict=True)]
        penalty = settings.sparsity * torch.stack(apart).mean()
        encoded = slot.encode(whole)
        loss, gradient = encoded_gradient(diffusion, encoded, drawn, size)
        torch.autograd.backward([penalty, *encoded], [None, *gradient])
        return loss + float(penalty.detach())

    def reached(loss: float | None) -> FitStep:
        """The step that was just taken, validated when it is time."""
        number, values, judged, better = state.step, state.coefficients(inputs).detach(), None, False
        if number % settings.validate_every == 0 or number == settings.steps:
            judged = judge(*dictionary.largest(values, settings.num_tokens))
            best = state.best.validation if state.best else None
            better = judged < (math.inf if best is None else best)
            state.validations.append((number, judged))
        step = FitStep(number, loss, judged, better, dictionary, values)
        state.best = step if better else state.best
        return step

    if not state.validations:
        yield reached(None)
    while state.step < settings.steps and (settings.method == "conceptor" or state.patience > 0):
        drawn = teacher(draw(latents, settings.batch_size, (0, len(diffusion.alphas_cumprod)), state.generator))
        loss = portions.run(lambda size, drawn=drawn: descend(size, drawn))
        number = state.step + 1
        if not math.isfinite(loss):
            raise LossNotFiniteError(
                f"The loss of step {number} is {loss}; half precision overflowed, or the pictures hold numbers that "
                "are not finite: run the model in float32, or lower the learning rate."
            )
        state.optimizer.step()
        state.losses.append((number, loss))
        yield reached(loss)
