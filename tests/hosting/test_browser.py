"""Where Chromium comes from on a machine that has none: installers stand in for the true ones."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from conceptlens.hosting import browser

pytestmark = pytest.mark.skipif(os.name == "nt", reason="this machine has no apt-get, nor scripts in its place")
Machine = Callable[[str, str, int], list[str]]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Runs `main` where Playwright's installer and apt-get do what is given, as a user; gives what was called.

    `chromium` "starts" as soon as a file of this name is there.
    """
    called = tmp_path / "called"
    called.touch()

    def run(playwright: str, apt_get: str, user: int) -> list[str]:
        for name, does in (("playwright", playwright), ("apt-get", apt_get)):
            program = tmp_path / name
            program.write_text(f'#!/bin/sh\necho "{name} $*" >> {called}\n{does}\n')
            program.chmod(0o755)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
        monkeypatch.setattr(browser, "PLAYWRIGHT", ["playwright"])
        monkeypatch.setattr(browser, "starts", (tmp_path / "chromium").exists)
        monkeypatch.setattr(os, "geteuid", lambda: user)
        result = browser.main()
        assert result in (None, browser.WHAT_TO_DO)
        return [*called.read_text().splitlines(), *([TOLD] if result else [])]

    return run


UPDATE, PACKAGE = "apt-get -q -y update", "apt-get -q -y install --no-install-recommends chromium fonts-liberation"
BY_PLAYWRIGHT, LIBRARIES = "playwright install chromium", "playwright install-deps chromium"
TOLD = "told what to do"


@pytest.mark.parametrize(
    ("playwright", "apt_get", "user", "expected"),
    [
        ("touch chromium", "exit 1", 0, [BY_PLAYWRIGHT]),
        ("exit 1", "test $3 = update || touch chromium", 0, [BY_PLAYWRIGHT, UPDATE, PACKAGE]),
        ("exit 1", "test $3 = install && touch chromium", 0, [BY_PLAYWRIGHT, UPDATE, PACKAGE]),  # an old list will do
        ("test $1 = install || touch chromium", "exit 1", 0, [BY_PLAYWRIGHT, LIBRARIES]),
        ("exit 1", "touch chromium", 1000, [BY_PLAYWRIGHT, TOLD]),  # no root
        ("exit 1", "exit 1", 0, [BY_PLAYWRIGHT, UPDATE, PACKAGE, TOLD]),
        ("exit 0", "exit 1", 0, [BY_PLAYWRIGHT, LIBRARIES, TOLD]),
    ],
)
def test_it_is_installed_by_whoever_can(
    machine: Machine, playwright: str, apt_get: str, user: int, expected: list[str]
) -> None:
    assert machine(playwright, apt_get, user) == expected


def test_nothing_is_installed_where_there_is_one(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "chromium").touch()
    assert machine("exit 1", "exit 1", 0) == []


def test_an_installer_that_hangs_is_given_up(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(browser, "GIVES_UP_AFTER", 0.2)
    assert machine("echo on my way; sleep 60", "touch chromium", 1000) == [BY_PLAYWRIGHT, TOLD]
    assert "on my way" in capsys.readouterr().out
