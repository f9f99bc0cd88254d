"""A prompt as pictures of the text encoder's layers."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.v0_0_2 import io
from torch import Tensor

from ...core.pictures.grid import labelled_grid
from .. import host
from ..connected import Node
from ..inputs import model_inputs, sampler_inputs, seed_input, size_inputs
from .token_mix import CATEGORY


class LayerLens(Node):
    reads = "layers"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LayerLens",
            display_name="Layer Lens",
            category=CATEGORY,
            description="How the meaning of a prompt is built up: one picture for each layer of the text encoder, all "
            "from the same noise (Diffusion Lens).",
            search_aliases=["diffusion lens", "clip skip", "text encoder", "layers", "interpret"],
            inputs=[
                *model_inputs(),
                io.String.Input(
                    "prompt",
                    default="",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="The prompt. Weights, embeddings and everything else work as in CLIP Text Encode.",
                ),
                io.Int.Input(
                    "pictures",
                    default=6,
                    min=2,
                    max=100,
                    tooltip="How many layers are drawn, 2 to 100: the first, the last, and others evenly between them. "
                    "All of them if there are fewer.",
                ),
                *sampler_inputs(),
                seed_input("The seed of the noise, the same for all layers: the noise that KSampler makes from it."),
                *size_inputs(),
                io.Conditioning.Input("negative", optional=True, tooltip="The negative prompt; empty without one."),
            ],
            outputs=[
                io.Image.Output(
                    "image", display_name="image", tooltip="All pictures in one row, each under its layer."
                ),
                io.Image.Output("images", display_name="images", tooltip="One picture per layer, the first one first."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        vae: Any,
        prompt: str,
        pictures: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        seed: int,
        width: int,
        height: int,
        negative: Any = None,
    ) -> io.NodeOutput:
        layers, live = host.layers_of(clip, pictures), host.LiveView()
        # All before the first picture: model and text encoder may have to make room for each other.
        positives = [host.encoded(layer.clip, prompt) for layer in layers]
        negative = negative or host.encoded(layers[-1].clip, "")
        sampling = host.Sampling(negative, steps, cfg, width, height, sampler_name, scheduler)
        drawn: list[Tensor] = []
        for layer, positive in zip(layers, positives, strict=True):
            live.say(layer.label)
            drawn.append(host.drawn(model, vae, positive, seed, sampling))
            live.bar(len(drawn), len(layers), drawn[-1])
        row = labelled_grid(drawn, [layer.label for layer in layers], len(drawn))
        return io.NodeOutput(row[None], torch.stack(drawn))
