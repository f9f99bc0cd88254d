"""`python -m conceptlens.world.faces.train PART`: trains FaceWorld, part by part; a run that was cut off goes on."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import torch
from diffusers import AutoencoderTiny
from torch import Tensor
from tqdm import tqdm
from transformers import CLIPVisionModelWithProjection

from ...core import storage
from ..classifier import Classifier
from ..emoji import encoders
from ..emoji.pipeline import emoji_world_pipeline
from ..pictures import to_tensor
from ..training import Settings, computing_dtype
from ..workshop import Workshop, main
from . import autoencoder, denoiser, judge, vision
from .architecture import WEIGHTS
from .pictures import Personas
from .truth import TRAINING_SEEDS, Face, draw_caption

AUTOENCODER = Settings(steps=300, batch=16, learning_rate=7e-4, decay_from=0.3, average=0.98)
CLASSIFIER = Settings(steps=400, batch=64, learning_rate=2e-3, weight_decay=0.01, average=0.98)
VISION = Settings(steps=600, batch=64, learning_rate=1e-3, weight_decay=0.01, average=0.98)
UNET = Settings(steps=3500, batch=64, learning_rate=1e-3, decay_from=0.55, weight_decay=0.01)
AT_ONCE = 32  # pictures and captions that are encoded together


class FaceWorkshop(Workshop):
    """FaceWorld's parts."""

    world = "FaceWorld"

    @cached_property
    def pictures(self) -> Tensor:
        """The training pictures (n, 3, 128, 128) uint8: drawn once, then read."""
        file = self.runs / "faces.safetensors"
        if not file.is_file():
            personas = Personas(self.packages)
            drawn = [to_tensor(personas.picture(seed)) for seed in tqdm(TRAINING_SEEDS, desc="drawing faces")]
            pictures = torch.stack([((each + 1) * 127.5).round().byte() for each in drawn])
            storage.write(file, {"pictures": pictures}, {"kind": "faces", "version": 1})
        return storage.read(file, "faces", 1, ("pictures",))[0]["pictures"]

    @cached_property
    def faces(self) -> list[Face]:
        return [Face.of_seed(seed) for seed in TRAINING_SEEDS]

    def roughened(self, count: int, step: int) -> tuple[Tensor, Tensor]:
        """Rows of some training pictures, and them as generated ones may be; the same for the same step."""
        generator = torch.Generator().manual_seed(step)
        rows = torch.randint(len(self.faces), (count,), generator=generator)
        return rows, judge.roughened(self.pictures[rows].float() / 127.5 - 1, generator)

    def autoencoder(self) -> AutoencoderTiny:
        """The autoencoder, trained."""
        module = autoencoder.build()

        def loss(worker: AutoencoderTiny, step: int) -> Tensor:
            return autoencoder.loss(worker, autoencoder.batch(self.pictures, AUTOENCODER.batch, step).to(self.device))

        self.train("face_autoencoder", module, loss, AUTOENCODER)
        self.export("autoencoder", module, AUTOENCODER)
        return module

    def classifier(self) -> Classifier:
        """The judge, trained."""
        module = judge.build()
        labels = torch.tensor([face.labels for face in self.faces])
        labels[~torch.tensor([face.shown for face in self.faces])] = judge.UNKNOWN

        def loss(worker: Classifier, step: int) -> Tensor:
            rows, pictures = self.roughened(CLASSIFIER.batch, step)
            return judge.loss(worker, pictures.to(self.device), labels[rows].to(self.device))

        self.train("face_classifier", module, loss, CLASSIFIER)
        self.export("classifier", module, CLASSIFIER)
        return module

    def vision(self) -> CLIPVisionModelWithProjection:
        """The image encoder, trained."""
        module = vision.build()
        clip: Any = encoders.load()
        lessons = vision.Lessons(clip.to(self.device), self.tokenizer, self.faces)

        def loss(worker: CLIPVisionModelWithProjection, step: int) -> Tensor:
            rows, pictures = self.roughened(VISION.batch, step)
            return lessons.loss(worker, pictures.to(self.device), rows.tolist(), step)

        self.train("face_vision", module, loss, VISION)
        self.export("vision", module, VISION)
        return module

    @torch.no_grad()
    def latents(self) -> Tensor:
        """Latents (n, 4, 16, 16) float16 of the training pictures: made once, then read."""
        file = self.runs / "face_latents.safetensors"
        if not file.is_file():
            model: Any = self.autoencoder()
            model.to(self.device, computing_dtype(self.device))
            weight = next(model.parameters())
            parts = [
                model.encoder((some.float() / 127.5 - 1).to(weight)).half().cpu()
                for some in tqdm(self.pictures.split(AT_ONCE), desc="encoding faces")
            ]
            storage.write(file, {"latents": torch.cat(parts)}, {"kind": "face latents", "version": 1})
        return storage.read(file, "face latents", 1, ("latents",))[0]["latents"]

    @torch.no_grad()
    def contexts(self, texts: list[str]) -> Iterator[Tensor]:
        """EmojiWorld's text encoder's states of texts, some (n, 77, width) float16 at a time."""
        encoder: Any = emoji_world_pipeline().text_encoder.to(self.device)
        for first in tqdm(range(0, len(texts), AT_ONCE), desc="encoding captions"):
            some = texts[first : first + AT_ONCE]
            inputs = self.tokenizer(some, padding="max_length", truncation=True, return_tensors="pt")
            yield encoder(inputs.input_ids.to(self.device)).last_hidden_state.half().cpu()

    def unet(self) -> denoiser.Bottlenecked:
        """The UNet, trained."""
        module = denoiser.Bottlenecked()
        captions = [
            draw_caption(face, random.Random(f"caption {seed}")).text
            for face, seed in zip(self.faces, TRAINING_SEEDS, strict=True)
        ]
        states = torch.cat(list(self.contexts([*captions, *denoiser.UNNAMED])))
        named, unnamed = states[: len(captions)], states[len(captions) :].split(1)
        lessons = denoiser.Lessons(self.latents(), named, unnamed)
        self.train(
            "face_unet", module, lambda worker, step: lessons.loss(worker, UNET.batch, step), UNET, compiled=True
        )
        self.export("unet", module.unet, UNET)
        return module


if __name__ == "__main__":
    sys.exit(main(FaceWorkshop, ("autoencoder", "classifier", "vision", "unet"), WEIGHTS))
