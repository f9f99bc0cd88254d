"""Tiny random transformers of today's families, by the host's own classes, each with its text encoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import comfy.ops
import comfy.sd
import comfy.supported_models
import torch
from comfy.model_patcher import ModelPatcher
from comfy.taesd.taesd import TAESD

CPU = torch.device("cpu")
WIDTH = 64  # of the states of all but SD 3's, which pads them
T5 = {"d_model": WIDTH, "d_ff": 64, "d_kv": 16, "num_heads": 2, "num_layers": 2}
LANGUAGE = {"hidden_size": WIDTH, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}
LANGUAGE |= {"num_key_value_heads": 2}
CLIP = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}
FLUX = {"in_channels": 16, "patch_size": 2, "hidden_size": 64, "mlp_ratio": 2.0, "num_heads": 2, "depth": 1}
FLUX |= {"depth_single_blocks": 1, "axes_dim": [8, 12, 12], "theta": 10_000, "qkv_bias": True, "txt_ids_dims": []}
NEXT = {"image_model": "lumina2", "in_channels": 16, "dim": 256, "n_layers": 1, "n_refiner_layers": 1, "n_heads": 2}
NEXT |= {"axes_dims": [32, 48, 48], "axes_lens": [300, 64, 64], "cap_feat_dim": WIDTH, "qk_norm": True}
COSMOS = {"in_channels": 16, "out_channels": 16, "patch_spatial": 2, "patch_temporal": 1, "concat_padding_mask": True}
COSMOS |= {"max_img_h": 64, "max_img_w": 64, "max_frames": 8, "model_channels": 64, "num_blocks": 2, "num_heads": 2}
COSMOS |= {"crossattn_emb_channels": WIDTH, "pos_emb_cls": "rope3d", "use_adaln_lora": True, "adaln_lora_dim": 16}
COSMOS |= {"extra_per_block_abs_pos_emb": False}


@dataclass(frozen=True)
class Tiny:
    """How a family is made small."""

    kind: str  # of comfy.supported_models
    unet: Mapping[str, Any]
    text: Mapping[str, Any]  # the host's options of the text encoder
    target: Callable[[Any], Any] = lambda config: config.clip_target()
    shrink: Callable[[Any], None] = lambda _: None  # parts whose size the host fixes


def sd3_target(_: Any) -> Any:
    """With CLIP and without T5, whose states are 4096 wide in this family."""
    import comfy.supported_models_base
    from comfy.text_encoders.sd3_clip import SD3Tokenizer, sd3_clip

    return comfy.supported_models_base.ClipTarget(SD3Tokenizer, sd3_clip(clip_l=True, clip_g=True, t5=False))


def shrink_adapter(network: Any) -> None:
    """Anima's adapter is made in one size only."""
    sizes = {"source_dim": WIDTH, "target_dim": WIDTH, "model_dim": WIDTH, "num_layers": 1, "num_heads": 2}
    network.llm_adapter = type(network.llm_adapter)(**sizes, dtype=torch.float32, operations=comfy.ops.manual_cast)


def hunyuan_target(_: Any) -> Any:
    """Without ByT5, which reads what a prompt has in quotes."""
    import comfy.supported_models_base
    from comfy.text_encoders.hunyuan_image import HunyuanImageTokenizer, te

    return comfy.supported_models_base.ClipTarget(HunyuanImageTokenizer, te(byt5=False))


def krea_target(config: Any) -> Any:
    """Without an eye of its size, which no prompt without pictures passes."""
    import comfy.text_encoders.qwen3vl

    eye = {"hidden_size": 32, "intermediate_size": 32, "depth": 1, "deepstack_visual_indexes": [0]}
    comfy.text_encoders.qwen3vl.QWEN3VL_VISION["qwen3vl_4b"].update(eye)
    return config.clip_target()


def klein_target(_: Any) -> Any:
    import comfy.supported_models_base
    from comfy.text_encoders.flux import KleinTokenizer, klein_te

    return comfy.supported_models_base.ClipTarget(KleinTokenizer, klein_te())


