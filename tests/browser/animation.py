"""`python -m conceptlens.tests.browser.animation`: the editor at work in the real host, as one animated picture.

The graph is `change_words`, the bars are dragged as an artist drags them, each run is whole. Ten minutes on two cores.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from pathlib import Path

from conceptlens.hosting.browser import chromium
from conceptlens.hosting.server import HostServer
from conceptlens.tests.browser.editor import bar
from conceptlens.tests.browser.host_page import host_page, open_example, queue
from conceptlens.tests.browser.pictures import SETTINGS
from conceptlens.tests.conftest import ROOT
from PIL import Image
from playwright.sync_api import Page

FILE = ROOT / "docs/editor.webp"
WIDTH, HEIGHT = 1000, 660  # of the page
MOVE, REST, LOOK = 60, 500, 1800  # milliseconds that a frame stays: while a bar moves, before a run, at its picture
STEPS = 10  # frames of a bar's way
# What is dragged: a word, and where its bar is seized and left, as parts of its length.
DRAGS = (("heart", 0.1, 0.9), ("rose", 0.6, 0.02), ("blue", 0.05, 0.9), ("heart", 0.9, 0.02), ("butterfly", 0.04, 0.9))
POINTER = """() => {
  const pointer = Object.assign(document.body.appendChild(document.createElement("div")), { id: "pointer" });
  pointer.style.cssText = "position:fixed;z-index:99999;width:22px;height:22px;margin:-11px;border-radius:50%;"
    + "background:#ffffff55;border:2px solid #fff;pointer-events:none;left:-50px;top:-50px";
  document.addEventListener("pointermove", ({ clientX, clientY }) =>
    Object.assign(pointer.style, { left: `${clientX}px`, top: `${clientY}px` }), true);
}"""
FRAME = """() => {  // the editor, and the picture beside it
  const shown = (type) => app.graph.nodes.find((node) => node.type === type);
  const keep = ["TokenMixConditioning", "PreviewImage"].map(shown);
  const [editor, picture] = keep;
  picture.pos = [editor.pos[0] + editor.size[0] + 30, editor.pos[1]];
  picture.size = [editor.size[0], editor.size[1]];
  const others = app.graph.nodes.filter((node) => !keep.includes(node));
  others.forEach((node, index) => { node.pos = [editor.pos[0] - 3000, index * 400]; });
  const scale = 0.96;
  Object.assign(app.canvas.ds, { scale, offset: [20 / scale - editor.pos[0], 60 / scale - editor.pos[1]] });
  app.canvas.setDirty(true, true);
}"""
Frame = tuple[Image.Image, int]  # with the milliseconds that it stays


def frames(page: Page, host: HostServer) -> Iterator[Frame]:
    """A run, and each drag with the run after it."""

    def seen() -> Image.Image:
        return Image.open(io.BytesIO(page.screenshot())).convert("RGB")

    queue(page, host, 600)
    page.wait_for_timeout(2500)
    yield seen(), LOOK
    for word, start, end in DRAGS:
        box = bar(page, word).bounding_box()
        assert box is not None
        middle = box["y"] + box["height"] / 2
        page.mouse.move(box["x"] + start * box["width"], middle)
        yield seen(), REST
        page.mouse.down()
        for step in range(1, STEPS + 1):
            page.mouse.move(box["x"] + (start + (end - start) * step / STEPS) * box["width"], middle)
            page.wait_for_timeout(100)
            yield seen(), MOVE
        page.mouse.up()
        queue(page, host, 600)
        page.wait_for_timeout(2500)
        yield seen(), LOOK


def main() -> None:
    settings = {**SETTINGS, "Comfy.VueNodes.Enabled": True}
    with tempfile.TemporaryDirectory() as base, chromium() as browser, HostServer(Path(base), "--cpu") as host:
        assert browser, "pictures take Chromium"
        with host_page(browser, host, settings, WIDTH, HEIGHT) as page:
            open_example(page, "change_words", {})
            page.wait_for_timeout(1500)
            page.evaluate(FRAME)
            page.evaluate(POINTER)
            (first, *others), times = zip(*frames(page, host), strict=True)
    first.save(FILE, save_all=True, append_images=others, duration=times, loop=0, quality=70, method=6)


if __name__ == "__main__":
    main()
