"""What EmojiWorld's denoisers learn from: latents of pictures, and the text encoder's states of their captions."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from diffusers import AutoencoderTiny
from torch import Tensor
from tqdm import tqdm
from transformers import CLIPTextModel, CLIPTokenizer

from ..pictures import to_tensor
from ..stable_target import References
from .captions import Caption, draw_caption, subjects
from .pictures import DRAWN, Pictures, varied
from .truth import Truth

CAPTION_DROPOUT = 0.1  # so that guidance has something to lead away from
CAPTIONS = 200_000  # so many that none is missed: the rarest comes once in 10,000
LEAST_VARIANTS = 8  # of each clean picture, however rarely it is drawn
ENCODED_AT_ONCE = 32
HIDING = 0.754  # the signal's share up to which noise may hide which of a caption's pictures it was


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
    """Latents of pictures with the text encoder's states of their captions."""

    truth: Truth
    latents: Mapping[str, Tensor]  # of every clean picture: (variants, 4, 16, 16)
    tokenizer: CLIPTokenizer
    text_encoder: CLIPTextModel
    _encoded: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    _references: dict[tuple[str, str], References] = field(default_factory=dict)

    def draw(self, batch: int, generator: random.Random) -> tuple[list[Caption | None], Tensor]:
        """Captions, None where none is told, and latents (batch, 4, 16, 16) of a picture of each."""
        captions = [draw_caption(self.truth, generator) for _ in range(batch)]
        pools = [self.latents[key(caption)] for caption in captions]
        latents = torch.stack([variants[generator.randrange(len(variants))] for variants in pools])
        told = [None if generator.random() < CAPTION_DROPOUT else caption for caption in captions]
        return told, latents.float()

    def wanted(self, captions: Sequence[Caption | None], latents: Tensor, noisy: Tensor, signal: Tensor) -> Tensor:
        """The latents that a perfect model sees in `noisy`, all (n, 4, 16, 16); `latents` themselves are one guess.

        noisy is sqrt(signal) latents + sqrt(1 - signal) noise, of the signal's shares (n,). The mean of the pictures of
        each caption, weighted by how likely each is what noise hides; for no caption (None), and where there is too
        little noise for a doubt, `latents`.
        """
        wanted = latents.clone()
        for row, caption in enumerate(captions):
            if caption is not None and signal[row] <= HIDING:
                mean = self._pictures_of(caption).posterior_mean(noisy[row].flatten()[None], signal[row : row + 1])
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

    def contexts(self, captions: Sequence[Caption | None]) -> Tensor:
        """The states (captions, 77, width) of the text encoder, of no text for None."""
        return torch.stack([states for states, _ in self._encoded_of(captions)])

    def pooled(self, captions: Sequence[Caption | None]) -> Tensor:
        """The state (captions, width) of each text's end, which sums it up."""
        return torch.stack([pooled for _, pooled in self._encoded_of(captions)])

    @torch.no_grad()
    def _encoded_of(self, captions: Sequence[Caption | None]) -> list[tuple[Tensor, Tensor]]:
        """Each text is encoded once."""
        texts = ["" if caption is None else caption.text for caption in captions]
        missing = sorted({text for text in texts if text not in self._encoded})
        if missing:
            inputs = self.tokenizer(missing, padding="max_length", truncation=True, return_tensors="pt")
            device = next(self.text_encoder.parameters()).device
            encoded = self.text_encoder(inputs.input_ids.to(device))
            pairs = zip(encoded.last_hidden_state.half(), encoded.pooler_output.half(), strict=True)
            self._encoded.update(zip(missing, pairs, strict=True))
        return [self._encoded[text] for text in texts]
