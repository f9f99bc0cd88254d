"""Transformers and their text encoders seen through core's protocols."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from operator import attrgetter
from typing import Any

import comfy.model_management
import torch
from comfy.model_patcher import ModelPatcher
from comfy.sd import CLIP
from torch import Tensor
from torch.nn.functional import rms_norm

from ...core.errors import UserError
from ...core.model.protocols import Denoiser, PromptEncoder, Section
from ...core.model.text_tower import CONTEXT_LENGTH
from ...core.time_edit.families import TextEntry, entry_of
from ...core.time_edit.mix_edit import MixedPrompt
from .model import FAMILIES, HostDenoiser, PatchedLayers, effective_weight
from .text import CLIPS, HostPooledText, HostTextEncoder, plain_tokens, pooled_text_of, tokenizer_of


class HostTransformer(PatchedLayers):
    """A transformer as `core.model.protocols.Denoiser`.

    Raises UserError for a family without an entry in `core.time_edit.families`, and where its layer is not to be seen.
    """

    def __init__(self, model: ModelPatcher) -> None:
        self.entry: TextEntry = entry_of([kind.__name__ for kind in type(model.model.model_config).__mro__])
        family, weights = self.entry.family, model.model_state_dict()

        def named(pattern: str) -> dict[str, str]:
            """The keys of the layers of a pattern, by their names."""
            matches = (re.fullmatch(rf"diffusion_model\.({pattern})\.weight", key) for key in weights)
            keys = {match[1]: match[0] for match in matches if match}
            if not keys:
                raise UserError(
                    f"The {family} model does not show the layer that takes the prompt; make the edit on a plain copy "
                    "of the model, and use TIME Edit Conditioning on this one."
                )
            return keys

        def width_of(keys: Mapping[str, str]) -> int:
            layer: Any = model.get_model_object(f"diffusion_model.{next(iter(keys))}")
            return layer.in_features

        keys, pooled = named(self.entry.layer), None
        network = model.model.diffusion_model
        # Some of Flux.1's kin have no place for a pooled text, and few fill that for a norm.
        if self.entry.pooled and getattr(network, self.entry.pooled.split("\\")[0], None) is not None:
            pooled_keys = named(self.entry.pooled)
            pooled = PatchedLayers(model, family, pooled_keys, width_of(pooled_keys))
        super().__init__(model, family, keys, width_of(keys), pooled)
        self._norm: Any = attrgetter(self.entry.norm)(network) if self.entry.norm else None
        self._fusion: Any = attrgetter(self.entry.fused_by)(network) if self.entry.fused_by else None
        self.normed: bool = self._norm is not None or self.entry.adapted_by is not None

    def text_layers(self, keys: bool = True) -> list[str]:
        return [name for name in self._keys if keys or not name.endswith("k_proj")]

    def read(self, given: Mapping[str, Any]) -> Tensor:
        """A prompt's states (slots, width) as the layers read them, float32 on the CPU; `given`: what encoded it."""
        context: Any = given["cond"]
        if self.entry.adapted_by:
            comfy.model_management.load_models_gpu([self._model])
            extras = {name: value for name, value in given.items() if name != "cond"}
            conditions = self._model.model.extra_conds(cross_attn=context, device=self._model.load_device, **extras)
            context = conditions["c_crossattn"].cond
        if self._fusion is not None:
            return self._fused(context, self._fusion)
        states = context[0].float().cpu()
        if self._norm is None:
            return states
        key = f"diffusion_model.{self.entry.norm}.weight"
        return rms_norm(states, states.shape[-1:], effective_weight(key, self._patches[key]), self._norm.eps)

    def _fused(self, context: Tensor, fusion: Any) -> Tensor:
        """What Krea 2 makes of the states (1, slots, layers x width) of several of an encoder's layers."""
        network: Any = self._model.model.diffusion_model
        if context.shape[-1] != network.txtlayers * network.txtdim:
            raise UserError(
                f"The model ({self.family}) reads text contexts of width {network.txtlayers * network.txtdim}, the "
                f"text encoder makes {context.shape[-1]}; connect the one that the model was made for."
            )
        comfy.model_management.load_models_gpu([self._model])
        context = context.to(self._model.load_device, self._model.model.get_dtype_inference())
        return self._norm(fusion(context.unflatten(-1, (network.txtlayers, -1)))[0].float()).cpu()


