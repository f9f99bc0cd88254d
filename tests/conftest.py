"""Settings and places that all tests share."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent

settings.register_profile("conceptlens", deadline=None, derandomize=True)  # no test times the clock; no two runs differ
settings.load_profile("conceptlens")


@pytest.fixture(scope="session")
def comfyui() -> Path:
    """The host's folder; it also carries CLIP's tokenizer."""
    from conceptlens.harness.host_server import comfyui_folder

    return comfyui_folder()
