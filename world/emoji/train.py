"""`python -m conceptlens.world.emoji.train PART`: trains EmojiWorld, part by part; a run that was cut off goes on."""

from __future__ import annotations

import json
import random
import sys
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderTiny, FluxTransformer2DModel, UNet2DConditionModel
from safetensors import safe_open
from torch import Tensor
from transformers import CLIPModel

from ...core import storage
from ...core.pictures.grid import from_pil, labelled_grid, save_picture
from .. import weights
from ..classifier import Classifier
from ..training import Settings, computing_dtype
from ..workshop import Workshop, main
from . import autoencoder, denoiser, encoders, language, transformer
from .architecture import GUIDANCE, WEIGHTS
from .classifier import classifier_batch, classifier_loss, kinds
from .lessons import Lessons, encode_pictures
from .part import part_of
from .pictures import Pictures
from .pipeline import emoji_world_pipeline
from .sources import Sources
from .truth import Truth

AUTOENCODER = Settings(steps=4000, batch=16, learning_rate=1.5e-3)
ENCODERS = Settings(steps=1600, batch=64, learning_rate=1e-3, weight_decay=0.01)
CLASSIFIER = Settings(steps=2000, batch=64, learning_rate=1e-3, weight_decay=0.01)
UNET = Settings(steps=18_500, batch=64, learning_rate=1e-3, decay_from=0.86, average=0.9995)
FINETUNE = Settings(steps=3500, batch=64, learning_rate=7e-4, decay_from=0.4, average=0.9985)
TRANSFORMER = Settings(steps=6_000, batch=64, learning_rate=1e-3, decay_from=0.7, average=0.999)
LATENTS = {"latents": 24_000, "latents_of_part": 10_000}
# Names, a trained and two held-out colours, another style, keywords, professions, and words that no caption has.
SAMPLES = ("a rose", "a cat", "a photo of a rocket", "a pizza", "a red car", "a yellow bird", "a purple banana")
SAMPLES += ("a flat drawing of a guitar", "a pest", "a boat", "a toy", "a mechanic", "a singer", "a female mechanic")
SAMPLES += ("a kitten", "a lorry")


