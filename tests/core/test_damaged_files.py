"""Files that were damaged, cut off or written by somebody else: each is read, or refused with one sentence."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conceptlens.core import storage
from conceptlens.core.checkpoint import Checkpoint
from conceptlens.core.conceptor.mixture import TokenMix
from conceptlens.core.errors import UserError
from conceptlens.core.hspace.directions import HSpaceDirections
from conceptlens.core.hspace.samples import HSpaceSamples
from conceptlens.core.model.text_tower import WordTable
from conceptlens.core.time_edit.context_edit import ContextEdit

MUTATIONS = 2000
JUNK: list[Any] = [None, True, -1, 0, 1, 2**63, 1e300, "", "x", "after", [], [[]], {}, {"a": None}, ["x"], "\ud800"]
ORIGIN = ("SD 1.x", "after", {"method": "pca", "per step": True})
SIGMAS = torch.tensor([10.0, 1.0, 0.1])


def save_mix(file: Path) -> None:
    TokenMix.of([320, 1929, 2368], ["a", "dog", "cat"], [0.1, 0.6, 0.3], family="SD 1.x", concept="pet").save(file)


def save_directions(file: Path) -> None:
    HSpaceDirections(SIGMAS, torch.randn(2, 3, 4, 2, 2), torch.rand(2, 3), *ORIGIN).save(file)


def save_samples(file: Path) -> None:
    activations = torch.randn(3, 2, 4, 2, 2).half()
    HSpaceSamples(SIGMAS, activations, *ORIGIN).save(file)


def save_edit(file: Path) -> None:
    edit = ContextEdit.from_factors(torch.randn(8, 2).double(), torch.randn(2, 8).double())
    edit.save(file)


def save_checkpoint(file: Path) -> None:
    Checkpoint(file, "model").save({"concept": "pet"}, {"best": torch.rand(5)}, {"losses": [[1, 0.5]]})


FORMATS: dict[str, tuple[Callable[[Path], None], Callable[[Path], Any]]] = {
    "mix": (save_mix, TokenMix.load),
    "directions": (save_directions, HSpaceDirections.load),
    "samples": (save_samples, HSpaceSamples.load),
    "edit": (save_edit, ContextEdit.load),
    "checkpoint": (save_checkpoint, lambda file: Checkpoint(file, "model").load({"concept": "pet"})),
}


def damaged(data: bytes, generator: random.Random) -> bytes:
    """Some bytes changed, cut off, doubled or zeroed."""
    place, length = generator.randrange(len(data)), generator.randrange(1, 64)
    kind = generator.choice(["change", "cut", "double", "zero"])
    if kind == "change":
        changed = bytearray(data)
        for _ in range(generator.randrange(1, 9)):
            changed[generator.randrange(len(data))] = generator.randrange(256)
        return bytes(changed)
    if kind == "cut":
        return data[:place]
    middle = data[place : place + length] * 2 if kind == "double" else bytes(length)
    return data[:place] + middle + data[place + length :]


def forged(data: bytes, generator: random.Random) -> bytes:
    """A well-formed file of which one entry, of ours or of a tensor, is something else."""
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    ours = json.loads(header["__metadata__"][storage.FORMAT_KEY])
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        for key in node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
            places.append((node, key))
            walk(node[key])

    walk(generator.choice([ours, {name: entry for name, entry in header.items() if name != "__metadata__"}]))
    node, key = generator.choice(places)
    if isinstance(node, dict) and generator.random() < 0.2:
        del node[key]
    else:
        dtypes = ["F64", "F32", "F16", "BF16", "I64", "U8", "BOOL", "F8_E4M3"]
        node[key] = generator.choice(dtypes if key == "dtype" else JUNK)
    header["__metadata__"][storage.FORMAT_KEY] = json.dumps(ours)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data[8 + size :]


@pytest.mark.parametrize("name", FORMATS)
def test_a_damaged_file_is_read_or_refused_with_one_sentence(name: str, tmp_path: Path) -> None:
    save, load = FORMATS[name]
    whole, file, generator = tmp_path / "whole", tmp_path / "damaged", random.Random(name)
    save(whole)
    data, refused = whole.read_bytes(), 0
    for number in range(MUTATIONS):
        file.write_bytes((forged if number % 2 else damaged)(data, generator))
        try:
            refused += load(file) is None  # what a checkpoint says
        except UserError as error:
            refused += 1
            assert str(file) in str(error)
            assert len(str(error).splitlines()) == 1
    assert MUTATIONS / 4 < refused < MUTATIONS


@pytest.mark.parametrize(
    "made_by", [{"concept": 3}, {"family": None}, {"prompt": []}, {"pictures": "x"}, {"pictures": True}, {"removal": 1}]
)
def test_what_is_said_of_a_mix_has_its_kind(made_by: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    TokenMix.of([1], ["a"], [1.0], family="SD 1.x", concept="pet", own=[None]).save(file)
    mix = TokenMix.load(file)  # what others say is theirs
    assert mix.made_by["own"] == [None]
    replace(mix, made_by=mix.made_by | made_by).save(file)
    with pytest.raises(UserError, match=f"its {next(iter(made_by))} is no") as refused:
        TokenMix.load(file)
    assert str(file) in str(refused.value)


def test_a_token_that_the_model_lacks_is_named() -> None:
    mix = TokenMix.of([1, 50], ["a", "b"], [1.0, 1.0])
    with pytest.raises(UserError, match="a token 50, but the model's tokens go from 0 to 49"):
        mix.pseudo_token([WordTable(torch.eye(50))])
