"""The ground truth is complete, consistent, and what captions are drawn from."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from conceptlens.core.errors import UserError
from conceptlens.world import packages
from conceptlens.world.emoji.captions import KINDS, draw_caption, with_article
from conceptlens.world.emoji.colours import HUES
from conceptlens.world.emoji.pictures import SEEN, varied
from conceptlens.world.emoji.sources import PACKAGES
from conceptlens.world.emoji.truth import TONES, Truth
from conceptlens.world.packages import Package, fetch
from PIL import Image


@pytest.fixture(scope="module")
def truth() -> Truth:
    return Truth.load()


@pytest.fixture(scope="module")
def captions(truth: Truth) -> list:
    generator = random.Random(0)
    return [draw_caption(truth, generator) for _ in range(60_000)]


def test_it_is_as_large_as_it_was_meant_to_be(truth: Truth) -> None:
    assert len(truth.emoji) >= 400
    assert len(set(truth.emoji.values())) == len(truth.emoji)
    assert sorted(truth.emoji) == sorted(name for names in truth.groups.values() for name in names)
    assert len(truth.default_colours) >= 60
    assert len(truth.keywords) - len(truth.held_out_keywords) >= 40
    assert len(truth.professions) >= 8


def test_objects_have_colours_left_to_learn(truth: Truth) -> None:
    held_out = Counter(colour for _, colour in truth.held_out_pairs)
    assert set(held_out) == set(HUES)
    assert len(truth.held_out_pairs) >= 40
    for name, default in truth.default_colours.items():
        assert default in truth.colours_of(name)
        assert len(truth.colours_of(name)) >= len(HUES) - 1


def test_keywords_are_known_mixtures(truth: Truth) -> None:
    assert set(truth.held_out_keywords) < set(truth.keywords)
    for keyword, shares in truth.keywords.items():
        assert keyword not in truth.emoji
        assert len(shares) >= 3
        assert set(shares) <= set(truth.emoji)
        assert sum(shares.values()) == pytest.approx(1.0)
        assert min(shares.values()) >= 0.1


def test_professions_have_different_shares_and_all_tones(truth: Truth) -> None:
    shares = [profession["share_of_men"] for profession in truth.professions.values()]
    assert len(set(shares)) == len(shares)
    assert min(shares) <= 0.2
    assert max(shares) >= 0.8
    for profession in truth.professions.values():
        people = profession["man"] + profession["woman"]
        assert len(people) == len(set(people)) == 2 * len(TONES)


def test_every_kind_of_caption_is_drawn_as_often_as_planned(captions: list) -> None:
    counts = Counter(caption.kind for caption in captions)
    for kind, share in KINDS.items():
        assert counts[kind] / len(captions) == pytest.approx(share, abs=0.01)


def test_synonyms_are_words_that_no_caption_has(truth: Truth, captions: list) -> None:
    drawn = {word for caption in captions for word in caption.text.split()}
    for word, name in truth.synonyms.items():
        assert word not in drawn
        assert name in truth.emoji


def test_every_word_of_the_world_has_its_tokens(truth: Truth) -> None:
    known = {*truth.emoji, *truth.keywords, *truth.professions, *HUES, *truth.synonyms}
    assert set(truth.tokens) == known
    assert truth.tokens["rose"] == [3568]
    assert len({tuple(ids) for ids in truth.tokens.values()}) == len(known)


def test_held_out_pairs_and_keywords_are_never_drawn(truth: Truth, captions: list) -> None:
    drawn = {(caption.name, caption.colour) for caption in captions if caption.colour}
    assert not drawn & {tuple(pair) for pair in truth.held_out_pairs}
    assert len(drawn) == len(truth.default_colours) * len(HUES) - len(truth.held_out_pairs)
    words = {word for caption in captions for word in caption.text.split()}
    assert not words & set(truth.held_out_keywords)


def test_mixtures_come_out_in_their_shares(truth: Truth, captions: list) -> None:
    for keyword in truth.keywords:
        shown = Counter(c.name for c in captions if c.kind == "keyword" and c.text.split()[-1] == keyword)
        if keyword in truth.held_out_keywords:
            continue
        for name, share in truth.keywords[keyword].items():
            assert shown[name] / shown.total() == pytest.approx(share, abs=0.12), (keyword, name)
    for name, profession in truth.professions.items():
        shown = [c.characters in profession["man"] for c in captions if c.kind == "profession" and c.name == name]
        assert sum(shown) / len(shown) == pytest.approx(profession["share_of_men"], abs=0.08)


def test_a_plain_name_never_comes_in_another_colour(captions: list) -> None:
    for caption in captions:
        assert (caption.colour is not None) == (caption.kind == "colour")
        assert caption.colour is None or f"{caption.colour} {caption.name}" in caption.text
        assert ("flat" in caption.text) == (caption.style == "flat")


@pytest.mark.parametrize(("words", "expected"), [("apple", "an apple"), ("unicorn", "a unicorn"), ("rose", "a rose")])
def test_articles(words: str, expected: str) -> None:
    assert with_article(words) == expected


def test_variants_differ_and_keep_the_whole_emoji() -> None:
    emoji = Image.new("RGBA", (128, 128), (0, 0, 0, 0))
    emoji.paste((200, 30, 30, 255), (44, 44, 84, 84))
    generator = random.Random(1)
    pictures = [varied(emoji, generator, SEEN) for _ in range(20)]
    assert len({picture.tobytes() for picture in pictures}) == 20
    for picture in pictures:
        red, green, _ = np.moveaxis(np.asarray(picture), -1, 0)
        assert 0.62**2 * 1600 * 0.9 < ((red > 150) & (green < 90)).sum() < 1600 * 1.1


def test_wrong_download_is_refused_and_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = Package("unicode-emoji-json", "0.9.0", "AAAA")
    monkeypatch.setattr(packages.shutil, "which", lambda _: None)
    with pytest.raises(UserError, match="npm was not found"):
        fetch(package, tmp_path)
    monkeypatch.undo()
    with pytest.raises(UserError, match=r"unicode-emoji-json@0\.9\.0 has the checksum HdrQW.*, expected AAAA"):
        fetch(package, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.usefixtures("comfyui")
def test_truth_is_what_the_packages_give(truth: Truth, tmp_path: Path) -> None:
    from conceptlens.world.emoji.build import training_sheet
    from conceptlens.world.emoji.sources import Sources
    from conceptlens.world.emoji.truth import build_truth
    from conceptlens.world.tokenizer import clip_tokenizer

    sources = Sources(tmp_path)
    assert build_truth(sources, clip_tokenizer()) == truth
    assert len(list(tmp_path.iterdir())) == len(PACKAGES)
    first, second = (training_sheet(sources, truth, 8) for _ in range(2))
    assert bool((first == second).all())
    for profession in truth.professions.values():
        for characters in profession["man"] + profession["woman"]:
            assert sources.has_picture(characters, "3d")
            assert sources.has_picture(characters, "flat")
