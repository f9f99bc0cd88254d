"""EmojiWorld's token table: 49,408 embeddings in four bits an entry."""

from __future__ import annotations

import torch
from torch import Tensor

LEVELS = 7  # -7..7 in four bits
CLIPPING = (1.0, 0.9, 0.8, 0.7, 0.6)  # shares of a row's largest entry that are tried as the largest level


def pack(table: Tensor) -> dict[str, Tensor]:
    """Four bits an entry and one scale a row: the best of a few scales for each.

    table: (rows, an even number of columns). Returns `table` (rows, columns / 2) uint8 and `table_scale` (rows,)
    float16.
    """
    best = torch.full((len(table),), torch.inf)
    levels, scales = torch.zeros_like(table), torch.zeros(len(table), dtype=torch.float16)
    for share in CLIPPING:
        scale = (share * table.abs().amax(1) / LEVELS).clamp_min(1e-6).half()
        rounded = (table / scale[:, None].float()).round().clamp(-LEVELS, LEVELS)
        error = (rounded * scale[:, None].float() - table).square().sum(1)
        better = error < best
        best, scales = torch.where(better, error, best), torch.where(better, scale, scales)
        levels = torch.where(better[:, None], rounded, levels)
    nibbles = (levels + LEVELS).to(torch.uint8)
    return {"table": nibbles[:, ::2] * 16 + nibbles[:, 1::2], "table_scale": scales}


def unpack(table: Tensor, table_scale: Tensor) -> Tensor:
    """The table (rows, columns) in float32 that `pack` stored: exactly, wherever it is unpacked."""
    nibbles = torch.stack([table // 16, table % 16], -1).flatten(1)
    return (nibbles.float() - LEVELS) * table_scale[:, None].float()
