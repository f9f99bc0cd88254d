"""What comes empty through a link, or of another model, is one sentence before anything is done."""

from __future__ import annotations

import asyncio
import inspect
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conceptlens.core.errors import UserError
from conceptlens.hosting.server import Graph, GraphError, HostServer
from conceptlens.tests.host.graphs import CHECKPOINT, edit_node, node
from conceptlens.tests.host.test_decompose import decompose_graph
from conceptlens.tests.tiny import tiny_pipeline
from safetensors.torch import load_file, save_file

pytestmark = pytest.mark.usefixtures("host_modules")
ALL = {"MODEL", "CLIP", "VAE", "CLIP_VISION", "CONDITIONING", "IMAGE", "MASK", "LATENT", "SIGMAS"}
NOTHING: list[tuple[str, Any]] = [
    *((kind, None) for kind in sorted(ALL)),
    ("VAE", SimpleNamespace(first_stage_model=None)),
    ("CLIP", SimpleNamespace(cond_stage_model=None)),
    ("CONDITIONING", []),
    ("IMAGE", torch.zeros(0, 64, 64, 3)),
    ("MASK", torch.zeros(0, 64, 64)),
    ("LATENT", {}),
    ("SIGMAS", torch.zeros(0)),
]


@pytest.fixture(scope="module")
def nodes(host_modules: None) -> list[Any]:  # noqa: ARG001
    from conceptlens.nodes import ConceptLensExtension

    return asyncio.run(ConceptLensExtension().get_node_list())


@pytest.fixture(scope="module")
def world(host_modules: None) -> tuple[Any, Any, Any, Any]:  # noqa: ARG001
    from conceptlens.nodes import host

    return host.load_world(host.EMOJI_WORLD)


@pytest.mark.parametrize(("kind", "value"), NOTHING, ids=[f"{kind}-{type(value).__name__}" for kind, value in NOTHING])
def test_an_empty_input_is_named_by_every_node(nodes: list[Any], kind: str, value: Any) -> None:
    said = 0
    for each in nodes:
        schema = each.GET_SCHEMA()
        for one in schema.inputs:
            if one.get_io_type() == kind and not schema.is_input_list:
                with pytest.raises(UserError, match=rf"^The input {one.id} is empty: .*; .*\.$"):
                    each.execute(**{one.id: value})
                said += 1
    assert said


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_what_is_no_number_is_named(nodes: list[Any], number: float) -> None:
    for each in nodes:
        for one in each.GET_SCHEMA().inputs:
            if one.get_io_type() == "FLOAT":
                with pytest.raises(UserError, match=f"^The input {one.id} is {number}; give a finite number"):
                    each.execute(**{one.id: number})


def test_inputs_that_validation_names_keep_the_hosts_checks(nodes: list[Any]) -> None:
    from comfy_api.internal import first_real_override

    checked = set()
    for each in nodes:
        if first_real_override(each, "validate_inputs") is None:
            continue
        named = inspect.getfullargspec(each.validate_inputs).args
        for one in each.GET_SCHEMA().inputs:
            options, low = (getattr(one, part, None) for part in ("options", "min"))
            if one.id in named and (options or low is not None):
                for wrong in ("another",) if low is None else (low - 1, float("nan")):
                    assert one.id in str(each.validate_inputs(**{one.id: wrong})), (each, one.id)
                checked.add((each.__name__, one.id))
    assert ("ConceptDecompose", "validation") in checked
    assert ("HSpaceDirection", "start_percent") in checked


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"vae": SimpleNamespace(latent_channels=16)}, "latents of 4 channels, the VAE reads 16; take both"),
        ({"latent_image": {"samples": torch.ones(1, 16, 8, 8)}}, "latent_image holds latents of shape 1 x 16 x 8 x 8"),
        ({"latent_image": {"samples": torch.ones(1, 4, 2, 8, 8)}}, "of shape 1 x 4 x 2 x 8 x 8; the model"),
        ({"latent_image": {"samples": torch.ones(0, 4, 8, 8)}}, "of shape 0 x 4 x 8 x 8; the model"),
        ({"latent_image": {"samples": [1]}}, "of shape list; the model"),
    ],
)
def test_parts_of_another_model_are_named(world: tuple, parts: dict[str, Any], said: str) -> None:
    from conceptlens.nodes.conceptor.image_decompose import ImageDecompose
    from conceptlens.nodes.hspace.process import HSpaceInvert

    which = HSpaceInvert if "latent_image" in parts else ImageDecompose
    with pytest.raises(UserError, match=said):
        which.execute(model=world[0], **parts)


def test_a_text_encoder_of_another_model_is_named(world: tuple) -> None:
    from conceptlens.nodes.conceptor.decompose import ConceptDecompose
    from conceptlens.tests.host.twin import twin_model

    model = twin_model(tiny_pipeline("SD 1.x"), "SD 1.x")
    with pytest.raises(UserError, match="the text encoder gives width 384; take both from the same checkpoint"):
        decompose: Any = ConceptDecompose
        decompose.execute(model=model, clip=world[1])


def test_a_picture_is_no_noise(world: tuple) -> None:
    from conceptlens.nodes import host

    model, _, vae, _ = world
    picture = vae.encode(torch.rand(1, 128, 128, 3, generator=torch.Generator().manual_seed(0)))
    for latent in (picture, torch.zeros(1, 4, 16, 16)):
        with pytest.raises(UserError, match="holds a picture or nothing, but no noise"):
            host.check_noise(model, latent)
    noise = 14.6 * torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    host.check_noise(model, model.get_model_object("latent_format").process_out(noise))


@pytest.mark.parametrize("part", ["clip", "vae"])
def test_a_checkpoint_without_a_part_is_told_of_before_anything_is_drawn(server: HostServer, part: str) -> None:
    folder = server.base / "models/checkpoints"
    lacks = {"clip": "cond_stage_model.", "vae": "first_stage_model."}[part]
    tensors = {name: tensor for name, tensor in load_file(folder / CHECKPOINT).items() if not name.startswith(lacks)}
    save_file(tensors, folder / f"no-{part}.safetensors")
    loader = node("CheckpointLoaderSimple", ckpt_name=f"no-{part}.safetensors")
    graph: Graph = {"loader": loader, "edit": edit_node(), "shown": node("PreviewAny", source=["edit", 2])}
    if part == "vae":
        graph = {**decompose_graph(), "loader": loader}
        graph["words"]["inputs"] |= {"templates": "none", "words": "rose, car, dog, cat"}
        del graph["found"]["inputs"]["clip_vision"]
    with pytest.raises(GraphError, match=f"The input {part} is empty: the checkpoint behind it has no"):
        server.run(graph)
