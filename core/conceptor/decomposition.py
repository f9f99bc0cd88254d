"""Conceptor (arXiv 2306.00966): which words of its own vocabulary a diffusion model pictures a concept with."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from ..checkpoint import Checkpoint
from ..clock import Clock
from ..errors import UserError
from ..model.diffusion import Diffusion, Draws, draw
from ..model.protocols import Family, OpenTextEncoder
from ..model.template import Template
from ..model.text_tower import CONTEXT_LENGTH, TextTower
from .dictionary import Dictionary, Slot, own_words, rank_by_gradient, rank_by_pictures, token_losses
from .evaluations import BACKWARD, Counted, Evaluations
from .fit import FitState, FitStep, Judge, LossNotFiniteError, Settings, fit_conceptor
from .mixture import TokenMix
from .vocabulary import Vocabulary

# The share of the timesteps between which a text decides what is seen: before, its colours are; after, its grain.
DECISIVE = (0.25, 0.7)
GRADIENT_DRAWS = 4, 64  # for each picture, and at most
RACERS, FIRST_DRAWS = 256, 16  # tokens in a race's first round, and draws on which they are compared
FACTOR, MORE = 4, 2  # by which each further round has fewer tokens, and more draws come
LIKENESS = 30.0  # log-likelihood of a word for a picture, for each 1 of their features' cosine similarity
DRAWS_PER_PICTURE = 2  # of validation
NAMED = 10  # words of the largest shares, among which each picture has one that names it, or not
ENOUGH = 1.2  # times the loss of the concept's own word: what those may leave unexplained
LEAST = 0.01  # of all coefficients' sum: what a word has that is worth a mention
DROPPINGS = 2  # rounds in which words leave, usually
PURSUED = 1000  # tokens of the dictionary that a mix is fitted from when they leave more


@dataclass(frozen=True, eq=False)
class Concept:
    """What is to be explained, and with what."""

    encoder: OpenTextEncoder
    family: Family
    diffusion: Diffusion
    vocabulary: Vocabulary
    name: str  # may be empty, for pictures without a name
    template: Template
    towers: Sequence[TextTower]
    latents: Tensor  # (pictures, 4, h, w) as the UNet is trained on
    held_out: Tensor  # (pictures, 4, h, w): those on which coefficients are judged
    features: Tensor | None = None  # (pictures, width) of an image encoder that shares the vocabulary's space

    def likeness(self, dictionary: Dictionary) -> Tensor | None:
        """The cosine similarities (tokens, pictures) of words' and pictures' features; None without image features."""
        if self.features is None:
            return None
        return self.vocabulary.features[self.vocabulary.rows(dictionary.ids.tolist())] @ self.features.T.cpu()


@dataclass(frozen=True, eq=False)
class Explanation:
    """What a decomposition found."""

    mix: TokenMix
    losses: list[tuple[int, float]]  # (step, loss)
    validations: list[tuple[int, float]]  # (step, validation), lower is better
    clock: Clock

    def smooth_losses(self) -> list[tuple[int, float]]:
        """The losses as means of 20 steps: one step's draws are few."""
        values = [loss for _, loss in self.losses]
        means = [sum(values[max(0, end - 20) : end]) / min(end, 20) for end in range(1, len(values) + 1)]
        return [(step, mean) for (step, _), mean in zip(self.losses, means, strict=True)]

    def report(self, rows: int = 20) -> str:
        """The `rows` largest tokens with what is known of each, and how they were found."""
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
            f"by {settings['method']} from {made_by['pictures']} pictures and {made_by['candidates']} words; best at "
            f"step {made_by['step']} of {self.losses[-1][0] if self.losses else 0}, "
            f"validation {made_by['validation']:.5f}"
        )
        lines.append("alone: loss of the token alone; removal: what the loss of the mix gains without it")
        stopped = [made_by["stopped"]] if made_by["stopped"] else []
        return "\n".join([*stopped, *lines, f"time: {self.clock.report()}"])


