"""EmojiWorld's transformer: the same model in the host and in diffusers, and what an edit does to its pictures."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conceptlens.core.model.diffusion import Draws, denoising_loss
from conceptlens.core.model.template import Template
from conceptlens.core.model.text_tower import Encoded
from conceptlens.evaluation.laboratory import Laboratory
from conceptlens.hosting.server import Graph, HostServer
from conceptlens.pipelines.adapter import DiffusersDiffusion
from conceptlens.tests.conftest import ROOT
from conceptlens.tests.host.graphs import node
from conceptlens.world.emoji.pipeline import emoji_world_transformer_pipeline
from conceptlens.world.pictures import to_tensor
from conceptlens.world.tokenizer import clip_tokenizer
from diffusers import FluxPipeline
from PIL import Image

pytestmark = pytest.mark.usefixtures("host_modules")


@pytest.fixture(scope="module")
def twins(host_modules: None) -> tuple[Any, FluxPipeline]:  # noqa: ARG001  (makes the host importable)
    from conceptlens.nodes import host

    return host.load_world(host.EMOJI_WORLD_TRANSFORMER)[0], emoji_world_transformer_pipeline()


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


def test_a_word_as_a_mix_is_read_as_in_the_prompt(twins: tuple[Any, FluxPipeline]) -> None:
    """Context and pooled text of one word's own embedding in a prompt's place: core's are the programs' own."""
    from conceptlens.core.model.slot import Slot
    from conceptlens.nodes import host
    from conceptlens.pipelines.adapter import DiffusersTextEncoder

    _, pipe = twins
    expected = encoded(pipe, ["a photo of a bathtub"])
    (token,) = clip_tokenizer()("bathtub").input_ids[1:-1]
    clip = host.load_world(host.EMOJI_WORLD_TRANSFORMER)[1]
    for encoder in (DiffusersTextEncoder(pipe), host.HostTextEncoder(clip)):
        towers = encoder.towers()
        found = Slot.of(encoder, towers, Template.of("a photo of a {}")).encode([towers[0].words.of([token])])
        torch.testing.assert_close(found.context, expected.context, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(found.pooled, expected.pooled, rtol=1e-3, atol=1e-3)


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


def test_an_edit_turns_its_keys_blue_and_nothing_else(server: HostServer) -> None:
    """By the host's own nodes, judged by the world's colour meter."""
    options = {"edit_keys": True, "augment": True, "strength": 1.0, "rank": 0, "regularization": 0.1}
    options |= {"edit_pooled": True}
    how = {"seed": 1, "steps": 12, "cfg": 2.5, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    pair = {"source": "a key", "destination": "a blue key", "preserve": "", "regularize": "relative"}
    graph: Graph = {
        "world": node("EmojiWorldLoader", kind="transformer"),
        "edit": node("TIMEEditModel", model=["world", 0], clip=["world", 1], **pair, **options),
        "negative": node("CLIPTextEncode", clip=["world", 1], text=""),
        "latent": node("EmptyLatentImage", width=128, height=128, batch_size=4),
    }
    for name, model, prompt in (
        ("before", "world", "a photo of a key"),
        ("after", "edit", "a photo of a key"),
        ("bell", "edit", "a bell"),
    ):
        links = {"model": [model, 0], "negative": ["negative", 0], "latent_image": ["latent", 0]}
        graph[f"text {name}"] = node("CLIPTextEncode", clip=["world", 1], text=prompt)
        graph[f"sampled {name}"] = node("KSampler", positive=[f"text {name}", 0], **links, **how)
        graph[f"decoded {name}"] = node("VAEDecode", samples=[f"sampled {name}", 0], vae=["world", 2])
        graph[name] = node("SaveImage", images=[f"decoded {name}", 0], filename_prefix=name)
    outputs, lab = server.run(graph)["outputs"], Laboratory(ROOT / ".world")

    def colours(name: str) -> list[str | None]:
        files = [server.base / "output" / each["filename"] for each in outputs[name]["images"]]
        return lab.colours(torch.stack([to_tensor(Image.open(file).convert("RGB")) for file in files]))

    assert colours("before").count("yellow") >= 3  # the meter names none where there is little of any
    assert colours("after").count("blue") >= 3
    assert colours("bell").count("yellow") >= 3
