"""Checkpoints of the real sizes, in the published layouts, through stock loaders (slow: gigabytes are written)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from conceptlens.hosting.server import HostServer
from conceptlens.tests.host.conftest import write_checkpoint
from conceptlens.tests.host.graphs import edit_node, edited_graph, node, run_to_latent, sampling_graph
from safetensors import safe_open

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostServer]:
    """A host of their own: no other test waits for gigabytes."""
    with HostServer(tmp_path_factory.mktemp("large"), "--cpu", "--cache-classic") as host:
        yield host


@contextmanager
def checkpoint(kind: str, server: HostServer) -> Iterator[str]:
    """One in the host's folder while the context lasts: pytest keeps its folders for three runs."""
    name = write_checkpoint(kind, server.base)
    yield name
    server.post("/free", {"unload_models": True, "free_memory": True})
    (server.base / "models/checkpoints" / name).unlink()


def test_sd1_is_edited_and_sampled(server: HostServer) -> None:
    with checkpoint("sd1", server) as name:
        plain = run_to_latent(server, sampling_graph(steps=2, checkpoint=name))
        edited = run_to_latent(server, edited_graph(steps=2, checkpoint=name))
        undone = run_to_latent(server, sampling_graph(steps=2, checkpoint=name))
    assert (edited - plain).norm() > 1e-3 * plain.norm()
    assert torch.equal(plain, undone)


@pytest.mark.parametrize(
    ("kind", "matrices", "width", "first"),
    [("sd2", 32, 1024, "down_blocks_0_attentions_0"), ("sdxl", 140, 2048, "input_blocks_4_1")],
)
def test_larger_families_are_loaded_and_edited(
    server: HostServer, kind: str, matrices: int, width: int, first: str
) -> None:
    graph = {
        "loader": node("CheckpointLoaderSimple", ckpt_name=f"{kind}.safetensors"),
        "edit": edit_node(),
        "file": node("SaveTIMEEdit", lora=["edit", 1], filename_prefix=kind, folder="loras"),
        "load": node(
            "LoraLoaderModelOnly", model=["loader", 0], lora_name=f"{kind}_00001_.safetensors", strength_model=1.0
        ),
        "report": node("PreviewAny", source=["edit", 2]),
    }
    loading = {name: graph.pop(name) for name in ("load",)}
    with checkpoint(kind, server):
        history = server.run(graph)
        # Loaded by the host's own node; a second edit on top shows that the weights can be read after that.
        again = {"second": edit_node(["load", 0]), "shown": node("PreviewAny", source=["second", 2])}
        server.run({"loader": graph["loader"], **loading, **again})
        assert "lora key not loaded" not in server.log()
    assert f"{matrices} layers" in history["outputs"]["report"]["text"][0]
    with safe_open(history["outputs"]["file"]["text"][0], framework="pt") as file:
        assert len(file.keys()) == 3 * matrices
        down = file.get_slice(f"lora_unet_{first}_transformer_blocks_0_attn2_to_k.lora_down.weight")
        assert down.get_shape()[1] == width