class EmojiWorkshop(Workshop):
    """EmojiWorld's parts."""

    world = "EmojiWorld"

    @cached_property
    def pictures(self) -> Pictures:
        return Pictures(Sources(self.packages), Truth.load())

    def autoencoder(self) -> AutoencoderTiny:
        """The autoencoder, trained."""
        module = autoencoder.build()

        def loss(worker: AutoencoderTiny, step: int) -> Tensor:
            crops = autoencoder.batch(self.pictures, AUTOENCODER.batch, step)
            return autoencoder.loss(worker, crops.to(self.device))

        self.train("autoencoder", module, loss, AUTOENCODER)
        self.export("autoencoder", module, AUTOENCODER)
        return module

    def language(self) -> tuple[dict[str, Tensor], list[str], Tensor]:
        """The packed token table, training texts and their meanings: made once, then read."""
        file = self.runs / "language.safetensors"
        if not file.is_file():
            words = list(language.whole_words(self.tokenizer))
            model = language.LanguageModel(self.packages, words)
            texts = language.training_texts(self.pictures.sources, self.pictures.truth, words)
            table = weights.pack(model(language.token_texts(self.tokenizer)))
            storage.write(
                file, {**table, "meanings": model(texts).half()}, {"kind": "language", "version": 1, "texts": texts}
            )
        tensors, header = storage.read(file, "language", 1, ("table", "table_scale", "meanings"))
        meanings = tensors.pop("meanings").float()
        return tensors, header["texts"], meanings

    def encoders(self) -> CLIPModel:
        """Text and image encoder, trained."""
        table, texts, meanings = self.language()
        module = encoders.build(weights.unpack(**table))
        lessons = encoders.Lessons(self.pictures, self.tokenizer, texts, meanings)
        self.train("encoders", module, lambda worker, step: lessons.loss(worker, ENCODERS.batch, step), ENCODERS)
        self.export("encoders", module, ENCODERS)
        return module

    def classifier(self) -> Classifier:
        """The classifier that judges pictures, trained."""
        module = Classifier(len(kinds(self.pictures.truth)))

        def loss(worker: Classifier, step: int) -> Tensor:
            generator = random.Random(f"classifier {step}")
            return classifier_loss(worker, *classifier_batch(self.pictures, CLASSIFIER.batch, generator))

        self.train("classifier", module, loss, CLASSIFIER)
        self.export("classifier", module, CLASSIFIER)
        return module

    def latents(self, kept: str, pictures: Pictures) -> dict[str, Tensor]:
        """Latents of training pictures: made once, then read; `kept` is their file's name."""
        file = self.runs / f"{kept}.safetensors"
        if not file.is_file():
            model: Any = autoencoder.load(self.weights)
            model.to(self.device, computing_dtype(self.device), memory_format=torch.channels_last)
            latents = encode_pictures(model, pictures, LATENTS[kept])
            names = list(latents)
            tensors = {str(number): latents[name] for number, name in enumerate(names)}
            storage.write(file, tensors, {"kind": "latents", "version": 1, "names": names})
        with safe_open(file, "pt") as tensors:
            names = json.loads(tensors.metadata()[storage.FORMAT_KEY])["names"]
            return {name: tensors.get_tensor(str(number)) for number, name in enumerate(names)}

    def unet(self) -> UNet2DConditionModel:
        """The UNet, trained; autoencoder and encoders are those that are there."""
        return self._denoiser("unet", denoiser.build(), UNET)

    def finetune(self) -> UNet2DConditionModel:
        """The UNet that is there, trained on."""
        module = denoiser.build()
        module.load_state_dict(weights.load("unet", self.weights))
        start = weights.checksums(self.weights)["unet.safetensors"]  # other weights are another run
        return self._denoiser(f"finetune_{start[:8]}", module, FINETUNE)

    def _denoiser(self, run: str, module: UNet2DConditionModel, settings: Settings) -> UNet2DConditionModel:
        lessons = self._lessons("latents", self.pictures)

        def loss(worker: UNet2DConditionModel, step: int) -> Tensor:
            return denoiser.loss(worker, lessons, settings.batch, step)

        self.train(run, module, loss, settings, compiled=True)
        self.export("unet", module, settings)
        self.sample_grid(self.runs / "samples.png")
        return module

    def transformer(self) -> FluxTransformer2DModel:
        """The transformer, trained on a part of the world."""
        module = transformer.build()
        part = replace(self.pictures, truth=part_of(self.pictures.truth))
        lessons = self._lessons("latents_of_part", part)

        def loss(worker: FluxTransformer2DModel, step: int) -> Tensor:
            return transformer.loss(worker, lessons, TRANSFORMER.batch, step)

        self.train("transformer", module, loss, TRANSFORMER)
        self.export("transformer", module, TRANSFORMER, bytewise=True)
        return module

    def _lessons(self, kept: str, pictures: Pictures) -> Lessons:
        text_encoder: Any = encoders.load(self.weights).text_model
        return Lessons(pictures.truth, self.latents(kept, pictures), self.tokenizer, text_encoder.to(self.device))

    def sample_grid(self, file: Path) -> None:
        """What the model draws now, to look at: two pictures of each prompt."""
        pipe: Any = emoji_world_pipeline(self.device, self.weights)
        pictures, labels = [], [prompt for prompt in SAMPLES for _ in range(2)]
        for prompt in SAMPLES:
            generators = [torch.Generator("cpu").manual_seed(seed) for seed in range(2)]
            drawn = pipe([prompt] * 2, num_inference_steps=25, guidance_scale=GUIDANCE, generator=generators).images
            pictures += map(from_pil, drawn)
        save_picture(labelled_grid(pictures, labels, columns=8), file)


if __name__ == "__main__":
    sys.exit(main(EmojiWorkshop, ("autoencoder", "encoders", "classifier", "unet", "finetune", "transformer"), WEIGHTS))
