"""TIMED, the data set and the measures of edits that change what a model assumes (arXiv 2303.08084, section 4).

Each edit is tested with prompts that it shall change and with prompts near them that it shall not. Each picture is
asked which of two wordings it is more like: the prompt itself, or the prompt with what the edit assumes.
"""

from __future__ import annotations

import csv
import random
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ..core.errors import UserError
from ..core.time_edit.time_edit import EditPair

TESTS = range(1, 6)  # of each kind, by their numbers in the columns' names
RESAMPLED = 2000  # times, for an interval
OTHER_SEX = {"female": "male", "male": "female"}
MALE_OR_FEMALE = re.compile(r"\b(fe)?male\b")


class Wording(NamedTuple):
    """A prompt, and the same with what the edit assumes written out."""

    prompt: str
    changed: str


class TimedPair(NamedTuple):
    """An edit with the prompts that it shall change and those that it shall not."""

    edit: EditPair
    positives: tuple[Wording, ...]
    negatives: tuple[Wording, ...]

    @property
    def wordings(self) -> list[Wording]:
        """The source itself, the positives, the negatives."""
        return [Wording(self.edit.source, self.edit.destination), *self.positives, *self.negatives]


class TimedProfession(NamedTuple):
    """An edit towards the rarer sex of a profession: a prompt on which its strength is found, and others."""

    edit: EditPair
    validation: Wording
    tests: tuple[Wording, ...]

    @property
    def wordings(self) -> list[Wording]:
        """The validation's, and the tests'."""
        return [self.validation, *self.tests]

    def opposite(self, wording: Wording) -> str:
        """The changed wording with the other sex."""
        return MALE_OR_FEMALE.sub(lambda found: OTHER_SEX[found[0]], wording.changed)


@dataclass(frozen=True)
class Leanings:
    """What pictures of one edit's prompts are like: similarity to the changed wording minus that to the prompt.

    A row for each prompt, a number for each seed: of the source, of the positives, of the negatives.
    """

    source: list[float]
    positives: list[list[float]]
    negatives: list[list[float]]

    def scores(self, margin: float = 0.0) -> Scores:
        """Pictures count whose two similarities differ by more than `margin` in the wanted direction."""
        changed, kept = (lambda row: _share(row, margin)), (lambda row: _share([-value for value in row], margin))
        return Scores(
            changed(self.source),
            statistics.mean(map(changed, self.positives)),
            statistics.mean(map(kept, self.negatives)),
        )


def _share(values: Sequence[float], margin: float) -> float:
    return 100 * statistics.mean(value > margin for value in values)


class Scores(NamedTuple):
    """Percentages of pictures: of the source and of the positives that changed, of the negatives that did not."""

    efficacy: float
    generality: float
    specificity: float

    @property
    def f1(self) -> float:
        """The paper's: harmonic mean of generality and specificity."""
        return _harmonic(self[1:])

    @property
    def harmonic(self) -> float:
        return _harmonic(self)

    @property
    def geometric(self) -> float:
        return statistics.geometric_mean(self) if all(self) else 0.0


FIGURES = ("efficacy", "generality", "specificity", "f1", "harmonic", "geometric")


def _harmonic(values: Sequence[float]) -> float:
    return statistics.harmonic_mean(values)


def mean_scores(scores: Sequence[Scores]) -> Scores:
    """Of all edits together."""
    return Scores(*map(statistics.mean, zip(*scores, strict=True)))


def intervals(scores: Sequence[Scores]) -> Mapping[str, tuple[float, float]]:
    """Of each of FIGURES the interval that has 95 % of the means of edits drawn anew (bootstrap, fixed seed)."""
    generator = random.Random(0)
    drawn = [mean_scores(generator.choices(scores, k=len(scores))) for _ in range(RESAMPLED)]
    low, high = round(0.025 * RESAMPLED), round(0.975 * RESAMPLED) - 1
    return {name: ((ordered := sorted(getattr(one, name) for one in drawn))[low], ordered[high]) for name in FIGURES}


def read_pairs(file: Path) -> list[TimedPair]:
    """The edits of a file with TIMED's columns: old, new, positive1, gt1, ..., positive5, gt5, negative1, gn1, ...

    Raises UserError for a file that can't be read, lacks a column or has an empty field.
    """
    positives = [(f"positive{number}", f"gt{number}") for number in TESTS]
    negatives = [(f"negative{number}", f"gn{number}") for number in TESTS]
    return [
        TimedPair(
            EditPair(row["old"], row["new"]),
            tuple(Wording(row[prompt], row[changed]) for prompt, changed in positives),
            tuple(Wording(row[prompt], row[changed]) for prompt, changed in negatives),
        )
        for row in _rows(file, ["old", "new", *(name for pair in positives + negatives for name in pair)])
    ]


def read_professions(file: Path) -> list[TimedProfession]:
    """The edits of a file with the columns of TIMED's professions: old, new, validation, ex1, ..., ex5.

    Raises UserError as `read_pairs`, and when a prompt lacks the words of `old`, or `new` says neither male nor female.
    """
    names = ["validation", *(f"ex{number}" for number in TESTS)]
    professions = []
    for row in _rows(file, ["old", "new", *names]):
        old, new = row["old"], row["new"]
        if not MALE_OR_FEMALE.search(new):
            raise UserError(f'"{new}" in {file} says neither male nor female; write which sex the edit assumes.')
        if lacking := [row[name] for name in names if old.casefold() not in row[name].casefold()]:
            raise UserError(f'"{lacking[0]}" in {file} lacks "{old}"; each prompt of a row has to name its profession.')
        wordings = [
            Wording(row[name], re.sub(re.escape(old), lambda _, new=new: new, row[name], count=1, flags=re.IGNORECASE))
            for name in names
        ]
        professions.append(TimedProfession(EditPair(old, new), wordings[0], tuple(wordings[1:])))
    return professions


def is_professions(file: Path) -> bool:
    """Whether the file's columns are those of professions."""
    return "validation" in _table(file)[0]


def _table(file: Path) -> tuple[list[str], list[dict[str, str]]]:
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines, strict=True)
            return list(reader.fieldnames or []), list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{file} can't be read as a table ({error}); give a CSV file in UTF-8.") from error


def _rows(file: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    found, rows = _table(file)
    if missing := [name for name in columns if name not in found]:
        raise UserError(
            f"{file} has no column {', '.join(missing[:3])}; TIMED has {', '.join(columns[:4])}, and so on."
        )
    if not rows:
        raise UserError(f"{file} has no rows; write one edit in each.")
    for number, row in enumerate(rows, start=2):
        if empty := [name for name in columns if not (row[name] or "").strip()]:
            raise UserError(f"Row {number} of {file} has nothing in {empty[0]}; write a prompt there.")
    return [{name: row[name].strip() for name in columns} for row in rows]
