"""The packages that EmojiWorld is made from."""

from __future__ import annotations

import io
import json
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from ..packages import Package, fetch
from ..pictures import SIZE

Style = Literal["3d", "flat"]


PACKAGES = {
    "3d": Package(
        "@lobehub/fluent-emoji-3d",
        "1.1.0",
        "Wlq2lVStTnr8BDpIJ0pEnTKO4LuDxxqTEhTvRtD1DLRF0me7ogeRQjKoehDHXuVJ2Qaecgl5wRBv60lUAG3h7g==",
    ),
    "flat": Package(
        "@lobehub/fluent-emoji-flat",
        "1.1.0",
        "lPYCg8+N56MIj+iOgeBeH6AF0tneXxJCvgi41rOTjAWpA5rU2WUcmU1fiIXouEe8GrSTarWCYLY2ML+rdLRHsg==",
    ),
    "names": Package(
        "unicode-emoji-json",
        "0.9.0",
        "HdrQW/7SdbXUsTd8uTATv7LvQJkCSgbAgRCDCtOhQ6xn3EAx+xZHQtRniOXWJK3ywIqPegkNhP4U4EbuFsiQng==",
    ),
    "keywords": Package(
        "emojilib",
        "4.0.3",
        "KbWiYre9aRSaPbHrHZIz9zmoM+21LAsK1VFJtnTh1VCtWE/rNMDviGhQTmselFl95dhqtGlY22iH0leG5BuW0g==",
    ),
}


class Sources:
    """The unpacked packages in one folder."""

    def __init__(self, folder: Path) -> None:
        self._places = {key: fetch(package, folder) for key, package in PACKAGES.items()}

    @cached_property
    def names(self) -> dict[str, str]:
        """Unicode's name of an emoji -> its characters."""
        data: dict[str, Any] = json.loads((self._places["names"] / "data-by-emoji.json").read_text(encoding="utf-8"))
        return {information["name"]: characters for characters, information in data.items()}

    @cached_property
    def keywords(self) -> dict[str, list[str]]:
        """Characters of an emoji -> its keywords."""
        return json.loads((self._places["keywords"] / "dist/emoji-en-US.json").read_text(encoding="utf-8"))

    def has_picture(self, characters: str, style: Style) -> bool:
        return self._file(characters, style).is_file()

    def picture(self, characters: str, style: Style) -> Image.Image:
        """The emoji as RGBA, SIZE x SIZE."""
        file = self._file(characters, style)
        if style == "3d":
            return Image.open(file).convert("RGBA").resize((SIZE, SIZE), Image.Resampling.LANCZOS)
        import resvg_py

        drawn = resvg_py.svg_to_bytes(svg_string=file.read_text(encoding="utf-8"), width=SIZE, height=SIZE)
        return Image.open(io.BytesIO(bytes(drawn))).convert("RGBA")

    def _file(self, characters: str, style: Style) -> Path:
        code = "-".join(f"{ord(character):04x}" for character in characters)
        return self._places[style] / "assets" / f"{code}.{'webp' if style == '3d' else 'svg'}"
