"""FaceWorld's UNet: an ordinary one of SD 1.x's kind whose weights leave a picture no way but through the bottleneck.

Its finest level is a mere pass-through: residual branches are zero, and of the skip connections only the first
convolution's is open, which sees one latent at a time. All other skips are closed by columns of zeros. What a picture
shows has to be in h; what bypasses it is each latent's own noise. Texts come in above h only. The widths let no group
of a norm straddle the border between what comes from below and a closed skip, so that closing them is exact.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn
from torch.nn.functional import conv2d, group_norm, silu

from ..architecture import LATENT_SIZE, WIDTH
from ..architecture import SCHEDULER as EMOJI_SCHEDULER

UNET: dict[str, Any] = {
    "sample_size": LATENT_SIZE,
    "block_out_channels": (64, 64, 192),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D", "UpBlock2D"),
    "cross_attention_dim": WIDTH,
    "attention_head_dim": 4,  # diffusers' name for the number of heads
}
SCHEDULER: dict[str, Any] = {**EMOJI_SCHEDULER, "prediction_type": "v_prediction"}
NOISE = DDIMScheduler(**SCHEDULER)
UNNAMED = ("a face", "")  # the captions of every other face: of any one, and of none
LEAST_WEIGHT = 0.05  # of the error where there is hardly any noise


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
        for block in (self.unet.down_blocks[0], self.unet.up_blocks[-1]):
            for name, weight in block.resnets.named_parameters():
                weight.requires_grad_("conv_shortcut" in name)
        # The two shortcuts of the finest level follow one another: one bias is enough.
        self.unet.up_blocks[-1].resnets[1].conv_shortcut.bias.requires_grad_(False)
        self.close()

    @torch.no_grad()
    def close(self) -> None:
        """Sets to zero what takes no part, so that it never speaks: see the module's text."""
        unet = self.unet
        finest = unet.up_blocks[-1].resnets
        for resnet in (*unet.down_blocks[0].resnets, *finest):
            resnet.conv2.weight.zero_()
            resnet.conv2.bias.zero_()
        finest[1].conv_shortcut.bias.zero_()
        centre = unet.conv_in.weight[:, :, 1, 1].clone()
        unet.conv_in.weight.zero_()
        unet.conv_in.weight[:, :, 1, 1] = centre
        below = unet.config.block_out_channels[-1]
        for block in unet.up_blocks:
            for resnet in block.resnets:
                if resnet is not finest[1]:
                    resnet.conv1.weight[:, below:] = 0
                    resnet.conv_shortcut.weight[:, below:] = 0
                below = resnet.conv2.out_channels

    def forward(self, x: Tensor, timesteps: Tensor, contexts: Tensor) -> Tensor:
        """v of noisy latents x (n, 4, 16, 16); contexts (n or fewer, 77, width): the last one serves the rest."""
        unet = self.unet
        time = unet.time_embedding(unet.time_proj(timesteps).to(x.dtype))
        passed = conv2d(x, unet.conv_in.weight[:, :, 1:2, 1:2], unet.conv_in.bias)
        h = unet.down_blocks[0].downsamplers[0](passed)
        for block in unet.down_blocks[1:]:
            h, _ = block(h, time, encoder_hidden_states=contexts)
        h = unet.mid_block(h, time, encoder_hidden_states=contexts)
        *lower, finest = unet.up_blocks
        for block in lower:
            for resnet in block.resnets:
                h = _without_skip(resnet, h, time)
            h = block.upsamplers[0](h)
        for resnet in finest.resnets:
            width, shortcut = h.shape[1], resnet.conv_shortcut
            h = conv2d(h, shortcut.weight[:, :width], shortcut.bias)
        h = h + conv2d(passed, finest.resnets[1].conv_shortcut.weight[:, h.shape[1] :])
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

    def loss(self, unet: nn.Module, batch: int, step: int) -> Tensor:
        """The squared error of the picture that v stands for, over timesteps spread evenly.

        That of v itself would weigh most what can't be told from noise. Every other face comes without its caption.
        """
        weight = next(unet.parameters())
        generator = random.Random(f"faces {step}")
        rows = torch.tensor(generator.choices(range(len(self.latents)), k=batch))
        share = (torch.randperm(batch) + torch.rand(batch)) / batch
        timesteps = (share * NOISE.config["num_train_timesteps"]).long()
        latents = self.latents[rows].float()
        noise = torch.randn(latents.shape)
        noisy, wanted = NOISE.add_noise(latents, noise, timesteps), NOISE.get_velocity(latents, noise, timesteps)
        named = self.contexts[rows[: batch // 2]]
        contexts = torch.cat([named, self.unnamed[step % len(self.unnamed)].to(named)])
        given = noisy.to(weight, memory_format=torch.channels_last), timesteps.to(weight.device), contexts.to(weight)
        v = unet(*given).cpu()
        shares = (1 - NOISE.alphas_cumprod[timesteps]).clamp(min=LEAST_WEIGHT)
        return ((v.float() - wanted).square().mean((1, 2, 3)) * shares).mean()