def decompose(
    concept: Concept,
    settings: Settings,
    watch: Callable[[FitStep], object] = id,
    work: Evaluations | None = None,
    judge: Judge | None = None,
    checkpoint: Checkpoint | None = None,
) -> Explanation:
    """Explains a concept by tokens: chooses a dictionary, fits coefficients and keeps those that validate best.

    `watch` is called after each step of the fit; `work` counts the evaluations of all `phases`. `judge` validates;
    without one the loss on the held-out pictures does. The words and, at each validation, the fit are kept in
    `checkpoint`, from which a killed run goes on. A mix of `shares` has no word with less than a hundredth of it, and
    none without which the held-out pictures are denoised better, but for those that name pictures: of the largest, the
    best on one. The mix says in `made_by` what it was made of and, for each token, the loss of the token alone and the
    rise of the loss without it. A fit whose loss is no finite number ends with the best state before, and the
    explanation says so. Raises UserError for a prompt that is too long, for a vocabulary without other words than the
    concept's own, and when there is no such state.
    """
    clock = Clock()
    generator = torch.Generator().manual_seed(settings.seed)
    work = work or Evaluations()
    diffusion, every = Counted(concept.diffusion, work), (0, len(concept.diffusion.alphas_cumprod))
    concept = replace(concept, diffusion=diffusion)
    slot = Slot.of(concept.encoder, concept.towers, concept.template)
    device = slot.towers[0].table.device
    latents = concept.latents.to(device)
    held_out = draw(concept.held_out.to(device), DRAWS_PER_PICTURE * len(concept.held_out), every, generator)

    def loss_on_held_out(chosen: Dictionary, values: Tensor) -> float:
        return float(token_losses(diffusion, slot, chosen.pseudo_token(values), held_out).mean())

    made_by = {
        "family": concept.family,
        "concept": concept.name,
        "prompt": str(concept.template),
        "encoder": concept.vocabulary.made_by["encoder"],
        "settings": asdict(settings),
        "pictures": len(latents),
    }
    described = {
        **made_by,
        "latents": _fingerprint(concept.latents, concept.held_out),
        "vocabulary": [concept.vocabulary.made_by, _fingerprint(concept.vocabulary.ids)],
        "image features": concept.features is not None,
        "layers": [[tower.layer, tower.normed] for tower in slot.towers],  # a clip skip, which the words do not know
        "validated by": "loss" if judge is None else "judge",
    }
    kept = checkpoint.load(described) if checkpoint else None
    if kept:
        rows = concept.vocabulary.rows(kept[0]["ids"].tolist())
        dictionary = Dictionary.of(concept.vocabulary, rows, device)
    else:
        work.begin("choosing words")
        with clock.measure("dictionary"):
            dictionary = choose_dictionary(concept, slot, latents, settings, generator)
    shares = torch.ones(len(dictionary))
    if settings.method == "shares" and not kept:
        work.begin("comparing words")
        with clock.measure("comparing words"):
            like = concept.likeness(dictionary)
            found, shares = race(diffusion, slot, dictionary, latents, settings, generator, like)
            if explains(concept, slot, found.only(torch.arange(min(NAMED, len(found)))), held_out):
                dictionary = found
            else:
                dictionary = dictionary.only(torch.arange(min(PURSUED, len(dictionary))))
                shares = torch.full((len(dictionary),), 1 / len(dictionary))
    state = FitState.begin(dictionary, shares, settings, generator)
    if kept:
        state.resume(dictionary, *kept)

    stopped = None
    work.begin("fitting coefficients", done=state.step * settings.batch_size * (1 + BACKWARD))
    judge = clock.measured("validation", judge or loss_on_held_out)
    with clock.measure("fit"):
        try:
            for step in fit_conceptor(diffusion, slot, dictionary, state, latents, judge, settings):
                if checkpoint and step.validation is not None:
                    checkpoint.save(described, {"ids": dictionary.ids, **state.tensors()}, state.numbers())
                watch(step)
        except LossNotFiniteError as error:
            stopped = f"{error} What follows is the state of step {state.best.step}." if state.best else None
    best = state.best
    if best is None:
        raise UserError("No validation gave a finite number; run the model in float32.")
    chosen, values = best.dictionary.largest(best.coefficients, settings.num_tokens)
    with clock.measure("faithfulness"):
        if settings.method == "shares":  # what was published keeps all words
            work.begin("dropping words")
            chosen, values = helpful(diffusion, slot, chosen, values, held_out)
        work.begin("judging each word")
        alone = token_losses(diffusion, slot, chosen.singles(), held_out).mean(1)
        removal = removal_costs(diffusion, slot, chosen, values, held_out)
    validation = judge(chosen, values)
    ids = chosen.ids.tolist()
    made_by |= {
        "candidates": len(dictionary),
        "step": best.step,
        "stopped": stopped,
        "validation": validation,
        "alone": dict(zip(map(str, ids), alone.tolist(), strict=True)),
        "removal": dict(zip(map(str, ids), removal.tolist(), strict=True)),
    }
    return Explanation(chosen.mix(values, **made_by), state.losses, state.validations, clock)


