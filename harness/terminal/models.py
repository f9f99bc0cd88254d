"""Models by what a user names: a diffusers folder, or one of the worlds."""

from __future__ import annotations

from pathlib import Path

from diffusers import DiffusionPipeline

from ...core.errors import UserError
from ...pipelines.adapter import Pipeline
from ...pipelines.loading import best_device, load_folder
from ...world.emoji.pipeline import emoji_world_pipeline, emoji_world_transformer_pipeline
from ...world.faces.pipeline import face_world_pipeline

EMOJI_WORLD, EMOJI_WORLD_TRANSFORMER = Path("emoji-world"), Path("emoji-world-transformer")
FACE_WORLD = Path("face-world")
WORLDS = {
    EMOJI_WORLD: emoji_world_pipeline,
    EMOJI_WORLD_TRANSFORMER: emoji_world_transformer_pipeline,
    FACE_WORLD: face_world_pipeline,
}


def load_any_pipeline(path: Path, device: str | None = None) -> DiffusionPipeline:
    """The pipeline in the diffusers folder `path`, or one of WORLDS by its name; on the GPU where there is one."""
    device = device or best_device()
    if path in WORLDS:
        return WORLDS[path](device)
    if not path.is_dir():
        raise UserError(
            f"{path} is not a folder; give a diffusers model folder of SD 1.x, SD 2.x or SDXL, or "
            f"{' or '.join(map(str, WORLDS))}."
        )
    return load_folder(path, device)


def load_pipeline(path: Path, device: str | None = None) -> Pipeline:
    """The same for text-to-image SD 1.x, SD 2.x and SDXL. Raises UserError for others."""
    pipe = load_any_pipeline(path, device)
    if not isinstance(pipe, Pipeline):
        raise UserError(f"{path} is a {type(pipe).__name__}; ConceptLens reads text-to-image SD 1.x, SD 2.x and SDXL.")
    return pipe
