"""`python -m conceptlens.world.faces.build`: FaceWorld's ground truth.

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
from .pictures import Personas
from .truth import TRAINING_SEEDS, TRUTH_FILE, Face, build_truth, draw_caption


def training_sheet(personas: Personas, count: int) -> Tensor:
    """A grid (height, width, 3) of training pictures under their captions."""
    seeds = TRAINING_SEEDS[:count]
    captions = [draw_caption(Face.of_seed(seed), random.Random(f"caption {seed}")).text for seed in seeds]
    return labelled_grid([from_pil(personas.picture(seed)) for seed in seeds], captions)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path, default=Path(".world"), metavar="DIR", help="where packages are kept")
    parser.add_argument("--truth", type=Path, default=TRUTH_FILE, metavar="FILE", help="the file to write")
    parser.add_argument("--sheet", type=Path, metavar="FILE", help="a picture of 64 training examples")
    arguments = parser.parse_args()

    def work() -> None:
        build_truth().save(arguments.truth)
        if arguments.sheet:
            save_picture(training_sheet(Personas(arguments.packages), 64), arguments.sheet)

    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main())
