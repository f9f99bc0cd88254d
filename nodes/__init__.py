"""The pack's nodes for ComfyUI."""

from __future__ import annotations

from comfy_api.v0_0_2 import ComfyExtension, io

from .grid import LabelledGrid, StrengthSweep
from .model_edit import SaveTIMEEdit, TIMEEditBatch, TIMEEditModel


class ConceptLensExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [TIMEEditModel, TIMEEditBatch, SaveTIMEEdit, StrengthSweep, LabelledGrid]
