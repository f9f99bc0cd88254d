"""The model's own words in the graph: embedded once, then searched."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.v0_0_2 import io
from torch import Tensor

from ...core.conceptor.mixture import TokenMix
from ...core.conceptor.vocabulary import TEMPLATES, Vocabulary, embed_vocabulary, named_tokens, text_feature
from ...core.errors import UserError
from .. import host
from ..connected import Node
from .token_mix import CATEGORY, TokenMixType

VocabularyType = io.Custom("VOCABULARY")


class VocabEmbed(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VocabEmbed",
            display_name="Vocabulary Embed",
            category=CATEGORY,
            description="Lists the words that the text encoder has, each with its text feature: the words that "
            "concepts are explained with. Made once for each encoder, then read from disk.",
            search_aliases=["tokens", "dictionary", "conceptor", "words"],
            inputs=[
                io.Clip.Input("clip", tooltip="The text encoder (SD 1.x, SD 2.x or SDXL), with its LoRAs."),
                io.Combo.Input(
                    "templates",
                    options=list(TEMPLATES),
                    default="conceptor27",
                    tooltip="The prompts to average a word's feature over: the paper's 27, one, or the word alone. 27 "
                    "take 27 times as long, but only once.",
                ),
                io.Combo.Input(
                    "tokens",
                    options=["words", "all"],
                    default="words",
                    tooltip="words: whole words made of letters. all: also word pieces, numbers and signs.",
                ),
                io.Boolean.Input(
                    "cache",
                    default=True,
                    tooltip="Keep the features in the user folder. They are made anew for another encoder.",
                    advanced=True,
                ),
                io.String.Input(
                    "words",
                    default="",
                    optional=True,
                    tooltip="Words, separated by commas, to explain concepts with these alone: male, female. Empty: "
                    "all words.",
                ),
            ],
            outputs=[
                VocabularyType.Output(
                    "vocabulary", display_name="vocabulary", tooltip="The words with their features."
                ),
                io.String.Output(
                    "report", display_name="report", tooltip="How many words there are, and of what kind."
                ),
            ],
        )

    @classmethod
    def execute(cls, clip: Any, templates: str, tokens: Any, cache: bool, words: str = "") -> io.NodeOutput:
        with torch.inference_mode(False):  # what is made here, a fit differentiates
            encoder = host.HostTextEncoder(clip)
            folder = host.cache_folder() if cache else None
            if chosen := [word.strip() for word in words.split(",") if word.strip()]:
                tokens, folder = named_tokens(encoder, chosen, tokens), None  # a few are embedded at once
            vocabulary = embed_vocabulary(encoder, templates, tokens, folder, host.progress())
        whole = sum(vocabulary.whole_words)
        report = f"{len(vocabulary)} tokens of {encoder.family}, {whole} of them whole words, over "
        report += f"{len(TEMPLATES[templates])} templates; features {vocabulary.features.shape[1]} wide"
        return io.NodeOutput(vocabulary, "\n".join(filter(None, [report, vocabulary.warning])))


class VocabSearch(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VocabSearch",
            display_name="Vocabulary Search",
            category=CATEGORY,
            description="Finds the words nearest to a text, or to a picture if its encoder shares a space with the "
            "text encoder.",
            search_aliases=["nearest tokens", "interrogate", "similar words"],
            inputs=[
                VocabularyType.Input("vocabulary", tooltip="From Vocabulary Embed."),
                io.Clip.Input("clip", tooltip="The text encoder of the vocabulary."),
                io.String.Input(
                    "text",
                    default="",
                    dynamic_prompts=True,
                    tooltip="What to look for. It may be empty when a picture is connected.",
                ),
                io.Int.Input("top", default=20, min=1, max=1000, tooltip="How many words to find, 1 to 1000."),
                io.Image.Input(
                    "image", optional=True, tooltip="Pictures to look for, instead of a text or together with one."
                ),
                io.ClipVision.Input(
                    "clip_vision", optional=True, tooltip="The image encoder that shares a space with the text encoder."
                ),
            ],
            outputs=[
                io.String.Output("tokens", display_name="tokens", tooltip="One word per line with its similarity."),
                TokenMixType.Output("mix", display_name="mix", tooltip="The words, with similarities as coefficients."),
            ],
        )

    @classmethod
    def execute(
        cls,
        vocabulary: Vocabulary,
        clip: Any,
        text: str,
        top: int,
        image: Tensor | None = None,
        clip_vision: Any = None,
    ) -> io.NodeOutput:
        encoder = host.HostTextEncoder(clip)
        towers = encoder.towers()
        vocabulary.check_encoder(towers)
        wanted = []
        if text.strip():
            wanted.append(text_feature(encoder, towers[-1], text, vocabulary.made_by["templates"]))
        if image is not None:
            if clip_vision is None:
                raise UserError("A picture is connected without clip_vision; connect the image encoder as well.")
            features = host.image_features(clip_vision, image)
            vocabulary.check_space(features)
            wanted.append(features.mean(0))
        if not wanted:
            raise UserError("There is nothing to look for; write a text or connect a picture.")
        found = vocabulary.nearest(torch.stack([feature.cpu() for feature in wanted]).mean(0), top)
        rows = [row for row, _ in found]
        ids, texts = [int(vocabulary.ids[row]) for row in rows], [vocabulary.texts[row] for row in rows]
        mix = TokenMix.of(ids, texts, [score for _, score in found], family=encoder.family)
        return io.NodeOutput(mix.to_text(), mix)
