"""EmojiWorld and FaceWorld in the graph: small trained models whose truth is known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from comfy_api.v0_0_2 import io

from . import host
from .connected import Node

KINDS = {"unet": host.EMOJI_WORLD, "transformer": host.EMOJI_WORLD_TRANSFORMER}
OUTPUTS: list[Any] = [
    io.Model.Output("model", display_name="model", tooltip="The UNet or the transformer, for 128 x 128 pixels."),
    io.Clip.Output("clip", display_name="clip", tooltip="The text encoder: 384 wide, CLIP's tokens."),
    io.Vae.Output("vae", display_name="vae", tooltip="The autoencoder, of TAESD's architecture."),
    io.ClipVision.Output(
        "clip_vision", display_name="clip_vision", tooltip="The image encoder, in one space with the texts."
    ),
]


def _schema(world: str, description: str, search_aliases: list[str], inputs: Sequence[Any] = ()) -> io.Schema:
    return io.Schema(
        node_id=f"{world}Loader",
        display_name=f"{world} Loader",
        category="ConceptLens/Helpers",
        description=description,
        search_aliases=[*search_aliases, "example model", "tiny model", "checkpoint"],
        inputs=list(inputs),
        outputs=OUTPUTS,
    )


class EmojiWorldLoader(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return _schema(
            "EmojiWorld",
            "Loads EmojiWorld, a small Stable Diffusion 1.x-type model that comes with ConceptLens: 128 x "
            "128 pixels, made in a second or two on a CPU, and it is known what every word means in it.",
            ["emoji", "flux", "transformer"],
            [
                io.Combo.Input(
                    "kind",
                    options=list(KINDS),
                    default="unet",
                    optional=True,
                    tooltip="unet: Stable Diffusion 1.x's architecture, and all of EmojiWorld. transformer: Flux.1's, "
                    "which knows a part: 103 things, 15 keywords and the professions.",
                )
            ],
        )

    @classmethod
    def execute(cls, kind: str = "unet") -> io.NodeOutput:
        return io.NodeOutput(*host.load_world(KINDS[kind]))


class FaceWorldLoader(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return _schema(
            "FaceWorld",
            "Loads FaceWorld, a small Stable Diffusion 1.x-type model that comes with ConceptLens: drawn "
            "faces of 128 x 128 pixels whose attributes are known, and which its bottleneck (h-space) carries. It is "
            "made for directions of h-space: glasses, a smile, a cap, hair.",
            ["faces", "avatars", "h-space"],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(*host.load_world(host.FACE_WORLD))
