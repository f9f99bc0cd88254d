"""Bias in the graph: how a mix and its pictures are balanced between groups of words, and another balance."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.v0_0_2 import io

from ...core.conceptor.bias import Near, Pair, balance, balanced, nearness, pairs_in, word_groups
from ...core.conceptor.mixture import TokenMix
from ...core.conceptor.shares import Share, check_judge, shares_of_pictures
from ...core.errors import UserError
from ...core.model.studio import seeds_from
from ...core.model.template import Template
from ...core.pictures.charts import share_chart
from .. import host
from ..connected import Node
from ..inputs import checked, group_inputs, picture_inputs
from .token_mix import CATEGORY, MIX_TOOLTIP, TokenMixType


def _widening_inputs(why: str) -> list[Any]:
    return [
        io.Clip.Input("clip", optional=True, tooltip=f"The text encoder of the mix, {why}."),
        io.Int.Input(
            "widen",
            default=0,
            min=0,
            max=100,
            optional=True,
            tooltip="How many of the words nearest to each word join its group, 0 to 100. Words near to both groups "
            "join neither. Needs clip.",
        ),
    ]


def _pairs(mix: TokenMix, group_a: str, group_b: str, clip: Any, widen: int) -> list[Pair]:
    near: Near | None = None
    if clip is not None:
        encoder = host.HostTextEncoder(clip)
        mix.check_family(encoder.family)
        near = nearness(encoder, encoder.words()[encoder.names[-1]])
    elif widen:
        raise UserError(f"widen is {widen} without a text encoder; connect clip, or set widen to 0.")
    return pairs_in(mix, word_groups(group_a, group_b), near, list(host.words()), widen)


class ConceptBias(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptBias",
            display_name="Concept Bias",
            category=CATEGORY,
            description="Measures how a concept is balanced between two groups of words: in its coefficients and, with "
            "a model, in pictures of it, with a confidence interval.",
            search_aliases=["fairness", "gender", "audit", "balance"],
            inputs=[
                TokenMixType.Input("mix", tooltip=MIX_TOOLTIP),
                *group_inputs(),
                *_widening_inputs("to widen the groups, and for pictures"),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="Draws the pictures that are judged. Needs clip, vae and clip_vision too.",
                ),
                io.Vae.Input("vae", optional=True, tooltip="The model's VAE, for the pictures."),
                io.ClipVision.Input(
                    "clip_vision",
                    optional=True,
                    tooltip="The image encoder that shares a space with the text encoder: it says which group a "
                    "picture is more like.",
                ),
                io.Conditioning.Input(
                    "negative", optional=True, tooltip="The negative prompt. Empty if nothing is connected."
                ),
                io.String.Input(
                    "concept",
                    default="",
                    optional=True,
                    tooltip="What the pictures show: they are compared with texts such as a male mechanic. Empty: the "
                    "concept that the mix was made from.",
                ),
                io.String.Input(
                    "prompt",
                    default="a photo of a <>",
                    optional=True,
                    dynamic_prompts=True,
                    tooltip="The prompt of the pictures, with <> for the mix. The texts that they are compared with "
                    "have a word of a group and the concept in its place.",
                ),
                *picture_inputs(),
            ],
            outputs=[
                io.String.Output("report", display_name="report", tooltip="The balance in numbers."),
                io.Image.Output("chart", display_name="chart", tooltip="The balance as bars."),
                io.Float.Output(
                    "balance",
                    display_name="balance",
                    tooltip="The share of the first group in the coefficients of the first pair, 0 to 1.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(
        cls, group_a: str | None = None, group_b: str | None = None, prompt: str | None = None
    ) -> bool | str:
        said = checked(Template.of_several, prompt, host.SLOT)
        return said if said is not True else checked(word_groups, group_a, group_b)

    @classmethod
    def execute(
        cls,
        mix: TokenMix,
        group_a: str,
        group_b: str,
        clip: Any = None,
        widen: int = 0,
        model: Any = None,
        vae: Any = None,
        clip_vision: Any = None,
        negative: Any = None,
        concept: str = "",
        prompt: str = "a photo of a <>",
        num_images: int = 32,
        image_size: int = 512,
        sampling_steps: int = 25,
        cfg: float = 7.5,
        seed: int = 0,
    ) -> io.NodeOutput:
        pairs = _pairs(mix, group_a, group_b, clip, widen)
        shares = [balance(mix, pair) for pair in pairs]
        counted: list[Share] = []
        if model is not None:
            needed = {"clip": clip, "vae": vae, "clip_vision": clip_vision}
            if absent := [name for name, given in needed.items() if given is None]:
                raise UserError(f"A model is connected without {absent[0]}; connect it, or disconnect the model.")
            sampling = host.Sampling(negative or host.encoded(clip, ""), sampling_steps, cfg, image_size, image_size)
            studio = host.HostStudio(model, clip, vae, clip_vision, sampling)
            with torch.inference_mode(False):
                template = Template.of_several(prompt, host.SLOT)
                groups, shown = [pair.words for pair in pairs], concept.strip() or mix.made_by.get("concept", "")
                check_judge(studio, groups, template, shown)
                latents = studio.latents_of_mix(template, mix, seeds_from(seed, num_images), host.LiveView().bar)
                counted = shares_of_pictures(studio, latents, groups, template, shown)
        lines, rows = [], []
        for number, (pair, share) in enumerate(zip(pairs, shares, strict=True)):
            lines += [f"{', '.join(pair.words[0])} / {', '.join(pair.words[1])}", _told(mix, pair, share)]
            rows.append((f"{pair.name}: mix" if len(pairs) > 1 else "mix", share, None))
            if counted:
                lines.append(f"in {counted[number].total} pictures: {counted[number]}")
                label = f"{pair.name}: pictures" if len(pairs) > 1 else "pictures"
                rows.append((label, counted[number].value, counted[number].interval))
        labels, values, intervals = zip(*rows, strict=True)
        one, other = (words[0] for words in pairs[0].words)
        sides = ("first group", "second group") if len(pairs) > 1 else (one, other)
        return io.NodeOutput("\n".join(lines), share_chart(labels, values, intervals, sides)[None], shares[0])


def _told(mix: TokenMix, pair: Pair, share: float) -> str:
    values = dict(zip(mix.ids, zip(mix.texts, mix.coefficients, strict=True), strict=True))
    sides = [", ".join(f"{text} {value:.3g}" for text, value in map(values.__getitem__, side)) for side in pair.ids]
    return f"in the mix: {share:.0%} to {1 - share:.0%} ({sides[0]} / {sides[1]})"


class TokenMixBalance(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TokenMixBalance",
            display_name="Token Mix Balance",
            category=CATEGORY,
            description="Brings the coefficients of two groups of words into the balance that you set; all else stays "
            "as it is.",
            search_aliases=["debias", "fairness", "equalise", "mitigate"],
            inputs=[
                TokenMixType.Input("mix", tooltip=MIX_TOOLTIP),
                *group_inputs(),
                io.Float.Input(
                    "target",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="The share of the first group that you want, 0 to 1. 0.5 makes both groups equal.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="How far to move towards the target: 0 not at all, 1 all the way.",
                ),
                *_widening_inputs("to widen the groups"),
            ],
            outputs=[TokenMixType.Output("mix", display_name="mix", tooltip="The mix in its new balance.")],
        )

    @classmethod
    def validate_inputs(cls, group_a: str | None = None, group_b: str | None = None) -> bool | str:
        return checked(word_groups, group_a, group_b)

    @classmethod
    def execute(
        cls,
        mix: TokenMix,
        group_a: str,
        group_b: str,
        target: float,
        strength: float,
        clip: Any = None,
        widen: int = 0,
    ) -> io.NodeOutput:
        return io.NodeOutput(balanced(mix, _pairs(mix, group_a, group_b, clip, widen), target, strength))
