"""A real ComfyUI with the pack, started in a subprocess and driven over its HTTP API."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from ..core.errors import UserError
from .folder import ROOT, comfyui_folder

STARTS_WITHIN, STOPS_WITHIN = 150, 60  # seconds
Graph = dict[str, dict[str, Any]]  # node id -> {"class_type": …, "inputs": …}, the host's API format


def add_node(graph: Graph, name: str, kind: str, /, **inputs: Any) -> list[Any]:
    """Adds a node of this kind under this name; returns the link to its first output."""
    graph[name] = {"class_type": kind, "inputs": inputs}
    return [name, 0]


def free_port() -> int:
    """A random port below those that systems give to whoever asks: nobody takes it before the host has started."""
    while True:
        number = random.randrange(20_000, 30_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", number))
            return number


class GraphError(Exception):
    """The host refused a graph or stopped it; `details` is its own account."""

    def __init__(self, message: str, details: Any) -> None:
        super().__init__(message)
        self.details = details


class HostServer:
    """`with HostServer(base) as host: host.run(graph)`; `base` holds models, input, output and the log."""

    def __init__(self, base: Path, *host_options: str) -> None:
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self.base = base
        self.client = uuid.uuid4().hex
        self._options = host_options
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> HostServer:
        self.base.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "run.py", "comfyui", "--port", str(self.port), "--base-directory", str(self.base)]
        command += ["--comfyui", str(comfyui_folder())]
        command += ["--", "--disable-api-nodes", *self._options]
        with (self.base / "host.log").open("wb") as log:
            self._process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
        try:
            if self._answers():
                return self
            raise UserError(f"ComfyUI did not start; its last words are in {log.name}: {self.log()[-500:]}")
        except BaseException:  # an interrupt too: no host is left behind
            self.stop()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _answers(self) -> bool:
        """Waits for the host; False when it has ended, or says nothing for minutes."""
        assert self._process
        end = time.monotonic() + STARTS_WITHIN
        while time.monotonic() < end and self._process.poll() is None:
            time.sleep(0.25)
            try:
                self.get("/system_stats")
                return True
            except OSError:  # nobody is there yet, or nobody who answers
                continue
        return False

    def stop(self) -> None:
        if self._process and self._process.poll() is None:
            if os.name == "nt":  # there run.py waits for the host instead of becoming it
                subprocess.run(["taskkill", "/T", "/F", "/PID", str(self._process.pid)], check=False)
            self._process.terminate()
            try:
                self._process.wait(timeout=STOPS_WITHIN)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def megabytes(self) -> float:
        """The memory that the host's process has (Linux)."""
        assert self._process
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))) / 1024

    def log(self) -> str:
        return (self.base / "host.log").read_text(encoding="utf-8", errors="replace")

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.address + path, timeout=60) as answer:
            return json.load(answer)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """Posts JSON; an answer of 400 is returned like any other."""
        request = urllib.request.Request(
            self.address + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                data = answer.read()
        except urllib.error.HTTPError as error:
            data = error.read()
        return json.loads(data) if data else None

    def queue(self, graph: Graph) -> str:
        """Puts a graph into the host's queue and returns its id; GraphError when the host refuses it."""
        answer = self.post("/prompt", {"prompt": graph, "client_id": self.client})
        if answer.get("error") or answer.get("node_errors"):
            raise GraphError("the host refused the graph", answer)
        return answer["prompt_id"]

    def wait(self, prompt_id: str, timeout: float = 900) -> dict[str, Any]:
        """The history of a queued graph once it has ended: its outputs by node id, and its messages.

        Raises TimeoutError when it does not end.
        """
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            if history := self.get(f"/history/{prompt_id}").get(prompt_id):
                return history
            time.sleep(0.1)
        raise TimeoutError(f"the graph did not end within {timeout:.0f} s; the host's last words: {self.log()[-2000:]}")

    def run(self, graph: Graph) -> dict[str, Any]:
        """Queues a graph, waits for it and returns its history; GraphError when it did not succeed."""
        history = self.wait(self.queue(graph))
        if history["status"]["status_str"] != "success":
            details = [
                m[1] for m in history["status"]["messages"] if m[0] in ("execution_error", "execution_interrupted")
            ]
            raise GraphError(str(details[0].get("exception_message", "interrupted")), details[0])
        return history
