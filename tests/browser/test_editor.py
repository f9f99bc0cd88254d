"""The coefficient editor as it is used: by pointer, by keyboard, and what the node is then told."""

from __future__ import annotations

import pytest
from axe_playwright_python.sync_playwright import Axe
from conceptlens.tests.browser.editor import ROWS, bar, drag, learn, row, told, value
from playwright.sync_api import Page, expect


def test_before_the_first_run_it_says_what_to_do(page: Page) -> None:
    expect(page.get_by_text("Run the graph once")).to_be_visible()
    assert page.evaluate("editor.text") == ""


def test_a_chart_shows_words_and_says_so_when_there_are_none(page: Page) -> None:
    page.get_by_label("Chart").click()
    expect(page.get_by_role("dialog", name="Chart").get_by_text("Run the graph once")).to_be_visible()
    learn(page)
    page.get_by_label("Chart").first.click()
    chart = page.get_by_role("img", name="rose: 0.8, tulip: 0.4, daisy: 0.2, grass: 0.1")
    drawn = "canvas => canvas.toDataURL()"
    bars = chart.evaluate(drawn)
    assert len(bars) > 2 * len(chart.evaluate("canvas => canvas.cloneNode().toDataURL()"))
    page.get_by_role("button", name="Cloud").click()
    assert chart.evaluate(drawn) != bars


def test_learned_words_are_shown_with_their_shares(page: Page) -> None:
    learn(page)
    assert page.locator(".conceptlens-text").all_inner_texts() == ["rose", "tulip", "daisy", "grass"]
    assert page.locator(".conceptlens-share").all_inner_texts() == ["53.3%", "26.7%", "13.3%", "6.7%"]
    assert page.evaluate("editor.text") == ""
    expect(page.get_by_text("4 of 4 words")).to_be_visible()


def test_a_small_coefficient_is_shown_whole(page: Page) -> None:
    learn(page, [[11, 12], ["rose", "tulip"], [0.3447, 0.0086654]])
    number = row(page, "tulip").locator("input")
    assert number.input_value() == "0.008665"
    assert number.evaluate("field => field.scrollWidth <= field.clientWidth")


def test_what_is_uncertain_looks_uncertain(page: Page) -> None:
    """A thin line from end to end of a share's interval; a bar is pale whose interval reaches nothing."""
    intervals = {"11": [0.5, 1.0], "12": [0.01, 0.6]}
    page.evaluate("([rows, intervals]) => editor.learn({ rows, intervals })", [ROWS, intervals])
    for text, (low, high) in {"rose": (0.5, 1.0), "tulip": (0.01, 0.6)}.items():
        line, whole = row(page, text).locator(".conceptlens-interval").bounding_box(), bar(page, text).bounding_box()
        assert line
        assert whole
        ends = [(x - whole["x"]) / whole["width"] for x in (line["x"], line["x"] + line["width"])]
        assert ends == pytest.approx([low, high], abs=0.02)  # a whole bar is 1.0 here
    expect(row(page, "daisy").locator(".conceptlens-interval")).to_be_hidden()
    pale = [
        row(page, text).locator(".conceptlens-fill").evaluate("fill => getComputedStyle(fill).opacity")
        for text in ROWS[1]
    ]
    assert pale == ["1", "0.45", "1", "1"]


def test_a_drag_sets_the_coefficient_under_the_pointer(page: Page) -> None:
    learn(page)
    drag(page, "tulip", 0.4, 0.75)
    assert told(page)["set"] == {"12": pytest.approx(0.75, abs=0.02)}  # a whole bar is 1.25 times the largest
    finished = page.evaluate("told.map(one => one.finished)")
    assert finished[-1]
    assert not any(finished[:-1])
    page.get_by_label("Undo").click()
    assert told(page) == {}
    page.get_by_label("Redo").click()
    assert told(page)["set"] == {"12": pytest.approx(0.75, abs=0.02)}
    bar(page, "tulip").dblclick()
    assert told(page) == {}


def test_a_drag_with_shift_is_fine(page: Page) -> None:
    learn(page)
    page.keyboard.down("Shift")
    drag(page, "tulip", 0.4, 0.9)
    page.keyboard.up("Shift")
    assert value(page, "tulip") == pytest.approx(0.4 + 0.1 * 0.5, abs=0.01)


def test_a_zoomed_graph_drags_alike(page: Page) -> None:
    learn(page)
    page.evaluate("document.getElementById('place').style.transform = 'translate(30px, 20px) scale(0.6)'")
    drag(page, "tulip", 0.4, 0.75)
    assert value(page, "tulip") == pytest.approx(0.75, abs=0.03)


