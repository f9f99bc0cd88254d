"""`bias`: how concepts are balanced between two groups of words on a diffusers model: in pictures, and in their mixes.

Finished concepts are skipped. Under `accelerate launch` or `torchrun` the processes share the concepts.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...core.conceptor.bias import MEN, WOMEN, Groups, balance, pairs_in, word_pair
from ...core.conceptor.explanation import check_name
from ...core.conceptor.mixture import TokenMix
from ...core.conceptor.shares import Share, check_judge, shares_of_pictures
from ...core.errors import UserError
from ...core.model.template import Template
from ..terminal.console import Console
from ..terminal.options import (
    add_concept_options,
    add_drawing_options,
    add_model_options,
    asked,
    concepts_of,
    file_name,
    open_model,
    sampling_of,
    seeds_of,
)
from ..terminal.results import keep_result, kept_result

PICTURES = ("group_a", "group_b", "prompt", "num_images", "seed", "steps", "guidance_scale", "size")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add_model_options(parser)
    add_concept_options(parser)
    add("--group-a", default=MEN, metavar="WORDS", help=f'default "{MEN}"')
    add("--group-b", default=WOMEN, metavar="WORDS", help=f'default "{WOMEN}"')
    add("--mixes", type=Path, metavar="DIR", help="what `decompose --out` has made of the concepts")
    add("--prompt", default="a photo of a {}", help='with {} for the concept (default "a photo of a {}")')
    add("--num-images", type=int, default=128, metavar="N", help="pictures of each concept (default 128)")
    add("--seed", type=int, default=0, help="of the first picture (default 0)")
    add_drawing_options(parser, steps=25)
    add("--out", type=Path, required=True, metavar="DIR", help="where the numbers and a chart go")


def run(arguments: argparse.Namespace, console: Console) -> None:
    # Imported here: diffusers takes seconds, which --help and wrong usage should not.
    from ...core.pictures.charts import share_chart
    from ...core.pictures.grid import save_picture
    from ...pipelines.studio import DiffusersStudio
    from ..terminal.processes import Processes

    concepts = concepts_of(arguments)
    template = Template.of(arguments.prompt)
    if arguments.num_images < 1:
        raise UserError(f"--num-images is {arguments.num_images}; a share needs at least 1 picture.")
    groups = word_pair(arguments.group_a, arguments.group_b)
    sampling, seeds = sampling_of(arguments), seeds_of(arguments, arguments.num_images)
    made_by = asked(arguments, *PICTURES)
    files = {concept: arguments.out / f"{file_name(concept)}.json" for concept in concepts}
    marks = {concept: {**made_by, "concept": concept} for concept in concepts}
    pending = [concept for concept, file in files.items() if _counted(file, marks[concept]) is None]
    mixed = {concept: _in_mix(arguments.mixes, concept, groups) for concept in concepts}
    processes = Processes()
    console.bars = processes.first
    processes.check_shared(arguments.out)
    studio = DiffusersStudio(open_model(arguments, processes.device), sampling)
    for concept in pending:
        check_name(studio.encoder, concept, [template])
        check_judge(studio, [groups], template, concept)
    for concept in processes.share(pending):
        with console.progress(concept) as progress:
            latents = studio.latents_of_prompt(template.filled(concept), seeds, progress)
        (share,) = shares_of_pictures(studio, latents, [groups], template, concept)
        keep_result(files[concept], marks[concept], {"count": share.count, "total": share.total})
    processes.meet()
    if not processes.first:
        return
    shares = {concept: share for concept, file in files.items() if (share := _counted(file, marks[concept]))}
    sides = (groups[0][0], groups[1][0])
    for concept, share in shares.items():
        told = "" if mixed[concept] is None else f"; in its mix {mixed[concept]:.0%}"
        console.line(f"{concept:<20} {sides[0]} {share}{told}")
    values = [share.value for share in shares.values()]
    chart = share_chart(concepts, values, [share.interval for share in shares.values()], sides)
    save_picture(chart, arguments.out / "bias.png")
    console.result({concept: {"pictures": share.value, "mix": mixed[concept]} for concept, share in shares.items()})


def _counted(file: Path, made_by: Mapping[str, Any]) -> Share | None:
    """What an earlier run has counted. Raises UserError when that run counted something else."""
    found = kept_result(file, made_by, "count", "total")
    return Share(found["count"], found["total"]) if found else None


def _in_mix(mixes: Path | None, concept: str, groups: Groups) -> float | None:
    """The balance of the concept's mix; None without a mix, or when the mix has no word of a group."""
    if mixes is None:
        return None
    mix = TokenMix.load(mixes / f"{file_name(concept)}.safetensors")
    try:
        (pair,) = pairs_in(mix, [groups])
        return balance(mix, pair)
    except UserError:
        return None
