"""Settings and places that all tests share."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
from conceptlens.core.backend import Family
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent

settings.register_profile("conceptlens", deadline=None, derandomize=True)  # no test times the clock; no two runs differ
settings.load_profile("conceptlens")


@pytest.fixture(scope="session")
def comfyui() -> Path:
    """The host's folder; it also carries CLIP's tokenizer."""
    from conceptlens.harness.host_server import comfyui_folder

    return comfyui_folder()


@pytest.fixture(params=get_args(Family), scope="module")
def family(request: pytest.FixtureRequest) -> Family:
    return request.param


@pytest.fixture(scope="module")
def pipe(family: Family, comfyui: Path) -> Any:
    """A tiny diffusers pipeline of each family, for one module's tests."""
    from conceptlens.tests.tiny import tiny_pipeline

    return tiny_pipeline(family, comfyui / "comfy/sd1_tokenizer")
