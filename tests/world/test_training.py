"""Training goes on where it was cut off, and says so when it can't."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from conceptlens.core.errors import UserError
from conceptlens.world.training import Settings, train
from conceptlens.world.workshop import OutOfTimeError, Workshop
from torch import Tensor
from torch.nn import Conv2d, Flatten, Linear, ReLU, Sequential

SETTINGS = Settings(steps=12, batch=4, learning_rate=0.01, weight_decay=0.1, average=0.9)
CPU = torch.device("cpu")


def network() -> Sequential:
    torch.manual_seed(0)
    return Sequential(Conv2d(3, 8, 3), ReLU(), Flatten(), Linear(8 * 36, 2))


def loss(worker: Sequential, step: int) -> Tensor:
    generator = torch.Generator().manual_seed(step)
    weight = next(worker.parameters())
    pictures = torch.randn(4, 3, 8, 8, generator=generator).to(weight)
    return (worker(pictures + 0.1 * torch.randn_like(pictures)).float() - 3).square().mean()


def test_a_run_that_was_cut_off_ends_as_the_one_that_was_not(tmp_path: Path) -> None:
    whole, cut = network(), network()
    steps = list(train(whole, loss, SETTINGS, tmp_path / "whole.safetensors", CPU))
    assert [state.step for state in steps] == list(range(1, 13))
    for state in train(cut, loss, SETTINGS, tmp_path / "cut.safetensors", CPU):
        if state.step == 5:
            break
    again = network()
    rest = list(train(again, loss, SETTINGS, tmp_path / "cut.safetensors", CPU))
    assert rest[0].step == 6
    for a, b in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    assert steps[-1].loss == pytest.approx(rest[-1].loss)


def test_training_lowers_the_loss_and_leaves_frozen_weights_alone(tmp_path: Path) -> None:
    module = network()
    frozen = module.get_parameter("0.weight").requires_grad_(False).clone()
    settings = Settings(steps=150, batch=4, learning_rate=0.01, average=0.9)
    steps = list(train(module, loss, settings, tmp_path / "a.safetensors", CPU))
    assert torch.equal(module.get_parameter("0.weight"), frozen)
    assert loss(module, 1000).item() < 0.2 * 9  # untrained, it is near 9
    assert steps[-1].loss < steps[0].loss


def test_a_finished_run_is_read_and_not_trained_again(tmp_path: Path) -> None:
    module, again = network(), network()
    list(train(module, loss, SETTINGS, tmp_path / "a.safetensors", CPU))
    assert not list(train(again, loss, SETTINGS, tmp_path / "a.safetensors", CPU))
    for a, b in zip(module.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_part_that_time_cuts_off_is_kept_and_goes_on(tmp_path: Path) -> None:
    """But is not taken for one that is trained: what follows in the caller, its export above all, does not happen."""
    weights = tmp_path / "weights"
    in_a_hurry, at_leisure = (Workshop(tmp_path, tmp_path / "runs", weights, CPU, until) for until in (0.0, math.inf))
    with pytest.raises(OutOfTimeError, match="autoencoder: 1 of 12 steps"):
        in_a_hurry.train("autoencoder", network(), loss, SETTINGS)
    module, whole = network(), network()
    at_leisure.train("autoencoder", module, loss, SETTINGS)
    list(train(whole, loss, SETTINGS, tmp_path / "whole.safetensors", CPU))
    for a, b in zip(whole.parameters(), module.parameters(), strict=True):
        assert torch.equal(a, b)


def test_other_settings_are_refused(tmp_path: Path) -> None:
    list(train(network(), loss, SETTINGS, tmp_path / "a.safetensors", CPU))
    other = Settings(steps=13, batch=4, learning_rate=0.01)
    with pytest.raises(UserError, match="was made with the settings"):
        list(train(network(), loss, other, tmp_path / "a.safetensors", CPU))
