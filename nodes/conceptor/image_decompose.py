"""One picture explained in the graph: the fewest words of a mix that still make it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, get_args

import torch
from comfy_api.v0_0_2 import io
from torch import Tensor
from torch.nn.functional import normalize

from ...core.conceptor.mixture import TokenMix
from ...core.conceptor.pruning import Search, bundles_in, explain_picture
from ...core.conceptor.vocabulary import Vocabulary
from ...core.errors import UserError
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
            description="Explains the one picture that a mix makes of a seed: leaves out word after word until the "
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
                seed_input("Of the picture: KSampler's own for this seed."),
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
                    "or of latents without one.",
                ),
                io.Float.Input(
                    "similar",
                    default=0.95,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Words whose text features have a cosine above it leave together, 0 to 1.",
                    advanced=True,
                ),
                io.ClipVision.Input(
                    "clip_vision", optional=True, tooltip="The image encoder by which pictures are compared."
                ),
                io.Conditioning.Input("negative", optional=True, tooltip="The negative prompt; empty without one."),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="The picture that you mean: the node then makes sure that noise and settings give it.",
                ),
                *sampler_choice(optional=True),
                io.Combo.Input(
                    "search",
                    options=list(get_args(Search)),
                    default="bisection",
                    optional=True,
                    tooltip="bisection: first as many words as can go at once, then one by one. published: one by one "
                    "from the start, which takes more pictures.",
                    advanced=True,
                ),
                io.Latent.Input(
                    "latent",
                    optional=True,
                    tooltip="Your own picture as noise, from h-space Invert with eta 0: takes the place of the seed's "
                    "noise, and its size that of width and height.",
                ),
            ],
            outputs=[
                TokenMixType.Output("mix", display_name="mix", tooltip="The words that remain."),
                io.Image.Output("before", display_name="before", tooltip="The picture of the whole mix."),
                io.Image.Output("after", display_name="after", tooltip="The picture of the words that remain."),
                io.Image.Output(
                    "features", display_name="features", tooltip="What each remaining word draws alone, same noise."
                ),
                io.String.Output("report", display_name="report", tooltip="The words in numbers, and the search."),
            ],
        )

    @classmethod
    def validate_inputs(cls, prompt: str | None = None) -> bool | str:
        return checked(host.check_slot, prompt)

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
        encoder, live = host.HostTextEncoder(clip), host.LiveView()
        mix.check_family(encoder.family)
        tables, negative = encoder.tables(), negative or host.encoded(clip, "")
        sampling = host.Sampling(steps, cfg, sampler_name, scheduler, width, height)
        start = None if latent is None else latent["samples"][:1]
        if start is not None:
            host.check_noise(model, start)

        def pictures_of(mixes: Sequence[TokenMix]) -> Tensor:
            prompts = [encoder.conditioning(prompt, some.pseudo_token(tables)) for some in mixes]
            return vae.decode(host.sampled_together(model, prompts, negative, seed, sampling, start))

        def features(pictures: Tensor) -> Tensor:
            if clip_vision is None:
                return normalize(vae.encode(pictures).flatten(1).float(), dim=-1)
            return host.image_features(clip_vision, pictures)

        def told(left: TokenMix, pictures: int) -> None:
            live.say(f"{len(left)} of {len(mix)} words after {pictures} pictures\n{', '.join(left.texts[:12])}")

        before = pictures_of([mix])
        if image is not None:
            _check_same(image, before, features, threshold)
        how_similar = (threshold, bundles_in(vocabulary, mix, similar), search, TOGETHER)
        found, pictures = explain_picture(mix, before, pictures_of, features, *how_similar, told)
        by = (
            "the VAE's latents, for want of an image encoder" if clip_vision is None else "the image encoder's features"
        )
        report = (
            f"{len(found.mix)} of {len(mix)} words remain; their picture is {found.similarity:.3f} like the one "
            f"before (threshold {threshold:g}, by {by}); {found.pictures} pictures were made, by {search}"
        )
        grid = labelled_grid([*pictures[2:]], found.mix.texts)[None]
        return io.NodeOutput(found.mix, pictures[:1], pictures[1:2], grid, f"{report}\n{found.mix.to_text()}")


def _check_same(image: Tensor, before: Tensor, features: Callable[[Tensor], Tensor], threshold: float) -> None:
    """Raises UserError when the picture that is meant is not the one that is made."""
    if image.shape[1:3] != before.shape[1:3]:
        given, made = (f"{picture.shape[2]} x {picture.shape[1]}" for picture in (image, before))
        raise UserError(
            f"The picture has {given} pixels and the one that is made {made}; give the size that it was made with."
        )
    one, other = features(torch.cat([image[:1, ..., :3], before]))
    if (similarity := float(one @ other)) < threshold:
        raise UserError(
            f"The noise and settings give another picture than the connected one (similarity {similarity:.3f}, "
            f"threshold {threshold:g}); give those that it was made with, of this mix in this prompt."
        )
