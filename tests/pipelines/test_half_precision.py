"""Gradients of a UNet in half precision, on latents of SDXL's size: what is fitted does not depend on the precision."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conceptlens.core.conceptor.dictionary import encoded_gradient
from conceptlens.core.model.diffusion import Diffusion, Draws, Prediction, denoising_loss
from conceptlens.core.model.text_tower import Encoded
from conceptlens.pipelines.adapter import DiffusersDiffusion
from diffusers import DDIMScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from torch import Tensor

MOST = 0.01  # of the gradient's length


def apart(found: Encoded, expected: Encoded) -> float:
    """The larger of the relative errors of both parts."""
    return max(float((a - b).norm() / b.norm()) for a, b in zip(found, expected, strict=True))


@pytest.fixture(scope="module")
def encoded() -> Encoded:
    numbers = torch.Generator().manual_seed(2)
    return Encoded(torch.randn(1, 77, 2048, generator=numbers), torch.randn(1, 1280, generator=numbers))


@pytest.fixture(scope="module")
def drawn() -> Draws:
    latents, noise = torch.randn(2, 1, 4, 128, 128, generator=torch.Generator().manual_seed(1))
    return Draws(latents, noise, torch.tensor([500]), torch.zeros(1, dtype=torch.long))


def narrow_sdxl(dtype: torch.dtype) -> DiffusersDiffusion:
    """SDXL's inputs and outputs, with few channels and layers between them."""
    torch.manual_seed(0)
    unet: Any = UNet2DConditionModel(
        block_out_channels=(4, 8, 16),
        layers_per_block=1,
        cross_attention_dim=2048,
        attention_head_dim=4,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=1280 + 6 * 256,
    )
    pipe = StableDiffusionXLPipeline.__new__(StableDiffusionXLPipeline)  # its other parts are not asked
    unet.to(dtype=dtype)
    vars(pipe).update(unet=unet, scheduler=DDIMScheduler())
    return DiffusersDiffusion(pipe)


def test_half_precision_has_the_gradient_of_single_precision(encoded: Encoded, drawn: Draws) -> None:
    half, single = narrow_sdxl(torch.float16), narrow_sdxl(torch.float32)
    loss, expected = encoded_gradient(single, encoded, drawn, 1)
    half_loss, found = encoded_gradient(half, encoded, drawn, 1)
    assert half_loss == pytest.approx(loss, rel=1e-3)
    assert apart(found, expected) <= MOST
    plain = Encoded(*(part.clone().requires_grad_() for part in encoded))
    gradient = torch.autograd.grad(denoising_loss(half, drawn, plain).mean(), tuple(plain))
    assert apart(Encoded(*gradient), expected) > MOST  # what the loss as it stands comes to


class Steep:
    """Changes with its text so much that the gradient of a plain sum is beyond float16."""

    prediction: Prediction = "epsilon"
    alphas_cumprod = torch.full((1000,), 0.5)

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype

    def predict(self, noisy: Tensor, timesteps: Tensor, encoded: Encoded) -> Tensor:  # noqa: ARG002
        context, pooled = (part.to(self._dtype) for part in encoded)
        return (noisy.to(self._dtype) + context[:, :1, :1, None] + pooled[:, :1, None, None]).float()

    def make_room(self) -> bool:
        return False

    def save_memory(self) -> bool:
        return False


def test_a_gradient_that_overflows_is_taken_on_a_smaller_scale(encoded: Encoded, drawn: Draws) -> None:
    far = Encoded(*(part.abs() + 3 for part in encoded))  # all errors have one sign, and add up
    diffusions: list[Diffusion] = [Steep(torch.float32), Steep(torch.float16)]
    (_, expected), (loss, found) = (encoded_gradient(each, far, drawn, 1) for each in diffusions)
    whole = float(expected.context[0, 0, 0]) * drawn.latents.numel()
    assert whole > torch.finfo(torch.float16).max
    assert apart(found, expected) <= MOST
    assert loss < float("inf")


def test_what_is_not_finite_is_not_tried_again(encoded: Encoded, drawn: Draws) -> None:
    """A loss that is not finite has no scale on which its gradient is."""
    calls = []

    class Broken(Steep):
        def predict(self, noisy: Tensor, timesteps: Tensor, encoded: Encoded) -> Tensor:
            calls.append(len(noisy))
            return super().predict(noisy, timesteps, encoded) * float("nan")

    loss, _ = encoded_gradient(Broken(torch.float16), encoded, drawn, 1)
    assert loss != loss
    assert calls == [1]
