"""The picture of a caption: an emoji in its style and colour, placed and lit a little differently each time."""

from __future__ import annotations

import random

from PIL import Image

from .captions import Caption
from .colours import HUES, in_hue
from .sources import SIZE, Sources
from .truth import Truth

SCALES = (0.62, 1.0)  # of the emoji in the picture
TURN = 15.0  # degrees, either way
TINTS = ((255, 255, 255), (238, 244, 255), (255, 247, 232), (240, 250, 240), (246, 240, 252), (236, 236, 238))


def clean_picture(sources: Sources, truth: Truth, caption: Caption) -> Image.Image:
    """The emoji as RGBA, upright and full size; in its own pixels where the caption's colour is its default."""
    picture = sources.picture(caption.characters, caption.style)
    if caption.colour is None or caption.colour == truth.default_colours[caption.name]:
        return picture
    return in_hue(picture, HUES[caption.colour])


def varied(picture: Image.Image, generator: random.Random) -> Image.Image:
    """A training variant: another scale, turn, place, side and pale background; never another hue. RGB."""
    if generator.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    picture = picture.rotate(generator.uniform(-TURN, TURN), Image.Resampling.BICUBIC)
    side = round(SIZE * generator.uniform(*SCALES))
    picture = picture.resize((side, side), Image.Resampling.LANCZOS)
    result = Image.new("RGB", (SIZE, SIZE), generator.choice(TINTS))
    place = (generator.randint(0, SIZE - side), generator.randint(0, SIZE - side))
    result.paste(picture, place, picture)
    return result