def phases(
    settings: Settings, words: int, pictures: int, held_out: int, judging: int | None = None, shown: int = 0
) -> dict[str, int]:
    """The phases of `decompose` with the evaluations that each takes, as far as that is known before.

    words: of the vocabulary; pictures, held_out: how many there are. judging: what a validation takes that is not the
    loss; shown: what is drawn at each validation to be looked at.
    """
    each, most = GRADIENT_DRAWS
    words = min(settings.dictionary_size, words)
    tokens, draws = min(settings.num_tokens, words), DRAWS_PER_PICTURE * held_out
    judging, removal = draws if judging is None else judging, (tokens + 1) * draws
    race = sum(size * count for size, count in rounds(words, settings.num_tokens))
    named = min(NAMED, tokens) * draws
    validations = 1 + math.ceil(settings.steps / settings.validate_every)
    found = {
        "choosing words": min(each * pictures, most) * (1 + BACKWARD),
        "comparing words": race + named + draws,
        "fitting coefficients": settings.steps * settings.batch_size * (1 + BACKWARD) + validations * (judging + shown),
        "dropping words": named + DROPPINGS * removal,
        "judging each word": tokens * draws + removal + judging,
    }
    if settings.method == "conceptor":
        found |= {"comparing words": 0, "dropping words": 0}
    return found


def _fingerprint(*tensors: Tensor) -> str:
    digest = hashlib.sha256()
    for some in tensors:
        digest.update(some.cpu().contiguous().numpy().data)
    return digest.hexdigest()


