"""A concept as tokens with coefficients: what a decomposition finds, an artist changes and a prompt can contain."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import storage
from ..errors import UserError
from ..model.protocols import Family, Tokenizer
from ..model.text_tower import WordTable, pseudo_token

KIND, VERSION = "token mix", 1
# Of what kind the entries are that say how a mix was made; others are anybody's.
MADE_BY: dict[str, type] = {
    **dict.fromkeys(("family", "concept", "prompt", "encoder"), str),
    "pictures": int,
    **dict.fromkeys(("settings", "alone", "removal", "interval"), dict),
}
BARE_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.IGNORECASE)


@dataclass(frozen=True)
class TokenMix:
    """Tokens with coefficients, the largest first. Coefficients are relative: only their ratios count."""

    ids: tuple[int, ...]
    texts: tuple[str, ...]
    coefficients: tuple[float, ...]
    made_by: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, ids: Sequence[int], texts: Sequence[str], coefficients: Sequence[float], **made_by: Any) -> TokenMix:
        """A mix in the order of the coefficients, which says how it was made in `made_by`.

        Raises UserError for a coefficient that is no finite number, and for a token that stands there twice.
        """
        for text, value in zip(texts, coefficients, strict=True):
            if not math.isfinite(value):
                raise UserError(f'The coefficient of "{text}" is {value}; it must be a finite number.')
        if len(set(ids)) < len(ids):
            twice = next(text for token, text in zip(ids, texts, strict=True) if list(ids).count(token) > 1)
            raise UserError(f'"{twice}" is in the mix more than once; give each token one coefficient.')
        rows = sorted(zip(coefficients, ids, texts, strict=True), key=lambda row: -row[0])
        return cls(tuple(row[1] for row in rows), tuple(row[2] for row in rows), tuple(row[0] for row in rows), made_by)

    def __len__(self) -> int:
        return len(self.ids)

    def top(self, count: int) -> TokenMix:
        """The `count` largest coefficients."""
        return self._with(self.ids[:count], self.texts[:count], self.coefficients[:count])

    def without(self, ids: Sequence[int]) -> TokenMix:
        """The mix without these tokens, where it has them."""
        kept = [row for row, token in enumerate(self.ids) if token not in ids]
        return self._with(
            [self.ids[row] for row in kept], [self.texts[row] for row in kept], [self.coefficients[row] for row in kept]
        )

    def singles(self) -> list[TokenMix]:
        """Each word alone."""
        return [TokenMix.of([token], [text], [1.0]) for token, text in zip(self.ids, self.texts, strict=True)]

    def shares(self) -> list[float]:
        """Each coefficient as a part of the sum of their absolute values; empty or all zero gives zeros."""
        total = sum(abs(value) for value in self.coefficients)
        return [abs(value) / total if total else 0.0 for value in self.coefficients]

    def intervals(self) -> dict[str, tuple[float, float]]:
        """Within which coefficients lie that were found as shares of pictures, lower and upper end by token id.

        Not of those that were changed since: they lie elsewhere.
        """
        kept: dict[str, tuple[float, float]] = {}
        for token, value in zip(self.ids, self.coefficients, strict=True):
            match self.made_by.get("interval", {}).get(str(token)):
                case [int() | float() as low, int() | float() as high] if low <= value <= high:
                    kept[str(token)] = (low, high)
                case _:  # nothing is known, or a file says something else
                    pass
        return kept

    def check_family(self, family: Family) -> None:
        """Raises UserError when the mix was made for another family of models."""
        made_for = self.made_by.get("family", family)
        if made_for != family:
            raise UserError(f"The mix was made for {made_for}, but the model is {family}; make one with this model.")

    def pseudo_token(self, tables: Sequence[WordTable]) -> list[Tensor]:
        """Its pseudo-token w* for each tower, of the mean length of the tower's words: (1, width), float32.

        tables: of the towers. Raises UserError for a token that is not there, and when all coefficients are 0 or cancel
        each other.
        """
        last = min(len(table.rows) for table in tables) - 1
        if strange := [token for token in self.ids if not 0 <= token <= last]:
            raise UserError(f"The mix has a token {strange[0]}, but the model's tokens go from 0 to {last}; remove it.")
        weights = torch.tensor(self.coefficients, dtype=torch.float64)
        weights /= weights.abs().max() if weights.any() else 1  # only ratios count: no sum is too large or too small
        vectors = []
        for table in tables:
            words, length = table.of(self.ids), table.mean_length
            total = float((weights.to(words) @ words).norm())
            if not total > 1e-6 * float(weights.abs().sum()) * length:
                raise UserError("The mix is empty or its coefficients cancel out; raise at least one of them.")
            vectors.append(pseudo_token(words, weights[None], length))
        return vectors

    def save_embedding(self, path: Path, tables: Mapping[str, WordTable]) -> None:
        """The pseudo-token as a textual-inversion file, which prompts use by its name.

        tables: by the names of the towers. A single tensor is named "emb_params", as most programs want it. Raises
        UserError as `pseudo_token` does, and when the file can't be written.
        """
        vectors = self.pseudo_token(list(tables.values()))
        keys = tables if len(tables) > 1 else ["emb_params"]
        storage.write(path, dict(zip(keys, vectors, strict=True)), {"kind": "embedding", "version": VERSION})

    def to_text(self) -> str:
        """One `token: coefficient` a line."""
        return "\n".join(f"{text}: {value:.6g}" for text, value in zip(self.texts, self.coefficients, strict=True))

    def save(self, path: Path, metadata: Mapping[str, str] = {}) -> None:
        """Writes a file that `load` reads; `metadata`: further entries of it, such as the graph that made the mix."""
        tensors = {
            "ids": torch.tensor(self.ids, dtype=torch.int64),
            "coefficients": torch.tensor(self.coefficients, dtype=torch.float64),
        }
        header = {"kind": KIND, "version": VERSION, "texts": list(self.texts), "made_by": self.made_by}
        storage.write(path, tensors, header, metadata)

    @classmethod
    def load(cls, path: Path) -> TokenMix:
        """Reads what `save` wrote. Raises UserError that names the file, what was expected and what was found."""
        tensors, header = storage.read(path, KIND, VERSION, ("ids", "coefficients"))
        storage.check_numbers(path, {"ids": 1, "coefficients": 1}, tensors)
        ids, values = tensors["ids"].long().tolist(), tensors["coefficients"].double().tolist()
        texts = storage.entry(path, header, "texts", list)
        if not len(texts) == len(ids) == len(values) or not all(isinstance(text, str) for text in texts):
            raise UserError(
                f"{path} is damaged: it has {len(ids)} tokens and {len(values)} coefficients; save it anew."
            )
        made_by = storage.entry(path, header, "made_by", dict)
        for name in MADE_BY.keys() & made_by.keys():
            storage.entry(path, made_by, name, MADE_BY[name])
        try:
            return replace(cls.of(ids, texts, values), made_by=made_by)
        except UserError as error:
            raise UserError(f"{path} is damaged: {error}") from error

    def _with(self, ids: Sequence[int], texts: Sequence[str], coefficients: Sequence[float]) -> TokenMix:
        return replace(TokenMix.of(ids, texts, coefficients), made_by=self.made_by)


def mix_from_text(encoder: Tokenizer, text: str, family: Family | None) -> TokenMix:
    """The mix of `dog: 0.6, snow: 0.2`: entries in lines or between commas; a word without a number counts 1.

    `#1929` names a token by its id; without a family the mix is for all. Raises UserError for what is not one token of
    the model, for what is no number, and for a number alone: it is what a decimal comma leaves, and would be drawn as a
    word.
    """
    ids, texts, values = [], [], []
    for entry in (part.strip() for line in text.splitlines() for part in line.split(",")):
        if not entry:
            continue
        if BARE_NUMBER.fullmatch(entry):
            raise UserError(
                f'"{entry}" is a number alone; write decimals with a point (dog: 0.6), or {entry}: 1 for the word.'
            )
        word, number = (part.strip() for part in entry.rsplit(":", 1)) if ":" in entry else (entry, "1")
        try:
            value = float(number)
        except ValueError:
            raise UserError(f'"{entry}" has no number after its colon; write a word and a number: dog: 0.6') from None
        token = int(word[1:]) if word.startswith("#") and word[1:].isdecimal() else _only_token(encoder, word)
        ids.append(token)
        texts.append(encoder.decode([token]).strip())
        values.append(value)
    if not ids:
        raise UserError("The mix is empty; write words with numbers, such as: dog: 0.6, snow: 0.2")
    return TokenMix.of(ids, texts, values, **({"family": family} if family else {}))


def _only_token(encoder: Tokenizer, word: str) -> int:
    tokens = encoder.tokenize(word)[1:-1]
    if len(tokens) != 1:
        pieces = ", ".join(f'"{encoder.decode([token]).strip()}"' for token in tokens)
        raise UserError(f'"{word}" is {len(tokens)} tokens of this model ({pieces}); a mix is made of single tokens.')
    return tokens[0]


@dataclass(frozen=True)
class MixEdits:
    """An artist's changes over a mix, by token id: the JSON {"v": 1, "set": {}, "off": [], "add": {}, "top": N}."""

    changed: dict[int, float] = field(default_factory=dict)  # "set": other coefficients
    off: frozenset[int] = frozenset()  # tokens that are left out
    added: dict[int, float] = field(default_factory=dict)  # "add": coefficients of further tokens
    top: int | None = None  # how many stay, those of the largest coefficients; None: all

    @classmethod
    def parse(cls, text: str, vocabulary: int) -> MixEdits:
        """Reads the JSON; an empty text changes nothing. Raises UserError for anything that it does not know.

        `vocabulary` is the number of tokens that the model has.
        """
        if not text.strip():
            return cls()
        try:
            found = json.loads(text)
            if not isinstance(found, dict) or found.get("v") != 1:
                raise ValueError("it is not an object of version 1")
            if unknown := set(found) - {"v", "set", "off", "add", "top"}:
                raise ValueError(f'it has an entry "{min(unknown)}"')
            changed, added = (
                {int(token): _number(value) for token, value in found.get(key, {}).items()} for key in ("set", "add")
            )
            off = frozenset(map(_token, _listed(found.get("off", []))))
            top = found.get("top")
            if top is not None and not (type(top) is int and top > 0):
                raise ValueError(f'its "top" is {top}')
            if outside := [token for token in (*changed, *added, *off) if not 0 <= token < vocabulary]:
                raise ValueError(f"the model has no token {outside[0]}")
        except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise UserError(
                f'The coefficients can\'t be read ({error}); expected JSON such as {{"v": 1, "set": {{"1929": 0.5}}, '
                '"off": [], "add": {}, "top": 20}, or nothing.'
            ) from error
        return cls(changed, off, added, top)

    def apply(self, mix: TokenMix, encoder: Tokenizer) -> TokenMix:
        """The mix as edited. Changes of tokens that the mix no longer has are left out; they wait for its return."""
        values = dict(zip(mix.ids, mix.coefficients, strict=True))
        values |= {token: value for token, value in self.changed.items() if token in values}
        values |= sorted(self.added.items())  # as the editor has them: of equal ones `top` takes the first
        kept = {token: value for token, value in values.items() if token not in self.off}
        texts = dict(zip(mix.ids, mix.texts, strict=True))
        names = [texts.get(token) or encoder.decode([token]).strip() for token in kept]
        edited = replace(TokenMix.of(list(kept), names, list(kept.values())), made_by=mix.made_by)
        return edited.top(self.top) if self.top else edited


def _listed(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{value} is no list")
    return value


def _token(value: Any) -> int:
    if type(value) is not int:
        raise ValueError(f"{value} is no token")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{value} is no finite number")
    return float(value)
