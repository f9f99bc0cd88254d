"""The protocols through which `core` sees a model, whichever program has loaded it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from textwrap import shorten
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from ..errors import UserError
from .text_tower import CONTEXT_LENGTH, TextTower, WordTable

Family = Literal["SD 1.x", "SD 2.x", "SDXL"]


class Section(NamedTuple):
    """The tokens of an encoder, without padding, of whose states a part of a context's slots are."""

    tokens: list[int]
    slots: int | None  # None: all that other sections leave


class PromptStates(Protocol):
    """What layers of a model are given for a prompt."""

    width: int  # channels of the context: SD 1.x 768, SD 2.x 1024, SDXL 768 + 1280, T5-XXL 4096

    def encode(self, prompts: Sequence[str]) -> Iterable[Tensor]:
        """The states of each prompt, (slots, width), float32 on the CPU."""
        ...


class Tokenizer(Protocol):
    """What splits texts into CLIP's tokens."""

    def tokenize(self, prompt: str) -> list[int]:
        """Token ids with start and end token, without padding and without a limit on their number."""
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of token ids, as a reader would write it."""
        ...


class PromptEncoder(PromptStates, Protocol):
    """What those layers of a model that take a prompt are given for it, by one encoder or several."""

    @property
    def pooled(self) -> PromptStates | None:
        """The pooled text, a state of one slot, where there is an encoder that gives one."""
        ...

    def sections(self, prompt: str) -> list[Section]:
        """The prompt's tokens, those of a template among them, in the order of their states."""
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of token ids, as a reader would write it."""
        ...


class TextEncoder(PromptEncoder, Tokenizer, Protocol):
    """The CLIP text encoder or encoders of a model, as its cross-attention sees them."""

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Text context (prompts, 77, width), float32 on the CPU, with the layer that the model's family reads.

        All prompts go through the encoder together. Each must fit into 77 tokens.
        """
        ...


class OpenTextEncoder(TextEncoder, Protocol):
    """A text encoder whose parts can be seen, for methods that need gradients or one token alone."""

    def vocabulary(self) -> list[str]:
        """CLIP's own entries by token id; whole words and last pieces end in "</w>"."""
        ...

    def towers(self) -> list[TextTower]:
        """The model's text encoders in the order of the context's channels, float32, LoRAs applied."""
        ...


class PseudoToken(Protocol):
    """What can stand in a prompt as one token that is no word: a mix of words."""

    def pseudo_token(self, tables: Sequence[WordTable]) -> list[Tensor]:
        """Its input embedding (1, width) for each tower with its table of words."""
        ...


def check_fits(encoder: PromptEncoder, prompt: str, tokens: Sequence[int]) -> None:
    """Raises UserError when a prompt's tokens, start and end among them, are more than CLIP reads."""
    if len(tokens) > CONTEXT_LENGTH:
        cut = encoder.decode(tokens[CONTEXT_LENGTH - 1 : -1])
        raise UserError(
            f'The prompt "{shorten(prompt, 80)}" has {len(tokens)} tokens and {CONTEXT_LENGTH} fit: '
            f'"{shorten(cut, 80)}" would be cut off; write less (start, end and augmentation count).'
        )


class TextLayers(Protocol):
    """Linear layers of a model that take text in."""

    context_width: int  # their input channels
    dtype: torch.dtype  # in which the model keeps its weights

    @property
    def family(self) -> str:
        """A Family, or the name of one of transformers."""
        ...

    def text_layers(self, keys: bool = True) -> list[str]:
        """Module paths of the layers that take text.

        Of a UNet, in diffusers' naming: the projections to values and, if `keys`, to keys.
        """
        ...

    def text_weight(self, name: str) -> Tensor:
        """Weight (out, context_width) of such a layer as the model would compute with it now: LoRAs and edits applied.

        float32 on the CPU, and the caller's own; `name` is one of `text_layers`.
        """
        ...


class Denoiser(TextLayers, Protocol):
    """A UNet with cross-attention to text, or a transformer that takes text in."""

    @property
    def pooled(self) -> TextLayers | None:
        """Those that take a pooled text, of a model that reads one as well.

        SDXL's weights have channels for sizes behind those of the text, which `context_width` counts alone.
        """
        ...

    @property
    def normed(self) -> bool:
        """Whether a norm or an adapter stands in front of these layers: they read other states than the encoder's."""
        ...


class Bottleneck(Protocol):
    """A UNet's h-space."""

    family: str  # a Family, or the class of an unconditional UNet
    channels: int
    downsampling: int  # the latents' side over the bottleneck's

    def sigma_at(self, percent: float) -> float:
        """The noise level (noise over signal) at a part of the sampling, 0 to 1: infinite before it, 0 at its end."""
        ...


Progress = Callable[[int, int], object]
"""Called with (steps done, steps in all) during long work; it may raise to stop it."""


def unseen(done: int, total: int) -> None:
    """The `Progress` that nobody watches."""
