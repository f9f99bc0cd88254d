"""Files of the pack: safetensors with JSON metadata, written atomically, read with suspicion."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from .errors import UserError

FORMAT_KEY = "conceptlens"  # the metadata entry that holds our JSON
Entry = TypeVar("Entry")


def write(
    path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any], metadata: Mapping[str, str] = {}
) -> None:
    """Writes `tensors` with `header` as JSON metadata: afterwards `path` holds the new file or, on failure, the old.

    `metadata` are further entries beside the header, texts by name. Raises UserError when the folder can't be written
    or the disk is full.
    """
    data = save(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
        {**metadata, FORMAT_KEY: json.dumps(header, ensure_ascii=False)},
    )
    write_bytes(path, _in_order(data))


def _in_order(data: bytes) -> bytes:
    """A safetensors file with its metadata sorted: as saved, their order differs from one process to the next."""
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, memoryview(data)[start:]])


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file: afterwards `path` holds the new one or, on failure, the old. Raises UserError as `write` does."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"{path} is not an ordinary file; choose another name.")
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise UserError(
            f"{path} could not be written ({error.strerror}); make {len(data) / 2**20:.1f} MB of room or choose "
            "another folder. What was there before is unchanged."
        ) from error


def keep(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> str | None:
    """`write` for what can be made anew: where it can't be written a warning says why, which is also returned."""
    try:
        write(path, tensors, header)
    except UserError as error:
        warning = f"What was made could not be kept, and is made anew next time: {error}"
        logging.getLogger(__name__).warning(warning)
        return warning
    return None


def read(
    path: Path, kind: str, version: int, names: tuple[str, ...] | None = None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads a file that `write` made: its tensors `names`, or all, and its header.

    `header["kind"]` must be `kind` and `header["version"]` at most `version`. Raises UserError that names the file,
    what was expected and what was found.
    """
    expected = f"expected a ConceptLens {kind} file of version {version}"
    try:
        if not path.is_file():
            raise UserError(f"{path} does not exist; {expected}.")
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get(FORMAT_KEY, "null"))
            found = header.get("kind") if isinstance(header, dict) else None
            if found != kind:
                held = f"ConceptLens data of another kind ({found})" if found else "no ConceptLens data"
                raise UserError(f"{path} holds {held}; {expected}.")
            if not isinstance(header.get("version"), int) or header["version"] > version:
                raise UserError(f"{path} has version {header.get('version')}; {expected}, a newer pack may read it.")
            there = file.keys()
            if missing := set(names or ()) - set(there):
                raise UserError(f"{path} has no tensor {min(missing)}; {expected}.")
            return {name: file.get_tensor(name) for name in names or there}, header
    except (SafetensorError, OSError, ValueError, RecursionError) as error:  # the last of JSON that is nested too deep
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is damaged or no safetensors file ({error}); {expected}.") from error


def entry(path: Path, header: Mapping[str, Any], name: str, kind: type[Entry]) -> Entry:
    """What a file's header has under a name. Raises UserError, naming the file, when that is not of a kind."""
    found = header.get(name)
    if not isinstance(found, kind) or (isinstance(found, bool) and kind is not bool):
        raise UserError(f"{path} is damaged: its {name} is no {kind.__name__}; make it anew.")
    return found


def check_numbers(path: Path, shapes: Mapping[str, int], tensors: Mapping[str, Tensor]) -> None:
    """Raises UserError, naming the file, unless tensors have so many dimensions each and hold finite real numbers.

    shapes: the number of dimensions by a tensor's name; tensors without an entry are not looked at.
    """
    for name, dimensions in shapes.items():
        tensor = tensors[name]
        if tensor.ndim != dimensions or tensor.is_complex() or tensor.dtype.itemsize < 2 or not tensor.isfinite().all():
            raise UserError(
                f"{path} is damaged: its {name} are not finite numbers in {dimensions} dimensions; make it anew."
            )
