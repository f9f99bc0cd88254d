"""The host's own page: opened, set up, and its graph run."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from conceptlens.hosting.server import HostServer
from playwright.sync_api import Browser, Page

SETTINGS = {"Comfy.TutorialCompleted": True, "Comfy.Locale": "en"}
# Of an example graph, so that it takes little time.
FEW: dict[str, int | str] = {
    "steps": 2,
    "sampling_steps": 2,
    "validate_every": 1,
    "validation_images": 2,
    "num_images": 4,
    "told_images": 2,
    "samples": 32,  # so many that both groups of a balance have some at either end
    "count": 4,
    "iterations": 2,
    "dictionary_size": 32,
    "width": 64,
    "height": 64,
    "method": "conceptor",  # the other one compares words for a minute
}
OPEN = """async ([name, values]) => {
  await app.loadGraphData(await (await fetch(`/api/workflow_templates/conceptlens/${name}.json`)).json());
  for (const node of app.graph.nodes.filter((node) => node.type !== "SolidMask")) {  // a part of a mask is small
    for (const widget of node.widgets ?? []) if (widget.name in values) widget.value = values[widget.name];
  }
}"""


@contextmanager
def host_page(
    browser: Browser, host: HostServer, settings: Mapping[str, object], width: int = 1500, height: int = 900
) -> Iterator[Page]:
    """With an empty graph; nothing may go wrong on it unseen. It opens with the settings: set on an open page, another
    language would load its graph anew some time later."""
    host.post("/settings", {**SETTINGS, **settings})
    page = browser.new_page(viewport={"width": width, "height": height})
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda said: complaints.append(said.text) if "onceptlens" in said.text else None)
    page.goto(host.address)
    await_host(page)
    page.keyboard.press("Escape")
    yield page
    page.close()
    host.post("/settings", SETTINGS)  # for a page that is still open and loaded again
    assert not complaints


def await_host(page: Page) -> None:
    page.wait_for_function(
        "window.app?.graph && window.app.extensionManager?.workflow?.activeWorkflow", timeout=240_000
    )
    page.wait_for_timeout(2000)  # until what it restores and offers is there


def set_setting(page: Page, name: str, setting: object) -> None:
    page.evaluate("([name, setting]) => app.extensionManager.setting.set(name, setting)", [name, setting])


def open_example(page: Page, name: str, values: Mapping[str, int | str]) -> None:
    """Opens an example graph from the template browser's files, with other `values` of its widgets of these names."""
    page.evaluate(OPEN, [name, dict(values)])


def queue(page: Page, host: HostServer, seconds: float = 240) -> dict[str, Any]:
    """Runs the page's graph as the Run button does; gives the host's account of it."""
    known = set(host.get("/history"))
    page.evaluate("app.queuePrompt(0, 1)")
    end = time.monotonic() + seconds
    while not (new := set(host.get("/history")) - known):
        assert time.monotonic() < end, "the graph was not run"
        time.sleep(0.2)
    return host.get("/history")[new.pop()]
