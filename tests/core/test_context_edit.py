"""The algebra of context edits, and their files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conceptlens.core.errors import UserError
from conceptlens.core.time_edit.context_edit import ContextEdit
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor


def random_edit(width: int, rank: int, seed: int) -> tuple[ContextEdit, Tensor]:
    """An edit and its map E as a matrix."""
    generator = torch.Generator().manual_seed(seed)
    up, down = (
        torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((width, rank), (rank, width))
    )
    return ContextEdit.from_factors(up, down, {"seed": seed}), up @ down


def matrix(edit: ContextEdit) -> Tensor:
    return edit.left * edit.singular_values @ edit.right


@given(st.integers(1, 12), st.integers(0, 20), st.integers(0, 99))
def test_factors_are_kept_and_orthonormal(width: int, rank: int, seed: int) -> None:
    edit, expected = random_edit(width, rank, seed)
    assert edit.rank <= min(width, rank)
    torch.testing.assert_close(matrix(edit), expected)
    identity = torch.eye(edit.rank, dtype=torch.float64)
    torch.testing.assert_close(edit.left.T @ edit.left, identity)
    torch.testing.assert_close(edit.right @ edit.right.T, identity)


def test_edited_context_is_what_the_edited_weight_sees() -> None:
    edit, change = random_edit(16, 5, 1)
    context, weight = torch.randn(2, 77, 16, dtype=torch.float64), torch.randn(9, 16, dtype=torch.float64)
    edited_weight = weight + weight @ change
    torch.testing.assert_close(edit(context) @ weight.T, context @ edited_weight.T)
    assert edit(context.half()).dtype == torch.float16


@given(st.integers(0, 99))
def test_then_is_one_edit_of_the_weights_after_the_other(seed: int) -> None:
    (first, e1), (second, e2) = random_edit(10, 3, seed), random_edit(10, 4, seed + 100)
    one = torch.eye(10, dtype=torch.float64)
    weight = torch.randn(7, 10, dtype=torch.float64)
    torch.testing.assert_close(weight @ (one + matrix(first.then(second))), weight @ (one + e1) @ (one + e2))
    assert first.then(second).made_by == {"steps": [{"seed": seed}, {"seed": seed + 100}]}


@pytest.mark.parametrize("strength", [0.0, 1.0, 0.3, -2.0])
def test_scaling(strength: float) -> None:
    edit, change = random_edit(10, 4, 2)
    torch.testing.assert_close(matrix(edit.scaled(strength)), strength * change)
    assert (edit.scaled(strength).singular_values > 0).all()


@given(st.integers(0, 8), st.integers(0, 99), st.sampled_from([None, 5, 40]))
def test_truncation_is_the_best_and_reports_the_energy(rank: int, seed: int, count: int | None) -> None:
    """No map of that rank comes closer (Eckart and Young): the error is the norm of the dropped singular values."""
    edit, change = random_edit(12, 6, seed)
    generator = torch.Generator().manual_seed(seed)
    states = None
    if count is not None:
        stretched = torch.randn(12, 12, generator=generator, dtype=torch.float64).matrix_exp()
        states = torch.randn(count, 12, generator=generator, dtype=torch.float64) @ stretched
    small, energy = edit.truncated(rank, states)
    assert small.rank <= rank
    where = torch.eye(12, dtype=torch.float64) if states is None else states.T
    values = torch.linalg.svdvals(change @ where)
    error = ((matrix(small) - change) @ where).norm()
    torch.testing.assert_close(error, values[rank:].norm(), rtol=1e-6, atol=1e-8 * float(values[0]))
    assert energy == pytest.approx(float(values[:rank].square().sum() / values.square().sum()))


def test_truncation_to_the_full_rank_is_the_edit_itself() -> None:
    edit, _ = random_edit(12, 6, 1)
    assert edit.truncated(6, torch.zeros(1, 12)) == (edit, 1.0)


def test_saved_edit_comes_back_bit_by_bit(tmp_path: Path) -> None:
    edit, _ = random_edit(24, 5, 3)
    edit.save(tmp_path / "new folder" / "edit.safetensors")
    loaded = ContextEdit.load(tmp_path / "new folder" / "edit.safetensors")
    for name in ("left", "singular_values", "right"):
        assert torch.equal(getattr(loaded, name), getattr(edit, name))
    assert loaded.made_by == edit.made_by


def spoil(path: Path, how: str) -> None:
    edit, _ = random_edit(8, 3, 4)
    edit.save(path)
    if how == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    elif how == "header destroyed":
        path.write_bytes(b"\xff" * 8 + path.read_bytes()[8:])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "not ours":
        save_file({"left": torch.zeros(2)}, path)
    elif how == "metadata not JSON":
        save_file({"left": torch.zeros(2)}, path, {"conceptlens": "{"})
    elif how == "another kind":
        save_file({"left": torch.zeros(2)}, path, {"conceptlens": '{"kind": "token mix", "version": 1}'})
    elif how == "newer version":
        save_file({"left": torch.zeros(2)}, path, {"conceptlens": '{"kind": "context edit", "version": 2}'})
    elif how == "tensor missing":
        save_file({"left": torch.zeros(2)}, path, {"conceptlens": '{"kind": "context edit", "version": 1}'})
    elif how == "wrong shape":
        ContextEdit(edit.left[:4], edit.singular_values, edit.right).save(path)
    elif how == "not finite":
        ContextEdit(edit.left * torch.inf, edit.singular_values, edit.right).save(path)
    elif how == "missing":
        path.unlink()


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("truncated", "is damaged or no safetensors file"),
        ("header destroyed", "is damaged or no safetensors file"),
        ("empty", "is damaged or no safetensors file"),
        ("not ours", "holds no ConceptLens data"),
        ("metadata not JSON", "is damaged"),
        ("another kind", "another kind (token mix)"),
        ("newer version", "has version 2"),
        ("tensor missing", "has no tensor right"),
        ("wrong shape", "expected those of a context edit of width 4"),
        ("not finite", "not finite numbers"),
        ("missing", "does not exist"),
    ],
)
def test_other_files_are_refused_by_name(tmp_path: Path, how: str, says: str) -> None:
    path = tmp_path / "edit.safetensors"
    spoil(path, how)
    with pytest.raises(UserError) as error:
        ContextEdit.load(path)
    assert says in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