class HostPromptEncoder:
    """A CLIP of the host as the `core.model.protocols.PromptEncoder` of a transformer."""

    def __init__(self, clip: CLIP, transformer: HostTransformer) -> None:
        self._clip, self._transformer = clip, transformer
        model = clip.cond_stage_model
        names = list(clip.tokenize(""))
        adapted_by = transformer.entry.adapted_by
        others = [name for name in names if name == adapted_by or not (adapted_by or name in CLIPS)]
        others = others or names[: not adapted_by]  # a transformer whose prompts CLIP reads
        has_clip = any(getattr(model, f"clip_{name}", None) is not None for name in CLIPS)
        self._clip_first: bool = transformer.entry.clip_first and has_clip and "l" in names
        if len(others) != 1:
            raise UserError(
                f"The text encoder is a {type(model).__name__}, which does not belong to {transformer.family}; connect "
                "the one that the model was made for."
            )
        (self._name,) = others
        (whole,) = self._clip.tokenize("")[self._name]
        (states,) = self.encode([""])
        self.width: int = states.shape[-1]
        rest = len(states) - (CONTEXT_LENGTH if self._clip_first else 0)
        self._has_rest: bool = rest > 0  # SD 3 may have been loaded without T5
        self._cut: int = max(0, len(whole) - rest)  # a template's beginning, which some leave out

    @property
    def pooled(self) -> HostPooledText | None:
        return self._pooled

    @cached_property
    def _pooled(self) -> HostPooledText | None:
        return pooled_text_of(self._clip)  # a pass through the encoder

    def sections(self, prompt: str) -> list[Section]:
        tokens = plain_tokens(self._clip, prompt)
        mine = self._unpadded(self._name, tokens[self._name])[self._cut :]
        clip = [Section(self._unpadded("l", tokens["l"]), CONTEXT_LENGTH)] if self._clip_first else []
        return [*clip, Section(mine, None)] if self._has_rest else clip

    def decode(self, tokens: Sequence[int]) -> str:
        return tokenizer_of(self._clip, "l" if self._clip_first else self._name).decode(list(tokens))

    def encode(self, prompts: Sequence[str]) -> Iterator[Tensor]:
        with torch.inference_mode():
            # All of them first: an adapter is in the model, and one of the two may have to make room for the other.
            given: list[Any] = [
                self._clip.encode_from_tokens(self._clip.tokenize(prompt), return_dict=True) for prompt in prompts
            ]
            states = [self._transformer.read(each) for each in given]
        yield from (each.clone() for each in states)

    def _unpadded(self, name: str, tokens: list[int]) -> list[int]:
        """The tokens without the padding behind them; CLIP pads with its end token, which stays once."""
        tokenizer, count = tokenizer_of(self._clip, name), len(tokens)
        while count and tokens[count - 1] == tokenizer.pad_token:
            count -= 1
        return tokens[: count + (tokenizer.pad_token == tokenizer.end_token)]


def denoiser_of(model: ModelPatcher) -> HostDenoiser | HostTransformer:
    """A UNet's or a transformer's layers that take text. Raises UserError for a family that is not known."""
    unet = isinstance(model.model.model_config, tuple(FAMILIES))
    return HostDenoiser(model) if unet else HostTransformer(model)


def read_by(denoiser: HostDenoiser | HostTransformer, conditioning: Any) -> MixedPrompt:
    """What the layers of a model that take text read of a CONDITIONING of one prompt."""
    ((context, others),) = conditioning
    given = {**others, "cond": context}
    states = denoiser.read(given) if isinstance(denoiser, HostTransformer) else context[0].float().cpu()
    pooled = others.get("pooled_output")
    return MixedPrompt(states.clone(), None if pooled is None else pooled.float().cpu().clone())


def prompt_encoder_of(clip: CLIP, denoiser: Denoiser) -> PromptEncoder:
    """What those layers are given for a prompt."""
    return HostPromptEncoder(clip, denoiser) if isinstance(denoiser, HostTransformer) else HostTextEncoder(clip)
