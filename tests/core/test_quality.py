"""What an explanation may cost, and numbers that override it."""

from __future__ import annotations

from typing import get_args

import pytest
from conceptlens.core.conceptor.decomposition import phases
from conceptlens.core.conceptor.fit import Settings
from conceptlens.core.conceptor.quality import QUALITIES, Quality

MOST: dict[Quality, int] = {"quick": 4_000, "thorough": 12_000, "published": 30_000}  # evaluations


@pytest.mark.parametrize("quality", get_args(Quality))
def test_no_explanation_takes_more_evaluations_than_its_quality_allows(quality: Quality) -> None:
    """With guidance, an image encoder, and a concept that no words name, from its pictures to its reconstructions."""
    preset = QUALITIES[quality]
    step = 2 * preset.sampling_steps
    took = phases(preset.settings, 33_000, preset.num_images, preset.validation_images, shown=step, with_features=True)
    made = (preset.num_images + 2 * preset.validation_images) * step
    assert 0.5 * MOST[quality] < made + sum(took.values()) <= MOST[quality]


def test_numbers_win_over_a_quality() -> None:
    """As a saved graph has them; none and 0 leave the quality's own."""
    saved = {"method": "shares", "steps": 500, "batch_size": 6, "learning_rate": 1e-3, "validate_every": 50}
    preset = QUALITIES["quick"].with_numbers({**saved, "sparsity": 0.0, "num_images": 100, "sampling_steps": 50})
    assert preset.settings == Settings("shares", sparsity=0.0, racers=64, draws=12)
    assert (preset.num_images, preset.sampling_steps, preset.validation_images) == (100, 50, 8)
    assert preset.sampler == "ddim"
    assert QUALITIES["thorough"].with_numbers({"steps": 0, "num_images": None, "method": None}) == QUALITIES["thorough"]
