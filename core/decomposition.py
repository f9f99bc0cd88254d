"""Conceptor (arXiv 2306.00966): which words of its own vocabulary a diffusion model pictures a concept with."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from .backend import Family, OpenTextEncoder, Progress, unseen
from .clock import Clock
from .dictionary import (
    Dictionary,
    Slot,
    encoded_gradient,
    own_words,
    rank_by_gradient,
    rank_by_pictures,
    token_losses,
)
from .diffusion import Diffusion, Draws, draw
from .errors import UserError
from .memory import Portions
from .mixture import TokenMix
from .vocabulary import Vocabulary

Method = Literal["shares", "conceptor"]
Judge = Callable[[Dictionary, Tensor], float]
"""How well a mix of a few tokens with coefficients does on held-out pictures: lower is better."""
HIDDEN = 100  # of the paper's MLP
WEIGHT_DECAY = 1e-2
# The share of the timesteps between which a text decides what is seen: before, its colours are; after, its grain.
DECISIVE = (0.25, 0.7)
GRADIENT_DRAWS = 4, 64  # for each picture, and at most
RACERS, FIRST_DRAWS = 256, 12  # tokens in a race's first round, and draws on which they are compared
FACTOR = 4  # by which each further round has fewer tokens and more draws
START_LEARNING = 10.0  # times the learning rate: of coefficients that are learned themselves, not by an MLP
PATIENCE = 4  # validations without a better one, after which a fit ends
DRAWS_PER_PICTURE = 2  # of validation


class LossNotFiniteError(UserError):
    """The loss of a fit overflowed."""


@dataclass(frozen=True)
class Settings:
    """How an explanation is found; the defaults are the paper's, but for the method."""

    method: Method = "shares"
    num_tokens: int = 50
    dictionary_size: int = 5000
    steps: int = 500
    batch_size: int = 6
    learning_rate: float = 1e-3
    sparsity: float = 0.001
    validate_every: int = 50
    exclude_concept: bool = True
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Concept:
    """What is to be explained, and with what."""

    encoder: OpenTextEncoder
    family: Family
    diffusion: Diffusion
    vocabulary: Vocabulary
    name: str  # may be empty, for pictures without a name
    prompt: str  # with {} where the concept stands
    latents: Tensor  # (pictures, 4, h, w) as the UNet is trained on
    held_out: Tensor  # (pictures, 4, h, w): those on which coefficients are judged
    features: Tensor | None = None  # (pictures, width) of an image encoder that shares the vocabulary's space


@dataclass(frozen=True, eq=False)
class FitStep:
    """What one step of a fit reports."""

    step: int
    loss: float | None  # of the step's draws; step 0 is the start
    validation: float | None  # of the largest coefficients, where it was measured; lower is better
    best: bool  # whether it is the lowest so far
    dictionary: Dictionary
    coefficients: Tensor  # (tokens,), detached

    def largest(self, count: int) -> tuple[Dictionary, Tensor]:
        """The tokens with the largest coefficients, and these."""
        return self.dictionary.largest(self.coefficients, count)


@dataclass(frozen=True, eq=False)
class Explanation:
    """What a decomposition found."""

    mix: TokenMix
    losses: list[tuple[int, float]]  # (step, loss)
    validations: list[tuple[int, float]]
    clock: Clock

    def smooth_losses(self) -> list[tuple[int, float]]:
        """The losses as means of 20 steps: one step's draws are few."""
        values = [loss for _, loss in self.losses]
        means = [sum(values[max(0, end - 20) : end]) / min(end, 20) for end in range(1, len(values) + 1)]
        return [(step, mean) for (step, _), mean in zip(self.losses, means, strict=True)]

    def report(self, rows: int = 20) -> str:
        """The largest tokens with what is known of each, and how they were found."""
        made_by = self.mix.made_by
        lines = [f"{'token':<20} {'coefficient':>11} {'share':>6} {'alone':>8} {'removal':>9}"]
        for token, text, value, share in zip(
            self.mix.ids, self.mix.texts, self.mix.coefficients, self.mix.shares(), strict=False
        ):
            alone, removal = made_by["alone"][str(token)], made_by["removal"][str(token)]
            lines.append(f"{text:<20} {value:>11.4g} {share:>6.1%} {alone:>8.5f} {removal:>+9.6f}")
        settings = made_by["settings"]
        lines = lines[: rows + 1]
        lines.append(
            f'{len(self.mix)} tokens of {made_by["family"]} for "{made_by["concept"]}" in "{made_by["prompt"]}", '
            f"by {settings['method']} from {made_by['pictures']} pictures; best at step {made_by['step']} of "
            f"{self.losses[-1][0] if self.losses else 0}, validation {made_by['validation']:.5f}"
        )
        lines.append("alone: loss of the token alone; removal: what the loss of the mix gains without it")
        stopped = [made_by["stopped"]] if made_by["stopped"] else []
        return "\n".join([*stopped, *lines, f"time: {self.clock.report()}"])


