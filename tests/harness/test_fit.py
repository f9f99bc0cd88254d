"""Conceptor's loss and fit on tiny pipelines, against the formulas."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conceptlens.core.conceptor.dictionary import Dictionary, loss_gradient, token_losses
from conceptlens.core.conceptor.fit import PATIENCE, FitState, FitStep, Settings, fit_conceptor
from conceptlens.core.errors import UserError
from conceptlens.core.model.diffusion import Draws, add_noise, denoising_loss, draw
from conceptlens.core.model.slot import Slot
from conceptlens.core.model.template import Template
from conceptlens.core.model.text_tower import Encoded
from conceptlens.pipelines.adapter import DiffusersDiffusion, DiffusersTextEncoder
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize


def test_predictions_are_the_same_error_in_other_units(latents: Tensor) -> None:
    """A perfect predictor of any has no loss, and v = sqrt(a) eps - sqrt(1 - a) x_0 (Salimans and Ho, 2022)."""

    class Perfect:
        def __init__(self, prediction: Any, noise: Tensor) -> None:
            self.prediction = prediction
            self.alphas_cumprod = torch.linspace(0.999, 0.01, 1000)
            self.noise = noise

        def predict(self, noisy: Tensor, timesteps: Tensor, encoded: Encoded) -> Tensor:  # noqa: ARG002
            signal = self.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
            clean = (noisy - (1 - signal).sqrt() * self.noise) / signal.sqrt()
            velocity = signal.sqrt() * self.noise - (1 - signal).sqrt() * clean
            return {"epsilon": self.noise, "v": velocity, "sample": clean}[self.prediction]

        def make_room(self) -> bool:
            return False

        def save_memory(self) -> bool:
            return False

    noise = torch.randn_like(latents)
    drawn = Draws(latents, noise, torch.tensor([5, 200, 600, 900]), torch.arange(4))
    nothing = Encoded(torch.zeros(4, 77, 8), torch.zeros(4, 8))
    for prediction in ("epsilon", "v", "sample"):
        loss = denoising_loss(Perfect(prediction, noise), drawn, nothing)
        assert loss.abs().max() < 1e-5


def test_draws_are_spread_over_pictures_and_timesteps(latents: Tensor) -> None:
    drawn = draw(latents, 40, (250, 700), torch.Generator().manual_seed(1))
    assert drawn.pictures.bincount().tolist() == [10] * 4
    assert torch.equal(drawn.latents, latents[drawn.pictures])
    assert sorted((drawn.timesteps - 250).mul(40).div(450, rounding_mode="floor").tolist()) == list(range(40))
    assert torch.equal(torch.cat([part.noise for part in drawn.split(7)]), drawn.noise)


def test_a_slot_is_the_prompt_with_a_token_in_it(encoder: DiffusersTextEncoder) -> None:
    slot = Slot.of(encoder, encoder.towers(), Template.of("a photo of a {}, in the snow"))
    dog = encoder.tokenize("dog")[1]
    encoded = slot.encode([tower.embed([dog]) for tower in slot.towers])
    expected = encoder.encode(["a photo of a dog, in the snow"])
    torch.testing.assert_close(encoded.context, expected, rtol=1e-4, atol=1e-4)
    for prompt in ("a photo", "a {} and a {}"):
        with pytest.raises(UserError, match="must have one"):
            Template.of(prompt)
    with pytest.raises(UserError, match="has 103 tokens with start and end"):
        Slot.of(encoder, slot.towers, Template.of("rose " * 100 + "{}"))


def test_one_backward_pass_scores_all_tokens(
    diffusion: DiffusersDiffusion, slot: Slot, dictionary: Dictionary, latents: Tensor
) -> None:
    """The gradient's product with a direction is what a small step in that direction changes."""
    vectors = dictionary.pseudo_token(torch.rand(40, generator=torch.Generator().manual_seed(1)))
    drawn = draw(latents, 6, (0, 1000), torch.Generator().manual_seed(2))
    gradients = loss_gradient(diffusion, slot, vectors, drawn)
    directions = [e[5:6] for e in dictionary.embeddings]
    moved = [[v + sign * 0.05 * d for v, d in zip(vectors, directions, strict=True)] for sign in (1, -1)]
    there, back = (token_losses(diffusion, slot, where, drawn).mean() for where in moved)
    expected = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True))
    torch.testing.assert_close((there - back) / 0.1, expected, rtol=0.05, atol=1e-5)


