"""What the coefficient editor takes from a graph and leaves in it, whoever made the graph."""

from __future__ import annotations

import json
from typing import Any

import pytest
from conceptlens.tests.browser.conftest import MOUNT
from conceptlens.tests.browser.editor import bar, drag, learn, row, told, value
from playwright.sync_api import Page, expect


def test_changes_survive_a_new_mix(page: Page) -> None:
    learn(page)
    drag(page, "tulip", 0.4, 0.75)
    row(page, "daisy").locator(".conceptlens-switch").click()
    changes = told(page)
    learn(page, [[11, 12, 15], ["rose", "tulip", "leaf"], [0.7, 0.5, 0.3]])
    assert told(page) == changes
    expect(page.get_by_text("your changes stay")).to_be_visible()
    assert "vanished" in (row(page, "daisy").get_attribute("data-flags") or "")
    page.get_by_role("button", name="Adopt").click()
    assert told(page) == {}
    assert page.locator(".conceptlens-number").evaluate_all("all => all.map(one => one.value)") == ["0.7", "0.5", "0.3"]


def test_what_a_graph_has_kept_is_there_again(page: Page) -> None:
    learn(page)
    drag(page, "tulip", 0.4, 0.75)
    row(page, "rose").hover()
    row(page, "rose").get_by_label("Lock").click()
    row(page, "daisy").hover()
    row(page, "daisy").get_by_label("Solo").click()
    before, kept = told(page), page.evaluate("editor.aside")
    page.evaluate("editor.destroy()")
    page.evaluate(MOUNT, [])
    page.evaluate("([text, aside]) => editor.load(text, aside)", [json.dumps(before, separators=(",", ":")), kept])
    page.evaluate("editor.setLimit(50)")
    assert told(page) == before
    assert value(page, "tulip") == pytest.approx(0.75, abs=0.02)
    drag(page, "tulip", 0.75, 0.2)
    assert value(page, "tulip") == pytest.approx(0.2, abs=0.02)
    page.get_by_label("Undo").click()
    row(page, "daisy").hover()
    row(page, "daisy").get_by_label("Solo").click()
    assert told(page)["off"] == []
    assert bar(page, "rose").get_attribute("aria-disabled") == "true"


def test_a_text_that_can_not_be_read_is_kept_until_it_is_reset(page: Page) -> None:
    learn(page)
    page.evaluate("""editor.load('{"v": 2}', null)""")
    expect(page.get_by_text("can't be read")).to_be_visible()
    assert page.evaluate("editor.text") == '{"v": 2}'
    page.get_by_role("button", name="Reset", exact=False).last.click()
    assert told(page) == {}


@pytest.mark.parametrize(
    "aside",
    [
        "kept",
        {"learned": "rose"},
        {"learned": [[1], ["a", "b"], [0.5]]},
        {"learned": [["1"], ["a"], [0.5]]},
        {"learned": [[1], ["a"], ["much"]], "names": 7, "off": 3, "removed": {"1": 2}, "locked": [None]},
        {"contrast": {"a": [1], "b": [2], "start": {}, "t": 0}, "solo": "x", "order": {}},
    ],
)
def test_whatever_a_shared_graph_keeps_it_opens(page: Page, aside: Any) -> None:
    page.evaluate("""aside => editor.load('{"v":1,"set":{"11":0.5},"off":[],"add":{}}', aside)""", aside)
    learn(page)
    assert told(page)["set"] == {"11": 0.5}
    assert value(page, "rose") == 0.5
    assert page.locator(".conceptlens-row").count() == 4


def test_a_mix_as_text_and_back(page: Page) -> None:
    learn(page)
    assert page.evaluate("editor.asText") == "rose: 0.8, tulip: 0.4, daisy: 0.2, grass: 0.1"
    assert page.evaluate("editor.putText('tulip: 0.9, wolf: 0.25')") == ""
    assert told(page) == {"v": 1, "set": {"12": 0.9}, "off": [11, 13, 14], "add": {"5916": 0.25}}
    assert page.evaluate("editor.asText") == "tulip: 0.9, wolf: 0.25"
    assert "xyzzy" in page.evaluate("editor.putText('tulip: 1, xyzzy: 2')")


