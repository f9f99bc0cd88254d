"""`speed`: TIME, Conceptor, h-space and the editor, beside the published procedures written plainly."""

from __future__ import annotations

import argparse

from ...harness.terminal.console import Console
from ..measures import report
from . import conceptor, editor, hspace, time_edit


def add_arguments(_: argparse.ArgumentParser) -> None:
    """None of its own."""


def run(arguments: argparse.Namespace, _: Console) -> None:
    settings = {"lambda": time_edit.LAMBDA, "prompts": time_edit.PROMPTS}
    settings["SDXL layers of each width timed with the published procedure"] = time_edit.SDXL_BASELINE_LAYERS
    measures = [*time_edit.measure(), *conceptor.measure(), *hspace.measure(), *editor.measure()]
    report("python run.py bench", settings, measures, arguments.json)
