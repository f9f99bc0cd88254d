"""The picture of a caption: an emoji in its style and colour, placed and lit a little differently each time."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache

from PIL import Image

from ..pictures import SIZE
from .captions import Caption
from .colours import HUES, in_hue
from .sources import Sources, Style
from .truth import Truth

TINTS = ((255, 255, 255), (238, 244, 255), (255, 247, 232), (240, 250, 240), (246, 240, 252), (236, 236, 238))


@dataclass(frozen=True)
class Variation:
    """How freely an emoji is placed in its picture."""

    scales: tuple[float, float]  # of the emoji's side in the picture's
    turn: float  # degrees, either way
    mirrored: bool  # every other time


# What the UNet learns to draw is less varied than what encoders and judges cope with: it has to learn every variation.
DRAWN = Variation((0.78, 1.0), 8.0, mirrored=False)
SEEN = Variation((0.62, 1.0), 15.0, mirrored=True)


@dataclass(frozen=True, eq=False)
class Pictures:
    """The pictures of captions; each is drawn once and kept."""

    sources: Sources
    truth: Truth

    def clean(self, caption: Caption) -> Image.Image:
        """The emoji as RGBA, upright and full size; in its own pixels where the caption's colour is its default."""
        default = caption.colour is None or caption.colour == self.truth.default_colours[caption.name]
        return self._drawn(caption.characters, caption.style, None if default else caption.colour)

    @cache  # noqa: B019  (one instance lives as long as a command)
    def _drawn(self, characters: str, style: Style, colour: str | None) -> Image.Image:
        picture = self.sources.picture(characters, style)
        return in_hue(picture, HUES[colour]) if colour else picture


def varied(picture: Image.Image, generator: random.Random, variation: Variation) -> Image.Image:
    """A training variant: another scale, turn, place, side and pale background; never another hue. RGB."""
    if variation.mirrored and generator.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    picture = picture.rotate(generator.uniform(-variation.turn, variation.turn), Image.Resampling.BICUBIC)
    side = round(SIZE * generator.uniform(*variation.scales))
    picture = picture.resize((side, side), Image.Resampling.LANCZOS)
    result = Image.new("RGB", (SIZE, SIZE), generator.choice(TINTS))
    place = (generator.randint(0, SIZE - side), generator.randint(0, SIZE - side))
    result.paste(picture, place, picture)
    return result
