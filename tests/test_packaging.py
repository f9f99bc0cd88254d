"""What `pip install .` takes along, and what the registry of custom nodes would get."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path

import pytest
from conceptlens.tests.conftest import ROOT

LEFT_OUT = {"tests"}


def test_every_package_is_listed() -> None:
    tomllib = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")  # pytest brings tomli
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    folders = (file.parent.relative_to(ROOT).parts for file in ROOT.glob("[!.]*/**/__init__.py"))
    packages = {".".join(("conceptlens", *parts)) for parts in folders if parts[0] not in LEFT_OUT}
    assert set(listed) == {"conceptlens", *packages}


def test_the_registrys_archive_is_as_large_as_it_is_said_to_be(archive: Path) -> None:
    """Room by room, as CONTRIBUTING.md has it, in MB of the zip file."""
    sizes: Counter[str] = Counter()
    with zipfile.ZipFile(archive) as packed:
        for entry in packed.infolist():
            sizes[part_of_archive(Path(entry.filename))] += entry.compress_size
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    said = {part: float(size) for part, size in re.findall(r"^\| (.+) \| ([\d.]+) MB \|$", text, re.MULTILINE)}
    assert said.pop("together") == pytest.approx(archive.stat().st_size / 1e6, abs=0.2)
    assert said == {part: pytest.approx(size / 1e6, abs=0.1) for part, size in sizes.items()}


def part_of_archive(file: Path) -> str:
    if file.suffix == ".safetensors":
        return "weights of EmojiWorld" if "emoji" in file.parts else "weights of FaceWorld"
    return "pictures" if file.suffix in (".jpg", ".png", ".webp") else "code, graphs and texts"


def test_the_command_line_works_from_the_registrys_archive(archive: Path, tmp_path: Path) -> None:
    """All that it reads is there: code, weights, CLIP's tokens."""
    shutil.unpack_archive(archive, tmp_path / "conceptlens")
    edit = ["edit", "--model", "emoji-world", "--source", "a rose", "--destination", "a blue rose"]
    command = [sys.executable, "-m", "conceptlens.harness", *edit, "--out", str(tmp_path / "blue.safetensors")]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "blue.safetensors").stat().st_size > 100_000


def test_the_host_loads_all_nodes_from_the_registrys_archive(archive: Path, comfyui: Path, tmp_path: Path) -> None:
    pack = tmp_path / "custom_nodes/conceptlens"
    shutil.unpack_archive(archive, pack)
    command = [sys.executable, str(comfyui / "main.py"), "--cpu", "--quick-test-for-ci", "--disable-api-nodes"]
    done = subprocess.run([*command, "--base-directory", str(tmp_path)], cwd=comfyui, capture_output=True, text=True)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert str(pack) in said
    assert "IMPORT FAILED" not in said
