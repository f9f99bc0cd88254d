"""`card`: explanations of concepts as pictures and as one page, for readers who have never seen the tool.

Finished concepts are skipped. Under `accelerate launch` or `torchrun` the processes share the concepts.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ...core import storage
from ...core.conceptor.card import SHOWN, Portrait, concept_card, report_page
from ...core.conceptor.mixture import TokenMix
from ...core.errors import UserError
from ...core.model.template import Template
from ...core.pictures.grid import from_pil
from ..terminal.console import Console
from ..terminal.options import add_model_options, add_sampling_options, asked, open_model, sampling_of, seeds_of
from ..terminal.results import keep_result, kept_result

PAGE = "report.html"
PROMPT = "a photo of a {}"  # of a mix that does not say in which one it was made


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add_model_options(parser)
    add("--mix", type=Path, action="append", default=[], metavar="FILE", help="what decompose has made (repeatable)")
    add("--mixes", type=Path, metavar="DIR", help="or all of its --out folder")
    add_sampling_options(parser)
    add("--title", default="Concepts", help="of the page (default Concepts)")
    add("--out", type=Path, required=True, metavar="DIR", help=f"where cards (.png) and {PAGE} go")


def run(arguments: argparse.Namespace, console: Console) -> None:
    # Imported here: diffusers takes seconds, which --help and wrong usage should not.
    from PIL import Image

    from ...core.pictures.grid import save_picture
    from ...pipelines.studio import DiffusersStudio
    from ..terminal.processes import Processes

    files = [*arguments.mix, *(sorted(arguments.mixes.glob("*.safetensors")) if arguments.mixes else [])]
    if not files:
        raise UserError("There is no mix; name a --mix, or a folder of --mixes that decompose has made.")
    mixes = {arguments.out / f"{file.stem}.png": TokenMix.load(file) for file in files}
    if len(mixes) < len(files):
        raise UserError("Two mixes have the same file name; their cards would too: rename one.")
    for mix in mixes.values():
        Template.of(mix.made_by.get("prompt", PROMPT))
    sampling, seeds, processes = sampling_of(arguments), seeds_of(arguments, SHOWN), Processes()
    console.bars = processes.first
    how = asked(arguments, "seed", "steps", "guidance_scale", "size")
    made_by = {
        card: {**how, "words": dict(zip(mix.texts, mix.coefficients, strict=True))} for card, mix in mixes.items()
    }
    marks = {card: card.with_suffix(".json") for card in mixes}
    pending = [card for card in mixes if not (kept_result(marks[card], made_by[card]) and card.exists())]
    processes.check_shared(arguments.out)
    if pending:
        studio = DiffusersStudio(open_model(arguments, processes.device), sampling)
        for card in pending:
            mixes[card].check_family(studio.family)
        for card in processes.share(pending):
            mix = mixes[card]
            template = Template.of(mix.made_by.get("prompt", PROMPT))
            alone = mix.top(SHOWN).singles()
            words = studio.latents_of_mixes(template, alone, [seeds[0]] * len(alone))
            remade = studio.latents_of_mix(template, mix, seeds)
            concept = mix.made_by.get("concept")
            own = studio.latents_of_prompt(template.filled(concept), seeds) if concept else None
            samples = None if own is None else studio.pictures(own)
            portrait = Portrait(mix, samples, studio.pictures(remade), studio.pictures(words))
            save_picture(concept_card(portrait), card)
            keep_result(marks[card], made_by[card], {"picture": card.name})
            console.line(str(card))
        processes.meet()
    if processes.first:
        cards = [(mix, from_pil(Image.open(card))) for card, mix in mixes.items()]
        page = arguments.out / PAGE
        storage.write_bytes(page, report_page(arguments.title, cards).encode())
        console.line(str(page))
        console.result({"cards": list(map(str, mixes)), "page": str(page)})
