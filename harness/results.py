"""Results of long commands, each in a file of its own with what it was made by, and found there again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..core import storage
from ..core.errors import UserError


def keep_result(file: Path, made_by: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Writes what was found; an older file survives a failure."""
    storage.write_bytes(file, json.dumps({**made_by, **found}, indent=1, ensure_ascii=False).encode())


def kept_result(file: Path, made_by: Mapping[str, Any], *names: str) -> dict[str, Any] | None:
    """What an earlier run has found, at least under `names`; None when there is no file.

    Raises UserError when the file can't be read, and when that run was made by something else.
    """
    if not file.exists():
        return None
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        missing = [name for name in names if name not in found]
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{file} can't be read ({error}); remove it to begin anew.") from error
    if missing:
        raise UserError(f"{file} has no {missing[0]}; remove it to begin anew.")
    if other := next((name for name, value in made_by.items() if found.get(name) != value), None):
        raise UserError(
            f"{file} was made with other {other} ({found.get(other)}, not {made_by[other]}); remove it, or choose "
            "another --out."
        )
    return found
