"""comfy-test, a check of node packs by other people, finds nothing against this one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from conceptlens.hosting.server import HostServer
from conceptlens.tests.conftest import ROOT


def test_comfy_test_finds_nothing(comfyui: Path, server: HostServer, archive: Path, tmp_path: Path) -> None:
    host = tmp_path / "ComfyUI"  # it looks for the host around the pack: links to the real one
    pack = host / "custom_nodes/conceptlens"  # as the registry would give it
    shutil.unpack_archive(archive, pack)
    shutil.copy(ROOT / "comfy-test.toml", pack)
    for part in comfyui.iterdir():
        if part.name != "custom_nodes":
            (host / part.name).symlink_to(part)
    command = [sys.executable, "-m", "comfy_test", "run", "--server-url", server.address]
    environment = {**os.environ, "COMFY_TEST_LOGS_DIR": str(tmp_path / "logs"), "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, cwd=pack, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("] PASSED") == 7, done.stdout
    assert "0 error(s), 0 warning(s)" in done.stdout
