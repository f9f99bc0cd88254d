"""Weights are what was saved, and damaged ones are named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conceptlens.core.errors import UserError
from conceptlens.world import weights


def test_the_table_is_kept_to_the_nearest_level_of_the_best_scale() -> None:
    table = torch.randn(200, 64)
    kept = weights.unpack(**weights.pack(table)).float()
    # Four bits for normal values: the error of rounding to 15 levels, a little less than with the largest entry on top.
    largest = table.abs().amax(1, keepdim=True) / weights.LEVELS
    plain = (table / largest).round() * largest
    assert (kept - table).square().sum() < (plain - table).square().sum()
    assert (kept - table).square().mean() / table.square().mean() < 0.02


def test_a_table_of_levels_is_kept_exactly_and_a_row_of_zeros_too() -> None:
    levels = torch.randint(-weights.LEVELS, weights.LEVELS + 1, (50, 32)).float()
    levels[:, 0] = weights.LEVELS
    levels[7] = 0
    assert torch.equal(weights.unpack(**weights.pack(levels * 0.25)).float(), levels * 0.25)


def test_weights_come_back_as_they_were_saved(tmp_path: Path) -> None:
    state = {"a": torch.randn(3, 4), weights.EMBEDDING: torch.randn(10, 8)}
    weights.save("encoders", state, {"settings": {}}, tmp_path)
    loaded = weights.load("encoders", tmp_path)
    assert torch.equal(loaded["a"], state["a"].half())
    weights.save("encoders", loaded, {"settings": {}}, tmp_path)
    assert all(torch.equal(loaded[name], again) for name, again in weights.load("encoders", tmp_path).items())


def test_eight_bits_keep_a_matrix_to_half_a_level_and_the_rest_in_float16(tmp_path: Path) -> None:
    state = {"matrix": torch.randn(5, 3, 4), "bias": torch.randn(5)}
    state["matrix"][2] = 0
    weights.save("transformer", state, {}, tmp_path, bytewise=True)
    loaded = weights.load("transformer", tmp_path)
    assert set(loaded) == set(state)
    assert torch.equal(loaded["bias"], state["bias"].half())
    level = state["matrix"].abs().amax((1, 2), keepdim=True) / weights.BYTE_LEVELS
    # Half a level, and what bfloat16 keeps of the scale: 1 in 512 of an entry.
    error = (loaded["matrix"].float() - state["matrix"]).abs()
    assert (error <= 0.5 * level + state["matrix"].abs() / 256 + 1e-6).all()


@pytest.mark.parametrize("damage", ["cut", "bit", "missing", "no checksum"])
def test_damaged_weights_are_named_with_the_command_that_restores_them(tmp_path: Path, damage: str) -> None:
    weights.save("unet", {"a": torch.randn(100)}, {}, tmp_path)
    file = tmp_path / "unet.safetensors"
    data = bytearray(file.read_bytes())
    if damage == "cut":
        file.write_bytes(data[:-7])
    elif damage == "bit":
        data[-1] ^= 1
        file.write_bytes(data)
    elif damage == "missing":
        file.unlink()
    else:
        (tmp_path / weights.CHECKSUMS).write_text("{}")
    with pytest.raises(UserError, match="git -C") as caught:
        weights.load("unet", tmp_path)
    assert "unet.safetensors" in str(caught.value)
    if damage in ("cut", "bit"):
        assert str(caught.value).count("checksum") == 1
        assert "expected" in str(caught.value)
