"""The editor in the real host, in both of its renderers: what an artist does, and what stays of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from conceptlens.evaluation.laboratory import Laboratory
from conceptlens.hosting.server import HostServer
from conceptlens.tests.browser.editor import bar, drag, row, value
from conceptlens.tests.browser.host_page import await_host, host_page, open_example, queue, set_setting
from conceptlens.tests.browser.in_host import (
    ROOT,
    address,
    await_runs,
    build,
    coefficients,
    compared,
    differ,
    files_of,
    keep,
    picture,
    queue_mode,
    resize,
    run,
    start,
)
from conceptlens.world.pictures import to_tensor
from PIL import Image
from playwright.sync_api import Browser, Page, expect


@pytest.fixture
def graph(opened: Page) -> Page:
    """The host's page with a small graph around the editor."""
    set_setting(opened, "Comfy.ColorPalette", "dark")
    return build(opened)


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
    await_host(graph)
    assert coefficients(graph)["set"] == changed
    assert value(graph, "car") == pytest.approx(next(iter(changed.values())), rel=1e-3)
    assert "changed" in (row(graph, "car").get_attribute("data-flags") or "")

    (sampler,) = (node for node in exported.values() if node["class_type"] == "KSampler")
    sampler["inputs"]["denoise"] = 0.999999  # not the host's own result of before
    again = picture(host, host.run(exported))
    assert not differ(second, again)


@pytest.mark.parametrize("scale", [0.3, 2.0])
def test_at_every_zoom_the_handle_is_under_the_pointer(graph: Page, host: HostServer, scale: float) -> None:
    run(graph, host)
    graph.evaluate(
        "(scale) => { Object.assign(app.canvas.ds, { scale, offset: [40 / scale - 440, 80 / scale] });"
        " app.canvas.setDirty(true, true) }",
        scale,
    )
    graph.wait_for_timeout(500)
    drag(graph, "car", 0.4, 0.75)
    end = float(bar(graph, "car").get_attribute("aria-valuemax") or "nan")
    assert value(graph, "car") == pytest.approx(0.75 * end, abs=0.05 * end)


def test_run_on_change_draws_once_for_each_change(graph: Page, host: HostServer) -> None:
    """The editor starts no run, and what a run tells it is no change."""
    run(graph, host)
    queue_mode(graph, "change")
    before = set(host.get("/history"))
    graph.wait_for_timeout(1500)
    assert set(host.get("/history")) == before
    drag(graph, "car", 0.4, 0.95)
    await_runs(graph, host, len(before) + 1)
    row(graph, "rose").locator(".conceptlens-switch").click()
    await_runs(graph, host, len(before) + 2)
    queue_mode(graph, "disabled")


def test_it_works_inside_a_subgraph(graph: Page, host: HostServer) -> None:
    first = run(graph, host)
    graph.evaluate(
        """() => {
          const inside = ["TokenMixConditioning", "CLIPTextEncode"];
          const nodes = app.graph.nodes.filter((node) => inside.includes(node.comfyClass));
          const { node } = app.graph.convertToSubgraph(new Set(nodes));
          app.canvas.openSubgraph(node.subgraph, node);
        }"""
    )
    graph.wait_for_timeout(1000)
    again = run(graph, host)
    assert not differ(first, again)
    drag(graph, "car", 0.4, 0.95)
    assert differ(first, run(graph, host))
    assert len(compared(graph)) == 2  # the node that shows them is outside


def test_a_run_of_another_workflow_is_not_shown(graph: Page, host: HostServer) -> None:
    """Of one with the same nodes and the same ids, such as the same template opened twice."""
    start(graph, "app.loadGraphData(before, true, true, null)")
    expect(graph.get_by_text("Run the graph once")).to_be_visible()
    first = queue(graph, host)  # from the host's cache, whose events may come before it has answered
    expect(bar(graph, "rose")).to_have_attribute("aria-valuenow", "0.6")
    assert compared(graph) == []
    drag(graph, "car", 0.4, 0.95)
    second = queue(graph, host)
    graph.wait_for_timeout(500)
    (viewer,) = (name for name, node in first["prompt"][2].items() if node["class_type"] == "PreviewImage")
    assert compared(graph) == [*files_of(first, viewer), *files_of(second, viewer)]


