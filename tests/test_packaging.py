"""What `pip install .` takes along."""

from __future__ import annotations

import importlib
import sys

from conceptlens.tests.conftest import ROOT

LEFT_OUT = {"tests"}


def test_every_package_is_listed() -> None:
    tomllib = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")  # pytest brings tomli
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    folders = (file.parent.relative_to(ROOT).parts for file in ROOT.glob("[!.]*/**/__init__.py"))
    packages = {".".join(("conceptlens", *parts)) for parts in folders if parts[0] not in LEFT_OUT}
    assert set(listed) == {"conceptlens", *packages}
