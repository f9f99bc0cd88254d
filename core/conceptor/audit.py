"""What a model assumes of plain words: how its pictures are divided among groups, with intervals.

An image encoder alone misjudges what it was not trained on. So the model draws each group told by name first ("a male
doctor", "a female doctor"); these pictures are what the others are compared with, and how often one of them is taken
for another group's says how far the count can be trusted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from ..model.studio import Pictures, seeds_from
from ..model.template import Template
from .evaluations import Evaluations

INTERVAL = 0.9  # of the posterior
UNSURE = 0.5  # pseudo-counts of each share before anything is seen (Jeffreys)
SAMPLES, STARTS = 2000, 50  # of the posterior, and those from which each is drawn
MOVES = 50  # of Gibbs sampling
AT_ONCE = 16  # pictures that the image encoder looks at together
TOLD, PLAIN = "told pictures", "pictures of the plain words"


@dataclass(frozen=True)
class Trait:
    """What pictures of a word may differ in: groups, each a text that stands before the word."""

    name: str
    groups: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> list[Trait]:
        """The traits of a text, one in a line: `sex: male | female`. Raises UserError for lines of another form."""
        found = []
        for line in filter(None, map(str.strip, text.splitlines())):
            name, colon, groups = line.partition(":")
            names = tuple(group.strip() for group in groups.split("|"))
            if not colon or not name.strip() or len(names) < 2 or not all(names):
                raise UserError(
                    f'The line "{line}" is no trait; write a name and two groups or more: sex: male | female'
                )
            if len({group.casefold() for group in names}) < len(names):
                raise UserError(f'The line "{line}" names a group twice; write each once.')
            found.append(cls(name.strip(), names))
        if not found:
            raise UserError("There is no trait; write one in a line: sex: male | female")
        return found


def words_in(text: str) -> list[str]:
    """The words of a text, between commas or in lines, each once. Raises UserError when there is none."""
    found = list(dict.fromkeys(word.strip() for line in text.splitlines() for word in line.split(",") if word.strip()))
    if not found:
        raise UserError("There is no word to audit; write some, between commas: doctor, nurse, rose")
    return found


@dataclass(frozen=True)
class Finding:
    """How a model's pictures of a word are divided among the groups of a trait."""

    model: str
    word: str
    trait: Trait
    shares: tuple[float, ...]  # of each group: the posterior's mean
    intervals: tuple[tuple[float, float], ...]  # within which INTERVAL of the posterior lies
    pictures: int
    told_apart: float  # of the told pictures: the share that is taken for its own group


def check_audit(num_images: int, told_images: int) -> None:
    """Raises UserError for numbers with which nothing can be said."""
    if num_images < 1 or told_images < 2:
        raise UserError(
            f"{num_images} pictures of a word and {told_images} told ones of a group were asked for; give 1 or more of "
            "the first, and 2 or more of the second, as each is compared with the others."
        )


def audit(
    models: Mapping[str, Pictures],
    words: Sequence[str],
    traits: Sequence[Trait],
    template: Template,
    work: Evaluations,
    *,
    num_images: int,
    told_images: int,
    seed: int,
) -> list[Finding]:
    """How the pictures of each model are divided, word by word and trait by trait.

    The first model draws the told pictures, with which those of all models are compared; each of them draws
    `num_images` of each plain word from the same noise. Raises UserError without an image encoder.
    """
    check_audit(num_images, told_images)
    first = next(iter(models.values()))
    plain, told = seeds_from(seed, num_images), seeds_from(seed + num_images, told_images)

    def features(model: Pictures, text: str, seeds: Sequence[int]) -> Tensor:
        counted = work.counted(model.evaluations(len(seeds)))
        latents = model.latents_of_prompt(template.filled(text), seeds, counted)
        seen = [model.features(model.pictures(some)) for some in latents.split(AT_ONCE)]
        if seen[0] is None:
            raise UserError("Pictures are judged by an image encoder; connect clip_vision.")
        return torch.cat([each for each in seen if each is not None])

    findings = []
    for word in words:
        work.begin(f"{PLAIN}: {word}")
        seen = {name: features(model, word, plain) for name, model in models.items()}
        for trait in traits:
            work.begin(f"{TOLD}: {word}, {trait.name}")
            groups = [features(first, f"{group} {word}", told) for group in trait.groups]
            mistaken = confusion(groups)
            for name, pictures in seen.items():
                judged = torch.bincount(nearest_group(pictures, groups), minlength=len(groups)).numpy()
                drawn = shares_posterior(judged, mistaken)
                findings.append(
                    Finding(
                        name,
                        word,
                        trait,
                        tuple(drawn.mean(0).tolist()),
                        tuple(densest(each) for each in drawn.T),
                        len(pictures),
                        float(mistaken.trace() / mistaken.sum()),
                    )
                )
    return findings


