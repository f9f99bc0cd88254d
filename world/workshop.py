"""Where the training of a world finds what it needs and keeps what it made, and its command line."""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers import CLIPTokenizer

from ..core.errors import exit_code
from . import weights
from .tokenizer import clip_tokenizer
from .training import Part, Settings, train

LOGGED_EVERY = 50  # steps


class OutOfTimeError(Exception):
    """A part is not trained to its end yet."""


@dataclass(frozen=True)
class Workshop:
    """Where the training of a world finds what it needs and keeps what it made."""

    world: ClassVar[str]
    packages: Path
    runs: Path
    weights: Path
    device: torch.device
    until: float

    @cached_property
    def tokenizer(self) -> CLIPTokenizer:
        return clip_tokenizer()

    def train(
        self,
        part: str,
        module: Part,
        loss: Callable[[Part, int], Tensor],
        settings: Settings,
        compiled: bool = False,
    ) -> None:
        """Trains a part; `module` then holds its weights. Its log is a CSV file in `runs`.

        Raises OutOfTimeError when time is up before: what is there is kept in `runs`, and nothing is made of it.
        """
        self.runs.mkdir(parents=True, exist_ok=True)
        file = self.runs / f"{part}.safetensors"
        with (
            tqdm(total=settings.steps, desc=part, unit="step", mininterval=10) as bar,
            (self.runs / f"{part}.csv").open("a") as log,
            closing(train(module, loss, settings, file, self.device, compiled)) as states,
        ):
            for state in states:
                bar.set_postfix(loss=f"{state.loss:.4f}", refresh=False)
                bar.update(state.step - bar.n)
                if state.step % LOGGED_EVERY == 0:
                    log.write(f"{state.step},{state.loss:.5f},{state.seconds:.3f}\n")
                    log.flush()
                if state.step < settings.steps and time.monotonic() > self.until:
                    raise OutOfTimeError(
                        f"{part}: {state.step} of {settings.steps} steps; the same command goes on there."
                    )

    def export(self, part: weights.Part, module: nn.Module, settings: Settings, bytewise: bool = False) -> None:
        """Keeps the weights of a part, in float16 or bytewise; `module` then holds what was kept."""
        made = {"kind": f"{self.world} {part}", "settings": asdict(settings)}
        weights.save(part, module.state_dict(), made, self.weights, bytewise)
        module.load_state_dict(weights.load(part, self.weights))


def main(workshop: type[Workshop], parts: Sequence[str], folder: Path) -> int:
    """The command line of a world: trains the part that is named, by the method of that name."""
    parser = argparse.ArgumentParser(
        description=f"Trains {workshop.world}, part by part; a run that was cut off goes on."
    )
    parser.add_argument("part", choices=parts)
    parser.add_argument("--packages", type=Path, default=Path(".world"), metavar="DIR", help="where packages are kept")
    parser.add_argument("--runs", type=Path, default=Path(".world/runs"), metavar="DIR", help="what training keeps")
    parser.add_argument("--weights", type=Path, default=folder, metavar="DIR", help="where the weights go")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after so long; a later run goes on")
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    until = time.monotonic() + 60 * arguments.minutes

    def work() -> None:
        try:
            getattr(workshop(arguments.packages, arguments.runs, arguments.weights, device, until), arguments.part)()
        except OutOfTimeError as unfinished:
            sys.stderr.write(f"{unfinished}\n")

    return exit_code(work)
