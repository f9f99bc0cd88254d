"""Example graphs as the host's simple page of chosen inputs and outputs (`extra.linearData`), in both renderers."""

from __future__ import annotations

import json

import pytest
from conceptlens.hosting.server import HostServer
from conceptlens.tests.browser.editor import bar, drag, value
from conceptlens.tests.browser.host_page import FEW, open_example, queue
from conceptlens.tests.browser.in_host import ROOT, coefficients, keep
from playwright.sync_api import Locator, Page, expect

LABELS = {
    "time_edit": ["source", "destination", "preserve", "prompt"],
    "change_words": ["Coefficients of the mix", "prompt", "seed"],
    "explain_concept": ["concept", "Coefficients of the mix", "seed"],
    "model_audit": ["words", "traits", "source", "destination"],
    "hspace_by_text": ["with", "without", "seed"],
}
MODE = "(mode) => { app.extensionManager.workflow.activeWorkflow.activeMode = mode }"  # as the host's menu sets it


def open_app(page: Page, name: str) -> Locator:
    """An example graph in app mode, with few steps; its inputs."""
    open_example(page, name, FEW)
    page.evaluate(MODE, "app")
    return page.get_by_test_id("app-mode-widget-item")


def test_these_graphs_have_it() -> None:
    graphs = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in (ROOT / "workflows").glob("*.json")}
    assert {name for name, graph in graphs.items() if "linearData" in graph["extra"]} == LABELS.keys()


@pytest.mark.parametrize("name", sorted(LABELS))
def test_a_graph_as_an_app(name: str, opened: Page, host: HostServer, renderer: str) -> None:
    """Every chosen input is there under its label; a run shows a chosen output."""
    items = open_app(opened, name)
    expect(items.get_by_test_id("builder-widget-label")).to_have_text(LABELS[name])
    history = queue(opened, host)
    assert history["status"]["status_str"] == "success", history["status"]["messages"]
    outputs = json.loads((ROOT / f"workflows/{name}.json").read_text(encoding="utf-8"))["extra"]["linearData"][
        "outputs"
    ]
    files = [image["filename"] for number in outputs for image in history["outputs"][str(number)]["images"]]
    expect(opened.locator(", ".join(f"img:visible[src*='{file}']" for file in files)).first).to_be_visible()
    opened.wait_for_timeout(1000)
    keep(opened, f"app {name} {renderer}")


@pytest.mark.parametrize("width", [1500, 390])
def test_the_editor_in_app_mode(width: int, opened: Page, host: HostServer, renderer: str) -> None:
    """A bar is dragged, also on a page as wide as a phone's; an undo takes it back, and the editor is still there."""
    opened.set_viewport_size({"width": width, "height": 900})
    items = open_app(opened, "change_words")
    queue(opened, host)
    if width == 390:
        opened.get_by_text("Edit & Run").click()
    expect(items.locator(".conceptlens-row")).to_have_count(6)
    before = value(opened, "car")
    bar(opened, "car").hover()  # when the page has come to rest
    drag(opened, "car", 0.1, 0.9)
    assert value(opened, "car") > before + 0.3
    assert len(coefficients(opened)["set"]) == 1
    keep(opened, f"app editor {width} {renderer}")
    opened.evaluate("app.extensionManager.workflow.activeWorkflow.changeTracker.undo()")
    expect(items.locator(".conceptlens-row")).to_have_count(6)
    assert value(opened, "car") == before
    opened.evaluate(MODE, "graph")
    opened.set_viewport_size({"width": 1500, "height": 900})
    expect(opened.locator(".conceptlens-row").first).to_be_visible()
