"""Where ComfyUI is."""

from __future__ import annotations

import os
from pathlib import Path

from ..core.errors import UserError

ROOT = Path(__file__).resolve().parent.parent


def comfyui_folder() -> Path:
    """ComfyUI's folder: the one that run.py names in the environment, or the one that it has fetched."""
    if named := os.environ.get("CONCEPTLENS_COMFYUI"):
        if not Path(named, "main.py").is_file():
            raise UserError(f"CONCEPTLENS_COMFYUI names {named}, which is not a ComfyUI folder: it has no main.py.")
        return Path(named)
    fetched = sorted((ROOT / ".comfyui").glob("ComfyUI-*/main.py"))
    if not fetched:
        raise UserError(
            "There is no ComfyUI yet; python run.py comfyui fetches it, or the "
            "environment variable CONCEPTLENS_COMFYUI names the folder of an existing one."
        )
    return fetched[-1].parent
