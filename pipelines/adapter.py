"""Diffusers pipelines seen through core's protocols: SD 1.x, SD 2.x, SDXL, and Flux.1 whose prompts CLIP reads."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import FluxPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline
from torch import Tensor

from ..core.errors import UserError
from ..core.model.diffusion import Prediction, flow_alphas_cumprod, flow_scale
from ..core.model.protocols import Family, Section
from ..core.model.text_tower import CONTEXT_LENGTH, Encoded, TextTower
from ..core.time_edit.lora import DIFFUSERS_NAMES

Pipeline = StableDiffusionPipeline | StableDiffusionXLPipeline | FluxPipeline


def denoiser_module(pipe: Pipeline) -> Any:
    """The UNet or the transformer of a pipeline."""
    return pipe.transformer if isinstance(pipe, FluxPipeline) else pipe.unet


def reads_pooled(pipe: Pipeline) -> bool:
    """Whether a pooled text enters beside the context."""
    return isinstance(pipe, StableDiffusionXLPipeline | FluxPipeline)


class DiffusersTextEncoder:
    """A pipeline's text encoders as `core.model.protocols.OpenTextEncoder`.

    Raises UserError for a Flux.1 whose prompts T5 reads.
    """

    def __init__(self, pipe: Pipeline) -> None:
        two = isinstance(pipe, StableDiffusionXLPipeline)
        flux = isinstance(pipe, FluxPipeline)  # whose second encoder gives the context, and the first the pooled text
        self._suffixes = ("", "_2") if two else ("_2",) if flux else ("",)
        encoders: list[Any] = [getattr(pipe, f"text_encoder{suffix}") for suffix in self._suffixes]
        if flux and encoders[0].config.model_type != "clip_text_model":
            raise UserError(
                f"The prompts of this Flux.1 are read by a {type(encoders[0]).__name__}; here ConceptLens reads those "
                "of CLIP: use the model in ComfyUI."
            )
        self._pipe = pipe
        self.width: int = sum(encoder.config.hidden_size for encoder in encoders)
        self.family: Family = "SDXL" if two else "SD 2.x" if self.width == 1024 else "SD 1.x"

    def tokenize(self, prompt: str) -> list[int]:
        return list(self._pipe.tokenizer(prompt).input_ids)

    def sections(self, prompt: str) -> list[Section]:
        return [Section(self.tokenize(prompt), CONTEXT_LENGTH)]

    def decode(self, tokens: Sequence[int]) -> str:
        return self._pipe.tokenizer.decode(list(tokens))

    def encode(self, prompts: Sequence[str]) -> Tensor:
        return _encoded(self._pipe, prompts)[0].float().cpu()

    @property
    def pooled(self) -> DiffusersPooledText | None:
        return DiffusersPooledText(self._pipe) if reads_pooled(self._pipe) else None

    def vocabulary(self) -> list[str]:
        entries: dict[str, int] = self._pipe.tokenizer.get_vocab()
        return sorted(entries, key=lambda entry: entries[entry])

    def towers(self) -> list[TextTower]:
        two = self.family == "SDXL"
        names = ("clip_l", "clip_g") if two else ("clip_h" if self.family == "SD 2.x" else "clip_l",)
        towers = []
        for name, suffix in zip(names, self._suffixes, strict=True):
            encoder, tokenizer = (getattr(self._pipe, part + suffix) for part in ("text_encoder", "tokenizer"))
            towers.append(
                TextTower(
                    name=name,
                    weights=_effective_weights(encoder),
                    heads=encoder.config.num_attention_heads,
                    activation="quick_gelu" if encoder.config.hidden_act == "quick_gelu" else "gelu",
                    layer=-2 if two else -1,
                    normed=not two,
                    start=tokenizer.bos_token_id,
                    end=tokenizer.eos_token_id,
                    pad=tokenizer.pad_token_id,
                    projects=two,
                )
            )
        return towers


class DiffusersPooledText:
    """The pooled text of SDXL or Flux.1 as `core.model.protocols.PromptStates`."""

    def __init__(self, pipe: Pipeline) -> None:
        self._pipe: Any = pipe
        self.width: int = pooled_width(pipe)

    def encode(self, prompts: Sequence[str]) -> Tensor:
        return _encoded(self._pipe, prompts)[2].float().cpu()[:, None]


def pooled_width(pipe: Pipeline) -> int:
    """Channels of the pooled text of SDXL or Flux.1."""
    parts: Any = pipe
    if isinstance(pipe, FluxPipeline):
        return parts.text_encoder.config.hidden_size
    return parts.text_encoder_2.config.projection_dim


@torch.inference_mode()
def _encoded(pipe: Any, prompts: Sequence[str]) -> Any:
    """What a pipeline encodes prompts to, each family by its own layer: the context first, a pooled text third."""
    if isinstance(pipe, FluxPipeline):
        context, pooled, _ = pipe.encode_prompt(list(prompts), None, pipe.device, max_sequence_length=CONTEXT_LENGTH)
        return context, None, pooled
    options = {"device": pipe.device, "num_images_per_prompt": 1, "do_classifier_free_guidance": False}
    return pipe.encode_prompt(list(prompts), **options)


class DiffusersDenoiser:
    """A pipeline's UNet or transformer as `core.model.protocols.Denoiser`, with the LoRAs that are active in it.

    Raises UserError for one whose levels read texts of several widths.
    """

    def __init__(self, pipe: Pipeline) -> None:
        self._pipe, module = pipe, denoiser_module(pipe)
        if isinstance(pipe, FluxPipeline):
            width, self.family = module.config.joint_attention_dim, "Flux.1"
        else:
            width = module.config.cross_attention_dim
            linear = module.config.use_linear_projection  # the mark of SD 2.x, which the host goes by too
            two = isinstance(pipe, StableDiffusionXLPipeline)
            self.family: str = "SDXL" if two else "SD 2.x" if linear else "SD 1.x"
        if not isinstance(width, int):
            raise UserError(f"The UNet's cross-attention widths are {width}; one width for all levels is supported.")
        self.pooled: DiffusersPooledLayer | None = DiffusersPooledLayer(pipe) if reads_pooled(pipe) else None
        self.normed = False
        self.context_width: int = width
        self.dtype: torch.dtype = module.dtype

    def text_layers(self, keys: bool = True) -> list[str]:
        if isinstance(self._pipe, FluxPipeline):
            return ["txt_in"]
        wanted = re.compile(r"\.attn2\.to_[kv]$" if keys else r"\.attn2\.to_v$")
        return [name for name, _ in denoiser_module(self._pipe).named_modules() if wanted.search(name)]

    def text_weight(self, name: str) -> Tensor:
        return _text_weight(denoiser_module(self._pipe), self.family, name)

    def apply(self, lora: Mapping[str, Tensor], adapter: str = "time_edit") -> None:
        """Adds a LoRA beside those that are active, from the tensors of its file; `remove` takes it out again."""
        active = self._pipe.get_active_adapters() if self._pipe.get_list_adapters() else []
        self._pipe.load_lora_weights(dict(lora), adapter_name=adapter)
        self._pipe.set_adapters([*active, adapter])

    def remove(self, adapter: str = "time_edit") -> None:
        """Takes out what `apply` added by this name."""
        self._pipe.delete_adapters(adapter)


class DiffusersPooledLayer:
    """The layer that reads the pooled text, and SDXL's sizes behind it, as `core.model.protocols.TextLayers`."""

    def __init__(self, pipe: Pipeline) -> None:
        self._module: Any = denoiser_module(pipe)
        self.family = "Flux.1" if isinstance(pipe, FluxPipeline) else "SDXL"
        self.context_width: int = pooled_width(pipe)
        self.dtype: torch.dtype = self._module.dtype

    def text_layers(self, keys: bool = True) -> list[str]:  # noqa: ARG002  (one layer)
        return ["vector_in.in_layer" if self.family == "Flux.1" else "add_embedding.linear_1"]

    def text_weight(self, name: str) -> Tensor:
        return _text_weight(self._module, self.family, name)


