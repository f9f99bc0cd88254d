"""The editor's node on the host's page: built, run, and looked at."""

from __future__ import annotations

import io
import json
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from conceptlens.hosting.server import HostServer
from conceptlens.tests.browser.host_page import queue
from PIL import Image, ImageChops
from playwright.sync_api import Page, expect

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
ROOT = Path(__file__).resolve().parents[2]
SCREENSHOTS = ROOT / ".screenshots"  # of the editor's states, to be looked at


def build(page: Page) -> Page:
    page.evaluate(BUILD, f"{MIX}, heart: {0.01 + time.monotonic() % 1e-3:.8f}")  # another mix for each test
    return page


def run(page: Page, host: HostServer) -> Image.Image:
    """Queues the graph as the Run button does; gives the picture that it shows."""
    history = queue(page, host)
    page.wait_for_timeout(500)
    return picture(host, history)


def picture(host: HostServer, history: dict[str, Any]) -> Image.Image:
    with urllib.request.urlopen(address(host, history)) as answer:
        return Image.open(io.BytesIO(answer.read())).convert("RGB")


def address(host: HostServer, history: dict[str, Any]) -> str:
    """Of the picture that a run sampled, whatever else it shows."""
    graph = history["prompt"][2]
    (image,) = (
        output["images"][0]
        for name, output in history["outputs"].items()
        if "images" in graph[name]["inputs"] and graph[graph[name]["inputs"]["images"][0]]["class_type"] == "VAEDecode"
    )
    return f"{host.address}/view?{urllib.parse.urlencode(image)}"


def differ(one: Image.Image, other: Image.Image) -> bool:
    return ImageChops.difference(one, other).getbbox() is not None


def coefficients(page: Page) -> dict[str, Any]:
    text = page.evaluate(
        "app.graph.nodes.find((node) => node.comfyClass === 'TokenMixConditioning')"
        ".widgets.find((widget) => widget.name === 'coefficients').value"
    )
    return json.loads(text) if text else {}


def queue_mode(page: Page, mode: str) -> None:
    """As its menu beside the Run button sets it."""
    page.evaluate(
        """(mode) => {
          const { $pinia } = document.getElementById("vue-app").__vue_app__.config.globalProperties;
          $pinia._s.get("queueSettingsStore").mode = mode;
        }""",
        mode,
    )


def await_runs(page: Page, host: HostServer, count: int) -> None:
    """Until there were `count` runs; there are no more a while later."""
    end = time.monotonic() + 60
    while len(host.get("/history")) < count:
        assert time.monotonic() < end
        page.wait_for_timeout(200)
    page.wait_for_timeout(2500)
    assert len(host.get("/history")) == count


def compared(page: Page) -> list[str]:
    """The files of the pictures before and after; none where there are not two."""
    page.get_by_label("Before and after").first.dispatch_event("click")
    pictures = page.locator(".conceptlens-pair img")
    files = pictures.evaluate_all("all => all.map((one) => new URL(one.src).searchParams.get('filename'))")
    if files:
        page.keyboard.press("Escape")
    else:
        expect(page.get_by_text("Run the graph twice")).to_be_visible()
        page.locator(".conceptlens-pop").get_by_label("Close").dispatch_event("click")
    return files


def files_of(history: dict[str, Any], name: str) -> list[str]:
    return [image["filename"] for image in history["outputs"][name]["images"]]


def start(page: Page, then: str) -> None:
    """Queues the graph and does something while it runs; returns when the page knows all of the run."""
    page.evaluate(
        f"""async () => {{
          const ended = new Promise((resolve) => app.api.addEventListener("execution_success", resolve));
          const before = app.graph.serialize(); // without what the run finds out, however soon
          await app.queuePrompt(0, 1);
          await {then};
          await ended;
        }}"""
    )
    page.wait_for_timeout(500)


def keep(page: Page, name: str) -> None:
    """A picture of the editor."""
    SCREENSHOTS.mkdir(exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name.replace(' ', '_')}.png")


def resize(page: Page, width: int, height: int) -> None:
    page.evaluate(
        "(size) => { app.graph.nodes.find((node) => node.comfyClass === 'TokenMixConditioning').setSize(size);"
        " app.canvas.setDirty(true, true) }",
        [width, height],
    )
    page.wait_for_timeout(300)
