"""`python run.py bench [--json FILE]`."""

from __future__ import annotations

import argparse
from pathlib import Path

from . import conceptor, editor, hspace, time_edit
from .measures import report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    settings = {"lambda": time_edit.LAMBDA, "prompts": time_edit.PROMPTS}
    settings["SDXL layers of each width timed with the published procedure"] = time_edit.SDXL_BASELINE_LAYERS
    measures = [*time_edit.measure(), *conceptor.measure(), *hspace.measure(), *editor.measure()]
    report("python run.py bench", settings, measures, arguments.json)


if __name__ == "__main__":
    main()
