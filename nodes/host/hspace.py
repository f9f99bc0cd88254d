"""The bottleneck of the host's UNet: seen while it samples, and shifted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from comfy.sd import VAE
from torch import Tensor

from ...core.backend import Family, Progress
from ...core.errors import UserError
from ...core.hspace.directions import HSpaceDirections, Position
from ...core.hspace.jacobian import Decoder, guided_decoder, nearest_levels
from ...core.hspace.samples import HSpaceSamples, Recorder, joined
from .model import Evaluation, HostDenoiser, HostDiffusion
from .sampling import Sampling, sampled

Visit = Callable[[Tensor, dict[str, Any]], Tensor]
"""From a bottleneck (rows, channels, height, width) and the host's transformer options to what replaces it."""
ATTENTION = "diffusion_model.middle_block.1.forward"  # behind the middle block's first residual block
UNSHIFTED = "conceptlens_unshifted"  # the transformer option with which a sampler asks for the model without a shift


class HostBottleneck:
    """Where the h-space of a MODEL is. Raises UserError for a model without one."""

    def __init__(self, model: ModelPatcher) -> None:
        self.family: Family = HostDenoiser(model).family
        settings = model.model.model_config.unet_config
        self.channels: int = settings["model_channels"] * settings["channel_mult"][-1]
        unet: Any = model.model.diffusion_model
        if not unet.middle_block:
            raise UserError("The model's UNet has no middle block, as some distilled ones; directions need one of it.")
        self._deep: bool = len(unet.middle_block) > 1
        self._last_input: int = len(unet.input_blocks) - 1
        self._model = model

    def visited(self, position: Position, visit: Visit) -> ModelPatcher:
        """A clone of the MODEL whose bottleneck passes through `visit`; the model itself stays as it is."""
        clone = self._model.clone()
        if position == "inside":
            if not self._deep:
                raise UserError('The middle block of this UNet is one layer, which has no inside; choose "after" it.')
            forward = self._model.get_model_object(ATTENTION)

            def inside(h: Tensor, context: Any = None, transformer_options: Any = None) -> Tensor:
                options = transformer_options or {}
                return forward(visit(h, options), context, options)

            clone.add_object_patch(ATTENTION, inside)
        elif position == "after":

            def after(state: dict[str, Any]) -> dict[str, Any]:
                return {**state, "h": visit(state["h"], state["transformer_options"])}

            clone.set_model_middle_block_after_patch(after)
        else:

            def before(h: Tensor, options: dict[str, Any]) -> Tensor:
                return visit(h, options) if options["block"] == ("input", self._last_input) else h

            clone.set_model_input_block_patch_after_skip(before)
        return clone

    def shifted(
        self,
        directions: HSpaceDirections,
        index: int,
        scale: float,
        start_percent: float,
        end_percent: float,
        positive_only: bool,
    ) -> ModelPatcher:
        """A clone that adds `scale` times a direction to its bottleneck, between two parts of the sampling.

        Raises UserError for directions of another model and for an index out of range.
        """
        directions.check_model(self.family, self.channels)
        directions.chosen([index])
        if scale == 0:
            return self._model.clone()
        sampling: Any = self._model.get_model_object("model_sampling")
        first, last = (float(sampling.percent_to_sigma(percent)) for percent in (start_percent, end_percent))

        def add(h: Tensor, options: dict[str, Any]) -> Tensor:
            sigma = float(options["sigmas"][0])
            if not last <= sigma <= first or UNSHIFTED in options:
                return h
            prompted = [chunk == 0 for chunk in options["cond_or_uncond"]]
            return directions.added(h, index, scale, sigma, prompted, positive_only)

        return self.visited(directions.position, add)


