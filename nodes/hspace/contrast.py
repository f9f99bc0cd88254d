"""Directions from pictures that differ in one thing: two sets, or one set parted by text or by hand."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.v0_0_2 import io
from torch import Tensor

from ...core.conceptor.vocabulary import zero_shot_features
from ...core.errors import UserError
from ...core.hspace.contrast import contrast, contrast_by_text
from ...core.hspace.parsing import counted, two_texts
from ...core.hspace.samples import HSpaceSamples
from .. import host
from ..connected import Node
from ..inputs import checked
from .directions import CATEGORY, FOUND, SamplesType


class HSpaceContrast(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HSpaceContrast",
            display_name="h-space Contrast",
            category=CATEGORY,
            description="Finds the direction from one set of pictures to another: from not smiling to smiling.",
            search_aliases=["semantic direction", "difference", "attribute", "bottleneck"],
            inputs=[
                SamplesType.Input("positive_samples", tooltip="Pictures that show what the direction should add."),
                SamplesType.Input("negative_samples", tooltip="Pictures without it, drawn in the same way."),
            ],
            outputs=[FOUND],
        )

    @classmethod
    def execute(cls, positive_samples: HSpaceSamples, negative_samples: HSpaceSamples) -> io.NodeOutput:
        return io.NodeOutput(contrast(positive_samples, negative_samples))


class HSpaceContrastByText(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HSpaceContrastByText",
            display_name="h-space Contrast by Text",
            category=CATEGORY,
            description="Ranks pictures by how much better one text fits them than another, and takes the direction "
            "from one end to the other.",
            search_aliases=["semantic direction", "CLIP", "ranking", "attribute", "bottleneck"],
            inputs=[
                SamplesType.Input("samples", tooltip="From h-space Sample."),
                io.Image.Input("images", tooltip="The pictures of the same h-space Sample."),
                io.ClipVision.Input("clip_vision", tooltip="The image encoder that shares a space with clip."),
                io.Clip.Input("clip", tooltip="The text encoder."),
                io.String.Input(
                    "positive_text",
                    default="a smiling face",
                    dynamic_prompts=True,
                    tooltip="What the direction should add.",
                ),
                io.String.Input(
                    "negative_text",
                    default="a sad face",
                    dynamic_prompts=True,
                    tooltip="What it leads away from.",
                ),
                io.Int.Input("count", default=10, min=1, max=5000, tooltip="Pictures at each end, 1 to 5000."),
                io.String.Input(
                    "balance",
                    default="",
                    tooltip="Two texts with a comma between them: a man, a woman. Both ends then have the same number "
                    "of pictures of each, so that the direction does not lead from one to the other. Empty: no "
                    "balance.",
                    advanced=True,
                ),
            ],
            outputs=[
                FOUND,
                io.Image.Output(
                    "ranked",
                    display_name="ranked",
                    tooltip="The pictures of the positive end, then those of the negative end.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(
        cls, positive_text: str | None = None, negative_text: str | None = None, balance: str | None = None
    ) -> bool | str:
        texts = [text for text in (positive_text, negative_text) if text is not None]
        if not all(text.strip() for text in texts):
            return "Both texts are needed: write what the direction shall bring, and what it leads away from."
        return checked(two_texts, balance)

    @classmethod
    def execute(
        cls,
        samples: HSpaceSamples,
        images: Tensor,
        clip_vision: Any,
        clip: Any,
        positive_text: str,
        negative_text: str,
        count: int,
        balance: str,
    ) -> io.NodeOutput:
        if len(images) != len(samples):
            raise UserError(
                f"{len(images)} pictures came with {len(samples)} samples; connect both outputs of one h-space Sample."
            )
        features = host.image_features(clip_vision, images).cpu()
        encoder = host.HostTextEncoder(clip)
        with torch.inference_mode(False):
            wanted = [positive_text, negative_text, *two_texts(balance)]
            texts = zero_shot_features(encoder, encoder.towers()[-1], wanted, features)
            found, high, low = contrast_by_text(samples, features, texts[:2], texts[2:], count)
        return io.NodeOutput(found, images[high + low])


class HSpaceContrastByChoice(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HSpaceContrastByChoice",
            display_name="h-space Contrast by Choice",
            category=CATEGORY,
            description="Finds the direction from some pictures of a set to others, which you name by their numbers.",
            search_aliases=["semantic direction", "selection", "attribute", "bottleneck"],
            inputs=[
                SamplesType.Input("samples", tooltip="From h-space Sample."),
                io.String.Input(
                    "positive_pictures",
                    default="0",
                    tooltip="Numbers of the pictures that show what the direction should add, counted from 0: 0, 3, 5",
                ),
                io.String.Input("negative_pictures", default="1", tooltip="Numbers of the pictures without it: 1, 2"),
            ],
            outputs=[FOUND],
        )

    @classmethod
    def validate_inputs(cls, positive_pictures: str | None = None, negative_pictures: str | None = None) -> bool | str:
        try:
            sides = [counted(text) for text in (positive_pictures, negative_pictures) if text is not None]
        except UserError as error:
            return str(error)
        if not all(sides):
            return "A contrast needs pictures on both sides; name at least one for each."
        return True

    @classmethod
    def execute(cls, samples: HSpaceSamples, positive_pictures: str, negative_pictures: str) -> io.NodeOutput:
        sides = (samples.chosen(counted(text)) for text in (positive_pictures, negative_pictures))
        return io.NodeOutput(contrast(*sides))
