"""What the nodes read from the host's objects is what the harness reads from the same weights in diffusers."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from conceptlens.core.errors import UserError
from conceptlens.core.hspace.jacobian import singular_directions
from conceptlens.core.model.diffusion import Draws, denoising_loss
from conceptlens.core.model.protocols import Family
from conceptlens.core.model.text_tower import encode
from conceptlens.core.time_edit.lora import lora_names, lora_state_dict
from conceptlens.core.time_edit.time_edit import EditPair, edit_model
from conceptlens.pipelines.adapter import DiffusersDenoiser, DiffusersDiffusion, DiffusersTextEncoder
from torch.nn import Linear

if TYPE_CHECKING:
    from conceptlens.nodes.host import HostDenoiser, HostTextEncoder

ROSES = [EditPair("a pack of roses", "a pack of blue roses")]
PROMPTS = ["a pack of roses", "A rosemary bush, painted", ""]

pytestmark = pytest.mark.usefixtures("host_modules")


@pytest.fixture(params=["inference tensors", "normal tensors"])
def model(pipe: Any, family: Family, request: pytest.FixtureRequest) -> Any:
    """Weights that a loader node made are inference tensors; a test must hold for both kinds."""
    from conceptlens.tests.host.twin import twin_model

    with torch.inference_mode(request.param == "inference tensors"):
        return twin_model(pipe, family)


@pytest.fixture
def clip(pipe: Any, family: Family) -> Any:
    from conceptlens.tests.host.twin import twin_clip

    return twin_clip(pipe, family)


@pytest.fixture
def denoiser(model: Any) -> HostDenoiser:
    from conceptlens.nodes.host import HostDenoiser

    return HostDenoiser(model)


@pytest.fixture
def encoder(clip: Any) -> HostTextEncoder:
    from conceptlens.nodes.host import HostTextEncoder

    return HostTextEncoder(clip)


def test_contexts_agree(encoder: HostTextEncoder, pipe: Any) -> None:
    found, expected = encoder.encode(PROMPTS), DiffusersTextEncoder(pipe).encode(PROMPTS)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    one_by_one = torch.cat([encoder.encode([prompt]) for prompt in PROMPTS])
    torch.testing.assert_close(found, one_by_one, rtol=1e-4, atol=1e-4)


def test_towers_agree(encoder: HostTextEncoder, clip: Any, pipe: Any) -> None:
    ours, theirs = encoder.towers(), DiffusersTextEncoder(pipe).towers()
    for mine, other in zip(ours, theirs, strict=True):
        assert (mine.heads, mine.activation, mine.normed, mine.pad) == (
            other.heads,
            other.activation,
            other.normed,
            other.pad,
        )
    tokens = encoder.tokenize("a photo of a dog")
    assert encoder.vocabulary() == DiffusersTextEncoder(pipe).vocabulary()
    for skip in (None, -2):
        clip.layer_idx = skip
        towers = encoder.towers()
        encoded = encode(towers, tokens, [5], [tower.embed([1929]) for tower in towers])
        expected = encoder.encode(["a photo of a dog"])
        torch.testing.assert_close(encoded.context, expected, rtol=1e-4, atol=1e-4)


def test_gradients_go_through_towers_and_unet(model: Any, encoder: HostTextEncoder, family: Family) -> None:
    """Also where the weights are inference tensors; and the private UNet computes what the host's own does."""
    from conceptlens.nodes.host import HostDiffusion

    with torch.inference_mode(), torch.inference_mode(False):  # as in a node that the host runs
        diffusion, towers = HostDiffusion(model), encoder.towers()
        leaves = [tower.embed([1929]).requires_grad_() for tower in towers]
        one = encode(towers, [49406, 320, 320, 49407], [2], leaves)
        encoded = one.repeated(2)
        latents, noise = torch.randn(2, 2, 4, 8, 8)
        timesteps = torch.tensor([20, 700])
        drawn = Draws(latents, noise, timesteps, torch.arange(2))
        (plain,) = torch.autograd.grad(denoising_loss(diffusion, drawn, encoded).sum(), leaves[:1], retain_graph=True)
        assert diffusion.save_memory()
        assert not diffusion.save_memory()
        denoising_loss(diffusion, drawn, encoded).sum().backward()
        torch.testing.assert_close(leaves[0].grad, plain, rtol=1e-4, atol=1e-7)
        predicted = diffusion.predict(latents, timesteps, encoded).detach()
    for leaf in leaves:
        assert leaf.grad is not None
        assert torch.isfinite(leaf.grad).all()
        assert leaf.grad.norm() > 1e-6
    with torch.inference_mode():
        sigmas = ((1 - diffusion.alphas_cumprod) / diffusion.alphas_cumprod).sqrt()[timesteps].view(-1, 1, 1, 1)
        noisy = latents * (1 + sigmas**2).sqrt()  # the host's UNet divides by this
        size = {}
        if family == "SDXL":
            sizes = {"width": 64, "height": 64, "target_width": 64, "target_height": 64}
            size = {"y": model.model.encode_adm(pooled_output=encoded.pooled, device="cpu", **sizes)}
        denoised = model.model.apply_model(noisy, sigmas.flatten(), c_crossattn=encoded.context, **size)
    output = (noisy - denoised) / sigmas  # of an epsilon prediction
    if diffusion.prediction == "v":
        signal = diffusion.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
        output = (signal.sqrt() * latents - denoised) / (1 - signal).sqrt()
    torch.testing.assert_close(predicted, output, rtol=1e-3, atol=1e-3)


