"""Results of long commands, each in a file of its own with what it was made by, and found there again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...core import storage
from ...core.errors import UserError


def keep_result(file: Path, made_by: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Writes what was found; an older file survives a failure."""
    kept = {"made_by": dict(made_by), "found": dict(found)}
    storage.write_bytes(file, json.dumps(kept, indent=1, ensure_ascii=False).encode())


def kept_result(file: Path, made_by: Mapping[str, Any], *names: str) -> dict[str, Any] | None:
    """What an earlier run has found, at least under `names`; None when there is no file.

    Raises UserError when the file can't be read, and when that run was made by something else.
    """
    if not file.exists():
        return None
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
        by, found = kept["made_by"], kept["found"]
        missing = [name for name in names if name not in found]
        other = next((name for name, value in made_by.items() if by.get(name) != value), None)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file} can't be read ({error}); remove it to begin anew.") from error
    if missing:
        raise UserError(f"{file} has no {missing[0]}; remove it to begin anew.")
    if other:
        raise UserError(
            f"{file} was made with other {other} ({by.get(other)}, not {made_by[other]}); remove it, or choose another "
            "--out."
        )
    return found
