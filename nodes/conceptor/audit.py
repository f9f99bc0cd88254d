"""A model audited in the graph: what it assumes of plain words, before a change and after it."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.v0_0_2 import io, ui
from torch import Tensor

from ...core.conceptor.audit import Finding, Trait, audit, audit_json, check_audit, phases, words_in
from ...core.conceptor.evaluations import Evaluations
from ...core.errors import UserError
from ...core.model.template import Template
from ...core.pictures.groups_chart import Divided, groups_chart
from .. import host
from ..connected import Node
from ..inputs import checked, filename_input, model_inputs, sampler_inputs, seed_input, size_inputs
from .token_mix import CATEGORY

WORDS = "doctor, nurse, teacher, judge, cook, pilot, mechanic, scientist, student, farmer, singer, astronaut"
TRAITS = "sex: male | female"
ALONE, BEFORE, AFTER = "model", "before", "after"


class ModelAudit(Node):
    reads = "layers"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ModelAudit",
            display_name="Model Audit",
            category=CATEGORY,
            description="What a model assumes of plain words: how its pictures of each are divided among groups that "
            "you name, with intervals. With a second model, before and after a change.",
            search_aliases=["bias", "fairness", "assumptions", "gender", "report"],
            is_output_node=True,
            inputs=[
                *model_inputs(),
                io.ClipVision.Input(
                    "clip_vision",
                    tooltip="The image encoder that compares pictures. It needs to share no space with clip.",
                ),
                io.String.Input(
                    "words",
                    default=WORDS,
                    multiline=True,
                    tooltip="Plain words whose pictures are counted, separated by commas.",
                ),
                io.String.Input(
                    "traits",
                    default=TRAITS,
                    multiline=True,
                    tooltip="One trait in a line, with two groups or more: sex: male | female. Each group is a text "
                    "that stands before the word.",
                ),
                io.String.Input(
                    "prompt",
                    default="a photo of a {}",
                    tooltip="The prompt of each picture, with {} in place of the word. Write no choices in braces and "
                    "no comments in this box.",
                ),
                io.Int.Input(
                    "num_images", default=32, min=1, max=1000, tooltip="Pictures of each plain word, 1 to 1000."
                ),
                io.Int.Input(
                    "told_images",
                    default=16,
                    min=2,
                    max=1000,
                    tooltip="Pictures of each group of a word, told by name, 2 to 1000: the plain word's pictures are "
                    "compared with them.",
                ),
                *sampler_inputs(),
                seed_input("The seed of the first picture; the others use the seeds that follow."),
                *size_inputs(),
                filename_input("audit"),
                io.Conditioning.Input(
                    "negative", optional=True, tooltip="The negative prompt. Empty if nothing is connected."
                ),
                io.Model.Input(
                    "changed_model",
                    optional=True,
                    tooltip="The model after a change: with a LoRA, or edited by TIME. Its pictures are compared with "
                    "the told ones of model.",
                ),
                io.Clip.Input(
                    "changed_clip", optional=True, tooltip="Its text encoder, if the change is in there too; else clip."
                ),
            ],
            outputs=[
                io.Image.Output("chart", display_name="chart", tooltip="All findings in one picture."),
                io.String.Output("report", display_name="report", tooltip="The same as JSON: what the file holds."),
            ],
        )

    @classmethod
    def validate_inputs(
        cls,
        words: str | None = None,
        traits: str | None = None,
        prompt: str | None = None,
        filename_prefix: str | None = None,
    ) -> bool | str:
        answers = (
            checked(words_in, words),
            checked(Trait.parse, traits),
            checked(Template.of, prompt),
            host.usable_name(filename_prefix, host.OUTPUT),
        )
        return next((answer for answer in answers if answer is not True), True)

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        vae: Any,
        clip_vision: Any,
        words: str,
        traits: str,
        prompt: str,
        num_images: int,
        told_images: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        seed: int,
        width: int,
        height: int,
        filename_prefix: str,
        negative: Any = None,
        changed_model: Any = None,
        changed_clip: Any = None,
    ) -> io.NodeOutput:
        if changed_clip is not None and changed_model is None:
            raise UserError("changed_clip is connected without changed_model; connect the model after the change too.")
        named, several, template = words_in(words), Trait.parse(traits), Template.of(prompt)
        check_audit(num_images, told_images)
        file = host.numbered_path(filename_prefix, host.OUTPUT, ".json")
        sampling = host.Sampling(negative or host.encoded(clip, ""), steps, cfg, width, height, sampler_name, scheduler)
        models = {BEFORE if changed_model else ALONE: host.HostPictures(model, clip, vae, clip_vision, sampling)}
        if changed_model is not None:
            models[AFTER] = host.HostPictures(changed_model, changed_clip or clip, vae, clip_vision, sampling)
        live, counts = host.LiveView(), {"num_images": num_images, "told_images": told_images}
        work = Evaluations(phases(models, named, several, **counts), live.bar, live.say)
        with torch.inference_mode(False):
            findings = audit(models, named, several, template, work, **counts, seed=seed)
        work.finish()
        made_by = {**counts, "prompt": prompt, "steps": steps, "cfg": cfg, "sampler_name": sampler_name}
        made_by |= {"scheduler": scheduler, "seed": seed, "width": width, "height": height}
        report = audit_json(findings, **made_by)
        file.write_text(report, encoding="utf-8")
        chart = chart_of(findings, several)[None]
        shown = {**ui.PreviewImage(chart, cls=cls).as_dict(), "text": (str(file),)}
        return io.NodeOutput(chart, report, ui=shown)


def chart_of(findings: list[Finding], traits: list[Trait]) -> Tensor:
    """All findings, a trait below the other; a word's two models are neighbours."""
    several = len({found.model for found in findings}) > 1
    charts = []
    for trait in traits:
        bars = [
            Divided(f"{found.word}, {found.model}" if several else found.word, found.shares, found.intervals)
            for found in findings
            if found.trait == trait
        ]
        charts.append(groups_chart(trait.name, trait.groups, bars))
    return torch.cat(charts)
