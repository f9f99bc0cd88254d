"""The host's own model as a denoiser without gradients: what it needs no second copy for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import comfy.model_management
import comfy.model_sampling
import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher
from comfy.sd import CLIP
from torch import Tensor

from ...core.errors import UserError
from ...core.model.diffusion import Prediction, flow_alphas_cumprod, flow_scale
from ...core.model.template import Template
from ...core.model.text_tower import Encoded, WordTable
from .language import HostLanguageEncoder
from .model import FLOW_TIMESTEPS
from .patches import check_evaluated, has_patches, wrappers_of
from .sampling import rows_at_once
from .text import encoded


class Conditionings:
    """CONDITIONINGs, for which their numbers stand as `Encoded` between a slot and the model that it belongs to.

    A family may read more than a context and a pooled text: masks, ids, states of several layers.
    """

    def __init__(self) -> None:
        self._kept: list[Any] = []

    def add(self, conditionings: Sequence[Any]) -> Encoded:
        """Their numbers (conditionings, 1)."""
        numbers = torch.arange(len(self._kept), len(self._kept) + len(conditionings))[:, None]
        self._kept += conditionings
        return Encoded(numbers, numbers)

    def __getitem__(self, number: int) -> Any:
        return self._kept[number]


class HostForward:
    """A MODEL as `core.model.diffusion.Diffusion` without gradients, evaluated where and as the host's samplers do.

    Of every family and precision that the host has, with all that a MODEL carries but step caches. Raises UserError for
    those, and for a sampling whose noise is not known.
    """

    def __init__(self, model: ModelPatcher, prompts: Conditionings) -> None:
        check_evaluated(wrappers_of(model), "which would answer in place of the model, while single steps are compared")
        self._model, self._prompts = model, prompts
        sampling: Any = model.get_model_object("model_sampling")
        if comfy.model_sampling.CONST in type(sampling).__bases__:
            # Noise levels are spread evenly in training, however they are shifted when the model draws.
            self._sigmas = torch.arange(1, FLOW_TIMESTEPS + 1) / FLOW_TIMESTEPS
            self.prediction: Prediction = "flow"
            self.alphas_cumprod: Tensor = flow_alphas_cumprod(self._sigmas)
            self._scale = flow_scale(self._sigmas)
        elif issubclass(type(sampling), (comfy.model_sampling.EPS, comfy.model_sampling.COSMOS_RFLOW)):
            # Whatever the model says, the host makes x_0 of it: the noise is the rest of x_0 + sigma eps.
            self._sigmas = sampling.sigmas.float().cpu()
            self.prediction = "epsilon"
            self.alphas_cumprod = 1 / (1 + self._sigmas**2)
            self._scale = (1 + self._sigmas**2).sqrt()
        else:
            names = ", ".join(base.__name__ for base in type(sampling).__bases__)
            raise UserError(
                f"The model samples as {names}, whose noise ConceptLens does not know; connect the model before nodes "
                "that change its sampling."
            )

    @torch.inference_mode()
    def predict(self, noisy: Tensor, timesteps: Tensor, encoded: Encoded) -> Tensor:
        numbers, timesteps = encoded.context[:, 0].cpu(), timesteps.cpu()
        shape = (-1, *[1] * (noisy.ndim - 1))
        sigmas, scale = self._sigmas[timesteps].view(shape), self._scale[timesteps].view(shape)
        x = noisy.float().cpu() * scale
        predicted = torch.empty_like(x)
        # Patches are told one noise level for all rows, as samplers have it.
        told = torch.stack([numbers, timesteps if has_patches(self._model) else torch.zeros_like(timesteps)], 1)
        for which in told.unique(dim=0):
            for rows in (told == which).all(1).nonzero().flatten().split(rows_at_once(self._model, x.shape)):
                clean = self._clean(x[rows], sigmas[rows].flatten(), self._prompts[int(which[0])])
                predicted[rows] = (x[rows] - clean) / sigmas[rows]
        return predicted.to(noisy.device)

    def _clean(self, x: Tensor, sigmas: Tensor, conditioning: Any) -> Tensor:
        """The x_0 of each row that the model sees in x at noise levels (n,), for one prompt without guidance."""
        guider = comfy.samplers.CFGGuider(self._model)
        conditions: Any = {"positive": conditioning}
        guider.inner_set_conds(conditions)
        once: Any = _Once(x, sigmas)
        guider.sample(torch.zeros_like(x), torch.zeros_like(x), once, torch.tensor([1.0, 0.0]), seed=0)
        return once.clean

    def make_room(self) -> bool:
        return False  # the host does when it loads the model

    def save_memory(self) -> bool:
        return False


class _Once:
    """What stands in a sampler's place: one evaluation of rows with noise levels of their own."""

    def __init__(self, x: Tensor, sigmas: Tensor) -> None:
        self._x, self._sigmas = x, sigmas
        self.clean = x

    def sample(self, guider: Any, sigmas: Tensor, extra_args: Any, callback: Any, noise: Tensor, *_: Any) -> Tensor:  # noqa: ARG002
        calc_cond_batch: Any = comfy.samplers.calc_cond_batch
        (found,) = calc_cond_batch(
            guider.inner_model,
            [guider.conds["positive"]],
            self._x.to(noise),
            self._sigmas.to(noise),
            extra_args["model_options"],
        )
        self.clean = found.float().cpu()
        return noise


class HostSlot:
    """`core.model.slot.PromptSlot` of T5 or a language model, by the host's own way from a prompt to CONDITIONING."""

    device = torch.device("cpu")

    def __init__(self, clip: CLIP, reader: HostLanguageEncoder, template: Template, prompts: Conditionings) -> None:
        self._clip, self._reader, self._template, self._prompts = clip, reader, template, prompts

    def check(self, name: str) -> None:
        (token,) = self._reader.tokenize(name or "dog")[1:2]
        self.encode([table.of([token]) for table in self._reader.words().values()])

    def encode(self, vectors: Sequence[Tensor]) -> Encoded:
        with torch.inference_mode():
            rows: Iterator[Any] = zip(*(vector.split(1) for vector in vectors), strict=True)
            found = [self._reader.conditioning(self._template, _Vectors(row)) for row in rows]
        return self._prompts.add(found)

    def named(self, name: str) -> Encoded:
        return self._prompts.add([encoded(self._clip, self._template.filled(name))])


class _Vectors:
    """A pseudo-token whose embeddings are known."""

    def __init__(self, vectors: Sequence[Tensor]) -> None:
        self._vectors = vectors

    def pseudo_token(self, tables: Sequence[WordTable]) -> list[Tensor]:  # noqa: ARG002
        return list(self._vectors)
