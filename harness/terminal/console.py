"""What the command line prints: a bar on a terminal, plain lines in a pipe, a JSON file for machines."""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ...core import storage
from ...core.model.protocols import Progress

LINE_EVERY = 60.0  # seconds, in a pipe


class Console:
    """Speaks to the user; writes what a command found to a file, where one is wanted."""

    def __init__(self, file: Path | None = None) -> None:
        self.bars = True  # of several processes one shows its own
        self._file = file

    def line(self, text: str) -> None:
        print(text, flush=True)

    @contextmanager
    def progress(self, what: str) -> Iterator[Progress]:
        """A callback that shows steps done and time left; in a pipe by plain lines, at the start and once a minute."""
        on_terminal = sys.stdout.isatty()
        start = told = time.monotonic()
        begun = False
        with tqdm(desc=what, file=sys.stdout, disable=not (on_terminal and self.bars), leave=False) as bar:

            def show(done: int, total: int) -> None:
                nonlocal told, begun
                now = time.monotonic()
                if self.bars and not on_terminal and (not begun or now - told >= LINE_EVERY):
                    left = f", {(now - start) * (total - done) / done:.0f} s left" if begun and done else ""
                    self.line(f"{what}: {done} of {total}{left}" if begun else f"{what} ({total})")
                    told, begun = now, True
                bar.total = total
                bar.update(done - bar.n)

            yield show

    def result(self, values: dict[str, Any]) -> None:
        """The command's outcome, for machines."""
        if self._file:
            storage.write_bytes(self._file, (json.dumps(values, indent=1, ensure_ascii=False) + "\n").encode())


def print_anything() -> None:
    """Lets a console that lacks a letter show its number instead of failing: Windows' pipes know few."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def quiet_libraries() -> None:
    """Keeps the libraries' hints and bars out of our output; their errors still come."""
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