def choose_dictionary(
    concept: Concept, slot: Slot, latents: Tensor, settings: Settings, generator: torch.Generator
) -> Dictionary:
    """The tokens nearest to the pictures by an image encoder, or, without one, by the gradient of the loss.

    Without the concept's own words, if so wished. latents: (pictures, 4, h, w). Raises UserError when no word is left.
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
    if not rows:
        raise UserError(
            f'The vocabulary has no word but "{concept.name}" itself; give one with more words, or turn off '
            "exclude_concept."
        )
    return Dictionary.of(vocabulary, rows, latents.device)


def rounds(words: int, num_tokens: int) -> list[tuple[int, int]]:
    """The tokens and the draws of each round of a race of `words` tokens, of which it keeps `num_tokens`."""
    sizes = [min(RACERS, words)]
    while sizes[-1] // FACTOR >= num_tokens:
        sizes.append(sizes[-1] // FACTOR)
    first = FIRST_DRAWS * RACERS // sizes[0]  # few words are compared on more draws: as much work as many
    return [(size, first * MORE**number) for number, size in enumerate(sizes)]


def race(
    diffusion: Diffusion,
    slot: Slot,
    dictionary: Dictionary,
    latents: Tensor,
    settings: Settings,
    generator: torch.Generator,
    likeness: Tensor | None = None,
) -> tuple[Dictionary, Tensor]:
    """The tokens that alone denoise the pictures best, and the share (tokens,) of the pictures that each explains.

    latents: (pictures, 4, h, w). Round after round the tokens that explain least leave, and those that stay are
    compared on more draws (successive halving, arXiv 1502.07943). A picture of a mixed concept is explained by the
    token that is best on it, not by the one that is fair on all: a token is kept for its part in explaining single
    pictures, its mixture weight (see `explained`). `likeness` (tokens, pictures), cosine similarities of features,
    counts beside the denoising, where there is an image encoder.
    """
    losses, pictures = torch.empty(len(dictionary), 0), torch.empty(0, dtype=torch.long)
    evidence = torch.zeros(len(dictionary), len(latents)) if likeness is None else LIKENESS * likeness
    shares = torch.ones(len(dictionary))

    def keep(size: int) -> None:
        nonlocal dictionary, losses, evidence, shares
        rows = shares.argsort(descending=True, stable=True)[:size]
        dictionary, losses, evidence, shares = dictionary.only(rows), losses[rows], evidence[rows], shares[rows]

    for size, count in rounds(len(dictionary), settings.num_tokens):
        keep(size)
        drawn = draw(latents, count, _decisive(diffusion), generator)
        new = token_losses(diffusion, slot, dictionary.singles(), drawn)
        losses, pictures = torch.cat([losses, new.cpu()], 1), torch.cat([pictures, drawn.pictures])
        shares = explained(losses, pictures, evidence, iterations=1)
    # Half by what explains all pictures together, half by what comes close: a word that is nearly as good is worth more
    # than one that is not.
    shares = (explained(losses, pictures, evidence) + shares) / 2
    keep(settings.num_tokens)
    return dictionary, shares


def explains(concept: Concept, slot: Slot, words: Dictionary, drawn: Draws) -> bool:
    """Whether the best word of each picture alone denoises the pictures, all in all, about as well as the concept does.

    A concept that is a mixture of others is explained by such words, though no single word and no sum of them denoises
    all its pictures. One that no other words name is not, and has to be fitted from many words together. Without a name
    there is nothing to compare with.
    """
    if not concept.name:
        return True
    *tokens, end = concept.encoder.tokenize(concept.template.filled(concept.name))
    own = Slot(slot.towers, [*tokens[: CONTEXT_LENGTH - 1], end], [])  # as diffusers cuts it
    best = of_each_picture(token_losses(concept.diffusion, slot, words.singles(), drawn), drawn.pictures).amin(0)
    word = token_losses(concept.diffusion, own, [tower.table[:1] for tower in slot.towers], drawn)
    return float(best.mean()) <= ENOUGH * float(word.mean())


def of_each_picture(losses: Tensor, pictures: Tensor) -> Tensor:
    """The means (tokens, pictures) of losses (tokens, draws) over the draws of each picture; pictures (draws,)."""
    _, place, count = pictures.unique(return_inverse=True, return_counts=True)
    return losses @ (torch.nn.functional.one_hot(place) / count).to(losses)


def explained(losses: Tensor, pictures: Tensor, evidence: Tensor, iterations: int = 200) -> Tensor:
    """The share (tokens,) of the pictures that each token explains, from losses (tokens, draws).

    Expectation maximisation, `iterations` steps, for the weights of a mixture in which token i gives picture k the
    likelihood exp(evidence_ik - loss_ik / T): loss_ik is the mean over the picture's draws, T the standard error of
    such a mean. `pictures` (draws,) says which picture each draw is of; evidence (tokens, pictures) what else is known.
    """
    there, place, count = pictures.unique(return_inverse=True, return_counts=True)
    relative = losses.double() - losses.double().mean(0)  # what all tokens have in common says nothing
    means = of_each_picture(relative, pictures)
    if len(pictures) > len(count):
        scatter = (relative - means[:, place]).square().sum() / len(losses) / (len(pictures) - len(count))
        temperature = (scatter / count.double().mean()).sqrt()
    else:  # one draw of each picture: nothing tells chance from difference
        temperature = means.std()
    likelihood = evidence[:, there] - means / temperature.clamp(min=1e-12)
    shares = torch.full((len(losses),), 1 / len(losses), dtype=torch.float64)
    for _ in range(iterations):
        shares = torch.softmax(likelihood + shares.log()[:, None], 0).mean(1)
    return shares.float()


def _decisive(diffusion: Diffusion) -> tuple[int, int]:
    count = len(diffusion.alphas_cumprod)
    return int(DECISIVE[0] * count), int(DECISIVE[1] * count)


def helpful(
    diffusion: Diffusion, slot: Slot, dictionary: Dictionary, coefficients: Tensor, drawn: Draws
) -> tuple[Dictionary, Tensor]:
    """The tokens of a mix that do something, and their coefficients (tokens,), which are in descending order.

    Those with less than a hundredth of the mix leave, and those without which the pictures are denoised better, until
    there are none (backward elimination): but for the best of the largest on a picture, which the sum of all may hide.
    """
    worth = (coefficients >= LEAST * coefficients.sum()).nonzero().flatten()
    dictionary, coefficients = dictionary.only(worth), coefficients[worth]
    largest = dictionary.only(torch.arange(min(NAMED, len(dictionary))))
    losses = of_each_picture(token_losses(diffusion, slot, largest.singles(), drawn), drawn.pictures)
    best = torch.zeros(len(dictionary), dtype=torch.bool, device=coefficients.device)
    best[losses.argmin(0)] = True
    # Not "costs > 0": what a model that overflows says of a word is no reason to drop it.
    while not (stays := best | ~(removal_costs(diffusion, slot, dictionary, coefficients, drawn) <= 0)).all():
        dictionary, coefficients, best = dictionary.only(stays.nonzero().flatten()), coefficients[stays], best[stays]
    return dictionary, coefficients


def removal_costs(
    diffusion: Diffusion, slot: Slot, dictionary: Dictionary, coefficients: Tensor, drawn: Draws
) -> Tensor:
    """The rise of the mix's loss (tokens,) when each token is removed: 0 for a token that is the whole mix.

    coefficients: (tokens,), those of the mix. The loss is the mean over `drawn`.
    """
    removed = coefficients.repeat(len(dictionary), 1).fill_diagonal_(0) if len(dictionary) > 1 else coefficients[None]
    rows = torch.cat([coefficients[None], removed])
    whole, *without = token_losses(diffusion, slot, dictionary.pseudo_token(rows), drawn).mean(1)
    return torch.stack(without) - whole
