"""A concept explained in one picture."""

from __future__ import annotations

from comfy_api.v0_0_2 import io
from torch import Tensor

from ...core.conceptor.card import Portrait, comparison_card, concept_card
from ...core.conceptor.mixture import TokenMix
from ...core.errors import UserError
from ..connected import Node
from .token_mix import CATEGORY, MIX_TOOLTIP, TokenMixType


class ConceptCard(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptCard",
            display_name="Concept Card",
            category=CATEGORY,
            description="Makes one picture that explains a concept to somebody who has never seen this tool: what the "
            "model draws for it, which words it is made of, and what those words draw.",
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
                    tooltip="Lines of text to add below the pictures, for example the report of Concept Bias.",
                ),
                TokenMixType.Input(
                    "other_mix", optional=True, tooltip="The same concept by another model, to show beside the first."
                ),
                io.Image.Input("other_images", optional=True, tooltip="The other model's pictures of the concept."),
                io.Image.Input(
                    "other_reconstructions", optional=True, tooltip="The other model's pictures of its mix."
                ),
                io.Image.Input("other_words", optional=True, tooltip="The other model's pictures of each word alone."),
                io.String.Input(
                    "models",
                    default="one model\nanother model",
                    multiline=True,
                    optional=True,
                    tooltip="The names of the two models, one on each line.",
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
        other_mix: TokenMix | None = None,
        other_images: Tensor | None = None,
        other_reconstructions: Tensor | None = None,
        other_words: Tensor | None = None,
        models: str = "one model\nanother model",
    ) -> io.NodeOutput:
        portrait = Portrait(mix, images, reconstructions, words)
        if other_mix is None:
            given = {"images": other_images, "reconstructions": other_reconstructions, "words": other_words}
            if others := [name for name, pictures in given.items() if pictures is not None]:
                raise UserError(f"other_{others[0]} is connected without other_mix; connect the other model's mix too.")
            return io.NodeOutput(concept_card(portrait, text.splitlines())[None])
        names = [name.strip() for name in models.splitlines() if name.strip()]
        if len(set(names)) != 2:
            raise UserError(f"models has {len(set(names))} names; write two, each on a line of its own.")
        other = Portrait(other_mix, other_images, other_reconstructions, other_words)
        return io.NodeOutput(comparison_card(dict(zip(names, (portrait, other), strict=True)), text.splitlines())[None])
