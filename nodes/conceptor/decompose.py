"""Conceptor in the graph: which words the model pictures a concept with."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import torch
from comfy_api.v0_0_2 import io
from torch import Tensor

from ...core.conceptor.explanation import Validation, check_concept, check_validation, explain
from ...core.conceptor.fit import Method
from ...core.conceptor.quality import QUALITIES, Quality
from ...core.conceptor.vocabulary import Vocabulary
from ...core.model.template import Template
from .. import host
from ..connected import Node, in_range
from ..inputs import checked
from .token_mix import CATEGORY, TokenMixType
from .vocabulary import VocabularyType

MANY = 1_000_000
AS_QUALITY = "quality"  # the method that the quality has
SAMPLERS = {"ddim": ("ddim", "ddim_uniform"), "dpmpp_2m": ("dpmpp_2m", "normal")}  # as the host names them
OF_ONE = (  # the host runs a node anew for each picture of a list, and does not tell it so
    "This explains one picture alone, as is each one of a list; to explain a list together put Rebatch Images between, "
    "with a batch_size of all its pictures."
)
UNCONNECTED = object()  # the host leaves such inputs out; connected ones are None until they are made


class ConceptDecompose(Node):
    reads = "mixes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptDecompose",
            display_name="Concept Decompose",
            category=CATEGORY,
            description="Explains a concept in the model's own words: a mix of a few words with which the model draws "
            "what it draws for the concept.",
            search_aliases=["conceptor", "explain", "hidden language", "words", "interpret"],
            not_idempotent=True,  # it shows its progress under itself
            inputs=[  # pyright: ignore[reportArgumentType]  (each is an Input)
                io.Model.Input("model", tooltip="The model to explain, with its LoRAs: a UNet or a transformer."),
                io.Clip.Input("clip", tooltip="Its text encoder: CLIP, T5 or a language model."),
                io.Vae.Input("vae", tooltip="Its VAE."),
                VocabularyType.Input(
                    "vocabulary",
                    tooltip="The words to explain with, from Vocabulary Embed. If T5 or a language model reads the "
                    "prompts, of the CLIP that belongs to clip_vision.",
                ),
                io.String.Input(
                    "concept",
                    default="",
                    placeholder="sculpture",
                    tooltip="The concept to explain: a word or a few. May be empty when you connect images.",
                ),
                io.String.Input(
                    "prompt",
                    default="a photo of a {}",
                    tooltip="The prompt of the training pictures, with {} in place of the concept. Write no choices in "
                    "braces and no comments in this box.",
                ),
                io.Int.Input(
                    "num_tokens",
                    default=50,
                    min=1,
                    max=1000,
                    tooltip="The most words that the mix may have, 1 to 1000.",
                ),
                io.Int.Input(
                    "dictionary_size",
                    default=5000,
                    min=2,
                    max=50_000,
                    tooltip="How many words are candidates: those nearest to the pictures. 2 to 50000.",
                    advanced=True,
                ),
                io.Int.Input(
                    "steps",
                    default=0,
                    min=0,
                    max=MANY,
                    tooltip="Steps of the fit, for a concept that no few words name. 0: set by quality.",
                    advanced=True,
                ),
                io.Int.Input(
                    "batch_size",
                    default=0,
                    min=0,
                    max=256,
                    tooltip="Pictures per step, at most 256. If memory is short, a step takes longer but keeps its "
                    "size. 0: set by quality.",
                    advanced=True,
                ),
                io.Float.Input(
                    "learning_rate",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=1e-4,
                    round=False,
                    tooltip="Learning rate of the fit, up to 1. 0: set by quality.",
                    advanced=True,
                ),
                io.Float.Input(
                    "sparsity",
                    default=0.001,
                    min=0.0,
                    max=10.0,
                    step=1e-3,
                    round=False,
                    tooltip="How strongly the mix of the largest words is tied to the mix of all words, 0 to 10.",
                    advanced=True,
                ),
                io.Int.Input(
                    "num_images",
                    default=0,
                    min=0,
                    max=10_000,
                    tooltip="How many pictures of the concept are made, at most 10000. 0: set by quality.",
                    advanced=True,
                ),
                io.Int.Input(
                    "image_size",
                    default=512,
                    min=64,
                    max=2048,
                    step=64,
                    tooltip="Width and height of the pictures in pixels, 64 to 2048. The model's own size works best.",
                ),
                io.Float.Input("cfg", default=7.5, min=0.0, max=100.0, step=0.1, tooltip="Guidance scale, 0 to 100."),
                io.Int.Input(
                    "sampling_steps",
                    default=0,
                    min=0,
                    max=1000,
                    tooltip="Steps per picture, by DDIM, at most 1000. 0: steps and sampler set by quality.",
                    advanced=True,
                ),
                io.Int.Input(
                    "validate_every",
                    default=0,
                    min=0,
                    max=MANY,
                    tooltip="Steps of the fit between two validations. 0: set by quality.",
                    advanced=True,
                ),
                io.Int.Input(
                    "validation_images",
                    default=0,
                    min=0,
                    max=1000,
                    tooltip="How many further pictures judge the coefficients, and how many reconstructions are made, "
                    "at most 1000. 0: set by quality.",
                    advanced=True,
                ),
                io.Boolean.Input(
                    "exclude_concept",
                    default=True,
                    tooltip="Leave out the concept's own words: plurals, word pieces and synonyms.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**63 - 1,
                    control_after_generate=True,
                    tooltip="The seed of the pictures and the fit. The same seed gives the same mix.",
                ),
                io.Image.Input(
                    "images",
                    optional=True,
                    tooltip="Your own pictures of the concept, used instead of generated ones. A batch is explained "
                    "together; in a list each picture is explained on its own.",
                ),
                io.Conditioning.Input(
                    "negative",
                    optional=True,
                    tooltip="What the generated pictures should not show. If nothing is connected, the negative "
                    "prompt is empty.",
                ),
                io.ClipVision.Input(
                    "clip_vision",
                    optional=True,
                    tooltip="The image encoder that shares a space with the text encoder: it finds the nearest words "
                    "and helps to tell them apart. Without it the model's own gradient finds them, less well; if T5 or "
                    "a language model reads the prompts, it is needed.",
                ),
                io.Combo.Input(
                    "method",
                    options=[AS_QUALITY, *get_args(Method)],
                    default=AS_QUALITY,
                    optional=True,
                    tooltip="shares: words compete, and each picture is explained by the words that denoise it best on "
                    "their own; a concept that no few words name is fitted from many. conceptor: as published, a "
                    "network gives all coefficients. quality: shares, or conceptor if the quality is published.",
                    advanced=True,
                ),
                io.Combo.Input(
                    "validation",
                    options=list(get_args(Validation)),
                    default="loss",
                    optional=True,
                    tooltip="loss: on held-out pictures, cheap. pictures: as published, by pictures that the mix makes "
                    "(needs clip_vision; takes longer than the fit).",
                    advanced=True,
                ),
                io.Combo.Input(
                    "quality",
                    options=list(QUALITIES),
                    default="quick",
                    optional=True,
                    tooltip="How much the explanation may cost. quick: up to 4000 evaluations of the model. thorough: "
                    "up to 12000, steadier. published: as in the paper, 29000. Any number above that is not 0 "
                    "overrides it.",
                ),
            ],
            outputs=[
                TokenMixType.Output(
                    "mix", display_name="mix", tooltip="The words with the coefficients that were judged best."
                ),
                io.Image.Output("images", display_name="images", tooltip="The training pictures."),
                io.Image.Output("reconstructions", display_name="reconstructions", tooltip="Pictures of the mix."),
                io.Image.Output("chart", display_name="chart", tooltip="Loss and validation over the steps."),
                io.String.Output("report", display_name="report", tooltip="The words in numbers, and the time taken."),
            ],
        )

    @classmethod
    def validate_inputs(
        cls,
        concept: str | None = None,
        prompt: str | None = None,
        validation: Validation | None = None,
        images: object = UNCONNECTED,
        clip_vision: object = UNCONNECTED,
    ) -> bool | str:
        with_pictures, with_encoder = images is not UNCONNECTED, clip_vision is not UNCONNECTED
        answers = (
            in_range(cls, validation=validation),
            checked(Template.of, prompt),
            checked(check_concept, None if concept is None else concept.strip(), with_pictures),
            checked(check_validation, validation, with_encoder),
        )
        return next((answer for answer in answers if answer is not True), True)

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        vae: Any,
        vocabulary: Vocabulary,
        concept: str,
        prompt: str,
        image_size: int,
        cfg: float,
        exclude_concept: bool,
        seed: int,
        images: Tensor | None = None,
        negative: Any = None,
        clip_vision: Any = None,
        validation: Validation = "loss",
        quality: Quality = "quick",
        **numbers: Any,
    ) -> io.NodeOutput:
        if numbers.get("method") == AS_QUALITY:
            del numbers["method"]
        preset = QUALITIES[quality].with_numbers(numbers)
        settings = replace(preset.settings, exclude_concept=exclude_concept, seed=seed)
        sampling = host.Sampling(
            negative or host.encoded(clip, ""),
            *(preset.sampling_steps, cfg, image_size, image_size),
            *SAMPLERS[preset.sampler],
        )
        studio = host.studio_of(model, clip, vae, clip_vision, sampling, vocabulary)
        with torch.inference_mode(False):  # what inference mode makes can't be differentiated
            given = None if images is None else images.clone()
            explained = explain(
                studio,
                vocabulary,
                concept.strip(),
                Template.of(prompt),
                settings,
                host.LiveView(),
                num_images=preset.num_images,
                validation_images=preset.validation_images,
                given=given,
                validation=validation,
            )
        mix, chart, report = explained.found.mix, explained.chart()[None], explained.report()
        if given is not None and len(given) == 1:
            report += f"\n{OF_ONE}"
        return io.NodeOutput(mix, explained.pictures, explained.reconstructions, chart, report)
