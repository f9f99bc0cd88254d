"""The layers of a text encoder, each as the host's clip skip gives it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import comfy.text_encoders.sd3_clip
from comfy.sd import CLIP

from ...core.errors import UserError
from .text import CLIPS


@dataclass(frozen=True, eq=False)
class EncoderLayer:
    """A place in a text encoder where a prompt is taken out."""

    label: str  # "layer 3 of 12"; of several encoders "layer 3 of 12, 23 of 32"
    clip: CLIP  # what it encodes are the states of this layer


def layers_of(clip: CLIP, count: int) -> list[EncoderLayer]:
    """`count` of a text encoder's layers from the first to the last that the model reads, as even as can be; or all.

    The last is the encoder without any clip skip, whatever `clip` has, and each before it what CLIP Set Last Layer
    makes: counted back from the end, in all encoders at once, as far as the one with the fewest layers goes. Raises
    UserError for an encoder whose layers the host does not tell, and for one of which the model reads several.
    """
    encoders = _encoders(clip)
    least = min(encoder.num_layers for encoder in encoders)
    ends = [_read_by_default(clip, encoder) for encoder in encoders]
    cuts = [*range(least, max(ends), -1), None]
    count = min(count, len(cuts))
    chosen = [cuts[round(place * (len(cuts) - 1) / max(1, count - 1))] for place in range(count)]
    return [
        EncoderLayer(_label(encoders, ends if cut is None else [cut] * len(ends)), _cut(clip, cut)) for cut in chosen
    ]


def _cut(clip: CLIP, cut: int | None) -> CLIP:
    """As CLIP Set Last Layer does it; None: without clip skip."""
    copy = clip.clone()
    layer: Any = None if cut is None else -cut
    copy.clip_layer(layer)
    return copy


def _label(encoders: list[Any], cuts: list[int]) -> str:
    places = [(encoder.num_layers - cut + 1, encoder.num_layers) for encoder, cut in zip(encoders, cuts, strict=True)]
    return "layer " + ", ".join(f"{layer} of {layers}" for layer, layers in places)


def _encoders(clip: CLIP) -> list[Any]:
    """The host's encoders whose states make the prompt."""
    model: Any = clip.cond_stage_model
    children, read = model.named_children(), clip.tokenize("")
    known = {name: child for path, child in children if (name := path.removeprefix("clip_")) in read and _tells(child)}
    # Beside another encoder CLIP gives the pooled text alone, which has no layers to choose from.
    others = [encoder for name, encoder in known.items() if name not in CLIPS]
    together = isinstance(model, comfy.text_encoders.sd3_clip.SD3ClipModel)
    encoders = others if others and not together else list(known.values())
    if not encoders:
        raise UserError(
            f"The CLIP is a {type(model).__name__}, of which ComfyUI does not tell how many layers it has; connect a "
            "text encoder that CLIP Set Last Layer works on: CLIP, T5 or Qwen."
        )
    return encoders


def _tells(encoder: Any) -> bool:
    return isinstance(getattr(encoder, "num_layers", None), int) and hasattr(encoder, "options_default")


def _read_by_default(clip: CLIP, encoder: Any) -> int:
    """The layer that the model reads without clip skip, counted back from the end: 1 is the last."""
    layer, place, *_ = encoder.options_default
    if layer not in ("last", "hidden"):
        raise UserError(
            f"The CLIP is a {type(clip.cond_stage_model).__name__}, of which the model reads several layers at once, "
            "so that no clip skip applies; connect the model and text encoder of a family that reads a single layer."
        )
    if layer == "last":
        return 1
    return -place if place < 0 else encoder.num_layers - place
