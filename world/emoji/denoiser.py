"""The UNet: what it learns from, and SD 1.x's objective."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from diffusers import AutoencoderTiny, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor
from tqdm import tqdm
from transformers import CLIPTextModel, CLIPTokenizer

from ..architecture import SCHEDULER
from ..pictures import to_tensor
from ..stable_target import References
from .architecture import UNET
from .captions import Caption, draw_caption, subjects
from .pictures import DRAWN, Pictures, varied
from .truth import Truth

CAPTION_DROPOUT = 0.1  # so that guidance has something to lead away from
CAPTIONS = 200_000  # so many that none is missed: the rarest comes once in 10,000
LEAST_VARIANTS = 8  # of each clean picture, however rarely it is drawn
ENCODED_AT_ONCE = 32
NOISE = DDIMScheduler(**SCHEDULER)
HIDING = 200  # the timestep from which noise may hide which of a caption's pictures it was
GAMMA = 5.0  # of Min-SNR weighting: noise that is hardly there is not worth learning to the last bit


def build() -> UNet2DConditionModel:
    """Untrained."""
    unet = UNet2DConditionModel(**UNET)
    unet.set_attn_processor(AttnProcessor())  # plain products: torch's fused attention is slow for heads this narrow
    return unet


def key(caption: Caption) -> str:
    """What tells one clean picture from another."""
    return f"{caption.characters} {caption.style} {caption.colour}"


@torch.no_grad()
def encode_pictures(autoencoder: AutoencoderTiny, pictures: Pictures, count: int, seed: int = 0) -> dict[str, Tensor]:
    """Latents of training variants, (variants, 4, 16, 16) float16, for each clean picture: encoded once, drawn often.

    About `count` in all, shared out as captions are drawn.
    """
    generator = random.Random(f"latents {seed}")
    drawn = [draw_caption(pictures.truth, generator) for _ in range(CAPTIONS)]
    captions = {key(caption): caption for caption in drawn}
    times = dict.fromkeys(captions, 0)
    for caption in drawn:
        times[key(caption)] += 1
    shares = {name: round(count * times[name] / CAPTIONS) for name in captions}
    wanted = [captions[name] for name in captions for _ in range(max(shares[name], LEAST_VARIANTS))]
    weight = next(autoencoder.parameters())
    latents: dict[str, list[Tensor]] = {name: [] for name in captions}
    for start in tqdm(range(0, len(wanted), ENCODED_AT_ONCE), desc="encoding pictures"):
        some = wanted[start : start + ENCODED_AT_ONCE]
        batch = torch.stack([to_tensor(varied(pictures.clean(caption), generator, DRAWN)) for caption in some])
        (encoded,) = autoencoder.encode(batch.to(weight, memory_format=torch.channels_last), return_dict=False)
        for caption, latent in zip(some, encoded.cpu().half(), strict=True):
            latents[key(caption)].append(latent)
    return {name: torch.stack(variants) for name, variants in latents.items()}


@dataclass(frozen=True, eq=False)
class Lessons:
    """What the UNet learns from: latents of pictures, and the text encoder's states of their captions."""

    truth: Truth
    latents: Mapping[str, Tensor]  # of every clean picture: (variants, 4, 16, 16)
    tokenizer: CLIPTokenizer
    text_encoder: CLIPTextModel
    _contexts: dict[str, Tensor] = field(default_factory=dict)
    _references: dict[tuple[str, str], References] = field(default_factory=dict)

    def loss(self, unet: UNet2DConditionModel, batch: int, step: int) -> Tensor:
        """The squared error of the predicted noise over timesteps spread evenly, weighted as the error of v would be.

        The error of v is that of epsilon divided by the signal's share: shapes are decided where there is hardly any
        signal, and there the plain error of epsilon is next to nothing whatever the shape (Salimans and Ho, Progressive
        Distillation, 2022). Where there is much signal, Min-SNR holds it down (Hang et al., 2023). Where noise hides
        which of a caption's pictures it was, the target is their mean (`wanted`): each example of a keyword teaches
        all of its exemplars.
        """
        weight = next(unet.parameters())
        generator = random.Random(f"unet {step}")
        captions = [draw_caption(self.truth, generator) for _ in range(batch)]
        pools = [self.latents[key(caption)] for caption in captions]
        latents = torch.stack([variants[generator.randrange(len(variants))] for variants in pools])
        told = [None if generator.random() < CAPTION_DROPOUT else caption for caption in captions]
        texts = ["" if caption is None else caption.text for caption in told]
        timesteps = (torch.arange(batch) + torch.rand(batch)) * (NOISE.config["num_train_timesteps"] / batch)
        timesteps = timesteps.long()
        noisy = NOISE.add_noise(latents.float(), torch.randn(latents.shape), timesteps)
        signal = NOISE.alphas_cumprod[timesteps][:, None, None, None]
        noise = (noisy - signal.sqrt() * self.wanted(told, latents.float(), noisy, timesteps)) / (1 - signal).sqrt()
        prediction = unet(
            noisy.to(weight, memory_format=torch.channels_last),
            timesteps.to(weight.device),
            self.contexts(texts).to(weight),
        ).sample
        ratio = signal / (1 - signal)
        weights = ratio.clamp(max=GAMMA) / ratio / signal
        return ((prediction.cpu().float() - noise).square() * weights).mean()

    def wanted(self, captions: Sequence[Caption | None], latents: Tensor, noisy: Tensor, timesteps: Tensor) -> Tensor:
        """The latents that a perfect model sees in `noisy`, all (n, 4, 16, 16); `latents` themselves are one guess.

        The mean of the pictures of each caption, weighted by how likely each is what noise hides; for no caption
        (None), and where there is too little noise for a doubt, `latents`.
        """
        wanted = latents.clone()
        for row, caption in enumerate(captions):
            if caption is not None and timesteps[row] >= HIDING:
                signal = NOISE.alphas_cumprod[timesteps[row : row + 1]]
                mean = self._pictures_of(caption).posterior_mean(noisy[row].flatten()[None], signal)
                wanted[row] = mean.view_as(wanted[row])
        return wanted

    def _pictures_of(self, caption: Caption) -> References:
        """Latents (m, numbers) of all that the caption's text may show, with the share of each."""
        known = (caption.content, caption.style)
        if known not in self._references:
            shown = subjects(self.truth, caption.kind, caption.content)
            pools = [self.latents[key(replace(caption, **subject._asdict()))] for subject in shown]
            shares = [torch.full((len(p),), share / len(p)) for p, share in zip(pools, shown.values(), strict=True)]
            self._references[known] = References(torch.cat(pools).flatten(1).float(), torch.cat(shares))
        return self._references[known]

    @torch.no_grad()
    def contexts(self, texts: Sequence[str]) -> Tensor:
        """The states (texts, 77, width) of the text encoder; each text is encoded once."""
        missing = sorted({text for text in texts if text not in self._contexts})
        if missing:
            inputs = self.tokenizer(missing, padding="max_length", truncation=True, return_tensors="pt")
            device = next(self.text_encoder.parameters()).device
            states = self.text_encoder(inputs.input_ids.to(device)).last_hidden_state
            self._contexts.update(zip(missing, states.half(), strict=True))
        return torch.stack([self._contexts[text] for text in texts])
