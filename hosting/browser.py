"""Chromium without a window: the machine's own; `python -m conceptlens.hosting.browser` installs one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryFile

from playwright.sync_api import Browser, Playwright, sync_playwright
from playwright.sync_api import Error as PlaywrightError

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# It runs as root in containers, and asks nobody outside of this machine for anything.
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
OPTIONS += ["--disable-component-update", "--disable-sync"]
PLAYWRIGHT = [sys.executable, "-m", "playwright"]
APT = ["apt-get", "-q", "-y"]
GIVES_UP_AFTER = 900  # seconds without an end of an installer
WHAT_TO_DO = (
    "The editor and the example graphs are tested in Chromium or Chrome, and none was found or could be installed; "
    "install one (on Debian and Ubuntu: sudo apt-get install chromium) and run the same command again, or leave "
    "these tests out with python run.py test --no-browser."
)


@contextmanager
def chromium() -> Iterator[Browser | None]:
    """A running Chromium or Chrome; None where there is none that starts."""
    with sync_playwright() as playwright:
        running = launched(playwright)
        yield running
        if running is not None:
            running.close()


def launched(playwright: Playwright) -> Browser | None:
    """The first that starts: a program on the path, Chrome or Edge where systems keep them, Playwright's own."""
    on_the_path = [(program, None) for program in map(shutil.which, PROGRAMS) if program]
    for program, channel in (*on_the_path, (None, "chrome"), (None, "msedge"), (None, None)):
        try:
            return playwright.chromium.launch(args=OPTIONS, executable_path=program, channel=channel)
        except PlaywrightError:  # not there, or without a library that it needs
            continue
    return None


def starts() -> bool:
    with chromium() as running:
        return running is not None


def install(*command: str) -> bool:
    """Whether an installer ends well; what it says is shown where it does not."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with TemporaryFile() as said:  # a pipe would be waited for as long as anything that it has started
        try:
            subprocess.run(
                command, env=environment, stdout=said, stderr=subprocess.STDOUT, timeout=GIVES_UP_AFTER, check=True
            )
        except subprocess.SubprocessError as error:
            said.seek(0)
            print(f"{said.read().decode(errors='replace')}{error}", flush=True)
            return False
    return True


def may_install_packages() -> bool:
    """Whether this is root on Debian, Ubuntu or the like."""
    return shutil.which("apt-get") is not None and os.geteuid() == 0


def main() -> str | None:
    """Makes sure that there is a Chromium; gives the sentence that says what to do when there can be none."""
    if starts():
        return None
    print("no Chromium or Chrome found: Playwright installs one (about 180 MB, a minute or two)", flush=True)
    fetched = install(*PLAYWRIGHT, "install", "chromium")
    if fetched and starts():
        return None
    if may_install_packages():
        if fetched:
            print("it does not start: Playwright installs the libraries of the system that it needs", flush=True)
            install(*PLAYWRIGHT, "install-deps", "chromium")
        else:
            print(
                "Playwright could not: installing the system's package chromium (about 120 MB, a minute or two)",
                flush=True,
            )
            install(*APT, "update")  # where it fails an older list may do
            install(*APT, "install", "--no-install-recommends", "chromium", "fonts-liberation")
        if starts():
            return None
    return WHAT_TO_DO


if __name__ == "__main__":
    sys.exit(main())
