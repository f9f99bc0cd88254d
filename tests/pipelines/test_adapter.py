"""What is read from diffusers pipelines is what these compute with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conceptlens.core.errors import UserError
from conceptlens.core.model.protocols import Family
from conceptlens.core.time_edit.lora import lora_state_dict, save_lora
from conceptlens.core.time_edit.time_edit import EditPair, edit_model
from conceptlens.harness.terminal.models import load_pipeline
from conceptlens.pipelines.adapter import DiffusersDenoiser, DiffusersDiffusion, DiffusersTextEncoder
from conceptlens.pipelines.loading import load_loras
from conceptlens.pipelines.pictures import Sampling, sample
from conceptlens.pipelines.studio import PICTURES_AT_ONCE, DiffusersStudio
from conceptlens.tests.tiny import FAMILIES, WIDTHS, tiny_pipeline
from torch import Tensor

ROSES = [EditPair("a pack of roses", "a pack of blue roses")]
PROMPTS = ["a pack of roses", "A rosemary bush, painted", ""]
SEEDS, SAMPLING = (1, 2), Sampling(2, guidance_scale=3.0, size=64)


def weights(denoiser: DiffusersDenoiser) -> dict[str, Tensor]:
    return {name: part.text_weight(name) for part in (denoiser, denoiser.pooled) if part for name in part.text_layers()}


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Family:
    return request.param


@pytest.fixture
def pipe(family: Family) -> Any:
    return tiny_pipeline(family)


def test_context_is_the_layer_that_the_family_reads(pipe: Any, family: Family) -> None:
    found = DiffusersTextEncoder(pipe).encode(PROMPTS)
    assert found.shape == (3, 77, sum(WIDTHS[family]))
    for prompt, context in zip(PROMPTS, found, strict=True):
        parts = []
        for tokenizer, encoder in (("tokenizer", "text_encoder"), ("tokenizer_2", "text_encoder_2")):
            if hasattr(pipe, encoder):
                ids = getattr(pipe, tokenizer)(prompt, padding="max_length", return_tensors="pt").input_ids
                output = getattr(pipe, encoder)(ids, output_hidden_states=True)
                parts.append(output.hidden_states[-2] if family == "SDXL" else output.last_hidden_state)
        torch.testing.assert_close(context, torch.cat(parts, dim=-1)[0], rtol=1e-4, atol=1e-4)


def test_tokens_are_clips_without_padding_or_limit(pipe: Any) -> None:
    encoder = DiffusersTextEncoder(pipe)
    tokens = encoder.tokenize("a pack of roses")
    assert tokens[0] == 49406
    assert tokens[-1] == 49407
    assert len(tokens) == 6
    assert encoder.decode(tokens[1:-1]) == "a pack of roses"
    assert len(encoder.tokenize("rose " * 100)) == 102


def test_noise_levels_are_the_published_schedule(pipe: Any) -> None:
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alphas = (1 - betas).cumprod(0)
    torch.testing.assert_close(DiffusersDiffusion(pipe).alphas_cumprod.double(), alphas, rtol=1e-4, atol=1e-6)


def test_saved_edit_loads_in_diffusers_and_is_the_live_one(pipe: Any, family: Family, tmp_path: Path) -> None:
    denoiser = DiffusersDenoiser(pipe)
    before = weights(denoiser)
    edited = edit_model(DiffusersTextEncoder(pipe), denoiser, ROSES, edit_pooled=True)
    save_lora(tmp_path / "edit.safetensors", lora_state_dict(edited.factors, family))
    pipe.load_lora_weights(str(tmp_path), weight_name="edit.safetensors", adapter_name="edit")
    after = weights(denoiser)
    assert before.keys() == after.keys() == edited.factors.keys()
    for name, weight in before.items():
        change = edited.factors[name].up @ edited.factors[name].down
        assert change.norm() > 0.01 * weight.norm()
        assert (after[name] - weight - change).norm() <= 2**-9 * change.norm()


def test_edit_is_relative_to_a_lora_that_came_before(pipe: Any, family: Family, tmp_path: Path) -> None:
    encoder, denoiser = DiffusersTextEncoder(pipe), DiffusersDenoiser(pipe)
    plain = edit_model(encoder, denoiser, ROSES)
    style = edit_model(encoder, denoiser, [EditPair("a house", "a burning house")])
    save_lora(tmp_path / "style.safetensors", lora_state_dict(style.factors, family))
    pipe.load_lora_weights(str(tmp_path), weight_name="style.safetensors", adapter_name="style")
    on_style = edit_model(encoder, denoiser, ROSES)
    for name in denoiser.text_layers():
        expected = (
            denoiser.text_weight(name)
            @ (plain.edit.context.left * plain.edit.context.singular_values @ plain.edit.context.right).float()
        )
        found = on_style.factors[name].up @ on_style.factors[name].down
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
        assert not torch.allclose(found, plain.factors[name].up @ plain.factors[name].down, rtol=1e-3, atol=1e-4)


def test_several_loras_count_together(pipe: Any, family: Family, tmp_path: Path) -> None:
    encoder, denoiser = DiffusersTextEncoder(pipe), DiffusersDenoiser(pipe)
    before = weights(denoiser)
    files, changes = [], []
    for word in ("burning", "yellow"):
        edited = edit_model(encoder, denoiser, [EditPair("a house", f"a {word} house")])
        files.append(tmp_path / f"{word}.safetensors")
        save_lora(files[-1], lora_state_dict(edited.factors, family))
        changes.append({name: up @ down for name, (up, down) in edited.factors.items()})
    load_loras(pipe, files)
    for name in denoiser.text_layers():
        weight = denoiser.text_weight(name)
        expected = changes[0][name] + changes[1][name]
        assert (weight - before[name] - expected).norm() <= 2**-8 * expected.norm()


def test_pictures_change_with_the_edit_and_come_back_without(pipe: Any, family: Family) -> None:
    denoiser = DiffusersDenoiser(pipe)
    edited = edit_model(DiffusersTextEncoder(pipe), denoiser, ROSES)
    before = sample(pipe, "a pack of roses", SEEDS, SAMPLING)
    denoiser.apply(lora_state_dict(edited.factors, family))
    during = sample(pipe, "a pack of roses", SEEDS, SAMPLING)
    denoiser.remove()
    assert not torch.equal(before, during)
    assert torch.equal(before, sample(pipe, "a pack of roses", SEEDS, SAMPLING))


def test_a_seed_is_the_same_picture_in_any_company(pipe: Any) -> None:
    both = sample(pipe, "a rose", SEEDS, SAMPLING)
    alone = sample(pipe, "a rose", (2,), SAMPLING)
    torch.testing.assert_close(both[1:], alone, rtol=1e-3, atol=1e-3)


def test_pipeline_survives_saving_and_loading(pipe: Any, family: Family, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path)
    loaded = load_pipeline(tmp_path)
    assert DiffusersDenoiser(loaded).family == family
    torch.testing.assert_close(
        DiffusersTextEncoder(loaded).encode(PROMPTS), DiffusersTextEncoder(pipe).encode(PROMPTS), rtol=1e-4, atol=1e-4
    )


def test_other_folders_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a folder"):
        load_pipeline(tmp_path / "nothing")
    with pytest.raises(UserError, match="could not be loaded as a diffusers model"):
        load_pipeline(tmp_path)
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(UserError, match="could not be loaded as a diffusers model"):
        load_pipeline(tmp_path)


def test_pictures_are_drawn_whether_their_folder_can_be_used_or_not(
    pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A file stands where the folder should be: one warning, whatever the number of portions."""
    (tmp_path / "occupied").write_text("x")
    monkeypatch.setattr(DiffusersStudio, "_sample", lambda _, seeds, *__, **___: torch.ones(len(seeds), 4, 8, 8))
    studio = DiffusersStudio(pipe, Sampling(1, 1.0, 64), tmp_path / "occupied" / "cache")
    assert studio.latents_of_prompt("a castle", range(PICTURES_AT_ONCE + 1)).shape == (PICTURES_AT_ONCE + 1, 4, 8, 8)
    (said,) = caplog.messages
    assert str(tmp_path / "occupied") in said


def test_directions_of_one_world_are_refused_on_the_other() -> None:
    """They are as wide, of the same family, and differ in the depth of their bottlenecks."""
    from conceptlens.core.hspace.contrast import contrast
    from conceptlens.pipelines.bottleneck import DiffusersBottleneck
    from conceptlens.world.emoji.pipeline import emoji_world_pipeline
    from conceptlens.world.faces.pipeline import face_world_pipeline

    faces = DiffusersBottleneck(face_world_pipeline(), "a face")
    emoji = DiffusersBottleneck(emoji_world_pipeline(), "a rose")
    samples, _ = faces.record([0, 1], 1, "after", {})
    found = contrast(samples.chosen([0]), samples.chosen([1]))
    told = r"with 192 channels at 1/2 of the latents' size, the model is SD 1\.x with 192 channels at 1/4"
    with pytest.raises(UserError, match=told), emoji.shifted(found, 0, 1.0):
        pass
