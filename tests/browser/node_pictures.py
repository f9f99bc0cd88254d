"""`python -m conceptlens.tests.browser.node_pictures`: a picture of each node for its help page, from the real host.

A node stands as in an example graph, with what it shows after a run of that graph where it shows anything; one that is
in no graph stands alone. Pages name their picture `pictures/<node id>.jpg`.
"""

from __future__ import annotations

import io
import json
import tempfile
from pathlib import Path
from typing import Any

from conceptlens.benchmarks.editor import chromium
from conceptlens.harness.host_server import HostServer
from conceptlens.tests.browser.host_page import host_page, queue
from conceptlens.tests.conftest import ROOT
from PIL import Image
from playwright.sync_api import Page

DOCS = ROOT / "web/docs"
RUN = {"change_words", "explain_picture"}  # graphs whose nodes show what they found
MARGIN, TITLE = 24, 40  # around a node, and its title above
ALONE = (400, 300)  # where a node without a graph stands
SETTINGS = {"Comfy.Minimap.Visible": False, "Comfy.Graph.CanvasInfo": False, "Comfy.Graph.CanvasMenu": False}
SETTINGS |= {"Comfy.NodeBadge.NodeSourceBadgeMode": "None"}


def main() -> None:
    wanted = {file.stem for file in DOCS.glob("*.md")}
    graphs = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in (ROOT / "workflows").glob("*.json")}
    order = sorted(graphs, key=lambda name: (name not in RUN, name))
    (DOCS / "pictures").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as base, chromium() as browser, HostServer(with_files(base), "--cpu") as host:
        assert browser, "pictures take Chromium"
        with host_page(browser, host, SETTINGS, 1400, 1400) as page:
            for name in order:
                active = (node for node in graphs[name]["nodes"] if not node["mode"])
                here = {node["type"]: node for node in active if node["type"] in wanted}
                if not here:
                    continue
                page.evaluate("async (graph) => await app.loadGraphData(graph)", graphs[name])
                if name in RUN:
                    queue(page, host)
                    page.wait_for_timeout(3000)
                for kind, node in here.items():
                    save(page, node["id"], DOCS / f"pictures/{kind}.jpg")
                wanted -= set(here)
            page.evaluate("async () => { await app.loadGraphData({ nodes: [], links: [], version: 0.4 }) }")
            for number, kind in enumerate(sorted(wanted), 1000):  # a used number would bring the values that it had
                page.evaluate(
                    """([kind, place, number]) => {
                      app.graph.clear();
                      const node = LiteGraph.createNode(kind);
                      Object.assign(node, { pos: place, id: number });
                      app.graph.add(node);
                    }""",
                    [kind, ALONE, number],
                )
                save(page, number, DOCS / f"pictures/{kind}.jpg")


def with_files(base: str) -> Path:
    """A folder for the host with something to load."""
    for folder, name in (("token_mixes", "carnival"), ("hspace_directions", "a_mechanic")):
        file = Path(base, "models", folder, f"{name}.safetensors")
        file.parent.mkdir(parents=True)
        file.touch()
    return Path(base)


def save(page: Page, number: Any, file: Path) -> None:
    """The node in the middle of the page, cut out."""
    width, height = page.evaluate(
        """([number, margin, title]) => {
          const node = app.graph.getNodeById(number);
          node.title = node.constructor.title; // graphs give some their own
          const [x, y] = node.pos;
          Object.assign(app.canvas.ds, { scale: 1, offset: [300 + margin - x, 200 + margin + title - y] });
          app.canvas.setDirty(true, true);
          return [node.size[0] + 2 * margin, node.size[1] + title + 2 * margin];
        }""",
        [number, MARGIN, TITLE],
    )
    page.wait_for_timeout(700)
    data = page.screenshot(clip={"x": 300, "y": 200, "width": width, "height": height})
    Image.open(io.BytesIO(data)).convert("RGB").save(file, quality=82, optimize=True)


if __name__ == "__main__":
    main()
