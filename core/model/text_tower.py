"""CLIP's text transformer as a function of its weights, whichever program has loaded them.

Core needs what the programs' own encoders do not give: gradients with respect to one token's embedding (ComfyUI's
layers add in place and its weights are inference tensors), hidden states of prompts cut to their real length, and the
states of a common beginning computed once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import gelu, layer_norm, linear, normalize, scaled_dot_product_attention

CONTEXT_LENGTH = 77  # token slots of one CLIP prompt, start and end token included
Activation = Literal["quick_gelu", "gelu"]
Past = list[tuple[Tensor, Tensor]]  # of each layer: keys and values (1, heads, tokens, channels) of what came before
PROJECTION = "text_projection.weight"
MARKS = ("<|startoftext|>", "<|endoftext|>")  # CLIP's own; as text they would cut a prompt short


@dataclass(frozen=True, eq=False)
class WordTable:
    """The input embeddings of all tokens of a text encoder."""

    rows: Tensor  # (tokens, width), in the precision in which the encoder keeps them

    @cached_property
    def mean_length(self) -> float:
        """Of the rows that hold a word: the length that Conceptor gives to a pseudo-token."""
        lengths = torch.linalg.vector_norm(self.rows, dim=1, dtype=torch.float32)
        return float(lengths[lengths > 0].mean())

    def of(self, tokens: Sequence[int]) -> Tensor:
        """The embeddings (n, width) of some tokens, float32 on the CPU."""
        return self.rows[list(tokens)].to("cpu", torch.float32)


def pseudo_token(embeddings: Tensor, coefficients: Tensor, length: float) -> Tensor:
    """w* = normalise(sum_i alpha_i w_i) times a length (n, width): Conceptor's combination of words (section 3.2).

    embeddings (tokens, width), coefficients (n, tokens).
    """
    return normalize(coefficients.to(embeddings) @ embeddings, dim=-1) * length


class Reading(NamedTuple):
    """What a tower makes of embedded tokens."""

    states: Tensor  # (prompts, tokens, width) of the layer that the UNet reads
    last: Tensor  # (prompts, tokens, width) of the last layer, normed; pooled outputs and features come from it
    past: Past


@dataclass(frozen=True, eq=False)
class TextTower:
    """One text encoder of a model; SDXL has two."""

    name: str  # as textual-inversion files have it: "clip_l", "clip_h", "clip_g"
    weights: Mapping[str, Tensor]  # named as in transformers without "text_model."; the program's LoRAs applied
    heads: int  # of each layer's attention
    activation: Activation
    layer: int  # whose states the UNet reads, from the end: -1 is the last one
    normed: bool  # whether those states go through the final layer norm
    start: int  # the token id of CLIP's start mark
    end: int  # of its end mark
    pad: int  # of what fills the slots after the end
    projects: bool  # whether a model that reads its pooled text reads it projected: SDXL does, Flux.1 does not

    @property
    def table(self) -> Tensor:
        """The input embeddings of all tokens, (tokens, width)."""
        return self.weights["embeddings.token_embedding.weight"]

    @cached_property
    def words(self) -> WordTable:
        return WordTable(self.table)

    def embed(self, tokens: Sequence[int] | Tensor) -> Tensor:
        """Input embeddings (..., width) of token ids (...)."""
        return self.table[torch.as_tensor(tokens, device=self.table.device)]

    def pad_out(self, tokens: Sequence[int]) -> list[int]:
        """The 77 slots of a prompt whose ids come with start and end token."""
        return [*tokens, *[self.pad] * (CONTEXT_LENGTH - len(tokens))]

    def read(self, embedded: Tensor, past: Past | None = None) -> Reading:
        """Runs embedded tokens (prompts, tokens, width) through all layers, after those that `past` stands for."""
        before = past[0][0].shape[2] if past else 0
        tokens = embedded.shape[1]
        positions = self.weights["embeddings.position_embedding.weight"][before : before + tokens]
        x = embedded + positions
        mask = torch.ones(tokens, before + tokens, dtype=torch.bool, device=x.device).tril(before) if before else None
        count = sum(name.endswith("self_attn.q_proj.weight") for name in self.weights)
        kept: Past = []
        states = x
        for number in range(count):
            x, keys_and_values = self._layer(number, x, past[number] if past else None, mask)
            kept.append(keys_and_values)
            if number == count + self.layer:
                states = x
        last = self._norm("final_layer_norm", x)
        if self.layer == -1 and self.normed:
            return Reading(last, last, kept)
        return Reading(self._norm("final_layer_norm", states) if self.normed else states, last, kept)

    def features(self, pooled: Tensor) -> Tensor:
        """Unit-length text features of normed states (..., width) at the end token.

        Projected where the tower has a projection: only such features can be compared with image features.
        """
        projection = self.weights.get(PROJECTION)
        return normalize(pooled if projection is None else linear(pooled, projection), dim=-1)

    def _layer(
        self, number: int, x: Tensor, past: tuple[Tensor, Tensor] | None, mask: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        name = f"encoder.layers.{number}"
        h = self._norm(f"{name}.layer_norm1", x)
        queries, keys, values = (
            # (prompts, tokens, width) -> (prompts, heads, tokens, channels)
            self._linear(f"{name}.self_attn.{kind}_proj", h).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for kind in "qkv"
        )
        if past:
            keys, values = (
                torch.cat([old.expand(len(x), -1, -1, -1), new], dim=2)
                for old, new in zip(past, (keys, values), strict=True)
            )
        attended = scaled_dot_product_attention(queries, keys, values, attn_mask=mask, is_causal=mask is None)
        together = attended.transpose(1, 2).flatten(2)  # (prompts, tokens, width)
        x = x + self._linear(f"{name}.self_attn.out_proj", together)
        h = self._linear(f"{name}.mlp.fc1", self._norm(f"{name}.layer_norm2", x))
        h = gelu(h) if self.activation == "gelu" else h * torch.sigmoid(1.702 * h)
        return x + self._linear(f"{name}.mlp.fc2", h), (keys, values)

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return linear(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def _norm(self, name: str, x: Tensor) -> Tensor:
        return layer_norm(x, x.shape[-1:], self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])


class Encoded(NamedTuple):
    """Prompts as a model takes them, or what stands for them between a slot and the model that it belongs to."""

    context: Tensor  # (prompts, 77, width of all towers together)
    pooled: Tensor  # (prompts, width of the last tower): its end state; SDXL (projected) and Flux.1 read it

    def repeated(self, count: int) -> Encoded:
        """Each prompt `count` times, one after the other."""
        return Encoded(*(part.repeat_interleave(count, 0) for part in self))

    def at(self, rows: Tensor) -> Encoded:
        """Some of the prompts, as often as they are named."""
        return Encoded(*(part[rows] for part in self))


def encode(
    towers: Sequence[TextTower], tokens: Sequence[int], slots: Sequence[int], vectors: Sequence[Tensor]
) -> Encoded:
    """Encodes one prompt with each of several pseudo-tokens in its `slots`.

    tokens: the prompt's ids with start and end token; `slots` are the places of the pseudo-token among them.
    vectors: for each tower the pseudo-tokens' embeddings (prompts, width). Differentiable with respect to them.
    """
    contexts: list[Tensor] = []
    pooled = torch.empty(0)
    for tower, vector in zip(towers, vectors, strict=True):
        row = tower.embed(tower.pad_out(tokens))
        here = torch.zeros(CONTEXT_LENGTH, 1, dtype=torch.bool, device=row.device)
        here[list(slots)] = True
        reading = tower.read(torch.where(here, vector[:, None], row))
        contexts.append(reading.states)
        end = reading.last[:, len(tokens) - 1]
        projection = tower.weights.get(PROJECTION) if tower.projects else None
        pooled = end if projection is None else linear(end, projection)
    return Encoded(torch.cat(contexts, dim=-1), pooled)
