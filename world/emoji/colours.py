"""The main hue of a picture, and pictures in other hues."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image

HUES = {"red": 355.0, "yellow": 54.0, "green": 140.0, "blue": 215.0, "purple": 280.0}  # degrees, at least 50 apart
NEAR = 18.0  # degrees within which a hue bears a name of HUES: oranges, pinks and turquoises bear none
WIDTH = 40.0  # degrees around the main hue that belong to it: shading, and the highlights of the 3D style


class MainHue(NamedTuple):
    """The hue (degrees) that most of a picture's colour has, and the share of its colourful area around it."""

    hue: float
    share: float
    coverage: float  # colourful share of the whole object
    vividness: float  # mean saturation * value of what has the main hue; browns and pastels are low


def hsv(picture: Image.Image) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hue in degrees, saturation and value in 0..1, each (height, width)."""
    hue, saturation, value = np.moveaxis(np.asarray(picture.convert("RGB").convert("HSV"), dtype=np.float32), -1, 0)
    return hue * (360 / 255), saturation / 255, value / 255


def hue_distance(a: np.ndarray | float, b: np.ndarray | float) -> np.ndarray:
    """Degrees between hues, 0..180."""
    return np.abs((np.asarray(a) - np.asarray(b) + 180) % 360 - 180)


def main_hue(picture: Image.Image) -> MainHue:
    """The main hue of an RGBA picture; greys, whites and blacks have none and don't count."""
    hue, saturation, value = hsv(picture)
    alpha = np.asarray(picture.getchannel("A"), dtype=np.float32) / 255
    weight = alpha * ((saturation > 0.25) & (value > 0.2)) * saturation
    if weight.sum() == 0:
        return MainHue(0.0, 0.0, 0.0, 0.0)
    centres = np.arange(0, 360, 4.0)
    near = np.stack([(weight * (hue_distance(hue, centre) <= NEAR)).sum() for centre in centres])
    centre = float(centres[near.argmax()])
    mine = hue_distance(hue, centre) <= NEAR
    angle = np.deg2rad(hue[mine])  # the mean of angles, weighted
    sine, cosine = (float((weight[mine] * function(angle)).sum()) for function in (np.sin, np.cos))
    mean = float(np.rad2deg(np.arctan2(sine, cosine)) % 360)
    around = weight * (hue_distance(hue, mean) <= WIDTH)
    colourful = alpha * ((saturation > 0.25) & (value > 0.2))
    vividness = float((around * value).sum() / (colourful * (around > 0)).sum())
    return MainHue(mean, float(around.sum() / weight.sum()), float(colourful.sum() / alpha.sum()), vividness)


def colour_name(hue: float) -> str | None:
    """The name of HUES that is within NEAR degrees, if one is."""
    name = min(HUES, key=lambda known: float(hue_distance(HUES[known], hue)))
    return name if hue_distance(HUES[name], hue) <= NEAR else None


def in_hue(picture: Image.Image, target: float) -> Image.Image:
    """The picture with its main hue turned to `target` degrees; other hues, such as a stem's green, stay.

    Yellow is a light colour and the others are not: the value of what is turned is brought to where the target's
    colours are seen as what they are named.
    """
    source = main_hue(picture).hue
    hue, saturation, value = hsv(picture)
    mine = (hue_distance(hue, source) <= WIDTH) & (saturation > 0.1)
    turned = (hue + (target - source)) % 360
    to_light, from_light = (_lightness(angle) for angle in (target, source))
    gamma = (1 - to_light) / (1 - from_light)  # below 1 makes lighter
    channels = (
        np.where(mine, turned, hue) * (255 / 360),
        saturation * 255,
        np.where(mine, value**gamma, value) * 255,
    )
    pixels = np.stack(channels, axis=-1).round().clip(0, 255).astype(np.uint8)
    result = Image.fromarray(pixels, "HSV").convert("RGB")
    result.putalpha(picture.getchannel("A"))
    return result


def _lightness(hue: float) -> float:
    """How light a hue is by nature, 0.2 (blue, red) to 0.6 (yellow)."""
    return 0.2 + 0.4 * max(0.0, 1 - float(hue_distance(hue, HUES["yellow"])) / 50)