def decompose(
    concept: Concept,
    settings: Settings,
    watch: Callable[[FitStep], object] = id,
    progress: Progress = unseen,
    judge: Judge | None = None,
) -> Explanation:
    """Explains a concept by tokens: chooses a dictionary, fits coefficients and keeps those that validate best.

    `watch` is called after each step of the fit, `progress` while words are compared. `judge` validates; without one
    the loss on the held-out pictures does. The mix says in `made_by` what it was made of and, for each token, the loss
    of the token alone and the rise of the loss without it. A fit whose loss is no finite number ends with the best
    state before, and the explanation says so. Raises UserError for a prompt without a slot, and when there is no such
    state.
    """
    clock = Clock()
    generator = torch.Generator().manual_seed(settings.seed)
    diffusion, every = concept.diffusion, (0, len(concept.diffusion.alphas_cumprod))
    slot = Slot.of(concept.encoder, concept.encoder.towers(), concept.prompt)
    device = slot.towers[0].table.device
    latents = concept.latents.to(device)
    held_out = draw(concept.held_out.to(device), DRAWS_PER_PICTURE * len(concept.held_out), every, generator)

    def loss_on_held_out(chosen: Dictionary, values: Tensor) -> float:
        return float(token_losses(diffusion, slot, chosen.pseudo_token(values), held_out).mean())

    with clock.measure("dictionary"):
        dictionary = choose_dictionary(concept, slot, latents, settings, generator)
    rate = settings.learning_rate
    coefficients: nn.Module
    if settings.method == "conceptor":
        coefficients = CoefficientMLP(sum(e.shape[1] for e in dictionary.embeddings), settings.seed)
    else:
        with clock.measure("comparing words"):
            dictionary, shares = race(diffusion, slot, dictionary, latents, settings, generator, progress)
        coefficients, rate = OwnCoefficients(shares), rate * START_LEARNING
    kept, losses, validations, stopped = None, [], [], None
    judge = clock.measured("validation", judge or loss_on_held_out)
    with clock.measure("fit"):
        try:
            for step in fit_conceptor(
                diffusion, slot, dictionary, coefficients, latents, judge, settings, rate, generator
            ):
                watch(step)
                kept = step if step.best else kept
                losses += [] if step.loss is None else [(step.step, step.loss)]
                validations += [] if step.validation is None else [(step.step, step.validation)]
        except LossNotFiniteError as error:
            stopped = f"{error} What follows is the state of step {kept.step}." if kept else None
    if kept is None:
        raise UserError("No validation gave a finite number; run the model in float32.")
    chosen, values = kept.largest(settings.num_tokens)
    with clock.measure("faithfulness"):
        alone, removal = faithfulness(diffusion, slot, chosen, values, held_out)
    ids = chosen.ids.tolist()
    made_by = {
        "family": concept.family,
        "concept": concept.name,
        "prompt": concept.prompt,
        "encoder": concept.vocabulary.made_by["encoder"],
        "settings": asdict(settings),
        "pictures": len(latents),
        "step": kept.step,
        "stopped": stopped,
        "validation": kept.validation,
        "alone": dict(zip(map(str, ids), alone.tolist(), strict=True)),
        "removal": dict(zip(map(str, ids), removal.tolist(), strict=True)),
    }
    mix = TokenMix.of(ids, chosen.texts, values.tolist(), **made_by)
    return Explanation(mix, losses, validations, clock)


