"""ComfyUI's MODEL, CLIP, VAE and CLIP_VISION seen through core's protocols, and its folders.

The only part of the pack that touches the host.
"""

from .asyrp import asyrp_sampler, inverted
from .folders import (
    DIRECTIONS,
    EMBEDDINGS,
    FOLDERS,
    MIXES,
    OUTPUT,
    cache_folder,
    changed_at,
    file,
    files,
    new_embedding,
    numbered_path,
    usable_name,
    workflow_metadata,
)
from .hspace import HostBottleneck, guided_decoders, sample_bottleneck
from .language import HostLanguageEncoder, mix_encoder_of
from .layers import EncoderLayer, layers_of
from .live import LiveView, editor_rows, progress, routes
from .model import HostDenoiser, HostDiffusion, family_of
from .parts import Reads, check_noise, check_parts
from .sampling import Sampling, drawn, samplers, schedulers
from .studio import HostFixedNoise, HostPictures, HostStudio, image_features, studio_of
from .text import CLIP_TOKENS, SLOT, HostTextEncoder, encoded, words
from .transformers import denoiser_of, prompt_encoder_of, read_by
from .world import EMOJI_WORLD, EMOJI_WORLD_TRANSFORMER, FACE_WORLD, load_world

__all__ = [
    "CLIP_TOKENS",
    "DIRECTIONS",
    "EMBEDDINGS",
    "EMOJI_WORLD",
    "EMOJI_WORLD_TRANSFORMER",
    "FACE_WORLD",
    "FOLDERS",
    "MIXES",
    "OUTPUT",
    "SLOT",
    "EncoderLayer",
    "HostBottleneck",
    "HostDenoiser",
    "HostDiffusion",
    "HostFixedNoise",
    "HostLanguageEncoder",
    "HostPictures",
    "HostStudio",
    "HostTextEncoder",
    "LiveView",
    "Reads",
    "Sampling",
    "asyrp_sampler",
    "cache_folder",
    "changed_at",
    "check_noise",
    "check_parts",
    "denoiser_of",
    "drawn",
    "editor_rows",
    "encoded",
    "family_of",
    "file",
    "files",
    "guided_decoders",
    "image_features",
    "inverted",
    "layers_of",
    "load_world",
    "mix_encoder_of",
    "new_embedding",
    "numbered_path",
    "progress",
    "prompt_encoder_of",
    "read_by",
    "routes",
    "sample_bottleneck",
    "samplers",
    "schedulers",
    "studio_of",
    "usable_name",
    "words",
    "workflow_metadata",
]