def test_losses_of_tokens_are_those_of_one_at_a_time(
    diffusion: DiffusersDiffusion, slot: Slot, dictionary: Dictionary, latents: Tensor
) -> None:
    singles = [s[:15] for s in dictionary.singles()]
    for count in (3, 37):  # several tokens in one pass, and one token in several
        drawn = draw(latents, count, (0, 1000), torch.Generator().manual_seed(2))
        losses = token_losses(diffusion, slot, singles, drawn)
        assert losses.shape == (15, count)
        single = [normalize(e[12:13], dim=-1) * n for e, n in zip(dictionary.embeddings, dictionary.norms, strict=True)]
        encoded = slot.encode(single)
        for number in (0, count - 1):
            latent, noise, timestep = (
                part[number : number + 1] for part in (drawn.latents, drawn.noise, drawn.timesteps)
            )
            noisy = add_noise(diffusion.alphas_cumprod, latent, noise, timestep)
            error = diffusion.predict(noisy, timestep, encoded) - noise
            torch.testing.assert_close(losses[12, number], error.square().mean(), rtol=1e-4, atol=1e-6)


def fit(
    diffusion: Any, slot: Slot, dictionary: Dictionary, latents: Tensor, own: bool = False, **changes: Any
) -> list[FitStep]:
    method = "shares" if own else "conceptor"
    settings = Settings(**{"method": method, "steps": 3, "num_tokens": 5, "validate_every": 10, **changes})
    generator = torch.Generator().manual_seed(settings.seed)
    state = FitState.begin(dictionary, torch.full((40,), 1 / 40), settings, generator)
    held_out = draw(latents, 32, (0, 1000), torch.Generator().manual_seed(9))

    def judge(chosen: Dictionary, values: Tensor) -> float:
        return float(token_losses(diffusion, slot, chosen.pseudo_token(values), held_out).mean())

    return list(fit_conceptor(diffusion, slot, dictionary, state, latents, judge, settings))


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
    drawn = draw(latents, 6, (0, 1000), torch.Generator().manual_seed(4))
    whole, largest = (
        [normalize(a @ e, dim=0)[None] * n for e, n in zip(dictionary.embeddings, dictionary.norms, strict=True)]
        for a in (alpha, top)
    )
    error = token_losses(diffusion, slot, whole, drawn).mean()
    distance = torch.stack([1 - cosine_similarity(a, b)[0] for a, b in zip(largest, whole, strict=True)]).mean()
    assert first[1].loss == pytest.approx(float(error + 0.3 * distance), rel=1e-4)


@pytest.mark.parametrize("own", [False, True])
def test_a_fit_lowers_the_loss(
    own: bool, diffusion: DiffusersDiffusion, slot: Slot, dictionary: Dictionary, latents: Tensor
) -> None:
    settings = {
        "steps": 40,
        "learning_rate": 0.002 if own else 0.02,
        "sparsity": 0.0,
        "num_tokens": 40,
        "validate_every": 20,
    }
    steps = fit(diffusion, slot, dictionary, latents, own, **settings)
    validations = [step.validation for step in steps if step.validation is not None]
    assert len(validations) == 3
    assert validations[-1] < validations[0]
    assert [step.step for step in steps if step.best][-1] == 20 * validations.index(min(validations))


def test_a_fit_that_no_longer_gets_better_ends(
    diffusion: DiffusersDiffusion, slot: Slot, dictionary: Dictionary, latents: Tensor
) -> None:
    """But for the published one, which takes all of its steps and keeps the best."""
    still: dict[str, Any] = {"steps": PATIENCE + 3, "validate_every": 1, "learning_rate": 0.0}
    steps = fit(diffusion, slot, dictionary, latents, own=True, **still)
    assert steps[-1].step == PATIENCE
    assert [step.best for step in steps] == [True, *[False] * PATIENCE]
    steps = fit(diffusion, slot, dictionary, latents, **still)
    assert steps[-1].step == PATIENCE + 3
    assert not any(step.best for step in steps[1:])


def test_numbers_that_are_not_finite_stop_a_fit(
    diffusion: DiffusersDiffusion, slot: Slot, dictionary: Dictionary, latents: Tensor
) -> None:
    with pytest.raises(UserError, match="loss of step 1 is nan"):
        fit(diffusion, slot, dictionary, latents * float("nan"))
