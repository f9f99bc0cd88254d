"""A small part of the campaign of random graphs (`python -m conceptlens.evaluation robustness`)."""

from __future__ import annotations

from conceptlens.evaluation.robustness import campaign
from conceptlens.hosting.server import HostServer


def test_random_graphs_run_or_end_with_a_sentence(server: HostServer) -> None:
    """And leave the host, its model and its folders as they were."""
    told: list[str] = []
    measures = campaign(server, rights=6, wrongs=30, interrupts=4, repeats=2, seed=7, tell=told.append)
    found = {measure.name.removeprefix("robustness: "): measure.value for measure in measures}
    assert not told
    assert found["interrupted graphs that did not end"] == 0
    assert found["right graphs that ran"] is not None
    assert found["right graphs that ran"] >= 50
    assert found["models changed by graphs"] == found["models changed by interrupted graphs"] == 0
    assert found["files left half written"] == 0
