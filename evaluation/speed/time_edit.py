"""TIME from text states to LoRA factors, beside the published procedure written plainly, in one run.

Weights and states are random, of the shapes of SD 1.5, SDXL, Flux.1 and Z-Image. The states are the worst case for the
edit's rank: no two token slots share anything but the words that source and destination begin with.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import Tensor

from ...core.model.protocols import Family
from ...core.model.text_tower import CONTEXT_LENGTH
from ...core.time_edit.lora import LoraFactors, edit_denoiser, lora_state_dict, save_lora
from ...core.time_edit.time_edit import time_edit
from ..measures import Measure, peak_extra_megabytes, seconds

LAMBDA = 0.1
REPEATS = 5
PROMPTS = 4  # a pair and its three augmentations
SAME_START = 4  # slots before the first new word, as in "a pack of [blue] roses"
# Output widths of the cross-attention blocks; each has a key and a value projection.
SD1_BLOCKS = [320] * 2 + [640] * 2 + [1280] * 3 + [1280] * 3 + [640] * 3 + [320] * 3
SDXL_BLOCKS = [640] * 4 + [1280] * 20 + [1280] * 10 + [1280] * 30 + [640] * 6
SDXL_BASELINE_LAYERS = 2  # of each width: the published procedure takes many minutes on all 140


TRANSFORMERS = {"Flux.1": (4096, 3072), "Z-Image": (2560, 3840)}  # width and output width of the layer that reads text


class Projections:
    """Random projections of given shapes as `core.model.protocols.Denoiser`."""

    def __init__(self, family: str, width: int, outs: dict[str, int], dtype: torch.dtype) -> None:
        self.family: str = family
        self.pooled, self.normed = None, False
        self.context_width = width
        self.dtype = dtype
        self.weights = {name: torch.empty(out, width, dtype=dtype) for name, out in outs.items()}
        for weight in self.weights.values():
            weight.normal_(std=width**-0.5)

    @classmethod
    def of_unet(cls, family: Family, width: int, blocks: list[int]) -> Projections:
        """A UNet's keys and values, as checkpoints are published, in float16."""
        sizes = [(f"up_blocks.0.attentions.{number}.attn2", out) for number, out in enumerate(blocks)]
        return cls(family, width, {f"{name}.to_{kv}": out for name, out in sizes for kv in "kv"}, torch.float16)

    def text_layers(self, keys: bool = True) -> list[str]:
        return [name for name in self.weights if keys or name.endswith("to_v")]

    def text_weight(self, name: str) -> Tensor:
        return self.weights[name].float()


def random_states(width: int, prompts: int = PROMPTS) -> tuple[Tensor, Tensor]:
    """States and target states (prompts * 77, width), of CLIP's size."""
    states, targets = (torch.randn(prompts, CONTEXT_LENGTH, width) for _ in range(2))
    targets[:, :SAME_START] = states[:, :SAME_START]
    return states.flatten(0, 1), targets.flatten(0, 1)


def ours(denoiser: Projections, states: Tensor, targets: Tensor) -> dict[str, LoraFactors]:
    return edit_denoiser(time_edit(states, targets, LAMBDA), denoiser)


def published(weight: Tensor, states: Tensor, targets: Tensor) -> Tensor:
    """The paper's equation for one layer, prompt by prompt: sums of outer products, then an inverse."""
    width = weight.shape[1]
    numerator, denominator = LAMBDA * weight, LAMBDA * torch.eye(width)
    for context, target in zip(states.split(CONTEXT_LENGTH), targets.split(CONTEXT_LENGTH), strict=True):
        values = target @ weight.T
        numerator = numerator + (values[:, :, None] @ context[:, None, :]).sum(0)
        denominator = denominator + (context[:, :, None] @ context[:, None, :]).sum(0)
    return numerator @ denominator.inverse()


def published_seconds(denoiser: Projections, states: Tensor, targets: Tensor, per_width: int | None) -> float:
    """Time of the published procedure on all layers, or estimated from `per_width` layers of each output width."""
    by_width: dict[int, list[str]] = {}
    for name, weight in denoiser.weights.items():
        by_width.setdefault(len(weight), []).append(name)
    total = 0.0
    for names in by_width.values():
        timed = names[:per_width]
        spent = sum(seconds(lambda n=n: published(denoiser.text_weight(n), states, targets)) for n in timed)
        total += spent / len(timed) * len(names)
    return total


def file_megabytes(denoiser: Projections, states: Tensor, targets: Tensor) -> float:
    edit = time_edit(states, targets, LAMBDA)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "edit.safetensors"
        save_lora(path, lora_state_dict(edit_denoiser(edit, denoiser), denoiser.family))
        return path.stat().st_size / 1e6


def measure() -> list[Measure]:
    torch.manual_seed(0)
    with torch.inference_mode():
        sd1 = Projections.of_unet("SD 1.x", 768, SD1_BLOCKS)
        measures = speed_and_memory("SD 1.5", sd1, None)
        size = "TIME edit, SD 1.5: LoRA file of one pair"
        for name, prompts in ((size, 1), (f"{size} with its three augmentations", PROMPTS)):
            measures.append(Measure(name, file_megabytes(sd1, *random_states(768, prompts)), "MB", 1, None))
        sdxl = Projections.of_unet("SDXL", 2048, SDXL_BLOCKS)
        measures += speed_and_memory("SDXL", sdxl, SDXL_BASELINE_LAYERS)
        for family, (width, out) in TRANSFORMERS.items():
            entry = Projections(family, width, {"text": out}, torch.bfloat16)
            measures += speed_and_memory(f"{family}'s text entry", entry, None)
        return measures


def speed_and_memory(title: str, denoiser: Projections, per_width: int | None) -> list[Measure]:
    states, targets = random_states(denoiser.context_width)
    ours(
        Projections(denoiser.family, denoiser.context_width, {"small": 64}, torch.float16), states, targets
    )  # loads libraries
    memory = peak_extra_megabytes(lambda: ours(denoiser, states, targets))
    fast = [seconds(lambda: ours(denoiser, states, targets)) for _ in range(REPEATS)]
    slow = published_seconds(denoiser, states, targets, per_width)
    name, missing = f"TIME edit, {title}: ", None if memory else "needs Linux's /proc"
    return [
        Measure.of(name + "published / ours, time", [slow / time for time in fast], "x"),
        Measure.of(name + "ours, from text states to factors", fast, "s"),
        Measure(name + "peak extra memory", memory, "MB", 1, None, missing),
    ]
