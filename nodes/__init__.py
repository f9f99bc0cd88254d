"""The pack's nodes for ComfyUI."""

from __future__ import annotations

from comfy_api.v0_0_2 import ComfyExtension, io

from . import routes
from .bias import ConceptBias, TokenMixBalance
from .card import ConceptCard
from .decompose import ConceptDecompose
from .gallery import TokenMixGallery
from .grid import LabelledGrid, StrengthSweep
from .hspace import (
    HSpaceDirection,
    HSpaceDisentangle,
    HSpacePCA,
    HSpaceSample,
    LoadHSpaceDirections,
    SaveHSpaceDirections,
)
from .hspace_contrast import HSpaceContrast, HSpaceContrastByChoice, HSpaceContrastByText
from .hspace_jacobian import HSpaceJacobian
from .hspace_process import HSpaceInvert, SamplerAsyrp
from .image_decompose import ImageDecompose
from .model_edit import SaveTIMEEdit, TIMEEditBatch, TIMEEditModel
from .token_mix import (
    LoadTokenMix,
    SaveTokenMix,
    SaveTokenMixEmbedding,
    TokenMixConditioning,
    TokenMixFromText,
    TokenMixPlot,
)
from .vocabulary import VocabEmbed, VocabSearch
from .worlds import EmojiWorldLoader, FaceWorldLoader


class ConceptLensExtension(ComfyExtension):
    async def on_load(self) -> None:
        routes.register()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            *(VocabEmbed, VocabSearch, ConceptDecompose),
            *(TokenMixFromText, TokenMixConditioning, TokenMixPlot, TokenMixGallery),
            *(ImageDecompose, ConceptBias, TokenMixBalance, ConceptCard),
            *(SaveTokenMix, LoadTokenMix, SaveTokenMixEmbedding),
            *(HSpaceSample, HSpacePCA, HSpaceJacobian, HSpaceDisentangle, HSpaceDirection),
            *(HSpaceContrast, HSpaceContrastByText, HSpaceContrastByChoice, HSpaceInvert, SamplerAsyrp),
            *(SaveHSpaceDirections, LoadHSpaceDirections),
            *(TIMEEditModel, TIMEEditBatch, SaveTIMEEdit),
            *(EmojiWorldLoader, FaceWorldLoader, StrengthSweep, LabelledGrid),
        ]
