"""Writing is all or nothing."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from conceptlens.core import storage
from conceptlens.core.checkpoint import Checkpoint
from conceptlens.core.errors import UserError
from safetensors import safe_open

resource = pytest.importorskip(
    "resource", reason="this machine has no limit on file sizes, which stands in for a full disk"
)
HEADER = {"kind": "test", "version": 1}


@contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    """The system itself refuses to write more: what a full disk looks like to the program."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    storage.write(path, {"x": torch.ones(4)}, HEADER)
    before = path.read_bytes()
    with files_limited_to(1000), pytest.raises(UserError) as error:
        storage.write(path, {"x": torch.ones(4000)}, HEADER)
    assert "could not be written" in str(error.value)
    assert str(path) in str(error.value)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_the_same_content_is_the_same_file(tmp_path: Path) -> None:
    """safetensors orders the metadata anew in each process; a file that is made again has the same hash."""
    said = {f"name {number}": '\u00e9 \\ " \n {}' for number in range(12)}
    tensors = {"b": torch.ones(3), "a": torch.zeros(2, dtype=torch.float16)}
    storage.write(tmp_path / "a.safetensors", tensors, HEADER, said)
    storage.write(tmp_path / "b.safetensors", tensors, HEADER, dict(reversed(said.items())))
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    with safe_open(tmp_path / "a.safetensors", framework="pt") as file:
        assert file.metadata() == {**said, storage.FORMAT_KEY: json.dumps(HEADER)}
    read, header = storage.read(tmp_path / "a.safetensors", "test", 1)
    assert header == HEADER
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)


def test_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "occupied").write_text("x")
    with pytest.raises(UserError, match="occupied"):
        storage.write(tmp_path / "occupied" / "a.safetensors", {"x": torch.ones(4)}, HEADER)


def test_what_can_be_made_anew_is_kept_or_a_warning_says_why(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.safetensors"
    assert storage.keep(path, {"x": torch.ones(4)}, HEADER) is None
    before = path.read_bytes()
    with files_limited_to(1000):
        warning = storage.keep(path, {"x": torch.ones(4000)}, HEADER)
    assert warning
    assert str(path) in warning
    assert caplog.messages == [warning]
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", ["occupied/a", "x" * 300])
def test_what_can_not_be_looked_for_is_one_sentence(tmp_path: Path, name: str) -> None:
    (tmp_path / "occupied").write_text("x")
    with pytest.raises(UserError, match="expected a ConceptLens test file"):
        storage.read(tmp_path / name, "test", 1)


def test_only_ordinary_files_are_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for target in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(UserError, match="not an ordinary file"):
            storage.write(target, {"x": torch.ones(4)}, HEADER)
    assert (tmp_path / "pipe").is_fifo()


def test_written_file_has_the_usual_permissions(tmp_path: Path) -> None:
    plain, ours = tmp_path / "plain", tmp_path / "ours.safetensors"
    plain.write_text("x")
    storage.write(ours, {"x": torch.ones(4)}, HEADER)
    assert ours.stat().st_mode == plain.stat().st_mode


def test_a_name_that_is_too_long_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="too long"):
        storage.write_bytes(tmp_path / ("x" * 300), b"x")
    assert not list(tmp_path.iterdir())


def test_metadata_travels(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    storage.write(path, {"x": torch.arange(3)}, {**HEADER, "word": "Röschen"}, {"other": "text"})
    tensors, header = storage.read(path, "test", 1, ("x",))
    assert header["word"] == "Röschen"
    assert torch.equal(tensors["x"], torch.arange(3))


WRITING = """
import sys, torch
from pathlib import Path
from conceptlens.core import storage
from conceptlens.core.checkpoint import Checkpoint
number = 0
while True:
    number += 1
    storage.write(Path(sys.argv[1]), {"x": torch.full((200_000,), number)}, {"kind": "test", "version": 1, "n": number})
    print(number, flush=True)
"""


def test_a_process_that_is_killed_while_it_writes_leaves_the_old_or_the_new_file(tmp_path: Path) -> None:
    path, generator = tmp_path / "a.safetensors", random.Random(0)
    for _ in range(6):
        with subprocess.Popen([sys.executable, "-c", WRITING, path], stdout=subprocess.PIPE) as writer:
            assert writer.stdout
            writer.stdout.readline()  # it has begun
            time.sleep(generator.uniform(0, 0.1))
            writer.kill()
        tensors, header = storage.read(path, "test", 1)
        assert torch.equal(tensors["x"], torch.full((200_000,), header["n"]))


def test_work_whose_state_can_not_be_kept_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("no folder")
    checkpoint = Checkpoint(tmp_path / "file/fit.checkpoint", "model")
    checkpoint.save({"concept": "pet"}, {"best": torch.rand(5)}, {"losses": []})
    assert "could not be kept" in caplog.text
    assert checkpoint.load({"concept": "pet"}) is None
