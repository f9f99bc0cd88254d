"""`python -m conceptlens.tests.browser.animation`: the coefficient editor at work in the real host, animated.

The graph is `change_words`. The mouse drags bars and presses Run; every picture is what that run drew. A few minutes.
"""

from __future__ import annotations

import io
import tempfile
import time
from pathlib import Path

from conceptlens.hosting.browser import chromium
from conceptlens.hosting.server import HostServer
from conceptlens.tests.browser.editor import bar
from conceptlens.tests.browser.host_page import host_page, open_example
from conceptlens.tests.browser.pictures import SETTINGS
from conceptlens.tests.conftest import ROOT
from PIL import Image
from playwright.sync_api import FloatRect, Locator, Page

FILE = ROOT / "docs/editor.webp"
PAGE = (920, 642)
CLIP: FloatRect = {"x": 60, "y": 40, "width": 860, "height": 602}  # without the host's tabs and side bar
MOVE, PAUSE, LOOK = 60, 160, 1400  # milliseconds that a frame stays: on the mouse's way, at its end, at a result
WAY, DRAG = 4, 8  # frames of a way to something and of a bar's way
RUN_WITHIN = 900  # seconds
# What is dragged before a run: a word, and where its bar is left, as a part of its length.
RUNS = ((("rose", 0.06), ("car", 0.8)), (("car", 0.03), ("butterfly", 0.8)))
HOST = {"Comfy.VueNodes.Enabled": True, "Comfy.EnableTooltips": False}
HOST |= {"Comfy.Queue.ShowRunProgressBar": False, "Comfy.Queue.QPOV2": True}  # no panel of jobs over the graph
STYLE = "[data-testid=queue-notification-banner] { display: none !important }"  # else it covers a part of the picture
STAGE = """() => {  // the editor, and the picture beside it; the other nodes are out of sight
  const first = (type) => app.graph.nodes.find((node) => node.type === type);
  const shown = ["TokenMixConditioning", "PreviewImage"].map(first);
  const others = app.graph.nodes.filter((node) => !shown.includes(node));
  const [editor, picture] = shown;
  editor.setSize([420, 480]);
  picture.setSize([380, 480]);
  picture.pos = [editor.pos[0] + 444, editor.pos[1]];
  for (const node of others) node.pos = [node.pos[0], node.pos[1] + 2000];
  Object.assign(app.canvas.ds, { scale: 1, offset: [78 - editor.pos[0], 142 - editor.pos[1]] });
  app.canvas.setDirty(true, true);
}"""
POINTER = """() => {  // Chromium without a window draws none
  const arrow = '<path d="M2 1v20l5-4.5 3.2 7.5 4-1.7-3.2-7.3h7z" fill="#fff" stroke="#000" stroke-width="1.5"/>';
  const pointer = document.body.appendChild(document.createElement("div"));
  pointer.innerHTML = `<svg width="20" height="26">${arrow}</svg>`;
  pointer.style.cssText = "position:fixed;z-index:99999;left:-50px;pointer-events:none";
  const follow = ({ clientX, clientY }) =>
    Object.assign(pointer.style, { left: `${clientX - 2}px`, top: `${clientY - 1}px` });
  addEventListener("pointermove", follow, true);
}"""


class Film:
    """Frames of a page, with the milliseconds that each stays; the mouse is seen on its way."""

    def __init__(self, page: Page, host: HostServer) -> None:
        self.frames: list[tuple[Image.Image, int]] = []
        self._page, self._host = page, host
        self._at = (0.0, 0.0)

    def take(self, stays: int) -> None:
        picture = Image.open(io.BytesIO(self._page.screenshot(clip=CLIP))).convert("RGB")
        self.frames.append((picture, stays))

    def go(self, place: Locator, part: float = 0.5, frames: int = WAY) -> None:
        """Moves the mouse to a part of something's width, slower at both ends of its way."""
        box = place.bounding_box()
        assert box is not None
        (left, top), (x, y) = self._at, (box["x"] + part * box["width"], box["y"] + box["height"] / 2)
        for frame in range(1, frames + 1):
            gone = (frame / frames) ** 2 * (3 - 2 * frame / frames)
            self._page.mouse.move(left + gone * (x - left), top + gone * (y - top))
            self._page.wait_for_timeout(100)  # until it is drawn
            self.take(MOVE if frame < frames else PAUSE)
        self._at = x, y

    def press(self, button: Locator) -> None:
        self.go(button, 0.85)  # beside what is written on it
        self._page.mouse.down()
        self._page.mouse.up()
        self._page.wait_for_timeout(300)
        self.take(PAUSE)

    def drag(self, word: str, end: float) -> None:
        """Seizes a word's bar at its handle and leaves it at a part of its length."""
        slider = bar(self._page, word)
        self.go(slider, float(slider.evaluate("(bar) => bar.style.getPropertyValue('--at')")))
        self._page.mouse.down()
        self.go(slider, end, DRAG)
        self._page.mouse.up()

    def run(self) -> None:
        """Presses Run; shows what comes of it."""
        known = set(self._host.get("/history"))
        self.press(self._page.get_by_role("button", name="Run", exact=True).first)  # beside its menu
        end = time.monotonic() + RUN_WITHIN
        while set(self._host.get("/history")) == known:
            assert time.monotonic() < end, "the graph was not run"
            self._page.wait_for_timeout(200)
        self._page.wait_for_timeout(4000)  # until the picture has arrived
        self.take(LOOK)

    def save(self, file: Path) -> None:
        (first, *others), times = zip(*self.frames, strict=True)
        first.save(file, save_all=True, append_images=others, duration=times, loop=0, quality=70, method=6)


def record(page: Page, host: HostServer) -> Film:
    """A run, changes with a run after each, and back: the last frame is the first one again."""
    page.evaluate(STAGE)
    page.evaluate(POINTER)
    page.add_style_tag(content=STYLE)
    film = Film(page, host)
    film.run()
    del film.frames[:-1]
    for drags in RUNS:
        for word, end in drags:
            film.drag(word, end)
        film.run()
    film.press(page.get_by_label("Reset all changes", exact=True))
    film.run()
    return film


def main() -> None:
    with tempfile.TemporaryDirectory() as base, chromium() as browser, HostServer(Path(base), "--cpu") as host:
        assert browser, "an animation takes Chromium"
        with host_page(browser, host, {**SETTINGS, **HOST}, *PAGE) as page:
            open_example(page, "change_words", {})
            page.wait_for_timeout(1500)  # until its nodes are there
            record(page, host).save(FILE)


if __name__ == "__main__":
    main()
