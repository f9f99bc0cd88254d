"""The example graphs as their users run them: from the template browser's files, on the host's page."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from conceptlens.hosting.server import HostServer
from conceptlens.tests.browser.host_page import host_page, open_example, queue
from conceptlens.tests.conftest import ROOT
from playwright.sync_api import Browser, Page

FEW: dict[str, int | str] = {
    "steps": 2,
    "sampling_steps": 2,
    "validate_every": 1,
    "validation_images": 2,
    "num_images": 4,
    "samples": 32,  # so many that both groups of a balance have some at either end
    "count": 4,
    "iterations": 2,
    "dictionary_size": 32,
    "width": 64,
    "height": 64,
    "method": "conceptor",  # the other one compares words for a minute
}


@pytest.fixture(scope="module")
def page(browser: Browser, host: HostServer) -> Iterator[Page]:
    with host_page(browser, host, {}) as opened:
        yield opened


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "workflows").glob("*.json")))
def test_an_example_runs(name: str, page: Page, host: HostServer) -> None:
    """Every node of it, with few steps and pictures; what stands in a preview is there."""
    open_example(page, name, FEW)
    history = queue(page, host)
    assert history["status"]["status_str"] == "success", history["status"]["messages"]
    shown = {number for number, node in history["prompt"][2].items() if "Preview" in node["class_type"]}
    assert shown
    assert shown <= history["outputs"].keys()
