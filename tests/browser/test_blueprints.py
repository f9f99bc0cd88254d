"""Blueprints: found in the page's node library, placed, wired to a loader and run, in both renderers."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from conceptlens.hosting.server import HostServer
from conceptlens.tests.browser.blueprints import BLUEPRINTS, subgraph
from conceptlens.tests.browser.host_page import FEW, host_page, queue
from conceptlens.tests.browser.in_host import ROOT, keep
from playwright.sync_api import Browser, Page

PLACED = """async ([loader, few, values]) => {
  const node = app.graph.nodes.find((one) => one.subgraph);
  const source = LiteGraph.createNode(loader);
  const preview = LiteGraph.createNode("PreviewImage");
  for (const made of [source, preview]) app.graph.add(made);
  for (const [slot, output] of source.outputs.entries()) {
    const place = node.inputs.findIndex((input) => input.name === output.name);
    if (place >= 0) source.connect(slot, node, place);
  }
  node.connect(node.outputs.findIndex((output) => ["image", "after"].includes(output.name)), preview, 0);
  for (const inner of node.subgraph.nodes) {
    for (const widget of inner.widgets ?? []) if (widget.name in few) widget.value = few[widget.name];
  }
  for (const widget of node.widgets) if (widget.name in values) widget.value = values[widget.name];
  source.pos = [node.pos[0] - 400, node.pos[1]];
  preview.pos = [node.pos[0] + node.size[0] + 60, node.pos[1]];
  return [preview.id, node.widgets.map((widget) => [widget.name, widget.value])];
}"""
WORDS = {"concept": "pest", "source": "a rose", "destination": "a blue rose", "prompt": "a rose", "size": 128}


@pytest.fixture(params=["classic canvas", "Nodes 2.0"], scope="module")
def renderer(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def page(browser: Browser, host: HostServer, renderer: str) -> Iterator[Page]:
    with host_page(browser, host, {"Comfy.VueNodes.Enabled": renderer == "Nodes 2.0"}) as opened:
        yield opened


@pytest.mark.parametrize("name", sorted(BLUEPRINTS))
def test_a_blueprint_is_what_its_example_is(name: str, host: HostServer) -> None:
    """After a change to an example: python -m conceptlens.tests.browser.blueprints."""
    made = subgraph(name, BLUEPRINTS[name], host.get("/object_info"))
    assert json.loads((ROOT / f"subgraphs/{name}.json").read_text(encoding="utf-8")) == made


@pytest.mark.parametrize("name", sorted(BLUEPRINTS))
def test_a_blueprint_is_found_and_run(name: str, page: Page, host: HostServer, renderer: str) -> None:
    page.evaluate("async () => { await app.loadGraphData({ nodes: [], links: [], version: 0.4 }) }")
    page.evaluate("app.extensionManager.command.execute('Workspace.SearchBox.Toggle')")
    page.keyboard.type(name, delay=20)
    page.wait_for_timeout(1500)
    keep(page, f"blueprint search {name} {renderer}")
    page.keyboard.press("Enter")
    page.wait_for_timeout(1500)
    page.mouse.click(500, 400)  # where it is dropped, if it hangs on the pointer
    page.wait_for_function("app.graph.nodes.some((node) => node.subgraph)")
    loader = "FaceWorldLoader" if name == "Directions of a prompt" else "EmojiWorldLoader"
    number, widgets = page.evaluate(PLACED, [loader, FEW, {**FEW, **WORDS}])
    assert {label for label, _ in widgets} >= BLUEPRINTS[name].widgets.keys()
    history = queue(page, host)
    assert history["status"]["status_str"] == "success", history["status"]["messages"]
    assert history["outputs"][str(number)]["images"]
    page.wait_for_timeout(1500)
    keep(page, f"blueprint {name} {renderer}")
