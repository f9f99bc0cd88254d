"""Weights of a world: one file for each part, in float16 or in eight bits, the token table in four."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load as load_bytes
from torch import Tensor

from ..core import storage
from ..core.errors import UserError

Part = Literal["encoders", "vision", "autoencoder", "unet", "transformer", "classifier"]
CHECKSUMS = "checksums.json"
EMBEDDING = "text_model.embeddings.token_embedding.weight"
LEVELS = 7  # -7..7 in four bits
BYTE_LEVELS = 127
SCALE = ".scale"  # beside the name of a tensor that is kept in eight bits
CLIPPING = (1.0, 0.9, 0.8, 0.7, 0.6)  # shares of a row's largest entry that are tried as the largest level


def save(
    part: Part, state: Mapping[str, Tensor], made: Mapping[str, Any], folder: Path, bytewise: bool = False
) -> None:
    """Writes the weights of a part in float16 and notes their checksum; `made` says how they were made.

    bytewise: matrices in eight bits an entry, with one scale for each row.
    """
    tensors: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name == EMBEDDING:
            tensors |= pack(tensor)
        elif bytewise and tensor.ndim > 1:
            levels, scales = rounded(tensor.flatten(1), BYTE_LEVELS)
            tensors |= {name: levels.to(torch.int8).view(tensor.shape), name + SCALE: scales}
        else:
            tensors[name] = tensor.half()
    file = folder / f"{part}.safetensors"
    storage.write(file, tensors, made)
    known = {**checksums(folder), file.name: hashlib.sha256(file.read_bytes()).hexdigest()}
    (folder / CHECKSUMS).write_text(json.dumps(known, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def checksums(folder: Path) -> dict[str, str]:
    """The checksum of each part's file; none where there are no weights."""
    file = folder / CHECKSUMS
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def load(part: Part, folder: Path) -> dict[str, Tensor]:
    """The weights of a part, named as diffusers and transformers name them; float16.

    Raises UserError that names the file, the checksum found and the one expected, and how to restore it.
    """
    file = folder / f"{part}.safetensors"
    restore = f"restore it with: git -C {folder.parent} checkout -- {folder.name}"
    try:
        expected = checksums(folder)[file.name]
        data = file.read_bytes()
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{file} or its checksum can't be read ({error}); {restore}") from error
    found = hashlib.sha256(data).hexdigest()
    if found != expected:
        raise UserError(f"{file} ({len(data)} bytes) has the checksum {found}, expected {expected}; {restore}")
    tensors = load_bytes(data)
    if "table" in tensors:
        tensors[EMBEDDING] = unpack(tensors.pop("table"), tensors.pop("table_scale"))
    for name in [name for name, tensor in tensors.items() if tensor.dtype == torch.int8]:
        levels, scales = tensors[name], tensors.pop(name + SCALE)
        tensors[name] = (levels.flatten(1) * scales[:, None].float()).half().view(levels.shape)
    return tensors


def rounded(table: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """A table (rows, columns) as levels -levels..levels and one scale a row (rows,) in bfloat16: the best of a few."""
    table = table.float()
    best = torch.full((len(table),), torch.inf)
    nearest, scales = torch.zeros_like(table), torch.zeros(len(table), dtype=torch.bfloat16)
    for share in CLIPPING:
        scale = (share * table.abs().amax(1) / levels).clamp_min(1e-6).bfloat16()
        tried = (table / scale[:, None].float()).round().clamp(-levels, levels)
        error = (tried * scale[:, None].float() - table).square().sum(1)
        better = error < best
        best, scales = torch.where(better, error, best), torch.where(better, scale, scales)
        nearest = torch.where(better[:, None], tried, nearest)
    return nearest, scales


def pack(table: Tensor) -> dict[str, Tensor]:
    """A table (rows, an even number of columns) in four bits an entry.

    Returns `table` (rows, columns / 2) uint8 and `table_scale` (rows,)
    bfloat16: its 8 bits times the levels' 3 fit into float16, so that packing what was unpacked changes nothing.
    """
    levels, scales = rounded(table, LEVELS)
    nibbles = (levels + LEVELS).to(torch.uint8)
    return {"table": nibbles[:, ::2] * 16 + nibbles[:, 1::2], "table_scale": scales}


def unpack(table: Tensor, table_scale: Tensor) -> Tensor:
    """The table (rows, columns) in float16 that `pack` stored: exactly the same wherever it is unpacked."""
    nibbles = torch.stack([table // 16, table % 16], -1).flatten(1)
    return ((nibbles.float() - LEVELS) * table_scale[:, None].float()).half()
