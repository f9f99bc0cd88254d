"""Pictures of results, drawn with pillow."""

from __future__ import annotations

import io
import math
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .. import storage
from ..errors import UserError


def to_pil(image: Tensor) -> Image.Image:
    """A picture (height, width, 3) with values in 0..1 as a pillow image."""
    return Image.fromarray((image[..., :3].clamp(0, 1) * 255).round().to("cpu", torch.uint8).numpy(), "RGB")


def from_pil(image: Image.Image) -> Tensor:
    """A pillow image as a picture (height, width, 3) with values in 0..1."""
    return torch.from_numpy(np.array(image.convert("RGB"))).float() / 255


def labelled_grid(images: Sequence[Tensor], labels: Sequence[str], columns: int = 0) -> Tensor:
    """One picture (height, width, 3) of all `images` (height, width, 3) in rows, each under its label.

    `columns` = 0 makes the grid as square as it can be. Smaller pictures stand in the middle of their cells. Raises
    UserError for `columns` below 0, and when there are no pictures, or not as many labels as pictures.
    """
    if not images:
        raise UserError("There are no pictures to put into a grid; connect at least one.")
    if columns < 0:
        raise UserError(f"columns is {columns}; give 0 for a square grid or the number of pictures in a row.")
    if len(labels) != len(images):
        raise UserError(f"{len(labels)} labels came with {len(images)} pictures; give one label for each picture.")
    columns = min(columns or math.ceil(math.sqrt(len(images))), len(images))
    width, height = max(i.shape[1] for i in images), max(i.shape[0] for i in images)
    size = max(10, width // 16)
    gap, line = max(2, size // 4), int(size * 1.4)
    font = ImageFont.load_default(size)
    captions = [wrapped(label, font, width) for label in labels]
    head = line * max(caption.count("\n") + 1 for caption in captions) + gap
    rows = math.ceil(len(images) / columns)
    canvas = Image.new("RGB", (columns * (width + gap) + gap, rows * (height + head + gap) + gap), "white")
    draw = ImageDraw.Draw(canvas)
    corners = [
        (gap + i % columns * (width + gap), gap + i // columns * (height + head + gap)) for i in range(len(images))
    ]
    for (left, top), caption in zip(corners, captions, strict=True):
        draw.multiline_text((left + width / 2, top + head / 2), caption, "black", font, "mm", 0, "center")
    grid = from_pil(canvas)
    for (left, top), image in zip(corners, images, strict=True):  # as they are: pillow would round them to 8 bits
        top, left = top + head + (height - image.shape[0]) // 2, left + (width - image.shape[1]) // 2
        grid[top : top + image.shape[0], left : left + image.shape[1]] = image[..., :3]
    return grid


def wrapped(label: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """The label broken into lines that fit into `width` pixels: between words, and inside a word that is too long."""
    words = []
    for word in label.split():
        while font.getlength(word) > width and len(word) > 1:
            fitting = max(1, bisect_right(range(1, len(word)), width, key=lambda n: font.getlength(word[:n])))
            words.append(word[:fitting])
            word = word[fitting:]
        words.append(word)
    lines = [""]
    for word in words:
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return "\n".join(lines)


def label_each(batches: Sequence[Tensor], labels: Sequence[str]) -> tuple[list[Tensor], list[str]]:
    """The pictures of `batches` (each (count, height, width, 3)) one by one, with a label for each.

    A label may hold several in lines. There may be one for each picture, or one for each batch, which then stands over
    all of its pictures.
    """
    lines = [line for label in labels for line in label.splitlines() or [""]]
    if len(lines) == len(batches):
        lines = [line for line, batch in zip(lines, batches, strict=True) for _ in batch]
    return [picture for batch in batches for picture in batch], lines


def save_picture(picture: Tensor, path: Path) -> None:
    """Writes a picture (height, width, 3) as a PNG file, as `storage.write_bytes` does."""
    data = io.BytesIO()
    to_pil(picture).save(data, "PNG")
    storage.write_bytes(path, data.getvalue())
