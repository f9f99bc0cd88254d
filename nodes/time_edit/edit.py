"""TIME in the graph: edit what the model assumes about a prompt, and save the edit as a LoRA."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

import torch
from comfy_api.v0_0_2 import io, ui
from torch import Tensor

from ...core.conceptor.bias import MEN, WOMEN, word_pair
from ...core.conceptor.shares import Share, check_judge, shares_of_pictures
from ...core.errors import UnreadableError, UserError
from ...core.model.studio import seeds_from
from ...core.time_edit.context_edit import PromptEdit, edited_context, edited_pooled
from ...core.time_edit.lora import lora_state_dict, save_lora
from ...core.time_edit.strength import edits_for_share, slot_of
from ...core.time_edit.time_edit import (
    EditPair,
    PreserveMode,
    Regularize,
    edit_model,
    parse_edits,
)
from .. import host
from ..connected import Node, in_range
from ..inputs import checked, filename_input, group_inputs, picture_inputs

CATEGORY = "ConceptLens/Model editing"
MODEL = (
    "The model to edit (SD 1.x, SD 2.x, SDXL, Flux.1, Flux.2, Chroma, SD 3, AuraFlow, PixArt, Z-Image, Lumina 2, "
    "Krea 2, Ernie-Image, HunyuanImage, Qwen-Image, OmniGen2, Anima, Cosmos-Predict2) with its LoRAs and earlier edits."
)
LoraModel = io.Custom("LORA_MODEL")
ContextEditType = io.Custom("CONTEXT_EDIT")


def _settings() -> list[Any]:
    """The inputs that both edit nodes have behind their prompts."""
    return [
        io.Float.Input(
            "regularization",
            default=0.1,
            min=1e-6,
            max=1e6,
            step=0.01,
            round=False,
            tooltip="lambda, above 0: how strongly the weights are held in place. Raise it when other prompts change "
            "too much. Relative: at 0.1 ten ordinary prompts weigh against the edited ones, on every model. Absolute: "
            "the paper uses 0.1 on Stable Diffusion. Range 1e-6 to 1e6.",
        ),
        io.Boolean.Input(
            "edit_keys",
            default=True,
            tooltip="Edit the keys as well as the values: keys decide where in the picture a word acts, values what it "
            "looks like.",
            advanced=True,
        ),
        io.Boolean.Input(
            "augment",
            default=True,
            tooltip='Fit each prompt also after "A photo of", "An image of" and "A picture of", as the paper does.',
            advanced=True,
        ),
        io.Float.Input(
            "strength",
            default=1.0,
            min=-10.0,
            max=10.0,
            step=0.05,
            tooltip="How much of the edit is applied: 0 none, 1 as fitted, negative the opposite way. Range -10 to 10.",
        ),
        io.String.Input(
            "preserve",
            default="",
            multiline=True,
            dynamic_prompts=True,
            placeholder="one prompt a line that shall keep its meaning",
            tooltip="Prompts that should keep their meaning, one per line (up to 75 tokens each). Empty: none.",
        ),
        io.Int.Input(
            "rank",
            default=0,
            min=0,
            max=2048,
            tooltip="0: exact. Otherwise the approximation of this rank, 1 to 2048, that is best on the prompts; the "
            "report says what share of the edit's energy it keeps there.",
            advanced=True,
        ),
    ]


def _later_settings() -> list[Any]:
    """Those that came later: graphs without them mean the first of each."""
    return [
        io.Combo.Input(
            "regularize",
            options=list(get_args(Regularize)),
            default="relative",
            optional=True,
            tooltip="The unit of regularization. relative: how the text encoder's states spread over ordinary prompts, "
            "so that one value suits every encoder and ordinary prompts change least. absolute: as in the paper.",
        ),
        io.Combo.Input(
            "preserve_mode",
            options=list(get_args(PreserveMode)),
            default="weighted",
            optional=True,
            tooltip="weighted: preserved prompts are weighed against the edit. exact: they do not change at all, and "
            "the report says how much of the edit that leaves.",
            advanced=True,
        ),
        io.Boolean.Input(
            "edit_pooled",
            default=True,
            optional=True,
            tooltip="Also edit, by a map of its own, the layer that reads the summary of the whole prompt. SDXL, "
            "Flux.1 and SD 3 have one; other models ignore this.",
            advanced=True,
        ),
    ]


def _outputs() -> list[Any]:
    return [
        io.Model.Output("model", display_name="model", tooltip="The edited model. The incoming model is unchanged."),
        LoraModel.Output(
            "lora", display_name="lora", tooltip="The edit as a LoRA, for SaveTIMEEdit, Save LoRA, Load LoRA Model."
        ),
        io.String.Output("report", display_name="report", tooltip="What was edited, and how exactly."),
        ContextEditType.Output(
            "edit", display_name="edit", tooltip="The edit as a map of prompts, for TIME Edit Conditioning."
        ),
    ]


def _fitted_with(preserve: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a fit, with the prompts of `preserve`, one a line, and the host's folder for its cache."""
    lines = [line for line in preserve.splitlines() if line.strip()]
    return {**settings, "preserve": lines, "cache": host.cache_folder()}