def _text_weight(module: Any, family: str, name: str) -> Tensor:
    """The weight of a layer of `text_layers`, in a UNet or a transformer; float32 on the CPU."""
    path = DIFFUSERS_NAMES.get(family, {}).get(name, name)
    return _effective_weight(module.get_submodule(path)).cpu()


def _effective_weight(module: Any) -> Tensor:
    """A layer's weight with the LoRAs that peft has wrapped around it and that are active; float32, a copy."""
    weight: Tensor = module.weight.detach().to(torch.float32, copy=True)
    for adapter in getattr(module, "active_adapters", ()):
        if adapter in getattr(module, "lora_A", ()) and adapter not in module.merged_adapters:
            weight += module.get_delta_weight(adapter).detach().float()
    return weight


def _effective_weights(encoder: torch.nn.Module) -> dict[str, Tensor]:
    """A text encoder's weights in float32 by their names in transformers, without "text_model.", LoRAs applied."""
    weights = {}
    for path, module in encoder.named_modules():
        if "lora_" in path or path.endswith("base_layer"):
            continue  # inside a layer that is read as a whole
        name = path.removeprefix("text_model.")
        if isinstance(getattr(module, "weight", None), Tensor):
            weights[f"{name}.weight"] = _effective_weight(module)
            if isinstance(bias := getattr(module, "bias", None), Tensor):
                weights[f"{name}.bias"] = bias.detach().float()
    return weights


