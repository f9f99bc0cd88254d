"""What the evaluation of FaceWorld counts, on labels of which it is known."""

from __future__ import annotations

import pytest
import torch
from conceptlens.core.errors import UserError
from conceptlens.core.hspace.samples import HSpaceSamples
from conceptlens.evaluation.face_trials import ATTRIBUTES, EVERY, Trial, alone, direction, directions, rank, unchanged
from conceptlens.evaluation.faces import correlation_ratios
from conceptlens.evaluation.hspace import random_like
from conceptlens.world.faces.truth import VALUES, Face
from torch import Tensor

NAMES = list(VALUES)


def labels(count: int, **values: object) -> Tensor:
    """Some faces that differ in nothing but what is given as one value for each."""
    rows = torch.zeros(count, len(NAMES), dtype=torch.long)
    for name, given in values.items():
        rows[:, NAMES.index(name)] = torch.tensor(given)
    return rows


def samples(activations: Tensor) -> HSpaceSamples:
    return HSpaceSamples(torch.tensor([2.0, 1.0]), activations, "sd1", "after", {})


def test_ten_attributes_and_each_sees_its_own_value() -> None:
    assert len({attribute.name for attribute in ATTRIBUTES}) == 10
    faces = [Face.of_seed(seed) for seed in range(200)]
    rows = torch.tensor([face.labels for face in faces])
    there = {attribute.name: attribute.there(rows).tolist() for attribute in ATTRIBUTES}
    assert there["long hair"] == [face.long_hair for face in faces]
    assert there["red hair"] == [face.hair == "red" for face in faces]


def test_a_trial_counts_flips_where_the_attribute_was_not_and_the_others_everywhere() -> None:
    glasses = ATTRIBUTES[0]
    before = labels(4, glasses=[0, 0, 0, 1], skin=[1, 1, 1, 1])
    after = labels(4, glasses=[1, 1, 0, 1], skin=[1, 2, 1, 1])
    trial = Trial.of(glasses, 2.0, before, after)
    assert trial.flipped == pytest.approx(200 / 3)
    assert trial.kept == pytest.approx(100 * 31 / 32)
    assert not trial.reached
    assert Trial(1.0, 75.0, 85.0).reached


def test_hair_that_a_cap_hides_is_unchanged() -> None:
    before, after = labels(3, cap=[0, 0, 1], hair=[1, 1, 1]), labels(3, cap=[1, 0, 1], hair=[2, 2, 2])
    same = unchanged(before, after)
    assert same[:, NAMES.index("hair")].tolist() == [True, False, True]
    assert same[:, NAMES.index("cap")].tolist() == [False, True, True]


def test_a_direction_leads_from_the_pictures_without_to_those_with() -> None:
    activations = torch.zeros(2, 4, 3, 4, 4)
    activations[:, :2, 1] = 6.0
    found = direction(samples(activations.half()), torch.tensor([True, True, False, False]))
    assert found.shifts[0, :, 1].eq(6.0).all()
    assert not found.shifts[0, :, [0, 2]].any()
    by_chance = random_like(found)
    assert torch.allclose(by_chance.shifts.flatten(2).norm(dim=2), found.shifts.flatten(2).norm(dim=2))
    with pytest.raises(UserError, match="one set is empty"):
        direction(samples(activations.half()), torch.zeros(4, dtype=torch.bool))


def test_a_direction_alone_shares_nothing_with_those_of_other_attributes() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.tensor([Face.of_seed(seed).labels for seed in range(200)])
    found = directions(samples(torch.randn(2, 200, 12, 4, 4, generator=generator)), rows)
    assert set(found) == {attribute.name for attribute in EVERY}
    smile = ATTRIBUTES[1]
    left = alone(smile, found)
    assert float((left.shifts * found["smile"].shifts).sum()) > 0
    for other in EVERY:
        shared = (left.shifts * found[other.name].shifts).flatten(2).sum(2).abs().max()
        assert (shared < 1e-3) == (other.place != smile.place), other.name


def test_a_scale_that_flips_enough_is_chosen_by_what_it_keeps() -> None:
    trials = [Trial(0.3, 60.0, 99.0), Trial(0.6, 90.0, 91.0), Trial(1.1, 100.0, 80.0)]
    assert max(trials, key=rank).scale == 0.6
    assert max(trials[:1] + [Trial(0.2, 40.0, 100.0)], key=rank).scale == 0.3


def test_a_correlation_ratio_is_r_for_two_values_and_needs_no_order_of_four() -> None:
    rows = torch.tensor([Face.of_seed(seed).labels for seed in range(200)])
    glasses, skin = rows[:, 0].double(), torch.tensor([0.0, 3.0, 0.0, 3.0]).double()[rows[:, NAMES.index("skin")]]
    noise = torch.randn(200, generator=torch.Generator().manual_seed(0)).double()
    scores = torch.stack([glasses, skin, glasses + noise])
    ratios = correlation_ratios(scores, rows)
    assert ratios.shape == (3, len(NAMES))
    assert ratios[0, 0] == pytest.approx(1)
    assert ratios[1, NAMES.index("skin")] == pytest.approx(1)
    plain = torch.corrcoef(torch.stack([scores[2], glasses]))[0, 1]
    assert float(ratios[2, 0]) == pytest.approx(abs(float(plain)))
    assert ratios[1, 0] < 0.2
