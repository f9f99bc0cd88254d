"""The editor in the real host, in both of its renderers: what an artist does, and what stays of it."""

from __future__ import annotations

import io
import json
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conceptlens.harness.host_server import HostServer
from conceptlens.tests.browser.test_editor import bar, drag, row, value
from PIL import Image, ImageChops
from playwright.sync_api import Browser, Page, expect

BUILD = """async (mix) => {
  const none = { nodes: [], links: [], groups: [], config: {}, extra: {}, last_node_id: 0, last_link_id: 0 };
  await app.loadGraphData({ id: crypto.randomUUID(), version: 0.4, ...none });
  const graph = app.graph;
  const made = {};
  const make = (name, type, x, y, values = {}) => {
    const node = (made[name] = LiteGraph.createNode(type));
    node.pos = [x, y];
    graph.add(node);
    for (const [key, value] of Object.entries(values)) node.widgets.find((widget) => widget.name === key).value = value;
  };
  const sampling = { seed: 1, steps: 4, cfg: 2.5, sampler_name: "euler", control_after_generate: "fixed" };
  make("world", "EmojiWorldLoader", 0, 0);
  make("mix", "TokenMixFromText", 0, 200, { text: mix });
  make("mixed", "TokenMixConditioning", 440, 0);
  make("negative", "CLIPTextEncode", 0, 440, { text: "" });
  make("empty", "EmptyLatentImage", 0, 700, { width: 128, height: 128 });
  make("sampler", "KSampler", 940, 0, sampling);
  make("decode", "VAEDecode", 940, 400);
  make("shown", "PreviewImage", 940, 520);
  const links = "world.1>mix.clip world.1>mixed.clip mix.0>mixed.mix world.1>negative.clip world.0>sampler.model "
    + "mixed.0>sampler.positive negative.0>sampler.negative empty.0>sampler.latent_image sampler.0>decode.samples "
    + "world.2>decode.vae decode.0>shown.images";
  for (const link of links.split(" ")) {
    const [from, to] = link.split(">").map((end) => end.split("."));
    made[from[0]].connect(Number(from[1]), made[to[0]], made[to[0]].inputs.findIndex((input) => input.name === to[1]));
  }
  Object.assign(app.canvas.ds, { scale: 0.8, offset: [120, 80] });
  app.canvas.setDirty(true, true);
  app.extensionManager.workflow.activeWorkflow.changeTracker.captureCanvasState();
  return made.mixed.id;
}"""
MIX = "rose: 0.6, car: 0.3, grass: 0.1"


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostServer]:
    with HostServer(tmp_path_factory.mktemp("browser"), "--cpu") as running:
        yield running


@pytest.fixture(params=["classic canvas", "Nodes 2.0"])
def graph(browser: Browser, host: HostServer, request: pytest.FixtureRequest) -> Iterator[Page]:
    """The host's page with a small graph around the editor."""
    page = browser.new_page(viewport={"width": 1500, "height": 900})
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda said: complaints.append(said.text) if "onceptlens" in said.text else None)
    page.goto(host.address)
    _await_host(page)
    settings = {"Comfy.VueNodes.Enabled": request.param == "Nodes 2.0", "Comfy.TutorialCompleted": True}
    for name, setting in settings.items():
        page.evaluate("([name, setting]) => app.extensionManager.setting.set(name, setting)", [name, setting])
    page.keyboard.press("Escape")
    page.evaluate(BUILD, f"{MIX}, heart: {0.01 + time.monotonic() % 1e-3:.8f}")  # another mix for each test
    yield page
    page.close()
    assert not complaints


def _await_host(page: Page) -> None:
    page.wait_for_function(
        "window.app?.graph && window.app.extensionManager?.workflow?.activeWorkflow", timeout=120_000
    )
    page.wait_for_timeout(2000)  # until what it restores and offers is there