class DiffusersDiffusion:
    """A pipeline's UNet or transformer as `core.model.diffusion.Diffusion`.

    Raises UserError for another kind of prediction.
    """

    def __init__(self, pipe: Pipeline) -> None:
        self._pipe = pipe
        denoiser_module(pipe).requires_grad_(False)
        if isinstance(pipe, FluxPipeline):
            count = pipe.scheduler.config["num_train_timesteps"]
            self._sigmas = torch.arange(1, count + 1) / count
            self.alphas_cumprod: Tensor = flow_alphas_cumprod(self._sigmas)
            self.prediction: Prediction = "flow"
            return
        kinds: dict[str, Prediction] = {"epsilon": "epsilon", "v_prediction": "v", "sample": "sample"}
        kind = pipe.scheduler.config.prediction_type
        if kind not in kinds:
            raise UserError(f'The model predicts "{kind}"; ConceptLens reads epsilon, v_prediction and sample.')
        self.prediction = kinds[kind]
        self.alphas_cumprod = pipe.scheduler.alphas_cumprod.float()

    def predict(self, noisy: Tensor, timesteps: Tensor, encoded: Encoded) -> Tensor:
        if isinstance(self._pipe, FluxPipeline):
            return self._velocity(noisy, self._sigmas.to(noisy.device)[timesteps], encoded)
        unet = self._pipe.unet
        options = {}
        if isinstance(self._pipe, StableDiffusionXLPipeline):
            height, width = (8 * side for side in noisy.shape[-2:])
            sizes = torch.tensor([[height, width, 0, 0, height, width]], device=noisy.device)
            pooled = encoded.pooled.to(unet.dtype)
            options["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": sizes.expand(len(noisy), -1)}
        context = encoded.context.to(unet.dtype)
        return unet(noisy.to(unet.dtype), timesteps, context, **options).sample.float()

    def _velocity(self, noisy: Tensor, sigmas: Tensor, encoded: Encoded) -> Tensor:
        """What a transformer says of latents that are scaled as those of a UNet, at noise levels (n,)."""
        transformer, pipe = self._pipe.transformer, self._pipe
        n, channels, height, width = noisy.shape
        x = noisy * flow_scale(sigmas).view(-1, 1, 1, 1)
        places = pipe._prepare_latent_image_ids(n, height // 2, width // 2, noisy.device, noisy.dtype)
        said = transformer(
            hidden_states=pipe._pack_latents(x.to(transformer.dtype), n, channels, height, width),
            timestep=sigmas.to(transformer.dtype),
            encoder_hidden_states=encoded.context.to(transformer.dtype),
            pooled_projections=encoded.pooled.to(transformer.dtype),
            img_ids=places,
            txt_ids=torch.zeros(encoded.context.shape[1], 3, device=noisy.device),
        ).sample
        pixels = pipe.vae_scale_factor
        return pipe._unpack_latents(said, height * pixels, width * pixels, pixels).float()

    def make_room(self) -> bool:
        return False  # the other parts of a pipeline are small beside what a UNet's gradients need

    def save_memory(self) -> bool:
        unet = denoiser_module(self._pipe)
        if unet.is_gradient_checkpointing:
            return False
        unet.enable_gradient_checkpointing()
        unet.train()  # diffusers checkpoints in training only; these UNets have no dropout
        return True
