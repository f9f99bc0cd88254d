"""The host's UNet in two halves: to its bottleneck, and from there on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import apply_control, forward_timestep_embed
from comfy.ldm.modules.diffusionmodules.util import timestep_embedding
from torch import Tensor

from ...core.hspace.directions import Position
from ...core.hspace.jacobian import Decoder
from .patches import Options


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What the UNet was given for one picture."""

    x: Tensor  # (1, 4, height, width)
    timesteps: Tensor  # (1,)
    context: Tensor  # (1, tokens, width)
    label: Tensor | None  # (1, width), of SDXL
    control: Mapping[str, list[Tensor | None]]  # what a ControlNet adds at each place, the last one first
    options: Options  # with the patches that the UNet calls

    def copied(self, device: torch.device, dtype: torch.dtype) -> Evaluation:
        """The same elsewhere, whatever happens to its tensors; the patches are where they were."""

        def copy(part: Tensor) -> Tensor:
            return part.to(device, dtype, copy=True)

        return Evaluation(
            copy(self.x),
            self.timesteps.to(device, torch.float32, copy=True),
            copy(self.context),
            None if self.label is None else copy(self.label),
            {name: [None if part is None else copy(part) for part in parts] for name, parts in self.control.items()},
            self.options,
        )

    def repeated(self, count: int) -> Evaluation:
        """As many rows of it, which may be written into. Its options are a copy and say so."""

        def repeat(part: Tensor) -> Tensor:
            return part.repeat(count, *[1] * (part.ndim - 1))

        return Evaluation(
            repeat(self.x),
            repeat(self.timesteps),
            repeat(self.context),
            None if self.label is None else repeat(self.label),
            {name: [None if part is None else repeat(part) for part in parts] for name, parts in self.control.items()},
            {**self.options, "original_shape": [count, *self.x.shape[1:]]},
        )


def halves(unet: Any, given: Evaluation, position: Position) -> tuple[Tensor, Decoder]:
    """The bottleneck (channels, height, width) of one evaluation, and the UNet from there on.

    Both with the evaluation's ControlNets and patches, as the host's UNetModel.forward has them. The rest of the UNet
    runs once: the decoder keeps its skip connections and its embedding of the time. The bottleneck is what a patch at
    its place would see that is added as the last one.
    """
    inner = {"before": 0, "inside": 1, "after": len(unet.middle_block)}[position]
    given = given.repeated(1)
    options, patches = given.options, given.options.get("patches", {})
    with torch.no_grad():
        time = _embedded(unet, given)
        h, skips = given.x, []
        options["transformer_index"] = 0
        for number, block in enumerate(unet.input_blocks):
            options["block"] = ("input", number)
            h = apply_control(forward_timestep_embed(block, h, time, given.context, options), given.control, "input")
            for patch in patches.get("input_block_patch", []):
                h = patch(h, options)
            skips.append(h.clone())
            for patch in patches.get("input_block_patch_after_skip", []):
                h = patch(h, options)
        skips = [apply_control(skip, given.control, "output") for skip in reversed(skips)]
        options["block"] = ("middle", 0)
        h = forward_timestep_embed(unet.middle_block[:inner], h, time, given.context, options)
        if position == "after":
            h = _through_middle(unet, given, time, h, inner)

    def decode(rows: Tensor) -> Tensor:
        comfy.model_management.throw_exception_if_processing_interrupted()
        here, its_time = given.repeated(len(rows)), time.repeat(len(rows), 1)
        rows = rows.clone()  # patches write in place
        if position != "after":
            rows = _through_middle(unet, here, its_time, rows, inner)
        for number, (block, kept) in enumerate(zip(unet.output_blocks, skips, strict=True)):
            here.options["block"] = ("output", number)
            skip: Tensor | None = kept.repeat(len(rows), 1, 1, 1)
            for patch in patches.get("output_block_patch", []):
                rows, skip = patch(rows, skip, here.options)
            rows = rows if skip is None else torch.cat([rows, skip], 1)
            above = skips[number + 1].shape if number + 1 < len(skips) else None
            rows = forward_timestep_embed(block, rows, its_time, here.context, here.options, above)
        return unet.out(rows)

    return h[0], decode


def _embedded(unet: Any, given: Evaluation) -> Tensor:
    """The embedding of the time, and of SDXL's size and pooled text."""
    time = unet.time_embed(timestep_embedding(given.timesteps, unet.model_channels).to(given.x.dtype))
    for patch in given.options.get("patches", {}).get("emb_patch", []):
        time = patch(time, unet.model_channels, given.options)
    return time if given.label is None else time + unet.label_emb(given.label)


def _through_middle(unet: Any, given: Evaluation, time: Tensor, h: Tensor, first: int) -> Tensor:
    """From the layer `first` of the middle block to behind its patches."""
    h = forward_timestep_embed(unet.middle_block[first:], h, time, given.context, given.options)
    h = apply_control(h, given.control, "middle")
    state = {"x": given.x, "emb": time, "context": given.context, "y": given.label, "timesteps": given.timesteps}
    for patch in given.options.get("patches", {}).get("middle_block_after_patch", []):
        h = patch({**state, "h": h, "transformer_options": given.options})["h"]
    return h