def test_a_middle_block_of_one_layer_has_no_inside(model: Any) -> None:
    """As distilled UNets have it, or none at all."""
    from conceptlens.nodes.host import HostBottleneck

    unet = model.model.diffusion_model
    unet.middle_block = unet.middle_block[:1]
    HostBottleneck(model).visited("after", lambda h, _: h)
    with pytest.raises(UserError, match="has no inside"):
        HostBottleneck(model).visited("inside", lambda h, _: h)
    unet.middle_block = None
    with pytest.raises(UserError, match="has no middle block"):
        HostBottleneck(model)


@pytest.mark.parametrize("position", ["after", "before", "inside"])
def test_the_decoder_goes_on_from_the_bottleneck(model: Any, family: Family, position: Any) -> None:
    """The two halves of the private UNet are the whole, for each row by itself; and the decoder has derivatives."""
    from conceptlens.nodes.host import HostDiffusion
    from conceptlens.nodes.host.halves import Evaluation

    with torch.inference_mode(False):
        diffusion = HostDiffusion(model, exact=True)
        width = model.model.model_config.unet_config["context_dim"]
        label = torch.randn(1, model.model.adm_channels) if family == "SDXL" else None
        given = Evaluation(torch.randn(1, 4, 8, 8), torch.tensor([400.0]), torch.randn(1, 77, width), label, {}, {})
        h, decode = diffusion.halves(given, position)
        whole = diffusion._unet(given.x, given.timesteps, context=given.context, y=label)
        both = decode(torch.stack([h, 2 * h]))
        torch.testing.assert_close(both[:1], whole, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(both[1:], whole, rtol=1e-2)
        found = singular_directions(decode, h, 2, tolerance=1e-3)
    assert found.converged
    step = 1e-2 * found.right[:1]
    with torch.no_grad():
        moved = (decode(h + step) - decode(h - step)).norm() / 2e-2
    assert float(moved) == pytest.approx(float(found.values[0]), rel=1e-2)


def test_tokens_agree(encoder: HostTextEncoder, pipe: Any) -> None:
    reference = DiffusersTextEncoder(pipe)
    for prompt in (*PROMPTS, "rose " * 100, r"a rose \(flower\)"):
        plain = prompt.replace("\\", "")
        assert encoder.tokenize(prompt) == reference.tokenize(plain)
    assert encoder.decode(encoder.tokenize("a rose")[1:-1]) == "a rose"


def test_noise_levels_agree(model: Any, pipe: Any) -> None:
    from conceptlens.nodes.host import HostDiffusion

    with torch.inference_mode(False):
        found, expected = HostDiffusion(model).alphas_cumprod, DiffusersDiffusion(pipe).alphas_cumprod
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_factors_agree(encoder: HostTextEncoder, denoiser: HostDenoiser, pipe: Any, family: Family) -> None:
    reference = DiffusersDenoiser(pipe)
    assert denoiser.family == reference.family == family
    assert denoiser.context_width == reference.context_width
    found = edit_model(encoder, denoiser, ROSES, edit_pooled=True)
    expected = edit_model(DiffusersTextEncoder(pipe), reference, ROSES, edit_pooled=True)
    assert ("add_embedding.linear_1" in found.factors) == (family == "SDXL")
    assert sorted(found.factors) == sorted(expected.factors)
    for name, (up, down) in expected.factors.items():
        # Singular vectors are free in their signs, the change of the weight is not.
        change = found.factors[name].up @ found.factors[name].down
        assert (change - up @ down).norm() <= 1e-5 * (up @ down).norm()


def test_factors_are_those_of_the_weights_with_earlier_patches(
    encoder: HostTextEncoder, denoiser: HostDenoiser, family: Family
) -> None:
    from conceptlens.nodes.host import HostDenoiser

    first = edit_model(encoder, denoiser, [EditPair("a house", "a burning house")])
    chained = HostDenoiser(denoiser.patched(first.factors))
    second = edit_model(encoder, chained, ROSES)
    for name in denoiser.text_layers():
        weight = denoiser.text_weight(name)
        edited = weight + first.factors[name].up @ first.factors[name].down
        torch.testing.assert_close(chained.text_weight(name), edited, rtol=1e-5, atol=1e-6)
        change = edited.double() @ (
            second.edit.context.left * second.edit.context.singular_values @ second.edit.context.right
        )
        found = second.factors[name].up @ second.factors[name].down
        assert (found - change).norm() <= 1e-5 * change.norm()
    assert family == denoiser.family


def test_patches_leave_the_shared_weights_alone(encoder: HostTextEncoder, denoiser: HostDenoiser, model: Any) -> None:
    before = {key: tensor.clone() for key, tensor in model.model_state_dict().items()}
    denoiser.patched(edit_model(encoder, denoiser, ROSES).factors)
    assert not model.patches
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.model_state_dict().items())


