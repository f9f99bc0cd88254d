"""A mix as an edit of the model's weights."""

from __future__ import annotations

from typing import Any

from comfy_api.v0_0_2 import io, ui

from ...core.conceptor.mixture import TokenMix
from ...core.time_edit.lora import lora_state_dict
from ...core.time_edit.mix_edit import edit_to_mix
from .. import host
from ..conceptor.token_mix import MIX_TOOLTIP, TokenMixType
from ..connected import Node
from ..inputs import filename_input
from .edit import CATEGORY, MODEL, LoraModel, saved_lora

FOLDER = "loras"


class SaveTokenMixEdit(Node):
    reads = "edits"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SaveTokenMixEdit",
            display_name="Save Token Mix as Edit",
            category=CATEGORY,
            description="Turns a mix into a LoRA that makes a word of your choice mean the mix, in every prompt.",
            search_aliases=["mix to lora", "concept as lora", "export concept", "replace word"],
            is_output_node=True,
            inputs=[
                TokenMixType.Input("mix", tooltip=MIX_TOOLTIP),
                io.Clip.Input("clip", tooltip="The text encoder of the same checkpoint."),
                io.Model.Input("model", tooltip=MODEL),
                io.String.Input(
                    "word",
                    default="",
                    placeholder="rose",
                    tooltip="The word that will mean the mix: a single token of the model's text encoder.",
                ),
                filename_input("token_mix_edit"),
            ],
            outputs=[
                io.String.Output("path", display_name="path", tooltip="The file that was written, in the LoRA folder."),
                LoraModel.Output("lora", display_name="lora", tooltip="The same edit as a LoRA, for Load LoRA Model."),
            ],
        )

    @classmethod
    def validate_inputs(cls, word: str | None = None, filename_prefix: str | None = None) -> bool | str:
        if word is not None and not word.strip():  # None: comes from another node
            return "The word is empty; write the one that shall mean the mix."
        return host.usable_name(filename_prefix, FOLDER)

    @classmethod
    def execute(cls, mix: TokenMix, clip: Any, model: Any, word: str, filename_prefix: str) -> io.NodeOutput:
        denoiser, into = host.denoiser_of(model), host.mix_encoder_of(clip)
        into.check_mix(mix)
        edited = edit_to_mix(
            host.prompt_encoder_of(clip, denoiser),
            denoiser,
            word.strip(),
            lambda template: host.read_by(denoiser, into.conditioning(template, mix)),
            host.cache_folder(),
            host.progress(),
        )
        lora = lora_state_dict(edited.factors, denoiser.family)
        path = saved_lora(cls.hidden, lora, filename_prefix, FOLDER)
        return io.NodeOutput(path, lora, ui=ui.PreviewText(f"{path}\n{edited.report}"))
