"""Chromium, a page that holds nothing but the coefficient editor, and a real host."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from conceptlens.evaluation.speed.editor import serve
from conceptlens.hosting.browser import chromium
from conceptlens.hosting.server import HostServer
from conceptlens.tests.browser.host_page import host_page
from playwright.sync_api import Browser, Page

MOUNT = """async (words) => {
  const { mountEditor } = await import("/token_mix/editor.js");
  window.told = [];
  const find = async (query) => words.filter(([, text]) => text.includes(query)).map(([id, text]) => ({ id, text }));
  const changed = (text, aside) => told.push({ text, finished: aside !== null });
  window.editor = mountEditor(document.getElementById("place"), { changed, find, pictures: () => [], language: "en" });
}"""


@pytest.fixture(scope="session")
def site() -> Iterator[str]:
    """The pack's `web` folder, served."""
    with serve() as address:
        yield address


@pytest.fixture(scope="module")  # its event loop must have ended before other tests run theirs
def browser() -> Iterator[Browser]:
    with chromium() as running:
        assert running, "there is no Chromium; python run.py test installs one, or leaves it out with --no-browser"
        yield running


@pytest.fixture
def page(browser: Browser, site: str) -> Iterator[Page]:
    """An editor that has learned nothing; nothing may go wrong unseen."""
    opened = browser.new_page(viewport={"width": 600, "height": 500})
    problems: list[str] = []
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("console", lambda said: problems.append(said.text) if said.type in ("error", "warning") else None)
    opened.goto(site)
    opened.evaluate(MOUNT, [[1929, "dog"], [2368, "cat"], [5916, "wolf"], [10635, "wolves"]])
    yield opened
    opened.close()
    assert not [problem for problem in problems if "favicon" not in problem and "404" not in problem]


LANGUAGE_MODEL = """
from conceptlens.tests.host.transformers import tiny_transformer, tiny_vae


class TinyLanguageModel:
    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "load", ("MODEL", "CLIP", "VAE")

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    def load(self):
        return *tiny_transformer("Z-Image"), tiny_vae()


NODE_CLASS_MAPPINGS = {"TinyLanguageModel": TinyLanguageModel}
"""


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostServer]:
    """With a loader of a model whose prompts a language model reads, both of random weights."""
    base = tmp_path_factory.mktemp("browser")
    (base / "custom_nodes").mkdir()
    (base / "custom_nodes/tiny_models.py").write_text(LANGUAGE_MODEL, encoding="utf-8")
    with HostServer(base, "--cpu") as running:
        yield running


@pytest.fixture(params=["classic canvas", "Nodes 2.0"], scope="module")
def renderer(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def opened(browser: Browser, host: HostServer, renderer: str) -> Iterator[Page]:
    """The host's own page, in each of its renderers."""
    with host_page(browser, host, {"Comfy.VueNodes.Enabled": renderer == "Nodes 2.0"}) as page:
        yield page
