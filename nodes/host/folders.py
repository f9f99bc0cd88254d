"""The host's folders."""

from __future__ import annotations

import json
import os
import re
from datetime import datetime
from pathlib import Path
from typing import Any

import folder_paths
from comfy.cli_args import args
from comfy.sd1_clip import expand_directory_list

from ...core.errors import UserError

# Bytes of a name. Systems end it at 255: a number, an ending and a mark of what is half written are added.
LONGEST = 180
OUTPUT = "output"
FOLDERS = ("loras", OUTPUT)  # where a TIME edit can be saved
EMBEDDING_ENDINGS = ("", ".safetensors", ".pt", ".bin")  # that the host adds to a name in a prompt
DATE = re.compile(r"%date:([^%.]*)%")  # the page writes it out for the host's own saving nodes, as `dated` does
DATE_PARTS = re.compile(r"dd?|MM?|hh?|mm?|ss?|yyyy|(?<!y)yy(?!y)")
EMBEDDINGS, MIXES, DIRECTIONS = "embeddings", "token_mixes", "hspace_directions"
for own in (MIXES, DIRECTIONS):
    folder_paths.add_model_folder_path(own, str(Path(folder_paths.models_dir, own)), is_default=True)
    folder_paths.folder_names_and_paths[own][1].add(".safetensors")


def files(folder: str) -> list[str]:
    """The names of the files in one of the host's model folders."""
    return folder_paths.get_filename_list(folder)


def file(folder: str, name: str) -> Path:
    """The path of a file in one of the host's model folders; UserError when there is none."""
    path = folder_paths.get_full_path(folder, name)
    if path is None:
        raise UserError(f'There is no file "{name}" in {folder_paths.get_folder_paths(folder)[0]}; choose another one.')
    return Path(path)


def cache_folder() -> Path:
    """Where results are kept that can be made anew."""
    return Path(folder_paths.get_user_directory(), "conceptlens", "cache")


def changed_at(folder: str, name: str) -> float:
    """When a file was written last: the host runs a node again when this changes."""
    return file(folder, name).stat().st_mtime


def check_inside(prefix: str, folder: str) -> str:
    """The path of the host's `folder`; UserError when a file named `prefix` would lie outside of it."""
    if folder not in (*FOLDERS, EMBEDDINGS, MIXES, DIRECTIONS):
        raise UserError(f'The folder "{folder}" is neither {" nor ".join(FOLDERS)}; choose one of them.')
    if folder == EMBEDDINGS and re.search(r"[\s()<>\[\],]", prefix):
        raise UserError(f'No prompt can use the name "{prefix}"; choose one without spaces, commas and brackets.')
    output = folder == OUTPUT
    root = folder_paths.get_output_directory() if output else folder_paths.get_folder_paths(folder)[0]
    usable = prefix.isprintable() and Path(prefix).name.strip(". ")
    if max(len(os.fsencode(part)) for part in [*Path(prefix).parts, ""]) > LONGEST:
        raise UserError(f'File name too long: "{prefix[:40]}..."; choose one of {LONGEST} letters at most.')
    # Resolved, so that a link in the folder does not lead out of it either.
    if not usable or not Path(root, prefix).parent.resolve().is_relative_to(Path(root).resolve()):
        raise UserError(f'The file name "{prefix}" is empty or leaves the folder {root}; choose one inside of it.')
    return root


def dated(prefix: str) -> str:
    """A file name with what the host's page makes of its %date:yyyy-MM-dd%; the rest the host's own function knows."""
    now = datetime.now().astimezone()
    numbers = {"d": now.day, "M": now.month, "h": now.hour, "m": now.minute, "s": now.second}

    def number(part: re.Match[str]) -> str:
        letter, width = part[0][0], len(part[0])
        return str(now.year)[-width:] if letter == "y" else f"{numbers[letter]:0{width}}"

    return DATE.sub(lambda date: DATE_PARTS.sub(number, date[1]), prefix)


def usable_name(prefix: str | None, folder: str | None) -> bool | str:
    """The answer of a saving node's `validate_inputs`: True, or why a file can't be named so.

    What comes from another node is None until it runs, and is checked then.
    """
    if prefix is None or folder is None:
        return True
    try:
        check_inside(prefix if folder == EMBEDDINGS else dated(prefix), folder)
    except UserError as error:
        return str(error)
    return True


def numbered_path(prefix: str, folder: str, ending: str = ".safetensors") -> Path:
    """The next free `<prefix>_00001_<ending>` in one of the host's FOLDERS, never outside of it."""
    prefix = dated(prefix)
    root = check_inside(prefix, folder)
    try:
        place, name, counter, _, _ = folder_paths.get_save_image_path(prefix, root)
    except OSError as error:
        raise UserError(f'No file "{prefix}" can be made in {root} ({error.strerror}); choose another name.') from error
    return Path(place) / f"{name}_{counter:05}_{ending}"


def new_embedding(name: str) -> Path:
    """Where an embedding is saved that prompts use as `embedding:name`.

    Raises UserError when prompts mean another file by that name, or by its end: the host looks through subfolders too.
    """
    path = Path(check_inside(name, EMBEDDINGS), f"{name}.safetensors")
    parts = Path(name).parts
    for meant in ("/".join(parts[first:]) for first in range(len(parts))):
        if found := embedding_file(meant):
            raise UserError(f"{found} exists already, and prompts use it as embedding:{meant}; choose another name.")
    return path


def embedding_file(name: str) -> Path | None:
    """The file that the host reads for `embedding:name`: of several endings, in any folder of embeddings."""
    for folder in expand_directory_list(folder_paths.get_folder_paths(EMBEDDINGS)):
        for ending in EMBEDDING_ENDINGS:
            path = Path(folder, name + ending)
            if path.is_file():
                return path
    return None


def workflow_metadata(prompt: Any, extra_pnginfo: Any) -> dict[str, str]:
    """The graph as metadata of a saved file, as the host's own nodes write it, unless the user has turned that off."""
    if args.disable_metadata:
        return {}
    parts = {"prompt": prompt, **(extra_pnginfo or {})}
    return {name: json.dumps(part) for name, part in parts.items() if part is not None}
