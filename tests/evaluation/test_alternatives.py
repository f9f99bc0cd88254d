"""What people would do instead of a TIME edit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from conceptlens.core.time_edit.time_edit import EditPair
from conceptlens.evaluation.alternatives import (
    ALPHA,
    ETA,
    RANK,
    SLIDER,
    Bench,
    Difference,
    add_difference,
    applied,
    concept_slider,
    cross_attention_layers,
    fresh_slider,
    slider_state,
    slider_target,
    spread,
)
from conceptlens.evaluation.timed_set import TimedPair
from conceptlens.pipelines.pictures import Sampling
from conceptlens.pipelines.studio import DiffusersStudio
from conceptlens.tests.tiny import tiny_pipeline
from torch import Tensor

EDIT = EditPair("a rose", "a blue rose")
TIMESTEP = torch.tensor(500)


class Pixels:
    """A judge to whom pictures are their pixels."""

    def pictures(self, pictures: Tensor) -> Tensor:
        return pictures.flatten(1)

    def layers(self, pictures: Tensor) -> list[Tensor]:
        return [pictures]

    def texts(self, texts: Sequence[str]) -> Tensor:
        return torch.zeros(len(texts), 1)


@pytest.fixture(scope="module")
def bench() -> Bench:
    pipe = tiny_pipeline("SD 1.x")
    return Bench(pipe, DiffusersStudio(pipe, Sampling(2, 2.5)), Pixels(), [0])


def contexts(bench: Bench) -> list[Tensor]:
    return [bench.studio.encoder.encode([prompt]).clone() for prompt in EDIT[:2]]


def latents() -> Tensor:
    return torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))


def weights(unet: Any) -> dict[str, Tensor]:
    """By the names that they have in a model which never had a LoRA: peft's wrappers stay when it is removed."""
    return {name.replace(".base_layer", ""): weight for name, weight in unet.state_dict().items()}


def random_slider(unet: Any) -> dict[str, Tensor]:
    """A slider that changes something."""
    generator = torch.Generator().manual_seed(2)
    factors = fresh_slider(unet, cross_attention_layers(unet), generator)
    for up, _ in factors.values():
        up.normal_(generator=generator)
    return slider_state(factors, "SD 1.x")


def test_a_sliders_target_is_the_frozen_models(bench: Bench) -> None:
    """The published formula, prompt by prompt, whatever the slider has learnt so far."""
    unet: Any = bench.pipe.unet
    source, destination = contexts(bench)
    with torch.no_grad():
        of_source, of_destination = (unet(latents(), TIMESTEP, one).sample for one in (source, destination))
        with applied(bench.pipe, random_slider(unet), SLIDER):
            assert not torch.allclose(unet(latents(), TIMESTEP, source).sample, of_source, atol=1e-3)
            found = slider_target(unet, latents(), TIMESTEP, source, destination, ETA)
    torch.testing.assert_close(found, (1 - ETA) * of_source + ETA * of_destination, atol=1e-4, rtol=1e-4)


def test_a_slider_is_scaled_by_alpha_over_rank(bench: Bench) -> None:
    unet: Any = bench.pipe.unet
    layers, slider = cross_attention_layers(unet), random_slider(unet)
    assert {name.rsplit(".attn2.")[1] for name in layers} == {"to_q", "to_k", "to_v", "to_out.0"}
    before = unet.get_submodule(layers[0]).weight.clone()
    up, down, _ = list(slider.values())[:3]
    with applied(bench.pipe, slider, SLIDER):
        layer = unet.get_submodule(layers[0])
        change = layer.get_delta_weight(SLIDER)
        assert torch.equal(layer.base_layer.weight, before)
    torch.testing.assert_close(change, ALPHA / RANK * up @ down)


def test_a_slider_learns_and_leaves_the_model_as_it_was(bench: Bench) -> None:
    unet: Any = bench.pipe.unet
    before = {name: weight.clone() for name, weight in weights(unet).items()}
    source, destination = contexts(bench)
    with torch.no_grad():
        plain = unet(latents(), TIMESTEP, source).sample
    slider = concept_slider(bench, EDIT, steps=4)
    assert all(tensor.dtype == torch.float16 for name, tensor in slider.items() if not name.endswith("alpha"))
    with torch.no_grad():
        with applied(bench.pipe, slider):
            target = slider_target(unet, latents(), TIMESTEP, source, destination, ETA)
            learnt = unet(latents(), TIMESTEP, source).sample
        assert (learnt - target).square().mean() < (plain - target).square().mean()
        assert torch.equal(unet(latents(), TIMESTEP, source).sample, plain)
    after = weights(unet)
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], weight) for name, weight in before.items())


def test_a_difference_of_equal_prompts_changes_nothing(bench: Bench) -> None:
    """Bit for bit; one of different prompts does change something."""
    difference = Difference(bench)
    context = bench.studio.encoder.encode(["a tulip"])
    nothing = difference.make(EditPair("a rose", "a rose"))
    assert torch.equal(add_difference(context, nothing), context)
    plain = bench.features("a tulip")
    assert torch.equal(bench.features_of_context(add_difference(context, nothing)), plain)
    assert not torch.equal(bench.features_of_context(add_difference(context, difference.make(EDIT))), plain)


def test_edits_are_spread_over_the_dataset() -> None:
    entries = [TimedPair(EditPair(str(number), "x"), (), ()) for number in range(45)]
    assert [entry.edit.source for entry in spread(entries, 4)] == ["0", "11", "22", "33"]
    assert spread(entries, 99) == entries
