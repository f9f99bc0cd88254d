"""What the bottleneck of one picture changes most, or in a part of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

import torch
from comfy_api.v0_0_2 import io
from torch import Tensor

from ...core.hspace.directions import Position
from ...core.hspace.jacobian import SingularDirections, jacobian_directions
from ...core.hspace.parsing import percents
from ...core.pictures.hspace_charts import values_chart
from .. import host
from ..connected import Node
from ..inputs import checked, sampler_inputs, seed_input, size_inputs
from .directions import CATEGORY, FOUND


class HSpaceJacobian(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HSpaceJacobian",
            display_name="h-space Jacobian",
            category=CATEGORY,
            description="Finds the directions of the bottleneck that change one picture most, or a masked part of it: "
            "the leading singular vectors of the decoder's Jacobian.",
            search_aliases=["semantic direction", "mask", "region", "singular vectors", "bottleneck"],
            inputs=[
                io.Model.Input("model", tooltip="SD 1.x, SD 2.x or SDXL."),
                io.Conditioning.Input("positive", tooltip="The prompt of the picture."),
                io.Conditioning.Input("negative", tooltip="The negative prompt."),
                seed_input("The seed of the picture: the one that KSampler makes from it."),
                *sampler_inputs(),
                *size_inputs(),
                io.Int.Input("components", default=3, min=1, max=50, tooltip="How many directions to find, 1 to 50."),
                io.Int.Input(
                    "iterations",
                    default=50,
                    min=1,
                    max=1000,
                    tooltip="The most iterations at each noise level, 1 to 1000.",
                ),
                io.Float.Input(
                    "tolerance",
                    default=1e-4,
                    min=1e-6,
                    max=0.1,
                    step=1e-6,
                    round=1e-7,
                    tooltip="How exact the result must be: the residual over the largest singular value, 1e-6 to 0.1.",
                ),
                io.String.Input(
                    "at_percent",
                    default="all",
                    tooltip="At which parts of the sampling: all, or numbers from 0 to 1 with commas between: 0.2, 0.5",
                ),
                io.Combo.Input(
                    "position",
                    options=list(get_args(Position)),
                    default="after",
                    tooltip="after or before the UNet's middle block; inside: behind its first residual block.",
                ),
                io.Mask.Input(
                    "mask", optional=True, tooltip="The part of the picture to look at. Without a mask: all of it."
                ),
            ],
            outputs=[
                FOUND,
                io.Image.Output("chart", display_name="chart", tooltip="Singular values over the noise levels."),
            ],
        )

    @classmethod
    def validate_inputs(cls, at_percent: str | None = None) -> bool | str:
        return checked(percents, at_percent)

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: Any,
        negative: Any,
        seed: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        width: int,
        height: int,
        components: int,
        iterations: int,
        tolerance: float,
        at_percent: str,
        position: Position,
        mask: Tensor | None = None,
    ) -> io.NodeOutput:
        live, wanted = host.LiveView(), percents(at_percent)
        made_by = {"method": "jacobian", "seed": seed, "steps": steps, "cfg": cfg, "masked": mask is not None}

        def watch(found: Sequence[tuple[float, SingularDirections]], iterated: int) -> None:
            if not iterated:
                sigma, last = found[-1]
                live.say(f"sigma {sigma:.3g}: {', '.join(f'{value:.3g}' for value in last.values.tolist())}")
            live.bar(len(found) * iterations + iterated, (len(wanted) if wanted else steps) * iterations)

        with torch.inference_mode(False):  # what inference mode makes can't be differentiated
            sampling = host.Sampling(negative, steps, cfg, width, height, sampler_name, scheduler)
            directions = jacobian_directions(
                host.guided_decoders(
                    model, positive, seed, sampling, position=position, percents=wanted, progress=live.bar
                ),
                components=components,
                iterations=iterations,
                tolerance=tolerance,
                mask=None if mask is None else mask[0].clone(),
                bottleneck=host.HostBottleneck(model),
                position=position,
                made_by=made_by,
                watch=watch,
            )
        return io.NodeOutput(directions, values_chart(directions)[None])
