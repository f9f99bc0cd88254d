"""CLIP seen through core's protocols."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, cached_property
from typing import Any
from weakref import WeakKeyDictionary

import comfy.model_management
import torch
from comfy.clip_model import ACTIVATIONS, CLIPTextModel
from comfy.sd import CLIP
from comfy.sd1_clip import SD1ClipModel, SDTokenizer
from comfy.sdxl_clip import SDXLClipModel
from torch import Tensor
from torch.nn import Parameter

from ...core.conceptor.mixture import TokenMix
from ...core.conceptor.vocabulary import WORD_END, token_texts
from ...core.errors import UserError
from ...core.model.protocols import Family, PseudoToken, Section
from ...core.model.template import Template
from ...core.model.text_tower import CONTEXT_LENGTH, PROJECTION, TextTower, WordTable
from .model import effective_weight

CLIP_TOKENS = 49408  # in CLIP's vocabulary
CLIPS = ("l", "g")  # the host's names of CLIP among the encoders of transformers
SLOT = "<>"  # the place of a mix, in boxes where braces are choices
READABLE = (torch.float16, torch.bfloat16, torch.float32)
# Of the host's text encoders: each table by its key, with the patches that it was made with.
_tables: WeakKeyDictionary[Any, dict[str, tuple[Any, WordTable]]] = WeakKeyDictionary()
PROMPTS_AT_ONCE = 128  # bounds the memory of one pass through the text encoder


class HostTextEncoder:
    """A CLIP of the host as `core.model.protocols.OpenTextEncoder`: its clip skip and LoRAs count."""

    def __init__(self, clip: CLIP) -> None:
        model = clip.cond_stage_model
        names = [n for n in ("l", "h", "g") if isinstance(getattr(model, f"clip_{n}", None), torch.nn.Module)]
        encoders = [getattr(model, f"clip_{name}").transformer for name in names]
        known = isinstance(model, (SD1ClipModel, SDXLClipModel)) and names in (["l"], ["h"], ["l", "g"])
        if not known or not all(isinstance(encoder, CLIPTextModel) for encoder in encoders):
            raise UserError(
                f"The CLIP is a {type(model).__name__}; ConceptLens reads the text encoders of SD 1.x, SD 2.x and "
                "SDXL: connect the CLIP of such a checkpoint."
            )
        self._clip = clip
        self.names = [f"clip_{name}" for name in names]
        self.family: Family = "SDXL" if len(names) == 2 else "SD 2.x" if names == ["h"] else "SD 1.x"
        self._tokenizer: SDTokenizer = getattr(clip.tokenizer, f"clip_{names[0]}")
        if self._tokenizer.max_length != CONTEXT_LENGTH:
            raise UserError(
                f"The CLIP reads {self._tokenizer.max_length} tokens; ConceptLens reads encoders of {CONTEXT_LENGTH}: "
                "connect the CLIP of an SD 1.x, SD 2.x or SDXL checkpoint."
            )
        self._ends: tuple[int, int] = tuple(self._tokenizer.tokenizer("").input_ids)
        self.width: int = sum(encoder.get_input_embeddings().weight.shape[1] for encoder in encoders)

    def tokenize(self, prompt: str) -> list[int]:
        start, end = self._ends
        inner: list[int] = []
        inside = False
        for token in next(iter(plain_tokens(self._clip, prompt).values())):
            if token in (start, end):
                inside = token == start  # padding follows an end, and another part of a long prompt begins anew
            elif inside:
                inner.append(token)
        return [start, *inner, end]

    def sections(self, prompt: str) -> list[Section]:
        return [Section(self.tokenize(prompt), CONTEXT_LENGTH)]

    def decode(self, tokens: Sequence[int]) -> str:
        return self._tokenizer.decode(list(tokens))

    def encode(self, prompts: Sequence[str]) -> Tensor:
        contexts = []
        for first in range(0, len(prompts), PROMPTS_AT_ONCE):
            some = prompts[first : first + PROMPTS_AT_ONCE]
            # The host encodes the sections of a long prompt as one batch and joins them: that serves many prompts.
            sections: dict[str, list[Any]] = {}
            for prompt in some:
                for name, tokens in self._clip.tokenize(prompt).items():
                    sections.setdefault(name, []).extend(tokens)
            context: Any = self._clip.encode_from_tokens(sections)
            contexts.append(context.float().cpu().reshape(len(some), CONTEXT_LENGTH, self.width))
        return torch.cat(contexts)

    @property
    def pooled(self) -> HostPooledText | None:
        return self._pooled

    @cached_property
    def _pooled(self) -> HostPooledText | None:
        return pooled_text_of(self._clip)  # a pass through the encoder

    def vocabulary(self) -> list[str]:
        return _entries(self._tokenizer)

    def towers(self) -> list[TextTower]:
        return [self._tower(name) for name in self.names]

    def words(self) -> dict[str, WordTable]:
        """The input embeddings of all tokens, by the names of the towers."""
        return {name: clip_words(self._clip, name) for name in self.names}

    def check_mix(self, mix: TokenMix) -> None:
        """Raises UserError when a mix was made for another family of models."""
        mix.check_family(self.family)

    def conditioning(self, template: Template, mix: PseudoToken) -> Any:
        """The host's CONDITIONING of a prompt with a mix in each of its places; all else is the host's way.

        Raises UserError when no place is left of a long prompt.
        """
        vectors = mix.pseudo_token(list(self.words().values()))
        sections = next(iter(self._clip.tokenize(template.filled(" ")).values()))
        taken = [entry[0] for section in sections for entry in section if isinstance(entry[0], int)]
        mark, word = next(self._words_but(taken))
        names = [name.removeprefix("clip_") for name in self.names]
        given = dict(zip(names, vectors, strict=True))
        return conditioning_with(self._clip, template, word, dict.fromkeys(names, mark), given)

    def _words_but(self, taken: Sequence[int]) -> Iterator[tuple[int, str]]:
        """Words of one token that can stand for `<>` while the host splits a prompt into tokens."""
        for token, entry in self._tokenizer.inv_vocab.items():
            word = entry.removesuffix(WORD_END)
            if token not in taken and word != entry and word.isascii() and word.isalpha() and len(word) > 4:
                yield token, word

    def _tower(self, name: str) -> TextTower:
        encoder = getattr(self._clip.cond_stage_model, name)
        prefix = f"{name}.transformer."
        patches = self._clip.patcher.get_key_patches(prefix)
        device = self._clip.patcher.load_device
        free_memory: Any = comfy.model_management.free_memory
        free_memory(4 * sum(stored.numel() for (stored, _), *_ in patches.values()), device)
        weights = {  # one after the other: their float32 copies are on the device only
            key.removeprefix(prefix).removeprefix("text_model."): effective_weight(key, entries).to(device)
            for key, entries in patches.items()
        }
        rows = weights[PROJECTION].norm(dim=1)
        # A checkpoint without a projection leaves that memory as it was found: zeros, or any bytes as numbers.
        if not (torch.isfinite(rows).all() and 1e-3 < rows.max() < 1e3 and rows.min() > 1e-3 * rows.max()):
            del weights[PROJECTION]
        kind, layer, projects = encoder.options_default
        if self._clip.layer_idx is not None:
            layer = self._clip.layer_idx
            kind = "last" if abs(layer) > encoder.num_layers else "hidden"
        first: Any = encoder.transformer.text_model.encoder.layers[0]
        return TextTower(
            name=name,
            weights=weights,
            heads=first.self_attn.heads,
            activation="quick_gelu" if first.mlp.activation is ACTIVATIONS["quick_gelu"] else "gelu",
            layer=-1 if kind == "last" else layer - (encoder.num_layers if layer >= 0 else 0),
            normed=kind == "last" or encoder.layer_norm_hidden_state,
            start=encoder.special_tokens["start"],
            end=encoder.special_tokens["end"],
            pad=encoder.special_tokens["pad"],
            projects=projects,
        )


def clip_words(clip: CLIP, name: str) -> WordTable:
    """The input embeddings of one of the host's CLIP encoders."""
    key = f"{name}.transformer.text_model.embeddings.token_embedding.weight"

    def read() -> WordTable:
        (stored, _), *applied = patches = clip.patcher.get_key_patches(key)[key]
        plain = type(stored) in (Tensor, Parameter) and stored.dtype in READABLE and not applied
        # On the CPU: a table on a GPU would keep its memory when the host moves the encoder away.
        return WordTable(stored.detach().cpu() if plain else effective_weight(key, patches))

    return kept_table(clip, key, read)


