"""A rectified flow whose prompts CLIP reads: a tiny random Flux.1 in diffusers, and its twin in the host."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conceptlens.core.conceptor.mixture import mix_from_text
from conceptlens.core.errors import UserError
from conceptlens.core.model.diffusion import Draws, denoising_loss
from conceptlens.core.model.slot import Slot
from conceptlens.core.model.template import Template
from conceptlens.core.model.text_tower import Encoded
from conceptlens.core.time_edit.lora import lora_state_dict
from conceptlens.core.time_edit.time_edit import EditPair, edit_model
from conceptlens.pipelines.adapter import DiffusersDenoiser, DiffusersDiffusion, DiffusersTextEncoder
from conceptlens.pipelines.pictures import Sampling
from conceptlens.pipelines.studio import DiffusersStudio
from conceptlens.world.tokenizer import clip_tokenizer
from diffusers import AutoencoderTiny, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

PROMPT = Template.of("a photo of a {}")
WIDTH = 32


@pytest.fixture(scope="module")
def pipe() -> FluxPipeline:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        text = CLIPTextConfig(
            hidden_size=WIDTH, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, vocab_size=49408,
            bos_token_id=49406, eos_token_id=49407, pad_token_id=49407,
        )  # fmt: skip
        encoder = CLIPTextModel(text).eval()
        transformer = FluxTransformer2DModel(
            in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
            joint_attention_dim=WIDTH, pooled_projection_dim=WIDTH, axes_dims_rope=(4, 6, 6),
        )  # fmt: skip
        parts: dict[str, Any] = {"text_encoder": encoder, "text_encoder_2": encoder, "transformer": transformer.eval()}
        parts |= {"tokenizer": clip_tokenizer(), "tokenizer_2": clip_tokenizer(), "vae": AutoencoderTiny().eval()}
        made = FluxPipeline(**parts, scheduler=FlowMatchEulerDiscreteScheduler())
    made.default_sample_size = 8
    made.set_progress_bar_config(disable=True)
    return made


def drawn(count: int) -> Draws:
    generator = torch.Generator().manual_seed(1)
    latents, noise = (torch.randn(count, 4, 8, 8, generator=generator) for _ in range(2))
    return Draws(latents, noise, torch.tensor([40, 499, 999])[:count], torch.arange(count))


def contexts(pipe: FluxPipeline, prompts: list[str]) -> Encoded:
    encode: Any = pipe.encode_prompt
    with torch.no_grad():
        context, pooled, _ = encode(prompts, None, "cpu", max_sequence_length=77)
    return Encoded(context, pooled)


def test_the_loss_is_that_of_a_rectified_flow(pipe: FluxPipeline) -> None:
    """x = (1 - sigma) x_0 + sigma eps, of which the velocity eps - x_0 is predicted; by diffusers' own packing."""
    some, encoded = drawn(3), contexts(pipe, ["a rose", "a pack of roses", ""])
    with torch.no_grad():
        found = denoising_loss(DiffusersDiffusion(pipe), some, encoded)
        sigmas = (some.timesteps + 1) / 1000
        shares = sigmas.view(-1, 1, 1, 1)
        x = (1 - shares) * some.latents + shares * some.noise
        places: Any = FluxPipeline._prepare_latent_image_ids(3, 4, 4, "cpu", torch.float32)
        said: Any = pipe.transformer(
            hidden_states=FluxPipeline._pack_latents(x, 3, 4, 8, 8),
            timestep=sigmas,
            encoder_hidden_states=encoded.context,
            pooled_projections=encoded.pooled,
            img_ids=places,
            txt_ids=torch.zeros(77, 3),
        )
        velocity: Any = FluxPipeline._unpack_latents(said.sample, 64, 64, 8)
    expected = (velocity - (some.noise - some.latents)).square().mean((1, 2, 3))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_prompts_are_read_as_the_pipeline_reads_them(pipe: FluxPipeline) -> None:
    encoder = DiffusersTextEncoder(pipe)
    expected = contexts(pipe, ["a photo of a rose"])
    assert encoder.pooled is not None
    torch.testing.assert_close(encoder.encode(["a photo of a rose"]), expected.context)
    torch.testing.assert_close(encoder.pooled.encode(["a photo of a rose"])[0], expected.pooled)
    (token,) = encoder.tokenize("rose")[1:-1]
    towers = encoder.towers()
    with torch.no_grad():
        found = Slot.of(encoder, towers, PROMPT).encode([tower.words.of([token]) for tower in towers])
    torch.testing.assert_close(found.context, expected.context, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.pooled, expected.pooled, rtol=1e-4, atol=1e-5)


def test_an_edit_is_a_lora_of_the_layers_that_take_text(pipe: FluxPipeline) -> None:
    encoder, denoiser = DiffusersTextEncoder(pipe), DiffusersDenoiser(pipe)
    edited = edit_model(encoder, denoiser, [EditPair("a rose", "a blue rose")], edit_pooled=True)
    assert edited.factors.keys() == {"txt_in", "vector_in.in_layer"}
    before = {name: layers.text_weight(name) for name, layers in _layers(denoiser)}
    denoiser.apply(lora_state_dict(edited.factors, denoiser.family))
    try:
        for name, layers in _layers(denoiser):
            up, down = edited.factors[name]
            torch.testing.assert_close(layers.text_weight(name), before[name] + up @ down, rtol=2e-3, atol=2e-3)
            assert (up @ down).norm() > 1e-2 * before[name].norm()
    finally:
        denoiser.remove()
    assert all(torch.equal(layers.text_weight(name), before[name]) for name, layers in _layers(denoiser))


def _layers(denoiser: DiffusersDenoiser) -> list[tuple[str, Any]]:
    assert denoiser.pooled is not None
    return [("txt_in", denoiser), ("vector_in.in_layer", denoiser.pooled)]


def test_a_seed_is_a_picture_whatever_is_drawn_beside_it(pipe: FluxPipeline) -> None:
    """And a mix of a word is drawn from what its prompt is encoded to."""
    studio = DiffusersStudio(pipe, Sampling(3, 2.5, sampler="dpmpp_2m"))
    both = studio.latents_of_prompt("a rose", [3, 4])
    assert both.shape == (2, 4, 8, 8)
    torch.testing.assert_close(studio.latents_of_prompt("a rose", [4]), both[1:], rtol=1e-4, atol=1e-5)
    mix = mix_from_text(studio.encoder, "rose: 1, heart: 2", studio.family)
    mixed = studio.latents_of_mix(PROMPT, mix, [3])
    assert mixed.shape == (1, 4, 8, 8)
    assert not torch.allclose(mixed, both[:1])
    assert studio.pictures(both).shape == (2, 64, 64, 3)
    assert studio.evaluations(2) == 12


def test_prompts_that_t5_reads_are_refused(pipe: FluxPipeline) -> None:
    t5 = T5EncoderModel(T5Config(d_model=WIDTH, d_ff=32, d_kv=8, num_heads=2, num_layers=1))
    parts: dict[str, Any] = {**pipe.components, "text_encoder_2": t5}
    with pytest.raises(UserError, match="read by a T5EncoderModel; here ConceptLens reads those of CLIP"):
        DiffusersTextEncoder(FluxPipeline(**parts))
