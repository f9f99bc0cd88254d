"""The part of EmojiWorld that its transformer is taught: fewer things, so that it draws each of them well."""

from __future__ import annotations

import random
from dataclasses import replace

from .truth import Truth

OBJECTS = 60  # with their colours
# Keywords whose exemplars are all of one token.
KEYWORDS = ("winter", "clothes", "seafood", "meat", "bug", "tools", "flowers", "bathroom", "tropical", "rodent")
KEYWORDS += ("bakery", "slow", "sport", "gadgets", "carnival")


def part_of(truth: Truth) -> Truth:
    """60 objects with their colours, 15 keywords and what they show, and all professions, in the lightest of tones."""
    keywords = {keyword: truth.keywords[keyword] for keyword in KEYWORDS}
    shown = list(dict.fromkeys(name for shares in keywords.values() for name in shares))
    coloured = [name for name in truth.default_colours if len(truth.tokens[name]) == 1]
    first = [name for name in shown if name in coloured]
    others = [name for name in coloured if name not in first]
    objects = {*first, *random.Random("part").sample(others, OBJECTS - len(first))}
    names = {*objects, *shown}
    return replace(
        truth,
        emoji={name: characters for name, characters in truth.emoji.items() if name in names},
        groups={group: [name for name in members if name in names] for group, members in truth.groups.items()},
        default_colours={name: colour for name, colour in truth.default_colours.items() if name in objects},
        held_out_pairs=[[name, colour] for name, colour in truth.held_out_pairs if name in objects],
        keywords=keywords,
        held_out_keywords=[],
        professions={
            name: {**profession, "man": profession["man"][1:2], "woman": profession["woman"][1:2]}
            for name, profession in truth.professions.items()
        },
        synonyms={word: name for word, name in truth.synonyms.items() if name in names},
    )
