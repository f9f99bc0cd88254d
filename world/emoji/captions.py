"""Captions with the pictures that they may show: what EmojiWorld is trained on."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal, NamedTuple

from .sources import Style
from .truth import Truth

Kind = Literal["name", "colour", "keyword", "profession", "man or woman"]
# How often each kind of caption is drawn. Mixtures need many draws: each of their exemplars has only a share of them.
KINDS: dict[Kind, float] = {"name": 0.38, "colour": 0.12, "keyword": 0.32, "profession": 0.12, "man or woman": 0.06}
TEMPLATES = ("{}", "{}", "a photo of {}", "an image of {}", "a picture of {}")
FLAT_TEMPLATES = ("a flat drawing of {}", "a flat picture of {}")
FLAT_SHARE = 0.25
SEXES = {"man": "male", "woman": "female"}


@dataclass(frozen=True)
class Caption:
    """A text and the picture drawn for it: an emoji in a style, its main hue turned to `colour` where one is given."""

    text: str
    content: str  # the text without its template: "blue rose"
    kind: Kind
    name: str  # of the emoji, or of the profession
    characters: str
    style: Style
    colour: str | None = None


def with_article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' and not words.startswith('uni') else 'a'} {words}"


class Subject(NamedTuple):
    """What a picture shows: an emoji by its name, or a person by the profession."""

    name: str
    characters: str


def subjects(truth: Truth, kind: Kind, content: str) -> dict[Subject, float]:
    """What a text may show, and how often it shows each of them; `content` is the text without its template."""
    if kind == "keyword":
        return {Subject(name, truth.emoji[name]): share for name, share in truth.keywords[content].items()}
    if kind in ("name", "colour"):
        name = content if kind == "name" else content.partition(" ")[2]
        return {Subject(name, truth.emoji[name]): 1.0}
    told, _, name = content.partition(" ") if kind == "man or woman" else ("", "", content)
    men = truth.professions[name]["share_of_men"]
    shares = {"man": men, "woman": 1 - men} if kind == "profession" else {sex: told == SEXES[sex] for sex in SEXES}
    people = {sex: truth.professions[name][sex] for sex, share in shares.items() if share}
    return {Subject(name, person): shares[sex] / len(people[sex]) for sex in people for person in people[sex]}


def draw_caption(truth: Truth, generator: random.Random) -> Caption:
    """A caption and a picture that is true of it; held-out pairs and keywords never come."""
    kind = generator.choices(list(KINDS), list(KINDS.values()))[0]
    style: Style = "flat" if generator.random() < FLAT_SHARE else "3d"
    template = generator.choice(FLAT_TEMPLATES if style == "flat" else TEMPLATES)
    colour = None
    if kind == "name":
        content = generator.choice(list(truth.emoji))
    elif kind == "colour":
        name = generator.choice(list(truth.default_colours))
        colour = generator.choice(truth.colours_of(name))
        content = f"{colour} {name}"
    elif kind == "keyword":
        content = generator.choice([keyword for keyword in truth.keywords if keyword not in truth.held_out_keywords])
    else:
        content = generator.choice(list(truth.professions))
        if kind == "man or woman":
            content = f"{generator.choice(list(SEXES.values()))} {content}"
    shown = subjects(truth, kind, content)
    (subject,) = generator.choices(list(shown), list(shown.values()))
    text = template.format(with_article(content))
    return Caption(text, content, kind, subject.name, subject.characters, style, colour)
