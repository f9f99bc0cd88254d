"""The words among which an explanation is looked for, and what each of them alone is worth."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..model.diffusion import Diffusion, Draws, add_noise, denoising_loss
from ..model.memory import Portions
from ..model.protocols import OpenTextEncoder
from ..model.slot import PromptSlot, Slot
from ..model.text_tower import Encoded, TextTower, pseudo_token
from .mixture import TokenMix
from .vocabulary import Vocabulary, text_feature

SYNONYM = 0.9  # the cosine of features above which Conceptor takes two words for the same
LIKENESS = 30.0  # log-likelihood of a word for a picture, for each 1 of their features' cosine similarity
FINER = 16.0  # by which a gradient that overflows is scaled down
ROWS_AT_ONCE = 32  # of latents and prompts in one pass through the UNet without gradients


@dataclass(frozen=True, eq=False)
class Dictionary:
    """Tokens with their input embeddings."""

    ids: Tensor  # (tokens,)
    texts: list[str]
    embeddings: Sequence[Tensor]  # of each tower (tokens, width)
    norms: Sequence[float]  # of each tower: the mean length of its whole table's rows

    @classmethod
    def of(cls, vocabulary: Vocabulary, rows: Sequence[int], device: torch.device) -> Dictionary:
        """Some rows of a vocabulary, their embeddings on `device`."""
        embeddings = [table[list(rows)].to(device, torch.float32) for table in vocabulary.embeddings]
        return cls(vocabulary.ids[list(rows)], [vocabulary.texts[row] for row in rows], embeddings, vocabulary.norms)

    def __len__(self) -> int:
        return len(self.ids)

    def only(self, rows: Tensor) -> Dictionary:
        """Some of its tokens, in the order of `rows`."""
        rows = rows.cpu()
        texts = [self.texts[row] for row in rows.tolist()]
        embeddings = [table[rows.to(table.device)] for table in self.embeddings]
        return Dictionary(self.ids[rows], texts, embeddings, self.norms)

    def largest(self, coefficients: Tensor, count: int) -> tuple[Dictionary, Tensor]:
        """The `count` tokens with the largest coefficients (tokens,), and these."""
        values, rows = coefficients.topk(min(count, len(self)))
        return self.only(rows), values

    def pseudo_token(self, coefficients: Tensor) -> list[Tensor]:
        """Of each tower (n, width); coefficients (n, tokens), or (tokens,) for one."""
        rows = coefficients.reshape(-1, len(self))
        return [pseudo_token(words, rows, length) for words, length in zip(self.embeddings, self.norms, strict=True)]

    def mix(self, coefficients: Tensor, **made_by: Any) -> TokenMix:
        """Its tokens with coefficients (tokens,); made_by: what the mix says of how it was made."""
        return TokenMix.of(self.ids.tolist(), self.texts, coefficients.tolist(), **made_by)

    def by_token(self, values: Tensor) -> dict[str, Any]:
        """What is known of each token, values (tokens, ...), by its id."""
        return dict(zip(map(str, self.ids.tolist()), values.tolist(), strict=True))

    def singles(self) -> list[Tensor]:
        """Each token alone as a pseudo-token, of each tower (tokens, width)."""
        return [normalize(e, dim=-1) * norm for e, norm in zip(self.embeddings, self.norms, strict=True)]


def own_words(vocabulary: Vocabulary, encoder: OpenTextEncoder, tower: TextTower, concept: str) -> set[int]:
    """The rows that name the concept itself, by meaning and by spelling: an explanation without them says more.

    By meaning as Conceptor does (arXiv 2306.00966), by the cosine similarity of text features, where the encoder has a
    projection: only its features tell meanings apart. By spelling: its pieces, its plural or singular, capitals.
    `tower` is the one that the vocabulary's features come from.
    """
    pieces = set(encoder.tokenize(concept)[1:-1])
    words = {_plain(word) for word in concept.split()}
    forms = words.union(*map(plurals, words))
    rows = {
        row
        for row, (token, text) in enumerate(zip(vocabulary.ids.tolist(), vocabulary.texts, strict=True))
        if token in pieces or _plain(text) in forms or words & plurals(_plain(text))
    }
    if vocabulary.made_by.get("projected"):
        feature = text_feature(encoder, tower, concept, vocabulary.made_by["templates"])
        rows |= set((vocabulary.features @ feature.cpu() > SYNONYM).nonzero().flatten().tolist())
    return rows


def _plain(word: str) -> str:
    """A word without capitals and signs."""
    return "".join(letter for letter in word.casefold() if letter.isalnum())


def plurals(word: str) -> set[str]:
    """How English writes its plural."""
    return {f"{word}s", f"{word}es", f"{word.removesuffix('y')}ies"}


def likeness_shares(vocabulary: Vocabulary, features: Tensor, banned: Collection[int] = ()) -> Tensor:
    """The share (words,) of the pictures that look like each word; 0 for the rows that are banned.

    features: image features (pictures, width) of unit length. Each picture is shared out among all words by CLIP's
    zero-shot classifier, LIKENESS times the cosine similarity in a softmax (arXiv 2103.00020, section 3.1.2): pictures
    of a mixed concept are each like words of their own, and the mean of all of them is like none. Raises UserError when
    the two do not share a space.
    """
    vocabulary.check_space(features)
    evidence = LIKENESS * (vocabulary.features @ features.T.to(vocabulary.features))
    evidence[list(banned)] = -torch.inf
    return evidence.softmax(0).mean(1)


def rank_by_gradient(vocabulary: Vocabulary, diffusion: Diffusion, slot: Slot, drawn: Draws) -> Tensor:
    """All rows, those first that promise the largest fall of the loss, from the mean of all words.

    A token's embedding enters the loss through its product with the gradient only: one backward pass scores them all.
    """
    everything = Dictionary.of(vocabulary, range(len(vocabulary)), slot.device)
    leaves = [v.requires_grad_() for v in everything.pseudo_token(torch.ones(len(vocabulary)))]
    promised = torch.zeros(len(vocabulary), device=slot.device)
    for single, gradient in zip(everything.singles(), loss_gradient(diffusion, slot, leaves, drawn), strict=True):
        promised -= (single @ gradient.T).squeeze(1)
    return promised.argsort(descending=True).cpu()


def loss_gradient(diffusion: Diffusion, slot: Slot, vectors: Sequence[Tensor], drawn: Draws) -> list[Tensor]:
    """The gradient of the mean loss with respect to a pseudo-token, `vectors`; both are of each tower (1, width)."""
    leaves = [vector.detach().requires_grad_() for vector in vectors]
    encoded = slot.encode(leaves)
    portions = Portions(ROWS_AT_ONCE, diffusion)
    _, gradient = portions.run(lambda size: encoded_gradient(diffusion, encoded, drawn, size))
    return list(torch.autograd.grad(tuple(encoded), leaves, tuple(gradient)))


def encoded_gradient(diffusion: Diffusion, encoded: Encoded, drawn: Draws, size: int) -> tuple[float, Encoded]:
    """The mean loss of one encoded prompt, and its gradient with respect to it, `size` draws at once.

    Exact to the precision of the UNet, in half precision too: see `_scaled_gradient`.
    """
    mean = drawn.latents[0].numel() * len(drawn)  # what a plain sum of squared errors is divided by
    scale = 1.0
    while True:
        loss, gradient = _scaled_gradient(diffusion, encoded, drawn, size, scale)
        if not math.isfinite(loss) or scale * mean <= 1 or all(part.isfinite().all() for part in gradient):
            return loss, gradient
        scale /= FINER


def _scaled_gradient(
    diffusion: Diffusion, encoded: Encoded, drawn: Draws, size: int, scale: float
) -> tuple[float, Encoded]:
    """The same by the backward pass of `scale` times the plain sum of squared errors, divided afterwards.

    A float16 holds 6e-8 to 65504, with all its digits from 6e-5 on. Errors of the prediction are about 0.1 to 1. Of
    their mean over pixels and draws the gradient is 1e-7 and less where the backward pass begins, and much of it
    vanishes; that of their plain sum is in the middle of the range. What overflows on its way through the UNet, where
    many pixels meet, gets a smaller scale (loss scaling, arXiv 1710.03740).
    """
    leaves = Encoded(*(part.detach().requires_grad_() for part in encoded))
    pixels, total = drawn.latents[0].numel(), 0.0
    for some in drawn.split(size):
        loss = denoising_loss(diffusion, some, leaves.repeated(len(some))).sum()
        (loss * (pixels * scale)).backward()
        total += float(loss.detach()) / len(drawn)
    whole = pixels * scale * len(drawn)
    return total, Encoded(*(torch.zeros_like(part) if part.grad is None else part.grad / whole for part in leaves))


@torch.no_grad()
def taught(diffusion: Diffusion, drawn: Draws, own: Encoded) -> Draws:
    """The draws with what the UNet itself says for the concept's own prompt, `own` (1, ...), as their target.

    What training wants, the noise, is that and chance: the same is learned from a fraction of the draws (a control
    variate; distillation, arXiv 1503.02531).
    """

    def said(size: int) -> Tensor:
        parts = []
        for some in drawn.split(size):
            noisy = add_noise(diffusion.alphas_cumprod, some.latents, some.noise, some.timesteps)
            parts.append(diffusion.predict(noisy, some.timesteps, own.repeated(len(some))))
        return torch.cat(parts)

    return replace(drawn, target=Portions(ROWS_AT_ONCE, diffusion).run(said))


@torch.no_grad()
def token_losses(diffusion: Diffusion, slot: PromptSlot, vectors: Sequence[Tensor], drawn: Draws) -> Tensor:
    """The denoising loss (pseudo-tokens, draws) of each pseudo-token on each draw: the same noise for all.

    vectors: of each encoder (pseudo-tokens, width).
    """
    parts = zip(*(vector.split(ROWS_AT_ONCE) for vector in vectors), strict=True)
    encoded = Encoded(*(torch.cat(rows) for rows in zip(*map(slot.encode, parts), strict=True)))
    return prompt_losses(diffusion, encoded, drawn)


@torch.no_grad()
def prompt_losses(diffusion: Diffusion, encoded: Encoded, drawn: Draws) -> Tensor:
    """The denoising loss (prompts, draws) of each encoded prompt on each draw: the same noise for all."""
    pairs = torch.arange(len(encoded.context) * len(drawn), device=encoded.context.device)

    def losses(size: int) -> Tensor:  # as many rows in each pass: one shape for what is compiled
        parts = ((rows // len(drawn), rows % len(drawn)) for rows in pairs.split(size))
        return torch.cat([denoising_loss(diffusion, drawn.at(which), encoded.at(token)) for token, which in parts])

    return Portions(ROWS_AT_ONCE, diffusion).run(losses).view(-1, len(drawn))
