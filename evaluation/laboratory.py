"""EmojiWorld in one place: the trained model, its truth, its data and the judges that say what a picture shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from torch import Tensor, autocast
from tqdm import tqdm
from transformers import CLIPModel

from ..pipelines.adapter import denoiser_module
from ..pipelines.pictures import Sampling, sample
from ..world import weights
from ..world.classifier import Classifier
from ..world.emoji import encoders, language
from ..world.emoji.architecture import GUIDANCE, WEIGHTS
from ..world.emoji.captions import SEXES
from ..world.emoji.classifier import kinds
from ..world.emoji.part import part_of
from ..world.emoji.pictures import Pictures
from ..world.emoji.pipeline import emoji_world_pipeline, emoji_world_transformer_pipeline
from ..world.emoji.sources import Sources
from ..world.emoji.truth import Truth
from ..world.tokenizer import clip_tokenizer
from ..world.training import computing_dtype
from . import meters

STEPS = 12  # of DPM-Solver++, as explanations draw: half the time of 25 of DDIM
AT_ONCE = 32  # pictures
COMPILED = (8, AT_ONCE)  # rows of a batch


def _in_float32(_: Any, __: Any, said: Any) -> Any:
    first = said[0].float()
    return (first,) if isinstance(said, tuple) else Transformer2DModelOutput(first)


class Laboratory:
    """EmojiWorld, its truth, its data and its judges; by its transformer, the part of it that this was taught."""

    def __init__(self, packages: Path, transformer: bool = False) -> None:
        self.packages, self.transformer = packages, transformer
        self.truth = part_of(Truth.load()) if transformer else Truth.load()
        self.tokenizer = clip_tokenizer()
        self.kinds = list(kinds(Truth.load()))
        self.groups = {name: group for group, names in self.truth.groups.items() for name in names}

    @cached_property
    def pictures(self) -> Pictures:
        return Pictures(Sources(self.packages), self.truth)

    @cached_property
    def pipe(self) -> Any:
        """Compiled for batches of a few sizes, to which others are filled up: each further one would take a minute.

        The transformer is as it is.
        """
        pipe = self.fast_pipe()
        if self.transformer:
            return pipe
        compiled = torch.compile(pipe.unet.forward, dynamic=False)

        def filled(sample: Tensor, timestep: Any, encoder_hidden_states: Tensor, **how: Any) -> Any:
            count = len(sample)
            size = next((size for size in COMPILED if size >= count), count)
            rows, times = torch.arange(size).clamp(max=count - 1), torch.as_tensor(timestep).expand(count)
            inputs = (some[rows.to(some.device)] for some in (sample, times, encoder_hidden_states))
            result = compiled(*inputs, **how)
            kept = result[0][:count]
            return UNet2DConditionOutput(kept) if how.get("return_dict", True) else (kept,)

        pipe.unet.forward = filled
        return pipe

    def fast_pipe(self) -> Any:
        """The pipeline, whose UNet or transformer multiplies as it did in training."""
        made = emoji_world_transformer_pipeline if self.transformer else emoji_world_pipeline
        pipe = made("cuda" if torch.cuda.is_available() else "cpu")
        module = denoiser_module(pipe)
        module.to(memory_format=torch.channels_last)
        dtype = computing_dtype(pipe.device)
        as_trained = autocast(pipe.device.type, dtype, enabled=dtype != torch.float32)
        module.forward = as_trained(module.forward)
        if self.transformer:  # a flow's scheduler and the autoencoder go on in the precision of what it says
            module.register_forward_hook(_in_float32)
        return pipe

    @cached_property
    def clip(self) -> CLIPModel:
        return encoders.load()

    @cached_property
    def classifier(self) -> Classifier:
        model = Classifier(len(self.kinds))
        model.load_state_dict(weights.load("classifier", WEIGHTS))
        return model.eval()

    @cached_property
    def words(self) -> dict[str, int]:
        return language.whole_words(self.tokenizer)

    def sample(self, prompts: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
        """Pictures of each prompt, one a seed: (seeds, 3, 128, 128) in -1..1."""
        work = [(prompt, seed) for prompt, seeds in prompts.items() for seed in seeds]
        made: dict[str, list[Tensor]] = {prompt: [] for prompt in prompts}
        for start in tqdm(range(0, len(work), AT_ONCE), desc="pictures", leave=False):
            some = work[start : start + AT_ONCE]
            batch = some + [some[-1]] * (AT_ONCE - len(some))  # another size would be compiled anew
            sampling = Sampling(STEPS, GUIDANCE, sampler="dpmpp_2m")
            pictures = sample(self.pipe, [prompt for prompt, _ in batch], [seed for _, seed in batch], sampling)
            for (prompt, _), picture in zip(some, pictures[: len(some)].permute(0, 3, 1, 2) * 2 - 1, strict=True):
                made[prompt].append(picture)
        return {prompt: torch.stack(pictures) for prompt, pictures in made.items()}

    def seen(self, pictures: Tensor) -> list[list[str]]:
        """What the classifier sees in each picture: its five best kinds, best first."""
        best = self.logits(pictures).topk(5).indices
        return [[self.kinds[i] for i in row] for row in best.tolist()]

    @torch.no_grad()
    def logits(self, pictures: Tensor) -> Tensor:
        """How sure the classifier is of each of `kinds`: (pictures, kinds)."""
        return torch.cat([self.classifier(some) for some in pictures.split(AT_ONCE)])

    def colours(self, pictures: Tensor) -> list[str | None]:
        return [meters.shown_colour(picture) for picture in pictures.permute(0, 2, 3, 1) / 2 + 0.5]

    def sexes(self, profession: str, pictures: Tensor) -> list[str]:
        """Whether pictures (n, 3, height, width) in -1..1 of a profession show a man or a woman: "man", "woman"."""
        columns = [self.kinds.index(f"{name} {profession}") for name in SEXES.values()]
        return [list(SEXES)[i] for i in self.logits(pictures)[:, columns].argmax(1).tolist()]
