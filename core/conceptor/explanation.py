"""From a concept to its explanation: pictures of it, a mix of words, and pictures of the mix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch
from torch import Tensor

from ..checkpoint import Checkpoint
from ..errors import UserError
from ..model.protocols import OpenTextEncoder, check_fits
from ..model.slot import PromptSlot
from ..model.studio import Studio, seeds_from
from ..model.template import Template
from ..pictures.charts import bar_chart, line_chart
from .decomposition import Concept, Explanation, banned_words, check_differentiable, decompose, phases
from .dictionary import Dictionary, likeness_shares
from .evaluations import Evaluations
from .fit import FitStep, Settings
from .mixture import TokenMix
from .vocabulary import Vocabulary, text_feature

Validation = Literal["loss", "pictures"]
DRAWN = 0.7  # how far from the mean word to the one nearest to the pictures a name has to come that the model draws
HELD_OUT = 5  # of how many given pictures one is kept for validation
SHOWN = 12  # words of a mix while it is fitted
PROBE = torch.full((1, 64, 64, 3), 0.5)  # a picture to see whether there is an image encoder
MAKING, REMAKING = "making pictures", "making pictures of the mix"


class Live(Protocol):
    """What is seen of an explanation while it is made."""

    def bar(self, done: int, total: int, picture: Tensor | None = None) -> None:
        """`done` evaluations of `total`, and a picture (height, width, 3) in 0..1; may raise to stop the work."""
        ...

    def say(self, text: str) -> None:
        """What is being done now."""
        ...

    def found(self, mix: TokenMix) -> None:
        """The largest words so far, with intervals where they are known."""
        ...


@dataclass(frozen=True, eq=False)
class Explained:
    """An explanation with its pictures, each (n, height, width, 3)."""

    found: Explanation
    pictures: Tensor  # of the concept
    reconstructions: Tensor  # of the mix
    similarity: float | None  # of reconstructions to held-out pictures: mean cosine similarity of image features

    def report(self) -> str:
        """The explanation in words and numbers."""
        told = "" if self.similarity is None else f"\nreconstructions are {self.similarity:.3f} like held-out pictures"
        return f"{self.found.report()}\n{self.found.mix.made_by['evaluations']} evaluations of the model{told}"

    def chart(self) -> Tensor:
        """Loss and validation over the steps of a fit, or the shares of the words that name a concept without one.

        A picture (height, width, 3).
        """
        if not self.found.losses:
            top = self.found.mix.top(SHOWN)
            return bar_chart(top.texts, top.coefficients)
        return line_chart({"loss": self.found.smooth_losses(), "validation": self.found.validations}, "step")


def seeds_of(settings: Settings, num_images: int, validation_images: int) -> tuple[list[int], list[int]]:
    """The seeds of `num_images` pictures for training and, after them, of `validation_images` for validation.

    Raises UserError when either has none.
    """
    if num_images < 1 or validation_images < 1:
        raise UserError(
            f"{num_images} pictures for training and {validation_images} for validation were asked for; give 1 or more "
            "of each."
        )
    seeds = seeds_from(settings.seed, num_images + validation_images)
    return seeds[:num_images], seeds[num_images:]


def check_concept(name: str, with_pictures: bool) -> None:
    """Raises UserError when nothing says what is to be explained."""
    if not name and not with_pictures:
        raise UserError("The concept is empty; write a word, or give pictures of it.")


def check_validation(validation: Validation, with_image_encoder: bool) -> None:
    """Raises UserError when pictures are to be compared with nothing that could."""
    if validation == "pictures" and not with_image_encoder:
        raise UserError("Validation by pictures needs an image encoder; connect clip_vision.")


def check_name(encoder: OpenTextEncoder, name: str, templates: Sequence[Template]) -> None:
    """Raises UserError when the concept makes one of these prompts longer than CLIP reads."""
    for each in templates:
        whole = each.filled(name)
        check_fits(encoder, whole, encoder.tokenize(whole))


def check_studio(
    studio: Studio, vocabulary: Vocabulary, name: str, slot: PromptSlot, settings: Settings, validation: Validation
) -> bool:
    """Whether there is an image encoder.

    Raises UserError for what would fail when all pictures are made: words, prompts and models that do not fit.
    """
    slot.check(name)
    check_name(studio.encoder, name, [Template.of(each) for each in vocabulary.made_by.get("templates", ())])
    features = studio.features(PROBE)
    check_validation(validation, features is not None)
    check_differentiable(slot, settings, features is not None)
    if features is not None:
        vocabulary.check_space(features)
    studio.check_diffusion()
    return features is not None


class NotDrawnError(UserError):
    """The model has no pictures of a concept that could be explained."""


def check_drawn(studio: Studio, vocabulary: Vocabulary, name: str, features: Tensor) -> None:
    """Raises NotDrawnError when pictures of the name are like other words and not like it: the model can't draw it.

    features: (pictures, width) of an image encoder in the vocabulary's space. A model draws something for a word that
    it never learned too, and other words would explain that with confidence.
    """
    own = text_feature(studio.encoder, studio.towers[-1], name, vocabulary.made_by["templates"])
    likeness = (vocabulary.features @ features.T).mean(1)
    mean, best = likeness.mean(), likeness.max()
    reached = float(((features @ own.cpu()).mean() - mean) / (best - mean))
    if reached < DRAWN:
        nearest = ", ".join(vocabulary.texts[row] for row, _ in vocabulary.nearest(features.mean(0), 5))
        raise NotDrawnError(
            f'There is no explanation: the model does not draw "{name}". Its {len(features)} pictures are no more like '
            f"that than like other words (likeness {reached:.0%} of the nearest word's, {DRAWN:.0%} needed); they look "
            f"like {nearest}. Explain a word that the model knows, or give pictures of your own."
        )


def first_words(studio: Studio, vocabulary: Vocabulary, name: str, settings: Settings, features: Tensor) -> TokenMix:
    """What pictures of the name look like to the image encoder alone, by their features (pictures, width)."""
    banned = banned_words(vocabulary, studio.encoder, studio.towers[-1], name, settings)
    shares = likeness_shares(vocabulary, features, banned)
    values, rows = shares.topk(min(SHOWN, int((shares > 0).sum())))
    return Dictionary.of(vocabulary, rows.tolist(), values.device).mix(values)


def explain(
    studio: Studio,
    vocabulary: Vocabulary,
    name: str,
    template: Template,
    settings: Settings,
    live: Live,
    *,
    num_images: int = 100,
    validation_images: int = 20,
    given: Tensor | None = None,
    validation: Validation = "loss",
    checkpoint: Checkpoint | None = None,
) -> Explained:
    """Explains the concept `name`, or what `given` pictures (n, height, width, 3) show, by words.

    `num_images` pictures for training and `validation_images` to judge by are made with the seeds of `seeds_of`. Of
    `given` ones, in 0..1, `validation_images` are held out to judge by, but one in HELD_OUT at most; where that is
    none, all serve both. `validation` "pictures" judges as published, by the pictures that a mix makes. A killed run
    goes on from `checkpoint`, which is for the caller to remove when its work is kept. `live` sees words from the
    first pictures on: those to judge by are made first, and an image encoder names what they look like. Raises
    UserError for what can't be explained so.
    """
    check_concept(name, given is not None)
    vocabulary.check_encoder(studio.towers)
    vocabulary, slot = vocabulary.read_by(studio.words), studio.slot(template)
    sees = check_studio(studio, vocabulary, name, slot, settings, validation)
    earlier, later = seeds_of(settings, num_images, validation_images)
    count = num_images + validation_images if given is None else len(given)
    kept = num_images if given is None else count - min(validation_images, count // HELD_OUT)
    made = given is None
    again = studio.evaluations(len(later))
    judging = again if validation == "pictures" else None
    work = Evaluations(
        {
            MAKING: studio.evaluations(count) if made else 0,
            **phases(settings, len(vocabulary), kept, count - kept or count, judging, studio.evaluations(1), sees),
            REMAKING: again,
        },
        live.bar,
        live.say,
    )

    def made_by_name(seeds: Sequence[int]) -> Tensor:
        counted = work.counted(studio.evaluations(len(seeds)))
        return studio.latents_of_prompt(template.filled(name), seeds, counted)

    def features_of(latents: Tensor) -> Tensor | None:
        return studio.features(studio.pictures(latents)) if sees else None

    if given is None:
        work.begin(MAKING)
        held_out = made_by_name(later)
        wanted = features_of(held_out)
        if wanted is not None:
            live.found(first_words(studio, vocabulary, name, settings, wanted))
        used = made_by_name(earlier)
        given = studio.pictures(used)
    else:
        latents = studio.latents_of_pictures(given)
        used, held_out = latents[:kept], latents[kept:] if kept < count else latents
        wanted = features_of(held_out)
    features = studio.features(given[:kept])
    if features is not None and made and settings.method == "shares":
        check_drawn(studio, vocabulary, name, features)

    def remade(mix: TokenMix, seeds: Sequence[int]) -> Tensor:
        counted = work.counted(studio.evaluations(len(seeds)))
        return studio.pictures(studio.latents_of_mix(template, mix, seeds, counted))

    def likeness(pictures: Tensor) -> float | None:
        made = studio.features(pictures)
        return None if made is None or wanted is None else float((made @ wanted.T).mean())

    def unlikeness(words: Dictionary, values: Tensor) -> float:
        like = likeness(remade(words.mix(values), later))
        assert like is not None  # check_studio has seen an image encoder
        return -like

    def watch(step: FitStep) -> None:
        mix = step.largest(settings.num_tokens)
        picture = None if step.validation is None else remade(mix, later[:1])[0]
        if step.loss is not None:
            live.say(f"step {step.step} of {settings.steps}, loss {step.loss:.4f}, {work.seconds_left:.0f} s left")
        live.found(mix.top(SHOWN))
        live.bar(*work.position, picture)

    concept = Concept(
        encoder=studio.encoder,
        towers=studio.towers,
        family=studio.family,
        diffusion=studio.diffusion(),
        vocabulary=vocabulary,
        name=name,
        template=template,
        slot=slot,
        latents=used,
        held_out=held_out,
        features=features,
        drawn=made,
    )
    found = decompose(concept, settings, watch, work, unlikeness if validation == "pictures" else None, checkpoint)
    if stopped := found.mix.made_by["stopped"]:
        live.say(stopped)
    work.begin(REMAKING)
    reconstructions = remade(found.mix, later)
    similarity = likeness(reconstructions)
    work.finish()
    mix = replace(found.mix, made_by={**found.mix.made_by, "evaluations": work.done})
    found = replace(found, mix=mix)
    return Explained(found, given, reconstructions, similarity)
