"""What a studio says of itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conceptlens.core.time_edit.lora import lora_state_dict
from conceptlens.core.time_edit.time_edit import EditPair, edit_model
from conceptlens.pipelines.adapter import DiffusersDenoiser, DiffusersTextEncoder
from conceptlens.pipelines.pictures import Sampling
from conceptlens.pipelines.studio import DiffusersStudio
from conceptlens.tests.tiny import tiny_pipeline
from diffusers import DDIMScheduler


@pytest.fixture(scope="module")
def pipe() -> Any:
    return tiny_pipeline("SD 1.x")


def test_a_fingerprint_knows_all_that_an_explanation_rests_on(pipe: Any) -> None:
    """A killed fit of another model, edit, schedule, picture size or VAE is not taken up."""

    def seen(**sampling: Any) -> str:
        return DiffusersStudio(pipe, Sampling(**sampling)).fingerprint

    found = [seen(), seen(num_inference_steps=3), seen(size=128)]
    assert seen() == found[0]
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, beta_end=0.02)
    found.append(seen())
    with torch.no_grad():
        pipe.unet.conv_in.bias[0] += 1e-3
        found.append(seen())
        next(pipe.vae.parameters())[0] += 1e-3
        found.append(seen())
    denoiser = DiffusersDenoiser(pipe)
    edited = edit_model(DiffusersTextEncoder(pipe), denoiser, [EditPair("a rose", "a blue rose")])
    denoiser.apply(lora_state_dict(edited.factors, denoiser.family))
    found.append(seen())
    pipe.set_adapters(["time_edit"], [0.5])
    found.append(seen())
    assert len(set(found)) == len(found)
