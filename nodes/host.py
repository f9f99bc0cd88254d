"""ComfyUI's MODEL and CLIP seen through core's protocols, and its folders. The only file that touches the host."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import comfy.lora
import comfy.model_management
import comfy.model_sampling
import comfy.ops
import comfy.sample
import comfy.samplers
import comfy.supported_models
import comfy.utils
import comfyui_version
import folder_paths
import torch
from comfy.cli_args import args
from comfy.clip_model import ACTIVATIONS, CLIPTextModel
from comfy.clip_vision import ClipVisionModel
from comfy.model_patcher import CoreModelPatcher, ModelPatcher
from comfy.sd import CLIP, VAE
from comfy.sd1_clip import SD1ClipModel, SDTokenizer
from comfy.sdxl_clip import SDXLClipModel
from comfy.weight_adapter import LoRAAdapter
from comfy_execution.utils import get_executing_context
from torch import Tensor
from torch.nn.functional import normalize
from torch.utils.checkpoint import checkpoint

from ..core.backend import CONTEXT_LENGTH, Family, Progress, unseen
from ..core.diffusion import Prediction
from ..core.errors import UserError
from ..core.lora import LoraFactors
from ..core.plots import to_pil
from ..core.text_tower import PROJECTION, Encoded, TextTower
from ..core.vocabulary import WORD_END, token_texts
from ..world import architecture, weights

FAMILIES: dict[type, Family] = {
    comfy.supported_models.SD15: "SD 1.x",
    comfy.supported_models.SD20: "SD 2.x",
    comfy.supported_models.SDXL: "SDXL",
}
CLIP_TOKENS = 49408  # in CLIP's vocabulary
SLOT = "<>"  # the place of a pseudo-token in a prompt
PICTURES_AT_ONCE = 16  # sampled together, where memory allows
PROMPTS_AT_ONCE = 128  # bounds the memory of one pass through the text encoder


class HostTextEncoder:
    """A CLIP of the host as `core.backend.OpenTextEncoder`: its clip skip and LoRAs count."""

    def __init__(self, clip: CLIP) -> None:
        model = clip.cond_stage_model
        names = [n for n in ("l", "h", "g") if isinstance(getattr(model, f"clip_{n}", None), torch.nn.Module)]
        encoders = [getattr(model, f"clip_{name}").transformer for name in names]
        known = isinstance(model, (SD1ClipModel, SDXLClipModel)) and names in (["l"], ["h"], ["l", "g"])
        if not known or not all(isinstance(encoder, CLIPTextModel) for encoder in encoders):
            raise UserError(
                f"The CLIP is a {type(model).__name__}; ConceptLens reads the text encoders of SD 1.x, SD 2.x and "
                "SDXL: connect the CLIP of such a checkpoint."
            )
        self._clip = clip
        self.names = [f"clip_{name}" for name in names]
        self.family: Family = "SDXL" if len(names) == 2 else "SD 2.x" if names == ["h"] else "SD 1.x"
        self._tokenizer: SDTokenizer = getattr(clip.tokenizer, f"clip_{names[0]}")
        if self._tokenizer.max_length != CONTEXT_LENGTH:
            raise UserError(
                f"The CLIP reads {self._tokenizer.max_length} tokens; ConceptLens reads encoders of {CONTEXT_LENGTH}: "
                "connect the CLIP of an SD 1.x, SD 2.x or SDXL checkpoint."
            )
        self._ends: tuple[int, int] = tuple(self._tokenizer.tokenizer("").input_ids)
        self.width: int = sum(encoder.get_input_embeddings().weight.shape[1] for encoder in encoders)

    def tokenize(self, prompt: str) -> list[int]:
        start, end = self._ends
        if "embedding:" in prompt:  # the host drops one that it does not find
            raise UserError(f'The prompt "{prompt}" names an embedding, which has no meaning here; write plain words.')
        inner: list[int] = []
        for section in next(iter(self._clip.tokenize(prompt).values())):
            for token, weight in section[1:]:
                if not isinstance(token, int) or weight != 1.0:
                    raise UserError(
                        f'The prompt "{prompt}" contains a weight, which has no meaning here; write plain words, '
                        r"and \( \) for parentheses."
                    )
                if token == end:
                    break
                inner.append(token)
        return [start, *inner, end]

    def decode(self, tokens: Sequence[int]) -> str:
        return self._tokenizer.decode(list(tokens))

    def encode(self, prompts: Sequence[str]) -> Tensor:
        contexts = []
        for first in range(0, len(prompts), PROMPTS_AT_ONCE):
            some = prompts[first : first + PROMPTS_AT_ONCE]
            # The host encodes the sections of a long prompt as one batch and joins them: that serves many prompts.
            sections: dict[str, list[Any]] = {}
            for prompt in some:
                for name, tokens in self._clip.tokenize(prompt).items():
                    sections.setdefault(name, []).extend(tokens)
            context: Any = self._clip.encode_from_tokens(sections)
            contexts.append(context.float().cpu().reshape(len(some), CONTEXT_LENGTH, self.width))
        return torch.cat(contexts)

    def vocabulary(self) -> list[str]:
        return _entries(self._tokenizer)

    def towers(self) -> list[TextTower]:
        return [self._tower(name) for name in self.names]

    def tables(self) -> list[Tensor]:
        """The input embeddings of all tokens, (tokens, width), of each tower."""
        keys = [f"{name}.transformer.text_model.embeddings.token_embedding.weight" for name in self.names]
        return [effective_weight(key, self._clip.patcher.get_key_patches(key)[key]) for key in keys]

    def conditioning(self, prompt: str, vectors: Sequence[Tensor]) -> Any:
        """The host's CONDITIONING of a prompt with a pseudo-token in place of each `<>`; all else is the host's way.

        vectors: the pseudo-token's embedding (1, width) for each tower. Raises UserError when no `<>` is left.
        """
        check_slot(prompt)
        sections = next(iter(self._clip.tokenize(prompt.replace(SLOT, " ")).values()))
        taken = [entry[0] for section in sections for entry in section if isinstance(entry[0], int)]
        mark, word = next(self._words_but(taken))
        tokens = self._clip.tokenize(prompt.replace(SLOT, f" {word} "))
        found = 0
        for name, vector in zip(self.names, vectors, strict=True):
            for section in tokens[name.removeprefix("clip_")]:
                for place, entry in enumerate(section):
                    if isinstance(entry[0], int) and entry[0] == mark:
                        section[place] = (vector[0], *entry[1:])
                        found += 1
        if not found:
            raise UserError(f'The {SLOT} of the prompt "{prompt}" was cut off; write a shorter prompt.')
        return self._clip.encode_from_tokens_scheduled(tokens)

    def _words_but(self, taken: Sequence[int]) -> Iterator[tuple[int, str]]:
        """Words of one token that can stand for `<>` while the host splits a prompt into tokens."""
        for token, entry in self._tokenizer.inv_vocab.items():
            word = entry.removesuffix(WORD_END)
            if token not in taken and word != entry and word.isascii() and word.isalpha() and len(word) > 4:
                yield token, word

    def _tower(self, name: str) -> TextTower:
        encoder = getattr(self._clip.cond_stage_model, name)
        prefix = f"{name}.transformer."
        patches = self._clip.patcher.get_key_patches(prefix)
        device = self._clip.patcher.load_device
        weights = {
            key.removeprefix(prefix).removeprefix("text_model."): effective_weight(key, entries).to(device)
            for key, entries in patches.items()
        }
        rows = weights[PROJECTION].norm(dim=1)
        # A checkpoint without a projection leaves that memory as it was found: zeros, or any bytes as numbers.
        if not (torch.isfinite(rows).all() and 1e-3 < rows.max() < 1e3 and rows.min() > 1e-3 * rows.max()):
            del weights[PROJECTION]
        kind, layer, _ = encoder.options_default
        if self._clip.layer_idx is not None:
            layer = self._clip.layer_idx
            kind = "last" if abs(layer) > encoder.num_layers else "hidden"
        first: Any = encoder.transformer.text_model.encoder.layers[0]
        return TextTower(
            name=name,
            weights=weights,
            heads=first.self_attn.heads,
            activation="quick_gelu" if first.mlp.activation is ACTIVATIONS["quick_gelu"] else "gelu",
            layer=-1 if kind == "last" else layer - (encoder.num_layers if layer >= 0 else 0),
            normed=kind == "last" or encoder.layer_norm_hidden_state,
            start=encoder.special_tokens["start"],
            end=encoder.special_tokens["end"],
            pad=encoder.special_tokens["pad"],
        )


@cache
def words() -> dict[int, str]:
    """The whole words of CLIP's vocabulary, which all supported families share, by token id."""
    tokenizer = SDTokenizer()
    return token_texts(_entries(tokenizer), tokenizer.decode, "words")


