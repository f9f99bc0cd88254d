"""Diffusers pipelines seen through core's protocols (SD 1.x, SD 2.x, SDXL)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from torch import Tensor

from ..core.errors import UserError
from ..core.model.diffusion import Prediction
from ..core.model.protocols import Family, Section
from ..core.model.text_tower import CONTEXT_LENGTH, Encoded, TextTower

Pipeline = StableDiffusionPipeline | StableDiffusionXLPipeline


class DiffusersTextEncoder:
    """A pipeline's text encoders as `core.model.protocols.OpenTextEncoder`."""

    def __init__(self, pipe: Pipeline) -> None:
        encoders = [getattr(pipe, name, None) for name in ("text_encoder", "text_encoder_2")]
        self._pipe = pipe
        self.width: int = sum(encoder.config.hidden_size for encoder in encoders if encoder is not None)

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
        return DiffusersPooledText(self._pipe) if isinstance(self._pipe, StableDiffusionXLPipeline) else None

    def vocabulary(self) -> list[str]:
        entries: dict[str, int] = self._pipe.tokenizer.get_vocab()
        return sorted(entries, key=lambda entry: entries[entry])

    def towers(self) -> list[TextTower]:
        two = isinstance(self._pipe, StableDiffusionXLPipeline)
        names = ("clip_l", "clip_g") if two else ("clip_h" if self.width == 1024 else "clip_l",)
        towers = []
        for name, suffix in zip(names, ("", "_2"), strict=False):
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
                )
            )
        return towers


class DiffusersPooledText:
    """The pooled text of SDXL as `core.model.protocols.PromptStates`."""

    def __init__(self, pipe: StableDiffusionXLPipeline) -> None:
        self._pipe: Any = pipe
        self.width: int = self._pipe.text_encoder_2.config.projection_dim

    def encode(self, prompts: Sequence[str]) -> Tensor:
        return _encoded(self._pipe, prompts)[2].float().cpu()[:, None]


@torch.inference_mode()
def _encoded(pipe: Any, prompts: Sequence[str]) -> Any:
    """What a pipeline encodes prompts to, each family by its own layer: the context first, SDXL's pooled text third."""
    options = {"device": pipe.device, "num_images_per_prompt": 1, "do_classifier_free_guidance": False}
    return pipe.encode_prompt(list(prompts), **options)


class DiffusersDenoiser:
    """A pipeline's UNet as `core.model.protocols.Denoiser`, with the LoRAs that are active in it.

    Raises UserError for one whose levels read texts of several widths.
    """

    def __init__(self, pipe: Pipeline) -> None:
        width = pipe.unet.config.cross_attention_dim
        if not isinstance(width, int):
            raise UserError(f"The UNet's cross-attention widths are {width}; one width for all levels is supported.")
        self._pipe = pipe
        linear = pipe.unet.config.use_linear_projection  # the mark of SD 2.x, which the host goes by too
        self.family: Family = "SDXL" if hasattr(pipe, "text_encoder_2") else "SD 2.x" if linear else "SD 1.x"
        self.pooled: DiffusersPooledLayer | None = DiffusersPooledLayer(pipe) if self.family == "SDXL" else None
        self.normed = False
        self.context_width: int = width
        self.dtype: torch.dtype = pipe.unet.dtype

    def text_layers(self, keys: bool = True) -> list[str]:
        wanted = re.compile(r"\.attn2\.to_[kv]$" if keys else r"\.attn2\.to_v$")
        return [name for name, _ in self._pipe.unet.named_modules() if wanted.search(name)]

    def text_weight(self, name: str) -> Tensor:
        return _effective_weight(self._pipe.unet.get_submodule(name)).cpu()

    def apply(self, lora: Mapping[str, Tensor], adapter: str = "time_edit") -> None:
        """Adds a LoRA beside those that are active, from the tensors of its file; `remove` takes it out again."""
        active = self._pipe.get_active_adapters() if self._pipe.get_list_adapters() else []
        self._pipe.load_lora_weights(dict(lora), adapter_name=adapter)
        self._pipe.set_adapters([*active, adapter])

    def remove(self, adapter: str = "time_edit") -> None:
        """Takes out what `apply` added by this name."""
        self._pipe.delete_adapters(adapter)


class DiffusersPooledLayer:
    """SDXL's layer that reads the pooled text, and sizes behind it, as `core.model.protocols.TextLayers`."""

    family: Family = "SDXL"

    def __init__(self, pipe: Pipeline) -> None:
        self._unet = pipe.unet
        encoder: Any = pipe
        self.context_width: int = encoder.text_encoder_2.config.projection_dim
        self.dtype: torch.dtype = pipe.unet.dtype

    def text_layers(self, keys: bool = True) -> list[str]:  # noqa: ARG002  (one layer)
        return ["add_embedding.linear_1"]

    def text_weight(self, name: str) -> Tensor:
        return _effective_weight(self._unet.get_submodule(name)).cpu()


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
    """A pipeline's UNet as `core.model.diffusion.Diffusion`. Raises UserError for another kind of prediction."""

    def __init__(self, pipe: Pipeline) -> None:
        self._pipe = pipe
        kinds: dict[str, Prediction] = {"epsilon": "epsilon", "v_prediction": "v", "sample": "sample"}
        kind = pipe.scheduler.config.prediction_type
        if kind not in kinds:
            raise UserError(f'The model predicts "{kind}"; ConceptLens reads epsilon, v_prediction and sample.')
        self.prediction: Prediction = kinds[kind]
        self.alphas_cumprod: Tensor = pipe.scheduler.alphas_cumprod.float()
        pipe.unet.requires_grad_(False)

    def predict(self, noisy: Tensor, timesteps: Tensor, encoded: Encoded) -> Tensor:
        unet = self._pipe.unet
        options = {}
        if isinstance(self._pipe, StableDiffusionXLPipeline):
            height, width = (8 * side for side in noisy.shape[-2:])
            sizes = torch.tensor([[height, width, 0, 0, height, width]], device=noisy.device)
            pooled = encoded.pooled.to(unet.dtype)
            options["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": sizes.expand(len(noisy), -1)}
        context = encoded.context.to(unet.dtype)
        return unet(noisy.to(unet.dtype), timesteps, context, **options).sample.float()

    def make_room(self) -> bool:
        return False  # the other parts of a pipeline are small beside what a UNet's gradients need

    def save_memory(self) -> bool:
        unet = self._pipe.unet
        if unet.is_gradient_checkpointing:
            return False
        unet.enable_gradient_checkpointing()
        unet.train()  # diffusers checkpoints in training only; these UNets have no dropout
        return True
