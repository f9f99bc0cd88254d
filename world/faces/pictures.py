"""The picture of a face: parts of Personas by Draftbit (CC BY 4.0), put together so that each attribute is seen.

Changed from the original: the head is larger in its picture, beards leave the mouth free, caps sit on the hair, mouths
and eyes are larger, and parts that would hide or blur an attribute are left out.
"""

from __future__ import annotations

import io
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from PIL import Image

from ..packages import Package, fetch
from ..pictures import SIZE
from .truth import Face

PERSONAS = Package(
    "@dicebear/personas",
    "9.4.3",
    "5ssYDAj0F5eOfoBq1fAVvzDMF9QGOKUaKEq/UGiNL7DMSOojazTC0cEHR7JOGcc/Fa53yfPf9v6932WXg/C0Ow==",
)
HAIRSTYLES = {True: ("long", "extraLong", "bobCut"), False: ("shortCombover", "shortComboverChops")}
BODIES = ("squared", "rounded")
HAIR = {"dark": "#362c47", "blond": "#f2cf63", "red": "#e15c66", "grey": "#aab0c8"}
SKIN = {"light": "#eeb4a4", "tan": "#d78774", "brown": "#92594b", "dark": "#623d36"}
CLOTHES = {"blue": "#456dff", "teal": "#54d7c7", "green": "#6dbb58", "red": "#e24553", "yellow": "#f3b63a"}
BACKGROUND = {"white": "#f4f4f6", "blue": "#cfe3ff", "green": "#d6f2d6", "pink": "#ffdbe8"}
HEAD = (
    "M37 46.08V52a5 5 0 0 1-10 0v-5.92A14.04 14.04 0 0 1 18.58 37h-.08a4.5 4.5 0 0 1-.5-8.97V27a14 14 0 1 1 28 0v1.03"
    "a4.5 4.5 0 0 1-.58 8.97A14.04 14.04 0 0 1 37 46.08Z"
)
PART = re.compile(r"^ {4}(\w+): \(components, colors\) => `(.*)`,$", re.MULTILINE)
COLOUR = re.compile(r"\$\{escape\.xml\(`\$\{colors\.(\w+)\}`\)\}")
ZOOM = 1.3
MIDDLE = (32, 34)  # of the head with its hair, in a drawing of 64 x 64


@dataclass(frozen=True)
class Look:
    """What differs between two pictures of the same attributes."""

    hairstyle: str
    body: str
    zoom: float
    shift: tuple[float, float]  # in 64ths of the picture, to the right and down

    @classmethod
    def of_seed(cls, seed: int, face: Face) -> Look:
        generator = random.Random(f"look {seed}")
        return cls(
            hairstyle=generator.choice(HAIRSTYLES[face.long_hair]),
            body=generator.choice(BODIES),
            zoom=ZOOM * generator.uniform(0.95, 1.05),
            shift=(generator.uniform(-1.5, 1.5), generator.uniform(-1.0, 1.0)),
        )


class Personas:
    """The unpacked package in a folder, and the pictures that are made of it."""

    def __init__(self, folder: Path) -> None:
        self._place = fetch(PERSONAS, folder) / "lib/components"

    def picture(self, seed: int) -> Image.Image:
        """The picture of a seed: RGB, SIZE x SIZE."""
        face = Face.of_seed(seed)
        return self.drawn(face, Look.of_seed(seed, face))

    def drawn(self, face: Face, look: Look) -> Image.Image:
        """A face in a look: RGB, SIZE x SIZE."""
        import resvg_py

        drawn = resvg_py.svg_to_bytes(svg_string=self.svg(face, look), width=SIZE, height=SIZE)
        return Image.open(io.BytesIO(bytes(drawn))).convert("RGB")

    def svg(self, face: Face, look: Look) -> str:
        colours = {"skin": SKIN[face.skin], "hair": HAIR[face.hair], "clothing": CLOTHES[face.clothes]}

        def part(kind: str, name: str) -> str:
            return COLOUR.sub(lambda match: colours[match[1]], self._parts[kind][name])

        hair = f'<g transform="translate(2 2)">{part("hair", look.hairstyle)}</g>'
        if face.cap:
            hair = f'<g clip-path="url(#under-cap)">{hair}</g><g transform="translate(2 2)">{part("hair", "cap")}</g>'
        beard = f'<g transform="translate(14 26)">{_beard(colours["hair"])}</g>' if face.beard else ""
        mouth = part("mouth", "bigSmile" if face.smile else "frown")
        eyes = part("eyes", "glasses" if face.glasses else "open")
        x, y = (middle / look.zoom for middle in (32 + look.shift[0], 32 + look.shift[1]))
        return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 64 64" fill="none">
<defs><clipPath id="under-cap"><path d="M0 25H64V64H0Z"/></clipPath>
<mask id="off-the-mouth"><path d="M0 0H64V64H0Z" fill="#fff"/>
<ellipse cx="18" cy="14.2" rx="7" ry="4.2" fill="#000"/></mask>
</defs><path d="M0 0H64V64H0Z" fill="{BACKGROUND[face.background]}"/>
<g transform="scale({look.zoom:.4f}) translate({x - MIDDLE[0]:.4f} {y - MIDDLE[1]:.4f})">
<path d="{HEAD}" fill="{colours["skin"]}"/>
<g transform="translate(32 29) scale(1.15) translate(-12 -5)">{eyes}</g>
{hair}<g transform="translate(11 44)">{part("body", look.body)}</g>{beard}
<g transform="translate(32 40.2) scale(1.3) translate(-9 -4.7)">{mouth}</g>
<g transform="translate(24 28)">{part("nose", "mediumRound")}</g></g></svg>"""

    @cached_property
    def _parts(self) -> Mapping[str, Mapping[str, str]]:
        """Kind -> name -> a part of a drawing, with places for colours."""
        return {
            kind: dict(PART.findall((self._place / f"{kind}.js").read_text(encoding="utf-8")))
            for kind in ("body", "eyes", "hair", "mouth", "nose")
        }


def _beard(colour: str) -> str:
    """Personas' full beard in one colour, with the skin left free around the mouth."""
    outline = (
        "m12.47 9.46 2.43-.83A2.5 2.5 0 0 1 18 10a2.5 2.5 0 0 1 3.1-1.37l2.43.83A18.65 18.65 0 0 0 32 2.7V9A14 14 0 1 1"
        " 4 9V2.7c2.05 2.94 5 5.43 8.47 6.76Z"
    )
    return f'<path mask="url(#off-the-mouth)" d="{outline}" fill="{colour}"/>'
