"""The example graphs as their users run them: from the template browser's files, on the host's page."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from conceptlens.hosting.server import HostServer
from conceptlens.tests.browser.host_page import FEW, host_page, open_example, queue
from conceptlens.tests.conftest import ROOT
from playwright.sync_api import Browser, Page


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