def test_where_writing_goes_from_right_to_left_so_do_bars(page: Page) -> None:
    learn(page, [[11, 12], ["\u0648\u0631\u062f\u0629", "tulip"], [0.8, 0.4]])
    page.evaluate("document.documentElement.dir = 'rtl'")
    drag(page, "tulip", 0.6, 0.25)
    assert value(page, "tulip") == pytest.approx(0.75, abs=0.02)
    page.keyboard.press("ArrowLeft")
    assert value(page, "tulip") == pytest.approx(0.76, abs=0.02)
    texts = page.locator(".conceptlens-text span")
    assert texts.evaluate_all("all => all.map((one) => getComputedStyle(one).unicodeBidi)") == ["plaintext"] * 2


def test_a_finger_drags_sideways_and_scrolls_up_and_down(page: Page) -> None:
    ids = list(range(11, 61))
    learn(page, [ids, [f"word{token}" for token in ids], [0.5] * 50])
    box = bar(page, "word13").bounding_box()
    assert box is not None
    devtools = page.context.new_cdp_session(page)

    def swipe(by_x: float, by_y: float) -> None:
        x, y = box["x"] + 0.5 * box["width"], box["y"] + 0.5 * box["height"]
        devtools.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [{"x": x, "y": y}]})
        for step in range(1, 9):
            point = {"x": x + by_x * step / 8, "y": y + by_y * step / 8}
            devtools.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": [point]})
        devtools.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        page.wait_for_timeout(200)

    swipe(0.2 * box["width"], 0)
    end = float(bar(page, "word13").get_attribute("aria-valuemax") or "nan")
    assert value(page, "word13") == pytest.approx(0.7 * end, abs=0.02)
    changed = told(page)
    assert list(changed["set"]) == ["13"]
    swipe(0, -30)
    assert page.locator(".conceptlens-list").evaluate("list => list.scrollTop") > 10
    assert told(page) == changed


def test_everything_goes_by_keyboard(page: Page) -> None:
    learn(page)
    bar(page, "rose").focus()
    page.keyboard.press("ArrowRight")  # a hundredth of the bar, which ends at 1
    assert value(page, "rose") == pytest.approx(0.81)
    page.keyboard.press("PageDown")
    assert value(page, "rose") == pytest.approx(0.71)
    page.keyboard.press("Home")
    assert value(page, "rose") == 0
    page.keyboard.press("ArrowDown")
    expect(bar(page, "tulip")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.type("0,5")
    page.keyboard.press("Enter")
    assert told(page)["set"] == {"11": 0, "12": 0.5}
    expect(bar(page, "tulip")).to_be_focused()
    page.keyboard.press("Space")
    assert told(page)["off"] == [12]
    page.keyboard.press("Delete")
    assert page.locator(".conceptlens-text").all_inner_texts() == ["rose", "daisy", "grass"]
    assert told(page)["off"] == [12]
    page.keyboard.press("Control+z")
    page.keyboard.press("Control+z")
    assert told(page) == {"v": 1, "set": {"11": 0, "12": 0.5}, "off": [], "add": {}}


def test_a_number_that_is_none_changes_nothing(page: Page) -> None:
    learn(page)
    field = row(page, "rose").get_by_label("Coefficient")
    field.fill("much")
    field.press("Enter")
    assert field.input_value() == "0.8"
    assert told(page) == {}
    field.fill("-0.3")
    field.press("Enter")
    assert told(page)["set"] == {"11": -0.3}
    assert bar(page, "tulip").get_attribute("aria-valuemin") == "-1"  # bars begin in the middle now


def test_selected_words_move_by_the_same_factor(page: Page) -> None:
    learn(page)
    row(page, "rose").locator(".conceptlens-text").click()
    row(page, "daisy").locator(".conceptlens-text").click(modifiers=["Control"])
    field = row(page, "rose").get_by_label("Coefficient")
    field.fill("0.4")
    field.press("Enter")
    assert told(page)["set"] == {"11": 0.4, "13": pytest.approx(0.1)}


def test_two_groups_are_weighed_against_each_other(page: Page) -> None:
    learn(page)
    row(page, "rose").locator(".conceptlens-text").click()
    page.get_by_role("button", name="Group A").click()
    row(page, "tulip").locator(".conceptlens-text").click()
    page.get_by_role("button", name="Group B").click()
    slider = page.get_by_role("slider", name="Between rose and tulip")
    slider.fill("1")
    assert told(page)["set"] == {"11": 0, "12": 0.8}
    slider.fill("-0.5")
    assert told(page)["set"] == {"11": 1.2, "12": 0.2}
    slider.fill("0")
    assert told(page) == {}


def test_locked_words_stay(page: Page) -> None:
    learn(page)
    row(page, "rose").hover()
    row(page, "rose").get_by_label("Lock").click()
    drag(page, "rose", 0.6, 0.1)
    assert told(page) == {}
    page.get_by_label("Make the coefficients sum to 1").click()
    changed = told(page)["set"]
    assert "11" not in changed
    assert sum(changed.values()) == pytest.approx(0.2, abs=1e-5)


def test_solo_is_taken_back(page: Page) -> None:
    learn(page)
    row(page, "grass").locator(".conceptlens-switch").click()
    row(page, "tulip").hover()
    row(page, "tulip").get_by_label("Solo").click()
    assert told(page)["off"] == [11, 13, 14]
    row(page, "tulip").get_by_label("Solo").click()
    assert told(page)["off"] == [14]


def test_the_largest_only(page: Page) -> None:
    learn(page)
    page.get_by_role("textbox", name="Largest").fill("2")
    page.get_by_role("textbox", name="Largest").press("Enter")
    assert told(page)["top"] == 2
    assert page.locator(".conceptlens-share").all_inner_texts() == ["66.7%", "33.3%", "", ""]
    page.get_by_role("slider", name="Largest").focus()
    page.keyboard.press("ArrowDown")
    assert told(page)["top"] == 3
    page.keyboard.press("End")
    assert told(page) == {}


def test_of_equal_words_the_first_are_the_largest(page: Page) -> None:
    learn(page, [[11, 12, 13, 14], ["rose", "tulip", "daisy", "grass"], [0.5, 0.5, 0.5, 0.5]])
    page.get_by_role("textbox", name="Largest").fill("2")
    page.get_by_role("textbox", name="Largest").press("Enter")
    assert page.locator(".conceptlens-share").all_inner_texts() == ["50.0%", "50.0%", "", ""]
    expect(page.get_by_text("2 of 4 words")).to_be_visible()
    assert page.evaluate("editor.asText") == "rose: 0.5, tulip: 0.5"


def test_what_a_raised_word_displaces_is_marked_while_it_moves(page: Page) -> None:
    learn(page)
    page.evaluate("editor.setLimit(2)")
    box = bar(page, "grass").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 0.1 * box["width"], box["y"] + 9)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 9)
    assert page.locator(".conceptlens-share").all_inner_texts() == ["61.5%", "", "", "38.5%"]
    page.mouse.up()


