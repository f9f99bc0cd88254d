"""The host, twice: imported into this process for what needs its objects, and as a real server for everything else."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conceptlens.hosting.server import HostServer
from conceptlens.tests.conftest import ROOT


@pytest.fixture(scope="session")
def host_modules(comfyui: Path) -> None:
    """Makes `comfy` and the pack's nodes importable, on the CPU."""
    sys.path.insert(0, str(comfyui))
    arguments, sys.argv = sys.argv, ["main.py", "--cpu"]
    try:
        import comfy.options

        comfy.options.enable_args_parsing()
        import comfy.cli_args
    finally:
        sys.argv = arguments


@pytest.fixture(scope="module")
def model(host_modules: None) -> Any:
    """A MODEL of SD 1.x's kind, of random weights, as a loader node makes it."""
    import torch
    from conceptlens.tests.host.twin import twin_model
    from conceptlens.tests.tiny import tiny_pipeline

    del host_modules
    with torch.inference_mode():
        return twin_model(tiny_pipeline("SD 1.x"), "SD 1.x")


def write_checkpoint(kind: str, base: Path) -> str:
    """A checkpoint of random weights in the host's folder; returns its name there."""
    file = base / "models/checkpoints" / f"{kind}.safetensors"
    if not file.exists():
        command = [sys.executable, "-m", "conceptlens.hosting.random_checkpoint", kind, str(file)]
        subprocess.run(command, check=True, cwd=ROOT)
    return file.name


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostServer]:
    """A real host with the pack and a small checkpoint, on the CPU."""
    base = tmp_path_factory.mktemp("host")
    write_checkpoint("sd1-small", base)
    # The classic cache keeps the last graph's results only: a graph that ran before another one is computed anew.
    with HostServer(base, "--cpu", "--cache-classic") as host:
        yield host
