"""One picture explained in the graph: the fewest words of a mix that still make it."""

from __future__ import annotations

from typing import Any, get_args

from comfy_api.v0_0_2 import io
from torch import Tensor

from ...core.conceptor.mixture import TokenMix
from ...core.conceptor.pruning import Search, bundles_in, explain_picture
from ...core.conceptor.vocabulary import Vocabulary
from ...core.model.template import Template
from ...core.pictures.grid import labelled_grid
from .. import host
from ..connected import Node
from ..inputs import cfg_input, checked, model_inputs, sampler_choice, seed_input, size_inputs
from .token_mix import CATEGORY, MIX_TOOLTIP, TokenMixType
from .vocabulary import VocabularyType

TOGETHER = 4  # candidates that are drawn in one batch


class ImageDecompose(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImageDecompose",
            display_name="Image Decompose",
            category=CATEGORY,
            description="Explains the one picture that a mix makes from a seed: leaves out word after word until the "
            "picture would change.",
            search_aliases=["explain picture", "conceptor", "single image", "prune"],
            inputs=[
                *model_inputs(),
                VocabularyType.Input("vocabulary", tooltip="From Vocabulary Embed: it says which words are similar."),
                TokenMixType.Input("mix", tooltip=MIX_TOOLTIP),
                io.String.Input(
                    "prompt",
                    default="a photo of a <>",
                    dynamic_prompts=True,
                    tooltip="The prompt of the picture, with <> for the mix.",
                ),
                seed_input("The seed of the picture: the one that KSampler makes from it."),
                io.Int.Input("steps", default=25, min=1, max=1000, tooltip="Sampling steps, 1 to 1000."),
                cfg_input(),
                *size_inputs(),
                io.Float.Input(
                    "threshold",
                    default=0.93,
                    min=0.01,
                    max=1.0,
                    step=0.01,
                    tooltip="How similar the picture has to stay, up to 1: the cosine of the image encoder's features, "
                    "or of the latents if no encoder is connected.",
                ),
                io.Float.Input(
                    "similar",
                    default=0.95,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Words whose text features have a cosine above this value are left out together, 0 to 1.",
                    advanced=True,
                ),
                io.ClipVision.Input(
                    "clip_vision", optional=True, tooltip="The image encoder that compares the pictures."
                ),
                io.Conditioning.Input(
                    "negative", optional=True, tooltip="The negative prompt. Empty if nothing is connected."
                ),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="The picture that you mean. The node then checks that noise and settings reproduce it.",
                ),
                *sampler_choice(optional=True),
                io.Combo.Input(
                    "search",
                    options=list(get_args(Search)),
                    default="bisection",
                    optional=True,
                    tooltip="bisection: first drops as many words as can go at once, then one by one. published: one "
                    "by one from the start, which makes more pictures.",
                    advanced=True,
                ),
                io.Latent.Input(
                    "latent",
                    optional=True,
                    tooltip="Your own picture as noise, from h-space Invert with eta 0. It replaces the seed's noise, "
                    "and its size replaces width and height.",
                ),
            ],
            outputs=[
                TokenMixType.Output("mix", display_name="mix", tooltip="The words that remain."),
                io.Image.Output("before", display_name="before", tooltip="The picture of the whole mix."),
                io.Image.Output("after", display_name="after", tooltip="The picture of the words that remain."),
                io.Image.Output(
                    "features",
                    display_name="features",
                    tooltip="What each remaining word draws alone, from the same noise.",
                ),
                io.String.Output("report", display_name="report", tooltip="The words in numbers, and the search."),
            ],
        )

    @classmethod
    def validate_inputs(cls, prompt: str | None = None) -> bool | str:
        return checked(Template.of_several, prompt, host.SLOT)

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        vae: Any,
        vocabulary: Vocabulary,
        mix: TokenMix,
        prompt: str,
        seed: int,
        steps: int,
        cfg: float,
        width: int,
        height: int,
        threshold: float,
        similar: float,
        clip_vision: Any = None,
        negative: Any = None,
        image: Tensor | None = None,
        sampler_name: str = "euler",
        scheduler: str = "normal",
        search: Search = "bisection",
        latent: dict[str, Tensor] | None = None,
    ) -> io.NodeOutput:
        encoder, live = host.mix_encoder_of(clip), host.LiveView()
        encoder.check_mix(mix)
        start = None if latent is None else latent["samples"][:1]
        if start is not None:
            host.check_noise(model, start)
        sampling = host.Sampling(negative or host.encoded(clip, ""), steps, cfg, width, height, sampler_name, scheduler)
        template = Template.of_several(prompt, host.SLOT)
        noise = host.HostFixedNoise(model, encoder, vae, clip_vision, template, seed, sampling, start)

        def told(left: TokenMix, pictures: int) -> None:
            live.say(f"{len(left)} of {len(mix)} words after {pictures} pictures\n{', '.join(left.texts[:12])}")

        explained = explain_picture(
            mix,
            noise,
            threshold=threshold,
            bundles=bundles_in(vocabulary, mix, similar),
            search=search,
            together=TOGETHER,
            watch=told,
            meant=image,
        )
        left = explained.found.mix
        grid = labelled_grid([*explained.alone], left.texts)[None]
        report = f"{explained.report}\n{left.to_text()}"
        return io.NodeOutput(left, explained.before, explained.after, grid, report)