def test_the_nodes_own_number_cuts_too(page: Page) -> None:
    """The line stands where fewer are left, below the words that are off."""
    learn(page)
    cut = page.get_by_role("slider", name="Largest")

    def line() -> tuple[str | None, float]:
        edge, list_top = (one.bounding_box() for one in (cut, page.locator(".conceptlens-content")))
        assert edge
        assert list_top
        return cut.get_attribute("data-label"), round((edge["y"] + edge["height"] / 2 - list_top["y"]) / 28)

    assert line() == ("all", 4)
    page.evaluate("editor.setLimit(2)")
    assert line() == ("Largest 2", 2)
    row(page, "rose").locator(".conceptlens-switch").click()
    assert line() == ("Largest 2", 3)
    assert page.locator(".conceptlens-share").all_inner_texts() == ["", "66.7%", "33.3%", ""]
    page.evaluate("editor.state.cut(1), editor.setLimit(2)")
    assert line() == ("Largest 1", 2)
    box = page.locator(".conceptlens-content").bounding_box()
    edge = cut.bounding_box()
    assert box
    assert edge
    page.mouse.move(edge["x"] + 20, edge["y"] + 5)
    page.mouse.down()
    page.mouse.move(edge["x"] + 20, box["y"] + 3 * 28)
    page.mouse.up()
    assert told(page)["top"] == 2
    assert line() == ("Largest 2", 3)


def test_largest_can_be_said_before_the_first_run(page: Page) -> None:
    page.get_by_role("textbox", name="Largest").fill("2")
    page.get_by_role("textbox", name="Largest").press("Enter")
    learn(page)
    assert told(page)["top"] == 2
    expect(page.get_by_text("2 of 4 words")).to_be_visible()


def test_a_word_is_added_from_the_vocabulary(page: Page) -> None:
    learn(page)
    page.get_by_label("Add a word").click()
    page.keyboard.type("wol")
    expect(page.get_by_role("listbox").get_by_role("option")).to_have_text(["wolf", "wolves"])
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(bar(page, "wolves")).to_be_focused()
    assert told(page)["add"] == {"10635": 0.5}
    row(page, "rose").hover()
    row(page, "rose").get_by_label("Nearest words").click()
    page.get_by_role("listbox").get_by_role("option", name="floral").click()
    assert told(page)["add"] == {"10635": 0.5, "22": 0.8}


