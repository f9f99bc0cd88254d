"""MODEL seen through core's protocols."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from weakref import WeakMethod

import comfy.lora
import comfy.model_management
import comfy.model_sampling
import comfy.ops
import comfy.supported_models
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher
from comfy.weight_adapter import LoRAAdapter
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from ...core.errors import UnreadableError, UserError
from ...core.hspace.directions import Position
from ...core.hspace.jacobian import Decoder
from ...core.model.diffusion import Prediction, flow_alphas_cumprod, flow_scale
from ...core.model.protocols import Family
from ...core.model.text_tower import Encoded
from ...core.time_edit.lora import LoraFactors
from .halves import Evaluation, halves
from .patches import POSITIVES, Options, check_prediction, has_patches, portable

FAMILIES: dict[type, Family] = {
    comfy.supported_models.SD15: "SD 1.x",
    comfy.supported_models.SD20: "SD 2.x",
    comfy.supported_models.SDXL: "SDXL",
}


FLOW_TIMESTEPS = 1000
SIZES = 6 * 256  # channels of SDXL's six sizes, behind its pooled text


def effective_weight(key: str, patches: Any) -> Tensor:
    """The weight as the host would load it: the stored one, dequantised, with the patches made so far.

    float32 on the CPU, the caller's own, and no inference tensor outside of inference mode.
    """
    (stored, convert), *applied = patches
    weight = convert(stored.to(torch.device("cpu"), torch.float32, copy=True), inplace=True)
    if not stored.is_floating_point() or type(weight) is not Tensor:
        raise UnreadableError(
            f"The weight {key} is quantised as {type(stored).__name__} of {stored.dtype}, which ConceptLens can't "
            "read; load the model in float16, bfloat16 or float32."
        )
    calculate_weight: Any = comfy.lora.calculate_weight
    return calculate_weight(applied, weight, key).detach()


def family_of(model: ModelPatcher) -> Family:
    """Raises UserError for models of other families."""
    config = model.model.model_config
    families: list[Family] = [family for kind, family in FAMILIES.items() if isinstance(config, kind)]
    if not families:
        raise UserError(
            f"The model is a {type(config).__name__}; ConceptLens edits the cross-attention of SD 1.x, SD 2.x and "
            "SDXL: load such a checkpoint."
        )
    return families[0]


class PatchedLayers:
    """Linear layers of a MODEL that read a context, by names that stand for the host's keys."""

    def __init__(
        self,
        model: ModelPatcher,
        family: str,
        keys: Mapping[str, str],
        context_width: int,
        pooled: PatchedLayers | None = None,
        behind: int = 0,
    ) -> None:
        """`behind`: channels of the weights behind those of the context."""
        self._model, self._keys = model, dict(keys)
        self.family, self.context_width, self.pooled, self._behind = family, context_width, pooled, behind
        self._patches = model.get_key_patches("diffusion_model.")
        self.dtype: torch.dtype = model.model_dtype() or torch.float32

    def text_layers(self, keys: bool = True) -> list[str]:  # noqa: ARG002  (for those that have any)
        return list(self._keys)

    def text_weight(self, name: str) -> Tensor:
        key = self._keys[name]
        weight = effective_weight(key, self._patches[key])
        if weight.shape[-1] != self.context_width + self._behind:
            raise UnreadableError(
                f"The weight {key} reads {weight.shape[-1]} channels instead of {self.context_width}: it is packed "
                "in a way that ConceptLens can't read; load the model in float16, bfloat16 or float32."
            )
        return weight

    def patched(self, factors: Mapping[str, LoraFactors]) -> ModelPatcher:
        """A clone of the MODEL to which the host adds the factors on loading; the shared weights stay as they are."""
        clone = self._model.clone()
        adapters = {
            name: LoRAAdapter(set(), (up, down, None, None, None, None)) for name, (up, down) in factors.items()
        }
        keys = self._keys | (self.pooled._keys if self.pooled else {})
        clone.add_patches({keys[name]: adapter for name, adapter in adapters.items()})
        return clone


class HostDenoiser(PatchedLayers):
    """The UNet of a MODEL as `core.model.protocols.Denoiser`."""

    def __init__(self, model: ModelPatcher) -> None:
        family = family_of(model)
        self.normed = False
        config = model.model.model_config
        diffusers_names = {v: k for k, v in comfy.utils.unet_to_diffusers(config.unet_config).items()}
        pattern = re.compile(r"diffusion_model\.(.*\.attn2\.to_[kv]\.weight)$")
        matches = [match for key in model.model_state_dict() if (match := pattern.match(key))]
        keys = {
            diffusers_names[match[1]].removesuffix(".weight"): match[0]
            for match in matches
            if match[1] in diffusers_names
        }
        if not matches or len(keys) < len(matches):
            raise UserError(
                f"The {family} model does not show the weights of its cross-attention ({len(keys)} found); "
                "connect it before nodes that compile, quantise or replace it."
            )
        pooled = None
        if family == "SDXL":  # the first of two layers that read the pooled text with the sizes behind it
            name = {"add_embedding.linear_1": "diffusion_model.label_emb.0.0.weight"}
            text = config.unet_config["adm_in_channels"] - SIZES
            pooled = PatchedLayers(model, family, name, text, behind=SIZES)
        super().__init__(model, family, keys, config.unet_config["context_dim"], pooled)

    def text_layers(self, keys: bool = True) -> list[str]:
        return [name for name in self._keys if keys or name.endswith("to_v")]


