"""What is true in FaceWorld: the attributes of every face, how they are drawn by lot, and what was planted."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

TRUTH_FILE = Path(__file__).parent / "truth.json"
VALUES: Mapping[str, Sequence[Any]] = {
    "glasses": (False, True),
    "smile": (False, True),
    "cap": (False, True),
    "beard": (False, True),
    "long_hair": (False, True),
    "hair": ("dark", "blond", "red", "grey"),
    "skin": ("light", "tan", "brown", "dark"),
    "clothes": ("blue", "teal", "green", "red", "yellow"),
    "background": ("white", "blue", "green", "pink"),
}
SHARES = {"glasses": 0.5, "cap": 0.3, "beard": 0.3, "long_hair": 0.5}  # of faces with it; colours come equally often
PLANTED = {True: 0.8, False: 0.2}  # the only two attributes that go together: long hair or not -> share that smiles
TRAINING_SEEDS = range(12_000)
HELD_OUT_SEEDS = range(100_000, 101_000)


@dataclass(frozen=True)
class Face:
    """The attributes of a face; the possible values of each field are VALUES."""

    glasses: bool
    smile: bool  # or a frown
    cap: bool
    beard: bool
    long_hair: bool  # or short
    hair: str
    skin: str
    clothes: str
    background: str

    @classmethod
    def of_seed(cls, seed: int) -> Face:
        """The face of a picture: attributes by lot, each for itself but for what is planted."""
        generator = random.Random(f"face {seed}")
        by_lot: dict[str, Any] = {name: generator.random() < share for name, share in SHARES.items()}
        by_lot |= {name: generator.choice(VALUES[name]) for name in ("hair", "skin", "clothes", "background")}
        return cls(smile=generator.random() < PLANTED[by_lot["long_hair"]], **by_lot)

    @classmethod
    def of_labels(cls, labels: Sequence[int]) -> Face:
        """The inverse of `labels`."""
        return cls(**{name: VALUES[name][label] for name, label in zip(VALUES, labels, strict=True)})

    @property
    def labels(self) -> list[int]:
        """The place of each attribute's value in VALUES, in its order."""
        return [VALUES[field.name].index(getattr(self, field.name)) for field in fields(self)]

    @property
    def shown(self) -> list[bool]:
        """Whether a picture tells each attribute, in the order of VALUES: hair under a cap need not."""
        return [not (self.cap and name in ("long_hair", "hair")) for name in VALUES]


@dataclass(frozen=True)
class Caption:
    """A text that is true of a face, and of every other with the same values of what it tells."""

    text: str
    told: Sequence[str]  # attributes: fields of Face

    def fits(self, drawn_for: Face, face: Face) -> bool:
        """Whether it is true of a face, as of the one that it was drawn for."""
        return all(getattr(drawn_for, name) == getattr(face, name) for name in self.told)


def draw_caption(face: Face, generator: random.Random) -> Caption:
    """A caption that is true of a face: in 40 % it names all that is there, in 50 % only some, in 10 % nothing."""
    there = {
        "glasses": "glasses" if face.glasses else None,
        "beard": "a beard" if face.beard else None,
        "cap": "a cap" if face.cap else None,
        "hair": f"{'long' if face.long_hair else 'short'} {face.hair} hair",
        "skin": f"{face.skin} skin",
        "clothes": f"{face.clothes} clothes",
        "background": f"a {face.background} background",
    }
    parts = {name: words for name, words in there.items() if words}
    mood = "smiling" if face.smile else "frowning"
    kind = generator.choices(("all", "some", "none"), (0.4, 0.5, 0.1))[0]
    if kind == "none":
        return Caption("a face", ())
    if kind == "some":
        parts = {name: words for name, words in parts.items() if generator.random() < 0.4}
        mood = mood if generator.random() < 0.5 else ""
    head = f"a {mood} face" if mood else "a face"
    told = [*parts, *(["smile"] if mood else []), *(["long_hair"] if "hair" in parts else [])]
    return Caption(f"{head} with {_listed(list(parts.values()))}" if parts else head, told)


def _listed(parts: Sequence[str]) -> str:
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last


@dataclass(frozen=True)
class Truth:
    """The ground truth; every field is what `truth.json` holds under its name."""

    values: Mapping[str, Sequence[Any]]  # attribute -> its possible values
    shares: Mapping[str, float]  # of the faces that have an attribute
    planted: Mapping[str, Mapping[str, float]]  # share of smiles by length of hair
    training: Mapping[str, Any]  # first seed, count, and labels: a digit for each attribute, a word for each picture
    held_out: Mapping[str, Any]  # likewise, of pictures that nothing is trained on

    @classmethod
    def load(cls, file: Path = TRUTH_FILE) -> Truth:
        return cls(**json.loads(file.read_text(encoding="utf-8")))

    def save(self, file: Path = TRUTH_FILE) -> None:
        file.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")


def build_truth() -> Truth:
    """The ground truth: the same on every machine."""
    return Truth(
        values={name: list(values) for name, values in VALUES.items()},
        shares=dict(SHARES),
        planted={"smile": {"long hair": PLANTED[True], "short hair": PLANTED[False]}},
        training=_labelled(TRAINING_SEEDS),
        held_out=_labelled(HELD_OUT_SEEDS),
    )


def _labelled(seeds: range) -> dict[str, Any]:
    words = ["".join(map(str, Face.of_seed(seed).labels)) for seed in seeds]
    return {"first_seed": seeds.start, "count": len(seeds), "labels": " ".join(words)}
