"""How every part of EmojiWorld is trained: resumable, in half the bits where the machine is fast at that."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from torch import Tensor, nn

from ..core import storage
from ..core.errors import UserError

Part = TypeVar("Part", bound=nn.Module)
SAVE_EVERY = 240.0  # seconds
WARM_UP = 200  # steps


@dataclass(frozen=True)
class Settings:
    """How one part is trained; kept with its weights."""

    steps: int
    batch: int
    learning_rate: float
    weight_decay: float = 0.0
    decay_from: float = 0.4  # the share of the steps after which the learning rate falls, linearly to 0
    average: float = 0.999  # of the moving average of the weights
    seed: int = 0


@dataclass(frozen=True)
class Step:
    """What one step of training reports."""

    step: int
    loss: float  # smoothed over about 50 steps
    seconds: float  # of one step, smoothed likewise


def computing_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where it is faster than float32: on GPUs, and on processors that multiply it themselves."""
    fast = device.type == "cuda" or torch.cpu._is_avx512_bf16_supported()  # no public way to ask
    return torch.bfloat16 if fast else torch.float32


def train(
    module: Part,
    loss: Callable[[Part, int], Tensor],
    settings: Settings,
    file: Path,
    device: torch.device,
    compiled: bool = False,
) -> Generator[Step, None, None]:
    """Trains `module` in place until `settings.steps`; afterwards it holds the averaged weights.

    loss(module, step): the scalar loss of one step; it must depend on nothing but its arguments, so that a run that
    was cut off and goes on is the run that was not. `module` is given to it in `computing_dtype`; the weights, their
    average and the optimizer's state are float32. All of it is kept in `file`, and read from there. `compiled`: by
    torch.compile, which takes two minutes first and needs a C++ compiler on a CPU.

    Raises UserError when `file` was made with other settings.
    """
    module.to(device).float().train()
    worker: Any = copy.deepcopy(module).to(computing_dtype(device))
    worker.to(memory_format=torch.channels_last)
    if compiled:
        worker.compile()
    originals = [weight for weight in module.parameters() if weight.requires_grad]
    working = [weight for weight in worker.parameters() if weight.requires_grad]
    weights = [nn.Parameter(weight.detach().clone().flatten(1) if weight.ndim > 1 else weight) for weight in originals]
    average = [weight.detach().clone() for weight in weights]
    optimizers = _optimizers(weights, settings)
    step, history = _resume(file, settings, weights, average, optimizers)
    _copy(weights, working)
    saved = then = time.monotonic()
    try:
        while step < settings.steps:
            torch.manual_seed(settings.seed + step)
            value = loss(worker, step)
            value.backward()
            for weight, twin in zip(weights, working, strict=True):
                weight.grad, twin.grad = None if twin.grad is None else twin.grad.float().reshape(weight.shape), None
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = settings.learning_rate * _schedule(step, settings)
                optimizer.step()
            _copy(weights, working)
            with torch.no_grad():
                torch._foreach_lerp_(
                    average, list[Tensor](weights), 1 - min(settings.average, (1 + step) / (10 + step))
                )
            now = time.monotonic()
            smooth = history or Step(0, value.item(), now - then)
            step += 1
            history = Step(step, 0.98 * smooth.loss + 0.02 * value.item(), 0.98 * smooth.seconds + 0.02 * (now - then))
            then = now
            if now - saved > SAVE_EVERY:
                _save(file, settings, history, weights, average, optimizers)
                saved = now
            yield history
    finally:  # also when the caller stops: on Ctrl-C, say
        if history is not None:
            _save(file, settings, history, weights, average, optimizers)
    _copy(average, originals)
    module.eval()


def _optimizers(weights: list[nn.Parameter], settings: Settings) -> list[torch.optim.Optimizer]:
    """Muon for matrices, AdamW for vectors: the autoencoder, which has no normalisation, hardly learns with Adam."""
    rate, decay = settings.learning_rate, settings.weight_decay
    matrices, vectors = ([w for w in weights if (w.ndim > 1) == wide] for wide in (True, False))
    return [
        torch.optim.Muon(matrices, lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(vectors, lr=rate, betas=(0.9, 0.99), weight_decay=decay),
    ]


@torch.no_grad()
def _copy(source: Sequence[Tensor], target: Sequence[Tensor]) -> None:
    """Convolutions are matrices in `source` or in `target`."""
    for given, taken in zip(source, target, strict=True):
        taken.copy_(given.reshape(taken.shape))


def _schedule(step: int, settings: Settings) -> float:
    """The share of the learning rate: a linear rise, a plateau and a linear fall."""
    fall = (1 - step / settings.steps) / (1 - settings.decay_from)
    return min(1.0, (step + 1) / WARM_UP, max(fall, 0.0))


def _save(
    file: Path,
    settings: Settings,
    history: Step,
    weights: Sequence[Tensor],
    average: Sequence[Tensor],
    optimizers: Sequence[torch.optim.Optimizer],
) -> None:
    tensors = {}
    for index, (weight, mean) in enumerate(zip(weights, average, strict=True)):
        tensors |= {f"{index}.weight": weight, f"{index}.average": mean}
        for optimizer in optimizers:
            tensors |= {f"{index}.state.{key}": value for key, value in optimizer.state.get(weight, {}).items()}
    storage.write(file, tensors, {"settings": asdict(settings), "history": asdict(history)})


@torch.no_grad()
def _resume(
    file: Path,
    settings: Settings,
    weights: Sequence[nn.Parameter],
    average: Sequence[Tensor],
    optimizers: Sequence[torch.optim.Optimizer],
) -> tuple[int, Step | None]:
    """Takes up what `_save` kept, if anything: the step to go on with, and what it reported."""
    if not file.is_file():
        return 0, None
    with safe_open(file, "pt") as tensors:
        header: dict[str, Any] = json.loads(tensors.metadata()[storage.FORMAT_KEY])
        if header["settings"] != asdict(settings):
            raise UserError(
                f"{file} was made with the settings {header['settings']}, but these are {asdict(settings)}; remove "
                "the file to begin anew, or choose another folder."
            )
        for name in tensors.keys():  # noqa: SIM118  (not a mapping)
            index, _, key = name.partition(".")
            weight, value = weights[int(index)], tensors.get_tensor(name)
            if key.startswith("state."):
                owner = optimizers[0 if weight.ndim > 1 else 1]
                owner.state[weight][key.removeprefix("state.")] = (
                    value if key == "state.step" else value.to(weight.device)
                )
            else:
                (weight if key == "weight" else average[int(index)]).copy_(value)
    history = Step(**header["history"])
    return history.step, history
