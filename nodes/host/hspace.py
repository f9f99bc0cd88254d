"""The bottleneck of the host's UNet: seen while it samples, and shifted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import comfy.model_management
import torch
from comfy.ldm.modules.attention import SpatialTransformer
from comfy.ldm.modules.diffusionmodules.openaimodel import forward_timestep_embed
from comfy.model_patcher import ModelPatcher
from comfy.sd import VAE
from torch import Tensor

from ...core.errors import UserError
from ...core.hspace.directions import HSpaceDirections, Position, Shift
from ...core.hspace.jacobian import Decoder, Half, guided_decoder, nearest_levels
from ...core.hspace.samples import HSpaceSamples, Recorder, joined
from ...core.model.protocols import Progress
from .evaluations import Evaluated, apart, check_alone, tolerance, watched
from .model import HostDiffusion, family_of
from .patches import (
    Options,
    check_conditioning,
    check_evaluated,
    check_guidance,
    check_prediction,
    prompted,
    tell_positives,
    wrappers_of,
)
from .sampling import Sampling, portions, sampled

Visit = Callable[[Tensor, Options], Tensor]
"""From a bottleneck (rows, channels, height, width) and the host's transformer options to what replaces it."""
UNSHIFTED = "conceptlens_unshifted"  # the transformer option with which a sampler asks for the model without a shift
LAYERS = "forward_timestep_embed_patch"  # the host's patches that run a layer in its place, the first that fits


class Inside:
    """A patch of the host's that visits what goes into the middle block's attention, and then runs it."""

    def __init__(self, visit: Visit) -> None:
        self._visit = visit

    def __call__(self, layer: Any, h: Tensor, time: Tensor, context: Tensor, options: Options, *others: Any) -> Tensor:
        if options["block"] == ("middle", 0):
            h = self._visit(h, options)
        # The host would stop here, at the first patch that fits: those after it have their turn with the layer.
        patches = options["patches"][LAYERS]
        later = patches[1 + next(place for place, (_, patch) in enumerate(patches) if patch is self) :]
        rest = {**options, "patches": {**options["patches"], LAYERS: later}}
        h = forward_timestep_embed([layer], h, time, context, rest, *others)
        options.update({name: value for name, value in rest.items() if name != "patches"})
        return h


class HostBottleneck:
    """Where the h-space of a MODEL is. Raises UserError for a model without one."""

    def __init__(self, model: ModelPatcher) -> None:
        self.family: str = family_of(model)
        settings = model.model.model_config.unet_config
        self.channels: int = settings["model_channels"] * settings["channel_mult"][-1]
        self.downsampling: int = 2 ** (len(settings["channel_mult"]) - 1)
        unet: Any = model.model.diffusion_model
        if not unet.middle_block:
            raise UserError("The model's UNet has no middle block, like some distilled ones; use a model that has one.")
        self._deep: bool = len(unet.middle_block) > 1
        self._last_input: int = len(unet.input_blocks) - 1
        self._model = model

    def visited(self, position: Position, visit: Visit) -> ModelPatcher:
        """A clone of the MODEL whose bottleneck passes through `visit`; the model itself stays as it is."""
        clone = self._model.clone()
        tell_positives(clone)
        if position == "inside":
            if not self._deep:
                raise UserError('The middle block of this UNet is one layer, which has no inside; choose "after" it.')
            patches = clone.model_options["transformer_options"].setdefault("patches", {})
            there = patches.get(LAYERS, [])
            own = [each for each in there if isinstance(each[1], Inside)]
            others = [each for each in there if each not in own]
            patches[LAYERS] = [*own, (SpatialTransformer, Inside(visit)), *others]
        elif position == "after":

            def after(state: dict[str, Any]) -> dict[str, Any]:
                return {**state, "h": visit(state["h"], state["transformer_options"])}

            clone.set_model_middle_block_after_patch(after)
        else:

            def before(h: Tensor, options: Options) -> Tensor:
                return visit(h, options) if options["block"] == ("input", self._last_input) else h

            clone.set_model_input_block_patch_after_skip(before)
        return clone

    def sigma_at(self, percent: float) -> float:
        sampling: Any = self._model.get_model_object("model_sampling")
        return float(sampling.percent_to_sigma(percent))

    def shifted(self, directions: HSpaceDirections, index: int, scale: float, **window: Any) -> ModelPatcher:
        """A clone that adds `scale` times a direction to its bottleneck; window: see `Shift.of`."""
        shift = Shift.of(self, directions, index, scale, **window)
        if scale == 0:
            return self._model.clone()

        def add(h: Tensor, options: Options) -> Tensor:
            if UNSHIFTED in options:
                return h
            return shift.added(h, float(options["sigmas"][0]), lambda: prompted(options))

        return self.visited(directions.position, add)


