"""What the evaluation keeps and what it makes of single figures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conceptlens.evaluation.emoji_world import EVALUATION
from conceptlens.evaluation.measures import Measure, report


def test_a_share_lies_in_wilsons_interval() -> None:
    """Brown, Cai and DasGupta (2001): 8 of 10 has the interval 49.0 to 94.3 %."""
    measure = Measure.share("hits", [True] * 8 + [False] * 2)
    assert measure.value == pytest.approx(80)
    assert measure.interval == pytest.approx((49.0, 94.3), abs=0.1)


def test_parts_are_known_as_long_as_conditions_are_the_same(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    file = tmp_path / "results.json"
    assert EVALUATION.known(file) == {}
    measures = [Measure.share("one", [True, False]), Measure("two", None, "s", 0, None, "no clock")]
    settings = {**EVALUATION.conditions, "parts": {"a": ["one"], "b": ["two"]}, "details": {"a": {"x": 1}, "b": {}}}
    report("evaluate", settings, measures, file)
    assert "no clock" in capsys.readouterr().out
    assert EVALUATION.known(file) == {"a": ([measures[0]], {"x": 1}), "b": ([measures[1]], {})}
    told = json.loads(file.read_text())
    for changed in ({"weights": {"unet.safetensors": "another"}}, {"guidance scale": 1.0}):
        file.write_text(json.dumps(told | {"settings": told["settings"] | changed}))
        assert EVALUATION.known(file) == {}


def test_means_and_their_intervals() -> None:
    """Of three values Student's t has two degrees of freedom: 4.303 standard errors."""
    assert Measure.mean("nothing", []).value is None
    assert Measure.share("nothing", []).value is None
    measure = Measure.mean("some", [1.0, 2.0, 3.0])
    assert (measure.value, measure.n) == (2.0, 3)
    assert measure.interval == pytest.approx((2 - 4.303 / 3**0.5, 2 + 4.303 / 3**0.5), rel=1e-3)