def guided_decoders(
    model: ModelPatcher,
    positive: Any,
    negative: Any,
    seed: int,
    sampling: Sampling,
    position: Position,
    percents: Sequence[float] | None,
    progress: Progress,
) -> Iterator[tuple[float, Tensor, Decoder]]:
    """For each noise level of one picture the sigma, its bottleneck and the guided prediction from there on.

    `percents` chooses levels by parts of the sampling, the nearest to each; None: all. Inside of
    `torch.inference_mode(False)`.
    """
    HostBottleneck(model)  # refuses other models
    found: dict[float, dict[bool, dict[Any, Evaluation]]] = {}  # of each level: prompted -> the prompt -> evaluation

    def look(state: dict[str, Any]) -> dict[str, Any]:
        options = state["transformer_options"]
        level = found.setdefault(float(options["sigmas"][0]), {True: {}, False: {}})
        for row, (kind, which) in enumerate(zip(options["cond_or_uncond"], options["uuids"], strict=True)):
            parts = (state[name] for name in ("x", "timesteps", "context", "y"))
            kept: list[Any] = [None if part is None else part[row : row + 1].float().cpu().clone() for part in parts]
            level[kind == 0].setdefault(which, Evaluation(*kept))
        return state

    watched = model.clone()
    watched.set_model_middle_block_after_patch(look)

    def step(number: int, *_: Any) -> None:
        progress(number + 1, sampling.steps)

    with torch.inference_mode():
        sampled(watched, positive, negative, [seed], sampling, step)
    levels = sorted(found, reverse=True)
    if percents is not None:
        schedule: Any = model.get_model_object("model_sampling")
        levels = nearest_levels(levels, [float(schedule.percent_to_sigma(percent)) for percent in percents])
    diffusion = HostDiffusion(model, exact=True)
    for sigma in levels:
        positives, negatives = (list(found[sigma][kind].values()) for kind in (True, False))
        if len(positives) != 1 or len(negatives) > 1:
            raise UserError(
                f"At noise level {sigma:.3g} {len(positives)} positive and {len(negatives)} negative prompts count; "
                "the Jacobian is that of one each: connect prompts without regions that count from beginning to end."
            )
        h, prompted = diffusion.halves(positives[0], position)
        if not negatives:
            yield sigma, h, prompted
            continue
        yield sigma, h, guided_decoder(sampling.cfg, h, prompted, *diffusion.halves(negatives[0], position))


def sample_bottleneck(
    model: ModelPatcher,
    vae: VAE,
    positive: Any,
    negative: Any,
    seeds: Sequence[int],
    sampling: Sampling,
    at_once: int,
    position: Position,
    made_by: dict[str, Any],
    progress: Progress,
) -> tuple[HSpaceSamples, Tensor]:
    """Pictures (seeds, height, width, 3) by the host's own sampler, and the bottleneck at each of its noise levels.

    Each seed has the noise that KSampler gives it.
    """
    bottleneck = HostBottleneck(model)
    parts, pictures = [], []
    for first in range(0, len(seeds), at_once):
        some = seeds[first : first + at_once]
        recorder: list[Recorder] = []

        def look(h: Tensor, options: dict[str, Any], recorder: list[Recorder] = recorder) -> Tensor:
            if not recorder:
                recorder.append(Recorder([float(sigma) for sigma in options["sample_sigmas"] if sigma > 0]))
            prompted = [kind == 0 for kind in options["cond_or_uncond"]]
            recorder[0].record(float(options["sigmas"][0]), h, prompted, options["uuids"])
            return h

        def step(number: int, *_: Any, first: int = first, count: int = len(some)) -> None:
            progress(first * sampling.steps + count * (number + 1), len(seeds) * sampling.steps)

        watched = bottleneck.visited(position, look)
        latents = sampled(watched, positive, negative, some, sampling, step)
        sigmas, held = torch.tensor(recorder[0].sigmas), recorder[0].stacked()
        parts.append(HSpaceSamples(sigmas, held, bottleneck.family, position, made_by))
        pictures.append(vae.decode(latents).float().cpu())
    return joined(parts), torch.cat(pictures)
