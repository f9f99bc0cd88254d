"""A concept explained to a reader who has never seen the tool: one picture, or a page of them."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn.functional import interpolate

from ..errors import UserError
from ..model.template import Template
from ..pictures.charts import AXIS, INK, PAPER, bar_chart, font_for
from ..pictures.grid import from_pil, to_pil, wrapped
from .mixture import TokenMix

WIDTH, GAP, NARROW = 1240, 24, 6
SHOWN, ACROSS = 8, 4  # pictures of a kind, and in a row
HALF = (WIDTH - 3 * GAP) // 2  # the width of a column
SIDE = (HALF - NARROW * (ACROSS - 1)) // ACROSS  # of a picture
BARS = 12  # words
NAMED = 3  # words that name a mix without a concept
STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:80rem;margin:2rem auto;padding:0 1rem;color:#1f2430;"
    "background:#fff}img{max-width:100%;height:auto}section{margin:3rem 0}table{border-collapse:collapse}"
    "td,th{padding:.1rem .8rem;text-align:right}td:first-child,th:first-child{text-align:left}"
    "@media(prefers-color-scheme:dark){body{color:#e6e8ee;background:#1b1d23}}"
)


@dataclass(frozen=True, eq=False)
class Portrait:
    """What one model makes of a concept. Pictures are (n, height, width, 3) in 0..1."""

    mix: TokenMix
    samples: Tensor | None = None  # of the concept's own word
    reconstructions: Tensor | None = None  # of the mix
    words: Tensor | None = None  # of the mix's largest words, one each, in their order

    def check(self) -> None:
        """Raises UserError for an empty mix and for more pictures of words than it has words."""
        if not len(self.mix):
            raise UserError("The mix is empty; there is nothing to show.")
        if self.words is not None and len(self.words) > len(self.mix):
            raise UserError(
                f"There are {len(self.words)} pictures of words, and the mix has {len(self.mix)}; connect the images "
                "of Token Mix Gallery for the same mix."
            )

    @property
    def told(self) -> str:
        """What the words were made of."""
        made_by = self.mix.made_by
        family = made_by.get("family", "")
        told = f"{len(self.mix)} words of {family}" if family else f"{len(self.mix)} words"
        if made_by.keys() >= {"pictures", "prompt"}:
            prompt = Template.of(made_by["prompt"]).filled(_title(self.mix))
            told += f', from {made_by["pictures"]} pictures of "{prompt}"'
        return told


def concept_card(portrait: Portrait, lines: Sequence[str] = ()) -> Tensor:
    """A picture (height, 1240, 3): what a model draws for a concept, the words that it is made of, what those draw.

    lines: what else is to be said, below. Raises UserError as `Portrait.check`.
    """
    portrait.check()
    concept = _title(portrait.mix)
    drawn = [
        *_pictures(f'What the model draws for "{concept}"', portrait.samples),
        *_pictures("What these words draw", portrait.reconstructions),
    ]
    bars, alone = _bars(portrait.mix), _alone(portrait)
    columns = [drawn, bars + alone] if drawn else [bars, alone]
    return _titled(concept, columns, [*lines, portrait.told])


def comparison_card(portraits: Mapping[str, Portrait], lines: Sequence[str] = ()) -> Tensor:
    """The same of two models by their names, side by side: a picture (height, 1240, 3). Raises as `Portrait.check`."""
    columns = []
    for name, portrait in portraits.items():
        portrait.check()
        drawn = _pictures(f'It draws for "{_title(portrait.mix)}"', portrait.samples)
        remade = _pictures("What these words draw", portrait.reconstructions)
        columns.append([_text(name, HALF, 30), *drawn, *_bars(portrait.mix), *_alone(portrait), *remade])
    told = [f"{name}: {portrait.told}" for name, portrait in portraits.items()]
    title = " / ".join(dict.fromkeys(_title(portrait.mix) for portrait in portraits.values()))
    return _titled(title, columns, [*lines, *told])


def _titled(title: str, columns: Sequence[Sequence[Tensor]], lines: Sequence[str]) -> Tensor:
    beside = _beside([_under(column) for column in columns if column])
    below = _text("\n".join(lines), WIDTH - 2 * GAP, 18)
    return _framed(_under([_text(title, WIDTH - 2 * GAP, 44), beside, below]))


def _pictures(said: str, pictures: Tensor | None) -> list[Tensor]:
    return [] if pictures is None else [_text(said, HALF, 22), _grid(_scaled(pictures[:SHOWN], SIDE))]


def _bars(mix: TokenMix) -> list[Tensor]:
    largest = mix.top(BARS)
    return [_text("The words that it is made of", HALF, 22), bar_chart(largest.texts, largest.coefficients, HALF)]


def _alone(portrait: Portrait) -> list[Tensor]:
    if portrait.words is None:
        return []
    labelled = zip(_scaled(portrait.words[:SHOWN], SIDE), portrait.mix.texts, strict=False)
    cells = [_under([picture, _text(text, SIDE, 15)], NARROW) for picture, text in labelled]
    return [_text("What each of them draws alone", HALF, 22), _grid(cells)]


def report_page(title: str, cards: Sequence[tuple[TokenMix, Tensor]]) -> str:
    """A page that holds the cards of many concepts and their words as tables: one file that needs no other.

    HTML; `title` is plain text, `cards` are mixes with what `concept_card` made of them.
    """
    sections = []
    for mix, card in cards:
        concept = html.escape(_title(mix))
        rows = "".join(
            f"<tr><td>{html.escape(text)}</td><td>{value:.4g}</td><td>{share:.1%}</td></tr>"
            for text, value, share in zip(mix.texts, mix.coefficients, mix.shares(), strict=True)
        )
        table = f"<table><tr><th>word</th><th>coefficient</th><th>share</th></tr>{rows}</table>"
        picture = f'<img alt="{concept}, explained by words" src="data:image/png;base64,{_png(card)}">'
        details = f"<details><summary>{len(mix)} words</summary>{table}</details>"
        sections.append(f"<section><h2>{concept}</h2>{picture}{details}</section>")
    name = html.escape(title)
    head = f'<meta charset="utf-8"><title>{name}</title><style>{STYLE}</style>'
    body = f"<h1>{name}</h1>{''.join(sections)}"
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>{body}</body></html>\n'


def _title(mix: TokenMix) -> str:
    """The concept's name, or of a mix without one its largest words."""
    return mix.made_by.get("concept") or ", ".join(mix.texts[:NAMED]) + " ..." * (len(mix) > NAMED)