def run(page: Page, host: HostServer) -> Image.Image:
    """Queues the graph as the Run button does; gives the picture that it shows."""
    known = set(host.get("/history"))
    page.evaluate("app.queuePrompt(0, 1)")
    end = time.monotonic() + 120
    while not (new := set(host.get("/history")) - known):
        assert time.monotonic() < end
        time.sleep(0.2)
    page.wait_for_timeout(500)
    return picture(host, host.get("/history")[new.pop()])


def picture(host: HostServer, history: dict[str, Any]) -> Image.Image:
    (image,) = (output["images"][0] for output in history["outputs"].values() if "images" in output)
    with urllib.request.urlopen(f"{host.address}/view?{urllib.parse.urlencode(image)}") as answer:
        return Image.open(io.BytesIO(answer.read())).convert("RGB")


def differ(one: Image.Image, other: Image.Image) -> bool:
    return ImageChops.difference(one, other).getbbox() is not None


def coefficients(page: Page) -> dict[str, Any]:
    text = page.evaluate(
        "app.graph.nodes.find((node) => node.comfyClass === 'TokenMixConditioning')"
        ".widgets.find((widget) => widget.name === 'coefficients').value"
    )
    return json.loads(text) if text else {}


def test_a_dragged_word_changes_the_picture(graph: Page, host: HostServer, tmp_path: Path) -> None:
    """And everything is still there after the page is loaded anew, and in the exported graph."""
    expect(graph.get_by_text("Run the graph once")).to_be_visible()
    first = run(graph, host)
    assert value(graph, "rose") == 0.6
    drag(graph, "car", 0.4, 0.95)
    changed = coefficients(graph)["set"]
    assert len(changed) == 1
    second = run(graph, host)
    assert differ(first, second)
    exported = graph.evaluate("app.graphToPrompt().then(({ output }) => output)")
    graph.screenshot(path=tmp_path / "edited.png")

    graph.wait_for_timeout(1500)  # the host keeps a draft of the graph after a moment
    graph.reload()
    _await_host(graph)
    assert coefficients(graph)["set"] == changed
    assert value(graph, "car") == pytest.approx(next(iter(changed.values())), rel=1e-3)
    assert "changed" in (row(graph, "car").get_attribute("data-flags") or "")

    (sampler,) = (node for node in exported.values() if node["class_type"] == "KSampler")
    sampler["inputs"]["denoise"] = 0.999999  # not the host's own result of before
    again = picture(host, host.run(exported))
    assert not differ(second, again)


def test_the_hosts_undo_takes_changes_back(graph: Page, host: HostServer) -> None:
    run(graph, host)
    drag(graph, "car", 0.4, 0.95)
    assert coefficients(graph) != {}
    graph.mouse.click(700, 860)
    graph.keyboard.press("Control+z")
    expect(bar(graph, "car")).to_have_attribute("aria-valuenow", "0.3")
    assert coefficients(graph) == {}


def test_a_copied_node_has_changes_of_its_own(graph: Page, host: HostServer) -> None:
    run(graph, host)
    drag(graph, "car", 0.4, 0.95)
    before = coefficients(graph)
    graph.evaluate(
        """() => {
          const node = app.graph.nodes.find((node) => node.comfyClass === "TokenMixConditioning");
          app.canvas.selectItems?.([node]);
          app.canvas.copyToClipboard([node]);
          app.canvas.pasteFromClipboard({ position: [440, 620] });
        }"""
    )
    expect(graph.locator(".conceptlens-editor")).to_have_count(2)
    texts = graph.evaluate(
        "app.graph.nodes.filter((node) => node.comfyClass === 'TokenMixConditioning')"
        ".map((node) => node.widgets.find((widget) => widget.name === 'coefficients').value)"
    )
    assert [json.loads(text) for text in texts] == [before, before]
    graph.locator(".conceptlens-editor").last.get_by_label("Reset all changes").dispatch_event("click")
    assert coefficients(graph) == before
