"""Token mixes in the graph: words with coefficients, written, changed, shown, kept and used in prompts."""

from __future__ import annotations

from typing import Any

from comfy_api.v0_0_2 import io, ui

from ...core.conceptor.mixture import MixEdits, TokenMix, mix_from_text
from ...core.conceptor.vocabulary import nearest_tokens
from ...core.model.template import Template
from ...core.model.text_tower import WordTable
from ...core.pictures.charts import bar_chart, word_cloud
from .. import host
from ..connected import Node
from ..files import Loading, Saving
from ..inputs import checked

CATEGORY = "ConceptLens/Concepts"
TokenMixType = io.Custom("TOKEN_MIX")
WITH_NEIGHBOURS, NEIGHBOURS = 50, 8  # rows whose nearest words the editor is told, and how many of them
MIX_TOOLTIP = "Words with coefficients, from ConceptDecompose, TokenMixFromText or a file."


class TokenMixFromText(Node):
    reads = "mixes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TokenMixFromText",
            display_name="Token Mix From Text",
            category=CATEGORY,
            description="Makes a mix from words that you write by hand: dog: 0.6, snow: 0.2",
            search_aliases=["concept", "words", "coefficients", "blend"],
            inputs=[
                io.Clip.Input("clip", tooltip="The text encoder whose tokens the words are."),
                io.String.Input(
                    "text",
                    default="",
                    multiline=True,
                    placeholder="dog: 0.6, snow: 0.2",
                    tooltip="Words with numbers, on separate lines or separated by commas. Each word must be a single "
                    "token of the model; #1929 names a token by its id. Numbers may be negative; only their ratios "
                    "matter.",
                ),
            ],
            outputs=[TokenMixType.Output("mix", display_name="mix", tooltip="The mix, the largest number first.")],
        )

    @classmethod
    def validate_inputs(cls, text: str | None = None) -> bool | str:
        if text is not None and not text.strip():  # None: comes from another node
            return "The mix is empty; write words with numbers, such as: dog: 0.6, snow: 0.2"
        return True

    @classmethod
    def execute(cls, clip: Any, text: str) -> io.NodeOutput:
        encoder = host.mix_encoder_of(clip)
        return io.NodeOutput(mix_from_text(encoder, text, encoder.family))


class TokenMixConditioning(Node):
    reads = "mixes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TokenMixConditioning",
            display_name="Token Mix Conditioning",
            category=CATEGORY,
            description="A prompt with a mix of words in place of <>: change a coefficient and the picture follows.",
            search_aliases=["concept", "pseudo token", "conceptor", "coefficients", "slider"],
            has_intermediate_output=True,  # a page that is opened anew gets the words, though nothing is computed
            inputs=[
                io.Clip.Input("clip", tooltip="The text encoder of the model that samples."),
                io.String.Input(
                    "prompt",
                    default="a photo of a <>",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="The prompt, with <> in place of the mix, once or more often. Weights, embeddings and "
                    "everything else work as in CLIP Text Encode.",
                ),
                io.Int.Input(
                    "num_tokens",
                    default=50,
                    min=1,
                    max=1000,
                    tooltip="How many words of the mix are used: those with the largest coefficients. 1 to 1000.",
                ),
                io.String.Input(
                    "coefficients",
                    default="",
                    tooltip="What the editor writes: changes to the mix, as JSON by token id: "
                    '{"v": 1, "set": {"1929": 0.5}, "off": [], "add": {}, "top": 20}. Empty: the mix as it comes.',
                ),
                TokenMixType.Input("mix", optional=True, tooltip=MIX_TOOLTIP),
            ],
            outputs=[
                io.Conditioning.Output(
                    "conditioning", display_name="conditioning", tooltip="The prompt for the sampler."
                ),
                TokenMixType.Output("mix", display_name="mix", tooltip="The mix as it was used, with the changes."),
            ],
        )

    @classmethod
    def validate_inputs(cls, prompt: str | None = None, coefficients: str | None = None) -> bool | str:
        said = checked(Template.of_several, prompt, host.SLOT)
        return said if said is not True else checked(MixEdits.parse, coefficients, host.CLIP_TOKENS)

    @classmethod
    def execute(
        cls, clip: Any, prompt: str, num_tokens: int, coefficients: str, mix: TokenMix | None = None
    ) -> io.NodeOutput:
        encoder, base = host.mix_encoder_of(clip), mix or TokenMix((), (), ())
        edited = MixEdits.parse(coefficients, host.CLIP_TOKENS).apply(base, encoder).top(num_tokens)
        encoder.check_mix(edited)
        conditioning = encoder.conditioning(Template.of_several(prompt, host.SLOT), edited)
        *_, words = encoder.words().values()
        return io.NodeOutput(conditioning, edited, ui={"token_mix": [_for_editor(base, words)]})