def test_a_picture_of_an_older_graph_is_not_before(graph: Page, host: HostServer) -> None:
    """One that was undone while it ran; what the run found out about the mix counts."""
    run(graph, host)
    drag(graph, "car", 0.4, 0.95)
    start(graph, "app.extensionManager.workflow.activeWorkflow.changeTracker.undo()")
    assert coefficients(graph) == {}
    assert value(graph, "rose") == 0.6
    run(graph, host)
    assert compared(graph) == []
    drag(graph, "car", 0.4, 0.95)
    run(graph, host)
    assert len(set(compared(graph))) == 2


def test_before_and_after_are_of_one_viewer(graph: Page, host: HostServer) -> None:
    graph.evaluate(
        """() => {
          const find = (type) => app.graph.nodes.find((node) => node.comfyClass === type);
          const show = (kind, source, slot) => {
            const made = LiteGraph.createNode(kind);
            const shown = LiteGraph.createNode("PreviewImage");
            for (const node of [made, shown]) app.graph.add(node);
            find(source).connect(slot, made, 0);
            made.connect(0, shown, 0);
          };
          show("TokenMixPlot", "TokenMixConditioning", 1);
          show("ImageInvert", "VAEDecode", 0);
        }"""
    )
    first = queue(graph, host)
    graph.wait_for_timeout(500)
    assert compared(graph) == []
    drag(graph, "car", 0.4, 0.95)
    second = queue(graph, host)
    graph.wait_for_timeout(500)
    viewers = [name for name, output in first["outputs"].items() if "images" in output]
    assert len(viewers) == 3
    assert compared(graph) in [files_of(first, name) + files_of(second, name) for name in viewers]


def test_a_collapsed_node_opens_as_it_was(graph: Page, host: HostServer) -> None:
    run(graph, host)
    drag(graph, "car", 0.4, 0.95)
    changed = coefficients(graph)
    collapse = "app.graph.nodes.find((node) => node.comfyClass === 'TokenMixConditioning').collapse()"
    graph.evaluate(collapse)
    expect(graph.locator(".conceptlens-editor")).to_be_hidden()
    graph.evaluate(collapse)
    expect(bar(graph, "car")).to_be_visible()
    assert coefficients(graph) == changed


def test_a_picture_brings_its_graph_back(graph: Page, host: HostServer) -> None:
    """Dropped on the page, with the changes and what was learned."""
    run(graph, host)
    drag(graph, "car", 0.4, 0.95)
    changed = coefficients(graph)
    known = set(host.get("/history"))
    run(graph, host)
    (made,) = (history for number, history in host.get("/history").items() if number not in known)
    graph.evaluate(
        """async (address) => {
          const blob = await (await fetch(address)).blob();
          app.graph.clear();
          await app.handleFile(new File([blob], "picture.png", { type: "image/png" }));
        }""",
        address(host, made),
    )
    graph.wait_for_timeout(1000)
    assert coefficients(graph) == changed
    assert value(graph, "rose") == 0.6