def test_pasted_words_are_all_that_counts(page: Page) -> None:
    """Whatever was alone, cut off or locked before."""
    learn(page)
    for act in ("Lock", "Solo"):
        row(page, "daisy").hover()
        row(page, "daisy").get_by_label(act).click()
    assert page.evaluate("editor.putText('tulip: 0.9, daisy: 0.25')") == ""
    assert told(page) == {"v": 1, "set": {"12": 0.9, "13": 0.25}, "off": [11, 14], "add": {}}


def test_an_added_word_that_is_learned_later_can_be_changed(page: Page) -> None:
    learn(page)
    page.evaluate("editor.putText('rose: 0.8, wolf: 0.25')")
    learn(page, [[11, 5916], ["rose", "wolf"], [0.8, 0.4]])
    drag(page, "wolf", 0.25, 0.6)
    assert value(page, "wolf") == pytest.approx(0.6, abs=0.02)
    bar(page, "wolf").dblclick()
    assert value(page, "wolf") == 0.4


def test_a_number_is_for_the_word_at_which_it_was_begun(page: Page) -> None:
    """A run that ends while one types sorts the rows anew."""
    learn(page)
    bar(page, "rose").focus()
    page.keyboard.press("Enter")
    page.keyboard.type("0.33")
    learn(page, [[12, 11], ["tulip", "rose"], [0.7, 0.5]])
    page.keyboard.press("Enter")
    assert told(page)["set"] == {"11": 0.33}


PAYLOADS = [
    "<script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked=1'>",
    "<svg/onload=window.hacked=1>",
    "<svg><script>window.hacked=1</script></svg>",
    "<iframe srcdoc='<script>parent.hacked=1</script>'></iframe>",
    '"><script>window.hacked=1</script>',
    "' onmouseover='window.hacked=1",
    "javascript:window.hacked=1",
    "<a href='javascript:window.hacked=1'>x</a>",
    "<details open ontoggle=window.hacked=1>",
    "<body onload=window.hacked=1>",
    "<style>*{display:none}</style>",
    "<link rel=stylesheet href=//example.invalid/x.css>",
    "<math><mtext></p><img src onerror=window.hacked=1>",
    "<video><source onerror=window.hacked=1>",
    "<input autofocus onfocus=window.hacked=1>",
    "<template><script>window.hacked=1</script></template>",
    "<object data='data:text/html,<script>parent.hacked=1</script>'>",
    "{{constructor.constructor('window.hacked=1')()}}",
    "${window.hacked=1}",
    "</textarea><script>window.hacked=1</script>",
    "<marquee onstart=window.hacked=1>",
    "\u202e<b>reversed</b>",
]


def test_markup_is_text(page: Page) -> None:
    """Words of a shared workflow, in rows, notices, groups, suggestions and dialogs."""
    ids = list(range(100, 100 + len(PAYLOADS)))
    learn(page, [ids, PAYLOADS, [1.0] * len(ids)])
    page.evaluate("editor.load('', { names: { 7: '<img src=x onerror=window.hacked=1>' }, order: '<b>' })")
    shown: list[str] = []
    for place in range(len(PAYLOADS)):
        page.evaluate("place => editor._list.reveal(place)", place)
        shown += page.locator(".conceptlens-text").evaluate_all("all => all.map(one => one.textContent)")
    assert set(PAYLOADS) <= set(shown)
    page.locator(".conceptlens-text").first.click()
    page.get_by_role("button", name="Group A").click()
    page.get_by_label("Chart").click()
    page.keyboard.press("Escape")
    learn(page, [[1], ["plain"], [1.0]])
    assert page.evaluate("window.hacked") is None
    foreign = "script, img, iframe, object, video, marquee, details, math, template, style, b, a, link"
    assert page.locator(f".conceptlens-editor :is({foreign}):not(.conceptlens-picture)").count() == 0
    assert page.locator(".conceptlens-picture[src]").count() == 0


def test_every_language_says_everything(page: Page) -> None:
    texts = page.evaluate(
        """async (languages) => {
          const { textsIn } = await import("/token_mix/texts.js");
          return languages.map(textsIn);
        }""",
        ["en", "zh", "ja", "ko", "de", "fr", "es", "ru", "xx", None],
    )
    english, *others = texts
    assert texts[-1] == texts[-2] == english
    for other in others[:-2]:
        assert other.keys() == english.keys()
        assert sum(other[key] != english[key] for key in english) > len(english) - 5
        for key, text in english.items():
            assert {f"{{{n}}}" for n in range(2) if f"{{{n}}}" in text} == {
                f"{{{n}}}" for n in range(2) if f"{{{n}}}" in other[key]
            }