def choose_dictionary(
    concept: Concept, slot: Slot, latents: Tensor, settings: Settings, generator: torch.Generator
) -> Dictionary:
    """The tokens nearest to the pictures by an image encoder, or, without one, by the gradient of the loss.

    Without the concept's own words, if so wished.
    """
    vocabulary, diffusion = concept.vocabulary, concept.diffusion
    if concept.features is not None:
        order = rank_by_pictures(vocabulary, concept.features)
    else:
        each, most = GRADIENT_DRAWS
        drawn = draw(latents, min(each * len(latents), most), _decisive(diffusion), generator)
        order = rank_by_gradient(vocabulary, diffusion, slot, drawn)
    banned: set[int] = set()
    if settings.exclude_concept and concept.name:
        banned = own_words(vocabulary, concept.encoder, slot.towers[-1], concept.name)
    rows = [row for row in order.tolist() if row not in banned][: settings.dictionary_size]
    return Dictionary.of(vocabulary, rows, latents.device)


def race(
    diffusion: Diffusion,
    slot: Slot,
    dictionary: Dictionary,
    latents: Tensor,
    settings: Settings,
    generator: torch.Generator,
    progress: Progress = unseen,
) -> tuple[Dictionary, Tensor]:
    """The tokens that alone denoise the pictures best, and the share (tokens,) of the pictures that each explains.

    Round after round the tokens that explain least leave, and those that stay are compared on more draws (successive
    halving). A picture of a mixed concept is explained by the token that is best on it, not by the one that is fair on
    all: a token is kept for its part in explaining single pictures.
    """
    sizes = [min(RACERS, len(dictionary))]
    while sizes[-1] > settings.num_tokens:
        sizes.append(max(settings.num_tokens, sizes[-1] // FACTOR))
    draws = [FIRST_DRAWS * FACTOR**number for number in range(len(sizes))]
    work = [size * (count - before) for size, count, before in zip(sizes, draws, [0, *draws], strict=False)]
    losses, pictures = torch.empty(len(dictionary), 0), torch.empty(0, dtype=torch.long)
    shares = torch.ones(len(dictionary))
    for number, (size, count) in enumerate(zip(sizes, draws, strict=True)):
        rows = shares.argsort(descending=True, stable=True)[:size]
        dictionary, losses = dictionary.only(rows), losses[rows]
        drawn = draw(latents, count - losses.shape[1], _decisive(diffusion), generator)

        def tell(done: int, total: int, number: int = number) -> None:
            progress(sum(work[:number]) + work[number] * done // total, sum(work))

        new = token_losses(diffusion, slot, dictionary.singles(), drawn, tell)
        losses, pictures = torch.cat([losses, new.cpu()], 1), torch.cat([pictures, drawn.pictures])
        shares = explained(losses, pictures, iterations=1)
    # Half by what explains all pictures together, half by what comes close: a word that is nearly as good is worth more
    # than one that is not.
    return dictionary, (explained(losses, pictures) + shares) / 2


def explained(losses: Tensor, pictures: Tensor, iterations: int = 200) -> Tensor:
    """The share (tokens,) of the pictures that each token explains, from losses (tokens, draws).

    Expectation maximisation for the shares of a mixture in which token i gives picture k the likelihood
    exp(-loss_ik / T): loss_ik is the mean over the picture's draws, T the standard error of such a mean. `pictures`
    (draws,) says which picture each draw is of.
    """
    _, place, count = pictures.unique(return_inverse=True, return_counts=True)
    averaging = torch.nn.functional.one_hot(place).double() / count  # of a picture's draws
    relative = losses.double() - losses.double().mean(0)  # what all tokens have in common says nothing
    means = relative @ averaging
    if len(pictures) > len(count):
        scatter = (relative - means[:, place]).square().sum() / len(losses) / (len(pictures) - len(count))
        temperature = (scatter / count.double().mean()).sqrt()
    else:  # one draw of each picture: nothing tells chance from difference
        temperature = means.std()
    likelihood = -means / temperature.clamp(min=1e-12)
    shares = torch.full((len(losses),), 1 / len(losses), dtype=torch.float64)
    for _ in range(iterations):
        shares = torch.softmax(likelihood + shares.log()[:, None], 0).mean(1)
    return shares.float()


def _decisive(diffusion: Diffusion) -> tuple[int, int]:
    count = len(diffusion.alphas_cumprod)
    return int(DECISIVE[0] * count), int(DECISIVE[1] * count)


class CoefficientMLP(nn.Module):
    """The paper's f: a coefficient >= 0 for each token from its embedding, by two layers."""

    def __init__(self, width: int, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.layers = nn.Sequential(nn.Linear(width, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1))

    def forward(self, embeddings: Tensor) -> Tensor:
        return self.layers(embeddings).squeeze(-1).abs()


class OwnCoefficients(nn.Module):
    """A coefficient > 0 for each token, learned by its logarithm from a start."""

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.logarithms = nn.Parameter(start.clamp(min=1e-3 / len(start)).log())

    def forward(self, embeddings: Tensor) -> Tensor:  # noqa: ARG002  (of the same form as the MLP)
        return self.logarithms.exp()


def fit_conceptor(
    diffusion: Diffusion,
    slot: Slot,
    dictionary: Dictionary,
    coefficients: nn.Module,
    latents: Tensor,
    judge: Judge,
    settings: Settings,
    learning_rate: float,
    generator: torch.Generator,
) -> Iterator[FitStep]:
    """The published fit: the loss MSE + sparsity (1 - cos(w*_N, w*)) (its equation 4), its start included.

    `coefficients` maps embeddings (tokens, widths of all towers) to values >= 0 (tokens,). Ends early when
    validations by `judge` no longer get better. Raises LossNotFiniteError, naming the step, when a loss overflows.
    """
    coefficients.to(latents.device)
    optimizer = torch.optim.AdamW(coefficients.parameters(), lr=learning_rate, weight_decay=WEIGHT_DECAY)
    inputs = torch.cat(list(dictionary.embeddings), dim=1)
    portions = Portions(settings.batch_size, diffusion)

    def validation(values: Tensor) -> float:
        return judge(*dictionary.largest(values, settings.num_tokens))

    def descend(size: int, drawn: Draws) -> float:
        """The loss of one step, with its gradients."""
        optimizer.zero_grad()
        values = coefficients(inputs)
        whole = dictionary.pseudo_token(values)
        kept = torch.zeros_like(values).index_fill(0, values.topk(min(settings.num_tokens, len(values))).indices, 1)
        largest = dictionary.pseudo_token(values * kept)
        apart = [1 - cosine_similarity(a, b).mean() for a, b in zip(largest, whole, strict=True)]
        penalty = settings.sparsity * torch.stack(apart).mean()
        encoded = slot.encode(whole)
        loss, gradient = encoded_gradient(diffusion, encoded, drawn, size)
        torch.autograd.backward([penalty, *encoded], [None, *gradient])
        return loss + float(penalty.detach())

    start = coefficients(inputs).detach()
    best, since = validation(start), 0
    yield FitStep(0, None, best, math.isfinite(best), dictionary, start)
    for number in range(1, settings.steps + 1):
        drawn = draw(latents, settings.batch_size, (0, len(diffusion.alphas_cumprod)), generator)
        loss = portions.run(lambda size, drawn=drawn: descend(size, drawn))
        if not math.isfinite(loss):
            raise LossNotFiniteError(
                f"The loss of step {number} is {loss}; half precision overflowed, or the pictures hold numbers that "
                "are not finite: run the model in float32, or lower the learning rate."
            )
        optimizer.step()
        values, judged, better = coefficients(inputs).detach(), None, False
        if number % settings.validate_every == 0 or number == settings.steps:
            judged = validation(values)
            better = judged < best
            best, since = (judged, 0) if better else (best, since + 1)
        yield FitStep(number, loss, judged, better, dictionary, values)
        if since == PATIENCE:
            return


def faithfulness(
    diffusion: Diffusion, slot: Slot, dictionary: Dictionary, coefficients: Tensor, drawn: Draws
) -> tuple[Tensor, Tensor]:
    """For each token the loss (tokens,) of it alone, and the rise of the mix's loss (tokens,) when it is removed."""
    alone = token_losses(diffusion, slot, dictionary.singles(), drawn).mean(1)
    removed = coefficients.repeat(len(dictionary), 1).fill_diagonal_(0) if len(dictionary) > 1 else coefficients[None]
    rows = torch.cat([coefficients[None], removed])
    whole, *without = token_losses(diffusion, slot, dictionary.pseudo_token(rows), drawn).mean(1)
    return alone, torch.stack(without) - whole