def plain_attention(
    _: Any,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: int,
    mask: Tensor | None = None,
    skip_reshape: bool = False,
    **__: Any,
) -> Tensor:
    """Attention (n, tokens, width) in place of the host's, whose kernels may have no derivatives.

    Keys and values come in as many parts as queries, as the host has them: a patch that cuts queries counts on it. With
    `skip_reshape` they come as (n, heads, tokens, channels) already.
    """
    if not skip_reshape:
        q, k, v = (part.reshape(len(q), -1, heads, part.shape[-1] // heads).transpose(1, 2) for part in (q, k, v))
    return scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)


DIFFERENTIABLE = {"optimized_attention_override": plain_attention}  # as transformer options


def is_flow(model: ModelPatcher) -> bool:
    """Whether the model is a transformer of Flux.1's class, which draws by a rectified flow."""
    return isinstance(model.model.model_config, comfy.supported_models.Flux)


def prediction_of(model: ModelPatcher) -> Prediction:
    """What the model's UNet or transformer predicts.

    Raises UserError for other models than UNets and Flux.1, and for other samplings than training's.
    """
    sampling: Any = model.get_model_object("model_sampling")
    parts = comfy.model_sampling
    if is_flow(model) and parts.CONST in type(sampling).__bases__:
        return "flow"
    family_of(model)  # refuses other models
    kinds: dict[type, Prediction] = {parts.EPS: "epsilon", parts.V_PREDICTION: "v", parts.X0: "sample"}
    # Not by isinstance: EDM and LCM are subclasses, and count their timesteps or their target in other ways.
    kind: Prediction | None = next((name for cls, name in kinds.items() if cls in type(sampling).__bases__), None)
    if kind is None or comfy.model_sampling.ModelSamplingDiscrete not in type(sampling).__bases__:
        names = ", ".join(base.__name__ for base in type(sampling).__bases__)
        raise UserError(
            f"The model samples as {names}; ConceptLens reads epsilon, v and x0 at training's timesteps: "
            "connect the model before nodes that change its sampling."
        )
    return kind


class HostDiffusion:
    """A MODEL as `core.model.diffusion.Diffusion`: a private copy of its UNet or transformer, all patches applied.

    Raises UserError for what a MODEL may carry that such a copy can't have. The host's own UNet is made of inference
    tensors, which stop a backward pass, and may be streamed or evicted at any time. Make and use it inside of
    `torch.inference_mode(False)`. In half precision where the device has it, unless `exact`.
    """

    def __init__(self, model: ModelPatcher, exact: bool = False) -> None:
        self.prediction: Prediction = prediction_of(model)
        check_prediction(model)
        config = model.model.model_config
        sampling: Any = model.get_model_object("model_sampling")
        management: Any = comfy.model_management
        device = management.get_torch_device()
        half = not exact and management.should_use_bf16(device)
        self._dtype = torch.bfloat16 if half else torch.float32
        self._model: Any = model.model
        if self.prediction == "flow":
            # Noise levels are spread evenly in training, however they are shifted when the model draws.
            self._sigmas = torch.arange(1, FLOW_TIMESTEPS + 1) / FLOW_TIMESTEPS
            self.alphas_cumprod: Tensor = flow_alphas_cumprod(self._sigmas)
        else:
            self.alphas_cumprod = 1 / (1 + sampling.sigmas.float().cpu() ** 2)
        settings = {**config.unet_config, "dtype": self._dtype}
        unet: Any = type(self._model.diffusion_model)(  # without memory: each weight comes in its place once, below
            **settings, device=torch.device("meta"), operations=comfy.ops.disable_weight_init
        )
        prefix = "diffusion_model."
        patches = model.get_key_patches(prefix)
        count = sum(stored.numel() for (stored, _), *_ in patches.values())
        management.free_memory(count * self._dtype.itemsize, device)
        # Each in the UNet's precision: where the host streams weights, a layer takes that of what is loaded into it.
        unet.load_state_dict(
            {key.removeprefix(prefix): effective_weight(key, patches[key]).to(device, self._dtype) for key in patches},
            assign=True,
        )
        self._checkpointed = False
        self._unet: Any = unet.eval().requires_grad_(False)
        self._sampling: Any = sampling
        self._patched: bool = has_patches(model)
        self._options: Options = model.model_options["transformer_options"]
        self._copies: dict[int, Any] = {}  # of the patches

    def predict(self, noisy: Tensor, timesteps: Tensor, encoded: Encoded) -> Tensor:
        if self.prediction == "flow":
            return self._velocity(noisy, timesteps, encoded)
        if not self._patched:
            return self._predict(noisy, timesteps, encoded)
        # Patches are told one noise level for all rows, as samplers have it.
        places = [(timesteps == timestep).nonzero().flatten() for timestep in timesteps.unique()]
        parts = [
            self._predict(noisy[rows], timesteps[rows], Encoded(*(part[rows.to(part.device)] for part in encoded)))
            for rows in places
        ]
        return torch.cat(parts)[torch.cat(places).argsort()]

    def _predict(self, noisy: Tensor, timesteps: Tensor, encoded: Encoded) -> Tensor:
        device = next(self._unet.parameters()).device
        size = None
        if self._model.adm_channels:
            height, width = (8 * side for side in noisy.shape[-2:])
            sizes = {"width": width, "height": height, "target_width": width, "target_height": height}
            size = self._model.encode_adm(pooled_output=encoded.pooled, **sizes, device=device)
            size = size.to(device, self._dtype)
        context = encoded.context.to(device, self._dtype)
        options = self._given(self._options) | {
            "cond_or_uncond": [0],
            "uuids": ["fitted"],
            POSITIVES: frozenset(["fitted"]),
            "sigmas": self._sampling.sigma(timesteps.float().cpu()).to(device),
            "sample_sigmas": torch.cat([self._sampling.sigmas.flip(0).cpu(), torch.zeros(1)]).to(device),
        }
        how = {"context": context, "y": size, "transformer_options": options}
        output = self._unet(noisy.to(device, self._dtype), timesteps.float().to(device), **how)
        return output.float().to(noisy.device)  # the text encoder, and with it the loss, may be elsewhere

    def _velocity(self, noisy: Tensor, timesteps: Tensor, encoded: Encoded) -> Tensor:
        """What a transformer says of latents that are scaled as those of a UNet."""
        device = next(self._unet.parameters()).device
        sigmas = self._sigmas[timesteps.cpu()]
        x = noisy * flow_scale(sigmas).view(-1, 1, 1, 1).to(noisy)
        context, pooled = (part.to(device, self._dtype) for part in encoded)
        given = {"context": context, "y": pooled, "transformer_options": self._given(self._options)}
        with differentiable():
            output = self._unet(x.to(device, self._dtype), self._sampling.timestep(sigmas).to(device), **given)
        return output.float().to(noisy.device)

    def halves(self, given: Evaluation, position: Position) -> tuple[Tensor, Decoder]:
        """The bottleneck (channels, height, width) of one evaluation, and the UNet from there on."""
        device = next(self._unet.parameters()).device
        given = replace(given.copied(device, self._dtype), options=self._given(given.options))
        return halves(self._unet, given, position)

    def _given(self, options: Options) -> Options:
        return {**portable(options, next(self._unet.parameters()).device, self._dtype, self._copies), **DIFFERENTIABLE}

    def make_room(self) -> bool:
        return bool(comfy.model_management.free_memory(1e30, next(self._unet.parameters()).device))

    def save_memory(self) -> bool:
        if self._checkpointed or self.prediction == "flow":
            return False
        for block in (*self._unet.input_blocks, self._unet.middle_block, *self._unet.output_blocks):
            for layer in block:
                layer.forward = checkpointed(layer)
        self._checkpointed = True
        return True


@contextmanager
def differentiable() -> Iterator[None]:
    """Inside, the host's transformers can be differentiated, as when it trains LoRAs of them.

    Their blocks write into what a backward pass needs: it gets copies, but of weights.
    """
    management: Any = comfy.model_management
    before, management.in_training = management.in_training, torch.is_grad_enabled()
    try:
        with saved_tensors_hooks(lambda kept: kept if kept.is_leaf else kept.clone(), lambda kept: kept):
            yield
    finally:
        management.in_training = before


def checkpointed(layer: torch.nn.Module) -> Callable[..., Any]:
    """The layer's forward, computed anew in a backward pass."""
    forward = WeakMethod(layer.forward)  # weak: a layer that held itself would keep its memory until it is collected

    def run(*inputs: Any, **named: Any) -> Any:
        # The UNet writes into its transformer options as it goes on: each layer keeps what they are now.
        inputs = tuple(dict(each) if isinstance(each, dict) else each for each in inputs)
        return checkpoint(forward(), *inputs, use_reentrant=False, **named)

    return run
