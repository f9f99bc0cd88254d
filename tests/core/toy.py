"""A text encoder and a denoiser small enough to check by hand, with the structure of the real ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from conceptlens.core.model.protocols import Family, Section
from conceptlens.core.model.text_tower import CONTEXT_LENGTH
from torch import Tensor

START, END = 0, 1


class ToyEncoder:
    """Whole words as tokens; causal states of CLIP's size: a slot's state depends on the tokens up to it."""

    def __init__(self, width: int, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.width = width
        self.scale = 1.0  # of all states
        self.vocabulary = {"<start>": START, "<end>": END}
        self.batches: list[int] = []  # of how many prompts each call of `encode` was
        self._tokens, self._positions, self._mixing = (
            torch.randn(shape, generator=generator, dtype=torch.float64)
            for shape in ((800, width), (CONTEXT_LENGTH, width), (width, width))
        )

    def tokenize(self, prompt: str) -> list[int]:
        words = prompt.lower().split()
        return [START, *(self.vocabulary.setdefault(word, len(self.vocabulary)) for word in words), END]

    def sections(self, prompt: str) -> list[Section]:
        return [Section(self.tokenize(prompt), CONTEXT_LENGTH)]

    @property
    def pooled(self) -> ToyPooledText:
        return ToyPooledText(self)

    def decode(self, tokens: Sequence[int]) -> str:
        words = {token: word for word, token in self.vocabulary.items()}
        return " ".join(words[token] for token in tokens)

    def encode(self, prompts: Sequence[str]) -> Tensor:
        self.batches.append(len(prompts))
        ids = [self.tokenize(prompt) for prompt in prompts]
        padded = torch.tensor([tokens + [END] * (CONTEXT_LENGTH - len(tokens)) for tokens in ids])
        inputs = self._tokens[padded] + 0.1 * self._positions
        past = inputs.cumsum(1) / torch.arange(1, CONTEXT_LENGTH + 1)[:, None]
        states = torch.tanh(inputs + past @ self._mixing / self.width**0.5)
        return self.scale * states / states.norm(dim=-1, keepdim=True) * self.width**0.5


class ToyPooledText:
    """Half of the state behind a prompt's words, as its summary."""

    def __init__(self, encoder: ToyEncoder) -> None:
        self._encoder = encoder
        self.width = encoder.width // 2

    def encode(self, prompts: Sequence[str]) -> Tensor:
        ends = torch.tensor([len(self._encoder.tokenize(prompt)) - 1 for prompt in prompts])
        states = self._encoder.encode(prompts)
        return states[torch.arange(len(prompts)), ends][:, None, : self.width]


class ToyPooledLayer:
    """A layer that reads a pooled text, and six sizes behind it."""

    family = "SDXL"
    dtype = torch.float32

    def __init__(self, width: int) -> None:
        self.context_width = width
        self.weight = random(40, width + 6, seed=2).float()

    def text_layers(self, keys: bool = True) -> list[str]:  # noqa: ARG002
        return ["add_embedding.linear_1"]

    def text_weight(self, name: str) -> Tensor:
        assert name == "add_embedding.linear_1"
        return self.weight.clone()


class ToyDenoiser:
    """Cross-attention projections of random weights in an SD-like tree."""

    def __init__(self, width: int, outs: Sequence[int] = (32, 48), seed: int = 1, family: Family = "SD 1.x") -> None:
        generator = torch.Generator().manual_seed(seed)
        self.family: Family = family
        self.pooled = ToyPooledLayer(width // 2) if family == "SDXL" else None
        self.normed = False
        self.context_width = width
        self.dtype = torch.float32
        self.weights = {
            f"{place}.transformer_blocks.0.attn2.to_{kind}": torch.randn(out, width, generator=generator) * width**-0.5
            for out, place in zip(outs, ("down_blocks.0.attentions.0", "up_blocks.1.attentions.2"), strict=True)
            for kind in "kv"
        }

    def text_layers(self, keys: bool = True) -> list[str]:
        return [name for name in self.weights if keys or name.endswith("to_v")]

    def text_weight(self, name: str) -> Tensor:
        return self.weights[name].clone()


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@dataclass
class ToyBottleneck:
    """Of a model that never ran."""

    family: str = "SD 1.x"
    channels: int = 5
    downsampling: int = 4

    def sigma_at(self, percent: float) -> float:
        return 10.0 * (1 - percent)
