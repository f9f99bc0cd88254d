"""Helpers for trying several values and seeing the pictures side by side."""

from __future__ import annotations

from comfy_api.v0_0_2 import io
from torch import Tensor

from ..core.pictures.grid import label_each, labelled_grid
from ..core.pictures.sweep import sweep
from .connected import Node

CATEGORY = "ConceptLens/Helpers"


class StrengthSweep(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StrengthSweep",
            display_name="Strength Sweep",
            category=CATEGORY,
            description="Gives evenly spaced values: everything after this node runs once for each.",
            search_aliases=["sweep", "linspace", "xy plot", "range"],
            inputs=[
                io.Float.Input("start", default=-2.0, min=-1e6, max=1e6, step=0.1, tooltip="First value, -1e6 to 1e6."),
                io.Float.Input("stop", default=2.0, min=-1e6, max=1e6, step=0.1, tooltip="Last value, -1e6 to 1e6."),
                io.Int.Input(
                    "count", default=5, min=1, max=100, tooltip="Number of values, 1 to 100; 1 gives start alone."
                ),
            ],
            outputs=[
                io.Float.Output(
                    "value", display_name="value", tooltip="The values, one after another.", is_output_list=True
                ),
                io.String.Output("label", display_name="label", tooltip="The values as text.", is_output_list=True),
            ],
        )

    @classmethod
    def execute(cls, start: float, stop: float, count: int) -> io.NodeOutput:
        return io.NodeOutput(*sweep(start, stop, count))


class LabelledGrid(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LabelledGrid",
            display_name="Labelled Grid",
            category=CATEGORY,
            description="Puts many pictures into one, each under its label.",
            search_aliases=["grid", "contact sheet", "xy plot", "compare"],
            is_input_list=True,
            inputs=[
                io.Image.Input("images", tooltip="Pictures, as a list or a batch."),
                io.String.Input(
                    "labels",
                    force_input=True,
                    tooltip="One label for each picture or each batch of pictures. Each line of a text is a label of "
                    "its own.",
                ),
                io.Int.Input(
                    "columns",
                    default=0,
                    min=0,
                    max=100,
                    tooltip="Pictures in a row, 1 to 100; 0 makes the grid square.",
                ),
            ],
            outputs=[io.Image.Output("image", display_name="image", tooltip="The grid.")],
        )

    @classmethod
    def execute(cls, images: list[Tensor], labels: list[str], columns: list[int]) -> io.NodeOutput:
        pictures, captions = label_each(images, labels)
        return io.NodeOutput(labelled_grid(pictures, captions, columns[0])[None])
