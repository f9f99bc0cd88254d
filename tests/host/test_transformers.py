"""TIME on tiny random transformers: exact on what their layers really read. Shapes and identities, no meaning."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from conceptlens.core.errors import UserError
from conceptlens.core.time_edit.context_edit import edited_context
from conceptlens.core.time_edit.lora import DIFFUSERS_NAMES, lora_state_dict, save_lora
from conceptlens.core.time_edit.time_edit import EditPair, edit_model, fit_time_edit
from safetensors.torch import load_file, save_file
from torch import Tensor

pytestmark = pytest.mark.usefixtures("host_modules")

ROSES = EditPair("a pack of roses", "a pack of blue roses")
FAMILIES = ("Flux.1", "Chroma", "SD 3", "AuraFlow", "PixArt", "Z-Image", "Qwen-Image", "OmniGen2")
FAMILIES += ("Anima", "Cosmos-Predict2", "Flux.2", "HunyuanImage", "Krea 2")
POOLED = {"Flux.1": "vector_in.in_layer", "SD 3": "y_embedder.mlp.0"}  # the layer that reads a pooled text
NORMED = {"Z-Image", "Qwen-Image", "OmniGen2", "Krea 2", "Anima"}  # or adapted


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def parts(family: str, host_modules: None) -> tuple[Any, Any]:  # noqa: ARG001  (makes the host importable)
    from conceptlens.tests.host.transformers import tiny_transformer

    with torch.inference_mode():
        return tiny_transformer(family)


def layer_of(model: Any) -> Any:
    from conceptlens.nodes.host import denoiser_of

    name = denoiser_of(model).text_layers()[0]
    return model.get_model_object(f"diffusion_model.{name}")


@contextmanager
def read_by(layer: Any) -> Iterator[list[Tensor]]:
    """What a layer reads while the model draws."""
    seen: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    try:
        yield seen
    finally:
        hook.remove()


def drawn(model: Any, positive: Any) -> Tensor:
    """Latents of two steps, as KSampler makes them."""
    import comfy.sample

    channels = model.get_model_object("latent_format").latent_channels
    latent: Any = comfy.sample.fix_empty_latent_channels(model, torch.zeros(1, channels, 48, 48))
    noise = comfy.sample.prepare_noise(latent, 5)
    with torch.inference_mode():
        return comfy.sample.sample(
            model, noise, 2, 1.0, "euler", "simple", positive, positive, latent, disable_pbar=True, seed=5
        ).clone()


def encoded(clip: Any, prompt: str) -> Any:
    from conceptlens.nodes.host import encoded as by_host

    return by_host(clip, prompt)


def columns(model: Any, clip: Any, prompt: str) -> Tensor:
    """The states of a prompt that the layer really reads."""
    with read_by(layer_of(model)) as seen:
        drawn(model, encoded(clip, prompt))
    return seen[0].flatten(0, -2).double()


def matched(family: str, clip: Any, states: tuple[Tensor, Tensor]) -> list[int]:
    """The destination's slot for each of the source, by hand: "blue" is one token, before the last of the words."""
    source, destination = (len(each) for each in states)
    name = (
        "t5xxl" if family == "Anima" else next(n for n in clip.tokenize("") if family == "SD 3" or n not in ("l", "g"))
    )
    tokens = [[token for token, _ in clip.tokenize(prompt)[name][0]] for prompt in (ROSES.source, ROSES.destination)]
    (cut,) = {max(0, len(each) - count) for each, count in zip(tokens, (source, destination), strict=True)}
    one, other = (each[cut:] for each in tokens)
    new = next(place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return [min(slot + (slot >= new), destination - 1) for slot in range(source)]


def test_an_edit_is_the_formula_on_what_the_layer_reads(family: str, parts: tuple[Any, Any]) -> None:
    from conceptlens.nodes.host import denoiser_of, prompt_encoder_of

    model, clip = parts
    states = columns(model, clip, ROSES.source), columns(model, clip, ROSES.destination)
    one, other = states
    targets = other[matched(family, clip, states)]
    inverse = torch.linalg.inv(0.1 * torch.eye(one.shape[1]).double() + one.T @ one)
    expected = (targets - one).T @ one @ inverse
    denoiser = denoiser_of(model)
    encoder = prompt_encoder_of(clip, denoiser)
    edit = fit_time_edit(encoder, [ROSES], augment=False)
    found = edit.left * edit.singular_values @ edit.right
    for prompt, seen in zip((ROSES.source, ROSES.destination), states, strict=True):
        (own,) = encoder.encode([prompt])
        torch.testing.assert_close(own.double(), seen, rtol=1e-5, atol=1e-5)
    assert (found - expected).norm() <= 1e-4 * expected.norm()  # the layer reads float32 that the host has computed
    own = [next(iter(encoder.encode([prompt]))).double() for prompt in (ROSES.source, ROSES.destination)]
    moved = own[1][matched(family, clip, states)] - own[0]
    exact = moved.T @ own[0] @ torch.linalg.inv(0.1 * torch.eye(one.shape[1]).double() + own[0].T @ own[0])
    assert (found - exact).norm() <= 1e-9 * exact.norm()


def test_an_edited_model_draws_the_edit_and_the_other_stays(
    family: str, parts: tuple[Any, Any], tmp_path: Path
) -> None:
    """Also by the LoRA file in the host's own loader; the edited prompt instead, where no norm stands between."""
    import comfy.sd
    from conceptlens.nodes.host import denoiser_of, prompt_encoder_of

    model, clip = parts
    positive = encoded(clip, "a photo of a pack of roses")
    denoiser = denoiser_of(model)
    before = drawn(model, positive)
    weight = layer_of(model).weight.clone()
    edited = edit_model(prompt_encoder_of(clip, denoiser), denoiser, [ROSES], regularize="relative")
    live = drawn(denoiser.patched(edited.factors), positive)
    assert (live - before).norm() > 1e-5 * before.norm()
    assert torch.equal(drawn(model, positive), before)
    assert torch.equal(layer_of(model).weight, weight)
    layers = {"Anima": 4, "Cosmos-Predict2": 4, "HunyuanImage": 2}.get(family, 1)  # keys and values of two blocks
    assert f"{layers} layer{'s' * (layers > 1)} of {family} edited" in edited.report
    assert ("pooled text, which is not edited" in edited.report) == (family in POOLED)

    save_lora(tmp_path / "roses.safetensors", lora_state_dict(edited.factors, denoiser.family))
    loaded, _ = comfy.sd.load_lora_for_models(model, None, load_file(tmp_path / "roses.safetensors"), 1.0, 0.0)
    stock = drawn(loaded, positive)
    assert (stock - live).norm() < 2e-2 * (live - before).norm()

    context = positive[0][0]
    if family in NORMED:
        with pytest.raises(UserError, match="by a norm or an adapter"):
            edited_context(edited.edit.context, context)
    else:
        by_prompt = drawn(model, [[edited_context(edited.edit.context, context), positive[0][1]]])
        assert (by_prompt - live).norm() < 1e-2 * (live - before).norm()


def test_the_pooled_text_is_edited_by_a_map_of_its_own(family: str, parts: tuple[Any, Any], tmp_path: Path) -> None:
    """What the pooled text's own layer reads moves by the formula; by the file and by the prompt as well."""
    import comfy.sd
    from conceptlens.nodes.host import denoiser_of, prompt_encoder_of
    from conceptlens.nodes.time_edit.edit import TIMEEditConditioning

    model, clip = parts
    denoiser = denoiser_of(model)
    encoder = prompt_encoder_of(clip, denoiser)
    if family not in POOLED:
        assert denoiser.pooled is None
        return
    assert denoiser.pooled is not None
    assert encoder.pooled is not None
    layer = model.get_model_object(f"diffusion_model.{POOLED[family]}")
    positive = encoded(clip, ROSES.source)
    with read_by(layer) as seen:
        before = drawn(model, positive)
    states = torch.cat([*encoder.pooled.encode([ROSES.source, ROSES.destination])]).double()
    torch.testing.assert_close(seen[0][:1].double(), states[:1], rtol=1e-5, atol=1e-5)
    c, wanted = states[:1], states[1:]
    expected = (wanted - c).T @ c @ torch.linalg.inv(0.1 * torch.eye(c.shape[1]).double() + c.T @ c)
    edited = edit_model(encoder, denoiser, [ROSES], augment=False, edit_pooled=True)
    assert edited.edit.pooled is not None
    found = edited.edit.pooled.left * edited.edit.pooled.singular_values @ edited.edit.pooled.right
    assert (found - expected).norm() <= 1e-9 * expected.norm()
    assert "The pooled text is edited by a map of its own" in edited.report

    alone = {POOLED[family]: edited.factors[POOLED[family]]}
    only_pooled, live = (drawn(denoiser.patched(factors), positive) for factors in (alone, edited.factors))
    assert (only_pooled - before).norm() > 1e-5 * before.norm()
    save_lora(tmp_path / "roses.safetensors", lora_state_dict(edited.factors, denoiser.family))
    loaded, _ = comfy.sd.load_lora_for_models(model, None, load_file(tmp_path / "roses.safetensors"), 1.0, 0.0)
    assert (drawn(loaded, positive) - live).norm() < 2e-2 * (live - before).norm()
    (changed,) = TIMEEditConditioning.execute(conditioning=positive, edit=edited.edit, strength=1.0).args
    assert (drawn(model, changed) - live).norm() < 1e-2 * (live - before).norm()
    assert torch.equal(drawn(model, positive), before)


def test_no_pooled_text_is_no_hindrance(host_modules: None) -> None:  # noqa: ARG001
    """Of an encoder without CLIP, and of a model of Flux.1's kin that has no place for it."""
    from conceptlens.nodes.host import denoiser_of, prompt_encoder_of
    from conceptlens.tests.host.transformers import tiny_transformer

    with torch.inference_mode():
        model, clip = tiny_transformer("Flux.1")
        _, t5 = tiny_transformer("Chroma")
    denoiser = denoiser_of(model)
    edited = edit_model(prompt_encoder_of(t5, denoiser), denoiser, [ROSES], edit_pooled=True)
    assert edited.edit.pooled is None
    assert "pooled text, which is not edited" in edited.report
    model.model.diffusion_model.vector_in = None
    alone = denoiser_of(model)
    assert alone.pooled is None
    edited = edit_model(prompt_encoder_of(clip, alone), alone, [ROSES], edit_pooled=True)
    assert set(edited.factors) == {"txt_in"}


def test_streamed_weights_draw_the_edit(parts: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where memory is short the host applies an edit to each weight as it is used."""
    import comfy.model_management
    from comfy.model_patcher import ModelPatcher
    from conceptlens.nodes.host import denoiser_of, prompt_encoder_of

    model, clip = parts
    denoiser = denoiser_of(model)
    edited = denoiser.patched(edit_model(prompt_encoder_of(clip, denoiser), denoiser, [ROSES]).factors)
    positive = encoded(clip, "a photo of a pack of roses")
    before, expected = drawn(model, positive), drawn(edited, positive)
    whole = ModelPatcher.load

    def in_parts(self: Any, device_to: Any = None, **settings: Any) -> Any:
        return whole(self, device_to, **{**settings, "lowvram_model_memory": 1, "full_load": False})

    comfy.model_management.unload_all_models()
    monkeypatch.setattr(ModelPatcher, "load", in_parts)
    streamed = drawn(edited, positive)
    assert edited.lowvram_patch_counter() > 0
    comfy.model_management.unload_all_models()
    torch.testing.assert_close(streamed, expected, rtol=1e-3, atol=1e-3 * float((expected - before).abs().max()))


def test_an_edit_that_is_cancelled_leaves_the_model_alone(parts: tuple[Any, Any]) -> None:
    from comfy.model_management import InterruptProcessingException
    from conceptlens.nodes.host import denoiser_of, prompt_encoder_of

    model, clip = parts
    denoiser = denoiser_of(model)
    encoder = prompt_encoder_of(clip, denoiser)
    weight = layer_of(model).weight.clone()
    for last in (1, 2):  # while prompts that are preserved are encoded, and while layers are edited

        def cancel(done: int, total: int, last: int = last) -> None:  # noqa: ARG001
            if done == last:
                raise InterruptProcessingException

        with pytest.raises(InterruptProcessingException):
            edit_model(encoder, denoiser, [ROSES], preserve=["a tulip"], progress=cancel)
    assert not model.patches
    assert torch.equal(layer_of(model).weight, weight)


def test_a_checkpoint_in_the_stock_loader_is_edited_alike(host_modules: None, tmp_path: Path) -> None:  # noqa: ARG001
    """Flux.1, which the host's own detection can take a small file for."""
    import comfy.sd
    from conceptlens.nodes.host import denoiser_of, prompt_encoder_of
    from conceptlens.tests.host.transformers import tiny_transformer

    with torch.inference_mode():
        model, clip = tiny_transformer("Flux.1")
    weights = {name: tensor.clone() for name, tensor in model.model.diffusion_model.state_dict().items()}
    save_file(weights, tmp_path / "flux.safetensors")
    loaded: Any = comfy.sd.load_diffusion_model(str(tmp_path / "flux.safetensors"), {"dtype": torch.float32})
    one, other = denoiser_of(model), denoiser_of(loaded)
    assert other.family == "Flux.1"
    found, expected = (
        edit_model(prompt_encoder_of(clip, each), each, [ROSES], edit_pooled=True).factors for each in (other, one)
    )
    assert set(found) == set(expected) == {"txt_in", POOLED["Flux.1"]}
    for name, (up, down) in expected.items():
        assert (found[name].up @ found[name].down - up @ down).norm() <= 1e-5 * (up @ down).norm()
    positive = encoded(clip, ROSES.source)
    torch.testing.assert_close(
        drawn(other.patched(found), positive), drawn(one.patched(expected), positive), rtol=1e-3, atol=1e-4
    )


def test_alignment_is_each_encoders_own(parts: tuple[Any, Any]) -> None:
    """ "an" counts as "a", in one piece or two; what is lacking is named as it was written."""
    from conceptlens.nodes.host import denoiser_of, prompt_encoder_of

    model, clip = parts
    encoder = prompt_encoder_of(clip, denoiser_of(model))
    for source, destination in (("an apple", "a green apple"), ("a doctor", "an old doctor"), ("A rose", "A red rose")):
        assert fit_time_edit(encoder, [EditPair(source, destination)]).rank
    with pytest.raises(UserError, match='lacks the source\'s word "pack"'):
        fit_time_edit(encoder, [EditPair("a pack of roses", "a bouquet of roses")])
    with pytest.raises(UserError, match="A prompt is empty"):
        fit_time_edit(encoder, [EditPair("", "a rose")])
    for prompt in ("a <|im_end|> rose", "a rose</s>"):
        with pytest.raises(UserError, match="contains the mark"):
            fit_time_edit(encoder, [EditPair(prompt, f"{prompt} red")])


def test_families_without_an_entry_say_why() -> None:
    from types import SimpleNamespace

    import comfy.supported_models
    from conceptlens.nodes.host import denoiser_of

    for kind, says in (
        ("HiDreamO1", "as tokens inside of the transformer"),
        ("HiDream", "each of its blocks takes states of its own"),
        ("HunyuanDiT", "TIME edits SD 1.x, SD 2.x, SDXL, Flux.1, Flux.2, Chroma, .* its text entry"),
    ):
        config = object.__new__(getattr(comfy.supported_models, kind))
        model: Any = SimpleNamespace(model=SimpleNamespace(model_config=config))
        with pytest.raises(UserError, match=says):
            denoiser_of(model)


def test_an_encoder_of_another_family_is_named(parts: tuple[Any, Any], family: str) -> None:
    from conceptlens.nodes.host import denoiser_of, prompt_encoder_of
    from conceptlens.tests.host.transformers import tiny_transformer

    model, _ = parts
    other = "Chroma" if family == "Z-Image" else "Z-Image"
    with torch.inference_mode():
        _, clip = tiny_transformer(other)
    denoiser = denoiser_of(model)
    denoiser.context_width += 1  # the tiny ones are all of one width
    says = f"The model \\({family}\\) reads text contexts of width"
    if family == "Anima":  # whose tokens another encoder does not have
        says = "The text encoder is a .*, which does not belong to Anima"
    with pytest.raises(UserError, match=says):
        edit_model(prompt_encoder_of(clip, denoiser), denoiser, [ROSES])


def test_the_node_edits_it_and_others_refuse_it(parts: tuple[Any, Any], family: str, tmp_path: Path) -> None:
    """What a graph runs; the pooled text and what needs a UNet are named."""
    import folder_paths
    from conceptlens.nodes.hspace.directions import HSpaceSample
    from conceptlens.nodes.time_edit.edit import TIMEEditConditioning, TIMEEditModel

    model, clip = parts
    folder_paths.set_user_directory(str(tmp_path))
    settings = {"regularization": 0.1, "regularize": "relative", "preserve": "a tulip", "preserve_mode": "exact"}
    given: Any = {"model": model, "clip": clip, "source": ROSES.source, "destination": ROSES.destination, **settings}
    edited, lora, report, edit = TIMEEditModel.execute(**given).args
    prefix = "transformer." if family in DIFFUSERS_NAMES else "diffusion_model."
    assert all(key.startswith(prefix) for key in lora)
    assert "relative to ordinary prompts" in report
    assert "preserved exactly leaves" in report
    prompt = encoded(clip, "a pack of roses")
    before = drawn(model, prompt)
    assert not torch.equal(drawn(edited, prompt), before)
    if family not in NORMED:
        (changed,) = TIMEEditConditioning.execute(conditioning=prompt, edit=edit, strength=1.0).args
        assert not torch.equal(drawn(model, changed), before)
    sample: Any = HSpaceSample.execute
    with pytest.raises(UserError, match=r"The model is a .* load such a checkpoint"):
        sample(model=model)