def guided_decoders(
    model: ModelPatcher,
    positive: Any,
    seed: int,
    sampling: Sampling,
    *,
    position: Position,
    percents: Sequence[float] | None,
    progress: Progress,
) -> Iterator[Half]:
    """Each noise level of one picture: its bottleneck and the guided prediction from there on.

    `percents` chooses levels by parts of the sampling, the nearest to each; None: all. Inside of
    `torch.inference_mode(False)`.
    """
    bottleneck = HostBottleneck(model)
    check_prediction(model)
    check_guidance(model)
    check_conditioning("positive", positive)
    check_conditioning("negative", sampling.negative)
    check_alone(model, positive, sampling)
    found: dict[float, dict[object, Evaluated]] = {}  # of each level: the prompt's part -> what was evaluated first

    def look(sigma: float, chunks: list[Evaluated]) -> None:
        level = found.setdefault(sigma, {})
        for chunk in chunks:
            level.setdefault(chunk.prompt, chunk)

    with torch.inference_mode():
        sampled(watched(model, look), positive, [seed], sampling, progress)
    levels = sorted(found, reverse=True)
    if percents is not None:
        levels = nearest_levels(levels, list(map(bottleneck.sigma_at, percents)))
    diffusion = HostDiffusion(model, exact=True)

    def half(chunk: Evaluated) -> tuple[Tensor, Decoder]:
        h, decode = diffusion.halves(chunk.given, position)
        with torch.no_grad():
            far = apart(decode(h[None]).cpu(), chunk.output)
        if far > tolerance(model):
            raise UserError(
                f"At noise level {sigma:.3g} the model's prediction is not that of its UNet with the patches that "
                f"ConceptLens can follow ({far:.0%} apart); connect it before nodes that change it in other ways."
            )
        return h, decode

    for sigma in levels:
        chunks = found[sigma].values()
        positives, negatives = ([each for each in chunks if each.prompted == kind] for kind in (True, False))
        if len(positives) != 1 or len(negatives) > 1:
            raise UserError(
                f"At noise level {sigma:.3g} {len(positives)} positive and {len(negatives)} negative prompts count; "
                "the Jacobian needs one of each: connect prompts that have no regions and apply from beginning to end."
            )
        h, decode = half(positives[0])
        if not negatives:
            yield Half(sigma, h, decode)
            continue
        yield Half(sigma, h, guided_decoder(sampling.cfg, h, decode, *half(negatives[0])))


def sample_bottleneck(
    model: ModelPatcher,
    vae: VAE,
    positive: Any,
    seeds: Sequence[int],
    sampling: Sampling,
    *,
    at_once: int,
    position: Position,
    made_by: dict[str, Any],
    progress: Progress,
) -> tuple[HSpaceSamples, Tensor]:
    """Pictures (seeds, height, width, 3) by the host's own sampler, and the bottleneck at each of its noise levels.

    Each seed has the noise that KSampler gives it.
    """
    bottleneck = HostBottleneck(model)
    check_evaluated(wrappers_of(model), "with which the UNet is not run at each noise level")
    parts, pictures = [], []
    for some in portions(model, positive, seeds, sampling, at_once):
        recorder: list[Recorder] = []

        def look(h: Tensor, options: Options, recorder: list[Recorder] = recorder) -> Tensor:
            if not recorder:
                recorder.append(Recorder([float(sigma) for sigma in options["sample_sigmas"] if sigma > 0]))
            recorder[0].record(float(options["sigmas"][0]), h, prompted(options), options["uuids"])
            return h

        def step(done: int, _: int, before: int = sum(map(len, pictures))) -> None:
            progress(before * sampling.steps + done, len(seeds) * sampling.steps)

        looking = bottleneck.visited(position, look)
        latents = sampled(looking, positive, some, sampling, step, len(some))
        sigmas, held = torch.tensor(recorder[0].sigmas), recorder[0].stacked()
        parts.append(HSpaceSamples(sigmas, held, bottleneck.family, position, made_by, bottleneck.downsampling))
        pictures.append(vae.decode(latents).float().cpu())
        comfy.model_management.throw_exception_if_processing_interrupted()
    return joined(parts), torch.cat(pictures)
