"""Where the text enters today's transformers: the table by which one edit serves all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import UserError


@dataclass(frozen=True)
class TextEntry:
    """How a family takes a prompt in."""

    family: str
    layer: str  # a pattern for the module paths of the linear layers that read a prompt's states
    norm: str | None = None  # the module path of the RMSNorm in front, where the model has it: normed states are read
    pooled: str | None = None  # a pattern for the linear layer that reads the pooled text, where the model has it
    clip_first: bool = False  # whether CLIP's states stand before those of the other encoder
    adapted_by: str | None = None  # the encoder for whose tokens an adapter in the model makes states of another's
    fused_by: str | None = None  # the module path of a transformer for prompts alone, in front of the norm


CROSS_ATTENTION = r"blocks\.\d+\.cross_attn\.[kv]_proj"  # keys and values, as in a UNet
# By the name of the host's class for the family's checkpoints.
ENTRIES = {
    "Flux": TextEntry("Flux.1", "txt_in", norm="txt_norm", pooled=r"vector_in\.in_layer"),
    "Flux2": TextEntry("Flux.2", "txt_in"),
    "Chroma": TextEntry("Chroma", "txt_in"),
    "SD3": TextEntry("SD 3", "context_embedder", pooled=r"y_embedder\.mlp\.0", clip_first=True),
    "AuraFlow": TextEntry("AuraFlow", "cond_seq_linear"),
    "PixArtAlpha": TextEntry("PixArt", r"y_embedder\.y_proj\.fc1"),
    "Anima": TextEntry("Anima", CROSS_ATTENTION, adapted_by="t5xxl"),
    "CosmosT2IPredict2": TextEntry("Cosmos-Predict2", CROSS_ATTENTION),
    "Lumina2": TextEntry("Lumina 2", r"cap_embedder\.1", norm="cap_embedder.0"),
    "ZImage": TextEntry("Z-Image", r"cap_embedder\.1", norm="cap_embedder.0"),
    "ErnieImage": TextEntry("Ernie-Image", "text_proj"),
    # The second layer reads the mean of what the first one does: linear, so that one map serves both.
    "HunyuanImage21": TextEntry("HunyuanImage", r"txt_in\.(?:input_embedder|c_embedder\.in_layer)"),
    "Krea2": TextEntry("Krea 2", r"txtmlp\.1", norm="txtmlp.0", fused_by="txtfusion"),
    "QwenImage": TextEntry("Qwen-Image", "txt_in", norm="txt_norm"),
    "Omnigen2": TextEntry(
        "OmniGen2",
        r"time_caption_embed\.caption_embedder\.1",
        norm="time_caption_embed.caption_embedder.0",
    ),
}
# Why others can't be edited.
REFUSED = {
    "HiDreamO1": "its prompts enter as tokens inside of the transformer, so that no layer takes their states",
    "HiDream": "each of its blocks takes states of its own, for which an edit each would be needed",
}


def entry_of(classes: Sequence[str]) -> TextEntry:
    """The entry of a model by the names of its class and those that it is derived from, the closest first.

    Raises UserError with the reason for a family without one.
    """
    for name in classes:
        if name in REFUSED:
            raise UserError(f"The model is a {name}, which TIME does not edit: {REFUSED[name]}.")
        if name in ENTRIES:
            return ENTRIES[name]
    known = ", ".join(dict.fromkeys(entry.family for entry in ENTRIES.values()))
    raise UserError(
        f"The model is a {classes[0]}; TIME edits SD 1.x, SD 2.x, SDXL, {known}. For another family its text entry has "
        "to be named: the layer that takes a prompt's states, and what stands in front of it (docs/extending.md)."
    )