def _entries(tokenizer: SDTokenizer) -> list[str]:
    """The vocabulary of a tokenizer, by token id."""
    entries: dict[int, str] = tokenizer.inv_vocab
    return [entries[token] for token in range(len(entries))]


def check_slot(prompt: str) -> None:
    """Raises UserError when a prompt has no place for a pseudo-token."""
    if SLOT not in prompt:
        raise UserError(f'The prompt "{prompt}" has no {SLOT}; write it where the mix shall stand: a photo of a <>')


def effective_weight(key: str, patches: Any) -> Tensor:
    """The weight as the host would load it: the stored one, dequantised, with the patches made so far.

    float32 on the CPU, the caller's own, and no inference tensor outside of inference mode.
    """
    (stored, convert), *applied = patches
    cast: Any = comfy.model_management.cast_to_device
    weight = convert(cast(stored, torch.device("cpu"), torch.float32, copy=True), inplace=True)
    if not stored.is_floating_point() or type(weight) is not Tensor:
        raise UserError(
            f"The weight {key} is quantised as {type(stored).__name__} of {stored.dtype}, which ConceptLens can't "
            "read; load the model in float16, bfloat16 or float32."
        )
    calculate_weight: Any = comfy.lora.calculate_weight
    return calculate_weight(applied, weight, key).detach()


