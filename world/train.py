"""`python -m conceptlens.world.train PART`: trains EmojiWorld, part by part; a run that was cut off goes on."""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import AutoencoderTiny, UNet2DConditionModel
from safetensors import safe_open
from torch import Tensor, nn
from tqdm import tqdm
from transformers import CLIPModel, CLIPTokenizer

from ..core import storage
from ..core.errors import UserError
from ..core.plots import labelled_grid
from ..harness.pictures import Sampling, sample, save_picture
from . import autoencoder, denoiser, encoders, language, meters, weights
from .architecture import GUIDANCE
from .pictures import Pictures
from .pipeline import emoji_world_pipeline
from .sources import Sources
from .training import Part, Settings, computing_dtype, train
from .truth import Truth

AUTOENCODER = Settings(steps=4000, batch=16, learning_rate=1.5e-3)
ENCODERS = Settings(steps=1600, batch=64, learning_rate=1e-3, weight_decay=0.01)
CLASSIFIER = Settings(steps=2000, batch=64, learning_rate=1e-3, weight_decay=0.01)
UNET = Settings(steps=18_500, batch=64, learning_rate=1e-3, decay_from=0.86, average=0.9995)
LATENTS = 16_000
LOGGED_EVERY = 50  # steps
# Names, a trained and two held-out colours, another style, keywords, professions, and words that no caption has.
SAMPLES = ("a rose", "a cat", "a photo of a rocket", "a pizza", "a red car", "a yellow bird", "a purple banana")
SAMPLES += ("a flat drawing of a guitar", "a pest", "a boat", "a toy", "a mechanic", "a singer", "a female mechanic")
SAMPLES += ("a kitten", "a lorry")


class OutOfTimeError(Exception):
    """A part is not trained to its end yet."""


@dataclass(frozen=True)
class Workshop:
    """Where the training of a world finds what it needs and keeps what it made."""

    world: ClassVar[str] = "EmojiWorld"
    packages: Path
    runs: Path
    weights: Path
    device: torch.device
    until: float

    @cached_property
    def tokenizer(self) -> CLIPTokenizer:
        return language.clip_tokenizer()

    def train(
        self,
        part: str,
        module: Part,
        loss: Callable[[Part, int], Tensor],
        settings: Settings,
        compiled: bool = False,
    ) -> None:
        """Trains a part; `module` then holds its weights. Its log is a CSV file in `runs`.

        Raises OutOfTimeError when time is up before: what is there is kept in `runs`, and nothing is made of it.
        """
        self.runs.mkdir(parents=True, exist_ok=True)
        file = self.runs / f"{part}.safetensors"
        with (
            tqdm(total=settings.steps, desc=part, unit="step", mininterval=10) as bar,
            (self.runs / f"{part}.csv").open("a") as log,
            closing(train(module, loss, settings, file, self.device, compiled)) as states,
        ):
            for state in states:
                bar.set_postfix(loss=f"{state.loss:.4f}", refresh=False)
                bar.update(state.step - bar.n)
                if state.step % LOGGED_EVERY == 0:
                    log.write(f"{state.step},{state.loss:.5f},{state.seconds:.3f}\n")
                    log.flush()
                if state.step < settings.steps and time.monotonic() > self.until:
                    raise OutOfTimeError(
                        f"{part}: {state.step} of {settings.steps} steps; the same command goes on there."
                    )

    def export(self, part: weights.Part, module: nn.Module, settings: Settings) -> None:
        """Keeps the weights of a part in float16; `module` then holds what was kept."""
        made = {"kind": f"{self.world} {part}", "settings": asdict(settings)}
        weights.save(part, module.state_dict(), made, self.weights)
        module.load_state_dict(weights.load(part, self.weights))


class EmojiWorkshop(Workshop):
    """EmojiWorld's parts."""

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

    def classifier(self) -> meters.Classifier:
        """The classifier that judges pictures, trained."""
        module = meters.Classifier(len(meters.kinds(self.pictures.truth)))

        def loss(worker: meters.Classifier, step: int) -> Tensor:
            generator = random.Random(f"classifier {step}")
            return meters.classifier_loss(worker, *meters.classifier_batch(self.pictures, CLASSIFIER.batch, generator))

        self.train("classifier", module, loss, CLASSIFIER)
        self.export("classifier", module, CLASSIFIER)
        return module

    def latents(self) -> dict[str, Tensor]:
        """Latents of training pictures: made once, then read."""
        file = self.runs / "latents.safetensors"
        model: Any = self.autoencoder()
        if not file.is_file():
            model.to(self.device, computing_dtype(self.device), memory_format=torch.channels_last)
            latents = denoiser.encode_pictures(model, self.pictures, LATENTS)
            names = list(latents)
            tensors = {str(number): latents[name] for number, name in enumerate(names)}
            storage.write(file, tensors, {"kind": "latents", "version": 1, "names": names})
        with safe_open(file, "pt") as tensors:
            names = json.loads(tensors.metadata()[storage.FORMAT_KEY])["names"]
            return {name: tensors.get_tensor(str(number)) for number, name in enumerate(names)}

    def unet(self) -> UNet2DConditionModel:
        """The UNet, trained."""
        module = denoiser.build()
        text_encoder: Any = self.encoders().text_model
        text_encoder.to(self.device)
        lessons = denoiser.Lessons(self.pictures.truth, self.latents(), self.tokenizer, text_encoder)
        self.train("unet", module, lambda worker, step: lessons.loss(worker, UNET.batch, step), UNET, compiled=True)
        self.export("unet", module, UNET)
        self.sample_grid(self.runs / "samples.png")
        return module

    def sample_grid(self, file: Path) -> None:
        """What the model draws now, to look at."""
        pipe = emoji_world_pipeline(self.tokenizer, self.device, self.weights)
        sampling = Sampling(seeds=(0, 1), steps=25, guidance_scale=GUIDANCE)
        pictures = [picture for prompt in SAMPLES for picture in sample(pipe, prompt, sampling)]
        labels = [prompt for prompt in SAMPLES for _ in sampling.seeds]
        save_picture(labelled_grid(pictures, labels, columns=8), file)


def main(
    workshop: type[Workshop] = EmojiWorkshop,
    parts: Sequence[str] = ("autoencoder", "encoders", "classifier", "unet"),
    folder: Path = weights.FOLDER,
) -> int:
    """The command line of a world: trains the part that is named, by the method of that name."""
    parser = argparse.ArgumentParser(
        description=f"Trains {workshop.world}, part by part; a run that was cut off goes on."
    )
    parser.add_argument("part", choices=parts)
    parser.add_argument("--packages", type=Path, default=Path(".world"), metavar="DIR", help="where packages are kept")
    parser.add_argument("--runs", type=Path, default=Path(".world/runs"), metavar="DIR", help="what training keeps")
    parser.add_argument("--weights", type=Path, default=folder, metavar="DIR", help="where the weights go")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after so long; a later run goes on")
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    until = time.monotonic() + 60 * arguments.minutes
    try:
        getattr(workshop(arguments.packages, arguments.runs, arguments.weights, device, until), arguments.part)()
    except OutOfTimeError as unfinished:
        sys.stderr.write(f"{unfinished}\n")
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
