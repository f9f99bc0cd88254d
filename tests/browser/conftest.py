"""Chromium, and a page that holds nothing but the coefficient editor."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
from conceptlens.tests.conftest import ROOT
from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
HTML = b"""<!doctype html><link rel="stylesheet" href="/token_mix/style.css">
<body style="margin:20px;background:#222"><div id="place" style="width:420px;height:420px"></div>"""
MOUNT = """async (words) => {
  const { mountEditor } = await import("/token_mix/editor.js");
  window.told = [];
  const find = async (query) => words.filter(([, text]) => text.includes(query)).map(([id, text]) => ({ id, text }));
  const changed = (text, aside, finished) => told.push({ text, aside: JSON.parse(JSON.stringify(aside)), finished });
  window.editor = mountEditor(document.getElementById("place"), { changed, find, pictures: () => [], language: "en" });
}"""


class _Files(SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path != "/":
            return super().do_GET()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.end_headers()
        self.wfile.write(HTML)
        return None

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="session")
def site() -> Iterator[str]:
    """The pack's `web` folder, served."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Files, directory=ROOT / "web")) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("there is no Chromium; install it to test the editor")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def page(browser: Browser, site: str) -> Iterator[Page]:
    """An editor that has learned nothing; nothing may go wrong unseen."""
    opened = browser.new_page(viewport={"width": 600, "height": 500})
    problems: list[str] = []
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("console", lambda said: problems.append(said.text) if said.type in ("error", "warning") else None)
    opened.goto(site)
    opened.evaluate(MOUNT, [[1929, "dog"], [2368, "cat"], [5916, "wolf"], [10635, "wolves"]])
    yield opened
    opened.close()
    assert not [problem for problem in problems if "favicon" not in problem and "404" not in problem]
