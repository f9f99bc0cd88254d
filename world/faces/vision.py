"""FaceWorld's image encoder: EmojiWorld's, trained on with faces; its text encoder stays as it is."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize
from transformers import CLIPModel, CLIPTokenizer, CLIPVisionConfig, CLIPVisionModelWithProjection

from .. import weights
from ..architecture import VISION
from ..emoji.architecture import WEIGHTS
from ..emoji.encoders import contrastive_loss, text_features
from .truth import Face, draw_caption


def build() -> CLIPVisionModelWithProjection:
    """With EmojiWorld's weights."""
    model = CLIPVisionModelWithProjection(CLIPVisionConfig(**VISION))
    read = weights.load("encoders", WEIGHTS)
    model.load_state_dict({name: tensor for name, tensor in read.items() if name.startswith("vis")})
    return model


def features(model: CLIPVisionModelWithProjection, pictures: Tensor) -> Tensor:
    """Image embeddings (pictures, width), float32, of length 1; pictures (n, 3, 128, 128) in -1..1."""
    weight = next(model.parameters())
    return normalize(model(pictures.to(weight)).image_embeds.float(), dim=-1)


@dataclass(frozen=True, eq=False)
class Lessons:
    """What the image encoder learns from: faces, and captions that are drawn anew each time."""

    clip: CLIPModel  # of which texts are read
    tokenizer: CLIPTokenizer
    faces: Sequence[Face]

    def loss(self, model: CLIPVisionModelWithProjection, pictures: Tensor, rows: Sequence[int], step: int) -> Tensor:
        """The contrastive loss of pictures (n, 3, 128, 128) in -1..1 of the faces `rows`, with a caption each."""
        generator = random.Random(f"vision {step}")
        shown = [self.faces[row] for row in rows]
        captions = [draw_caption(face, generator) for face in shown]
        with torch.no_grad():
            texts = text_features(self.clip, self.tokenizer, [caption.text for caption in captions])
            scale = self.clip.logit_scale.exp()
        images = features(model, pictures)
        fits = [[caption.fits(face, other) for other in shown] for caption, face in zip(captions, shown, strict=True)]
        return contrastive_loss(texts, images, torch.tensor(fits, device=images.device), scale)
