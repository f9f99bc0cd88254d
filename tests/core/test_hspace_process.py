"""The asymmetric process and inversion, on a model whose truth is known."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from conceptlens.core.errors import UserError
from conceptlens.core.hspace.process import asymmetric_step, asyrp, invert, restored
from torch import Tensor

SIGMAS = torch.tensor([8.0, 3.0, 1.0, 0.3, 0.0], dtype=torch.float64)
SPREAD = 0.5  # of the pictures: normal, so that the best prediction is known


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gaussian(x: Tensor, sigma: float) -> Tensor:
    """The exact prediction for pictures that are normal around 1."""
    return 1 + (x - 1) * SPREAD**2 / (SPREAD**2 + sigma**2)


def shifted(x: Tensor, sigma: float) -> Tensor:
    return gaussian(x, sigma) + 0.1


def source(seed: int = 0) -> Callable[[], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(5, 4, 2, 2, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("sigmas", [SIGMAS.flip(0), SIGMAS[:-1].flip(0), SIGMAS[[0, 1, 1, 4]]])
def test_noise_levels_that_do_not_fall_are_refused(sigmas: Tensor) -> None:
    """As those of the usual way to make noise of a picture: from them come numbers that are not real."""
    with pytest.raises(UserError, match="must fall"):
        asyrp(gaussian, None, random(5, 4, 2, 2), sigmas, 0.5, source())


def test_a_step_is_ddims() -> None:
    """As the paper writes it, in variance-preserving coordinates."""
    x, predicted, plain = (random(2, 4, 3, 3, seed=seed) for seed in range(3))
    sigma, after, eta = 3.0, 1.2, 0.7
    moved, up = asymmetric_step(x, predicted, plain, sigma, after, eta)
    alpha, alpha_after = 1 / (1 + sigma**2), 1 / (1 + after**2)
    noise = (alpha**0.5 * x - alpha**0.5 * plain) / (1 - alpha) ** 0.5
    deviation = eta * ((1 - alpha_after) / (1 - alpha)) ** 0.5 * (1 - alpha / alpha_after) ** 0.5
    expected = alpha_after**0.5 * predicted + (1 - alpha_after - deviation**2) ** 0.5 * noise
    torch.testing.assert_close(alpha_after**0.5 * moved, expected)
    assert alpha_after**0.5 * up == pytest.approx(deviation)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_pictures_have_the_distribution_that_the_model_predicts(eta: float) -> None:
    """Exactly so for many steps, whatever part of the noise is new."""
    sigmas = torch.cat([torch.logspace(2, -3, 400, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)])
    generator = torch.Generator().manual_seed(1)

    def fresh() -> Tensor:
        return torch.randn(20_000, 1, 1, 1, generator=generator, dtype=torch.float64)

    found = asyrp(gaussian, None, 1 + 100 * fresh(), sigmas, eta, fresh)
    assert float(found.mean()) == pytest.approx(1, abs=0.02)
    assert float(found.std()) == pytest.approx(SPREAD, rel=0.03)


def test_a_shift_moves_the_predicted_picture_alone() -> None:
    """With one step left it is the whole shift; before, later steps take back what the noise does not follow."""
    x = random(5, 4, 2, 2)
    plain = asyrp(gaussian, None, x, SIGMAS[-2:], 0.0, source())
    torch.testing.assert_close(asyrp(shifted, gaussian, x, SIGMAS[-2:], 0.0, source()), plain + 0.1)
    both, alone = x, x
    for sigma, after in pairwise(SIGMAS.tolist()):
        both = shifted(both, sigma) + after * (both - shifted(both, sigma)) / sigma
        alone = shifted(alone, sigma) + after * (alone - gaussian(alone, sigma)) / sigma
    torch.testing.assert_close(asyrp(shifted, None, x, SIGMAS, 0.0, source()), both)
    torch.testing.assert_close(asyrp(shifted, gaussian, x, SIGMAS, 0.0, source()), alone)
    assert (alone - both).abs().max() > 1e-3


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_an_inverted_picture_comes_back(eta: float) -> None:
    pictures = 1 + SPREAD * random(5, 4, 2, 2)
    found = invert(gaussian, pictures, SIGMAS, eta, source())
    torch.testing.assert_close(restored(gaussian, gaussian, found, found.path[0], SIGMAS), pictures, atol=1e-12, rtol=0)
    edited = restored(shifted, gaussian, found, found.path[0], SIGMAS)
    assert (edited - pictures).mean() > 0.05


def test_ddim_inversion_finds_the_noise() -> None:
    """With many steps it is the noise from which sampling makes the picture, without any correction."""
    sigmas = torch.cat([torch.logspace(1, -3, 2000, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)])
    x = 1 + 10 * random(5, 4, 2, 2)
    pictures = asyrp(gaussian, None, x, sigmas, 0.0, source())
    found = invert(gaussian, pictures, sigmas, 0.0, source())
    torch.testing.assert_close(found.path[0], x, rtol=1e-2, atol=1e-2)
    assert max(float(correction.abs().max()) for correction in found.corrections) < 1e-2


def test_levels_of_ddpms_noise_space_have_noise_of_their_own() -> None:
    pictures = 1 + SPREAD * random(5, 4, 2, 2)
    spread = []
    for seed in range(300):
        found = invert(gaussian, pictures, SIGMAS, 1.0, source(seed))
        spread.append(torch.stack(list(found.corrections)[:-1]).square().mean((1, 2, 3, 4)))
    for measured, (sigma, after) in zip(torch.stack(spread).mean(0).tolist(), pairwise(SIGMAS.tolist()), strict=False):
        one, predicted = torch.ones(1), torch.tensor(SPREAD**2 / (SPREAD**2 + sigma**2))
        part = float(asymmetric_step(one, predicted, predicted, sigma, after, 1)[0])  # of the distance from the mean
        own = float((pictures - 1).square().mean())
        assert measured == pytest.approx((1 - part) ** 2 * own + after**2 + part**2 * sigma**2, rel=0.05)


def test_other_levels_and_sizes_are_refused() -> None:
    pictures = 1 + SPREAD * random(5, 4, 2, 2)
    found = invert(gaussian, pictures, SIGMAS, 0.0, source())
    with pytest.raises(UserError, match=r"inverted over 4 steps from sigma 8 to 0.*given 3 steps"):
        restored(gaussian, gaussian, found, found.path[0], SIGMAS[1:])
    with pytest.raises(UserError, match="connect the latent that came with it"):
        restored(gaussian, gaussian, found, found.path[0][:, :, :1], SIGMAS)
    for sigmas in (SIGMAS[:-1], SIGMAS.flip(0)):
        with pytest.raises(UserError, match="must fall, and end in 0"):
            invert(gaussian, pictures, sigmas, 0.0, source())


def test_where_a_mask_is_the_picture_changes_and_stays_elsewhere() -> None:
    pictures = 1 + SPREAD * random(5, 4, 2, 2)
    found = invert(gaussian, pictures, SIGMAS, 1.0, source())
    mask = torch.zeros(5, 4, 2, 2, dtype=torch.float64)
    mask[..., 0] = 1
    edited = restored(shifted, gaussian, found, found.path[0], SIGMAS, mask=mask)
    whole = restored(shifted, gaussian, found, found.path[0], SIGMAS)
    torch.testing.assert_close(edited[..., 1], pictures[..., 1], atol=1e-12, rtol=0)
    torch.testing.assert_close(edited[..., 0], whole[..., 0])  # this model sees each pixel for itself
    assert ((whole - pictures).abs() > 0.01).all()
