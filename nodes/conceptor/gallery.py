"""The words of a mix as pictures."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.v0_0_2 import io, ui
from torch import Tensor

from ...core.conceptor.mixture import TokenMix
from ...core.errors import UserError
from ...core.model.template import Template
from ...core.pictures.grid import labelled_grid
from .. import host
from ..connected import Node
from ..inputs import checked, model_inputs, sampler_inputs, seed_input, size_inputs
from .token_mix import CATEGORY, MIX_TOOLTIP, TokenMixType


class TokenMixGallery(Node):
    reads = "mixes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TokenMixGallery",
            display_name="Token Mix Gallery",
            category=CATEGORY,
            description="Shows what each word of a mix looks like alone: one picture per word, all from the same "
            "noise. Token Mix Conditioning shows them beside its words.",
            search_aliases=["words", "tokens", "contact sheet", "concept"],
            has_intermediate_output=True,  # a page that is opened anew gets the pictures, though none is drawn
            inputs=[
                *model_inputs(),
                TokenMixType.Input("mix", tooltip=MIX_TOOLTIP),
                io.String.Input(
                    "prompt",
                    default="a photo of a {}",
                    tooltip="The prompt of each picture, with {} in place of the word. Write no choices in braces and "
                    "no comments in this box.",
                ),
                io.Int.Input("top", default=8, min=1, max=100, tooltip="How many words are drawn, 1 to 100."),
                *sampler_inputs(),
                seed_input(
                    "The seed of the noise, which is the same for all words: the noise that KSampler makes from it."
                ),
                *size_inputs(),
                io.Conditioning.Input(
                    "negative", optional=True, tooltip="The negative prompt. Empty if nothing is connected."
                ),
            ],
            outputs=[
                io.Image.Output("image", display_name="image", tooltip="All pictures, each under its word."),
                io.Image.Output(
                    "images", display_name="images", tooltip="One picture per word, the largest coefficient first."
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, prompt: str | None = None) -> bool | str:
        return checked(Template.of, prompt)

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        vae: Any,
        mix: TokenMix,
        prompt: str,
        top: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        seed: int,
        width: int,
        height: int,
        negative: Any = None,
    ) -> io.NodeOutput:
        encoder, template = host.mix_encoder_of(clip), Template.of(prompt)
        shown, live = mix.top(top), host.LiveView()
        encoder.check_mix(shown)
        if not len(shown):
            raise UserError("The mix is empty; there is no word to draw.")
        negative = negative or host.encoded(clip, "")
        sampling = host.Sampling(negative, steps, cfg, width, height, sampler_name, scheduler)
        pictures: list[Tensor] = []
        for alone in shown.singles():
            live.say(alone.texts[0])
            pictures.append(host.drawn(model, vae, encoder.conditioning(template, alone), seed, sampling))
            live.bar(len(pictures), len(shown), pictures[-1])
        grid = labelled_grid(pictures, shown.texts)[None]
        images = torch.stack(pictures)
        preview = ui.PreviewImage(images, cls=cls).as_dict()
        return io.NodeOutput(grid, images, ui={**preview, "tokens": list(shown.ids)})  # in the order of the pictures
