"""A prompt with places for a concept."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import UserError


@dataclass(frozen=True)
class Template:
    """A prompt around the places of a concept, which users mark with {} or, where braces mean choices, with <>."""

    parts: tuple[str, ...]  # before, between and after the places

    @classmethod
    def of(cls, prompt: str, mark: str = "{}") -> Template:
        """The template of a prompt with one place, where `mark` stands. Raises UserError unless it has just one."""
        found = cls(tuple(prompt.split(mark)))
        if len(found.parts) != 2:
            raise UserError(f'The prompt "{prompt}" must have one {mark} in place of the concept: a photo of a {mark}')
        return found

    @classmethod
    def of_several(cls, prompt: str, mark: str) -> Template:
        """The same for a prompt with one place or more. Raises UserError when there is none."""
        if mark not in prompt:
            raise UserError(
                f'The prompt "{prompt}" has no {mark}; write it where the mix should go: a photo of a {mark}'
            )
        return cls(tuple(prompt.split(mark)))

    def filled(self, text: str) -> str:
        """The prompt with a text in each place."""
        return text.join(self.parts)

    def __str__(self) -> str:
        return self.filled("{}")
