"""Sweeps meet round values and can be told apart."""

from __future__ import annotations

import pytest
from conceptlens.core.errors import UserError
from conceptlens.core.pictures.sweep import sweep


@pytest.mark.parametrize(
    ("start", "stop", "count", "labels"),
    [
        (-2, 2, 5, ["-2", "-1", "0", "1", "2"]),
        (-0.3, 0.3, 7, ["-0.3", "-0.2", "-0.1", "0", "0.1", "0.2", "0.3"]),
        (10000, 10001, 3, ["10000", "10000.5", "10001"]),
        (1, 5, 1, ["1"]),
        (1, 1, 2, ["1", "1"]),
    ],
)
def test_sweeps_have_round_values_and_labels_that_differ(
    start: float, stop: float, count: int, labels: list[str]
) -> None:
    values, texts = sweep(start, stop, count)
    assert [float(text) for text in texts] == values == [float(label) for label in labels]
    assert len(texts) == count
    assert count > 5 or start >= 10000 or texts == labels


@pytest.mark.parametrize(("start", "count"), [(0.0, 0), (0.0, -1), (float("nan"), 3)])
def test_sweeps_of_nothing_are_one_sentence(start: float, count: int) -> None:
    with pytest.raises(UserError, match="A sweep of"):
        sweep(start, 1.0, count)
