"""Graphs in the host's API format, and the latents that they save."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
import torch
from conceptlens.hosting.server import Graph, HostServer
from safetensors.torch import load_file
from torch import Tensor

Link = list[Any]
CHECKPOINT = "sd1-small.safetensors"
SETTINGS: dict[str, Any] = {
    "regularization": 0.1,
    "edit_keys": True,
    "augment": True,
    "strength": 1.0,
    "preserve": "",
    "rank": 0,
}
EDIT = {"source": "a pack of roses", "destination": "a pack of blue roses", **SETTINGS}


def node(kind: str, /, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def sampling_graph(
    extra: Graph | None = None, model: Link | None = None, seed: int = 1, steps: int = 3, checkpoint: str = CHECKPOINT
) -> Graph:
    """Stock nodes from checkpoint to a saved latent; `extra` nodes may stand before the sampler's `model`."""
    sampler = {"seed": seed, "steps": steps, "cfg": 5.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    links = {"model": model or ["loader", 0], "positive": ["positive", 0], "negative": ["negative", 0]}
    return {
        "loader": node("CheckpointLoaderSimple", ckpt_name=checkpoint),
        "positive": node("CLIPTextEncode", clip=["loader", 1], text="a pack of roses"),
        "negative": node("CLIPTextEncode", clip=["loader", 1], text=""),
        "latent": node("EmptyLatentImage", width=64, height=64, batch_size=1),
        "sampler": node("KSampler", latent_image=["latent", 0], **links, **sampler),
        "save": node("SaveLatent", samples=["sampler", 0], filename_prefix="latent"),
        **(extra or {}),
    }


def edit_node(model: Link | None = None, /, **changes: Any) -> dict[str, Any]:
    return node("TIMEEditModel", model=model or ["loader", 0], clip=["loader", 1], **{**EDIT, **changes})


def edited_graph(seed: int = 1, steps: int = 3, checkpoint: str = CHECKPOINT, **changes: Any) -> Graph:
    return sampling_graph({"edit": edit_node(**changes)}, ["edit", 0], seed, steps, checkpoint)


def executed_nodes(history: dict[str, Any], graph: Graph) -> set[str]:
    """The nodes that a run computed, those taken from the host's cache left out."""
    cached = [message for name, message in history["status"]["messages"] if name == "execution_cached"]
    return set(graph) - {name for message in cached for name in message["nodes"]}


def saved_latent(server: HostServer, history: dict[str, Any]) -> Tensor:
    saved = history["outputs"]["save"]["latents"][0]
    return load_file(server.base / "output" / saved["subfolder"] / saved["filename"])["latent_tensor"]


def run_to_latent(server: HostServer, graph: Graph) -> Tensor:
    """The latent that the graph's sampler computed anew: a result from the host's cache would prove nothing."""
    history = server.run(graph)
    assert "sampler" in executed_nodes(history, graph)
    latent = saved_latent(server, history)
    assert torch.isfinite(latent).all()
    return latent


async def watch(server: HostServer, graph: Graph, interrupt_at: str | None = None) -> list[dict[str, Any]]:
    """Queues a graph and returns the host's websocket messages; presses Cancel in `interrupt_at` after two steps."""
    messages: list[dict[str, Any]] = []
    address = f"{server.address}/ws?clientId={server.client}"
    async with aiohttp.ClientSession() as session, session.ws_connect(address) as socket:
        prompt_id = server.queue(graph)
        async for message in socket:
            if message.type != aiohttp.WSMsgType.TEXT:
                continue
            event = json.loads(message.data)
            messages.append(event)
            data = event["data"]
            if event["type"] == "progress" and data["node"] == interrupt_at and data["value"] >= 2:
                server.post("/interrupt", {})
                interrupt_at = None
            ends = ("execution_success", "execution_error", "execution_interrupted")
            if event["type"] in ends and data.get("prompt_id") == prompt_id:
                break
    return messages