class HostDenoiser:
    """A MODEL of the host as `core.backend.Denoiser`."""

    def __init__(self, model: ModelPatcher) -> None:
        config = model.model.model_config
        families: list[Family] = [family for kind, family in FAMILIES.items() if isinstance(config, kind)]
        if not families:
            raise UserError(
                f"The model is a {type(config).__name__}; ConceptLens edits the cross-attention of SD 1.x, SD 2.x and "
                "SDXL: load such a checkpoint."
            )
        diffusers_names = {v: k for k, v in comfy.utils.unet_to_diffusers(config.unet_config).items()}
        pattern = re.compile(r"diffusion_model\.(.*\.attn2\.to_[kv]\.weight)$")
        matches = [match for key in model.model_state_dict() if (match := pattern.match(key))]
        self._keys: dict[str, str] = {
            diffusers_names[match[1]].removesuffix(".weight"): match[0]
            for match in matches
            if match[1] in diffusers_names
        }
        if not matches or len(self._keys) < len(matches):
            raise UserError(
                f"The {families[0]} model does not show the weights of its cross-attention ({len(self._keys)} found); "
                "connect it before nodes that compile, quantise or replace it."
            )
        self._model = model
        self._patches = model.get_key_patches("diffusion_model.")
        self.family: Family = families[0]
        self.dtype: torch.dtype = model.model_dtype() or torch.float32
        self.context_width: int = config.unet_config["context_dim"]

    def cross_attention_names(self, keys: bool = True) -> list[str]:
        return [name for name in self._keys if keys or name.endswith("to_v")]

    def cross_attention_weight(self, name: str) -> Tensor:
        key = self._keys[name]
        weight = effective_weight(key, self._patches[key])
        if weight.shape[-1] != self.context_width:
            raise UserError(
                f"The weight {key} reads {weight.shape[-1]} channels instead of {self.context_width}: it is packed "
                "in a way that ConceptLens can't read; load the model in float16, bfloat16 or float32."
            )
        return weight

    def noise_levels(self) -> Tensor:
        model_sampling: Any = self._model.get_model_object("model_sampling")
        return model_sampling.sigmas.float().cpu()

    def patched(self, factors: Mapping[str, LoraFactors]) -> ModelPatcher:
        """A clone of the MODEL to which the host adds the factors on loading; the shared weights stay as they are."""
        clone = self._model.clone()
        adapters = {
            name: LoRAAdapter(set(), (up, down, None, None, None, None)) for name, (up, down) in factors.items()
        }
        clone.add_patches({self._keys[name]: adapter for name, adapter in adapters.items()})
        return clone


