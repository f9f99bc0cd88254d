"""FaceWorld's UNet: an ordinary one of SD 1.x's kind whose weights draw a picture from the bottleneck alone.

All skip connections are closed by columns of zeros, and it predicts the picture itself (x_0): what is seen has to be in
h, at every timestep. Texts come in above h only. Its bottleneck has half the latents' resolution. The widths let no
group of a norm straddle the border between what comes from below and a closed skip, so that closing them is exact.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn
from torch.nn.functional import conv2d, group_norm, silu

from ..stable_target import References
from .architecture import SCHEDULER, UNET

NOISE = DDIMScheduler(**SCHEDULER)
UNNAMED = ("a face", "")  # the captions of every other face: of any one, and of none
NOISY = 400  # the timestep from which more than one face can be what noise hides


class PlainAttention:
    """Attention in plain products; where contexts have fewer rows than the batch, the last one serves the rest."""

    def __call__(
        self, attn: Attention, hidden: Tensor, encoder_hidden_states: Tensor | None = None, *_: object, **__: object
    ) -> Tensor:
        given: Any = attn
        other = hidden if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = (
            layer(x).unflatten(2, (attn.heads, -1)).transpose(1, 2)
            for layer, x in ((given.to_q, hidden), (given.to_k, other), (given.to_v, other))
        )
        if rest := len(query) - len(key):
            key, value = (torch.cat([x, x[-1:].expand(rest, -1, -1, -1)]) for x in (key, value))
        chances = (query @ key.transpose(2, 3) * attn.scale).softmax(-1)
        return given.to_out[0]((chances @ value).transpose(1, 2).flatten(2))


class Bottlenecked(nn.Module):
    """The UNet as it is trained: `unet` computes the same, with the zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.unet: Any = UNet2DConditionModel(**UNET)
        self.unet.set_attn_processor(PlainAttention())
        nn.init.zeros_(self.unet.conv_out.weight)
        self.close()

    @torch.no_grad()
    def close(self) -> None:
        """Sets to zero what reads skip connections."""
        below = self.unet.config.block_out_channels[-1]
        for block in self.unet.up_blocks:
            for resnet in block.resnets:
                resnet.conv1.weight[:, below:] = 0
                resnet.conv_shortcut.weight[:, below:] = 0
                below = resnet.conv2.out_channels

    def forward(self, x: Tensor, timesteps: Tensor, contexts: Tensor) -> Tensor:
        """x_0 of noisy latents x (n, 4, 16, 16); contexts (n or fewer, 77, width): the last one serves the rest."""
        unet = self.unet
        time = unet.time_embedding(unet.time_proj(timesteps).to(x.dtype))
        finest, coarsest = unet.down_blocks
        h, _ = finest(unet.conv_in(x), time)
        h, _ = coarsest(h, time, encoder_hidden_states=contexts)
        h = unet.mid_block(h, time, encoder_hidden_states=contexts)
        for block in unet.up_blocks:
            for resnet in block.resnets:
                h = _without_skip(resnet, h, time)
            for upsampler in block.upsamplers or ():
                h = upsampler(h)
        return unet.conv_out(unet.conv_act(unet.conv_norm_out(h)))


def _without_skip(resnet: Any, h: Tensor, time: Tensor) -> Tensor:
    """A residual block of the decoder with a closed skip."""
    width = h.shape[1]
    norm, conv, shortcut = resnet.norm1, resnet.conv1, resnet.conv_shortcut
    groups = norm.num_groups * width // norm.num_channels
    residual = silu(group_norm(h, groups, norm.weight[:width], norm.bias[:width], norm.eps))
    residual = conv2d(residual, conv.weight[:, :width], conv.bias, padding=1)
    residual = residual + resnet.time_emb_proj(silu(time))[:, :, None, None]
    residual = resnet.conv2(silu(resnet.norm2(residual)))
    return conv2d(h, shortcut.weight[:, :width], shortcut.bias) + residual


@dataclass(frozen=True, eq=False)
class Lessons:
    """What the UNet learns from: latents of faces, and the text encoder's states of their captions."""

    latents: Tensor  # (faces, 4, 16, 16)
    contexts: Tensor  # (faces, 77, width), one caption for each face
    unnamed: Sequence[Tensor]  # (1, 77, width) each, of UNNAMED: guidance leads away from the empty one

    @cached_property
    def _faces(self) -> References:
        """In bfloat16: distances need no more, and a product of all faces is quick."""
        return References(self.latents.flatten(1).bfloat16())

    def posterior_mean(self, noisy: Tensor, timesteps: Tensor) -> Tensor:
        """The mean of all faces, weighted by how likely each is what noise hides; shaped as `noisy`.

        What the loss leads to where a caption names none, with all pictures as the reference batch.
        """
        return self._faces.posterior_mean(noisy.flatten(1), NOISE.alphas_cumprod[timesteps]).view_as(noisy)

    def loss(self, unet: nn.Module, batch: int, step: int) -> Tensor:
        """The squared error of the picture, over timesteps spread evenly; half of the faces come without a caption."""
        weight = next(unet.parameters())
        rows = torch.tensor(random.Random(f"faces {step}").choices(range(len(self.latents)), k=batch))
        share = (torch.randperm(batch) + torch.rand(batch)) / batch
        timesteps = (share * NOISE.config["num_train_timesteps"]).long()
        latents = self.latents[rows].float()
        noisy = NOISE.add_noise(latents, torch.randn(latents.shape), timesteps)
        half = batch // 2
        likely = self.posterior_mean(noisy[half:], timesteps[half:])
        hidden = (timesteps[half:] > NOISY)[:, None, None, None]
        wanted = torch.cat([latents[:half], torch.where(hidden, likely, latents[half:])])
        named = self.contexts[rows[:half]]
        contexts = torch.cat([named, self.unnamed[step % len(self.unnamed)].to(named)])
        given = noisy.to(weight, memory_format=torch.channels_last), timesteps.to(weight.device), contexts.to(weight)
        return (unet(*given).cpu().float() - wanted).square().mean()
