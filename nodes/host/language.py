"""Text encoders of transformers, into which a mix goes by its words."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import comfy.model_management
import torch
from comfy.sd import CLIP
from torch import Tensor

from ...core.conceptor.mixture import TokenMix
from ...core.errors import UserError
from ...core.model.protocols import PseudoToken
from ...core.model.template import Template
from ...core.model.text_tower import WordTable
from .text import (
    CLIP_TOKENS,
    CLIPS,
    HostTextEncoder,
    clip_tokenizer,
    clip_words,
    conditioning_with,
    kept_table,
    tokenizer_of,
    words,
)

# Words that most encoders have in one piece: one of them holds a mix's place.
HOLDERS = ("cat", "tree", "house", "river", "horse", "paper", "green", "music", "stone", "winter", "garden", "bridge")
WEIGHTED = re.compile(r"\([^()]*:\s*\d*\.?\d+\s*\)")  # (word:1.2)
AT_ONCE = 4096  # tokens that are embedded together


class HostLanguageEncoder:
    """T5 or a language model of the host, with CLIP beside it or without.

    Words are those of CLIP's vocabulary, and their ids CLIP's, whatever the encoder splits them into: a word's vector
    is the mean of the input embeddings of its pieces.
    """

    family = None  # a mix is for all that read words

    def __init__(self, clip: CLIP) -> None:
        model = clip.cond_stage_model
        self._clip = clip
        self._encoders: dict[str, Any] = {
            name: encoder for name in clip.tokenize("") if (encoder := _encoder(model, name)) is not None
        }
        # Anima's adapter asks by T5's ids what Qwen's states shall say.
        if not self._encoders or type(model).__name__.startswith("Anima"):
            raise UserError(
                f"The CLIP is a {type(model).__name__}, which takes tokens by their ids alone, so that no mix can "
                "be put among them; edit the model by TIME instead."
            )

    def tokenize(self, prompt: str) -> list[int]:
        """CLIP's tokens."""
        return list(clip_tokenizer().tokenizer(prompt)["input_ids"])

    def decode(self, tokens: Sequence[int]) -> str:
        return clip_tokenizer().decode(list(tokens))

    def check_mix(self, mix: TokenMix) -> None:
        """Raises UserError for a mix of what is no word."""
        if strange := [text for token, text in zip(mix.ids, mix.texts, strict=True) if token not in words()]:
            raise UserError(
                f'The mix holds "{strange[0]}", a piece of words, which only CLIP has; this text encoder takes mixes '
                "of whole words: remove it."
            )

    def words(self) -> dict[str, WordTable]:
        """A vector for each word, by CLIP's ids, for each encoder."""
        return {name: self._table(name) for name in self._encoders}

    def conditioning(self, template: Template, mix: PseudoToken) -> Any:
        """The host's CONDITIONING of a prompt with a mix in each of its places; all else is the host's way.

        Raises UserError when no place is left of a long prompt, and for weights that the encoder would read as words.
        """
        if (weighted := WEIGHTED.search(template.filled(""))) and not self._weighs:
            raise UserError(
                f'The prompt has a weight, "{weighted[0]}", which this text encoder would read as letters; write '
                "plain words."
            )
        vectors = dict(zip(self._encoders, mix.pseudo_token(list(self.words().values())), strict=True))
        word, marks = self._holder(self._clip.tokenize(template.filled(" ")))
        return conditioning_with(self._clip, template, word, marks, vectors)

    @cached_property
    def _weighs(self) -> bool:
        tokens = self._clip.tokenize("(cat:1.5)")
        return any(entry[1] == 1.5 for sections in tokens.values() for section in sections for entry in section)

    def _holder(self, tokens: Mapping[str, Any]) -> tuple[str, dict[str, int]]:
        """A word that is one token of each encoder and not among `tokens`, with these.

        Raises UserError where there is none.
        """
        taken = {
            name: {entry[0] for section in tokens[name] for entry in section if isinstance(entry[0], int)}
            for name in self._encoders
        }
        for word in HOLDERS:
            pieces = {name: self._pieces(name, word) for name in self._encoders}
            if all(len(found) == 1 and found[0] not in taken[name] for name, found in pieces.items()):
                return word, {name: found[0] for name, found in pieces.items()}
        raise UserError("The prompt uses every word that could hold the mix's place; write a shorter prompt.")

    def _pieces(self, name: str, word: str) -> list[int]:
        """A word's tokens behind another word."""
        tokenizer = tokenizer_of(self._clip, name)
        both = list(tokenizer.tokenizer(f"a {word}")["input_ids"])
        ends = tokenizer.end_token is not None and both[-1] == tokenizer.end_token
        return both[self._before[name] - ends : len(both) - ends]

    @cached_property
    def _before(self) -> dict[str, int]:
        """How many tokens of each encoder "a" is, with its marks."""
        return {name: len(tokenizer_of(self._clip, name).tokenizer("a")["input_ids"]) for name in self._encoders}

    def _table(self, name: str) -> WordTable:
        if name in CLIPS:
            return clip_words(self._clip, f"clip_{name}")
        return kept_table(self._clip, name, lambda: WordTable(self._merged(name)))

    @torch.inference_mode()
    def _merged(self, name: str) -> Tensor:
        """The mean of the embeddings of each word's pieces (CLIP's tokens, width), in half precision; 0 for no word."""
        comfy.model_management.load_models_gpu([self._clip.patcher])
        embed: Any = self._encoders[name].transformer.get_input_embeddings()
        pieces = {token: self._pieces(name, word) for token, word in words().items()}
        distinct = sorted({piece for found in pieces.values() for piece in found})
        device = embed.weight.device
        # As the encoder has them: some scale what they look up.
        rows = [
            embed(torch.tensor(some, device=device), out_dtype=torch.float32).cpu()
            for some in (distinct[first : first + AT_ONCE] for first in range(0, len(distinct), AT_ONCE))
        ]
        known, place = torch.cat(rows), {piece: row for row, piece in enumerate(distinct)}
        table = torch.zeros(CLIP_TOKENS, known.shape[1], dtype=torch.float16)
        for token, found in pieces.items():
            if found:
                table[token] = known[[place[piece] for piece in found]].mean(0).half()
        return table


def mix_encoder_of(clip: CLIP) -> HostTextEncoder | HostLanguageEncoder:
    """What takes a mix into a prompt: CLIP alone, or what transformers read."""
    names = set(clip.tokenize(""))
    alone = names <= {"l", "g", "h"} and names != {"g"}
    return HostTextEncoder(clip) if alone else HostLanguageEncoder(clip)


def _encoder(model: Any, name: str) -> Any:
    """One of the encoders of a text model, None where it was not loaded."""
    encoder = getattr(model, f"clip_{name}", None) or getattr(model, name, None)
    return encoder if hasattr(getattr(encoder, "transformer", None), "get_input_embeddings") else None
