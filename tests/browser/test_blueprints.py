"""Blueprints: found in the page's node library, placed, wired to a loader and run, in both renderers."""

from __future__ import annotations

import json

import pytest
from conceptlens.hosting.server import HostServer
from conceptlens.tests.browser.blueprints import BLUEPRINTS, subgraph
from conceptlens.tests.browser.host_page import FEW, queue
from conceptlens.tests.browser.in_host import ROOT, keep
from playwright.sync_api import Page

PLACED = """async ([loader, few, values]) => {
  const node = app.graph.nodes.find((one) => one.subgraph);
  const source = LiteGraph.createNode(loader);
  const preview = LiteGraph.createNode("PreviewImage");
  for (const made of [source, preview]) app.graph.add(made);
  for (const [slot, output] of source.outputs.entries()) {
    const place = node.inputs.findIndex((input) => input.name === output.name);
    if (place >= 0) source.connect(slot, node, place);
  }
  node.connect(node.outputs.findIndex((output) => ["image", "after", "chart"].includes(output.name)), preview, 0);
  for (const inner of node.subgraph.nodes) {
    for (const widget of inner.widgets ?? []) if (widget.name in few) widget.value = few[widget.name];
  }
  for (const widget of node.widgets) if (widget.name in values) widget.value = values[widget.name];
  source.pos = [node.pos[0] - 400, node.pos[1]];
  preview.pos = [node.pos[0] + node.size[0] + 60, node.pos[1]];
  return [preview.id, node.widgets.map((widget) => [widget.name, widget.value])];
}"""
WORDS = {
    "concept": "pest",
    "source": "a rose",
    "destination": "a blue rose",
    "prompt": "a rose",
    "size": 128,
    "words": "rose, singer",
}


@pytest.mark.parametrize("name", sorted(BLUEPRINTS))
def test_a_blueprint_is_what_its_example_is(name: str, host: HostServer) -> None:
    """After a change to an example: python -m conceptlens.tests.browser.blueprints."""
    made = subgraph(name, BLUEPRINTS[name], host.get("/object_info"))
    assert json.loads((ROOT / f"subgraphs/{name}.json").read_text(encoding="utf-8")) == made


@pytest.mark.parametrize("name", sorted(BLUEPRINTS))
def test_a_blueprint_is_found_and_run(name: str, opened: Page, host: HostServer, renderer: str) -> None:
    opened.evaluate("async () => { await app.loadGraphData({ nodes: [], links: [], version: 0.4 }) }")
    opened.evaluate("app.extensionManager.command.execute('Workspace.SearchBox.Toggle')")
    opened.keyboard.type(name, delay=20)
    opened.wait_for_timeout(1500)
    keep(opened, f"blueprint search {name} {renderer}")
    opened.keyboard.press("Enter")
    opened.wait_for_timeout(1500)
    opened.mouse.click(500, 400)  # where it is dropped, if it hangs on the pointer
    opened.wait_for_function("app.graph.nodes.some((node) => node.subgraph)")
    loader = "FaceWorldLoader" if name == "Directions of a prompt" else "EmojiWorldLoader"
    number, widgets = opened.evaluate(PLACED, [loader, FEW, {**FEW, **WORDS}])
    assert {label for label, _ in widgets} >= BLUEPRINTS[name].widgets.keys()
    history = queue(opened, host)
    assert history["status"]["status_str"] == "success", history["status"]["messages"]
    assert history["outputs"][str(number)]["images"]
    opened.wait_for_timeout(1500)
    keep(opened, f"blueprint {name} {renderer}")
