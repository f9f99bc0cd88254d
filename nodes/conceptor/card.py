"""A concept explained in one picture."""

from __future__ import annotations

from comfy_api.v0_0_2 import io
from torch import Tensor

from ...core.conceptor.card import concept_card
from ...core.conceptor.mixture import TokenMix
from ..connected import Node
from .token_mix import CATEGORY, MIX_TOOLTIP, TokenMixType


class ConceptCard(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptCard",
            display_name="Concept Card",
            category=CATEGORY,
            description="One picture that explains a concept to somebody who has never seen this tool: what the model "
            "draws for it, the words that it is made of, and what those draw.",
            search_aliases=["report", "summary", "poster", "explain concept"],
            inputs=[
                TokenMixType.Input("mix", tooltip=MIX_TOOLTIP),
                io.Image.Input(
                    "images", optional=True, tooltip="Pictures of the concept itself: images of Concept Decompose."
                ),
                io.Image.Input(
                    "reconstructions",
                    optional=True,
                    tooltip="Pictures of the mix: reconstructions of Concept Decompose.",
                ),
                io.Image.Input(
                    "words", optional=True, tooltip="A picture of each word alone: images of Token Mix Gallery."
                ),
                io.String.Input(
                    "text",
                    default="",
                    multiline=True,
                    optional=True,
                    tooltip="What else shall stand below, in lines: the report of Concept Bias, say.",
                ),
            ],
            outputs=[io.Image.Output("image", display_name="image", tooltip="The card.")],
        )

    @classmethod
    def execute(
        cls,
        mix: TokenMix,
        images: Tensor | None = None,
        reconstructions: Tensor | None = None,
        words: Tensor | None = None,
        text: str = "",
    ) -> io.NodeOutput:
        return io.NodeOutput(concept_card(mix, images, reconstructions, words, text.splitlines())[None])
