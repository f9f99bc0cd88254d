"""Concept cards: what is on them, and a page of them that needs nothing else."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser

import pytest
import torch
from conceptlens.core.conceptor.card import HALF, WIDTH, Portrait, comparison_card, concept_card, report_page
from conceptlens.core.conceptor.mixture import TokenMix
from conceptlens.core.errors import UserError
from conceptlens.core.pictures.grid import from_pil
from PIL import Image

MIX = TokenMix.of([1, 2, 3], ["smoke", "sax", "<night>"], [0.9, 0.5, 0.1], concept="jazz & blues", family="SD 1.x")


def colours(picture: torch.Tensor) -> set[tuple[int, ...]]:
    return {tuple(row) for row in (picture * 255).round().int().flatten(0, 1).unique(dim=0).tolist()}


def test_a_card_shows_what_it_is_given() -> None:
    red, green, blue = (torch.eye(3)[row].expand(9, 64, 48, 3) for row in range(3))
    bare, full = concept_card(Portrait(MIX)), concept_card(Portrait(MIX, red, green, blue[:3]), ["a line", "another"])
    assert bare.shape[1] == full.shape[1] == WIDTH
    assert full.shape[0] > bare.shape[0]
    own = {(255, 0, 0), (0, 255, 0), (0, 0, 255)}
    assert own <= colours(full)
    assert not own & colours(bare)


def test_two_models_stand_side_by_side() -> None:
    """Each model's pictures on its own half, in the same rows where they show the same kinds."""
    red, green, blue = (torch.eye(3)[row].expand(4, 64, 48, 3) for row in range(3))
    other = TokenMix.of([7], ["trumpet"], [1.0], concept="jazz & blues")
    card = comparison_card({"one model": Portrait(MIX, red), "another": Portrait(other, green, blue)}, ["a line"])
    assert card.shape[1] == WIDTH
    left, right = colours(card[:, : WIDTH // 2]), colours(card[:, WIDTH // 2 :])
    assert (255, 0, 0) in left - right
    assert {(0, 255, 0), (0, 0, 255)} <= right - left
    alike = comparison_card({"a": Portrait(MIX, red), "b": Portrait(MIX, red)})
    rows = (alike == torch.eye(3)[0]).all(-1)
    assert torch.equal(rows[:, : HALF // 2].any(1), rows[:, WIDTH // 2 + 1 :].any(1))


def test_a_card_of_an_empty_mix_is_refused() -> None:
    with pytest.raises(UserError, match="nothing to show"):
        concept_card(Portrait(TokenMix((), (), ())))
    with pytest.raises(UserError, match="nothing to show"):
        comparison_card({"one": Portrait(MIX), "other": Portrait(TokenMix((), (), ()))})


def test_pictures_of_another_mix_are_refused() -> None:
    with pytest.raises(UserError, match="4 pictures of words, and the mix has 3"):
        concept_card(Portrait(MIX, words=torch.zeros(4, 8, 8, 3)))


def test_a_page_holds_its_pictures_and_no_script() -> None:
    card = concept_card(Portrait(MIX))
    page = report_page("My <concepts>", [(MIX, card), (TokenMix.of([4], ["dog"], [1.0]), card)])
    HTMLParser().feed(page)
    assert "<script" not in page
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "My &lt;concepts&gt;" in page
    assert "jazz &amp; blues" in page
    assert "<h2>dog</h2>" in page  # a mix without a concept is named by its words
    assert "&lt;night&gt;" in page
    (first, _) = re.findall(r"base64,([^\"]+)", page)
    kept = from_pil(Image.open(io.BytesIO(base64.b64decode(first))))
    assert (kept - card).abs().max() <= 0.5 / 255 + 1e-6
