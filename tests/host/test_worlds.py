"""The worlds in the host: genuine objects that every stock node works on, and the same models as in diffusers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conceptlens.core.errors import UserError
from conceptlens.harness.terminal.models import load_pipeline
from conceptlens.hosting.server import Graph, HostServer
from conceptlens.tests.host.graphs import node, run_to_latent, sampling_graph
from conceptlens.world import weights
from torch import Tensor

pytestmark = pytest.mark.usefixtures("host_modules")
PROMPTS = ["a photo of a blue rose", "a smiling face with glasses and two dogs", ""]
LOADERS = {"emoji-world": "EmojiWorldLoader", "face-world": "FaceWorldLoader"}


@pytest.fixture(scope="module", params=sorted(LOADERS))
def world(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def pipe(world: str) -> Any:
    return load_pipeline(Path(world))


@pytest.fixture(scope="module")
def loaded(host_modules: None, world: str) -> tuple[Any, Any, Any, Any]:  # noqa: ARG001
    from conceptlens.nodes import host

    return host.load_world({"emoji-world": host.EMOJI_WORLD, "face-world": host.FACE_WORLD}[world])


def pipeline_states(pipe: Any, prompts: list[str]) -> Tensor:
    inputs = pipe.tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt")
    with torch.no_grad():
        return pipe.text_encoder(inputs.input_ids).last_hidden_state


def test_the_text_encoders_agree(pipe: Any, loaded: tuple) -> None:
    clip = loaded[1]
    for prompt, states in zip(PROMPTS, pipeline_states(pipe, PROMPTS), strict=True):
        context = clip.encode_from_tokens(clip.tokenize(prompt))
        torch.testing.assert_close(context[0].float(), states, atol=2e-5, rtol=1e-5)


@torch.no_grad()
def test_the_autoencoders_agree_and_latents_are_scaled_as_the_host_expects(pipe: Any, loaded: tuple) -> None:
    vae, pictures = loaded[2], torch.rand(2, 128, 128, 3)
    latents = pipe.vae.encode(pictures.permute(0, 3, 1, 2) * 2 - 1).latents
    torch.testing.assert_close(vae.encode(pictures) * 0.18215, latents, atol=1e-5, rtol=1e-5)
    decoded = (pipe.vae.decode(latents).sample / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
    torch.testing.assert_close(vae.decode(latents / 0.18215), decoded, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_image_encoders_agree_and_share_their_space_with_texts(pipe: Any, loaded: tuple) -> None:
    clip, vision = loaded[1], loaded[3]
    pictures = torch.randint(0, 256, (2, 128, 128, 3)) / 255  # the host rounds to whole levels
    ours = pipe.image_encoder(pictures.permute(0, 3, 1, 2) * 2 - 1).image_embeds
    theirs = vision.encode_image(pictures).image_embeds
    torch.testing.assert_close(theirs, ours, atol=2e-4, rtol=1e-4)
    projection = clip.cond_stage_model.clip_l.transformer.text_projection.weight.float()
    assert torch.equal(projection, pipe.text_encoder.text_projection.weight)


@torch.no_grad()
def test_a_picture_of_the_host_is_the_one_of_diffusers(pipe: Any, loaded: tuple) -> None:
    """Same noise, same sigmas: latents agree to 1e-3 after 25 steps with guidance, pictures to half a level."""
    import comfy.sample
    import comfy.samplers
    from diffusers import EulerDiscreteScheduler

    model, clip, vae, _ = loaded
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(5))
    prompt = "a photo of a blue rose"
    conditioning = [clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in (prompt, "")]
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", 25)
    empty = torch.zeros(1, 4, 16, 16)
    sample: Any = comfy.sample.sample
    latents = sample(model, noise, 25, 4.0, "euler", "simple", *conditioning, empty, seed=5, disable_pbar=True)
    scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config, timestep_spacing="leading")
    ddim, pipe.scheduler = pipe.scheduler, scheduler
    try:
        expected = pipe(prompt, latents=noise, sigmas=sigmas.tolist(), guidance_scale=4.0, output_type="latent").images
        picture = pipe.vae.decode(expected).sample / 2 + 0.5
    finally:
        pipe.scheduler = ddim
    torch.testing.assert_close(latents * 0.18215, expected, atol=1e-3, rtol=1e-3)
    shown = vae.decode(latents)
    torch.testing.assert_close(shown, picture.clamp(0, 1).permute(0, 2, 3, 1), atol=0.5 / 255, rtol=0)


def graph(sampler: str = "euler", scheduler: str = "normal", text: str = "a photo of a rose", steps: int = 4) -> Graph:
    sampling = {"seed": 1, "steps": steps, "cfg": 4.0, "sampler_name": sampler, "scheduler": scheduler, "denoise": 1.0}
    links = {"model": ["world", 0], "positive": ["positive", 0], "negative": ["negative", 0]}
    return {
        "world": node("EmojiWorldLoader"),
        "skip": node("CLIPSetLastLayer", clip=["world", 1], stop_at_clip_layer=-2),
        "positive": node("CLIPTextEncode", clip=["world", 1], text=text),
        "negative": node("CLIPTextEncode", clip=["skip", 0], text=""),
        "latent": node("EmptyLatentImage", width=64, height=64, batch_size=2),
        "sampler": node("KSampler", **links, latent_image=["latent", 0], **sampling),
        "decoded": node("VAEDecode", samples=["sampler", 0], vae=["world", 2]),
        "seen": node("CLIPVisionEncode", clip_vision=["world", 3], image=["decoded", 0], crop="none"),
        "encoded": node("VAEEncode", pixels=["decoded", 0], vae=["world", 2]),
        "again": node(
            "VAEDecodeTiled",
            samples=["encoded", 0],
            vae=["world", 2],
            tile_size=64,
            overlap=16,
            temporal_size=64,
            temporal_overlap=8,
        ),
        "save": node("SaveImage", images=["decoded", 0], filename_prefix="emoji_world"),
        "preview": node("PreviewImage", images=["again", 0]),
    }


SAMPLERS = ["euler_ancestral", "heun", "dpmpp_2m_sde", "lcm", "ddim", "uni_pc", "dpm_adaptive"]
SCHEDULERS = ["karras", "exponential", "sgm_uniform", "simple", "ddim_uniform", "beta", "kl_optimal"]


def test_stock_nodes_work_on_it(server: HostServer) -> None:
    for sampler, scheduler in zip(SAMPLERS, SCHEDULERS, strict=True):
        files = server.run(graph(sampler, scheduler, "a photo of a (blue:1.3) rose"))["outputs"]["save"]["images"]
        assert len(files) == 2


def test_what_save_checkpoint_keeps_is_the_same_model(server: HostServer, loaded: tuple, world: str) -> None:
    saved = {"world": node(LOADERS[world])}
    parts = {part: ["world", place] for place, part in enumerate(("model", "clip", "vae"))}
    server.run({**saved, "save": node("CheckpointSave", **parts, filename_prefix=f"checkpoints/kept_{world}")})
    drawn = sampling_graph(checkpoint=f"kept_{world}_00001_.safetensors")
    assert torch.equal(run_to_latent(server, drawn), run_to_latent(server, {**drawn, "loader": saved["world"]}))

    import comfy.sd

    file = server.base / f"output/checkpoints/kept_{world}_00001_.safetensors"
    load: Any = comfy.sd.load_checkpoint_guess_config
    patchers = [(model, clip.patcher, vae.patcher) for model, clip, vae, _ in (load(str(file)), loaded)]
    for read, made in zip(*patchers, strict=True):  # the projection into the space of pictures too
        assert all(torch.equal(a, b) for a, b in zip(tensors(read), tensors(made), strict=True))


def test_the_host_trains_a_lora_on_it(server: HostServer) -> None:
    drawn = sampling_graph()
    drawn["loader"] = node("EmojiWorldLoader")
    training = {
        "batch_size": 1,
        "grad_accumulation_steps": 1,
        "steps": 1,
        "learning_rate": 0.0005,
        "rank": 4,
        "seed": 0,
    }
    training |= {"optimizer": "AdamW", "loss_function": "MSE", "training_dtype": "fp32", "lora_dtype": "fp32"}
    training |= {
        "quantized_backward": False,
        "algorithm": "LoRA",
        "gradient_checkpointing": True,
        "checkpoint_depth": 1,
    }
    training |= {"offloading": False, "existing_lora": "[None]", "bucket_mode": False, "bypass_mode": False}
    links = {"model": ["loader", 0], "latents": ["sampler", 0], "positive": ["positive", 0]}
    drawn["train"] = node("TrainLoraNode", **links, **training)
    drawn["losses"] = node("PreviewAny", source=["train", 2])
    assert server.run(drawn)["outputs"]["losses"]


def test_missing_weights_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from conceptlens.nodes import host

    original = weights.load
    monkeypatch.setattr(weights, "load", lambda part, *_: original(part, tmp_path))
    with pytest.raises(UserError, match=r"encoders\.safetensors.*git -C"):
        host.load_world(host.EMOJI_WORLD)


def test_another_host_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import comfy.utils
    from conceptlens.nodes import host

    monkeypatch.delattr(comfy.utils, "unet_to_diffusers")
    with pytest.raises(UserError, match=r"unet_to_diffusers.*use ComfyUI 0\.24 to 0\.30"):
        host.load_world(host.EMOJI_WORLD)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("can't allocate memory")])
def test_memory_that_runs_out_is_no_other_host(monkeypatch: pytest.MonkeyPatch, error: RuntimeError) -> None:
    import comfy.utils
    from conceptlens.nodes import host

    def fails(*_: Any) -> None:
        raise error

    monkeypatch.setattr(comfy.utils, "unet_to_diffusers", fails)
    with pytest.raises(RuntimeError, match="memory") as raised:
        host.load_world(host.EMOJI_WORLD)
    assert raised.value is error


def test_copies_that_the_host_makes_for_itself_are_the_same_model(loaded: tuple) -> None:
    model, clip, vae, _ = loaded
    for patcher in (model, clip.patcher, vae.patcher):
        copy = patcher.clone(force_deepcopy=True)
        assert copy.model is not patcher.model
        assert all(torch.equal(a, b) for a, b in zip(tensors(copy), tensors(patcher), strict=True))


def tensors(patcher: Any) -> list[Tensor]:
    return list(patcher.model.state_dict().values())


@pytest.mark.usefixtures("host_modules")
def test_the_worlds_tokenizer_is_the_hosts() -> None:
    """All ids, and all texts: those of every token, and some that are hard to take apart."""
    from comfy.sd1_clip import SDTokenizer
    from conceptlens.world.tokenizer import clip_tokenizer

    ours, theirs = clip_tokenizer(), SDTokenizer().tokenizer
    assert ours.get_vocab() == theirs.get_vocab()
    texts = [str(ours.decode([token])) for token in range(len(ours))]
    texts += ["A PHOTO  of\ta dog's caf\u00e9, 1929!?", "\u65e5\u672c\u306e\u72ac \U0001f602\U0001f984", ""]
    assert ours(texts).input_ids == theirs(texts).input_ids
    assert (ours.bos_token_id, ours.eos_token_id, ours.pad_token_id) == (49406, 49407, 49407)
