"""`python -m conceptlens.tests.browser.pictures`: the pictures of example graphs and of nodes, from the real host.

Every graph is run as it stands, half an hour for all on two cores; its picture shows it with what it found. A node's
help page shows it in one of FIRST or the first other graph that has it, or alone: `pictures/<node id>.jpg`.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
from pathlib import Path
from typing import Any

from conceptlens.hosting.browser import chromium
from conceptlens.hosting.server import HostServer
from conceptlens.tests.browser.host_page import host_page, queue
from conceptlens.tests.conftest import ROOT
from PIL import Image
from playwright.sync_api import FloatRect, Page

DOCS, WORKFLOWS = ROOT / "web/docs", ROOT / "workflows"
FIRST = ("change_words", "explain_picture", "edit_several")  # there nodes stand in their full width
PAGE = (3000, 1900)
CORNER = (300, 200)  # where a picture begins on the page, clear of the host's bars
MARGIN, TITLE = 24, 40  # around nodes, and their titles above
GRAPH_WIDTH = 1400  # pixels of a graph's picture
SETTINGS = {"Comfy.Minimap.Visible": False, "Comfy.Graph.CanvasInfo": False, "Comfy.Graph.CanvasMenu": False}
SETTINGS |= {"Comfy.NodeBadge.NodeSourceBadgeMode": "None"}
Box = list[float]  # x, y, width, height in the graph's units


def main() -> None:
    names = sorted(file.stem for file in WORKFLOWS.glob("*.json"))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", choices=names, metavar="GRAPH", help="a graph to run; default all")
    given = parser.parse_args().only or names
    wanted = {file.stem for file in DOCS.glob("*.md")}
    with tempfile.TemporaryDirectory() as base, chromium() as browser, HostServer(with_files(base), "--cpu") as host:
        assert browser, "pictures take Chromium"
        with host_page(browser, host, SETTINGS, *PAGE) as page:
            for name in sorted(names, key=lambda name: (name not in FIRST, name)):
                graph = json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))
                active = (node for node in graph["nodes"] if not node["mode"])
                here = {node["type"]: node["id"] for node in active if node["type"] in wanted}
                wanted -= set(here)
                if name in given:
                    page.evaluate("async (graph) => await app.loadGraphData(graph)", graph)
                    history = queue(page, host, 1800)
                    assert history["status"]["status_str"] == "success", history["status"]["messages"]
                    page.wait_for_timeout(4000)  # until pictures have arrived
                    save_graph(page, WORKFLOWS / f"{name}.jpg")
                    for kind, number in here.items():
                        save_node(page, number, DOCS / f"pictures/{kind}.jpg")
            page.evaluate("async () => { await app.loadGraphData({ nodes: [], links: [], version: 0.4 }) }")
            for number, kind in enumerate(sorted(wanted), 1000):  # a used number would bring the values that it had
                page.evaluate(
                    """([kind, number]) => {
                      app.graph.clear();
                      const node = LiteGraph.createNode(kind);
                      node.id = number;
                      app.graph.add(node);
                    }""",
                    [kind, number],
                )
                save_node(page, number, DOCS / f"pictures/{kind}.jpg")


def with_files(base: str) -> Path:
    """A folder for the host with something to load."""
    for folder, name in (("token_mixes", "carnival"), ("hspace_directions", "a_mechanic")):
        file = Path(base, "models", folder, f"{name}.safetensors")
        file.parent.mkdir(parents=True)
        file.touch()
    return Path(base)


def save_graph(page: Page, file: Path) -> None:
    """All nodes of the page's graph."""
    boxes = page.evaluate("[...app.graph.nodes].map(({ pos, size }) => [...pos, ...size])")
    left, top = (min(box[side] for box in boxes) for side in (0, 1))
    right, bottom = (max(box[side] + box[side + 2] for box in boxes) for side in (0, 1))
    picture = shot(page, [left, top, right - left, bottom - top])
    height = round(picture.height * GRAPH_WIDTH / picture.width)
    picture.resize((GRAPH_WIDTH, height), Image.Resampling.LANCZOS).save(file, quality=80, optimize=True)


def save_node(page: Page, number: Any, file: Path) -> None:
    """A node under its own title: graphs give some another."""
    box = page.evaluate(
        """(number) => {
          const node = app.graph.getNodeById(number);
          node.title = node.constructor.title;
          return [...node.pos, ...node.size];
        }""",
        number,
    )
    shot(page, box).save(file, quality=82, optimize=True)


def shot(page: Page, box: Box) -> Image.Image:
    """What stands in a box of the graph, its nodes' titles included, as large as the page can show it."""
    x, y, width, height = box
    width, height = width + 2 * MARGIN, height + TITLE + 2 * MARGIN
    scale = min(1, (PAGE[0] - CORNER[0]) / width, (PAGE[1] - CORNER[1]) / height)
    offset = [CORNER[0] / scale + MARGIN - x, CORNER[1] / scale + MARGIN + TITLE - y]
    page.evaluate(
        """([scale, offset]) => {
          Object.assign(app.canvas.ds, { scale, offset });
          app.canvas.setDirty(true, true);
        }""",
        [scale, offset],
    )
    page.wait_for_timeout(1000)
    clip: FloatRect = {"x": CORNER[0], "y": CORNER[1], "width": scale * width, "height": scale * height}
    return Image.open(io.BytesIO(page.screenshot(clip=clip))).convert("RGB")


if __name__ == "__main__":
    main()
