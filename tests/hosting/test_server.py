"""The host as a server: stopped whatever it does, and waited for no longer than was said."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conceptlens.evaluation.robustness import outcome
from conceptlens.hosting import server as host_server
from conceptlens.hosting.server import HostServer

DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('here', flush=True); time.sleep(60)"


def test_a_host_that_does_not_listen_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_server, "STOPS_WITHIN", 0.2)
    deaf = subprocess.Popen([sys.executable, "-c", DEAF], stdout=subprocess.PIPE)
    assert deaf.stdout
    assert deaf.stdout.readline() == b"here\n"
    host = HostServer(tmp_path)
    host._process = deaf
    host.stop()
    assert deaf.poll() is not None


class Hanging(HostServer):
    """A host in which no graph ends."""

    def __init__(self, base: Path) -> None:
        super().__init__(base)
        self.posted: list[str] = []

    def get(self, path: str) -> dict[str, object]:  # noqa: ARG002  (no graph has a history)
        return {}

    def post(self, path: str, body: dict[str, object]) -> dict[str, object]:  # noqa: ARG002  (all are taken)
        self.posted.append(path)
        return {"prompt_id": "1"}

    def wait(self, prompt_id: str, timeout: float = 0.2) -> dict[str, object]:
        return super().wait(prompt_id, timeout)


def test_a_graph_that_hangs_is_no_refusal(tmp_path: Path) -> None:
    """And is interrupted: the next one shall run."""
    host = Hanging(tmp_path)
    (tmp_path / "host.log").write_text("still thinking")
    assert outcome(host, {}).startswith("hang: the graph did not end within 0 s")
    assert host.posted == ["/prompt", "/interrupt"]
