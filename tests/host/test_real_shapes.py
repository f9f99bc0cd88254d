"""Checkpoints of the real sizes, in the published layouts, through stock loaders (slow: gigabytes are written)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conceptlens.harness.host_server import HostServer
from conceptlens.tests.host.conftest import write_checkpoint
from conceptlens.tests.host.graphs import edit_node, edited_graph, node, run_to_latent, sampling_graph
from safetensors import safe_open

pytestmark = pytest.mark.slow


def test_sd1_is_edited_and_sampled(tmp_path: Path) -> None:
    checkpoint = write_checkpoint("sd1", tmp_path)
    with HostServer(tmp_path, "--cpu", "--cache-classic") as server:
        plain = run_to_latent(server, sampling_graph(steps=2, checkpoint=checkpoint))
        edited = run_to_latent(server, edited_graph(steps=2, checkpoint=checkpoint))
        undone = run_to_latent(server, sampling_graph(steps=2, checkpoint=checkpoint))
    assert (edited - plain).norm() > 1e-3 * plain.norm()
    assert torch.equal(plain, undone)
    (tmp_path / "models/checkpoints" / checkpoint).unlink()  # pytest keeps its folders for three runs


@pytest.mark.parametrize(
    ("kind", "matrices", "width", "first"),
    [("sd2", 32, 1024, "down_blocks_0_attentions_0"), ("sdxl", 140, 2048, "input_blocks_4_1")],
)
def test_larger_families_are_loaded_and_edited(
    tmp_path: Path, kind: str, matrices: int, width: int, first: str
) -> None:
    checkpoint = write_checkpoint(kind, tmp_path)
    graph = {
        "loader": node("CheckpointLoaderSimple", ckpt_name=checkpoint),
        "edit": edit_node(),
        "file": node("SaveTIMEEdit", lora=["edit", 1], filename_prefix=kind, folder="loras"),
        "load": node(
            "LoraLoaderModelOnly", model=["loader", 0], lora_name=f"{kind}_00001_.safetensors", strength_model=1.0
        ),
        "report": node("PreviewAny", source=["edit", 2]),
    }
    loading = {name: graph.pop(name) for name in ("load",)}
    with HostServer(tmp_path, "--cpu") as server:
        history = server.run(graph)
        # Loaded by the host's own node; a second edit on top shows that the weights can be read after that.
        again = {"second": edit_node(["load", 0]), "shown": node("PreviewAny", source=["second", 2])}
        server.run({"loader": graph["loader"], **loading, **again})
        assert "lora key not loaded" not in server.log()
    assert f"{matrices} projections" in history["outputs"]["report"]["text"][0]
    with safe_open(history["outputs"]["file"]["text"][0], framework="pt") as file:
        assert len(file.keys()) == 3 * matrices
        down = file.get_slice(f"lora_unet_{first}_transformer_blocks_0_attn2_to_k.lora_down.weight")
        assert down.get_shape()[1] == width
    (tmp_path / "models/checkpoints" / checkpoint).unlink()
