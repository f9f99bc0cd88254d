"""Conceptor's fit on tiny pipelines: its parts against the formulas, its whole by what it must find."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conceptlens.core.decomposition import Dictionary, FitStep, Slot, fit_conceptor, score_tokens, token_losses
from conceptlens.core.diffusion import add_noise, denoising_loss, draws
from conceptlens.core.errors import UserError
from conceptlens.core.text_tower import Encoded, mean_length
from conceptlens.harness.diffusers_backend import DiffusersDiffusion, DiffusersTextEncoder
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize


@pytest.fixture(scope="module")
def diffusion(pipe: Any) -> DiffusersDiffusion:
    return DiffusersDiffusion(pipe)


@pytest.fixture(scope="module")
def slot(pipe: Any) -> Slot:
    encoder = DiffusersTextEncoder(pipe)
    tokens = encoder.tokenize("a photo of a dog")
    return Slot(encoder.towers(), tokens, [len(tokens) - 2])


@pytest.fixture(scope="module")
def dictionary(slot: Slot) -> Dictionary:
    ids = torch.arange(1000, 1040)
    return Dictionary(ids, [t.embed(ids) for t in slot.towers], [mean_length(t.table) for t in slot.towers])


@pytest.fixture(scope="module")
def latents() -> Tensor:
    return torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(7))


def test_v_and_epsilon_are_the_same_error_in_other_units(latents: Tensor) -> None:
    """A perfect predictor of either has no loss, and v = sqrt(a) eps - sqrt(1 - a) x_0 (Salimans and Ho, 2022)."""

    class Perfect:
        def __init__(self, prediction: Any, noise: Tensor) -> None:
            self.prediction = prediction
            self.alphas_cumprod = torch.linspace(0.999, 0.01, 1000)
            self.noise = noise

        def predict(self, noisy: Tensor, timesteps: Tensor, encoded: Encoded) -> Tensor:  # noqa: ARG002
            signal = self.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
            clean = (noisy - (1 - signal).sqrt() * self.noise) / signal.sqrt()
            return (
                self.noise if self.prediction == "epsilon" else signal.sqrt() * self.noise - (1 - signal).sqrt() * clean
            )

    noise = torch.randn_like(latents)
    nothing = Encoded(torch.zeros(4, 77, 8), torch.zeros(4, 8))
    for prediction in ("epsilon", "v"):
        loss = denoising_loss(Perfect(prediction, noise), latents, noise, torch.tensor([5, 200, 600, 900]), nothing)
        assert loss.abs().max() < 1e-6


def test_one_backward_pass_scores_all_tokens(
    diffusion: DiffusersDiffusion, slot: Slot, dictionary: Dictionary, latents: Tensor
) -> None:
    """The gradient's product with a direction is what a small step in that direction changes."""
    vectors = dictionary.pseudo_token(torch.rand(40, generator=torch.Generator().manual_seed(1)))
    gradients = score_tokens(diffusion, slot, vectors, latents, 6, torch.Generator().manual_seed(2))
    drawn = draws(latents, 6, 1000, torch.Generator().manual_seed(2))
    directions = [e[5:6] for e in dictionary.embeddings]
    moved = [[v + sign * 0.05 * d for v, d in zip(vectors, directions, strict=True)] for sign in (1, -1)]
    there, back = (token_losses(diffusion, slot, where, drawn).mean() for where in moved)
    expected = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True))
    torch.testing.assert_close((there - back) / 0.1, expected, rtol=0.05, atol=1e-5)


def test_losses_of_tokens_are_those_of_one_at_a_time(
    diffusion: DiffusersDiffusion, slot: Slot, dictionary: Dictionary, latents: Tensor
) -> None:
    drawn = draws(latents, 3, 1000, torch.Generator().manual_seed(2))
    losses = token_losses(diffusion, slot, [s[:4] for s in dictionary.singles()], drawn)
    assert losses.shape == (4, 3)
    single = [normalize(e[2:3], dim=-1) * n for e, n in zip(dictionary.embeddings, dictionary.norms, strict=True)]
    encoded = slot.encode(single)
    for number, (latent, noise, timestep) in enumerate(zip(*drawn, strict=True)):
        noisy = add_noise(diffusion.alphas_cumprod, latent[None], noise[None], timestep[None])
        error = diffusion.predict(noisy, timestep[None], encoded) - noise
        torch.testing.assert_close(losses[2, number], error.square().mean(), rtol=1e-4, atol=1e-6)


def fit(diffusion: Any, slot: Slot, dictionary: Dictionary, latents: Tensor, **settings: Any) -> list[FitStep]:
    return list(fit_conceptor(diffusion, slot, dictionary, latents, **{"steps": 3, "num_tokens": 5, **settings}))


def test_a_fit_is_the_published_loss_and_reproduces(
    diffusion: DiffusersDiffusion, slot: Slot, dictionary: Dictionary, latents: Tensor
) -> None:
    first, again = (fit(diffusion, slot, dictionary, latents, sparsity=0.3, seed=4) for _ in range(2))
    assert [step.loss for step in first] == [step.loss for step in again]
    other = fit(diffusion, slot, dictionary, latents, sparsity=0.3, seed=5)
    assert [step.loss for step in first] != [step.loss for step in other]
    alpha = first[0].coefficients
    assert (alpha >= 0).all()
    top = alpha * (alpha >= alpha.topk(5).values.min())
    drawn = draws(latents, 6, 1000, torch.Generator().manual_seed(4))
    whole, largest = (
        [normalize(a @ e, dim=0)[None] * n for e, n in zip(dictionary.embeddings, dictionary.norms, strict=True)]
        for a in (alpha, top)
    )
    error = token_losses(diffusion, slot, whole, drawn).mean()
    distance = torch.stack([1 - cosine_similarity(a, b)[0] for a, b in zip(largest, whole, strict=True)]).mean()
    assert first[0].loss == pytest.approx(float(error + 0.3 * distance), rel=1e-4)


def test_a_fit_lowers_the_loss(
    diffusion: DiffusersDiffusion, slot: Slot, dictionary: Dictionary, latents: Tensor
) -> None:
    steps = fit(diffusion, slot, dictionary, latents, steps=40, learning_rate=0.02, sparsity=0.0)
    drawn = draws(latents, 32, 1000, torch.Generator().manual_seed(9))
    before, after = (
        token_losses(diffusion, slot, dictionary.pseudo_token(steps[which].coefficients), drawn).mean()
        for which in (0, -1)
    )
    assert after < before


def test_numbers_that_are_not_finite_stop_a_fit(
    diffusion: DiffusersDiffusion, slot: Slot, dictionary: Dictionary, latents: Tensor
) -> None:
    with pytest.raises(UserError, match="loss of step 1 is nan"):
        fit(diffusion, slot, dictionary, latents * float("nan"))