def test_a_word_that_is_typed_fast_is_the_one_that_is_added(page: Page) -> None:
    learn(page)
    page.get_by_label("Add a word").click()
    page.keyboard.type("wolf")
    expect(page.get_by_role("listbox").get_by_role("option")).to_have_text(["wolf"])
    page.keyboard.press("Backspace")
    page.keyboard.type("ves")
    page.keyboard.press("Enter")
    expect(bar(page, "wolves")).to_be_focused()
    assert told(page)["add"] == {"10635": 0.5}


def test_a_click_elsewhere_closes_the_list_of_words_and_counts(page: Page) -> None:
    learn(page, [[11, *range(100, 120)], ["rose", *map(str, range(100, 120))], [0.8, *[0.1] * 20]])
    page.get_by_label("Add a word").click()
    page.get_by_role("textbox", name="Largest").click()
    expect(page.get_by_role("listbox")).to_have_count(0)
    expect(page.get_by_role("textbox", name="Largest")).to_be_focused()


def test_words_that_were_drawn_show_their_picture(page: Page) -> None:
    learn(page)
    assert page.locator(".conceptlens-picture:visible").count() == 0
    pixel = "data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw=="
    page.evaluate("pixel => editor.illustrate([[12, pixel], [99, pixel]])", pixel)
    pictures = page.locator(".conceptlens-picture:visible")
    expect(pictures).to_have_count(1)
    assert row(page, "tulip").locator("img").get_attribute("src") == pixel
    page.get_by_label("Order").select_option("name")
    expect(row(page, "tulip").locator("img")).to_be_visible()
    expect(pictures).to_have_count(1)


def test_thousands_of_words_are_a_few_rows_on_the_page(page: Page) -> None:
    count = 5000
    ids = list(range(count))
    learn(page, [ids, [f"word{place}" for place in ids], [1 / (1 + place) for place in ids]])
    assert page.locator(".conceptlens-row").count() < 40
    page.locator(".conceptlens-list").evaluate("list => { list.scrollTop = list.scrollHeight }")
    expect(row(page, "word4999")).to_be_visible()
    assert page.locator(".conceptlens-row").count() < 60
    page.get_by_label("Filter words").fill("word499")
    assert page.locator(".conceptlens-text").all_inner_texts() == ["word499", *[f"word{4990 + n}" for n in range(10)]]
    changes = {str(token): 0.123456789 for token in ids[:200]}
    page.evaluate("changes => editor.load(JSON.stringify({ v: 1, set: changes }), null)", changes)
    assert len(page.evaluate("editor.text")) < 20_000


@pytest.mark.parametrize(("ink", "surface", "faint"), [("#ddd", "#222", "#333"), ("#222", "#fff", "#eee")])
def test_what_stands_in_small_letters_can_be_read(page: Page, ink: str, surface: str, faint: str) -> None:
    """Also on hosts whose own colour for it can't be, as those of ComfyUI 0.24."""
    colours = {"foreground": ink, "widget-background": surface, "foreground-secondary": faint}
    said = "".join(f"--component-node-{name}: {colour};" for name, colour in colours.items())
    page.add_style_tag(content=f":root {{ {said} }} body {{ background: {surface}; }}")
    learn(page)
    found = Axe().run(page, context=".conceptlens-editor", options={"runOnly": ["color-contrast"]}).response
    assert [node["html"] for rule in found["violations"] for node in rule["nodes"]] == []
    assert [rule["id"] for rule in found["passes"]] == ["color-contrast"]


def test_it_can_be_used_without_seeing_it(page: Page) -> None:
    """axe-core finds nothing in the editor, whatever it shows."""

    def check() -> None:
        found = Axe().run(page, context=".conceptlens-editor").response["violations"]
        assert [(rule["id"], [node["html"][:200] for node in rule["nodes"]]) for rule in found] == []

    check()
    learn(page)
    drag(page, "tulip", 0.4, 0.75)
    row(page, "rose").locator(".conceptlens-text").click()
    page.get_by_role("button", name="Group A").click()
    learn(page, [[11, 13], ["rose", "daisy"], [0.5, 0.4]])
    check()
    page.get_by_label("Add a word").click()
    page.keyboard.type("wol")
    expect(page.get_by_role("listbox").get_by_role("option")).to_have_count(2)
    check()
