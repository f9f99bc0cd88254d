"""What a command found, from the file that it wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def json_to(folder: Path) -> tuple[str, str]:
    return "--json", str(folder / "found.json")


def found_in(folder: Path) -> dict[str, Any]:
    """What a command wrote there with --json."""
    return json.loads((folder / "found.json").read_text(encoding="utf-8"))
