"""The bottleneck of a diffusers UNet while it draws pictures: seen, shifted, differentiated."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from typing import Any, cast

import torch
from diffusers import DDIMScheduler, DiffusionPipeline, UNet2DModel
from torch import Tensor

from ..core.errors import UserError
from ..core.hspace.directions import HSpaceDirections, Position, Shift
from ..core.hspace.jacobian import Decoder, guided_decoder
from ..core.hspace.process import asyrp, unwatched
from ..core.hspace.samples import HSpaceSamples, Recorder
from ..core.model.diffusion import predicted_x_0
from ..core.model.text_tower import Encoded
from .adapter import DiffusersDenoiser, DiffusersDiffusion, Pipeline
from .pictures import decoded, in_range

Visit = Callable[[Tensor, float, Sequence[bool]], Tensor]
"""From a bottleneck (rows, channels, height, width), its noise level, and whether each chunk of its rows is prompted,
to what replaces it."""


class DiffusersBottleneck:
    """An SD pipeline with a prompt, or an unconditional pipeline, drawing by DDIM. Raises UserError for another one.

    `guidance_scale` is that of classifier-free guidance (arXiv 2207.12598, its 1 + w), 1 for none; `size` the pictures'
    side in pixels, None for the model's own.
    """

    def __init__(
        self, pipe: DiffusionPipeline, prompt: str | None, guidance_scale: float = 1.0, size: int | None = None
    ) -> None:
        unet: Any = getattr(pipe, "unet", None)
        unconditional = isinstance(unet, UNet2DModel)
        if not unconditional and not isinstance(pipe, Pipeline):
            raise UserError(
                f"The model is a {type(pipe).__name__}; directions of h-space need a UNet with a bottleneck: give SD "
                "1.x, SD 2.x, SDXL or an unconditional UNet."
            )
        if unconditional == bool(prompt):
            raise UserError(
                "The model draws without a prompt; leave --prompt away."
                if unconditional
                else "The model draws what a prompt says; give one with --prompt."
            )
        self.pipe: Any = pipe
        self.unet: Any = unet.requires_grad_(False)
        self.family: str = type(unet).__name__ if unconditional else DiffusersDenoiser(cast(Pipeline, pipe)).family
        self.channels: int = unet.config.block_out_channels[-1]
        self.downsampling: int = 2 ** (len(unet.config.block_out_channels) - 1)
        self._diffusion = DiffusersDiffusion(cast(Pipeline, pipe))  # which reads an unconditional one's schedule too
        guided = not unconditional and guidance_scale != 1
        texts = [prompt, ""] if guided else [prompt]  # guidance leads away from the empty prompt
        self._encoded = None if unconditional else _encoded(cast(Pipeline, pipe), cast(list[str], texts))
        self._prompted: list[bool] = [text == prompt for text in texts]
        self._guidance_scale = guidance_scale
        side = size // (1 if unconditional else 8) if size else self.unet.config.sample_size
        self.shape: tuple[int, ...] = (self.unet.config.in_channels, side, side)
        self._visit: Visit | None = None
        self._sigma = 0.0  # at which the UNet is evaluated now

    def sigmas(self, num_inference_steps: int) -> Tensor:
        """The noise levels (num_inference_steps + 1,) of DDIM's timesteps, and none at the end."""
        scheduler = cast(Any, DDIMScheduler.from_config(self.pipe.scheduler.config))
        scheduler.set_timesteps(num_inference_steps)
        return torch.cat([self._levels[scheduler.timesteps], torch.zeros(1)])

    def sigma_at(self, percent: float) -> float:
        """The noise level at a part of the sampling, 0 to 1, as the host counts it."""
        if percent <= 0:
            return float("inf")
        levels = self._levels
        return 0.0 if percent >= 1 else float(levels[int((1 - percent) * (len(levels) - 1))])

    def draw(
        self,
        seeds: Sequence[int],
        num_inference_steps: int,
        eta: float = 0.0,
        asymmetric: bool = False,
        watch: Callable[..., object] = unwatched,
    ) -> Tensor:
        """Latents, or pictures of an unconditional model: (seeds, channels, height, width).

        Each seed has the start noise that diffusers' pipelines give it. `asymmetric`: what visits the bottleneck counts
        for the predicted picture only. `eta` and `watch` are those of `asyrp`.
        """
        sources = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]

        def fresh() -> Tensor:
            return torch.stack([torch.randn(self.shape, generator=source) for source in sources]).to(self.unet.device)

        sigmas = self.sigmas(num_inference_steps)
        start = fresh() * float((1 + sigmas[0].double() ** 2).sqrt())
        plain = self.predict_plainly if asymmetric else None
        return asyrp(self.predict, plain, start, sigmas, eta, fresh, watch)

    @torch.no_grad()
    def predict(self, x: Tensor, sigma: float) -> Tensor:
        """The picture that the model sees in x = x_0 + sigma eps (n, channels, height, width), guided."""
        output, *unprompted = self.outputs(x, sigma).chunk(len(self._prompted))
        if unprompted:
            output = self._guidance_scale * output + (1 - self._guidance_scale) * unprompted[0]
        return predicted_x_0(self._diffusion.prediction, x, sigma, output)

    def predict_plainly(self, x: Tensor, sigma: float) -> Tensor:
        """The same with nothing visiting the bottleneck."""
        visit, self._visit = self._visit, None
        try:
            return self.predict(x, sigma)
        finally:
            self._visit = visit

    def outputs(self, x: Tensor, sigma: float) -> Tensor:
        """What the UNet says, a chunk of rows for the prompt and, with guidance, one for the negative prompt."""
        self._sigma = sigma
        noisy = x / (1 + sigma**2) ** 0.5
        timestep = int((self._levels - sigma).abs().argmin())
        if not self._encoded:
            return self.unet(noisy.to(self.unet.dtype), timestep).sample.float()
        rows = noisy.repeat(len(self._prompted), 1, 1, 1)
        timesteps = torch.full((len(rows),), timestep, device=x.device)
        return self._diffusion.predict(rows, timesteps, self._encoded.repeated(len(x)))

    def pictures(self, latents: Tensor) -> Tensor:
        """What `draw` gives as (n, height, width, 3) in 0..1."""
        return decoded(self.pipe, latents) if self._encoded else in_range(latents)

    @contextmanager
    def visited(self, position: Position, visit: Visit) -> Iterator[None]:
        """Lets the bottleneck pass through `visit` while the context lasts."""
        block = self.unet.mid_block

        def before(_: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
            return self._visited(arguments[0]), *arguments[1:]

        def after(_: Any, __: Any, h: Tensor) -> Tensor:
            return self._visited(h)

        if position == "before":
            handle = block.register_forward_pre_hook(before)
        else:
            handle = (block if position == "after" else block.resnets[0]).register_forward_hook(after)
        self._visit = visit
        try:
            yield
        finally:
            self._visit = None
            handle.remove()

    def record(
        self, seeds: Sequence[int], num_inference_steps: int, position: Position, made_by: dict[str, Any]
    ) -> tuple[HSpaceSamples, Tensor]:
        """What the bottleneck held at each noise level while pictures were drawn, and their latents."""
        sigmas = self.sigmas(num_inference_steps)[:-1]
        recorder = Recorder(sigmas.tolist())

        def look(h: Tensor, sigma: float, prompted: Sequence[bool]) -> Tensor:
            recorder.record(sigma, h, prompted)
            return h

        with self.visited(position, look):
            latents = self.draw(seeds, num_inference_steps)
        held = recorder.stacked()
        return HSpaceSamples(sigmas, held, self.family, position, made_by, self.downsampling), latents

    @contextmanager
    def shifted(
        self,
        directions: HSpaceDirections,
        index: int,
        scale: float,
        **window: Any,
    ) -> Iterator[None]:
        """Adds a direction to the bottleneck while the context lasts; window: see `Shift.of`."""
        shift = Shift.of(self, directions, index, scale, **window)
        with self.visited(directions.position, lambda h, sigma, prompted: shift.added(h, sigma, lambda: prompted)):
            yield

    def halves(self, x: Tensor, sigma: float, position: Position) -> tuple[Tensor, Decoder]:
        """The bottleneck (channels, height, width) for one x (1, ...), and the guided output of the UNet from there on.

        The rest of the UNet runs once: what its decoder's blocks were given is kept.
        """
        middle = self.unet.mid_block
        later = zip(middle.attentions, middle.resnets[1:], strict=True)
        inside = [part for pair in later for part in pair if part is not None]
        blocks = [*{"before": [middle], "inside": inside, "after": []}[position], *self.unet.up_blocks]
        calls: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []

        def keep(block: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
            calls.append((block, arguments, named))

        with ExitStack() as hooks, torch.no_grad():
            for block in blocks:
                hooks.callback(block.register_forward_pre_hook(keep, with_kwargs=True).remove)
            self.outputs(x, sigma)
        _, arguments, named = calls[0]
        h: Tensor = arguments[0] if arguments else named["hidden_states"]

        def decoder(chunk: int) -> Decoder:
            def decode(rows: Tensor) -> Tensor:
                for block, arguments, named in calls:
                    places = [_row(value, chunk, len(rows)) for value in arguments[1:]]
                    others = {name: _row(value, chunk, len(rows)) for name, value in named.items()}
                    named_rows = {} if arguments else {"hidden_states": rows}
                    made = block(*([rows] if arguments else []), *places, **{**others, **named_rows})
                    rows = made[0] if isinstance(made, tuple) else made
                return self.unet.conv_out(self.unet.conv_act(self.unet.conv_norm_out(rows)))

            return decode

        if len(h) == 1:
            return h[0], decoder(0)
        return h[0], guided_decoder(self._guidance_scale, h[0], decoder(0), h[1], decoder(1))

    @cached_property
    def _levels(self) -> Tensor:
        signal = self._diffusion.alphas_cumprod
        return ((1 - signal) / signal).sqrt()

    def _visited(self, h: Tensor) -> Tensor:
        return h if self._visit is None else self._visit(h, self._sigma, self._prompted)


@torch.no_grad()
def _encoded(pipe: Pipeline, texts: list[str]) -> Encoded:
    encode: Any = pipe.encode_prompt
    context, *others = encode(texts, device=pipe.device, num_images_per_prompt=1, do_classifier_free_guidance=False)
    pooled = others[1] if len(others) > 1 else context[:, 0]  # SDXL alone reads it
    return Encoded(context, pooled)


def _row(value: Any, chunk: int, count: int) -> Any:
    """One row of what a block was given, for as many rows."""
    if isinstance(value, tuple):
        return tuple(_row(each, chunk, count) for each in value)
    if isinstance(value, Tensor) and value.ndim:
        return value[min(chunk, len(value) - 1)].expand(count, *value.shape[1:])
    return value