def phases(
    models: Mapping[str, Pictures], words: Sequence[str], traits: Sequence[Trait], num_images: int, told_images: int
) -> dict[str, int]:
    """The phases of `audit`, with the evaluations that each takes."""
    first = next(iter(models.values()))
    plain = sum(model.evaluations(num_images) for model in models.values())
    found: dict[str, int] = {}
    for word in words:
        found[f"{PLAIN}: {word}"] = plain
        for trait in traits:
            found[f"{TOLD}: {word}, {trait.name}"] = first.evaluations(told_images * len(trait.groups))
    return found


def nearest_group(pictures: Tensor, groups: Sequence[Tensor]) -> Tensor:
    """The group (n,) whose pictures' mean is nearest to each of `pictures` (n, width), all of them image features."""
    return torch.cdist(pictures, torch.stack([group.mean(0) for group in groups])).argmin(1)


def confusion(groups: Sequence[Tensor]) -> np.ndarray:
    """How many pictures of each group (rows) are nearest to each group (columns), each left out of its own mean.

    groups: features (pictures, width) of each.
    """
    found = np.zeros((len(groups), len(groups)))
    for row, group in enumerate(groups):
        for number in range(len(group)):
            others = [*groups[:row], torch.cat([group[:number], group[number + 1 :]]), *groups[row + 1 :]]
            found[row, int(nearest_group(group[number : number + 1], others))] += 1
    return found


def shares_posterior(judged: np.ndarray, mistaken: np.ndarray, seed: int = 0) -> np.ndarray:
    """Samples (SAMPLES, groups) of the shares of groups in pictures that a fallible judge has divided.

    judged (groups,): how many pictures were taken for each group; mistaken (groups, groups): how many of those that
    are known to be of a group (rows) were taken for each (columns). Rogan and Gladen's correction of a prevalence
    (1978) as a posterior: the judge's rates are what the known pictures say of them, with Jeffreys' prior, and the
    shares, with the same prior, are what the count says under each such judge. Each sample is drawn from a few of the
    prior, by their likelihood, and moved by Gibbs sampling (resample-move, Gilks and Berzuini, 2001). A judge who tells
    nothing apart leaves the shares unknown.
    """
    numbers = np.random.default_rng(seed)

    def dirichlet(counts: np.ndarray) -> np.ndarray:
        drawn = numbers.standard_gamma(counts)
        return drawn / drawn.sum(-1, keepdims=True)

    groups = len(judged)
    judge = dirichlet(np.broadcast_to(mistaken + UNSURE, (SAMPLES, groups, groups)))
    starts = dirichlet(np.full((SAMPLES, STARTS, groups), UNSURE))
    log = np.log(starts @ judge) @ judged
    # The largest of sums with Gumbel's noise is a draw by the weights exp(log).
    chosen = (log + numbers.gumbel(size=log.shape)).argmax(1)
    shares = starts[np.arange(SAMPLES), chosen]
    for _ in range(MOVES):
        joint = shares[:, :, None] * judge
        of_each = joint / joint.sum(1, keepdims=True)  # what a picture that is taken for a group really shows
        really = numbers.multinomial(judged, of_each.swapaxes(1, 2)).sum(1)
        shares = dirichlet(UNSURE + really)
    return shares


def densest(samples: np.ndarray) -> tuple[float, float]:
    """The ends of the shortest interval that holds INTERVAL of some samples (n,): it reaches 0 and 1, where they do."""
    ordered = np.sort(samples)
    count = int(np.ceil(INTERVAL * len(ordered)))
    first = int((ordered[count - 1 :] - ordered[: len(ordered) - count + 1]).argmin())
    return float(ordered[first]), float(ordered[first + count - 1])


def audit_json(findings: Sequence[Finding], **made_by: Any) -> str:
    """The findings as JSON."""
    rows = [
        {
            "model": found.model,
            "word": found.word,
            "trait": found.trait.name,
            "shares": dict(zip(found.trait.groups, found.shares, strict=True)),
            "intervals": dict(zip(found.trait.groups, found.intervals, strict=True)),
            "pictures": found.pictures,
            "told apart": found.told_apart,
        }
        for found in findings
    ]
    return json.dumps({"made by": made_by, "interval": INTERVAL, "findings": rows}, indent=1, ensure_ascii=False)