def kept_table(clip: CLIP, key: str, read: Callable[[], WordTable]) -> WordTable:
    """Kept for as long as the host's model is there: an artist who moves a coefficient waits for no copy of it."""
    known = _tables.setdefault(clip.patcher.model, {})
    made_with, table = known.get(key, (None, None))
    if table is None or made_with != clip.patcher.patches_uuid:
        table = read()
        known[key] = (clip.patcher.patches_uuid, table)
    return table


def conditioning_with(
    clip: CLIP, template: Template, word: str, marks: Mapping[str, int], vectors: Mapping[str, Tensor]
) -> Any:
    """The host's CONDITIONING of a prompt in whose places vectors stand; all else is the host's way.

    `word` holds the place while the host splits the prompt into tokens: it is the one token `marks` of each encoder,
    for which its vector (1, width) is put. Raises UserError when no place is left of a long prompt.
    """
    # One space before it, as most tokenizers have it in a word's token, and none more than are there.
    text = re.sub(r"(?<=\S)\0", " \0", template.filled("\0"))
    tokens = clip.tokenize(re.sub(r"\0(?=\w)", "\0 ", text).replace("\0", word))
    for name, mark in marks.items():
        found = 0
        for section in tokens[name]:
            for place, entry in enumerate(section):
                if isinstance(entry[0], int) and entry[0] == mark:
                    section[place] = (vectors[name][0], *entry[1:])
                    found += 1
        if not found:
            raise UserError(f'The {SLOT} of the prompt "{template.filled(SLOT)}" was cut off; write a shorter prompt.')
    return clip.encode_from_tokens_scheduled(tokens)


