"""EmojiWorld and FaceWorld in the graph: small trained models whose truth is known."""

from __future__ import annotations

from typing import Any

from comfy_api.v0_0_2 import io

from . import host
from .connected import Node

OUTPUTS: list[Any] = [
    io.Model.Output("model", display_name="model", tooltip="The UNet, for 128 x 128 pixels."),
    io.Clip.Output("clip", display_name="clip", tooltip="The text encoder: 384 wide, CLIP's tokens."),
    io.Vae.Output("vae", display_name="vae", tooltip="The autoencoder, of TAESD's architecture."),
    io.ClipVision.Output(
        "clip_vision", display_name="clip_vision", tooltip="The image encoder, in one space with the texts."
    ),
]


class EmojiWorldLoader(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EmojiWorldLoader",
            display_name="EmojiWorld Loader",
            category="ConceptLens/Helpers",
            description="Loads EmojiWorld, a small Stable Diffusion 1.x-type model that comes with ConceptLens: 128 x "
            "128 pixels, made in a second or two on a CPU, and it is known what every word means in it.",
            search_aliases=["emoji", "example model", "tiny model", "checkpoint"],
            inputs=[],
            outputs=OUTPUTS,
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(*host.load_world(host.EMOJI_WORLD))


class FaceWorldLoader(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FaceWorldLoader",
            display_name="FaceWorld Loader",
            category="ConceptLens/Helpers",
            description="Loads FaceWorld, a small Stable Diffusion 1.x-type model that comes with ConceptLens: drawn "
            "faces of 128 x 128 pixels whose attributes are known, and which its bottleneck (h-space) carries. It is "
            "made for directions of h-space: glasses, a smile, a cap, hair.",
            search_aliases=["faces", "avatars", "h-space", "example model", "tiny model", "checkpoint"],
            inputs=[],
            outputs=OUTPUTS,
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(*host.load_world(host.FACE_WORLD))
