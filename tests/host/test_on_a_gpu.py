"""What a host with a GPU does otherwise, done on the CPU: streamed weights, half precision, other attention, memory."""

from __future__ import annotations

import gc
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from weakref import ref

import pytest
import torch
from conceptlens.core.conceptor.dictionary import encoded_gradient
from conceptlens.core.errors import UserError
from conceptlens.core.model.diffusion import Draws
from conceptlens.core.model.protocols import Family
from conceptlens.core.model.text_tower import Encoded
from torch import Tensor

pytestmark = pytest.mark.usefixtures("host_modules")
TIMESTEPS = torch.tensor([20, 700])


@pytest.fixture
def model(pipe: Any, family: Family) -> Any:
    from conceptlens.tests.host.twin import twin_model

    return twin_model(pipe, family)


@pytest.fixture
def encoded(model: Any) -> Encoded:
    """One prompt."""
    numbers = torch.Generator().manual_seed(0)
    width = model.model.model_config.unet_config["context_dim"]
    pooled = max(1, model.model.adm_channels - 6 * 256)  # six sizes stand beside it
    return Encoded(torch.randn(1, 77, width, generator=numbers), torch.randn(1, pooled, generator=numbers))


@pytest.fixture
def draws() -> Draws:
    latents, noise = torch.randn(2, 2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    return Draws(latents, noise, TIMESTEPS, torch.arange(2))


def test_streamed_weights_are_read_in_half_precision(
    model: Any, encoded: Encoded, draws: Draws, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NVIDIA's default: layers have no weights until some are loaded into them, and then are of those's type."""
    import comfy.memory_management
    import comfy.model_management
    from conceptlens.nodes.host import HostDiffusion

    both = encoded.repeated(2)
    expected = HostDiffusion(model).predict(draws.noise, TIMESTEPS, both)
    monkeypatch.setattr(comfy.memory_management, "aimdo_enabled", True)
    monkeypatch.setattr(comfy.model_management, "should_use_bf16", lambda *_: True)
    half = HostDiffusion(model).predict(draws.noise, TIMESTEPS, both)
    assert not torch.equal(half, expected)
    torch.testing.assert_close(half, expected, rtol=0.1, atol=0.1 * float(expected.std()))


def test_gradients_do_not_depend_on_the_hosts_attention(
    model: Any, encoded: Encoded, draws: Draws, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attention that cuts the gradient, as SageAttention does."""
    import comfy.ldm.modules.attention as attention
    from conceptlens.nodes.host import HostDiffusion

    def gradient() -> Tensor:
        return encoded_gradient(HostDiffusion(model), encoded, draws, 2)[1].context

    def cut(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return attention.wrap_attn(lambda *parts, **how: original(*parts, **how).detach())

    expected = gradient()
    for name in ("optimized_attention", "optimized_attention_masked"):
        monkeypatch.setattr(attention, name, cut(getattr(attention, name)))
    assert expected.norm() > 0
    torch.testing.assert_close(gradient(), expected)


@pytest.mark.parametrize("kind", ["EDM", "LCM"])
def test_other_samplings_are_refused(model: Any, kind: str) -> None:
    import comfy.model_sampling
    from comfy_extras.nodes_model_advanced import LCM, ModelSamplingDiscreteDistilled
    from conceptlens.nodes.host import HostDiffusion

    bases: dict[str, tuple[type, type]] = {
        "EDM": (comfy.model_sampling.ModelSamplingContinuousEDM, comfy.model_sampling.EDM),
        "LCM": (ModelSamplingDiscreteDistilled, LCM),
    }
    patched = model.clone()
    patched.add_object_patch("model_sampling", type("Advanced", bases[kind], {})(model.model.model_config))
    with pytest.raises(UserError, match=f"samples as .*{kind}; .*before nodes that change its sampling"):
        HostDiffusion(patched)


def test_a_private_unet_that_saves_memory_goes_when_it_is_done(model: Any) -> None:
    from conceptlens.nodes.host import HostDiffusion

    diffusion = HostDiffusion(model)
    assert diffusion.save_memory()
    weight = ref(diffusion._unet.input_blocks[0][0].weight)
    gc.disable()
    try:
        del diffusion
        assert weight() is None
    finally:
        gc.enable()


def test_many_pictures_are_not_looked_at_together() -> None:
    from conceptlens.nodes.host.studio import PICTURES_AT_ONCE, image_features

    sizes: list[int] = []

    def encode_image(images: Tensor) -> Any:
        sizes.append(len(images))
        return {"image_embeds": images.mean((1, 2))}

    pictures = torch.rand(2 * PICTURES_AT_ONCE + 3, 4, 4, 3)
    features = image_features(SimpleNamespace(encode_image=encode_image), pictures)  # pyright: ignore[reportArgumentType]
    assert sizes == [PICTURES_AT_ONCE, PICTURES_AT_ONCE, 3]
    torch.testing.assert_close(features, torch.nn.functional.normalize(pictures.mean((1, 2)), dim=-1))