class HostPooledText:
    """The pooled text that a CLIP gives as `core.model.protocols.PromptStates`."""

    def __init__(self, clip: CLIP, width: int) -> None:
        self._clip = clip
        self.width = width

    def encode(self, prompts: Sequence[str]) -> Iterator[Tensor]:
        for prompt in prompts:
            yield _pooled(self._clip, prompt).float().cpu().clone()


def pooled_text_of(clip: CLIP) -> HostPooledText | None:
    """The pooled text of a CLIP, None of one that gives none: T5 alone."""
    found = _pooled(clip, "")
    return None if found is None else HostPooledText(clip, found.shape[-1])


def _pooled(clip: CLIP, prompt: str) -> Any:
    """The pooled text (1, width) of a prompt, if there is one."""
    with torch.inference_mode():
        encoded: Any = clip.encode_from_tokens(clip.tokenize(prompt), return_pooled=True)
    return encoded[1]


def plain_tokens(clip: CLIP, prompt: str) -> dict[str, list[int]]:
    """The host's tokens of a prompt by the names of its encoders, padded, those of long prompts joined.

    Raises UserError for what is more than plain words: embeddings and weights.
    """
    if "embedding:" in prompt:  # the host drops one that it does not find
        raise UserError(f'The prompt "{prompt}" names an embedding, which has no meaning here; write plain words.')
    tokens: dict[str, list[int]] = {}
    for name, sections in clip.tokenize(prompt).items():
        for token, weight in (entry for section in sections for entry in section):
            if not isinstance(token, int) or weight != 1.0:
                raise UserError(
                    f'The prompt "{prompt}" contains a weight, which has no meaning here; write plain words, '
                    r"and \( \) for parentheses."
                )
            tokens.setdefault(name, []).append(token)
    return tokens


def tokenizer_of(clip: CLIP, name: str) -> Any:
    """The tokenizer of one of the encoders that a CLIP holds."""
    tokenizer: Any = clip.tokenizer
    return getattr(tokenizer, name, None) or getattr(tokenizer, f"clip_{name}")


@cache
def clip_tokenizer() -> SDTokenizer:
    """CLIP's own, whatever encoder is connected."""
    return SDTokenizer()


@cache
def words() -> dict[int, str]:
    """The whole words of CLIP's vocabulary, in which mixes are written, by token id."""
    tokenizer = clip_tokenizer()
    return token_texts(_entries(tokenizer), tokenizer.decode, "words")


def _entries(tokenizer: SDTokenizer) -> list[str]:
    """The vocabulary of a tokenizer, by token id."""
    entries: dict[int, str] = tokenizer.inv_vocab
    return [entries[token] for token in range(len(entries))]


def encoded(clip: CLIP, prompt: str) -> Any:
    """A prompt as the host's CLIP Text Encode gives it."""
    with torch.inference_mode():
        return clip.encode_from_tokens_scheduled(clip.tokenize(prompt))
