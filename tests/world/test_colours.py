"""Hues are measured and turned as their names say."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
from conceptlens.world.emoji.colours import HUES, NEAR, colour_name, hue_distance, in_hue, main_hue
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw


def disc(hue: float, stem: float | None = None, saturation: float = 0.8, value: float = 0.8) -> Image.Image:
    """A disc of one hue, shaded, on nothing; with a narrow stem of another hue when asked."""
    picture = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    draw = ImageDraw.Draw(picture)
    for radius in range(28, 8, -4):
        shade = value * (0.7 + 0.3 * (28 - radius) / 20)
        red, green, blue = (round(255 * c) for c in colorsys.hsv_to_rgb(hue / 360, saturation, shade))
        draw.ellipse((32 - radius, 32 - radius, 32 + radius, 32 + radius), (red, green, blue, 255))
    if stem is not None:
        red, green, blue = (round(255 * c) for c in colorsys.hsv_to_rgb(stem / 360, 0.8, 0.7))
        draw.rectangle((29, 50, 35, 63), (red, green, blue, 255))
    return picture


@given(st.floats(0, 359.9))
def test_main_hue_is_found(hue: float) -> None:
    found = main_hue(disc(hue))
    assert hue_distance(found.hue, hue) < 4
    assert found.share == pytest.approx(1.0)
    assert found.coverage > 0.95


@given(st.sampled_from(sorted(HUES)), st.sampled_from(sorted(HUES)))
def test_turned_picture_has_the_target_hue(source: str, target: str) -> None:
    turned = main_hue(in_hue(disc(HUES[source]), HUES[target]))
    assert hue_distance(turned.hue, HUES[target]) < 4
    assert colour_name(turned.hue) == target


def test_other_hues_and_the_outline_stay() -> None:
    rose = disc(HUES["red"], stem=120.0)
    blue = in_hue(rose, HUES["blue"])
    assert np.array_equal(np.asarray(rose.getchannel("A")), np.asarray(blue.getchannel("A")))
    before, after = (np.asarray(picture.convert("RGB"), dtype=int)[58:63, 31:34] for picture in (rose, blue))
    assert np.abs(before - after).max() <= 6  # hues have 8 bits on the way


def test_grey_has_no_hue_and_is_not_coloured() -> None:
    grey = disc(0.0, saturation=0.0)
    assert main_hue(grey).coverage == 0.0
    difference = np.asarray(grey, dtype=int) - np.asarray(in_hue(grey, HUES["blue"]), dtype=int)
    assert np.abs(difference).max() <= 1


def test_names_have_clear_borders() -> None:
    hues = sorted(HUES.values())
    gaps = [float(hue_distance(a, b)) for a, b in zip(hues, hues[1:] + hues[:1], strict=True)]
    assert min(gaps) >= 50 > 2 * NEAR
    assert colour_name(27.0) is None  # orange
    assert colour_name(HUES["red"] + 12 - 360) == "red"