def _for_editor(mix: TokenMix, table: WordTable) -> dict[str, Any]:
    """What the coefficient editor shows: the rows of a mix, the nearest words to the largest, and what is uncertain."""
    words, asked = host.words(), mix.ids[:WITH_NEIGHBOURS]
    near = nearest_tokens(table, list(words), asked, NEIGHBOURS)
    named = {token: [[other, words[other]] for other in row] for token, row in zip(asked, near, strict=True)}
    return {**host.editor_rows(mix), "near": named}


class TokenMixPlot(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TokenMixPlot",
            display_name="Token Mix Plot",
            category=CATEGORY,
            description="Draws a mix as bars or as a cloud of words.",
            search_aliases=["chart", "word cloud", "coefficients"],
            inputs=[
                TokenMixType.Input("mix", tooltip=MIX_TOOLTIP),
                io.Combo.Input(
                    "style",
                    options=["bars", "cloud"],
                    default="bars",
                    tooltip="bars: words with numbers. cloud: words, larger for larger coefficients.",
                ),
                io.Int.Input("top", default=20, min=1, max=200, tooltip="How many words are shown, 1 to 200."),
            ],
            outputs=[io.Image.Output("image", display_name="image", tooltip="The chart.")],
        )

    @classmethod
    def execute(cls, mix: TokenMix, style: str, top: int) -> io.NodeOutput:
        shown = mix.top(top)
        draw = bar_chart if style == "bars" else word_cloud
        return io.NodeOutput(draw(shown.texts, shown.coefficients)[None])


class SaveTokenMix(Saving):
    FOLDER = host.MIXES

    @classmethod
    def define_schema(cls) -> io.Schema:
        return cls.schema(
            TokenMixType.Input("mix", tooltip=MIX_TOOLTIP),
            "token_mix",
            node_id="SaveTokenMix",
            display_name="Save Token Mix",
            category=CATEGORY,
            description="Saves a mix in a file that Load Token Mix reads.",
            search_aliases=["save concept", "export"],
        )


class LoadTokenMix(Loading):
    FOLDER, KIND = host.MIXES, TokenMix

    @classmethod
    def define_schema(cls) -> io.Schema:
        return cls.schema(
            TokenMixType.Output("mix", display_name="mix", tooltip="The mix that was saved."),
            node_id="LoadTokenMix",
            display_name="Load Token Mix",
            category=CATEGORY,
            description="Loads a mix that Save Token Mix has saved.",
            search_aliases=["load concept", "import"],
        )


class SaveTokenMixEmbedding(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SaveTokenMixEmbedding",
            display_name="Save Token Mix as Embedding",
            category=CATEGORY,
            description="Saves the mix as a textual-inversion file: write embedding:name in any prompt. A1111, Forge "
            "and diffusers read the file too.",
            search_aliases=["textual inversion", "export concept", "save embedding"],
            is_output_node=True,
            inputs=[
                TokenMixType.Input("mix", tooltip=MIX_TOOLTIP),
                io.Clip.Input("clip", tooltip="The text encoder of the mix."),
                io.String.Input(
                    "name", default="my_concept", tooltip="The name in prompts: embedding:my_concept. It must be new."
                ),
            ],
            outputs=[io.String.Output("name", display_name="name", tooltip="embedding:name, ready for a prompt.")],
        )

    @classmethod
    def validate_inputs(cls, name: str | None = None) -> bool | str:
        return host.usable_name(name, host.EMBEDDINGS)

    @classmethod
    def execute(cls, mix: TokenMix, clip: Any, name: str) -> io.NodeOutput:
        encoder = host.HostTextEncoder(clip)
        mix.check_family(encoder.family)
        path = host.new_embedding(name)
        mix.save_embedding(path, encoder.words())
        return io.NodeOutput(f"embedding:{name}", ui=ui.PreviewText(f"embedding:{name}"))
