"""Edits as LoRA files: precision, rank, names."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conceptlens.core.errors import UserError
from conceptlens.core.model.protocols import Family
from conceptlens.core.time_edit.context_edit import ContextEdit
from conceptlens.core.time_edit.lora import (
    LoraFactors,
    edit_denoiser,
    lora_names,
    lora_state_dict,
    save_lora,
    sufficient_rank,
)
from conceptlens.core.time_edit.time_edit import EditPair, edit_model
from conceptlens.tests.core.toy import ToyDenoiser, ToyEncoder
from safetensors import safe_open

ROSES = [EditPair("a pack of roses", "a pack of blue roses")]


def edit_with(values: list[float], width: int = 16) -> ContextEdit:
    basis = torch.linalg.qr(torch.randn(width, width, dtype=torch.float64))[0]
    rank = len(values)
    return ContextEdit(basis[:, :rank], torch.tensor(values, dtype=torch.float64), basis.T[:rank])


@pytest.mark.parametrize(
    ("values", "dtype", "rank"),
    [
        ([1.0, 1e-2, 1e-5], torch.float16, 2),
        ([1.0, 1e-2, 1e-5], torch.float32, 3),
        ([1.0, 1e-2, 1e-5], torch.bfloat16, 2),
        ([1.0] * 5, torch.float16, 5),
        ([1.0, *[3e-4] * 4], torch.float16, 3),  # together the small ones are above the rounding, two of them are not
        ([], torch.float16, 0),
    ],
)
def test_sufficient_rank(values: list[float], dtype: torch.dtype, rank: int) -> None:
    assert sufficient_rank(torch.tensor(values, dtype=torch.float64), dtype) == rank


@pytest.mark.parametrize("weight_dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("regularization", [0.1, 100.0])
def test_file_loses_no_more_than_half_precision_rounds(weight_dtype: torch.dtype, regularization: float) -> None:
    denoiser = ToyDenoiser(192)
    denoiser.dtype = weight_dtype
    edited = edit_model(ToyEncoder(192), denoiser, ROSES, regularization=regularization)
    state = lora_state_dict(edited.factors, "SD 1.x")
    edit = edited.edit.context
    exact = edit.left * edit.singular_values @ edit.right
    for name, weight in denoiser.weights.items():
        layer = lora_names(denoiser.weights, "SD 1.x")[name]
        up, down, alpha = (state[f"{layer}.{part}"] for part in ("lora_up.weight", "lora_down.weight", "alpha"))
        assert up.dtype == down.dtype == torch.float16
        assert float(alpha) == down.shape[0] == sufficient_rank(edit.singular_values, torch.float16)
        change = weight.double() @ exact
        assert (up.double() @ down.double() - change).norm() <= 2**-10 * change.norm()
        live = edited.factors[name]
        assert live.up.dtype == (torch.float32 if weight_dtype == torch.float32 else torch.float16)
        if weight_dtype == torch.float32:
            assert (live.up.double() @ live.down.double() - change).norm() <= 1e-6 * change.norm()


def test_tensors_of_a_file_share_no_memory() -> None:
    edited = edit_model(ToyEncoder(64), ToyDenoiser(64), ROSES)
    state = lora_state_dict(edited.factors, "SD 1.x")
    assert len({tensor.untyped_storage().data_ptr() for tensor in state.values()}) == len(state)


def test_layers_share_one_down_factor_in_memory() -> None:
    edited = edit_model(ToyEncoder(64), ToyDenoiser(64), ROSES)
    assert len({factors.down.data_ptr() for factors in edited.factors.values()}) == 1


def test_edit_too_strong_for_half_precision_is_refused() -> None:
    denoiser = ToyDenoiser(16)
    denoiser.dtype = torch.float16
    with pytest.raises(UserError, match=r"down_blocks\.0.* too strong for half precision"):
        edit_denoiser(edit_with([1e12]), denoiser)


@pytest.mark.parametrize("size", [(1.0, 1e5), (1e5, 1.0)])
def test_factors_of_a_float32_model_that_a_file_can_not_hold_are_refused(size: tuple[float, float]) -> None:
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    factors = {name: LoraFactors(torch.full((4, 1), size[0]), torch.full((1, 16), size[1]))}
    with pytest.raises(UserError, match=r"down_blocks\.0.* too strong for half precision"):
        lora_state_dict(factors, "SD 1.x")


def test_names_are_kohyas() -> None:
    down, middle, up = (
        f"{place}.transformer_blocks.1.attn2.to_k"
        for place in ("down_blocks.1.attentions.0", "mid_block.attentions.0", "up_blocks.0.attentions.2")
    )
    assert lora_names([down], "SD 1.x") == {
        down: "lora_unet_down_blocks_1_attentions_0_transformer_blocks_1_attn2_to_k"
    }
    assert lora_names([down, middle, up], "SDXL") == {
        down: "lora_unet_input_blocks_4_1_transformer_blocks_1_attn2_to_k",
        middle: "lora_unet_middle_block_1_transformer_blocks_1_attn2_to_k",
        up: "lora_unet_output_blocks_2_1_transformer_blocks_1_attn2_to_k",
    }


def family_by_a1111(metadata: dict[str, str]) -> str:
    """The rule of A1111 and Forge (extensions-builtin/Lora/network.py), which hide LoRAs of other families."""
    if str(metadata.get("ss_base_model_version", "")).startswith("sdxl_"):
        return "SDXL"
    if str(metadata.get("ss_v2", "")) == "True":
        return "SD 2.x"
    return "SD 1.x" if metadata else "unknown"


def family_by_model_specification(metadata: dict[str, str]) -> str:
    """The rule of readers of Stability AI's model specification: the architecture's beginning, for a LoRA."""
    architecture, _, adapter = metadata["modelspec.architecture"].partition("/")
    assert adapter == "lora"
    starts = {"stable-diffusion-v1": "SD 1.x", "stable-diffusion-v2": "SD 2.x", "stable-diffusion-xl-v1": "SDXL"}
    return next(family for start, family in starts.items() if architecture.startswith(start))


@pytest.mark.parametrize(("family", "width"), [("SD 1.x", 768), ("SD 2.x", 1024), ("SDXL", 2048)])
def test_other_programs_see_the_family_of_a_file(tmp_path: Path, family: Family, width: int) -> None:
    denoiser = ToyDenoiser(width, family=family)
    edit = edit_with([1.0, 0.1], width)
    state = lora_state_dict(edit_denoiser(edit, denoiser), family)
    save_lora(tmp_path / "roses.safetensors", state, {"workflow": "{}"})
    with safe_open(tmp_path / "roses.safetensors", framework="pt") as file:
        metadata = file.metadata()
        assert len(file.keys()) == 3 * len(denoiser.weights)
    assert family_by_a1111(metadata) == family_by_model_specification(metadata) == family
    # What the specification asks for, and what kohya's tools read when they merge or resize a LoRA.
    assert {"sai_model_spec", "architecture", "implementation", "title"} <= {
        name.removeprefix("modelspec.") for name in metadata
    }
    assert metadata["modelspec.title"] == "roses"
    assert metadata["ss_network_module"] == "networks.lora"
    assert metadata["ss_network_dim"] == metadata["ss_network_alpha"] == "2"
    assert metadata["workflow"] == "{}"


def test_other_loras_are_not_called_empty(tmp_path: Path) -> None:
    for other in ({"a.lora_A.weight": torch.zeros(2, 3)}, {"a.lora_down.weight": torch.zeros(2, 3, 1, 1)}):
        with pytest.raises(UserError, match="not one of a TIME edit"):
            save_lora(tmp_path / "other.safetensors", other)
    assert not list(tmp_path.iterdir())


def test_empty_edit_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="changes nothing"):
        save_lora(tmp_path / "nothing.safetensors", {})
    assert not list(tmp_path.iterdir())
