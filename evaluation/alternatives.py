"""`alternatives`: what people would do instead of a TIME edit, beside it in one run, on EmojiWorld.

The same edits are made in four ways and judged as `timed` judges them (arXiv 2303.08084, section 4):

- TIME: our edit, with lambda 0.1 relative to ordinary prompts, whose covariance is there already;
- words: the edit is written into each prompt that shall change, and the others are drawn by the model as it is;
- difference: the destination's conditioning minus the source's is added to that of every prompt;
- slider: a LoRA trained on the pair by the published recipe of Concept Sliders (arXiv 2311.12092).

Of each way there are also the seconds that it takes to make an edit and the size of the file that one would share.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, Protocol

import torch
from diffusers import DDIMScheduler
from torch import Tensor
from torch.nn.functional import mse_loss
from torch.nn.init import kaiming_uniform_

from ..core import storage
from ..core.errors import UserError
from ..core.model.text_tower import Encoded
from ..core.time_edit.lora import KOHYA, LoraFactors, lora_names, lora_state_dict, save_lora
from ..core.time_edit.ordinary import ordinary_covariance
from ..core.time_edit.time_edit import EditPair, edit_model
from ..harness.terminal.console import Console
from ..harness.terminal.models import EMOJI_WORLD, load_pipeline
from ..pipelines.adapter import DiffusersDenoiser, Pipeline, denoiser_module
from ..pipelines.pictures import Sampling
from ..pipelines.studio import DiffusersStudio
from ..world.emoji.architecture import GUIDANCE
from ..world.emoji.timed import TEST
from .judges import Judge, OwnJudge
from .measures import Measure, report
from .timed import leanings
from .timed_set import Leanings, Scores, TimedPair, intervals, mean_scores, read_pairs

STEPS = 12
LAMBDA = 0.1
FIGURES = ("efficacy", "generality", "specificity", "harmonic")

# Of Concept Sliders, as their authors' code has it for text.
RANK, ALPHA = 4, 1.0
LEARNING_RATE = 2e-4
ETA = 4.0  # `guidance_scale` in all of the authors' files of prompts
DENOISING_STEPS = 50  # of DDIM, of which a random number is made before each training step
CROSS_ATTENTION = re.compile(r"\.attn2\.(to_[qkv]|to_out\.0)$")
SLIDER = "slider"  # the adapter's name while it is trained

State = Mapping[str, Tensor]  # what one shares of an edit: tensors of a file by their names


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--dataset", type=Path, default=TEST, metavar="CSV", help="with TIMED's columns (default: EmojiWorld's test)")
    add("--edits", type=int, default=10, metavar="N", help="of the dataset, spread over it (default 10)")
    add("--num-seeds", type=int, default=2, metavar="N", help="pictures of each prompt (default 2)")
    add("--slider-steps", type=int, default=200, metavar="N", help="of training (default 200; the paper has 1000)")
    add(
        "--eta", type=float, default=ETA, help=f"how far a slider goes (default {ETA:g}, as the authors' files have it)"
    )


def run(arguments: argparse.Namespace, console: Console) -> None:
    for option in ("edits", "num_seeds", "slider_steps"):
        if (given := getattr(arguments, option)) < 1:
            raise UserError(f"--{option.replace('_', '-')} is {given}; give 1 or above.")
    entries = spread(read_pairs(arguments.dataset), arguments.edits)
    pipe = load_pipeline(EMOJI_WORLD)
    studio = DiffusersStudio(pipe, Sampling(STEPS, GUIDANCE))
    bench = Bench(pipe, studio, OwnJudge(studio), range(arguments.num_seeds))
    with TemporaryDirectory() as folder:
        cache = Path(folder)
        ordinary_covariance(studio.encoder, cache)  # the nodes keep it too: it is made once for a text encoder
        ways: dict[str, Way] = {
            "TIME": Lora(bench, lambda edit: time_lora(bench, edit, cache)),
            "words": Words(bench),
            "difference": Difference(bench),
            "slider": Lora(bench, lambda edit: concept_slider(bench, edit, arguments.slider_steps, arguments.eta)),
        }
        found: dict[str, list[Trial]] = {name: [] for name in ways}
        for number, entry in enumerate(entries, start=1):
            for name, way in ways.items():
                console.line(f"{entry.edit}, {name} ({number} of {len(entries)})")
                found[name].append(tried(way, entry))
    settings = {"dataset": arguments.dataset.name, "edits": len(entries), "num_seeds": arguments.num_seeds}
    settings |= {"steps": STEPS, "guidance_scale": GUIDANCE, "lambda": LAMBDA, "regularize": "relative"}
    settings |= {"slider_steps": arguments.slider_steps, "eta": arguments.eta, "rank": RANK, "alpha": ALPHA}
    report("python -m conceptlens.evaluation alternatives", settings, list(measures(found)), arguments.json)


def spread(entries: Sequence[TimedPair], count: int) -> list[TimedPair]:
    """`count` of the entries at equal distances, the first one among them; all where there are no more."""
    count = min(count, len(entries))
    return [entries[number * len(entries) // count] for number in range(count)]


class Trial(NamedTuple):
    """One edit made in one way."""

    scores: Scores
    seconds: float  # to make it
    kilobytes: float  # of the file that one would share


def tried(way: Way, entry: TimedPair) -> Trial:
    start = time.perf_counter()
    made = way.make(entry.edit)
    spent = time.perf_counter() - start
    return Trial(way.leanings(entry, made).scores(), spent, kilobytes(way, made))


def kilobytes(way: Way, made: State) -> float:
    """The size of the file, 0 where there is nothing to share."""
    if not made:
        return 0.0
    with TemporaryDirectory() as folder:
        file = Path(folder) / "edit.safetensors"
        way.save(file, made)
        return file.stat().st_size / 1000


def measures(found: Mapping[str, Sequence[Trial]]) -> Iterator[Measure]:
    for name, trials in found.items():
        scores = [trial.scores for trial in trials]
        ranges = intervals(scores)
        for figure in FIGURES:
            value = getattr(mean_scores(scores), figure)
            yield Measure(f"{name}: {figure}", value, "%", len(scores), ranges[figure])
        yield Measure.mean(f"{name}: seconds", [trial.seconds for trial in trials], "s")
        yield Measure.mean(f"{name}: kilobytes", [trial.kilobytes for trial in trials], "kB")


@dataclass(frozen=True, eq=False)
class Bench:
    """A model, how it draws, and a judge of its pictures."""

    pipe: Pipeline
    studio: DiffusersStudio
    judge: Judge
    seeds: Sequence[int]

    def features(self, prompt: str) -> Tensor:
        """Of one picture a seed, (seeds, width)."""
        return self._features(self.studio.latents_of_prompt(prompt, self.seeds))

    def features_of_context(self, context: Tensor) -> Tensor:
        """The same for the context (1, 77, width) of a prompt."""
        encoded = Encoded(context, context[:, -1])  # the second is a pooled text, which SD 1.x does not read
        return self._features(self.studio.latents_of_encoded(encoded, self.seeds))

    def _features(self, latents: Tensor) -> Tensor:
        return self.judge.pictures(self.studio.pictures(latents))


class Way(Protocol):
    """A way to have the source drawn as the destination."""

    def make(self, edit: EditPair, /) -> State:
        """What one would share of the edit, on the CPU; nothing where there is nothing to share."""
        ...

    def save(self, file: Path, made: State) -> None:
        """Writes what `make` gave."""
        ...

    def leanings(self, entry: TimedPair, made: State) -> Leanings:
        """What pictures are like that are drawn with what `make` gave."""
        ...


@dataclass(frozen=True, eq=False)
class Words:
    """The destination is what is written."""

    bench: Bench

    def make(self, edit: EditPair) -> State:  # noqa: ARG002  (nothing to make)
        return {}

    def save(self, file: Path, made: State) -> None:
        """Nothing to write."""

    def leanings(self, entry: TimedPair, made: State) -> Leanings:  # noqa: ARG002  (nothing was made)
        return leanings(entry, self.bench.judge, self.bench.features, said=True)


@dataclass(frozen=True, eq=False)
class Difference:
    """A difference of two conditionings, added to those of all prompts: in a graph it stays where it was put."""

    bench: Bench

    def make(self, edit: EditPair) -> State:
        """Two contexts (1, 77, width) in float16."""
        encode = self.bench.studio.encoder.encode
        return {"source": encode([edit.source]).half(), "destination": encode([edit.destination]).half()}

    def save(self, file: Path, made: State) -> None:
        storage.write(file, made, {"kind": "difference of contexts", "version": 1})

    def leanings(self, entry: TimedPair, made: State) -> Leanings:
        def features(prompt: str) -> Tensor:
            return self.bench.features_of_context(add_difference(self.bench.studio.encoder.encode([prompt]), made))

        return leanings(entry, self.bench.judge, features)


def add_difference(context: Tensor, contexts: State) -> Tensor:
    """A prompt's context (1, 77, width) plus that of the destination minus that of the source.

    Slot by slot as it stands, which is what nodes that add conditionings do: behind a word that only the destination
    has, slots of different words are subtracted, and a longer prompt gets the difference at its own words. The empty
    prompt of the guidance stays as it is.
    """
    return context + (contexts["destination"].float() - contexts["source"].float())


@dataclass(frozen=True, eq=False)
class Lora:
    """A LoRA at scale 1, under which all prompts are drawn."""

    bench: Bench
    make: Callable[[EditPair], State]

    def save(self, file: Path, made: State) -> None:
        save_lora(file, made)

    def leanings(self, entry: TimedPair, made: State) -> Leanings:
        with applied(self.bench.pipe, made):
            return leanings(entry, self.bench.judge, self.bench.features)


@contextmanager
def applied(pipe: Pipeline, lora: State, adapter: str = "edit") -> Iterator[None]:
    """The model with a LoRA; afterwards it is as it was."""
    denoiser = DiffusersDenoiser(pipe)
    denoiser.apply(lora, adapter)
    try:
        yield
    finally:
        denoiser.remove(adapter)


def time_lora(bench: Bench, edit: EditPair, cache: Path) -> State:
    """TIME's edit with the nodes' defaults; the covariance of ordinary prompts is kept in the folder `cache`."""
    denoiser = DiffusersDenoiser(bench.pipe)
    made = edit_model(bench.studio.encoder, denoiser, [edit], regularization=LAMBDA, regularize="relative", cache=cache)
    return lora_state_dict(made.factors, denoiser.family)


def concept_slider(bench: Bench, edit: EditPair, steps: int, eta: float = ETA) -> State:
    """A slider from the source to the destination, as tensors of a LoRA file in float16 (arXiv 2311.12092).

    At latents that the slider has partially denoised from noise, its prediction for the source is taught
    `slider_target`, one picture a step (AdamW). As in the authors' code and their one-sided prompts ("sky" to "peaceful
    sky"), the source is the target, the neutral and the opposite prompt in one: their guidance between the last and the
    first while denoising then changes nothing and is left out. Two choices are ours: the layers are those of the
    cross-attention (the authors' `xattn`), as it is text whose meaning is edited, where their default is all other
    ones; and latents are at the timestep that they have reached, which theirs miss by less than one step.
    """
    unet, encoder = denoiser_module(bench.pipe), bench.studio.encoder
    unet.requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    # A copy, since what was made in inference mode can't take part in a gradient.
    source, destination = (encoder.encode([prompt]).clone().to(unet.device) for prompt in edit[:2])
    scheduler: Any = DDIMScheduler.from_config(bench.pipe.scheduler.config)
    scheduler.set_timesteps(DENOISING_STEPS)
    size = unet.config.sample_size
    layers = cross_attention_layers(unet)
    with applied(bench.pipe, slider_state(fresh_slider(unet, layers, generator), encoder.family), SLIDER):
        factors = trained_factors(unet, layers)
        optimizer = torch.optim.AdamW([factor for pair in factors.values() for factor in pair], lr=LEARNING_RATE)
        for _ in range(steps):
            noise = torch.randn(1, unet.config.in_channels, size, size, generator=generator).to(unet.device)
            count = int(torch.randint(1, DENOISING_STEPS, (), generator=generator))
            noisy = partially_denoised(unet, scheduler, noise, source, count)
            timestep = scheduler.timesteps[count]
            target = slider_target(unet, noisy, timestep, source, destination, eta)
            loss = mse_loss(unet(noisy, timestep, source).sample, target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return {name: tensor.half() for name, tensor in slider_state(factors, encoder.family).items()}


@torch.no_grad()
def slider_target(
    unet: Any, noisy: Tensor, timestep: Tensor, source: Tensor, destination: Tensor, eta: float
) -> Tensor:
    """eps(source) + eta (eps(destination) - eps(source)) of the model without its LoRAs (arXiv 2311.12092, section 4).

    noisy: (1, 4, h, w); source and destination: contexts (1, 77, width).
    """
    unet.disable_adapters()
    try:
        both = unet(noisy.expand(2, -1, -1, -1), timestep, torch.cat([source, destination])).sample
    finally:
        unet.enable_adapters()
    of_source, of_destination = both.chunk(2)
    return of_source + eta * (of_destination - of_source)


@torch.no_grad()
def partially_denoised(unet: Any, scheduler: Any, noise: Tensor, context: Tensor, count: int) -> Tensor:
    """Latents (1, 4, h, w) after the first `count` of a diffusers scheduler's steps from noise, without guidance."""
    latents = noise
    for timestep in scheduler.timesteps[:count]:
        latents = scheduler.step(unet(latents, timestep, context).sample, timestep, latents).prev_sample
    return latents


def cross_attention_layers(unet: Any) -> list[str]:
    """Queries, keys, values and outputs: what the authors' `xattn` trains."""
    return [name for name, _ in unet.named_modules() if CROSS_ATTENTION.search(name)]


def fresh_slider(unet: Any, layers: Sequence[str], generator: torch.Generator) -> dict[str, LoraFactors]:
    """Factors that change nothing yet: `down` (RANK, in) is random as in the authors' code, `up` (out, RANK) zero."""
    factors = {}
    for name in layers:
        out, width = unet.get_submodule(name).weight.shape
        down = kaiming_uniform_(torch.empty(RANK, width), a=1, generator=generator)
        factors[name] = LoraFactors(torch.zeros(out, RANK), down)
    return factors


def trained_factors(unet: Any, layers: Sequence[str]) -> dict[str, LoraFactors]:
    """The factors of the applied slider: the parameters themselves, free to change."""
    wrapped = {name: unet.get_submodule(name) for name in layers}
    return {
        name: LoraFactors(*(part[SLIDER].weight.requires_grad_() for part in (layer.lora_B, layer.lora_A)))
        for name, layer in wrapped.items()
    }


def slider_state(factors: Mapping[str, LoraFactors], family: str) -> dict[str, Tensor]:
    """Factors as tensors of a LoRA file, with an alpha by which a program scales them to ALPHA / RANK; on the CPU."""
    state = {}
    for name, layer in lora_names(factors, family).items():
        up, down = (factor.detach().cpu() for factor in factors[name])
        state |= {f"{layer}{KOHYA.up}": up, f"{layer}{KOHYA.down}": down, f"{layer}.alpha": torch.tensor(ALPHA)}
    return state
