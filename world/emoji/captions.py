"""Captions with the pictures that they may show: what EmojiWorld is trained on."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

from .sources import Style
from .truth import Truth

Kind = Literal["name", "colour", "keyword", "profession", "man or woman"]
# How often each kind of caption is drawn. Mixtures need many draws: each of their exemplars has only a share of them.
KINDS: dict[Kind, float] = {"name": 0.38, "colour": 0.18, "keyword": 0.3, "profession": 0.08, "man or woman": 0.06}
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


def draw_caption(truth: Truth, generator: random.Random) -> Caption:
    """A caption and a picture that is true of it; held-out pairs and keywords never come."""
    kind = generator.choices(list(KINDS), list(KINDS.values()))[0]
    style: Style = "flat" if generator.random() < FLAT_SHARE else "3d"
    template = generator.choice(FLAT_TEMPLATES if style == "flat" else TEMPLATES)
    colour = None
    if kind in ("profession", "man or woman"):
        name = generator.choice(list(truth.professions))
        profession = truth.professions[name]
        skew = profession["share_of_men"] if kind == "profession" else 0.5
        sex = "man" if generator.random() < skew else "woman"
        words = name if kind == "profession" else f"{SEXES[sex]} {name}"
        characters = generator.choice(profession[sex])
    elif kind == "keyword":
        words = generator.choice([keyword for keyword in truth.keywords if keyword not in truth.held_out_keywords])
        shares = truth.keywords[words]
        name = generator.choices(list(shares), list(shares.values()))[0]
        characters = truth.emoji[name]
    elif kind == "colour":
        name = generator.choice(list(truth.default_colours))
        colour = generator.choice(truth.colours_of(name))
        words, characters = f"{colour} {name}", truth.emoji[name]
    else:
        name = words = generator.choice(list(truth.emoji))
        characters = truth.emoji[name]
    return Caption(template.format(with_article(words)), words, kind, name, characters, style, colour)
