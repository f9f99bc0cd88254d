"""The words that a model has: every token with its text, its input embeddings and its text feature.

Conceptor's vocabulary (arXiv 2306.00966, section 3): a token's feature is the mean of the unit-length text features of
prompts that contain it, brought to unit length again.
"""

from __future__ import annotations

import hashlib
import heapq
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from .. import storage
from ..errors import UserError
from ..model.protocols import OpenTextEncoder, Progress, check_fits, unseen
from ..model.text_tower import MARKS, PROJECTION, TextTower, WordTable

Tokens = Literal["words", "all"]
# Conceptor's: those of textual inversion.
CONCEPTOR_TEMPLATES = tuple(
    f"{beginning} {{}}"
    for beginning in (
        *("a photo of a", "a rendering of a", "a cropped photo of the", "the photo of a", "a photo of a clean"),
        *("a photo of a dirty", "a dark photo of the", "a photo of my", "a photo of the cool", "a close-up photo of a"),
        *("a bright photo of the", "a cropped photo of a", "a photo of the", "a good photo of the", "a photo of one"),
        *("a close-up photo of the", "a rendition of the", "a photo of the clean", "a rendition of a"),
        *("a photo of a nice", "a good photo of a", "a photo of the nice", "a photo of the small"),
        *("a photo of the weird", "a photo of the large", "a photo of a cool", "a photo of a small"),
    )
)
TEMPLATES: dict[str, tuple[str, ...]] = {
    "conceptor27": CONCEPTOR_TEMPLATES,
    "photo": ("a photo of a {}",),
    "none": ("{}",),
}
Spread = Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]
"""Applies a function to rows, over several processes where there are some."""
PROMPTS_AT_ONCE = 1024  # short ones: a few tokens each
ROWS_AT_ONCE = 8192  # of a table of input embeddings
WORD_END = "</w>"  # with which CLIP's vocabulary marks the last piece of a word
KIND, VERSION = "vocabulary", 1


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Tokens of a text encoder, in the order of their ids."""

    ids: Tensor  # (tokens,) int64
    texts: Sequence[str]  # as a reader would write them
    whole_words: Sequence[bool]  # whether the token is a word, not the beginning of one
    embeddings: Sequence[Tensor]  # of each tower (tokens, width): rows of its input embedding table
    norms: Sequence[float]  # of each tower: the mean length of all rows of its table
    features: Tensor  # (tokens, width), of unit length
    encoder: OpenTextEncoder  # whose tokens they are
    made_by: dict[str, Any] = field(default_factory=dict)
    warning: str | None = None  # why the features could not be kept

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, ids: Sequence[int]) -> list[int]:
        """Where the tokens `ids` stand; KeyError with the first one that is not here."""
        places = {token: row for row, token in enumerate(self.ids.tolist())}
        return [places[token] for token in ids]

    def check_encoder(self, towers: Sequence[TextTower]) -> None:
        """Raises UserError unless these are the text encoders whose words it has, with the same LoRAs."""
        if fingerprint(towers) != self.made_by["encoder"]:
            raise UserError(
                "The vocabulary was made with another text encoder; connect the same clip to Vocabulary Embed and here."
            )

    def read_by(self, tables: Sequence[WordTable]) -> Vocabulary:
        """The same words with the input embeddings of other encoders, which know them by the same ids."""
        rows = (table.rows[self.ids.to(table.rows.device)].cpu() for table in tables)
        return replace(self, embeddings=list(rows), norms=[table.mean_length for table in tables])

    def check_space(self, features: Tensor) -> None:
        """Raises UserError when image features (n, width) can't be compared with the words'."""
        check_space(bool(self.made_by.get("projected")), self.features.shape[-1], features)

    def nearest(self, feature: Tensor, top: int) -> list[tuple[int, float]]:
        """The `top` rows whose features are most like `feature` (width,), with cosine similarities, best first."""
        scores = self.features @ normalize(feature.to(self.features), dim=-1)
        best = scores.topk(min(top, len(scores)))
        return list(zip(best.indices.tolist(), best.values.tolist(), strict=True))


def template_features(
    encoder: OpenTextEncoder,
    tower: TextTower,
    concepts: Tensor,
    templates: Sequence[str],
    progress: Progress = unseen,
) -> Tensor:
    """The features (n, width) of `concepts`, token ids (n, length), each in the place of {} in all templates.

    CLIP reads from left to right, so what a template says before {} is read once for all, and nothing after its end.
    """
    total = torch.zeros(len(concepts), 1, device=tower.table.device)
    batches = concepts.split(PROMPTS_AT_ONCE)
    for number, template in enumerate(templates):
        before, _, after = template.partition("{}")
        past = tower.read(tower.embed(encoder.tokenize(before)[:-1])[None]).past
        ending = tower.embed(encoder.tokenize(after)[1:])
        features = []
        for batch in batches:
            embedded = torch.cat([tower.embed(batch), ending.expand(len(batch), -1, -1)], dim=1)
            features.append(tower.features(tower.read(embedded, past).last[:, -1]))
            progress(number * len(batches) + len(features), len(templates) * len(batches))
        total = total + torch.cat(features)
    return normalize(total, dim=-1)


def text_feature(encoder: OpenTextEncoder, tower: TextTower, text: str, templates: Sequence[str]) -> Tensor:
    """The feature (width,) of any text, as those of the vocabulary's tokens are made.

    Raises UserError when it is empty or, in one of the templates, longer than the encoder reads.
    """
    tokens = encoder.tokenize(text)[1:-1]
    if not tokens:
        raise UserError("The text is empty; write a word.")
    for template in templates:
        prompt = template.replace("{}", text)
        check_fits(encoder, prompt, encoder.tokenize(prompt))
    return template_features(encoder, tower, torch.tensor([tokens]), templates)[0]


def zero_shot_features(encoder: OpenTextEncoder, tower: TextTower, texts: Sequence[str], pictures: Tensor) -> Tensor:
    """The features (texts, width), on the CPU, with which CLIP's zero-shot classifier judges pictures.

    texts: prompts, each read as it stands; pictures (n, width): their features, which are only checked. Raises
    UserError where the image encoder and the text encoder share no space, and for a text as `text_feature`.
    """
    features = torch.stack([text_feature(encoder, tower, text, TEMPLATES["none"]).cpu() for text in texts])
    check_space(PROJECTION in tower.weights, features.shape[-1], pictures)
    return features


def check_space(projected: bool, width: int, features: Tensor) -> None:
    """Raises UserError unless image features (n, width) can be compared with text features of some width.

    projected: whether the text encoder has a projection into a space that it shares with pictures.
    """
    if not projected:
        raise UserError(
            "The text encoder has no projection into a space that it shares with pictures (most checkpoints leave it "
            "out); load a text encoder that has one, or disconnect the image encoder."
        )
    if features.shape[-1] != width:
        raise UserError(
            f"The image encoder's features are {features.shape[-1]} wide and the text encoder's {width}: they share no "
            "space; connect the image encoder that was trained with this text encoder."
        )


def alone(function: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    """A `Spread` over nothing but this process."""
    return function(rows)


def token_texts(
    entries: Sequence[str], decode: Callable[[Sequence[int]], str], tokens: Tokens | Collection[int]
) -> dict[int, str]:
    """Each token's text as a reader would write it, by its id; `entries` are those of the tokenizer's vocabulary.

    `tokens` "words" are whole words made of letters, "all" is every entry but CLIP's two marks, ids are those of them
    alone. `decode` is the tokenizer's, as in `TextEncoder`.
    """
    ids = range(len(entries)) if isinstance(tokens, str) else sorted(set(tokens).intersection(range(len(entries))))
    texts = {token: decode([token]).strip() for token in ids if entries[token] not in MARKS}
    if tokens != "words":
        return texts
    return {
        token: text
        for token, text in texts.items()
        if entries[token].endswith(WORD_END) and text.replace("'", "").isalpha()
    }


def named_tokens(encoder: OpenTextEncoder, words: Collection[str], tokens: Tokens = "words") -> list[int]:
    """The token of each of these words, in the order of their ids: a whole word rather than a beginning of its letters.

    `tokens` are those of `token_texts`. Raises UserError for words that are no token of these.
    """
    entries = encoder.vocabulary()
    texts = token_texts(entries, encoder.decode, tokens)
    order = sorted(texts, key=lambda token: entries[token].endswith(WORD_END))
    places = {texts[token].casefold(): token for token in order}
    wanted = {word.casefold() for word in words}
    if absent := sorted(wanted - places.keys()):
        raise UserError(
            f"The vocabulary of {len(texts)} tokens has no {', '.join(absent)}; write words of one token each, as "
            "Vocabulary Search shows them."
        )
    return sorted(places[word] for word in wanted)


def completions(texts: Mapping[int, str], query: str, limit: int) -> list[tuple[int, str]]:
    """Tokens for what a person has begun to write: the word itself, words that begin so, words that contain it.

    At most `limit`, as ids and texts. Frequent ones first: CLIP's vocabulary is ordered so.
    """
    wanted = query.casefold()
    ranked = [
        (text.casefold() != wanted, not text.casefold().startswith(wanted), token)
        for token, text in texts.items()
        if wanted in text.casefold()
    ]
    return [(token, texts[token]) for *_, token in heapq.nsmallest(limit, ranked)]


def nearest_tokens(words: WordTable, candidates: Sequence[int], ids: Sequence[int], top: int) -> list[list[int]]:
    """For each token of `ids` the `top` others among `candidates` whose input embeddings point most the same way.

    By cosine similarity, the nearest first; all of them are token ids.
    """
    wanted, parts = normalize(words.of(ids), dim=-1), []
    for rows in words.rows.split(ROWS_AT_ONCE):  # a normalised copy of the whole table would cost more than the product
        rows = rows.to(wanted)
        parts.append(wanted @ rows.T / rows.norm(dim=-1).clamp(min=1e-12))
    scores = torch.cat(parts, dim=-1)[:, list(candidates)]
    best = scores.topk(min(top + 1, len(candidates)), dim=-1).indices.tolist()
    found = ([candidates[place] for place in row] for row in best)
    return [[other for other in row if other != token][:top] for token, row in zip(ids, found, strict=True)]


@torch.no_grad()
def embed_vocabulary(
    encoder: OpenTextEncoder,
    templates: str = "conceptor27",
    tokens: Tokens | Collection[int] = "words",
    cache: Path | None = None,
    progress: Progress = unseen,
    spread: Spread = alone,
) -> Vocabulary:
    """The vocabulary of a text encoder; its features are kept in the folder `cache` and found there again.

    `templates` names one of TEMPLATES, `tokens` those of `token_texts`; `spread` runs the encoder over them. Where
    the folder can't be used the vocabulary is the same, with a warning.
    """
    towers = encoder.towers()
    entries = encoder.vocabulary()
    texts = token_texts(entries, encoder.decode, tokens)
    ids = torch.tensor(list(texts))
    tower = towers[-1]  # SDXL's second one is the one with a projection
    made_by: dict[str, Any] = {
        "encoder": fingerprint(towers),
        "templates": list(TEMPLATES[templates]),
        "tokens": tokens if isinstance(tokens, str) else list(texts),
        "projected": PROJECTION in tower.weights,
    }
    file = cache / f"{_digest(made_by)}.safetensors" if cache else None
    features, warning = _cached(file, ids, made_by), None
    if features is None:
        texts_in = TEMPLATES[templates]
        features = spread(lambda some: template_features(encoder, tower, some, texts_in, progress), ids[:, None])
        features = features.cpu().half()
        if file:
            header = {"kind": KIND, "version": VERSION, **made_by}
            warning = storage.keep(file, {"ids": ids, "features": features}, header)
    return Vocabulary(
        ids=ids,
        texts=list(texts.values()),
        whole_words=[entries[token].endswith(WORD_END) for token in texts],
        embeddings=[tower.embed(ids).float().cpu() for tower in towers],
        norms=[tower.words.mean_length for tower in towers],
        features=normalize(features.float(), dim=-1),
        encoder=encoder,
        made_by=made_by,
        warning=warning,
    )


def fingerprint(towers: Sequence[TextTower]) -> str:
    """A hash of all weights of a text encoder, LoRAs included.

    Not of the layer that a UNet reads: words and their features are the same with every clip skip.
    """
    digest = hashlib.sha256()
    for tower in towers:
        digest.update(tower.name.encode())
        for name in sorted(tower.weights):
            digest.update(name.encode())
            digest.update(tower.weights[name].float().cpu().contiguous().numpy().data)
    return digest.hexdigest()


def _digest(made_by: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(made_by, sort_keys=True).encode()).hexdigest()[:24]


def _cached(file: Path | None, ids: Tensor, made_by: dict[str, Any]) -> Tensor | None:
    """The features kept in `file`, unless it is missing, damaged or made of something else."""
    if file is None:
        return None
    try:
        tensors, header = storage.read(file, KIND, VERSION, ("ids", "features"))
        storage.check_numbers(file, {"ids": 1, "features": 2}, tensors)
    except UserError:
        return None  # it is only a cache: made anew
    same = all(header.get(key) == value for key, value in made_by.items()) and torch.equal(tensors["ids"], ids)
    return tensors["features"] if same and len(tensors["features"]) == len(ids) else None