def test_cancel_inside_the_edit_leaves_the_model_alone(
    encoder: HostTextEncoder, denoiser: HostDenoiser, model: Any
) -> None:
    from comfy.model_management import InterruptProcessingException

    before = {key: tensor.clone() for key, tensor in model.model_state_dict().items()}

    def cancel(done: int, total: int) -> None:
        if done == total // 2:
            raise InterruptProcessingException

    with pytest.raises(InterruptProcessingException):
        edit_model(encoder, denoiser, ROSES, progress=cancel)
    assert not model.patches
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.model_state_dict().items())


def test_patched_model_and_lora_loader_agree(encoder: HostTextEncoder, denoiser: HostDenoiser, model: Any) -> None:
    """The live edit and the stock loader reach the same weights; every key of the file is understood."""
    import comfy.sd
    from conceptlens.nodes.host import HostDenoiser

    edited = edit_model(encoder, denoiser, ROSES, edit_pooled=True)
    state = lora_state_dict(edited.factors, denoiser.family)
    load: Any = comfy.sd.load_lora_for_models
    loaded, _ = load(model, None, state, 1.0, 0.0)
    live, stock = HostDenoiser(denoiser.patched(edited.factors)), HostDenoiser(loaded)
    assert len(loaded.patches) == len(edited.factors)
    for name, (up, down) in edited.factors.items():
        of_pooled = denoiser.pooled is not None and name in denoiser.pooled.text_layers()
        layers: Any = [each.pooled if of_pooled else each for each in (live, stock)]
        difference = layers[0].text_weight(name) - layers[1].text_weight(name)
        assert difference.norm() <= 2**-9 * (up @ down).norm()


def test_sdxl_names_are_the_original_ones(comfyui: Path) -> None:
    import comfy.utils
    from conceptlens.hosting.random_checkpoint import UNETS

    assert comfyui
    names = {k: v for k, v in comfy.utils.unet_to_diffusers(UNETS["sdxl"]).items() if "attn2.to_k" in k}
    found = lora_names([name.removesuffix(".weight") for name in names], "SDXL")
    assert len(found) == 70
    for diffusers, original in names.items():
        expected = "lora_unet_" + original.removesuffix(".weight").replace(".", "_")
        assert found[diffusers.removesuffix(".weight")] == expected


