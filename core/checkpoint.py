"""What long work has come to, kept in a file, so that a killed run goes on from there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from . import storage
from .errors import UserError

KIND, VERSION = "checkpoint", 1


@dataclass(frozen=True)
class Checkpoint:
    """The file of one piece of work with one model."""

    file: Path
    model: str  # a hash of what the work rests on beside its description: weights, schedule, how pictures are drawn

    def save(self, work: Mapping[str, Any], tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """Keeps the state of `work`, a description as JSON, in place of an earlier one; a warning where it can't be.

        The state is `tensors` by name, and `numbers`: lists and numbers by name, as JSON holds them.
        """
        header = {"kind": KIND, "version": VERSION, "model": self.model, "work": work, "numbers": numbers}
        storage.keep(self.file, tensors, header)

    def load(self, work: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The tensors and numbers kept of this very work with this model; None when there are none that can be read."""
        try:
            tensors, header = storage.read(self.file, KIND, VERSION)
        except UserError:  # not there, or damaged: the work begins anew
            return None
        same = header.get("model") == self.model and header.get("work") == json.loads(json.dumps(work))
        return (tensors, header["numbers"]) if same and isinstance(header.get("numbers"), dict) else None

    def remove(self) -> None:
        """Forgets the work: it is done."""
        self.file.unlink(missing_ok=True)
