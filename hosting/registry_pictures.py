"""`python -m conceptlens.hosting.registry_pictures`: the pack's icon and banner, of pictures that a real ComfyUI makes.

A bell under a lens, in which an edit shows it red; what a mix of words draws; a direction of h-space, from docs/.
"""

from __future__ import annotations

import sys
import tempfile
from functools import partial
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from .folder import ROOT
from .server import Graph, HostServer, add_node

DOCS = ROOT / "docs"
ICON, BANNER = 400, (1680, 720)  # pixels; the registry wants a square of 400 at most, and 21:9
TILE, CELL = 420, 128
INK, PAPER, RING = "#1f2430", "#ffffff", "#3b4252"
MIX = "rose: 0.5, heart: 0.5"
SAMPLING = {"seed": 3, "steps": 25, "cfg": 2.5, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
EDIT = {"source": "a bell", "destination": "a red bell", "preserve": "", "edit_keys": True, "augment": True}
EDIT |= {"strength": 1.0, "rank": 0, "regularization": 0.1, "regularize": "relative", "edit_pooled": True}
FACES = ((262, 18), (522, 18))  # in docs/hspace_sweep.png: as it was, and with glasses
TILES = ("change an assumption", "mix words", "find directions")


def graph() -> Graph:
    """A bell, the same bell after an edit, and a mix."""
    nodes: Graph = {}
    add = partial(add_node, nodes)
    model = add("world", "EmojiWorldLoader", kind="transformer")
    clip, vae = ["world", 1], ["world", 2]
    edited = add("edit", "TIMEEditModel", model=model, clip=clip, **EDIT)
    bell = add("prompt", "CLIPTextEncode", clip=clip, text="a photo of a bell")
    words = add("words", "TokenMixFromText", clip=clip, text=MIX)
    mixed = add(
        "mix", "TokenMixConditioning", clip=clip, mix=words, prompt="a photo of a <>", num_tokens=9, coefficients=""
    )
    negative = add("negative", "CLIPTextEncode", clip=clip, text="")
    latent = add("latent", "EmptyLatentImage", width=CELL, height=CELL, batch_size=1)
    for name, by, positive in (("before", model, bell), ("after", edited, bell), ("mixed", model, mixed)):
        links = {"model": by, "positive": positive, "negative": negative, "latent_image": latent}
        picture = add(
            f"decoded {name}", "VAEDecode", samples=add(f"sampled {name}", "KSampler", **links, **SAMPLING), vae=vae
        )
        add(name, "SaveImage", images=picture, filename_prefix=name)
    return nodes


def under_lens(before: Image.Image, after: Image.Image, side: int) -> Image.Image:
    """One picture, and in a lens over its middle the other."""
    scale = 4  # drawn larger, so that edges are smooth
    whole = side * scale
    picture, other = (each.resize((whole, whole), Image.Resampling.LANCZOS) for each in (before, after))
    middle, radius, ring = (0.5 * whole, 0.38 * whole), 0.29 * whole, 0.035 * whole
    lens = Image.new("L", (whole, whole), 0)
    box = [middle[0] - radius, middle[1] - radius, middle[0] + radius, middle[1] + radius]
    ImageDraw.Draw(lens).ellipse(box, fill=255)
    picture.paste(other, (0, 0), lens)
    draw = ImageDraw.Draw(picture)
    edge = radius * 0.5**0.5
    draw.line([middle[0] + edge, middle[1] + edge, 0.93 * whole, 0.81 * whole], RING, round(2 * ring))
    draw.ellipse([0.93 * whole - ring, 0.81 * whole - ring, 0.93 * whole + ring, 0.81 * whole + ring], RING)
    draw.ellipse([box[0] - ring / 2, box[1] - ring / 2, box[2] + ring / 2, box[3] + ring / 2], None, RING, round(ring))
    return picture.resize((side, side), Image.Resampling.LANCZOS)


def banner(lens: Image.Image, mixed: Image.Image) -> Image.Image:
    """The name, and a tile for each method."""
    canvas = Image.new("RGB", BANNER, PAPER)
    draw = ImageDraw.Draw(canvas)
    gap = (BANNER[0] - 3 * TILE) // 4
    draw.text((gap, 92), "ConceptLens", INK, ImageFont.load_default(84), "lm")
    draw.text(
        (BANNER[0] - gap, 100), "see and change what a model means by a word", INK, ImageFont.load_default(34), "rm"
    )
    sweep = Image.open(DOCS / "hspace_sweep.png")
    faces = [sweep.crop((left, top, left + CELL, top + CELL)) for left, top in FACES]
    half = Image.new("RGB", (CELL, CELL))
    half.paste(faces[0], (0, 0))
    half.paste(faces[1].crop((CELL // 2, 0, CELL, CELL)), (CELL // 2, 0))
    tiles = [
        lens,
        mixed.resize((TILE, TILE), Image.Resampling.LANCZOS),
        half.resize((TILE, TILE), Image.Resampling.LANCZOS),
    ]
    for number, (tile, said) in enumerate(zip(tiles, TILES, strict=True)):
        left = gap + number * (TILE + gap)
        canvas.paste(tile, (left, 176))
        draw.text((left + TILE / 2, 176 + TILE + 50), said, INK, ImageFont.load_default(36), "mm")
    return canvas


def main() -> int:
    with tempfile.TemporaryDirectory() as folder, HostServer(Path(folder)) as host:
        outputs = host.run(graph())["outputs"]
        made = {
            name: Image.open(Path(folder, "output", outputs[name]["images"][0]["filename"])).convert("RGB")
            for name in ("before", "after", "mixed")
        }
    under_lens(made["before"], made["after"], ICON).save(DOCS / "icon.png", optimize=True)
    banner(under_lens(made["before"], made["after"], TILE), made["mixed"]).save(DOCS / "banner.png", optimize=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
