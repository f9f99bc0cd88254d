"""One bar over all phases of long work."""

from __future__ import annotations

import pytest
from conceptlens.core.conceptor.evaluations import Evaluations
from hypothesis import given
from hypothesis import strategies as some


@given(
    some.dictionaries(some.sampled_from("abcd"), some.integers(0, 50)),
    some.lists(some.tuples(some.sampled_from("abcde"), some.lists(some.integers(0, 30), max_size=4)), max_size=6),
)
def test_what_is_told_never_falls_and_is_everything_only_at_the_end(
    expected: dict[str, int], work: list[tuple[str, list[int]]]
) -> None:
    """Whatever was expected, and whatever comes: phases left out, longer ones, unknown ones."""
    told: list[tuple[int, int]] = []
    counted = Evaluations(expected, lambda *at: told.append(at))
    for phase, counts in work:
        counted.begin(phase)
        for count in counts:
            counted.add(count)
    assert all(done < total for done, total in told)
    counted.finish()
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert len({total for _, total in told}) == 1
    assert told[-1][0] == told[-1][1]


def test_work_as_expected_is_told_as_it_is() -> None:
    told: list[tuple[int, int]] = []
    said: list[str] = []
    work = Evaluations({"one": 4, "left out": 3, "two": 6}, lambda *at: told.append(at), said.append)
    work.begin("one")
    work.add(4)
    assert told == [(4, 13)]
    work.begin("two", done=2)  # and what was left out is not waited for
    steps = work.counted(2)
    steps(1, 10)
    steps(5, 10)
    steps(10, 10)
    assert told[1:] == [(6, 13), (8, 13), (9, 13)]
    assert [text.split(",")[0] for text in said] == ["one", "two"]


def test_who_watches_can_stop_it() -> None:
    def stop(*_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Evaluations({}, stop).add(1)
