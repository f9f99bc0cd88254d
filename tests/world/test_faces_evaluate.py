"""What the evaluation of FaceWorld counts, on labels of which it is known."""

from __future__ import annotations

import pytest
import torch
from conceptlens.core.errors import UserError
from conceptlens.core.hspace.samples import HSpaceSamples
from conceptlens.world.faces.evaluate import (
    ATTRIBUTES,
    COMPONENTS,
    Trial,
    components,
    direction,
    random_like,
    unchanged,
)
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


def test_components_that_are_attributes_are_found() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.tensor([Face.of_seed(seed).labels for seed in range(200)])
    activations = 0.01 * torch.randn(2, 200, 12, 4, 4, generator=generator)
    for channel, (place, strength) in enumerate(((0, 8.0), (3, 4.0), (2, 2.0))):
        activations[:, :, channel] += strength * rows[:, place, None, None]
    details: dict[str, object] = {}
    (measure,) = components(samples(activations.half()), rows, details)
    assert measure.value == 3
    assert measure.n == COMPONENTS