def _png(picture: Tensor) -> str:
    data = io.BytesIO()
    to_pil(picture).save(data, "PNG", optimize=True)
    return base64.b64encode(data.getvalue()).decode()


def _text(said: str, width: int, size: int) -> Tensor:
    """Lines of text as a picture."""
    font = font_for(said, size)
    lines = [line for part in said.splitlines() for line in wrapped(part, font, width).splitlines()]
    picture = Image.new("RGB", (width, int(size * 1.4) * len(lines)), PAPER)
    ImageDraw.Draw(picture).multiline_text((0, 0), "\n".join(lines), INK, font, spacing=size * 0.25)
    return from_pil(picture)


def _scaled(pictures: Tensor, side: int) -> Tensor:
    """Pictures (n, height, width, 3) scaled so that the longer side is `side`."""
    height, width = pictures.shape[1:3]
    factor = side / max(height, width)
    size = (round(height * factor), round(width * factor))
    upright = pictures[..., :3].float().cpu().permute(0, 3, 1, 2)
    return interpolate(upright, size, mode="bicubic", antialias=True).clamp(0, 1).permute(0, 2, 3, 1)


def _grid(cells: Iterable[Tensor]) -> Tensor:
    cells = list(cells)
    rows = [_beside(cells[first : first + ACROSS], NARROW) for first in range(0, len(cells), ACROSS)]
    return _under(rows, NARROW)


def _beside(parts: Sequence[Tensor], gap: int = GAP) -> Tensor:
    return _under([part.transpose(0, 1) for part in parts], gap).transpose(0, 1)


def _under(parts: Sequence[Tensor], gap: int = GAP) -> Tensor:
    """Pictures under each other, the narrower ones at the left, on white."""
    width = max(part.shape[1] for part in parts)
    height = sum(part.shape[0] for part in parts) + gap * (len(parts) - 1)
    canvas, top = torch.ones(height, width, 3), 0
    for part in parts:
        canvas[top : top + part.shape[0], : part.shape[1]] = part
        top += part.shape[0] + gap
    return canvas


def _framed(picture: Tensor) -> Tensor:
    frame = Image.new("RGB", (WIDTH, picture.shape[0] + 2 * GAP), PAPER)
    ImageDraw.Draw(frame).rectangle([0, 0, frame.width - 1, frame.height - 1], outline=AXIS)
    canvas = from_pil(frame)
    canvas[GAP : GAP + picture.shape[0], GAP : GAP + picture.shape[1]] = picture
    return canvas