def _edited(
    model: Any, clip: Any, pairs: Sequence[EditPair], settings: Mapping[str, Any]
) -> tuple[Any, dict[str, Tensor], str, PromptEdit]:
    """The edited model, the edit as a LoRA, a report, and the edit itself."""
    denoiser = host.denoiser_of(model)
    encoder = host.prompt_encoder_of(clip, denoiser)
    try:
        edited = edit_model(encoder, denoiser, pairs, progress=host.progress(), **settings)
    except UnreadableError as error:
        if denoiser.normed:
            raise
        raise UserError(
            f"{str(error).removesuffix('.')}, or edit its prompts by TIME Edit Conditioning with such a model's edit."
        ) from error
    state = lora_state_dict(edited.factors, denoiser.family)
    return denoiser.patched(edited.factors), state, edited.report, edited.edit


class TIMEEditModel(Node):
    reads = "edits"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TIMEEditModel",
            display_name="TIME Edit Model",
            category=CATEGORY,
            description="Changes what the model assumes about a prompt: after the edit the source means the "
            "destination, in every prompt that uses it. Closed form, no training; the incoming model stays as it is.",
            search_aliases=["time", "edit concept", "implicit assumption", "unified concept editing", "uce"],
            inputs=[
                io.Model.Input("model", tooltip=MODEL),
                io.Clip.Input("clip", tooltip="The text encoder of the same checkpoint."),
                io.String.Input(
                    "source",
                    default="",
                    dynamic_prompts=True,
                    placeholder="a pack of roses",
                    tooltip="The prompt whose meaning should change, up to 75 tokens (about 70 with augmentation).",
                ),
                io.String.Input(
                    "destination",
                    default="",
                    dynamic_prompts=True,
                    placeholder="a pack of blue roses",
                    tooltip="What it should mean: all words of the source in order, plus what should be assumed.",
                ),
                *_settings(),
                *_later_settings(),
            ],
            outputs=_outputs(),
        )

    @classmethod
    def validate_inputs(cls, source: str | None = None, destination: str | None = None) -> bool | str:
        for name, prompt in (("source", source), ("destination", destination)):
            if prompt is not None and not prompt.strip():  # None: comes from another node
                return f"The {name} is empty; write a prompt, for example a pack of roses => a pack of blue roses."
        return True

    @classmethod
    def execute(
        cls, model: Any, clip: Any, source: str, destination: str, preserve: str, **settings: Any
    ) -> io.NodeOutput:
        return io.NodeOutput(*_edited(model, clip, [EditPair(source, destination)], _fitted_with(preserve, settings)))


class TIMEEditBatch(Node):
    reads = "edits"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TIMEEditBatch",
            display_name="TIME Edit Model (Batch)",
            category=CATEGORY,
            description="Makes many TIME edits in one solve: afterwards each line's source means its destination.",
            search_aliases=["time", "edit concepts", "implicit assumptions", "debias"],
            inputs=[
                io.Model.Input("model", tooltip=MODEL),
                io.Clip.Input("clip", tooltip="The text encoder of the same checkpoint."),
                io.String.Input(
                    "edits",
                    default="",
                    multiline=True,
                    dynamic_prompts=True,
                    placeholder="a pack of roses => a pack of blue roses",
                    tooltip="One edit per line: source => destination, with all words of the source in order.",
                ),
                *_settings(),
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip="With clip_vision: strength becomes the upper limit, and each line gets the strength at "
                    "which pictures of its source have the target share of the first group.",
                ),
                io.ClipVision.Input(
                    "clip_vision",
                    optional=True,
                    tooltip="The image encoder that shares a space with the text encoder: it says which group a "
                    "picture is more like. Needs vae.",
                ),
                io.Conditioning.Input(
                    "negative", optional=True, tooltip="The negative prompt. Empty if nothing is connected."
                ),
                io.Float.Input(
                    "target",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    optional=True,
                    tooltip="The share of the first group that you want, 0 to 1. 0.5 makes both groups equal.",
                ),
                *group_inputs(optional=True, several=False),
                *picture_inputs(),
                *_later_settings(),
            ],
            outputs=_outputs(),
        )

    @classmethod
    def validate_inputs(
        cls, edits: str | None = None, group_a: str | None = None, group_b: str | None = None
    ) -> bool | str:
        if edits is not None and not edits.strip():  # None: comes from another node
            return "There is nothing to edit; write one edit a line, source => destination."
        said = checked(parse_edits, edits)
        return said if said is not True else checked(word_pair, group_a, group_b)

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        edits: str,
        preserve: str,
        vae: Any = None,
        clip_vision: Any = None,
        negative: Any = None,
        target: float = 0.5,
        group_a: str = MEN,
        group_b: str = WOMEN,
        num_images: int = 32,
        image_size: int = 512,
        sampling_steps: int = 25,
        cfg: float = 7.5,
        seed: int = 0,
        **settings: Any,
    ) -> io.NodeOutput:
        pairs, settings = parse_edits(edits), _fitted_with(preserve, settings)
        if vae is None and clip_vision is None:
            return io.NodeOutput(*_edited(model, clip, pairs, settings))
        if vae is None or clip_vision is None:
            raise UserError("A target share needs vae and clip_vision, and one of them is missing; connect both.")
        groups, seeds = word_pair(group_a, group_b), seeds_from(seed, num_images)
        encoder, denoiser, live = host.HostTextEncoder(clip), host.HostDenoiser(model), host.LiveView()
        most = settings.pop("strength")

        sampling = host.Sampling(negative or host.encoded(clip, ""), sampling_steps, cfg, image_size, image_size)
        unedited = host.HostStudio(model, clip, vae, clip_vision, sampling)

        def share_of(pair: EditPair, edited: Sequence[EditPair]) -> Share:
            factors = edit_model(encoder, denoiser, edited, **settings).factors
            studio = unedited.with_model(denoiser.patched(factors))
            live.say(f"{pair.source}, strength {pair.strength:g}")
            with torch.inference_mode(False):
                latents = studio.latents_of_prompt(pair.source, seeds, live.bar)
                (share,) = shares_of_pictures(studio, latents, [groups], slot_of(pair), "")
            return share

        with torch.inference_mode(False):
            for pair in pairs:
                check_judge(unedited, [groups], slot_of(pair), "")
        reached = edits_for_share(pairs, share_of, target, most)
        found = [pair._replace(strength=one.setting) for pair, one in zip(pairs, reached, strict=True)]
        model, lora, report, edit = _edited(model, clip, found, settings)
        told = [f"{pair.source}: {groups[0][0]} {one.share}" for pair, one in zip(pairs, reached, strict=True)]
        return io.NodeOutput(model, lora, "\n".join([report, *told]), edit)


