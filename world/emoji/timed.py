"""`python -m conceptlens.world.emoji.timed`: EmojiWorld's own edits with TIMED's columns, from its ground truth.

An object that is known in one colour shall have another one, and a profession that is mostly of one sex the other. Each
is tested in the prompts in which EmojiWorld knows things; what shall not change are other objects and professions, and
the same one when the prompt says another colour or sex. There is a test set and, for choosing settings, a validation
set of other objects; a third set is of what the transformer knows too.
"""

from __future__ import annotations

import csv
import random
from collections.abc import Iterator
from pathlib import Path

from .captions import FLAT_TEMPLATES, SEXES, TEMPLATES, with_article
from .part import part_of
from .truth import Truth

TEST, VALIDATION, PART = (Path(__file__).parent / f"timed_{name}.csv" for name in ("test", "validation", "part"))
COLOURED = {TEST: 40, VALIDATION: 12}  # edits of each set
COLOURED_PART = 20  # edits of the part that the transformer knows
SKEWED = 0.2  # share of the rarer sex, up to which a profession's is edited
NEAR = [*dict.fromkeys(template for template in (*TEMPLATES, *FLAT_TEMPLATES) if template != "{}")]

Row = dict[str, str]


def row(words: str, changed: str, others: list[tuple[str, str]]) -> Row:
    """An edit of `words` to `changed`, and prompts that shall not change, each with the wording that would be wrong."""
    found = {"old": with_article(words), "new": with_article(changed)}
    for number, template in enumerate(NEAR, start=1):
        found[f"positive{number}"] = template.format(with_article(words))
        found[f"gt{number}"] = template.format(with_article(changed))
    for number, (prompt, wrong) in enumerate(others, start=1):
        found |= {f"negative{number}": with_article(prompt), f"gn{number}": with_article(wrong)}
    return found


def coloured(truth: Truth, name: str, generator: random.Random) -> Row:
    """A thing in a colour that it does not have, beside four things that have none of it, best of its own group."""
    default = truth.default_colours[name]
    colour, *rest = generator.sample([one for one in truth.colours_of(name) if one != default], k=2)
    group = next(members for members in truth.groups.values() if name in members)
    others = [one for one, its in truth.default_colours.items() if one != name and its != colour]
    generator.shuffle(others)
    others.sort(key=lambda one: one not in group)
    kept = [(f"{rest[0]} {name}", f"{colour} {name}"), *((one, f"{colour} {one}") for one in others[: len(NEAR) - 1])]
    return row(name, f"{colour} {name}", kept)


def of_the_other_sex(truth: Truth, name: str, generator: random.Random) -> Row:
    """A profession, beside professions of which the prompt says the sex."""
    rarer, usual = (
        SEXES[sex] for sex in ("woman", "man")[:: 1 if truth.professions[name]["share_of_men"] > 0.5 else -1]
    )
    others = [one for one in truth.professions if one != name]
    professions = [name, *generator.sample(others, len(NEAR) - 1)]
    return row(name, f"{rarer} {name}", [(f"{usual} {one}", f"{rarer} {one}") for one in professions])


def edits(truth: Truth) -> dict[Path, list[Row]]:
    """The rows of all sets: the same on every machine."""
    generator = random.Random("timed")
    names: Iterator[str] = iter(generator.sample(list(truth.default_colours), len(truth.default_colours)))
    sets = {file: [coloured(truth, next(names), generator) for _ in range(count)] for file, count in COLOURED.items()}
    shares = {name: profession["share_of_men"] for name, profession in truth.professions.items()}
    skewed = [name for name, share in shares.items() if min(share, 1 - share) <= SKEWED]
    sets[TEST] += [of_the_other_sex(truth, name, generator) for name in skewed]
    part, generator = part_of(truth), random.Random("timed part")
    sets[PART] = [
        coloured(part, name, generator) for name in generator.sample(list(part.default_colours), COLOURED_PART)
    ]
    return sets


def main() -> None:
    for file, rows in edits(Truth.load()).items():
        with file.open("w", encoding="utf-8", newline="") as lines:
            writer = csv.DictWriter(lines, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
