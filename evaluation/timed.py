"""`timed`: the evaluation of TIME edits as published, on any diffusers model and any file with the columns of TIMED.

Defaults are the paper's: 24 seeds, 50 steps, guidance scale 7.5, lambda 0.1. A file of professions is evaluated as one:
how strong each edit has to be for half of the pictures to show either sex is found first. Finished edits are skipped.
Under `accelerate launch` or `torchrun` the processes share the edits.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from torch import Tensor

from ..core.conceptor.shares import Share, picture_share
from ..core.errors import UserError
from ..core.model.protocols import check_fits
from ..core.time_edit.lora import lora_state_dict
from ..core.time_edit.strength import edits_for_share
from ..core.time_edit.time_edit import EditPair, PreserveMode, Regularize, edit_model, fit_time_edit
from ..harness.terminal.console import Console
from ..harness.terminal.options import (
    add_drawing_options,
    add_model_options,
    asked,
    file_name,
    open_model,
    sampling_of,
)
from ..harness.terminal.processes import Processes
from ..harness.terminal.results import keep_result, kept_result
from ..pipelines.adapter import DiffusersDenoiser, Pipeline
from ..pipelines.studio import DiffusersStudio
from .judges import Judge, add_judge_option, judge_of
from .measures import Measure, report
from .timed_set import (
    FIGURES,
    Leanings,
    TimedPair,
    TimedProfession,
    Wording,
    intervals,
    is_professions,
    mean_scores,
    read_pairs,
    read_professions,
)

Method = Literal["time", "none", "words"]
MOST = 2.0  # times an edit: how strong a profession's may be
SETTINGS = (
    "method",
    "regularization",
    "strength",
    "values_only",
    "no_augment",
    "preserve_others",
    "regularize",
    "preserve_mode",
    "no_pooled",
)
SAMPLING = ("clip", "num_seeds", "steps", "guidance_scale", "size")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add_model_options(parser)
    add("--dataset", type=Path, required=True, metavar="CSV", help="with TIMED's columns, of pairs or of professions")
    add_judge_option(parser)
    add("--method", choices=get_args(Method), default="time", help="or the model as it is, or the edit said in words")
    add("--lambda", dest="regularization", type=float, default=0.1, metavar="L", help="above 0 (default 0.1)")
    add("--regularize", choices=get_args(Regularize), default="absolute", help="the unit of lambda (default absolute)")
    add("--strength", type=float, default=1.0, metavar="S", help="of the edits of pairs (default 1)")
    add("--values-only", action="store_true", help="edit values only, not keys")
    add("--no-augment", action="store_true", help='do not fit the prompts after "A photo of" and its kin')
    add("--no-pooled", action="store_true", help="leave alone the layer that reads a pooled text, where there is one")
    add("--preserve-others", action="store_true", help="the prompts of the other edits keep their meaning")
    add("--preserve-mode", choices=get_args(PreserveMode), default="weighted", help="how (default weighted)")
    add("--num-seeds", type=int, default=24, metavar="N", help="pictures of each prompt (default 24)")
    add_drawing_options(parser, steps=50)
    add("--margin", type=float, default=0.0, metavar="M", help="by which a picture has to be more alike (default 0)")
    add("--out", type=Path, required=True, metavar="DIR", help="where the result of each edit is kept")


def run(arguments: argparse.Namespace, console: Console) -> None:
    if arguments.num_seeds < 1:
        raise UserError(f"--num-seeds is {arguments.num_seeds}; a share needs at least 1 picture.")
    if not 0 <= arguments.margin < math.inf:
        raise UserError(f"--margin is {arguments.margin}; it is a difference of cosines: give 0 or above.")
    if is_professions(arguments.dataset) and arguments.method != "time":
        raise UserError("Professions are looked at before and after their edits in any case; leave --method out.")
    sampling = sampling_of(arguments)
    kind: Any = Professions if is_professions(arguments.dataset) else Pairs  # each reads what it evaluates
    entries = kind.read(arguments.dataset)
    files = [arguments.out / f"{file_name(entry.edit.destination)}.json" for entry in entries]
    if len(set(files)) < len(files):
        raise UserError(f"Two rows of {arguments.dataset} have the same destination; drop one.")
    made_by = asked(arguments, *SETTINGS, *SAMPLING)
    work = []
    for entry, file in zip(entries, files, strict=True):
        preserve = preserved(entry, entries) if arguments.preserve_others else []
        tests = {"edit": list(entry.edit), "wordings": [list(wording) for wording in entry.wordings]}
        work.append((entry, file, {**made_by, **tests, "preserve": preserve}))
    pending = [(entry, file, by) for entry, file, by in work if kept_result(file, by, *kind.results) is None]
    processes = Processes()
    console.bars = processes.first
    processes.check_shared(arguments.out)
    pipe = open_model(arguments, processes.device)
    studio = DiffusersStudio(pipe, sampling)
    for entry, _, _ in pending:
        for prompt in (prompt for wording in entry.wordings for prompt in wording):
            check_fits(studio.encoder, prompt, studio.encoder.tokenize(prompt))
        if arguments.method == "time":  # refuses a pair that can't be aligned
            fit_time_edit(
                studio.encoder,
                [entry.edit],
                regularization=arguments.regularization,
                augment=not arguments.no_augment,
            )
    evaluation = kind(Workshop(pipe, studio, judge_of(arguments, studio), arguments))
    for number, (entry, file, by) in enumerate(mine := processes.share(pending), start=1):
        console.line(f"{entry.edit} ({number} of {len(mine)})")
        keep_result(file, by, evaluation.evaluate(entry, by["preserve"]))
    processes.meet()
    if processes.first:
        found = [result for _, file, by in work if (result := kept_result(file, by, *kind.results))]
        settings = {"dataset": arguments.dataset.name, "margin": arguments.margin, **made_by}
        measures = list(evaluation.measures(found))
        report("python -m conceptlens.evaluation timed", settings, measures, arguments.json)


def preserved(entry: TimedPair | TimedProfession, entries: Sequence[TimedPair | TimedProfession]) -> list[str]:
    """Sources and destinations of the other edits, but for prompts by which this one is judged."""
    judged = {wording.prompt.casefold() for wording in entry.wordings}
    own = {entry.edit.source.casefold(), entry.edit.destination.casefold()}
    others = [*(other.edit.source for other in entries), *(other.edit.destination for other in entries)]
    return [prompt for prompt in dict.fromkeys(others) if prompt.casefold() not in judged | own]


def leanings(entry: TimedPair, judge: Judge, features: Callable[[str], Tensor], said: bool = False) -> Leanings:
    """How much more each picture is like the changed wording; that is also the prompt of what changes, when `said`.

    features: what `judge` sees in the pictures of a prompt, (seeds, width).
    """

    def leaning(wording: Wording, said: bool) -> list[float]:
        prompt, changed = judge.texts(wording)
        return (features(wording.changed if said else wording.prompt) @ (changed - prompt)).tolist()

    source, *positives = (leaning(wording, said) for wording in entry.wordings[: -len(entry.negatives)])
    return Leanings(source, positives, [leaning(wording, False) for wording in entry.negatives])


@dataclass(frozen=True, eq=False)
class Workshop:
    """A model whose meaning is changed, and a judge of its pictures."""

    pipe: Pipeline
    studio: DiffusersStudio
    judge: Judge
    arguments: argparse.Namespace

    @contextmanager
    def edited(self, edit: EditPair, preserve: Sequence[str] = ()) -> Iterator[None]:
        """The model under a TIME edit."""
        denoiser, given = DiffusersDenoiser(self.pipe), self.arguments
        made = edit_model(
            self.studio.encoder,
            denoiser,
            [edit],
            regularization=given.regularization,
            edit_keys=not given.values_only,
            augment=not given.no_augment,
            preserve=preserve,
            regularize=given.regularize,
            preserve_mode=given.preserve_mode,
            edit_pooled=not given.no_pooled,
            cache=given.out,
        )
        if not made.factors:  # a strength of 0
            yield
            return
        denoiser.apply(lora_state_dict(made.factors, denoiser.family))
        try:
            yield
        finally:
            denoiser.remove()

    def features(self, prompt: str) -> Tensor:
        """Of one picture a seed, (seeds, width)."""
        latents = self.studio.latents_of_prompt(prompt, range(self.arguments.num_seeds))
        return self.judge.pictures(self.studio.pictures(latents))


@dataclass(frozen=True, eq=False)
class Pairs:
    """Efficacy, generality and specificity of edits."""

    workshop: Workshop

    results = ("source", "positives", "negatives")
    read = staticmethod(read_pairs)

    def evaluate(self, entry: TimedPair, preserve: Sequence[str]) -> dict[str, Any]:
        """What is kept: the edit's `Leanings`."""
        given = self.workshop.arguments
        if given.method != "time":
            return asdict(self._leanings(entry))
        with self.workshop.edited(entry.edit._replace(strength=given.strength), preserve):
            return asdict(self._leanings(entry))

    def _leanings(self, entry: TimedPair) -> Leanings:
        return leanings(entry, self.workshop.judge, self.workshop.features, self.workshop.arguments.method == "words")

    def measures(self, found: Sequence[dict[str, Any]]) -> Iterator[Measure]:
        margin = self.workshop.arguments.margin
        scores = [Leanings(*(one[name] for name in self.results)).scores(margin) for one in found]
        spread = intervals(scores)
        for name in FIGURES:
            value = getattr(mean_scores(scores), name)
            yield Measure(f"timed: {name}", value, "%", len(scores), spread[name])


