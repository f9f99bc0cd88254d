"""The coefficient editor with thousands of words, in Chromium, by the browser's own clock."""

from __future__ import annotations

import statistics
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from ...hosting.browser import chromium
from ..measures import Measure

WEB = Path(__file__).resolve().parents[2] / "web"
HTML = b"""<!doctype html><html lang="en"><title>Editor</title><link rel="stylesheet" href="/token_mix/style.css">
<body style="margin:20px;background:#222"><div id="place" style="width:420px;height:420px"></div>"""
ROWS, OPENINGS, STEPS, SCROLLS, FRAMES = 5000, 7, 120, 5, 120
OPEN = """async ([rows, times]) => {
  const { mountEditor } = await import("/token_mix/editor.js");
  const place = document.getElementById("place");
  const frame = () => new Promise(requestAnimationFrame);
  const taken = [];
  for (let n = 0; n < times; n += 1) {
    window.editor?.destroy();
    await frame();
    const start = performance.now();
    const outside = { changed: (text) => (window.text = text), find: async () => [], pictures: () => [] };
    window.editor = mountEditor(place, outside);
    editor.learn({ rows });
    place.getBoundingClientRect();  // with its layout
    taken.push(performance.now() - start);
  }
  return taken;
}"""
LISTEN = """() => {
  window.taken = [];
  let start = 0;
  window.addEventListener("pointermove", () => (start = performance.now()), { capture: true });
  window.addEventListener("pointermove", () => taken.push(performance.now() - start));
}"""
SCROLL = """async (frames) => {
  const list = document.querySelector(".conceptlens-list");
  list.scrollTop = 0;
  const moments = [];
  for (let n = 0; n < frames; n += 1) {
    moments.push(await new Promise(requestAnimationFrame));
    list.scrollTop += 500;
  }
  return moments.slice(1).map((moment, n) => moment - moments[n]);
}"""


def measure() -> list[Measure]:
    names = (
        f"editor: opening {ROWS} rows",
        f"editor: script of one step of a drag, {ROWS} rows",
        f"editor: frames dropped while {ROWS} rows scroll",
    )
    with serve() as address, chromium() as browser:
        if browser is None:
            return [Measure(name, None, "ms", 0, None, "there is no Chromium") for name in names]
        page = browser.new_page()
        page.goto(address)
        ids = list(range(ROWS))
        rows = [ids, [f"word{place}" for place in ids], [1 / (1 + place) for place in ids]]
        opened = page.evaluate(OPEN, [rows, OPENINGS])
        page.evaluate(LISTEN)
        box = page.locator(".conceptlens-bar").first.bounding_box()
        assert box is not None
        page.mouse.move(box["x"] + 5, box["y"] + 5)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] - 5, box["y"] + 5, steps=STEPS)
        page.mouse.up()
        dragged = page.evaluate("taken.slice(1)")
        scrolls = [page.evaluate(SCROLL, FRAMES) for _ in range(SCROLLS)]
    usual = statistics.median(frame for frames in scrolls for frame in frames)
    dropped = [sum(round(frame / usual) - 1.0 for frame in frames) for frames in scrolls]
    return [
        Measure.of(names[0], opened, "ms"),
        Measure.of(names[1], dragged, "ms"),
        Measure.of(names[2], dropped, f"of {FRAMES}"),
    ]


@contextmanager
def serve() -> Iterator[str]:
    """The address of the pack's `web` folder, whose first page is empty."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Files, directory=WEB)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


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
