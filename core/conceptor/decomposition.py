"""Conceptor (arXiv 2306.00966): which words of its own vocabulary a diffusion model pictures a concept with."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..checkpoint import Checkpoint
from ..clock import Clock
from ..errors import UserError
from ..model.diffusion import Diffusion, Draws, draw
from ..model.protocols import Family, OpenTextEncoder
from ..model.slot import PromptSlot, Slot
from ..model.template import Template
from ..model.text_tower import TextTower
from .dictionary import (
    Dictionary,
    likeness_shares,
    own_words,
    prompt_losses,
    rank_by_gradient,
    taught,
    token_losses,
)
from .evaluations import BACKWARD, Counted, Evaluations
from .fit import FitState, FitStep, Judge, LossNotFiniteError, Settings, fit_conceptor, untaught
from .mixture import TokenMix
from .pursuit import Reading, pursue
from .race import Raced, decisive, of_each_picture, race, rounds
from .vocabulary import Vocabulary

GRADIENT_DRAWS = 4, 64  # for each picture, and at most
# Of validation: one that has the model's own word as its target says more than one of noise.
DRAWS_PER_PICTURE = {"shares": 1, "conceptor": 2}
WORTH_DRAWS = 40  # of all pictures, on which the words of a mixture are taken out one by one
NAMED = 10  # words of the largest shares, among which each picture has one that names it, or not
ENOUGH = 1.28  # times the loss of the concept's own word: what those may leave unexplained
LEAST = 0.01  # of all coefficients' sum: what a word has that is worth a mention
UNNAMED = (
    'No few words name "{}"; those that follow come closest. A mix of many words is fitted by the gradients of CLIP '
    "alone, and this model reads its prompts by another text encoder."
)
HALF = 0.5  # of the pictures: what the largest word of pictures that show one thing explains


@dataclass(frozen=True, eq=False)
class Concept:
    """What is to be explained, and with what."""

    encoder: OpenTextEncoder  # of the vocabulary
    towers: Sequence[TextTower]
    family: Family | None  # None: its mixes are for all that read words
    diffusion: Diffusion
    vocabulary: Vocabulary
    name: str  # may be empty, for pictures without a name
    template: Template
    slot: PromptSlot  # of the template
    latents: Tensor  # (pictures, 4, h, w) as the UNet is trained on
    held_out: Tensor  # (pictures, 4, h, w): those on which coefficients are judged
    features: Tensor | None = None  # (pictures, width) of an image encoder that shares the vocabulary's space
    drawn: bool = True  # whether the pictures are the model's own of the name, and not somebody's

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
        made_by, mix = self.mix.made_by, self.mix
        lines = [f"{'token':<20} {'coefficient':>11} {'share':>6} {'90 % within':>13} {'alone':>8} {'removal':>9}"]
        for token, text, value, share in zip(mix.ids[:rows], mix.texts, mix.coefficients, mix.shares(), strict=False):
            low, high = made_by["interval"].get(str(token), (None, None))
            within = "" if low is None else f"{low:.1%}-{high:.1%}"
            alone = made_by["alone"].get(str(token))
            single = "" if alone is None else f"{alone:.5f}"
            removal = made_by["removal"][str(token)]
            lines.append(f"{text:<20} {value:>11.4g} {share:>6.1%} {within:>13} {single:>8} {removal:>+9.6f}")
        method, step = made_by["settings"]["method"], f"best at step {made_by['step']} of {len(self.losses)}"
        unfitted = "not fitted" if made_by["stopped"] else "its words name it: not fitted"
        lines.append(
            f'{len(mix)} tokens of {made_by["family"]} for "{made_by["concept"]}" in "{made_by["prompt"]}", '
            f"by {method} from {made_by['pictures']} pictures and {made_by['candidates']} words; "
            f"{step if self.losses else unfitted}, validation {made_by['validation']:.5f}"
        )
        lines.append("alone: loss of the token alone; removal: what the loss of the mix gains without it")
        if not made_by["concept"] and max(mix.shares()) < HALF:
            lines.append("The pictures show several things: no word explains half of them.")
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
    """Explains a concept by tokens: chooses a dictionary, compares its words, and fits coefficients where it has to.

    By `shares` a concept that few words name is the mixture of these, and their coefficients are the shares of the
    pictures that each explains. Another one is fitted from many words: first as the text encoder reads its name, then
    as the UNet denoises with it; where the slot has no gradients it is not fitted, and the explanation says so. By
    `conceptor` all are fitted as published. `watch` is called with the words that each
    round of a race leaves, and after each step of a fit; `work` counts the evaluations of all `phases`. `judge`
    validates; without one the loss on the held-out pictures does. At each validation the fit is kept in `checkpoint`,
    from which a killed run goes on. No word has less than a hundredth of a mix of `shares`, and none of a fitted one is
    such that the held-out pictures are denoised better without it. The mix says in `made_by` what it was made of and
    what is known of each token: the loss of the token alone, the rise of the loss without it, and the interval of its
    share. A fit whose loss is no finite number ends with the best state before, and the explanation says so. Raises
    UserError for a vocabulary without other words than the concept's own, for what can't be done without gradients, and
    when there is no such state.
    """
    clock = Clock()
    generator = torch.Generator().manual_seed(settings.seed)
    work = work or Evaluations()
    diffusion, every = Counted(concept.diffusion, work), (0, len(concept.diffusion.alphas_cumprod))
    concept = replace(concept, diffusion=diffusion)
    slot = concept.slot
    check_differentiable(slot, settings, concept.features is not None)
    latents, held_out = (each.to(slot.device) for each in (concept.latents, concept.held_out))
    own = slot.named(concept.name) if concept.name and concept.drawn and settings.method == "shares" else None
    described = _described(concept, settings, judge)
    kept = checkpoint.load(described) if checkpoint else None
    drawn = draw(held_out, DRAWS_PER_PICTURE[settings.method] * len(held_out), every, generator)
    judged_by = drawn
    if own:
        work.begin("the model's own word")
        judged_by = taught(diffusion, drawn, own)

    def loss_on_held_out(chosen: Dictionary, values: Tensor) -> float:
        return float(token_losses(diffusion, slot, chosen.pseudo_token(values), judged_by).mean())

    judge = clock.measured("validation", judge or loss_on_held_out)
    raced: Raced | None = None
    stopped: str | None = None
    if kept:
        rows = concept.vocabulary.rows(kept[0]["ids"].tolist())
        dictionary, start = Dictionary.of(concept.vocabulary, rows, latents.device), torch.ones(len(rows))
        candidates = kept[1].get("candidates", len(rows))
    else:
        work.begin("choosing words")
        with clock.measure("dictionary"):
            dictionary = choose_dictionary(concept, latents, settings, generator)
        candidates, start = len(dictionary), torch.ones(len(dictionary))
        if settings.method == "shares":
            work.begin("comparing words")
            with clock.measure("comparing words"):
                like = concept.likeness(dictionary)
                how: dict[str, Any] = {"racers": settings.racers, "draws": settings.draws, "likeness": like}
                for raced in race(diffusion, slot, dictionary, latents, generator, **how):
                    watch(FitStep(0, None, None, False, raced.words, raced.shares, raced.intervals))
                assert raced is not None  # a race has a round
                named = own is None or explains(concept, raced.losses[:NAMED], raced.drawn)
            if not named and isinstance(slot, Slot):
                work.begin("reading words")
                with clock.measure("reading words"):
                    places = {token: row for row, token in enumerate(dictionary.ids.tolist())}
                    first = [places[token] for token in raced.words.ids[:NAMED].tolist()]
                    reading = Reading.of_name(slot, concept.name)
                    dictionary, start = pursue(reading, dictionary, first, settings.num_tokens)
                raced = None
            elif not named:
                stopped = UNNAMED.format(concept.name)

    known: dict[str, Any] = {"candidates": candidates, "stopped": stopped, "step": 0, "alone": {}, "interval": {}}
    losses: list[tuple[int, float]] = []
    if raced:
        raced = raced.only((raced.shares >= LEAST).nonzero().flatten()[: settings.num_tokens])
        chosen, values = raced.words, raced.shares.to(latents.device)
        validations = [(0, judge(chosen, values))]
        known |= {"alone": chosen.by_token(raced.losses.mean(1)), "interval": chosen.by_token(raced.intervals)}
        watch(FitStep(0, None, validations[0][1], True, chosen, values, raced.intervals))
    else:
        assert isinstance(slot, Slot)  # check_differentiable
        state = FitState.begin(dictionary, start, settings, generator)
        if kept:
            state.resume(dictionary, *kept)
        work.begin("fitting coefficients", done=state.step * settings.batch_size * (1 + BACKWARD))
        teacher = (lambda some: taught(diffusion, some, own)) if own else untaught
        steps = fit_conceptor(diffusion, slot, dictionary, state, latents, judge, settings, teacher)

        def keep(step: FitStep) -> None:
            if checkpoint and step.validation is not None:
                numbers = {**state.numbers(), "candidates": candidates}
                checkpoint.save(described, {"ids": dictionary.ids, **state.tensors()}, numbers)
            watch(step)

        with clock.measure("fit"):
            best, known["stopped"] = _best_of(steps, state, keep)
        known["step"], losses, validations = best.step, state.losses, state.validations
        chosen, values = best.dictionary.largest(best.coefficients, settings.num_tokens)
    work.begin("judging each word")
    with clock.measure("faithfulness"):
        if settings.method == "shares" and not raced:  # what was published keeps all words
            chosen, values, removal = helpful(diffusion, slot, chosen, values, judged_by)
        else:
            worth = judged_by
            if raced:  # each word draws other pictures: all of them count
                worth = draw(torch.cat([latents, held_out]), WORTH_DRAWS, decisive(diffusion), generator)
            removal = removal_costs(diffusion, slot, chosen, values, worth)
        if settings.method == "conceptor":
            known["alone"] = chosen.by_token(token_losses(diffusion, slot, chosen.singles(), drawn).mean(1))
    known |= {"removal": chosen.by_token(removal), "validation": judge(chosen, values)}
    mix = chosen.mix(values, **_made_by(concept, settings), **known)
    return Explanation(mix, losses, validations, clock)


def _best_of(
    steps: Iterable[FitStep], state: FitState, seen: Callable[[FitStep], object]
) -> tuple[FitStep, str | None]:
    """Takes all steps of a fit: the best of them, and why it ended before its last one, if it did.

    Raises UserError when no step was validated by a finite number.
    """
    stopped = None
    try:
        for step in steps:
            seen(step)
    except LossNotFiniteError as error:
        stopped = f"{error} What follows is the state of step {state.best.step}." if state.best else None
    if state.best is None:
        raise UserError("No validation gave a finite number; run the model in float32.")
    return state.best, stopped


def _made_by(concept: Concept, settings: Settings) -> dict[str, Any]:
    return {
        "family": concept.family,
        "concept": concept.name,
        "prompt": str(concept.template),
        "encoder": concept.vocabulary.made_by["encoder"],
        "settings": asdict(settings),
        "pictures": len(concept.latents),
    }


def _described(concept: Concept, settings: Settings, judge: Judge | None) -> dict[str, Any]:
    """All that a fit depends on beside the model."""
    return {
        **_made_by(concept, settings),
        "latents": _fingerprint(concept.latents, concept.held_out),
        "vocabulary": [concept.vocabulary.made_by, _fingerprint(concept.vocabulary.ids)],
        "image features": concept.features is not None,
        "layers": [[tower.layer, tower.normed] for tower in concept.towers],  # a clip skip, which the words do not know
        "validated by": "loss" if judge is None else "judge",
    }


def phases(
    settings: Settings,
    words: int,
    pictures: int,
    held_out: int,
    judging: int | None = None,
    shown: int = 0,
    with_features: bool = False,
) -> dict[str, int]:
    """The phases of `decompose` with the most evaluations that each takes, as far as that is known before.

    words: of the vocabulary; pictures, held_out: how many there are. judging: what a validation takes that is not the
    loss; shown: what is drawn at each validation to be looked at; with_features: whether an image encoder chooses the
    words.
    """
    each, most = GRADIENT_DRAWS
    words = min(settings.dictionary_size, words)
    tokens, draws = min(settings.num_tokens, words), DRAWS_PER_PICTURE[settings.method] * held_out
    judging = draws if judging is None else judging
    validations = 1 + math.ceil(settings.steps / settings.validate_every)
    raced = rounds(words, settings.racers, settings.draws)
    race, (finalists, _) = sum((size + 1) * count for size, count in raced), raced[-1]
    taught, published = (draws, 0) if settings.method == "shares" else (0, tokens * draws)
    return {
        "the model's own word": taught,
        "choosing words": 0 if with_features else min(each * pictures, most) * (1 + BACKWARD),
        "comparing words": taught and race,
        "fitting coefficients": settings.steps * settings.batch_size * (1 + BACKWARD + (taught > 0))
        + validations * (judging + shown),
        "judging each word": max((tokens + 1) * draws, (min(tokens, finalists) + 1) * WORTH_DRAWS)
        + published
        + judging,
    }


def _fingerprint(*tensors: Tensor) -> str:
    digest = hashlib.sha256()
    for some in tensors:
        digest.update(some.cpu().contiguous().numpy().data)
    return digest.hexdigest()


def banned_words(
    vocabulary: Vocabulary, encoder: OpenTextEncoder, tower: TextTower, name: str, settings: Settings
) -> set[int]:
    """The rows of the vocabulary that may not explain the concept of this name: its own words, where so wished."""
    return own_words(vocabulary, encoder, tower, name) if settings.exclude_concept and name else set()


def check_differentiable(slot: PromptSlot, settings: Settings, with_features: bool) -> None:
    """Raises UserError for what needs gradients with respect to a pseudo-token, in a slot without.

    with_features: whether an image encoder chooses the words.
    """
    if isinstance(slot, Slot):
        return
    if settings.method == "conceptor":
        raise UserError(
            "The method conceptor needs the gradients of CLIP, and this model reads its prompts by another text "
            "encoder; choose the method shares, or the quality quick or thorough."
        )
    if not with_features:
        raise UserError(
            "This model's text encoder gives no gradients to choose words by; connect an image encoder (clip_vision), "
            "and Vocabulary Embed of the CLIP that was trained with it."
        )


def choose_dictionary(concept: Concept, latents: Tensor, settings: Settings, generator: torch.Generator) -> Dictionary:
    """The tokens nearest to the pictures by an image encoder, or, without one, by the gradient of the loss.

    Without the concept's own words, if so wished. latents: (pictures, 4, h, w). Raises UserError when no word is left.
    """
    vocabulary, diffusion = concept.vocabulary, concept.diffusion
    banned = banned_words(vocabulary, concept.encoder, concept.towers[-1], concept.name, settings)
    if concept.features is not None:
        order = likeness_shares(vocabulary, concept.features, banned).argsort(descending=True)
    else:
        assert isinstance(concept.slot, Slot)  # check_differentiable
        each, most = GRADIENT_DRAWS
        drawn = draw(latents, min(each * len(latents), most), decisive(diffusion), generator)
        order = rank_by_gradient(vocabulary, diffusion, concept.slot, drawn)
    rows = [row for row in order.tolist() if row not in banned][: settings.dictionary_size]
    if not rows:
        raise UserError(
            f'The vocabulary has no word but "{concept.name}" itself; give one with more words, or turn off '
            "exclude_concept."
        )
    return Dictionary.of(vocabulary, rows, latents.device)


def explains(concept: Concept, losses: Tensor, drawn: Draws) -> bool:
    """Whether the best word of each picture alone denoises the pictures, all in all, about as well as the concept does.

    losses: (words, draws) of each word alone. A concept that is a mixture of others is explained by such words, though
    no single word and no sum of them denoises all its pictures. One that no other words name is not, and has to be
    fitted from many words together. Without a name there is nothing to compare with.
    """
    if not concept.name:
        return True
    word = prompt_losses(concept.diffusion, concept.slot.named(concept.name), drawn)
    return float(of_each_picture(losses, drawn.pictures).amin(0).mean()) <= ENOUGH * float(word.mean())


def helpful(
    diffusion: Diffusion, slot: PromptSlot, dictionary: Dictionary, coefficients: Tensor, drawn: Draws
) -> tuple[Dictionary, Tensor, Tensor]:
    """The tokens of a mix that do something, their coefficients (tokens,) and what the removal of each costs (tokens,).

    coefficients: in descending order. Tokens with less than a hundredth of the mix leave, and then those without which
    the pictures are denoised better; the costs of the others are those that they had before.
    """
    worth = (coefficients >= LEAST * coefficients.sum()).nonzero().flatten()
    dictionary, coefficients = dictionary.only(worth), coefficients[worth]
    costs = removal_costs(diffusion, slot, dictionary, coefficients, drawn)
    # Not "costs > 0": what a model that overflows says of a word is no reason to drop it.
    stays = (~(costs <= 0)).nonzero().flatten()
    stays = stays if len(stays) else torch.arange(len(costs), device=stays.device)
    return dictionary.only(stays), coefficients[stays], costs[stays]


def removal_costs(
    diffusion: Diffusion, slot: PromptSlot, dictionary: Dictionary, coefficients: Tensor, drawn: Draws
) -> Tensor:
    """The rise of the mix's loss (tokens,) when each token is removed: 0 for a token that is the whole mix.

    coefficients: (tokens,), those of the mix. The loss is the mean over `drawn`.
    """
    removed = coefficients.repeat(len(dictionary), 1).fill_diagonal_(0) if len(dictionary) > 1 else coefficients[None]
    rows = torch.cat([coefficients[None], removed])
    whole, *without = token_losses(diffusion, slot, dictionary.pseudo_token(rows), drawn).mean(1)
    return torch.stack(without) - whole