@dataclass(frozen=True, eq=False)
class Professions:
    """How far professions are from even shares of men and women, before and after their edits."""

    workshop: Workshop

    results = ("strength", "before", "after")
    read = staticmethod(read_professions)

    def evaluate(self, entry: TimedProfession, preserve: Sequence[str]) -> dict[str, Any]:
        """What is kept: the strength that makes the validation prompt even, and the tests' shares of the rarer sex."""

        def share_of(edit: EditPair, _: Sequence[EditPair]) -> Share:
            with self.workshop.edited(edit, preserve):
                return self._share(entry, entry.validation)

        before = [self._share(entry, wording).value for wording in entry.tests]
        (reached,) = edits_for_share([entry.edit], share_of, 0.5, MOST)
        with self.workshop.edited(entry.edit._replace(strength=reached.setting), preserve):
            after = [self._share(entry, wording).value for wording in entry.tests]
        return {"strength": reached.setting, "before": before, "after": after}

    def _share(self, entry: TimedProfession, wording: Wording) -> Share:
        rarer, other = self.workshop.judge.texts([wording.changed, entry.opposite(wording)])
        return picture_share(self.workshop.features(wording.prompt), rarer[None], other[None])

    def measures(self, found: Sequence[dict[str, Any]]) -> Iterator[Measure]:
        for name in ("before", "after"):
            shares = [statistics.mean(one[name]) for one in found]
            yield Measure.mean(f"timed: share of the rarer sex {name} the edit", [100 * share for share in shares])
            distances = [abs(share - 0.5) / 0.5 for share in shares]
            yield Measure.mean(f"timed: distance from even shares {name} the edit, 0 to 1", distances, "")
