"""What is true in EmojiWorld: which pictures every caption may show, and how often."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .colours import HUES, colour_name, main_hue
from .sources import Sources

if TYPE_CHECKING:
    from transformers import CLIPTokenizer  # a slow import

CATALOGUE: dict[str, Any] = json.loads((Path(__file__).parent / "catalogue.json").read_text(encoding="utf-8"))
TRUTH_FILE = Path(__file__).parent / "truth.json"
STYLES = ("3d", "flat")
TONES = ("", "\U0001f3fb", "\U0001f3fc", "\U0001f3fd", "\U0001f3fe", "\U0001f3ff")  # none, and the five skin tones
# How often each exemplar of a keyword is shown, most often first: known, uneven, none rare.
SHARES = {2: (0.6, 0.4), 3: (0.5, 0.3, 0.2), 4: (0.4, 0.3, 0.2, 0.1), 5: (0.3, 0.25, 0.2, 0.15, 0.1)}
HELD_OUT_PAIRS = 0.15  # share of the object-colour pairs that are never trained


@dataclass(frozen=True)
class Truth:
    """The ground truth; every field is what `truth.json` holds under its name."""

    emoji: Mapping[str, str]  # name -> characters
    groups: Mapping[str, list[str]]  # group -> names
    default_colours: Mapping[str, str]  # object of one hue -> the colour that its plain name shows
    held_out_pairs: list[list[str]]  # [object, colour] never trained together
    keywords: Mapping[str, Mapping[str, float]]  # keyword -> exemplar -> share
    held_out_keywords: list[str]  # keywords without a single training picture
    professions: Mapping[str, Mapping[str, Any]]  # name -> share_of_men, and the characters of men and women by tone
    synonyms: Mapping[str, str]  # word that no caption has -> the emoji that it names
    tokens: Mapping[str, list[int]]  # name, keyword, profession, colour or synonym -> its ids in CLIP's vocabulary

    @classmethod
    def load(cls, file: Path = TRUTH_FILE) -> Truth:
        return cls(**json.loads(file.read_text(encoding="utf-8")))

    def save(self, file: Path = TRUTH_FILE) -> None:
        file.write_text(json.dumps(asdict(self), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")

    def colours_of(self, name: str) -> list[str]:
        """The colours that an object is trained in, its default among them."""
        return [colour for colour in HUES if [name, colour] not in self.held_out_pairs]


def build_truth(sources: Sources, tokenizer: CLIPTokenizer) -> Truth:
    """The ground truth of the catalogue and the packages: the same on every machine."""
    names = sources.names
    groups = {group: list(entries) for group, entries in CATALOGUE["groups"].items()}
    emoji = {name: names[unicode] for entries in CATALOGUE["groups"].values() for name, unicode in entries.items()}
    things = [name for group, members in groups.items() if group != "faces and creatures" for name in members]
    defaults = {name: colour for name in things if (colour := _default_colour(sources, emoji[name]))}
    words = [*emoji, *CATALOGUE["keywords"], *CATALOGUE["professions"], *HUES, *CATALOGUE["synonyms"]]
    return Truth(
        emoji=emoji,
        groups=groups,
        default_colours=defaults,
        held_out_pairs=_held_out_pairs(defaults),
        keywords={keyword: _exemplars(sources, emoji, keyword) for keyword in CATALOGUE["keywords"]},
        held_out_keywords=list(CATALOGUE["held_out_keywords"]),
        professions={name: _profession(names, **entry) for name, entry in CATALOGUE["professions"].items()},
        synonyms=dict(CATALOGUE["synonyms"]),
        tokens={word: tokenizer(word, add_special_tokens=False).input_ids for word in words},
    )


def _default_colour(sources: Sources, characters: str) -> str | None:
    """The colour that both styles of an emoji show, if it is one vivid colour nearly everywhere."""
    hues = [main_hue(sources.picture(characters, style)) for style in STYLES]
    plain = all(hue.share > 0.7 and hue.coverage > 0.5 for hue in hues)
    vivid = sum(hue.vividness for hue in hues) / 2 > 0.42
    found = {colour_name(hue.hue) for hue in hues}
    return found.pop() if plain and vivid and len(found) == 1 else None


def _held_out_pairs(defaults: Mapping[str, str]) -> list[list[str]]:
    """Pairs chosen by a hash, so that adding an object changes no other's; an object loses one colour at most."""
    pairs = []
    for name, default in defaults.items():
        rank = {colour: hashlib.sha256(f"{name} {colour}".encode()).digest() for colour in HUES if colour != default}
        colour = min(rank, key=lambda c: rank[c])
        if rank[colour][1] < 256 * HELD_OUT_PAIRS * len(rank):
            pairs.append([name, colour])
    return pairs


def _exemplars(sources: Sources, emoji: Mapping[str, str], keyword: str) -> dict[str, float]:
    carriers = [name for name, characters in emoji.items() if keyword in sources.keywords.get(characters, ())]
    carriers = carriers[: max(SHARES)]
    return dict(zip(carriers, SHARES[len(carriers)], strict=True))


def _profession(names: Mapping[str, str], emoji: str, share_of_men: float) -> dict[str, Any]:
    """Men and women of a profession in all skin tones; the tone follows the person, before what he or she carries."""
    people = {}
    for sex in ("man", "woman"):
        person, tool = names[f"{sex} {emoji}"][0], names[f"{sex} {emoji}"][1:]
        people[sex] = [person + tone + tool for tone in TONES]
    return {"share_of_men": share_of_men, **people}
