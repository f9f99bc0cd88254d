"""What an audit counts: exact where the judge is right, wide where it can't tell, true as often as it says."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from conceptlens.core.conceptor.audit import (
    Trait,
    audit,
    audit_json,
    confusion,
    densest,
    nearest_group,
    phases,
    shares_posterior,
    words_in,
)
from conceptlens.core.conceptor.evaluations import Evaluations
from conceptlens.core.errors import UserError
from conceptlens.core.model.protocols import Progress, unseen
from conceptlens.core.model.template import Template
from conceptlens.core.pictures.groups_chart import Divided, groups_chart
from torch import Tensor


def by_a_grid(judged: Sequence[int], mistaken: np.ndarray, points: int = 200) -> float:
    """The posterior mean of the first of two shares, summed over a grid of shares under each judge of a grid."""
    grid = (np.arange(points) + 0.5) / points
    share = grid[:, None, None]
    one, other = grid[None, :, None], grid[None, None, :]  # rates at which each group is taken for the first
    seen = share * one + (1 - share) * other
    log = judged[0] * np.log(seen) + judged[1] * np.log(1 - seen) - 0.5 * np.log(share) - 0.5 * np.log(1 - share)
    weight = np.exp(log - log.max(0))
    means = (weight * share).sum(0) / weight.sum(0)  # under each judge
    (first, second), (third, fourth) = mistaken - 0.5
    rates = first * np.log(one[0]) + second * np.log(1 - one[0])
    rates = rates + third * np.log(other[0]) + fourth * np.log(1 - other[0])
    judges = np.exp(rates - rates.max())
    return float((judges * means).sum() / judges.sum())


@pytest.mark.parametrize(
    ("judged", "mistaken"),
    [
        ((20, 12), [[14, 2], [3, 13]]),
        ((30, 2), [[10, 6], [1, 15]]),
        ((5, 27), [[8, 8], [2, 14]]),
        ((30, 2), [[9, 7], [7, 9]]),
        ((32, 0), [[8, 8], [8, 8]]),
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_the_posterior_is_that_of_a_grid(judged: tuple[int, int], mistaken: list[list[int]], seed: int) -> None:
    """Also where the judge hardly tells the groups apart, and the count is on one side."""
    rows = np.array(mistaken, dtype=float)
    found = shares_posterior(np.array(judged), rows, seed)[:, 0].mean()
    assert found == pytest.approx(by_a_grid(judged, rows), abs=0.05)


def test_a_perfect_judge_only_counts() -> None:
    judged = np.array([40, 24, 0])
    found = shares_posterior(judged, 10_000 * np.eye(3))
    assert found.mean(0) == pytest.approx((judged + 0.5) / 65.5, abs=0.01)
    low, high = densest(found[:, 2])
    assert low < 1e-4
    assert high < 0.05


def test_a_judge_that_tells_nothing_apart_says_nothing() -> None:
    for rows in ([[15.0, 1.0], [15.0, 1.0]], [[8.0, 8.0], [8.0, 8.0]]):
        for count in (32, 100):
            low, high = densest(shares_posterior(np.array([count, 0]), np.array(rows))[:, 0])
            assert high - low > 0.8


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    """Over 200 worlds whose shares and judges are drawn at random."""
    numbers = np.random.default_rng(1)
    covered = 0
    for number in range(200):
        share, rates = numbers.uniform(), np.array([numbers.uniform(0.7, 1.0), numbers.uniform(0.0, 0.3)])
        told = numbers.binomial(16, rates)
        mistaken = np.stack([told, 16 - told], axis=1).astype(float)
        first = int(numbers.binomial(64, share * rates[0] + (1 - share) * rates[1]))
        low, high = densest(shares_posterior(np.array([first, 64 - first]), mistaken, seed=number)[:, 0])
        covered += low <= share <= high
    assert covered / 200 == pytest.approx(0.9, abs=0.06)


def test_told_pictures_are_left_out_of_their_own_mean() -> None:
    groups = [torch.randn(5, 8, generator=torch.Generator().manual_seed(number)) + number for number in range(3)]
    expected = np.zeros((3, 3))
    for row, group in enumerate(groups):
        for number, picture in enumerate(group):
            means = [each.mean(0) for each in groups]
            means[row] = torch.stack([other for place, other in enumerate(group) if place != number]).mean(0)
            expected[row, int(torch.stack([(picture - mean).norm() for mean in means]).argmin())] += 1
    assert (confusion(groups) == expected).all()
    assert nearest_group(torch.stack([group.mean(0) for group in groups]), groups).tolist() == [0, 1, 2]


class Painter:
    """Draws numbers: a told picture is its group's, a plain one is red in `red` of 16."""

    def __init__(self, red: int, sees: bool = True) -> None:
        self.red, self.sees = red, sees

    def evaluations(self, pictures: int) -> int:
        return pictures

    def latents_of_prompt(self, prompt: str, seeds: Sequence[int], progress: Progress = unseen) -> Tensor:
        progress(len(seeds), len(seeds))
        noise = torch.stack([torch.randn(2, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
        told = next((place for place, group in enumerate(("red ", "blue ")) if group in prompt), None)
        kinds = [seed % 16 >= self.red if told is None else told for seed in seeds]
        return torch.nn.functional.one_hot(torch.tensor(kinds).long(), 2) + 0.1 * noise

    def pictures(self, latents: Tensor) -> Tensor:
        return latents

    def features(self, pictures: Tensor) -> Tensor | None:
        return pictures if self.sees else None


COUNTS = {"num_images": 16, "told_images": 8}
COLOUR = Trait("colour", ("red", "blue"))


def test_an_audit_counts_before_and_after_a_change() -> None:
    models, told = {"before": Painter(12), "after": Painter(2)}, list[int]()
    template = Template.of("a {}")
    work = Evaluations(phases(models, ["rose"], [COLOUR], **COUNTS), lambda done, total: told.append(total - done))
    before, after = audit(models, ["rose"], [COLOUR], template, work, **COUNTS, seed=0)
    work.finish()
    assert (before.model, after.model) == ("before", "after")
    assert before.shares[0] == pytest.approx(12 / 16, abs=0.05)
    assert after.shares[0] == pytest.approx(2 / 16, abs=0.07)
    assert before.intervals[0][0] > after.intervals[0][1]
    assert before.told_apart == 1
    assert work.done == 2 * 16 + 2 * 8
    assert told[-1] == 0
    kept = json.loads(audit_json([before, after], seed=0))
    assert kept["findings"][1]["shares"] == dict(zip(("red", "blue"), after.shares, strict=True))
    assert kept["made by"] == {"seed": 0}


def test_without_an_image_encoder_nothing_is_counted() -> None:
    models = {"": Painter(3, sees=False)}
    with pytest.raises(UserError, match="connect clip_vision"):
        audit(models, ["rose"], [COLOUR], Template.of("a {}"), Evaluations(), **COUNTS, seed=0)
    with pytest.raises(UserError, match="2 or more of the second"):
        audit(models, ["rose"], [COLOUR], Template.of("a {}"), Evaluations(), num_images=1, told_images=1, seed=0)


def test_traits_and_words_are_read_from_texts() -> None:
    text = " sex: male | female \n\ncolour: red|green |dark blue"
    assert Trait.parse(text) == [Trait("sex", ("male", "female")), Trait("colour", ("red", "green", "dark blue"))]
    assert words_in("doctor, old house\nrose,doctor,") == ["doctor", "old house", "rose"]
    for wrong in ("male | female", "sex: male", "sex: male |", ": a | b"):
        with pytest.raises(UserError, match="is no trait"):
            Trait.parse(wrong)
    with pytest.raises(UserError, match="names a group twice"):
        Trait.parse("sex: male | Male")
    with pytest.raises(UserError, match="There is no trait"):
        Trait.parse(" \n")
    with pytest.raises(UserError, match="no word to audit"):
        words_in(" ,\n")


def test_a_bar_is_as_long_as_its_share_and_has_its_colour() -> None:
    chart = groups_chart("colour", ["red", "blue"], [Divided("rose", [0.75, 0.25], [(0.5, 0.9), (0.1, 0.5)])])
    row = (chart[-30] * 255).round().int()
    red, blue = ((row == torch.tensor(colour)).all(1).sum() for colour in ((255, 0, 0), (0, 0, 255)))
    assert red / (red + blue) == pytest.approx(0.75, abs=0.02)