TINY = {
    "Flux.1": Tiny(
        "Flux",
        {**FLUX, "image_model": "flux", "out_channels": 16, "vec_in_dim": 32, "context_in_dim": WIDTH}
        | {"hidden_size": 128, "num_heads": 1, "mlp_ratio": 4.0, "axes_dim": [16, 56, 56], "guidance_embed": True},
        {"t5xxl_model_config": T5, "clip_l_model_config": CLIP},
    ),
    "Flux.2": Tiny(  # Klein, whose tokenizer the host has; its states are those of three layers, one behind the other
        "Flux2",
        {"image_model": "flux2", "in_channels": 128, "out_channels": 128, "patch_size": 1, "hidden_size": 128}
        | {"axes_dim": [32, 32, 32, 32], "num_heads": 1, "mlp_ratio": 3.0, "theta": 2000, "vec_in_dim": None}
        | {"context_in_dim": 3 * WIDTH, "depth": 1, "depth_single_blocks": 1, "global_modulation": True}
        | {"mlp_silu_act": True, "qkv_bias": False, "ops_bias": False, "txt_ids_dims": [3], "guidance_embed": False}
        | {"default_ref_method": "index", "ref_index_scale": 10.0, "yak_mlp": False, "txt_norm": False},
        {"qwen3_4b_model_config": {**LANGUAGE, "num_hidden_layers": 28}},
        klein_target,
    ),
    "Chroma": Tiny(
        "Chroma",
        {**FLUX, "image_model": "chroma", "in_channels": 64, "out_channels": 64, "context_in_dim": WIDTH}
        | {"in_dim": 64, "out_dim": 64, "hidden_dim": 64, "n_layers": 2, "vec_in_dim": None},
        {"t5xxl_model_config": T5},
    ),
    "SD 3": Tiny(
        "SD3",
        {"in_channels": 16, "patch_size": 2, "depth": 1, "input_size": None, "adm_in_channels": 64}
        | {"pos_embed_scaling_factor": None, "pos_embed_max_size": 32, "num_patches": 1024}
        | {
            "context_embedder_config": {
                "target": "torch.nn.Linear",
                "params": {"in_features": 4096, "out_features": 64},
            }
        },
        {"clip_l_model_config": CLIP, "clip_g_model_config": CLIP},
        sd3_target,
    ),
    "AuraFlow": Tiny(
        "AuraFlow",
        {"dim": 64, "n_layers": 2, "n_double_layers": 1, "n_heads": 2, "global_conddim": 64, "cond_seq_dim": WIDTH}
        | {"max_seq": 64},
        {"pile_t5xl_model_config": T5},
    ),
    "PixArt": Tiny(
        "PixArtSigma",
        {"image_model": "pixart_sigma", "hidden_size": 64, "depth": 1, "num_heads": 2, "caption_channels": WIDTH}
        | {"micro_condition": False, "input_size": 16, "pe_interpolation": 1},
        {"t5xxl_model_config": T5},
    ),
    "Anima": Tiny(
        "Anima",
        {**COSMOS, "image_model": "anima"},
        {"qwen3_06b_model_config": LANGUAGE},
        shrink=shrink_adapter,
    ),
    "Cosmos-Predict2": Tiny(
        "CosmosT2IPredict2", {**COSMOS, "image_model": "cosmos_predict2"}, {"t5xxl_model_config": T5}
    ),
    "Z-Image": Tiny(
        "ZImage", {**NEXT, "z_image_modulation": True, "pad_tokens_multiple": 32}, {"qwen3_4b_model_config": LANGUAGE}
    ),
    "Krea 2": Tiny(  # the states of twelve layers, of which a transformer in the model makes those of one
        "Krea2",
        {"image_model": "krea2", "features": 128, "tdim": 32, "txtdim": WIDTH, "heads": 2, "kvheads": 1}
        | {"multiplier": 2, "layers": 1, "txtheads": 2, "txtkvheads": 2},
        {"qwen3vl_4b_model_config": {**LANGUAGE, "num_hidden_layers": 36}},
        krea_target,
    ),
    "Qwen-Image": Tiny(
        "QwenImage",
        {"image_model": "qwen_image", "in_channels": 64, "num_layers": 1, "attention_head_dim": 32}
        | {"num_attention_heads": 2, "joint_attention_dim": WIDTH, "axes_dims_rope": (8, 12, 12)},
        {"qwen25_7b_model_config": LANGUAGE},
    ),
    "HunyuanImage": Tiny(
        "HunyuanImage21",
        {
            "image_model": "hunyuan_video",
            "in_channels": 64,
            "out_channels": 64,
            "patch_size": [1, 1],
            "vec_in_dim": None,
        }
        | {"context_in_dim": WIDTH, "hidden_size": 64, "mlp_ratio": 2.0, "num_heads": 2, "depth": 1, "theta": 256}
        | {"depth_single_blocks": 1, "axes_dim": [16, 16], "qkv_bias": True, "guidance_embed": False, "byt5": False}
        | {"meanflow": False, "use_cond_type_embedding": False, "vision_in_dim": None, "meanflow_sum": False},
        {"qwen25_7b_model_config": {**LANGUAGE, "num_hidden_layers": 4}},
        hunyuan_target,
    ),
    "OmniGen2": Tiny(
        "Omnigen2",
        {"image_model": "omnigen2", "hidden_size": 96, "num_layers": 1, "num_refiner_layers": 1}
        | {"num_attention_heads": 1, "num_kv_heads": 1, "text_feat_dim": WIDTH},
        {"qwen25_3b_model_config": LANGUAGE},
    ),
}


def tiny_transformer(family: str) -> tuple[ModelPatcher, comfy.sd.CLIP]:
    """A MODEL and its CLIP, of random weights that do not depend on what was drawn before."""
    tiny = TINY[family]
    config = getattr(comfy.supported_models, tiny.kind)(dict(tiny.unet))
    config.set_inference_dtype(torch.float32, None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = config.get_model({}, "")
        tiny.shrink(model.diffusion_model)
        clip = comfy.sd.CLIP(tiny.target(config), model_options={"dtype": torch.float32, **tiny.text})
        for module in (model.diffusion_model, clip.cond_stage_model):
            for name, parameter in (*module.named_parameters(), *module.named_buffers()):  # the host leaves memory
                with torch.no_grad():
                    norm = parameter.ndim == 1 and "bias" not in name
                    parameter.copy_(
                        1 + 0.1 * torch.randn(parameter.shape) if norm else 0.1 * torch.randn(parameter.shape)
                    )
    return ModelPatcher(model, CPU, CPU), clip


def tiny_vae() -> comfy.sd.VAE:
    """For latents of 16 channels, of random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        autoencoder = TAESD(latent_channels=16)
        for name, weight in autoencoder.named_parameters():  # the host leaves memory as it finds it
            if weight.ndim > 1:
                torch.nn.init.orthogonal_(weight)
            elif "bias" in name:
                torch.nn.init.zeros_(weight)
    return comfy.sd.VAE(sd={name: tensor.clone() for name, tensor in autoencoder.state_dict().items()})
