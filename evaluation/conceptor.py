"""`conceptor`: how near pictures of mixes come to those of their concepts, on any diffusers model, as published.

For each concept pictures of the prompt and of its mix, of the same seeds: similarity and distance of partners, and how
much the pictures of either, and the mix's words, differ among themselves. Finished concepts are skipped. Under
`accelerate launch` or `torchrun` the processes share the concepts.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..core.conceptor.explanation import check_name
from ..core.conceptor.mixture import TokenMix
from ..core.errors import UserError
from ..core.model.template import Template
from ..core.pictures.grid import labelled_grid, save_picture
from ..harness.terminal.console import Console
from ..harness.terminal.options import (
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
from ..harness.terminal.processes import Processes
from ..harness.terminal.results import keep_result, kept_result
from ..pipelines.studio import DiffusersStudio
from .judges import Judge, add_judge_option, judge_of
from .measures import Measure, report
from .reconstruction import diversity, pairwise_similarity, perceptual_distance

NUMBERS = ("clip", "prompt", "top", "num_images", "seed", "steps", "guidance_scale", "size")
MEASURES = {
    "similarity": "similarity of partners, mean cosine of CLIP's features",
    "distance": "distance of partners, LPIPS' by CLIP's layers",
    "concept": "diversity of the concept's pictures, 1 - mean cosine",
    "mix": "diversity of the mix's pictures, 1 - mean cosine",
    "tokens": "diversity of the mix's words, 1 - mean cosine",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add_model_options(parser)
    add_concept_options(parser)
    add("--mixes", type=Path, required=True, metavar="DIR", help="what `decompose --out` has made of the concepts")
    add_judge_option(parser)
    add("--prompt", default="a photo of a {}", help='with {} for the concept (default "a photo of a {}")')
    add("--top", type=int, default=50, metavar="N", help="words of a mix (default 50)")
    add("--num-images", type=int, default=20, metavar="N", help="pictures of each (default 20)")
    add("--seed", type=int, default=10_000, help="of the first picture (default 10000: none that was trained on)")
    add_drawing_options(parser, steps=50)
    add("--out", type=Path, required=True, metavar="DIR", help="where pictures of each concept and its figures go")


def run(arguments: argparse.Namespace, console: Console) -> None:
    concepts = concepts_of(arguments)
    template = Template.of(arguments.prompt)
    if arguments.num_images < 1 or arguments.top < 1:
        raise UserError("--num-images and --top have to be at least 1.")
    sampling, seeds = sampling_of(arguments), seeds_of(arguments, arguments.num_images)
    made_by = asked(arguments, *NUMBERS)
    mixes = {concept: TokenMix.load(arguments.mixes / f"{file_name(concept)}.safetensors") for concept in concepts}
    words = {concept: dict(zip(mix.texts, mix.coefficients, strict=True)) for concept, mix in mixes.items()}
    work = {concept: {**made_by, "concept": concept, "words": words[concept]} for concept in concepts}
    files = {concept: arguments.out / f"{file_name(concept)}.json" for concept in concepts}
    pending = [concept for concept in concepts if kept_result(files[concept], work[concept], *MEASURES) is None]
    processes = Processes()
    console.bars = processes.first
    processes.check_shared(arguments.out)
    pipe = open_model(arguments, processes.device)
    studio = DiffusersStudio(pipe, sampling)
    judge = judge_of(arguments, studio)
    for concept in pending:
        mixes[concept].check_family(studio.family)
        check_name(studio.encoder, concept, [template])
    for concept in processes.share(pending):
        picture = files[concept].with_suffix(".png")
        found = evaluated(studio, judge, concept, mixes[concept].top(arguments.top), template, seeds, picture)
        keep_result(files[concept], work[concept], found)
        console.line(f"{concept}: similarity {found['similarity']:.3f}, distance {found['distance']:.3f}")
    processes.meet()
    if processes.first:
        kept = [result for c in concepts if (result := kept_result(files[c], work[c], *MEASURES))]
        measures = [
            Measure.mean(f"conceptor: {title}", [one[name] for one in kept], "") for name, title in MEASURES.items()
        ]
        report("python -m conceptlens.evaluation conceptor", made_by, measures, arguments.json)


def evaluated(
    studio: DiffusersStudio,
    judge: Judge,
    concept: str,
    mix: TokenMix,
    template: Template,
    seeds: Sequence[int],
    file: Path,
) -> dict[str, float]:
    """The figures of one concept, by the names of MEASURES; its pictures go into a file."""
    latents = (
        studio.latents_of_prompt(template.filled(concept), seeds),
        studio.latents_of_mix(template, mix, seeds),
    )
    own, mixed = map(studio.pictures, latents)
    pairs = [picture for pair in zip(own, mixed, strict=True) for picture in pair]
    labels = [f"{kind}, seed {seed}" for seed in seeds for kind in (concept, "its mix")]
    save_picture(labelled_grid(pairs, labels, columns=8), file)
    features, others = judge.pictures(own), judge.pictures(mixed)
    return {
        "similarity": pairwise_similarity(features, others),
        "distance": perceptual_distance(judge.layers(own), judge.layers(mixed)),
        "concept": diversity(features),
        "mix": diversity(others),
        "tokens": diversity(judge.texts([template.filled(word) for word in mix.texts])),
    }