def image_features(clip_vision: ClipVisionModel, images: Tensor) -> Tensor:
    """Unit-length features (images, width) of pictures (images, height, width, 3) in 0..1."""
    output: Any = clip_vision.encode_image(images)
    return normalize(output["image_embeds"].float(), dim=-1)


class HostDiffusion:
    """A MODEL of the host as `core.diffusion.Diffusion`: a private copy of its UNet, LoRAs and edits applied.

    The host's own is made of inference tensors, which stop a backward pass, and may be streamed or evicted at any
    time. Make and use it inside of `torch.inference_mode(False)`.
    """

    def __init__(self, model: ModelPatcher) -> None:
        HostDenoiser(model)  # refuses other models
        config = model.model.model_config
        sampling: Any = model.get_model_object("model_sampling")
        kinds: dict[type, Prediction] = {comfy.model_sampling.V_PREDICTION: "v", comfy.model_sampling.EPS: "epsilon"}
        kind: Prediction | None = next((name for cls, name in kinds.items() if isinstance(sampling, cls)), None)
        if kind is None:
            raise UserError(
                f"The model samples as {type(sampling).__name__}; ConceptLens reads epsilon and v-prediction: connect "
                "the model before nodes that change its sampling."
            )
        management: Any = comfy.model_management
        device = management.get_torch_device()
        half = device.type != "cpu" and management.should_use_bf16(device)
        self._dtype = torch.bfloat16 if half else torch.float32
        self._model: Any = model.model
        self.prediction: Prediction = kind
        self.alphas_cumprod: Tensor = 1 / (1 + sampling.sigmas.float().cpu() ** 2)
        settings = {**config.unet_config, "dtype": self._dtype}
        unet: Any = type(self._model.diffusion_model)(
            **settings, device=torch.device("cpu"), operations=comfy.ops.disable_weight_init
        )
        prefix = "diffusion_model."
        patches = model.get_key_patches(prefix)
        unet.load_state_dict({key.removeprefix(prefix): effective_weight(key, patches[key]) for key in patches})
        management.free_memory(management.module_size(unet), device)
        self._checkpointed = False
        self._unet: Any = unet.eval().requires_grad_(False).to(device)

    def predict(self, noisy: Tensor, timesteps: Tensor, encoded: Encoded) -> Tensor:
        device = next(self._unet.parameters()).device
        size = None
        if self._model.adm_channels:
            height, width = (8 * side for side in noisy.shape[-2:])
            sizes = {"width": width, "height": height, "target_width": width, "target_height": height}
            size = self._model.encode_adm(pooled_output=encoded.pooled, **sizes, device=device)
            size = size.to(device, self._dtype)
        context = encoded.context.to(device, self._dtype)
        output = self._unet(noisy.to(device, self._dtype), timesteps.float().to(device), context=context, y=size)
        return output.float().to(noisy.device)  # the text encoder, and with it the loss, may be elsewhere

    def save_memory(self) -> bool:
        if self._checkpointed:
            return False
        for block in (*self._unet.input_blocks, self._unet.middle_block, *self._unet.output_blocks):
            for layer in block:
                layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
        self._checkpointed = True
        return True


SUPPORTED_HOSTS = "0.30"


def emoji_world() -> tuple[ModelPatcher, CLIP, VAE, ClipVisionModel]:
    """EmojiWorld as MODEL, CLIP, VAE and CLIP_VISION: the host's own classes with this repository's weights.

    Raises UserError when weights are missing or damaged, and when the host's classes are not those that it knows.
    """
    encoders, autoencoder, unet = (weights.load(part) for part in ("encoders", "autoencoder", "unet"))
    try:
        return (_sd1_model(unet), _sd1_clip(encoders), _tiny_vae(autoencoder), _clip_vision(encoders))
    except (AttributeError, TypeError, KeyError, RuntimeError) as error:
        raise UserError(
            f"This ComfyUI ({comfyui_version.__version__}) builds its models in another way than EmojiWorldLoader "
            f"knows ({str(error).splitlines()[0]}); use ComfyUI {SUPPORTED_HOSTS}, or a newer ConceptLens."
        ) from error


