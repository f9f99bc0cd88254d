"""`python -m conceptlens.world.emoji.build`: EmojiWorld's ground truth, from its packages.

Writes truth.json beside the code (the same on every machine) and, with --sheet FILE, a sheet of training pictures to
look at.
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

from torch import Tensor

from ...core.errors import exit_code
from ...core.pictures.grid import from_pil, labelled_grid, save_picture
from ..tokenizer import clip_tokenizer
from .captions import draw_caption
from .pictures import DRAWN, Pictures, varied
from .sources import Sources
from .truth import TRUTH_FILE, Truth, build_truth


def training_sheet(sources: Sources, truth: Truth, count: int, seed: int = 0) -> Tensor:
    """A grid (height, width, 3) of training pictures under their captions."""
    generator = random.Random(seed)
    pictures = Pictures(sources, truth)
    captions = [draw_caption(truth, generator) for _ in range(count)]
    drawn = [from_pil(varied(pictures.clean(caption), generator, DRAWN)) for caption in captions]
    return labelled_grid(drawn, [caption.text for caption in captions])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path, default=Path(".world"), metavar="DIR", help="where packages are kept")
    parser.add_argument("--truth", type=Path, default=TRUTH_FILE, metavar="FILE", help="the file to write")
    parser.add_argument("--sheet", type=Path, metavar="FILE", help="a picture of 64 training examples")
    arguments = parser.parse_args()

    def work() -> None:
        sources = Sources(arguments.packages)
        truth = build_truth(sources, clip_tokenizer())
        truth.save(arguments.truth)
        if arguments.sheet:
            save_picture(training_sheet(sources, truth, 64), arguments.sheet)

    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main())
