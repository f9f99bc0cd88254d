"""Directions in the bottleneck of the UNet, found and applied."""

from __future__ import annotations

from typing import Any, get_args

from comfy_api.v0_0_2 import io

from ...core.hspace.directions import HSpaceDirections, Position, check_window, disentangled
from ...core.hspace.parsing import counted
from ...core.hspace.pca import pca
from ...core.hspace.samples import HSpaceSamples
from ...core.model.studio import seeds_from
from ...core.pictures.hspace_charts import variance_chart
from .. import host
from ..connected import Node, in_range
from ..files import Loading, Saving
from ..inputs import checked, sampler_inputs, seed_input, size_inputs

CATEGORY = "ConceptLens/h-space"
SamplesType = io.Custom("HSPACE_SAMPLES")
DirectionsType = io.Custom("HSPACE_DIRECTIONS")
DIRECTIONS_TOOLTIP = "Directions, from PCA, Contrast or Jacobian, or from a file."
FOUND = DirectionsType.Output(
    "directions", display_name="directions", tooltip="The directions that were found, for HSpaceDirection."
)


class HSpaceSample(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HSpaceSample",
            display_name="h-space Sample",
            category=CATEGORY,
            description="Draws pictures and records what the UNet's bottleneck holds at each noise level.",
            search_aliases=["bottleneck", "latent direction", "capture", "semantic"],
            inputs=[
                io.Model.Input("model", tooltip="SD 1.x, SD 2.x or SDXL."),
                io.Conditioning.Input("positive", tooltip="The prompt of all pictures."),
                io.Conditioning.Input("negative", tooltip="The negative prompt."),
                io.Vae.Input("vae", tooltip="The model's VAE."),
                io.Int.Input(
                    "samples", default=100, min=1, max=10_000, tooltip="How many pictures to draw, 1 to 10000."
                ),
                seed_input("The seed of the first picture; the others use the seeds that follow."),
                *sampler_inputs(),
                *size_inputs(),
                io.Int.Input("batch_size", default=4, min=1, max=64, tooltip="Pictures drawn at once, 1 to 64."),
                io.Combo.Input(
                    "position",
                    options=list(get_args(Position)),
                    default="after",
                    tooltip="Where the bottleneck is read, and later shifted: after or before the UNet's middle block; "
                    "inside: behind its first residual block.",
                ),
            ],
            outputs=[
                SamplesType.Output("samples", display_name="samples", tooltip="The bottleneck of each picture."),
                io.Image.Output("images", display_name="images", tooltip="The pictures, in the order of their seeds."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: Any,
        negative: Any,
        vae: Any,
        samples: int,
        seed: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        width: int,
        height: int,
        batch_size: int,
        position: Position,
    ) -> io.NodeOutput:
        made_by = {
            "seed": seed,
            "samples": samples,
            "steps": steps,
            "cfg": cfg,
            "sampler": sampler_name,
            "scheduler": scheduler,
            "width": width,
            "height": height,
        }
        found, pictures = host.sample_bottleneck(
            model,
            vae,
            positive,
            seeds_from(seed, samples),
            host.Sampling(negative, steps, cfg, width, height, sampler_name, scheduler),
            at_once=batch_size,
            position=position,
            made_by=made_by,
            progress=host.LiveView().bar,
        )
        return io.NodeOutput(found, pictures)


class HSpacePCA(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HSpacePCA",
            display_name="h-space PCA",
            category=CATEGORY,
            description="Finds the directions in which pictures of one prompt differ most, the largest first.",
            search_aliases=["principal components", "semantic direction", "bottleneck"],
            inputs=[
                SamplesType.Input(
                    "samples", tooltip="From h-space Sample. There must be more pictures than components."
                ),
                io.Int.Input(
                    "components", default=10, min=1, max=1000, tooltip="How many directions to find, 1 to 1000."
                ),
                io.Boolean.Input(
                    "per_step",
                    default=True,
                    tooltip="On: components of each noise level separately. Off: of whole trajectories, with one "
                    "spread.",
                ),
            ],
            outputs=[
                FOUND,
                io.Image.Output(
                    "chart", display_name="chart", tooltip="The share of the variance that each component explains."
                ),
            ],
        )

    @classmethod
    def execute(cls, samples: HSpaceSamples, components: int, per_step: bool) -> io.NodeOutput:
        directions, shares = pca(samples, components, per_step)
        return io.NodeOutput(directions, variance_chart(directions, shares)[None])


class HSpaceDisentangle(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HSpaceDisentangle",
            display_name="h-space Disentangle",
            category=CATEGORY,
            description="Removes from directions what they share with others: age without glasses.",
            search_aliases=["orthogonal", "projection", "semantic direction"],
            inputs=[
                DirectionsType.Input("directions", tooltip=DIRECTIONS_TOOLTIP),
                DirectionsType.Input("remove", tooltip="The directions whose effect to take out."),
                io.String.Input(
                    "remove_indices",
                    default="0",
                    tooltip="Which of those to take out, counted from 0: 0, 2, 3. Empty: all.",
                ),
            ],
            outputs=[FOUND],
        )

    @classmethod
    def validate_inputs(cls, remove_indices: str | None = None) -> bool | str:
        return checked(counted, remove_indices)

    @classmethod
    def execute(cls, directions: HSpaceDirections, remove: HSpaceDirections, remove_indices: str) -> io.NodeOutput:
        chosen = counted(remove_indices) or range(len(remove))
        return io.NodeOutput(disentangled(directions, remove.chosen(chosen)))


class HSpaceDirection(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HSpaceDirection",
            display_name="h-space Direction",
            category=CATEGORY,
            description="Adds a direction to the bottleneck while the model samples. Several in a row add up. Remove "
            "or bypass the node, and the model is what it was.",
            search_aliases=["apply direction", "semantic", "slider", "bottleneck", "attribute"],
            inputs=[
                io.Model.Input("model", tooltip="The model that the directions were found on, or one like it."),
                DirectionsType.Input("directions", tooltip=DIRECTIONS_TOOLTIP),
                io.Int.Input("index", default=0, min=0, max=10_000, tooltip="Which direction to use, counted from 0."),
                io.Float.Input(
                    "scale",
                    default=1.0,
                    min=-1000.0,
                    max=1000.0,
                    step=0.1,
                    tooltip="Strength. PCA: standard deviations. Contrast: 1 is the distance between the two sets. "
                    "Below 0: the opposite way; 0: nothing changes.",
                ),
                io.Float.Input(
                    "start_percent",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Where in the sampling the direction starts to act, 0 to 1.",
                ),
                io.Float.Input(
                    "end_percent",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Where in the sampling it stops, 0 to 1.",
                ),
                io.Combo.Input(
                    "apply_to",
                    options=["both", "positive"],
                    default="both",
                    tooltip="both: the positive and the negative prompt. positive: the first alone, so that guidance "
                    "multiplies the effect.",
                ),
            ],
            outputs=[io.Model.Output("model", display_name="model", tooltip="The model with the direction.")],
        )

    @classmethod
    def validate_inputs(cls, start_percent: float | None = None, end_percent: float | None = None) -> bool | str:
        said = checked(check_window, start_percent, end_percent)
        return said if said is not True else in_range(cls, start_percent=start_percent, end_percent=end_percent)

    @classmethod
    def execute(
        cls,
        model: Any,
        directions: HSpaceDirections,
        index: int,
        scale: float,
        start_percent: float,
        end_percent: float,
        apply_to: str,
    ) -> io.NodeOutput:
        window = {"start": start_percent, "end": end_percent, "positive_only": apply_to == "positive"}
        return io.NodeOutput(host.HostBottleneck(model).shifted(directions, index, scale, **window))


class SaveHSpaceDirections(Saving):
    FOLDER = host.DIRECTIONS

    @classmethod
    def define_schema(cls) -> io.Schema:
        return cls.schema(
            DirectionsType.Input("directions", tooltip=DIRECTIONS_TOOLTIP),
            "directions",
            node_id="SaveHSpaceDirections",
            display_name="Save h-space Directions",
            category=CATEGORY,
            description="Saves directions in a file that Load h-space Directions reads.",
            search_aliases=["export direction", "save direction"],
        )


class LoadHSpaceDirections(Loading):
    FOLDER, KIND = host.DIRECTIONS, HSpaceDirections

    @classmethod
    def define_schema(cls) -> io.Schema:
        return cls.schema(
            FOUND,
            node_id="LoadHSpaceDirections",
            display_name="Load h-space Directions",
            category=CATEGORY,
            description="Loads directions that Save h-space Directions has saved.",
            search_aliases=["import direction", "load direction"],
        )