def test_an_example_is_opened_tried_and_does_what_it_says(graph: Page, host: HostServer) -> None:
    """From the template browser; what the pictures show is judged by the world's own classifier."""
    graph.evaluate("app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    graph.get_by_role("dialog").get_by_text("conceptlens", exact=True).click()
    graph.get_by_test_id("template-workflow-change_words").click()
    graph.wait_for_function("app.graph.nodes.some((node) => node.comfyClass === 'TokenMixGallery')")
    expect(graph.get_by_text("Run the graph once")).to_be_visible()
    graph.evaluate(
        """() => {
          Object.assign(app.canvas.ds, { scale: 0.8, offset: [80, 80] });
          app.canvas.setDirty(true, true);
          const gallery = app.graph.nodes.find((node) => node.comfyClass === "TokenMixGallery");
          gallery.widgets.find((widget) => widget.name === "steps").value = 1; // nobody looks at its pictures
        }"""
    )
    judge = Laboratory(ROOT / ".world")
    assert seen(judge, run(graph, host)) == "rose"
    drag(graph, "car", 0.01, 0.95)
    row(graph, "rose").locator(".conceptlens-switch").click()
    assert seen(judge, run(graph, host)) == "car"


def seen(judge: Laboratory, drawn: Image.Image) -> str:
    """What the world's own classifier says of a picture."""
    return judge.seen(to_tensor(drawn)[None])[0][0]


def test_a_transformers_picture_follows_its_words(graph: Page, host: HostServer) -> None:
    graph.evaluate(
        """() => {
          const set = (kind, name, value) => {
            const node = app.graph.nodes.find((node) => node.comfyClass === kind);
            node.widgets.find((widget) => widget.name === name).value = value;
          };
          set("EmojiWorldLoader", "kind", "transformer");
          set("KSampler", "steps", 12);
        }"""
    )
    judge = Laboratory(ROOT / ".world")
    assert seen(judge, run(graph, host)) == "rose"
    drag(graph, "heart", 0.01, 0.95)
    row(graph, "rose").locator(".conceptlens-switch").click()
    assert seen(judge, run(graph, host)) == "heart"


def test_the_words_of_a_language_model_change_the_picture(graph: Page, host: HostServer) -> None:
    """And back again; the nearest words of a row are those of the encoder's own table."""
    graph.evaluate(
        """() => {
          const world = app.graph.nodes.find((node) => node.comfyClass === "EmojiWorldLoader");
          const tiny = LiteGraph.createNode("TinyLanguageModel");
          app.graph.add(tiny);
          world.outputs.slice(0, 3).forEach(({ links }, slot) => {
            for (const id of [...(links ?? [])]) {
              const { target_id: target, target_slot: place } = app.graph.links[id];
              tiny.connect(slot, app.graph.getNodeById(target), place);
            }
          });
          app.graph.remove(world);
        }"""
    )
    first = run(graph, host)
    assert value(graph, "rose") == 0.6
    drag(graph, "car", 0.4, 0.95)
    assert differ(first, run(graph, host))
    keep(graph, "language model")
    bar(graph, "car").dblclick()  # back to what was learned
    assert not differ(first, run(graph, host))


def test_words_are_seen_while_they_are_found(graph: Page, renderer: str) -> None:
    """Above the editor's own list, with intervals as soon as they race; the run's end puts them into it."""
    few = {"dictionary_size": 8, "image_size": 64, "width": 64, "height": 64, "steps": 2, "num_images": 12}
    open_example(graph, "explain_concept", few)
    graph.evaluate(
        """() => {
          const panel = document.querySelector(".conceptlens-found");
          window.panels = [];
          new MutationObserver(() => {
            const words = [...panel.querySelectorAll(".conceptlens-text")].map((word) => word.textContent);
            const lines = panel.querySelectorAll(".conceptlens-interval").length;
            const rows = document.querySelectorAll(".conceptlens-row").length;
            if (words.length) window.panels.push({ words, lines, rows });
          }).observe(panel, { childList: true, subtree: true, attributes: true });
        }"""
    )
    graph.evaluate("app.queuePrompt(0, 1)")
    panel = graph.locator(".conceptlens-found")
    expect(panel.locator(".conceptlens-interval").first).to_be_visible(timeout=240_000)
    keep(graph, f"found {renderer}")
    expect(panel).to_be_hidden(timeout=240_000)
    shown = graph.evaluate("window.panels")
    assert shown[0]["lines"] == 0  # by the image encoder alone
    assert shown[-1]["lines"] == len(shown[-1]["words"])
    assert not any(seen["rows"] for seen in shown)
    assert row(graph, shown[-1]["words"][0]).is_visible()


def test_an_older_graph_means_what_it_meant(graph: Page) -> None:
    """A new node has a relative lambda and edits pooled texts; a saved one keeps what it has."""
    chosen = graph.evaluate(
        """async () => {
          const names = ["regularize", "edit_pooled"];
          const chosen = (node) => names.map((name) => node.widgets.find((widget) => widget.name === name).value);
          const edits = (graph) => graph.nodes.filter((node) => node.type === "TIMEEditModel");
          app.graph.add(LiteGraph.createNode("TIMEEditModel"));
          const values = [chosen(edits(app.graph)[0])];
          for (const count of [11, 10, 8]) {
            const saved = app.graph.serialize();
            for (const node of edits(saved)) node.widgets_values = node.widgets_values.slice(0, count);
            await app.loadGraphData(saved);
            values.push(chosen(edits(app.graph)[0]));
          }
          return values;
        }"""
    )
    new, before_pooled, before_both = ["relative", True], ["relative", False], ["absolute", False]
    assert chosen == [new, new, before_pooled, before_both]


def test_words_show_the_pictures_of_a_gallery(graph: Page, host: HostServer) -> None:
    graph.evaluate(
        """() => {
          const find = (type) => app.graph.nodes.find((node) => node.comfyClass === type);
          const gallery = LiteGraph.createNode("TokenMixGallery");
          gallery.pos = [440, 640];
          app.graph.add(gallery);
          const settings = { top: 2, steps: 3, cfg: 2.5, width: 128, height: 128 };
          for (const [key, value] of Object.entries(settings)) {
            gallery.widgets.find((widget) => widget.name === key).value = value;
          }
          for (let slot = 0; slot < 3; slot += 1) find("EmojiWorldLoader").connect(slot, gallery, slot);
          find("TokenMixFromText").connect(0, gallery, 3);
          const shown = LiteGraph.createNode("PreviewImage");
          app.graph.add(shown);
          gallery.connect(0, shown, 0);
        }"""
    )
    before = graph.evaluate("app.graph.serialize()")
    run(graph, host)
    pictures = graph.locator(".conceptlens-picture:visible")
    expect(pictures).to_have_count(2)
    assert pictures.evaluate_all("all => all.map((one) => one.naturalWidth)") == [128, 128]
    expect(row(graph, "rose").locator("img")).to_be_visible()
    keep(graph, "pictures of words")
    graph.reload()
    await_host(graph)
    graph.evaluate("(before) => app.loadGraphData(before)", before)
    expect(graph.get_by_text("Run the graph once")).to_be_visible()
    run(graph, host)  # computes nothing: the host has it all
    expect(pictures).to_have_count(2)


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


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_every_state_can_be_read(graph: Page, host: HostServer, theme: str, renderer: str) -> None:
    """axe-core finds no text without contrast and nothing else in it; each state is kept as a picture."""
    set_setting(graph, "Comfy.ColorPalette", theme)

    def look(state: str) -> None:
        graph.mouse.move(5, 5)
        graph.wait_for_timeout(300)
        keep(graph, f"{renderer.lower()} {theme} {state}")
        found = Axe().run(graph, context=".conceptlens-editor").response["violations"]
        assert [(rule["id"], [node["html"][:200] for node in rule["nodes"]]) for rule in found] == []

    look("empty")
    run(graph, host)
    look("learned")
    drag(graph, "car", 0.4, 0.95)
    row(graph, "grass").locator(".conceptlens-switch").click()
    look("edited")
    graph.get_by_label("Filter words").fill("a")
    look("filtered")
    graph.get_by_label("Filter words").fill("")
    resize(graph, 270, 500)
    look("narrow")
    words = [[place, f"word {place}", 1 / (1 + place)] for place in range(5000)]
    graph.evaluate(
        """([rows, prompt_id]) => {
          const node = app.graph.nodes.find((node) => node.comfyClass === "TokenMixConditioning").id;
          app.api.dispatchCustomEvent("executed", { node, prompt_id, output: { token_mix: [{ rows, near: {} }] } });
        }""",
        [[list(column) for column in zip(*words, strict=True)], list(host.get("/history"))[-1]],
    )
    expect(row(graph, "word 1")).to_be_visible()
    resize(graph, 480, 700)
    look("5000 words")


def test_it_speaks_chinese_where_the_host_does(browser: Browser, host: HostServer, renderer: str) -> None:
    settings = {"Comfy.VueNodes.Enabled": renderer == "Nodes 2.0", "Comfy.Locale": "zh"}
    with host_page(browser, host, settings) as page:
        run(build(page), host)
        drag(page, "car", 0.4, 0.95)
        page.wait_for_timeout(1500)  # the host keeps a draft of the graph after a moment
        page.reload()
        await_host(page)
        chinese = json.loads((ROOT / "locales" / "zh" / "nodeDefs.json").read_text(encoding="utf-8"))
        title = page.evaluate("app.graph.nodes.find((node) => node.comfyClass === 'TokenMixConditioning').title")
        assert title == chinese["TokenMixConditioning"]["display_name"]
        # The model's words stay what they are.
        assert "\u8f66" not in page.locator(".conceptlens-text").all_inner_texts()
        keep(page, "chinese")