class TIMEEditConditioning(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TIMEEditConditioning",
            display_name="TIME Edit Conditioning",
            category=CATEGORY,
            description="Applies the same edit to a prompt instead of the model's weights: for weights that can't be "
            "patched (GGUF, Nunchaku, TensorRT, compiled), or for one prompt alone.",
            search_aliases=["time", "edit prompt", "gguf", "nunchaku"],
            inputs=[
                io.Conditioning.Input(
                    "conditioning", tooltip="The prompt, encoded by the text encoder that the edit was made with."
                ),
                ContextEditType.Input("edit", tooltip="From TIME Edit Model. You need not use its model output."),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-10.0,
                    max=10.0,
                    step=0.05,
                    tooltip="How much of the edit is applied, multiplied by the strength that it already has. Range "
                    "-10 to 10.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    "conditioning",
                    display_name="conditioning",
                    tooltip="The edited prompt, with its pooled text edited too if the edit covers it.",
                )
            ],
        )

    @classmethod
    def execute(cls, conditioning: Any, edit: PromptEdit, strength: float) -> io.NodeOutput:
        edit = edit.scaled(strength)
        edited = []
        for context, more in conditioning:
            pooled = more.get("pooled_output")
            if edit.pooled is not None and pooled is not None:
                more = {**more, "pooled_output": edited_pooled(edit.pooled, pooled)}
            edited.append([edited_context(edit.context, context), dict(more)])
        return io.NodeOutput(edited)


def saved_lora(hidden: Any, lora: Mapping[str, Tensor], filename_prefix: str, folder: str) -> str:
    """Writes a LoRA with the graph that made it; the path of its file."""
    path = host.numbered_path(filename_prefix, folder)
    save_lora(path, lora, host.workflow_metadata(hidden.prompt, hidden.extra_pnginfo))
    return str(path)


class SaveTIMEEdit(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SaveTIMEEdit",
            display_name="Save TIME Edit",
            category=CATEGORY,
            description="Saves an edit as a LoRA file that ComfyUI, kohya's tools, A1111/Forge and diffusers read.",
            search_aliases=["save lora", "export edit"],
            is_output_node=True,
            inputs=[
                LoraModel.Input("lora", tooltip="The lora output of a TIME edit."),
                filename_input("time_edit"),
                io.Combo.Input(
                    "folder",
                    options=list(host.FOLDERS),
                    default="loras",
                    tooltip="loras: the LoRA folder, where Load LoRA finds it (press R). output: the output folder.",
                ),
            ],
            outputs=[io.String.Output("path", display_name="path", tooltip="The file that was written.")],
        )

    @classmethod
    def validate_inputs(cls, filename_prefix: str | None = None, folder: str | None = None) -> bool | str:
        said = in_range(cls, folder=folder)
        return said if said is not True else host.usable_name(filename_prefix, folder)

    @classmethod
    def execute(cls, lora: Any, filename_prefix: str, folder: str) -> io.NodeOutput:
        path = saved_lora(cls.hidden, lora, filename_prefix, folder)
        return io.NodeOutput(path, ui=ui.PreviewText(path))
