"""What the coefficient editor takes from a graph and leaves in it, whoever made the graph."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

import pytest
from conceptlens.core.conceptor.mixture import MixEdits, TokenMix
from conceptlens.tests.browser.conftest import MOUNT
from conceptlens.tests.browser.editor import TOKENS, bar, drag, learn, row, told, value
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


USED = """async (cases) => {
  const { EditorState } = await import("/token_mix/state.js");
  return cases.map(({ rows, text, limit }) => {
    const state = new EditorState();
    state.learn(rows);
    state.load(text, null);
    state.setLimit(limit);
    const used = state.rows.filter((row) => state.used(row)).sort((a, b) => b.value - a.value);
    return { ids: used.map((row) => row.id), shares: used.map((row) => state.share(row)), count: state.count };
  });
}"""


class Names:
    def decode(self, tokens: Sequence[int]) -> str:
        return f"word {tokens[0]}"


def test_the_words_that_are_marked_are_those_that_the_node_uses(page: Page) -> None:
    """With equal coefficients at the cut, words off and added, and both limits."""
    chance = random.Random(1)
    cases, expected = [], []
    for _ in range(300):
        ids = chance.sample(range(100), 12)
        values = [chance.choice([0.5, 0.25, 0.0, -0.25]) for _ in ids]
        mix = TokenMix.of(ids[:8], [Names().decode([token]) for token in ids[:8]], values[:8])
        text = json.dumps(
            {
                "v": 1,
                "set": {str(token): chance.choice([0.5, 0.25]) for token in chance.sample(ids[:9], 2)},
                "off": chance.sample(ids, 2),
                "add": {str(token): value for token, value in zip(ids[7:], values[7:], strict=True)},
                **({"top": chance.randint(1, 12)} if chance.random() < 0.7 else {}),
            }
        )
        limit = chance.randint(1, 12)
        uses: Any = Names()
        used = MixEdits.parse(text, TOKENS).apply(mix, uses).top(limit)
        cases.append({"rows": [mix.ids, mix.texts, mix.coefficients], "text": text, "limit": limit})
        expected.append({"ids": list(used.ids), "shares": pytest.approx(used.shares()), "count": len(used)})
    assert page.evaluate(USED, cases) == expected


def test_a_number_is_shown_as_the_node_reads_it(page: Page) -> None:
    """Two bars that were dragged to nearly the same place are in the order that the picture has."""
    learn(page)
    page.evaluate("editor.state.put({ 11: 0.12345678, 12: 0.12345679 })")
    page.evaluate("editor.state.cut(3)")
    assert page.evaluate("editor.asText") == "daisy: 0.2, rose: 0.1235, tulip: 0.1235"
    assert told(page)["set"] == {"11": 0.123457, "12": 0.123457}


def lock(page: Page, text: str) -> None:
    row(page, text).hover()
    row(page, text).get_by_label("Lock").click()


def select(page: Page, first: str, *others: str) -> None:
    row(page, first).locator(".conceptlens-text").click()
    for other in others:
        row(page, other).locator(".conceptlens-text").click(modifiers=["Control"])


@pytest.fixture
def locked(page: Page) -> Page:
    """A mix whose word "tulip" was moved and locked."""
    learn(page)
    page.evaluate("editor.state.put({ 12: 0.7 }), editor.endChange()")
    lock(page, "tulip")
    return page


def test_of_a_group_that_is_dragged_what_is_locked_stays(locked: Page) -> None:
    select(locked, "rose", "tulip", "daisy")
    drag(locked, "rose", 0.8, 0.4)
    assert value(locked, "tulip") == 0.7
    assert value(locked, "rose") == pytest.approx(0.4, abs=0.02)
    assert value(locked, "daisy") == pytest.approx(value(locked, "rose") / 4, abs=1e-3)


def test_a_locked_word_does_not_return_to_what_was_learned(locked: Page) -> None:
    drag(locked, "rose", 0.8, 0.4)
    select(locked, "rose", "tulip")
    bar(locked, "rose").dblclick()
    bar(locked, "tulip").dblclick(force=True)
    assert told(locked)["set"] == {"12": 0.7}


def test_a_locked_word_stays_when_groups_are_weighed(locked: Page) -> None:
    select(locked, "rose", "tulip")
    locked.get_by_role("button", name="Group A").click()
    select(locked, "daisy")
    locked.get_by_role("button", name="Group B").click()
    locked.get_by_role("slider", name="Between rose, tulip and daisy").fill("1")
    assert told(locked)["set"] == {"11": 0, "12": 0.7, "13": 0.4}


def test_a_locked_word_can_not_be_removed(locked: Page) -> None:
    row(locked, "tulip").hover()
    expect(row(locked, "tulip").get_by_label("Remove")).to_be_disabled()
    select(locked, "rose", "tulip")
    bar(locked, "tulip").focus()
    locked.keyboard.press("Delete")
    assert locked.locator(".conceptlens-text").all_inner_texts() == ["tulip", "daisy", "grass"]
    assert told(locked) == {"v": 1, "set": {"12": 0.7}, "off": [11], "add": {}}


def test_a_new_mix_leaves_locked_words_where_they_are(locked: Page) -> None:
    """Also one that was locked at the learned value, after Adopt, after an undo, and when the mix lacks it."""
    lock(locked, "rose")
    drag(locked, "daisy", 0.2, 0.4)
    learn(locked, [[11, 12, 13], ["rose", "tulip", "daisy"], [0.5, 0.3, 0.1]])
    assert [value(locked, text) for text in ("rose", "tulip")] == [0.8, 0.7]
    assert told(locked)["set"].keys() == {"11", "12", "13"}
    locked.get_by_label("Undo").click()
    assert [value(locked, text) for text in ("rose", "tulip", "daisy")] == [0.8, 0.7, 0.1]
    locked.get_by_label("Redo").click()
    locked.get_by_role("button", name="Adopt").click()
    assert told(locked)["set"] == {"11": 0.8, "12": 0.7}
    learn(locked, [[11, 13], ["rose", "daisy"], [0.8, 0.1]])
    assert told(locked)["set"]["12"] == 0.7
    locked.get_by_role("button", name="Adopt").click()
    locked.get_by_role("button", name="Dismiss").click()
    assert told(locked)["set"] == {"11": 0.8}
    assert locked.locator(".conceptlens-text").all_inner_texts() == ["rose", "daisy"]


def test_locked_words_that_leave_nothing_for_the_others_are_told(locked: Page) -> None:
    lock(locked, "rose")
    before = told(locked)
    locked.get_by_label("Make the coefficients sum to 1").click()
    expect(locked.get_by_text("Locked words leave nothing for the others")).to_be_visible()
    assert told(locked) == before
    learn(locked, [[11], ["rose"], [0.5]])
    expect(locked.get_by_text("your changes stay")).to_be_visible()
    locked.get_by_label("Reset all changes").click()  # all of them, locks too
    assert told(locked) == {}
    expect(locked.get_by_text("your changes stay")).to_be_hidden()
    assert bar(locked, "rose").get_attribute("aria-disabled") == "false"


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


def test_a_decimal_comma_is_no_word(page: Page) -> None:
    learn(page)
    said = page.evaluate("editor.putText('tulip: 0,6, rose: 0,2')")
    assert "write decimals with a point" in said
    assert "6, 2" in said
    assert told(page) == {}
    page.evaluate(MOUNT, [[23, "6"]])
    assert page.evaluate("editor.putText('6: 1')") == ""
    assert told(page)["add"] == {"23": 1}


def test_pasted_words_are_all_that_counts(page: Page) -> None:
    """Whatever was alone or cut off before."""
    learn(page)
    page.evaluate("editor.state.cut(1)")
    row(page, "daisy").hover()
    row(page, "daisy").get_by_label("Solo").click()
    assert page.evaluate("editor.putText('tulip: 0.9, daisy: 0.25')") == ""
    assert told(page) == {"v": 1, "set": {"12": 0.9, "13": 0.25}, "off": [11, 14], "add": {}}


def test_a_locked_word_is_not_pasted_over(locked: Page) -> None:
    """The whole text is refused, or the mix would be another than the one that it says."""
    before = told(locked)
    assert locked.evaluate("editor.putText('rose: 1, tulip: 0.25')") == "Locked, unlock first: tulip"
    assert told(locked) == before
    assert locked.evaluate("editor.putText('rose: 1, tulip: 0.7')") == ""
    assert told(locked) == {"v": 1, "set": {"11": 1, "12": 0.7}, "off": [13, 14], "add": {}}
    assert locked.evaluate("editor.putText('daisy: 1')") == ""
    assert value(locked, "tulip") == 0.7


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
