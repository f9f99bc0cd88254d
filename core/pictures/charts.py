"""Charts of token mixes, drawn with pillow: the host has no plotting library."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..errors import UserError
from .grid import from_pil

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
INK, PAPER, AXIS, GRID = "#1f2430", "#ffffff", "#9aa1b1", "#e6e8ee"
DOTTED = 40  # points, up to which each is marked
BARS = "#3a7bd5", "#d5573a"  # above and below zero
LINES = *BARS, "#2f9e68", "#8757c9"
# Where systems keep fonts, and those that have many scripts, the widest first.
FONT_FOLDERS = {
    "win32": ("C:/Windows/Fonts",),
    "darwin": ("/System/Library/Fonts", "/System/Library/Fonts/Supplemental", "/Library/Fonts"),
}
WIDE_FONTS = (
    "NotoSansCJK",
    "Noto",
    "Arial Unicode",
    "msyh",
    "DejaVuSans",
    "unifont",
    "Hiragino",
    "PingFang",
    "segoeui",
)


def bar_chart(labels: Sequence[str], values: Sequence[float], width: int = 640) -> Tensor:
    """A picture (height, width, 3): a bar for each value, its label at the left and its number at its end.

    Raises UserError when there is none.
    """
    if not labels:
        raise UserError("There is nothing to draw: the mix is empty.")
    size, gap = 18, 10
    rows = [font_for(label, size) for label in labels]
    number = font_for("0", size)
    margin = max(int(font.getlength(label)) for font, label in zip(rows, labels, strict=True)) + 2 * gap
    margin = min(margin, width // 2)
    numbers = [f"{value:.3g}" for value in values]
    room = max(number.getlength(text) for text in numbers) + 2 * gap
    low, high = min(0.0, *values), max(0.0, *values)
    scale = (width - margin - (2 if low < 0 else 1) * room) / ((high - low) or 1.0)
    zero = margin + (room if low < 0 else 0) - low * scale
    step = size + gap
    picture = Image.new("RGB", (width, step * len(labels) + gap), PAPER)
    draw = ImageDraw.Draw(picture)
    draw.line([(zero, gap // 2), (zero, picture.height - gap // 2)], AXIS)
    for row, (label, value, text, font) in enumerate(zip(labels, values, numbers, rows, strict=True)):
        top = gap + row * step
        end = zero + value * scale
        draw.rectangle([min(zero, end), top, max(zero, end), top + size], BARS[value < 0])
        place, anchor = (end + gap / 2, "lm") if value >= 0 else (end - gap / 2, "rm")
        draw.text((place, top + size / 2), text, INK, number, anchor)
        draw.text((margin - gap, top + size / 2), label, INK, font, "rm")
    return from_pil(picture)


def word_cloud(words: Sequence[str], weights: Sequence[float], width: int = 640, height: int = 400) -> Tensor:
    """A picture (height, width, 3) of words, larger for larger weights (>= 0), outwards along a spiral.

    Raises UserError when no weight is above 0.
    """
    if not words or max(weights) <= 0:
        raise UserError("There is nothing to draw: the mix is empty or has no coefficient above 0.")
    picture = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(picture)
    taken: list[tuple[float, float, float, float]] = []
    for word, weight in sorted(zip(words, weights, strict=True), key=lambda pair: -pair[1]):
        size = max(12, round(height / 5 * math.sqrt(max(weight, 0.0) / max(weights))))
        font = font_for(word, size)
        for turn in range(4000):
            radius, angle = turn / 12, turn / 5
            place = (width / 2 + radius * math.cos(angle) * width / height, height / 2 + radius * math.sin(angle))
            left, top, right, bottom = draw.textbbox(place, word, font, "mm")
            box = (left - 3, top - 2, right + 3, bottom + 2)
            inside = box[0] >= 0 and box[1] >= 0 and box[2] <= width and box[3] <= height
            if inside and not any(_overlap(box, other) for other in taken):
                draw.text(place, word, INK if taken else BARS[0], font, "mm")
                taken.append(box)
                break
    return from_pil(picture)


def line_chart(
    lines: Mapping[str, Sequence[tuple[float, float]]], across: str, width: int = 640, height: int = 360
) -> Tensor:
    """A picture (height, width, 3) of named lines through points (x, y), marked where few; `across` says what x is.

    Points that are not finite are left out. Raises UserError when none is left.
    """
    points = [point for line in lines.values() for point in line if all(math.isfinite(value) for value in point)]
    if not points:
        raise UserError("There is nothing to draw: no line has a point.")
    font = font_for("".join([across, *lines]), 16)
    picture = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(picture)
    ends = [(min(values), max(values)) for values in zip(*points, strict=True)]
    ranges = [(low, high) if high > low else (low - abs(low or 1), high + abs(high or 1)) for low, high in ends]
    left, top, right, bottom = 76, 34, width - 16, height - 40

    def place(x: float, y: float) -> tuple[float, float]:
        (x0, x1), (y0, y1) = ranges
        return left + (x - x0) / (x1 - x0) * (right - left), bottom - (y - y0) / (y1 - y0) * (bottom - top)

    (x0, _), (y0, _) = ranges
    for y in _round_values(*ranges[1]):
        height_of = place(x0, y)[1]
        draw.line([(left, height_of), (right, height_of)], GRID)
        draw.text((left - 8, height_of), f"{y:.4g}", INK, font, "rm")
    draw.line([(left, bottom), (right, bottom)], AXIS)
    for x in _round_values(*ranges[0]):
        draw.text((place(x, y0)[0], bottom + 4), f"{x:.4g}", INK, font, "ma")
    draw.text(((left + right) / 2, height - 2), across, INK, font, "md")
    beside = float(left)
    for number, (name, line) in enumerate(lines.items()):
        colour = LINES[number % len(LINES)]
        placed = [place(*point) for point in line if all(math.isfinite(value) for value in point)]
        draw.line(placed, colour, 2)
        for x, y in placed if len(placed) <= DOTTED else []:
            draw.ellipse([x - 4, y - 4, x + 4, y + 4], colour)
        draw.text((beside, 8), name, colour, font, "la")
        beside += font.getlength(name) + 24
    return from_pil(picture)


def share_chart(
    labels: Sequence[str],
    shares: Sequence[float],
    intervals: Sequence[tuple[float, float] | None],
    sides: tuple[str, str],
    width: int = 640,
) -> Tensor:
    """A picture (height, width, 3): a bar for each share of the first of two sides, 0 to 1, the other's part behind it.

    An interval (low, high) is drawn as a line over its bar; a thin line over all of them stands at one half.
    """
    size, gap, number = 18, 12, font_for("0", 18)
    fonts = [font_for(label, size) for label in labels]
    longest = max(int(font.getlength(label)) for font, label in zip(fonts, labels, strict=True))
    left = min(longest, width // 3) + 2 * gap
    right = width - int(number.getlength("100 %")) - 2 * gap
    head, step = size + 2 * gap, size + gap
    picture = Image.new("RGB", (width, head + step * len(labels) + gap // 2), PAPER)
    draw = ImageDraw.Draw(picture)
    for text, place, anchor, colour in zip(sides, (left, right), ("lm", "rm"), BARS, strict=True):
        draw.text((place, head / 2), text, colour, font_for(text, size), anchor)
    for row, (label, share, interval, font) in enumerate(zip(labels, shares, intervals, fonts, strict=True)):
        top = head + row * step
        middle, end = top + size / 2, left + share * (right - left)
        draw.rectangle([left, top, right, top + size], BARS[1])
        if share > 0:
            draw.rectangle([left, top, end, top + size], BARS[0])
        if interval:
            ends = [left + part * (right - left) for part in interval]
            draw.line([(ends[0], middle), (ends[1], middle)], INK, 2)
            for place in ends:
                draw.line([(place, middle - 5), (place, middle + 5)], INK, 2)
        draw.text((left - gap, middle), label, INK, font, "rm")
        draw.text((width - gap, middle), f"{share:.0%}".replace("%", " %"), INK, number, "rm")
    half = (left + right) / 2
    draw.line([(half, head - 4), (half, head + step * len(labels) - gap + 4)], PAPER, 1)
    return from_pil(picture)


def _round_values(low: float, high: float) -> list[float]:
    """At most six numbers of few digits from `low` to `high`."""
    power = 10.0 ** math.floor(math.log10((high - low) / 5))
    step = next(power * factor for factor in (1, 2, 5, 10) if (high - low) / (power * factor) <= 5)
    return [step * number for number in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def font_for(text: str, size: int) -> Font:
    """Pillow's own font, or the first of the system's that has all characters of `text`, if there is one."""
    default = ImageFont.load_default(size)
    if not isinstance(default, ImageFont.FreeTypeFont) or _has(default, text):
        return default
    return next((font for path in _wide_fonts() if _has(font := ImageFont.truetype(path, size), text)), default)


def _has(font: ImageFont.FreeTypeFont, text: str) -> bool:
    """Whether no character of `text` is drawn as the box that stands for unknown ones."""
    mask: Any = font.getmask  # bytes() takes what it returns
    unknown = bytes(mask("\uffff"))
    return all(character.isspace() or bytes(mask(character)) != unknown for character in text)


@cache
def _wide_fonts() -> list[Path]:
    folders = FONT_FOLDERS.get(sys.platform, ("/usr/share/fonts", "/usr/local/share/fonts"))
    found = [path for folder in folders for path in sorted(Path(folder).rglob("*.[to]t[fc]"))]
    ranked = [
        ("Bold" in path.name or "Oblique" in path.name, rank, path)
        for path in found
        for rank, name in enumerate(WIDE_FONTS)
        if path.name.startswith(name)
    ]
    return [path for *_, path in sorted(ranked)][:40]
