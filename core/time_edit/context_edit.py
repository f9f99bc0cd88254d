"""A linear map of a model's text context: what a closed-form edit of its cross-attention amounts to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import storage
from ..errors import UserError

KNOWN_BY = 16  # numbers of the start token's state, by which a text encoder is told from another
ALIKE = 0.1  # how far, relative to their size, those of one encoder may be apart: half precision, a LoRA


@dataclass(frozen=True)
class ContextEdit:
    """A linear map of the text context, context -> context + E context, with E = left diag(singular_values) right.

    `left` (width, rank) and `right` (rank, width) have orthonormal columns and rows, `singular_values` (rank,) are
    positive and descending; all float64. `made_by` says in JSON's types how the edit was made.
    """

    left: Tensor
    singular_values: Tensor
    right: Tensor
    made_by: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_factors(cls, up: Tensor, down: Tensor, made_by: Mapping[str, Any] = {}) -> ContextEdit:
        """The edit with E = up @ down, for up (width, n) and down (n, width): its compact singular value decomposition.

        Only what float64 can't tell from zero is dropped.
        """
        left_basis, left_part = torch.linalg.qr(up.double())
        right_basis, right_part = torch.linalg.qr(down.double().T)
        left, values, right = torch.linalg.svd(left_part @ right_part.T)
        rank = int((values > values[:1] * max(up.shape) * torch.finfo(torch.float64).eps).sum())
        return cls(left_basis @ left[:, :rank], values[:rank], right[:rank] @ right_basis.T, made_by)

    @property
    def width(self) -> int:
        return self.left.shape[0]

    @property
    def rank(self) -> int:
        return self.singular_values.shape[0]

    def __call__(self, context: Tensor) -> Tensor:
        """The edited text context; `context` is (..., width)."""
        left, values, right = (t.to(context) for t in (self.left, self.singular_values, self.right))
        return context + (context @ right.T * values) @ left.T

    def then(self, second: ContextEdit) -> ContextEdit:
        """This edit of the weights followed by `second`: W -> W (I + E1) (I + E2)."""
        up = torch.cat([self.left * self.singular_values, second.left * second.singular_values], dim=1)
        down = torch.cat([self.right + self.right @ second.left * second.singular_values @ second.right, second.right])
        return ContextEdit.from_factors(up, down, {"steps": [dict(self.made_by), dict(second.made_by)]})

    def scaled(self, strength: float) -> ContextEdit:
        """The edit with strength * E: 0 changes nothing, 1 is the edit itself, negative values edit the other way."""
        made_by = {**self.made_by, "strength": strength}
        if strength == 0:
            return ContextEdit(self.left[:, :0], self.singular_values[:0], self.right[:0], made_by)
        left = self.left if strength > 0 else -self.left
        return ContextEdit(left, self.singular_values * abs(strength), self.right, made_by)

    def truncated(self, rank: int, states: Tensor | None = None) -> tuple[ContextEdit, float]:
        """The edit of at most `rank` that is best on `states` (n, width), and the share of its energy that this keeps.

        Best in the squared norm of what the edit adds to the states; without states, in E's own squared norm. E's
        largest singular values need not be those that act on real contexts, which fill few directions.
        """
        if rank >= self.rank:
            return self, 1.0
        weighted = self.singular_values[:, None] * self.right
        effect = weighted if states is None else weighted @ states.double().T
        basis, values, _ = torch.linalg.svd(effect, full_matrices=False)
        kept = float(values[:rank].square().sum() / values.square().sum())
        basis = basis[:, :rank]
        return ContextEdit.from_factors(self.left @ basis, basis.T @ weighted, self.made_by), kept

    def save(self, path: Path) -> None:
        """Writes the edit; UserError when that fails, and then an older file at `path` is unchanged."""
        header = {"kind": "context edit", "version": 1, "width": self.width, "made_by": dict(self.made_by)}
        storage.write(path, {name: getattr(self, name) for name in ("left", "singular_values", "right")}, header)

    @classmethod
    def load(cls, path: Path) -> ContextEdit:
        """Reads an edit that `save` wrote; UserError for every other file."""
        tensors, header = storage.read(path, "context edit", 1, ("left", "singular_values", "right"))
        storage.check_numbers(path, {"left": 2, "singular_values": 1, "right": 2}, tensors)
        left, values, right = (tensors[name] for name in ("left", "singular_values", "right"))
        if left.shape != (header.get("width"), len(values)) or right.shape != left.T.shape:
            raise UserError(
                f"{path} holds tensors of shapes {tuple(left.shape)}, {tuple(values.shape)} and {tuple(right.shape)}, "
                f"expected those of a context edit of width {header.get('width')}; save the edit again."
            )
        return cls(left, values, right, storage.entry(path, header, "made_by", dict))


@dataclass(frozen=True)
class PromptEdit:
    """What an edit makes of a prompt: of its context, and of its pooled text where the model reads one."""

    context: ContextEdit
    pooled: ContextEdit | None = None

    def scaled(self, strength: float) -> PromptEdit:
        """With `strength` times the edit."""
        return PromptEdit(self.context.scaled(strength), self.pooled and self.pooled.scaled(strength))


def edited_context(edit: ContextEdit, context: Tensor) -> Tensor:
    """A prompt's context (prompts, slots, width) such that the weights read from it what the edited ones would.

    W (I + E) c = W ((I + E) c), where nothing stands between the context and W. Raises UserError for an edit of values
    alone, which keys would see too, and for a context of another text encoder: of another width, or with another state
    of the start token, which causal encoders give to every prompt alike.
    """
    if not edit.made_by.get("edit_keys", True):
        raise UserError("The edit covers values only, but a prompt supplies keys too; make it with edit_keys on.")
    if edit.made_by.get("normed"):
        raise UserError(
            "This model changes a prompt's states (by a norm or an adapter) before the layer that is edited, so that "
            "no prompt can do what the edit does; use the edited model."
        )
    _check_width(edit, context, "context")
    known = torch.tensor(edit.made_by.get("start", []))
    start = context[0, 0, : len(known)].float().cpu()
    if len(known) and (start - known).norm() > ALIKE * known.norm():
        raise UserError("The prompt was made by another text encoder than the edit; take both from the same CLIP.")
    return edit(context.float()).to(context)


def edited_pooled(edit: ContextEdit, pooled: Tensor) -> Tensor:
    """A prompt's pooled text (prompts, width) likewise. Raises UserError for one of another width."""
    _check_width(edit, pooled, "pooled text")
    return edit(pooled.float()).to(pooled)


def _check_width(edit: ContextEdit, states: Tensor, kind: str) -> None:
    if states.shape[-1] != edit.width:
        raise UserError(
            f"The prompt's {kind} has width {states.shape[-1]}, the edit is of width {edit.width}; take both from the "
            "same text encoder."
        )