@pytest.mark.parametrize("prompt", ["embedding:unknown", "a embedding:unknown rose"])
def test_embeddings_are_refused_found_or_not(encoder: HostTextEncoder, prompt: str) -> None:
    with pytest.raises(UserError, match="names an embedding"):
        encoder.tokenize(prompt)


@pytest.mark.parametrize("prompt", ["a (rose:1.3)", "a (rose)", "a [rose"])
def test_prompt_weights_are_refused(encoder: HostTextEncoder, prompt: str) -> None:
    if "[" in prompt:
        assert encoder.tokenize(prompt)
        return
    with pytest.raises(UserError, match="contains a weight"):
        encoder.tokenize(prompt)


def test_other_architectures_are_named() -> None:
    import comfy.supported_models
    from conceptlens.nodes.host import HostDenoiser, HostTextEncoder

    flux: Any = SimpleNamespace(model=SimpleNamespace(model_config=comfy.supported_models.Flux({})))
    with pytest.raises(UserError, match=r"The model is a Flux; .* SD 1\.x, SD 2\.x and SDXL"):
        HostDenoiser(flux)
    t5: Any = SimpleNamespace(cond_stage_model=Linear(1, 1))
    with pytest.raises(UserError, match=r"The CLIP is a Linear; .* SD 1\.x, SD 2\.x and SDXL"):
        HostTextEncoder(t5)


def test_longer_encoders_are_named(clip: Any) -> None:
    from conceptlens.nodes.host import HostTextEncoder

    for tokenizer in vars(clip.tokenizer).values():
        if hasattr(tokenizer, "max_length"):
            tokenizer.max_length = 248
    with pytest.raises(UserError, match="The CLIP reads 248 tokens"):
        HostTextEncoder(clip)


def test_weights_that_are_hidden_or_quantised_are_named(model: Any, denoiser: HostDenoiser) -> None:
    from conceptlens.nodes.host import HostDenoiser

    name = denoiser.text_layers()[0]
    layer = model.model.diffusion_model.get_submodule(denoiser._keys[name].removesuffix(".weight")[16:])
    layer.weight = torch.nn.Parameter((layer.weight * 100).to(torch.int8), requires_grad=False)
    with pytest.raises(UserError, match=r"quantised as Parameter of torch\.int8"):
        HostDenoiser(model).text_weight(name)
    model.model.diffusion_model = torch.nn.Identity()
    with pytest.raises(UserError, match=r"does not show the weights of its cross-attention \(0 found\)"):
        HostDenoiser(model)


def test_quantised_weights_are_offered_the_edit_of_prompts(model: Any, clip: Any, denoiser: HostDenoiser) -> None:
    from conceptlens.nodes.time_edit.edit import TIMEEditModel

    name = denoiser.text_layers()[0]
    layer = model.model.diffusion_model.get_submodule(denoiser._keys[name].removesuffix(".weight")[16:])
    layer.weight = torch.nn.Parameter((layer.weight * 100).to(torch.int8), requires_grad=False)
    given: Any = {"model": model, "clip": clip, "source": "a rose", "destination": "a blue rose", "preserve": ""}
    with pytest.raises(
        UserError, match=r"quantised as Parameter of torch\.int8.* or edit its prompts by TIME Edit Conditioning"
    ):
        TIMEEditModel.execute(**given)


def test_float8_weights_are_read(model: Any, denoiser: HostDenoiser) -> None:
    from conceptlens.nodes.host import HostDenoiser

    name = denoiser.text_layers()[0]
    layer = model.model.diffusion_model.get_submodule(denoiser._keys[name].removesuffix(".weight")[16:])
    small = layer.weight.detach().to(torch.float8_e4m3fn)
    layer.weight = torch.nn.Parameter(small, requires_grad=False)
    assert torch.equal(HostDenoiser(model).text_weight(name), small.float())