def _sd1_model(state: dict[str, Tensor]) -> ModelPatcher:
    """What the host does with a checkpoint, but for its detection, which knows Stable Diffusion's own sizes only."""
    management: Any = comfy.model_management
    channels, blocks = architecture.UNET["block_out_channels"], architecture.UNET["layers_per_block"]
    attends = [int("CrossAttn" in kind) for kind in architecture.UNET["down_block_types"]]
    unet_config = {
        "image_size": 32,
        "in_channels": 4,
        "out_channels": 4,
        "model_channels": channels[0],
        "channel_mult": [width // channels[0] for width in channels],
        "num_res_blocks": [blocks] * len(channels),
        "transformer_depth": [depth for depth in attends for _ in range(blocks)],
        "transformer_depth_output": [depth for depth in attends for _ in range(blocks + 1)],
        "transformer_depth_middle": 1,
        "context_dim": architecture.WIDTH,
        "use_spatial_transformer": True,
        "use_linear_in_transformer": False,
        "use_checkpoint": False,
        "legacy": False,
        "adm_in_channels": None,
    }
    config = comfy.supported_models.SD15(unet_config)
    config.unet_config |= {"num_heads": architecture.UNET["attention_head_dim"]}
    device = management.get_torch_device()
    parameters = sum(tensor.numel() for tensor in state.values())
    dtype = management.unet_dtype(model_params=parameters, supported_dtypes=config.supported_inference_dtypes)
    cast = management.unet_manual_cast(dtype, device, config.supported_inference_dtypes)
    config.set_inference_dtype(dtype, cast, device=device)
    names = comfy.utils.unet_to_diffusers(config.unet_config)
    model = config.get_model({}, "")
    patcher = CoreModelPatcher(model, load_device=device, offload_device=management.unet_offload_device())
    model.diffusion_model.load_state_dict(
        {names[name]: tensor.to(dtype) for name, tensor in state.items()}, assign=patcher.is_dynamic()
    )
    return patcher


def _sd1_clip(state: dict[str, Tensor]) -> CLIP:
    texts = {f"clip_l.transformer.{name}": tensor for name, tensor in state.items() if name.startswith("text_")}
    return CLIP(
        comfy.supported_models.SD15({}).clip_target(),
        embedding_directory=folder_paths.get_folder_paths("embeddings"),
        parameters=sum(tensor.numel() for tensor in texts.values()),
        state_dict=texts,
        model_options={"clip_l_model_config": architecture.TEXT},
    )


def _tiny_vae(state: dict[str, Tensor]) -> VAE:
    """TAESD's architecture. The decoder's clamp is a layer here, and part of `forward` in diffusers."""
    renamed = {"vae_scale": torch.tensor(architecture.SCALING_FACTOR), "vae_shift": torch.tensor(0.0)}
    for name, tensor in state.items():
        part, _, number, rest = name.split(".", 3)
        renamed[f"taesd_{part}.{int(number) + (part == 'decoder')}.{rest}"] = tensor
    return VAE(sd=renamed)


def _clip_vision(state: dict[str, Tensor]) -> ClipVisionModel:
    vision = ClipVisionModel(architecture.VISION)
    missing, _ = vision.load_sd({name: tensor for name, tensor in state.items() if name.startswith("vis")})
    if missing:
        raise KeyError(f"no weights for {missing[0]}")
    return vision


def routes() -> Any:
    """The server's, to which handlers are added; it exists before nodes are loaded."""
    from server import PromptServer  # not where only the host's classes are used

    return PromptServer.instance.routes


def progress() -> Progress:
    """The bar of the node that is being executed; it raises when the user has pressed Cancel."""
    return comfy.utils.ProgressBar(1).update_absolute


class LiveView:
    """What the running node shows besides its result: a bar, a text and a picture."""

    def __init__(self) -> None:
        self._bar = comfy.utils.ProgressBar(1)

    def bar(self, done: int, total: int, picture: Tensor | None = None) -> None:
        """The bar, with a picture (height, width, 3); raises when the user has pressed Cancel."""
        preview = None if picture is None else ("JPEG", to_pil(picture), 512)
        self._bar.update_absolute(done, total, preview)

    def say(self, text: str) -> None:
        """A text under the node, in place of the one before."""
        context = get_executing_context()
        if context is not None:  # there is nobody to tell outside of a run
            from server import PromptServer  # the web server, which only a run has

            PromptServer.instance.send_progress_text(text, context.node_id)


def samplers() -> list[str]:
    return comfy.samplers.KSampler.SAMPLERS


def schedulers() -> list[str]:
    return comfy.samplers.KSampler.SCHEDULERS


def encoded(clip: CLIP, prompt: str) -> Any:
    """A prompt as the host's CLIP Text Encode gives it."""
    with torch.inference_mode():
        return clip.encode_from_tokens_scheduled(clip.tokenize(prompt))


def drawn(
    model: ModelPatcher,
    vae: VAE,
    positive: Any,
    negative: Any,
    seed: int,
    steps: int,
    cfg: float,
    sampler_name: str,
    scheduler: str,
    width: int,
    height: int,
) -> Tensor:
    """The picture (height, width, 3) that Empty Latent Image, KSampler and VAE Decode make of these settings."""
    sample, prepare_noise = (getattr(comfy.sample, name) for name in ("sample", "prepare_noise"))
    with torch.inference_mode():
        empty = torch.zeros(1, 4, height // 8, width // 8)
        how = (steps, cfg, sampler_name, scheduler, positive, negative, empty)
        latent = sample(model, prepare_noise(empty, seed), *how, seed=seed, disable_pbar=True)
        return vae.decode(latent)[0]


class HostStudio:
    """The host's model as `core.explanation.Studio`, with its own sampler.

    DDIM at its own timesteps, which is what diffusers' pipelines do with the same noise. A seed gives the same picture
    whatever is sampled beside it. Results are no inference tensors where the caller is not in inference mode.
    """

    def __init__(
        self,
        model: ModelPatcher,
        clip: CLIP,
        vae: VAE,
        clip_vision: ClipVisionModel | None,
        negative: Any,
        steps: int,
        cfg: float,
        size: int,
    ) -> None:
        self.encoder: HostTextEncoder = HostTextEncoder(clip)
        self.family: Family = HostDenoiser(model).family
        self._model, self._clip, self._vae, self._clip_vision = model, clip, vae, clip_vision
        self._negative = negative or encoded(clip, "")
        self._steps, self._cfg, self._size = steps, cfg, size

    def diffusion(self) -> HostDiffusion:
        return HostDiffusion(self._model)

    def latents_of_prompt(self, prompt: str, seeds: Sequence[int], progress: Progress = unseen) -> Tensor:
        return self._sample(encoded(self._clip, prompt), seeds, progress)

    def latents_of_mix(self, prompt: str, vectors: Sequence[Tensor], seeds: Sequence[int]) -> Tensor:
        with torch.inference_mode():
            conditioning = self.encoder.conditioning(prompt.replace("{}", SLOT), vectors)
        return self._sample(conditioning, seeds)

    def latents_of_pictures(self, pictures: Tensor) -> Tensor:
        side = self._size
        with torch.inference_mode():
            upright = pictures[..., :3].movedim(-1, 1)
            square: Any = comfy.utils.common_upscale(upright, side, side, "lanczos", "center")
            latents = self._latent_format().process_in(self._vae.encode(square.movedim(1, -1)).float())
        return latents.cpu().clone()

    def pictures(self, latents: Tensor) -> Tensor:
        with torch.inference_mode():
            pictures = self._vae.decode(self._latent_format().process_out(latents))
        return pictures.float().cpu().clone()

    def features(self, pictures: Tensor) -> Tensor | None:
        if self._clip_vision is None:
            return None
        with torch.inference_mode():
            features = image_features(self._clip_vision, pictures)
        return features.cpu().clone()

    def _latent_format(self) -> Any:
        return self._model.get_model_object("latent_format")

    def _sample(self, positive: Any, seeds: Sequence[int], progress: Progress = unseen) -> Tensor:
        empty = torch.zeros(1, 4, self._size // 8, self._size // 8)
        management: Any = comfy.model_management
        free = management.get_free_memory(self._model.load_device)
        need = self._model.memory_required([2, *empty.shape[1:]])  # a picture with and without the prompt
        together = max(1, min(PICTURES_AT_ONCE, int(free / (2 * need))))
        sample, prepare_noise = (getattr(comfy.sample, name) for name in ("sample", "prepare_noise"))
        latents = []
        for first in range(0, len(seeds), together):
            some = seeds[first : first + together]

            def step(number: int, *_: Any, first: int = first, count: int = len(some)) -> None:
                progress(first * self._steps + count * (number + 1), len(seeds) * self._steps)

            with torch.inference_mode():
                noise = torch.cat([prepare_noise(empty, seed) for seed in some])
                how = (self._steps, self._cfg, "ddim", "ddim_uniform", positive, self._negative)
                sampled = sample(
                    self._model, noise, *how, torch.zeros_like(noise), seed=some[0], callback=step, disable_pbar=True
                )
                latents.append(self._latent_format().process_in(sampled.float()).cpu())
        return torch.cat(latents).clone()


FOLDERS = ("loras", "output")  # where a TIME edit can be saved
EMBEDDINGS, MIXES = "embeddings", "token_mixes"
folder_paths.add_model_folder_path(MIXES, str(Path(folder_paths.models_dir, MIXES)), is_default=True)
folder_paths.folder_names_and_paths[MIXES][1].add(".safetensors")


def files(folder: str) -> list[str]:
    """The names of the files in one of the host's model folders."""
    return folder_paths.get_filename_list(folder)


def file(folder: str, name: str) -> Path:
    """The path of a file in one of the host's model folders; UserError when there is none."""
    path = folder_paths.get_full_path(folder, name)
    if path is None:
        raise UserError(f'There is no file "{name}" in {folder_paths.get_folder_paths(folder)[0]}; choose another one.')
    return Path(path)


def cache_folder() -> Path:
    """Where results are kept that can be made anew."""
    return Path(folder_paths.get_user_directory(), "conceptlens", "cache")


def changed_at(folder: str, name: str) -> float:
    """When a file was written last: the host runs a node again when this changes."""
    return file(folder, name).stat().st_mtime


def check_inside(prefix: str, folder: str) -> str:
    """The path of the host's `folder`; UserError when a file named `prefix` would lie outside of it."""
    if folder not in (*FOLDERS, EMBEDDINGS, MIXES):
        raise UserError(f'The folder "{folder}" is none of {" and ".join(FOLDERS)}; choose one of them.')
    output = folder == "output"
    root = folder_paths.get_output_directory() if output else folder_paths.get_folder_paths(folder)[0]
    usable = prefix.isprintable() and Path(prefix).name.strip(". ")
    if not usable or not folder_paths.is_within_directory(root, str(Path(root, prefix).parent)):
        raise UserError(f'The file name "{prefix}" is empty or leaves the folder {root}; choose one inside of it.')
    return root


def usable_name(prefix: str | None, folder: str | None) -> bool | str:
    """The answer of a saving node's `validate_inputs`: True, or why a file can't be named so.

    What comes from another node is None until it runs, and is checked then.
    """
    if prefix is None or folder is None:
        return True
    try:
        check_inside(prefix, folder)
    except UserError as error:
        return str(error)
    return True


def numbered_path(prefix: str, folder: str) -> Path:
    """The next free `<prefix>_00001_.safetensors` in one of the host's FOLDERS, never outside of it."""
    root = check_inside(prefix, folder)
    try:
        place, name, counter, _, _ = folder_paths.get_save_image_path(prefix, root)
    except OSError as error:
        raise UserError(f'No file "{prefix}" can be made in {root} ({error.strerror}); choose another name.') from error
    return Path(place) / f"{name}_{counter:05}_.safetensors"


def new_path(name: str, folder: str) -> Path:
    """`<name>.safetensors` in one of the host's folders; UserError when there is such a file already."""
    path = Path(check_inside(name, folder), f"{name}.safetensors")
    if path.exists():
        raise UserError(f"{path} exists already; choose another name.")
    return path


def workflow_metadata(prompt: Any, extra_pnginfo: Any) -> dict[str, str]:
    """The graph as metadata of a saved file, as the host's own nodes write it, unless the user has turned that off."""
    if args.disable_metadata:
        return {}
    parts = {"prompt": prompt, **(extra_pnginfo or {})}
    return {name: json.dumps(part) for name, part in parts.items() if part is not None}
