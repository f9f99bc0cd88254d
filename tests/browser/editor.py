"""The coefficient editor on a page: what a test does with it and reads from it."""

from __future__ import annotations

import json
from typing import Any

from conceptlens.core.conceptor.mixture import MixEdits
from playwright.sync_api import Locator, Page

ROWS = [[11, 12, 13, 14], ["rose", "tulip", "daisy", "grass"], [0.8, 0.4, 0.2, 0.1]]


TOKENS = 49408


def learn(page: Page, rows: list[Any] = ROWS) -> None:
    page.evaluate("rows => editor.learn({ rows, near: { 11: [[21, 'roses'], [22, 'floral']] } })", rows)


def row(page: Page, text: str) -> Locator:
    named = page.get_by_role("button", name=text, exact=True)
    return page.locator(".conceptlens-row").filter(has=named)


def bar(page: Page, text: str) -> Locator:
    return page.get_by_role("slider", name=text, exact=True)


def value(page: Page, text: str) -> float:
    return float(bar(page, text).get_attribute("aria-valuenow") or "nan")


def told(page: Page) -> dict[str, Any]:
    """The changes as the node now reads them."""
    text = page.evaluate("editor.text")
    MixEdits.parse(text, TOKENS)  # every text that the editor writes is one that the node can read
    return json.loads(text) if text else {}


def drag(page: Page, text: str, start: float, end: float) -> None:
    box = bar(page, text).bounding_box()
    assert box is not None
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + start * box["width"], middle)
    page.mouse.down()
    page.mouse.move(box["x"] + end * box["width"], middle, steps=4)
    page.mouse.up()
