"""`vocab`: the words that a diffusers model has, and those nearest to texts and pictures."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from ...core.conceptor.vocabulary import TEMPLATES, Tokens
from ...core.errors import UserError
from ..terminal.console import Console
from ..terminal.options import add_model_options, open_model

if TYPE_CHECKING:
    from torch import Tensor


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_options(parser)
    add = parser.add_argument
    add("--text", action="append", default=[], help="show the words nearest to this text (repeatable)")
    add("--picture", type=Path, action="append", default=[], metavar="FILE", help="and to this picture (repeatable)")
    add("--top", type=int, default=20, metavar="N", help="how many words (default 20)")
    add("--templates", choices=list(TEMPLATES), default="conceptor27", help="of text features (default conceptor27)")
    add("--tokens", choices=get_args(Tokens), default="words", help="whole words made of letters (default), or all")
    add("--cache", type=Path, metavar="DIR", help="where the features are kept and found again")


def run(arguments: argparse.Namespace, console: Console) -> None:
    # Imported here: diffusers takes seconds, which --help and wrong usage should not.
    from ...core.conceptor.vocabulary import check_space, embed_vocabulary, text_feature
    from ...core.model.text_tower import PROJECTION
    from ...pipelines.pictures import Sampling
    from ...pipelines.studio import DiffusersStudio

    if arguments.top < 1:
        raise UserError(f"--top is {arguments.top}; show at least 1 word.")
    pictures = {file: _read(file) for file in arguments.picture}
    studio = DiffusersStudio(open_model(arguments), Sampling())
    tower, templates = studio.towers[-1], TEMPLATES[arguments.templates]
    wanted = {text: text_feature(studio.encoder, tower, text, templates) for text in arguments.text}
    for file, picture in pictures.items():
        features = studio.features(picture)
        if features is None:
            raise UserError(f"{arguments.model} has no image encoder, which --picture needs; give a --text instead.")
        check_space(PROJECTION in tower.weights, len(tower.weights.get(PROJECTION, ())), features)
        wanted[str(file)] = features[0]
    with console.progress("embedding words") as progress:
        vocabulary = embed_vocabulary(studio.encoder, arguments.templates, arguments.tokens, arguments.cache, progress)
    console.line(f"{len(vocabulary)} tokens of {studio.family}, {sum(vocabulary.whole_words)} of them whole words")
    results = {}
    for name, feature in wanted.items():
        found = [(vocabulary.texts[row], score) for row, score in vocabulary.nearest(feature.cpu(), arguments.top)]
        console.line("\n".join([f"{name}:", *(f"  {text:<20} {score:.3f}" for text, score in found)]))
        results[name] = dict(found)
    console.result({"tokens": len(vocabulary), "nearest": results})


def _read(file: Path) -> Tensor:
    """A picture (1, height, width, 3) in 0..1."""
    from PIL import Image, UnidentifiedImageError

    from ...core.pictures.grid import from_pil

    try:
        with Image.open(file) as picture:
            return from_pil(picture.convert("RGB"))[None]
    except (OSError, UnidentifiedImageError) as error:
        raise UserError(f"{file} can't be read as a picture ({error}); give a PNG or JPEG file.") from error
