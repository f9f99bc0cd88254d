"""How pictures are divided among groups, as a chart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageColor, ImageDraw
from torch import Tensor

from .charts import AXIS, GRID, INK, LINES, PAPER, font_for
from .grid import from_pil

SIZE, GAP = 18, 12
PALETTE = (*LINES, "#e0a100", "#2aa7b8", "#b0506f", "#7a6a58")


@dataclass(frozen=True)
class Divided:
    """One bar: the share of each group, 0 to 1, and the ends of its interval."""

    label: str
    shares: Sequence[float]
    intervals: Sequence[tuple[float, float]]


def groups_chart(title: str, groups: Sequence[str], bars: Sequence[Divided], width: int = 900) -> Tensor:
    """A picture (height, width, 3) of stacked bars, each with its largest group in words, interval included.

    A group that is named like a colour has it.
    """
    fonts = [font_for(bar.label, SIZE) for bar in bars]
    told = [_largest(groups, bar) for bar in bars]
    left = min(max(int(f.getlength(bar.label)) for f, bar in zip(fonts, bars, strict=True)), width // 3) + 2 * GAP
    beside = max(int(font_for(text, SIZE).getlength(text)) for text in told)
    right = width - beside - 2 * GAP
    head, step = 2 * (SIZE + GAP), SIZE + GAP
    picture = Image.new("RGB", (width, head + step * len(bars) + GAP), PAPER)
    draw = ImageDraw.Draw(picture)
    draw.text((GAP, GAP), title, INK, font_for(title, SIZE), "la")
    colours = [_colour(group, number) for number, group in enumerate(groups)]
    place = float(left)
    for group, colour in zip(groups, colours, strict=True):
        font = font_for(group, SIZE - 3)
        draw.rectangle([place, SIZE + GAP + 4, place + 12, SIZE + GAP + 16], colour, AXIS)
        draw.text((place + 18, SIZE + GAP + 10), group, INK, font, "lm")
        place += 18 + font.getlength(group) + 2 * GAP
    for row, (bar, text, font) in enumerate(zip(bars, told, fonts, strict=True)):
        top, start = head + row * step, float(left)
        draw.text((left - GAP, top + SIZE / 2), bar.label, INK, font, "rm")
        for share, colour in zip(bar.shares, colours, strict=True):
            end = start + share * (right - left)
            if share > 0:
                draw.rectangle([start, top, end, top + SIZE], colour)
            start = end
        draw.rectangle([left, top, right, top + SIZE], None, GRID)
        draw.text((right + GAP, top + SIZE / 2), text, INK, font_for(text, SIZE), "lm")
    return from_pil(picture)


def _largest(groups: Sequence[str], bar: Divided) -> str:
    """The largest group of a bar, its share and the ends of its interval."""
    share, group, (low, high) = max(zip(bar.shares, groups, bar.intervals, strict=True))
    return f"{group} {100 * share:.0f} % ({100 * low:.0f} to {100 * high:.0f})"


def _colour(group: str, number: int) -> str:
    """What a colour's name means, or one of the palette."""
    named = group.casefold() in ImageColor.colormap
    return group.casefold() if named else PALETTE[number % len(PALETTE)]
