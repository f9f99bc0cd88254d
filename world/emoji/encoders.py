"""Text and image encoder: a CLIP whose words come from a language model and whose pictures are EmojiWorld's."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, normalize
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from .. import weights
from ..architecture import TEXT, VISION
from ..pictures import to_tensor
from .architecture import WEIGHTS
from .captions import FLAT_TEMPLATES, TEMPLATES, Caption, draw_caption, with_article
from .pictures import SEEN, Pictures, varied
from .truth import Truth

TEXTS = 192  # of the language model beside each batch of captions
LANGUAGE_WEIGHT = 8.0


def build(table: Tensor) -> CLIPModel:
    """Untrained but for the token table (tokens, width), which stays as it is."""
    model = _empty()
    model.text_model.embeddings.token_embedding.weight.requires_grad_(False).copy_(table)
    return model


def load(folder: Path = WEIGHTS) -> CLIPModel:
    """The weights in a folder, without one this repository's."""
    model = _empty()
    model.load_state_dict(weights.load("encoders", folder))
    return model.eval()


def _empty() -> CLIPModel:
    vision = {key: value for key, value in VISION.items() if key not in ("model_type", "image_mean", "image_std")}
    return CLIPModel(CLIPConfig(text_config=TEXT, vision_config=vision, projection_dim=TEXT["projection_dim"]))


@dataclass(frozen=True, eq=False)
class Lessons:
    """What the encoders learn from: pictures with captions, and texts with the language model's embeddings."""

    pictures: Pictures
    tokenizer: CLIPTokenizer
    texts: Sequence[str]
    meanings: Tensor  # (texts, 384), of length 1

    def __post_init__(self) -> None:
        if len(self.texts) != len(self.meanings):
            raise ValueError(f"{len(self.texts)} texts and {len(self.meanings)} meanings; expected as many.")

    def loss(self, model: CLIPModel, batch: int, step: int) -> Tensor:
        """The contrastive loss of a batch of pictures, and how far texts are from their meanings."""
        generator = random.Random(f"encoders {step}")
        device = model.logit_scale.device
        captions = [draw_caption(self.pictures.truth, generator) for _ in range(batch)]
        pictures = torch.stack([to_tensor(varied(self.pictures.clean(c), generator, SEEN)) for c in captions]).to(
            device
        )
        rows = generator.choices(range(len(self.texts)), k=TEXTS)
        spoken = [_spoken(self.texts[row], generator) for row in rows]
        features = text_features(model, self.tokenizer, [caption.text for caption in captions] + spoken)
        matches = torch.tensor([[shows(self.pictures.truth, c, p) for p in captions] for c in captions], device=device)
        contrast = contrastive_loss(features[:batch], image_features(model, pictures), matches, model.logit_scale.exp())
        distance = 1 - (features[batch:] * self.meanings[rows].to(device)).sum(1)
        return contrast + LANGUAGE_WEIGHT * distance.mean()


def _spoken(text: str, generator: random.Random) -> str:
    """The text as it is or in a template, with or without an article; the meaning stays."""
    if generator.random() < 0.4:
        return text
    template = generator.choice((*TEMPLATES, *FLAT_TEMPLATES))
    return template.format(with_article(text) if generator.random() < 0.7 else text)


def text_features(model: CLIPModel, tokenizer: CLIPTokenizer, texts: Sequence[str]) -> Tensor:
    """Projected text embeddings (texts, 384), float32, of length 1."""
    inputs = tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt").to(model.logit_scale.device)
    pooled = model.text_model(**inputs).pooler_output
    return normalize(model.text_projection(pooled).float(), dim=-1)


def image_features(model: CLIPModel, pictures: Tensor) -> Tensor:
    """Projected image embeddings (pictures, 384), float32, of length 1; pictures (n, 3, 128, 128) in -1..1."""
    pooled = model.vision_model(pictures.to(model.logit_scale.dtype)).pooler_output
    return normalize(model.visual_projection(pooled).float(), dim=-1)


def contrastive_loss(texts: Tensor, images: Tensor, matches: Tensor, scale: Tensor) -> Tensor:
    """CLIP's symmetric cross-entropy, with all true pairs of a batch as equally good answers.

    texts, images: (n, width), of length 1. matches: (n, n) bool, whether text i is true of image j; the diagonal is.
    """
    logits = scale.float() * texts @ images.T
    losses = [
        -(log_softmax(rows, dim=1) * wanted / wanted.sum(1, keepdim=True)).sum(1).mean()
        for rows, wanted in ((logits, matches.float()), (logits.T, matches.T.float()))
    ]
    return torch.stack(losses).mean()


def shows(truth: Truth, caption: Caption, picture: Caption) -> bool:
    """Whether what was drawn for the caption `picture` may be drawn for `caption` as well."""
    if caption.style != picture.style:
        return False
    colours = [c.colour or truth.default_colours.get(c.name) for c in (caption, picture)]
    if caption.kind == "keyword":
        pictured = {truth.emoji[name] for name in truth.keywords[caption.content]}
        return picture.characters in pictured and picture.colour in (None, truth.default_colours.get(picture.name))
    if caption.kind in ("profession", "man or woman"):
        profession = truth.professions[caption.name]
        sexes = [
            sex for sex in ("man", "woman") if caption.kind == "profession" or caption.characters in profession[sex]
        ]
        return any(picture.characters in profession[sex] for sex in sexes)
    return caption.characters == picture.characters and colours[0] == colours[1]
