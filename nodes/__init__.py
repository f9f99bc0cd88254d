"""The pack's nodes for ComfyUI."""

from __future__ import annotations

from comfy_api.v0_0_2 import ComfyExtension, io

from . import routes
from .conceptor.audit import ModelAudit
from .conceptor.bias import ConceptBias, TokenMixBalance
from .conceptor.card import ConceptCard
from .conceptor.decompose import ConceptDecompose
from .conceptor.gallery import TokenMixGallery
from .conceptor.image_decompose import ImageDecompose
from .conceptor.layer_lens import LayerLens
from .conceptor.token_mix import (
    LoadTokenMix,
    SaveTokenMix,
    SaveTokenMixEmbedding,
    TokenMixConditioning,
    TokenMixFromText,
    TokenMixPlot,
)
from .conceptor.vocabulary import VocabEmbed, VocabSearch
from .grid import LabelledGrid, StrengthSweep
from .hspace.contrast import HSpaceContrast, HSpaceContrastByChoice, HSpaceContrastByText
from .hspace.directions import (
    HSpaceDirection,
    HSpaceDisentangle,
    HSpacePCA,
    HSpaceSample,
    LoadHSpaceDirections,
    SaveHSpaceDirections,
)
from .hspace.jacobian import HSpaceJacobian
from .hspace.process import HSpaceInvert, SamplerAsyrp
from .time_edit.edit import SaveTIMEEdit, TIMEEditBatch, TIMEEditConditioning, TIMEEditModel
from .time_edit.mix import SaveTokenMixEdit
from .worlds import EmojiWorldLoader, FaceWorldLoader


class ConceptLensExtension(ComfyExtension):
    async def on_load(self) -> None:
        routes.register()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            *(VocabEmbed, VocabSearch, ConceptDecompose),
            *(TokenMixFromText, TokenMixConditioning, TokenMixPlot, TokenMixGallery),
            *(ImageDecompose, ConceptBias, TokenMixBalance, ConceptCard, ModelAudit, LayerLens),
            *(SaveTokenMix, LoadTokenMix, SaveTokenMixEmbedding, SaveTokenMixEdit),
            *(HSpaceSample, HSpacePCA, HSpaceJacobian, HSpaceDisentangle, HSpaceDirection),
            *(HSpaceContrast, HSpaceContrastByText, HSpaceContrastByChoice, HSpaceInvert, SamplerAsyrp),
            *(SaveHSpaceDirections, LoadHSpaceDirections),
            *(TIMEEditModel, TIMEEditBatch, TIMEEditConditioning, SaveTIMEEdit),
            *(EmojiWorldLoader, FaceWorldLoader, StrengthSweep, LabelledGrid),
        ]
