"""A mix as an edit: from now on a word of the model means the mix of others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from ..errors import UserError
from ..model.protocols import Denoiser, Progress, PromptEncoder, PromptStates, Section, unseen
from ..model.template import Template
from .time_edit import EditPair, ModelEdit, edit_model

MIX = "<>"  # in a prompt, where the mix stands


class MixedPrompt(NamedTuple):
    """What a model is given for a prompt with a mix in it."""

    states: Tensor  # (slots, width)
    pooled: Tensor | None  # (1, width)


class MixedStates:
    """`PromptStates` that know MIX: `of_mix` gives (slots, width) of a prompt that has it."""

    def __init__(self, plain: PromptStates, of_mix: Callable[[Template], Tensor]) -> None:
        self.width: int = plain.width
        self._plain, self._of_mix = plain, of_mix

    def encode(self, prompts: Sequence[str]) -> Iterator[Tensor]:
        plain = iter(self._plain.encode([prompt for prompt in prompts if MIX not in prompt]))
        for prompt in prompts:
            yield self._of_mix(Template.of_several(prompt, MIX)) if MIX in prompt else next(plain)


class MixEncoder(MixedStates):
    """A `PromptEncoder` to which MIX is a word of one token, in the place of `word`."""

    def __init__(self, encoder: PromptEncoder, word: str, mixed: Callable[[Template], MixedPrompt]) -> None:
        super().__init__(encoder, lambda template: mixed(template).states)
        self._encoder, self._word, self._mixed = encoder, word, mixed

    @property
    def pooled(self) -> PromptStates | None:
        def of_mix(template: Template) -> Tensor:
            pooled = self._mixed(template).pooled
            assert pooled is not None  # as of every prompt of this encoder
            return pooled

        return MixedStates(self._encoder.pooled, of_mix) if self._encoder.pooled is not None else None

    def sections(self, prompt: str) -> list[Section]:
        return self._encoder.sections(prompt.replace(MIX, self._word))

    def decode(self, tokens: Sequence[int]) -> str:
        return self._encoder.decode(tokens)


def edit_to_mix(
    encoder: PromptEncoder,
    denoiser: Denoiser,
    word: str,
    mixed: Callable[[Template], MixedPrompt],
    cache: Path | None = None,
    progress: Progress = unseen,
) -> ModelEdit:
    """TIME's edit after which `word` means the mix, with a relative lambda of 0.1 and of the pooled text as well.

    `mixed` gives what the model reads of a prompt with the mix in its places. Raises UserError for a word that is not
    one token of each of the model's text encoders, and as `edit_model` does.
    """
    for alone, with_word in zip(encoder.sections("a"), encoder.sections(f"a {word}"), strict=True):
        count = len(with_word.tokens) - len(alone.tokens)
        if count != 1:
            raise UserError(
                f'"{word}" is {count} tokens of this text encoder; write a word of one token that will mean the mix.'
            )
    pair = EditPair(f"a {word}", f"a {MIX}")
    settings = {"regularize": "relative", "edit_pooled": True, "cache": cache, "progress": progress}
    return edit_model(MixEncoder(encoder, word, mixed), denoiser, [pair], **settings)
