"""`decompose`: Conceptor on a diffusers model: which words it pictures concepts with.

Finished concepts are skipped, and one that was cut off goes on from its last validation.

Under `accelerate launch` or `torchrun` all processes work together, in one --out folder.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from ...core.checkpoint import Checkpoint
from ...core.conceptor.fit import Method, Settings
from ...core.conceptor.mixture import TokenMix
from ...core.conceptor.quality import PICTURES, QUALITIES
from ...core.conceptor.vocabulary import TEMPLATES
from ...core.errors import UserError
from ...core.model.protocols import Progress
from ...core.model.template import Template
from ..terminal.console import Console
from ..terminal.options import add_concept_options, add_model_options, asked, concepts_of, file_name, open_model

if TYPE_CHECKING:
    from torch import Tensor

    from ...pipelines.studio import DiffusersStudio

PRESETS = list(QUALITIES.items())
NUMBERS = (
    "num_tokens",
    "dictionary_size",
    "steps",
    "batch_size",
    "learning_rate",
    "sparsity",
    "validate_every",
    "seed",
)
DRAWN = ("templates", "guidance_scale", "size")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add, kinds = parser.add_argument, {"learning_rate": float, "sparsity": float}
    add_model_options(parser)
    add_concept_options(parser)
    add("--out", type=Path, required=True, metavar="DIR", help="where mixes, pictures and reports go")
    add("--prompt", default="a photo of a {}", help='with {} for the concept (default "a photo of a {}")')
    add("--quality", choices=list(QUALITIES), default="quick", help="what it may cost (default quick)")
    add("--method", choices=get_args(Method), help="default: that of the quality")
    for name in (*NUMBERS, *PICTURES):
        known = {quality: getattr(preset if name in PICTURES else preset.settings, name) for quality, preset in PRESETS}
        told = ", ".join(f"{quality} {value}" for quality, value in known.items())
        help_ = f"default {known['quick']}" if len(set(known.values())) == 1 else f"default by quality: {told}"
        add(f"--{name.replace('_', '-')}", type=kinds.get(name, int), metavar="N", help=help_)
    add("--keep-concept", action="store_true", help="let the concept's own words explain it")
    add("--templates", choices=list(TEMPLATES), default="conceptor27", help="of text features (default conceptor27)")
    add("--guidance-scale", type=float, default=7.5, help="classifier-free guidance (default 7.5)")
    add("--size", type=int, help="picture size in pixels (default: the model's own)")


def run(arguments: argparse.Namespace, console: Console) -> None:
    # Imported here: diffusers takes seconds, which --help and wrong usage should not.
    from ...core.conceptor.explanation import NotDrawnError, check_name, explain, seeds_of
    from ...core.conceptor.vocabulary import embed_vocabulary
    from ...core.pictures.charts import bar_chart
    from ...core.pictures.grid import labelled_grid, save_picture
    from ...pipelines.pictures import Sampling, check_seeds
    from ...pipelines.studio import DiffusersStudio, portions
    from ..terminal.processes import Processes

    concepts = concepts_of(arguments)
    template = Template.of(arguments.prompt)
    numbers = {name: getattr(arguments, name) for name in ("method", *NUMBERS, *PICTURES)}
    preset = QUALITIES[arguments.quality].with_numbers(numbers)
    settings = replace(preset.settings, exclude_concept=not arguments.keep_concept)
    counts: dict[str, Any] = {"num_images": preset.num_images, "validation_images": preset.validation_images}
    seeds = [seed for part in seeds_of(settings, **counts) for seed in part]
    check_seeds(seeds)
    sampling = Sampling(preset.sampling_steps, arguments.guidance_scale, arguments.size, preset.sampler)
    files = {concept: arguments.out / f"{file_name(concept)}.safetensors" for concept in concepts}
    made_by = {**asked(arguments, *DRAWN), **counts, "sampling_steps": preset.sampling_steps, "sampler": preset.sampler}
    wanted = {concept: {"concept": concept, "prompt": arguments.prompt, **made_by} for concept in concepts}
    pending = [concept for concept, file in files.items() if not finished(file, settings, **wanted[concept])]
    processes = Processes()
    console.bars = processes.first
    processes.check_shared(arguments.out)
    pipe = open_model(arguments, processes.device)
    if processes.first:
        for concept, file in files.items():
            if concept not in pending:
                console.line(f"{concept}: {file} is there already")
    cache = arguments.out / "cache"
    studio = DiffusersStudio(pipe, sampling, cache)
    studio.check_diffusion()
    studio.slot(template)
    prompts = [template, *map(Template.of, TEMPLATES[arguments.templates])]
    for concept in pending:
        check_name(studio.encoder, concept, prompts)
    with console.progress("embedding words") as progress:
        vocabulary = embed_vocabulary(
            studio.encoder, arguments.templates, cache=cache, progress=progress, spread=processes.spread
        )
    if processes.count > 1:  # pictures are drawn by all: there may be fewer concepts than processes
        work = [(concept, some) for concept in pending for some in portions(seeds)]
        for concept, some in processes.share(work):
            studio.latents_of_prompt(template.filled(concept), some)
        processes.meet()
    for concept in processes.share(pending):
        file = files[concept]
        checkpoint = checkpoint_of(file, studio)
        what = (studio, vocabulary, concept, template, settings)
        try:
            with console.progress(concept) as progress:
                explained = explain(*what, ConsoleLive(progress), **counts, checkpoint=checkpoint)
        except NotDrawnError as error:  # the other concepts are explained all the same
            console.line(f"{concept}: {error}")
            continue
        mix = explained.found.mix
        mix = replace(mix, made_by={**mix.made_by, **made_by})
        console.line(explained.report())
        rows = [*explained.pictures[:8], *explained.reconstructions[:8]]
        labels = [concept] * len(explained.pictures[:8]) + ["mix"] * len(explained.reconstructions[:8])
        save_picture(labelled_grid(rows, labels, columns=8), file.with_suffix(".png"))
        save_picture(bar_chart(mix.top(20).texts, mix.top(20).coefficients), file.with_suffix(".bars.png"))
        save_picture(explained.chart(), file.with_suffix(".loss.png"))
        mix.save(file)  # the last: it marks the concept as finished
        checkpoint.remove()
        console.line(str(file))
    processes.meet()
    if processes.first:
        made = {concept: file for concept, file in files.items() if file.exists()}
        console.result({concept: _summary(TokenMix.load(file)) for concept, file in made.items()})


class ConsoleLive:
    """What a console shows of an explanation."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def bar(self, done: int, total: int, picture: Tensor | None = None) -> None:  # noqa: ARG002  (no place for it)
        self._progress(done, total)

    def say(self, text: str) -> None:
        pass

    def found(self, mix: TokenMix) -> None:
        pass


def finished(file: Path, settings: Settings, **wanted: Any) -> bool:
    """Whether an earlier run has made the mix. Raises UserError when that run was to make something else.

    wanted: what else must be as it was: the concept, its prompt, the model and its pictures.
    """
    if not file.exists():
        return False
    mix = TokenMix.load(file)
    made_by = {**mix.made_by, "settings": {**asdict(Settings()), **mix.made_by.get("settings", {})}}
    for name, value in {**wanted, "settings": asdict(settings)}.items():
        if made_by.get(name) != value:
            raise UserError(
                f"{file} was made with other {name} ({made_by.get(name)}, not {value}); remove it, or choose "
                "another --out."
            )
    return True


def checkpoint_of(file: Path, studio: DiffusersStudio) -> Checkpoint:
    """Where the fit of a mix is kept until `file` is written."""
    return Checkpoint(file.with_suffix(".checkpoint"), studio.fingerprint)


def _summary(mix: TokenMix) -> dict[str, float]:
    return dict(zip(mix.texts, mix.coefficients, strict=True))
