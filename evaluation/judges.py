"""Judges of how much a picture is like a text: the model's own image and text encoders, or a CLIP from elsewhere."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import normalize
from transformers import CLIPModel, CLIPTokenizer

from ..core.conceptor.vocabulary import check_space, text_feature
from ..core.errors import UserError, out_of_memory
from ..core.model.text_tower import PROJECTION
from ..pipelines.studio import DiffusersStudio, clip_inputs


class Judge(Protocol):
    """Pictures and texts as features of unit length in one space."""

    def pictures(self, pictures: Tensor) -> Tensor:
        """Of pictures (n, height, width, 3) in 0..1: (n, width)."""
        ...

    def layers(self, pictures: Tensor) -> list[Tensor]:
        """What each layer of the image encoder makes of the pictures, (n, positions, channels)."""
        ...

    def texts(self, texts: Sequence[str]) -> Tensor:
        """(texts, width)."""
        ...


class OwnJudge:
    """A pipeline's image encoder and its text encoder with the projection into the same space.

    Raises UserError when the pipeline has none.
    """

    def __init__(self, studio: DiffusersStudio) -> None:
        self._studio, self._tower, self._vision = studio, studio.towers[-1], studio.image_encoder
        if self._vision is None:
            raise UserError("The model has no image encoder to judge pictures; give a CLIP model folder as --clip.")
        projection = self._tower.weights.get(PROJECTION)
        width = 0 if projection is None else len(projection)
        check_space(projection is not None, width, torch.empty(0, self._vision.config.projection_dim))

    def pictures(self, pictures: Tensor) -> Tensor:
        features = self._studio.features(pictures)
        assert features is not None  # there is an image encoder
        return features

    def layers(self, pictures: Tensor) -> list[Tensor]:
        return _layers(self._vision, pictures, self._vision.config)

    def texts(self, texts: Sequence[str]) -> Tensor:
        encoder = self._studio.encoder
        return torch.stack([text_feature(encoder, self._tower, text, ["{}"]).cpu() for text in texts])


class ClipJudge:
    """A CLIP model in a transformers folder."""

    def __init__(self, path: Path, device: torch.device) -> None:
        if not path.is_dir():
            raise UserError(f"{path} is not a folder; give a folder that transformers' CLIPModel has saved.")
        try:
            model: Any = CLIPModel.from_pretrained(path, local_files_only=True)
            self._model = model.to(device).eval()
            self._tokenizer = CLIPTokenizer.from_pretrained(path, local_files_only=True)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            if out_of_memory(error):
                raise
            reason = f"{path} could not be loaded as a CLIP model ({str(error).splitlines()[0]})"
            raise UserError(f"{reason}; give a folder that transformers' CLIPModel has saved.") from error

    @torch.no_grad()
    def pictures(self, pictures: Tensor) -> Tensor:
        inputs = clip_inputs(pictures, self._model.config.vision_config)
        pooled = self._model.vision_model(inputs.to(self._model.device)).pooler_output
        return normalize(self._model.visual_projection(pooled).cpu(), dim=-1)

    def layers(self, pictures: Tensor) -> list[Tensor]:
        return _layers(self._model.vision_model, pictures, self._model.config.vision_config)

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Tensor:
        inputs = self._tokenizer(list(texts), return_tensors="pt", padding=True, truncation=True)
        pooled = self._model.text_model(**inputs.to(self._model.device)).pooler_output
        return normalize(self._model.text_projection(pooled).cpu(), dim=-1)


@torch.no_grad()
def _layers(vision: Any, pictures: Tensor, config: Any) -> list[Tensor]:
    inputs = clip_inputs(pictures, config).to(vision.device, vision.dtype)
    return [states.float().cpu() for states in vision(inputs, output_hidden_states=True).hidden_states]


def add_judge_option(parser: argparse.ArgumentParser) -> None:
    help_ = "CLIP that judges (transformers folder); default: the model's own encoders"
    parser.add_argument("--clip", type=Path, metavar="PATH", help=help_)


def judge_of(arguments: argparse.Namespace, studio: DiffusersStudio) -> Judge:
    """What `add_judge_option` was given."""
    return ClipJudge(arguments.clip, studio.device) if arguments.clip else OwnJudge(studio)
