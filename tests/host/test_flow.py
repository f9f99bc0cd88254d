"""EmojiWorld's transformer in the host and in diffusers: the same model, of random weights here."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conceptlens.core.model.diffusion import Draws, denoising_loss
from conceptlens.core.model.text_tower import Encoded
from conceptlens.pipelines.adapter import DiffusersDiffusion
from conceptlens.world import weights
from conceptlens.world.architecture import LATENT_SIZE
from conceptlens.world.emoji import transformer
from conceptlens.world.emoji.architecture import WEIGHTS
from conceptlens.world.pipeline import world_parts
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline

pytestmark = pytest.mark.usefixtures("host_modules")


@pytest.fixture(scope="module")
def twins(host_modules: None) -> tuple[Any, FluxPipeline]:  # noqa: ARG001  (makes the host importable)
    from conceptlens.nodes.host import world

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = transformer.build().eval()
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.05)
    # The host's own converter writes into what it is given.
    model = world._flux_model({name: tensor.clone() for name, tensor in module.state_dict().items()})
    parts: dict[str, Any] = world_parts(weights.load("encoders", WEIGHTS), WEIGHTS)
    parts |= {"text_encoder_2": parts["text_encoder"], "tokenizer_2": parts["tokenizer"]}
    pipe = FluxPipeline(**parts, transformer=module, scheduler=FlowMatchEulerDiscreteScheduler())
    pipe.default_sample_size = LATENT_SIZE
    pipe.set_progress_bar_config(disable=True)
    return model, pipe


def encoded(pipe: Any, prompts: list[str]) -> Encoded:
    with torch.no_grad():
        context, pooled, _ = pipe.encode_prompt(prompts, None, "cpu", max_sequence_length=77)
    return Encoded(context, pooled)


def test_both_say_the_same_and_have_the_same_gradients(twins: tuple[Any, FluxPipeline]) -> None:
    from conceptlens.nodes.host import HostDiffusion

    model, pipe = twins
    generator = torch.Generator().manual_seed(1)
    latents, noise = (torch.randn(3, 4, 16, 16, generator=generator) for _ in range(2))
    drawn = Draws(latents, noise, torch.tensor([40, 499, 999]), torch.arange(3))
    prompts = encoded(pipe, ["a rose", "a pack of roses", ""])
    gradients, losses = [], []
    with torch.inference_mode(False):
        for diffusion in (HostDiffusion(model, exact=True), DiffusersDiffusion(pipe)):
            assert diffusion.prediction == "flow"
            context = prompts.context.clone().requires_grad_()
            loss = denoising_loss(diffusion, drawn, Encoded(context, prompts.pooled))
            loss.sum().backward()
            assert context.grad is not None
            gradients.append(context.grad)
            losses.append(loss.detach())
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-4, atol=1e-5)
    assert (gradients[0] - gradients[1]).norm() <= 1e-3 * gradients[1].norm()
    assert gradients[1].norm() > 0


def test_both_draw_the_same_picture(twins: tuple[Any, FluxPipeline]) -> None:
    """Euler's steps at the same noise levels, from the same noise, with guidance."""
    import comfy.sample
    import comfy.samplers
    from conceptlens.nodes import host

    model, pipe = twins
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(5))
    call: Any = pipe
    drawn: Any = FluxPipeline._pack_latents(noise, 1, 4, 16, 16)
    with torch.no_grad():
        made = call(
            "a rose",
            negative_prompt="",
            true_cfg_scale=2.5,
            num_inference_steps=4,
            height=128,
            width=128,
            latents=drawn,
            max_sequence_length=77,
            output_type="latent",
        ).images
    expected: Any = FluxPipeline._unpack_latents(made, 128, 128, 8)
    _, clip, _, _ = host.load_world(host.EMOJI_WORLD)
    positive, negative = (host.encoded(clip, prompt) for prompt in ("a rose", ""))
    sampler: Any = comfy.samplers.sampler_object("euler")
    with torch.inference_mode():
        found = comfy.sample.sample_custom(
            model, noise, 2.5, sampler, torch.linspace(1, 0, 5), positive, negative, torch.zeros_like(noise), seed=0
        )
        latent_format: Any = model.get_model_object("latent_format")
        found = latent_format.process_in(found)
    torch.testing.assert_close(found.clone(), expected, rtol=1e-3, atol=1e-3)


def test_it_is_edited_as_a_flux(twins: tuple[Any, FluxPipeline]) -> None:
    """By CLIP alone, in the pooled text too: the same factors in both programs."""
    from conceptlens.core.time_edit.time_edit import EditPair, edit_model
    from conceptlens.nodes import host
    from conceptlens.pipelines.adapter import DiffusersDenoiser, DiffusersTextEncoder

    model, pipe = twins
    _, clip, _, _ = host.load_world(host.EMOJI_WORLD)
    denoiser = host.denoiser_of(model)
    pairs = [EditPair("a rose", "a blue rose")]
    with torch.inference_mode():
        found = edit_model(host.prompt_encoder_of(clip, denoiser), denoiser, pairs, edit_pooled=True).factors
    expected = edit_model(DiffusersTextEncoder(pipe), DiffusersDenoiser(pipe), pairs, edit_pooled=True).factors
    assert found.keys() == expected.keys() == {"txt_in", "vector_in.in_layer"}
    for name, (up, down) in expected.items():
        assert (found[name].up @ found[name].down - up @ down).norm() <= 1e-3 * (up @ down).norm()
