"""Which words alone denoise pictures best, and how many of the pictures each of them explains."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..model.diffusion import Diffusion, Draws, draw
from ..model.slot import PromptSlot
from .dictionary import LIKENESS, Dictionary, token_losses

# Noise over signal, between which a text decides what is seen: with more its colours are, with less its grain.
DECISIVE = (0.695, 3.33)
FACTOR, MORE = 4, 2  # by which the second round of a race has fewer words, and more draws come
FINALISTS = 16  # words of a race that never leave it: a vocabulary of two words is asked how pictures divide
ITERATIONS = 200  # of expectation maximisation, after which shares hardly move
BOOTSTRAPS = 200  # of the pictures
INTERVAL = 0.9  # of the bootstrapped shares lie within


@dataclass(frozen=True, eq=False)
class Raced:
    """The words that a race leaves, those first that explain most."""

    words: Dictionary
    shares: Tensor  # (words,): of the pictures that each explains
    intervals: Tensor  # (words, 2): within which INTERVAL of the shares lie, had other such pictures been drawn
    losses: Tensor  # (words, draws): the denoising loss of each word alone
    drawn: Draws  # on which they were compared

    def only(self, rows: Tensor) -> Raced:
        """Some of the words."""
        return Raced(self.words.only(rows), self.shares[rows], self.intervals[rows], self.losses[rows], self.drawn)


def rounds(words: int, racers: int, draws: int) -> list[tuple[int, int]]:
    """The words and the draws of each round of a race of at most `racers` words, the first on `draws` draws.

    FINALISTS or fewer are compared once, and all of them stay.
    """
    size = min(racers, words)
    first = draws * racers // size  # few words are compared on more draws: as much work as many
    return [(size, first), (max(FINALISTS, size // FACTOR), first * MORE)] if size > FINALISTS else [(size, first)]


def race(
    diffusion: Diffusion,
    slot: PromptSlot,
    dictionary: Dictionary,
    latents: Tensor,
    generator: torch.Generator,
    *,
    racers: int,
    draws: int,
    likeness: Tensor | None = None,
) -> Iterator[Raced]:
    """After each round, the words that alone denoise the pictures best and the share of them that each explains.

    latents: (pictures, 4, h, w). The first `racers` words of the dictionary are compared on `draws` draws; those that
    explain least leave, and the others are compared on more (successive halving, arXiv 1502.07943). A picture of a
    mixed concept is explained by the word that is best on it, not by the one that is fair on all: a word stays for its
    part in explaining single pictures, its mixture weight. `likeness` (words, pictures), cosine
    similarities of features, counts beside the denoising, where there is an image encoder.
    """
    losses, compared = torch.empty(len(dictionary), 0), Draws.none_of(latents)
    evidence = torch.zeros(len(dictionary), len(latents)) if likeness is None else LIKENESS * likeness
    order = torch.arange(len(dictionary))
    for size, count in rounds(len(dictionary), racers, draws):
        rows = order[:size]
        dictionary, losses, evidence = dictionary.only(rows), losses[rows], evidence[rows]
        drawn = draw(latents, count, decisive(diffusion), generator)
        new = token_losses(diffusion, slot, dictionary.singles(), drawn)
        losses, compared = torch.cat([losses, new.cpu()], 1), compared.and_also(drawn)
        chances = likelihoods(losses, compared.pictures, evidence)
        order = mixture_weights(chances, torch.ones(1, chances.shape[1]), 1)[0].argsort(descending=True, stable=True)
        shares, intervals = _with_intervals(chances)
        raced = Raced(dictionary, shares.float(), intervals.float(), losses, compared)
        yield raced.only(shares.argsort(descending=True, stable=True))


def _with_intervals(chances: Tensor) -> tuple[Tensor, Tensor]:
    """The share (words,) of each word, and the interval (words, 2) within which INTERVAL of the bootstrapped ones lie.

    chances: log-likelihoods (words, pictures).
    """
    count = chances.shape[1]
    resampled = torch.randint(count, (BOOTSTRAPS, count), generator=torch.Generator().manual_seed(0))
    ends = torch.tensor([(1 - INTERVAL) / 2, (1 + INTERVAL) / 2], dtype=torch.float64)
    intervals = _shares(chances, torch.nn.functional.one_hot(resampled, count).sum(1)).quantile(ends, dim=0).T
    return _shares(chances, torch.ones(1, count))[0], intervals


def _shares(chances: Tensor, weights: Tensor) -> Tensor:
    """The share (n, words) of each word in pictures of log-likelihoods (words, pictures), weighted n times.

    weights: (n, pictures). Half by what explains all pictures together, half by what comes close: a word that is nearly
    as good is worth more than one that is not.
    """
    return (mixture_weights(chances, weights, ITERATIONS) + mixture_weights(chances, weights, 1)) / 2


def decisive(diffusion: Diffusion) -> tuple[int, int]:
    """The timesteps at which a text decides what is seen: the first, and the one after the last."""
    sigmas = (1 / diffusion.alphas_cumprod - 1).sqrt()
    first, last = (int((sigmas < sigma).sum()) for sigma in DECISIVE)
    first = min(first, len(sigmas) - 1)
    return first, max(first + 1, last)


def of_each_picture(losses: Tensor, pictures: Tensor) -> Tensor:
    """The means (words, pictures) of losses (words, draws) over the draws of each picture; pictures (draws,)."""
    _, place, count = pictures.unique(return_inverse=True, return_counts=True)
    return losses @ (torch.nn.functional.one_hot(place) / count).to(losses)


def likelihoods(losses: Tensor, pictures: Tensor, evidence: Tensor) -> Tensor:
    """The logarithm of each word's likelihood for each picture that was drawn, (words, pictures), float64.

    evidence_ik - loss_ik / T: loss_ik is the mean over the draws of picture k, of losses (words, draws), and T the
    standard error of such a mean. `pictures` (draws,) says which picture each draw is of; evidence (words, pictures)
    what else is known.
    """
    there, place, count = pictures.unique(return_inverse=True, return_counts=True)
    relative = losses.double() - losses.double().mean(0)  # what all words have in common says nothing
    means = of_each_picture(relative, pictures)
    if len(pictures) > len(count):
        scatter = (relative - means[:, place]).square().sum() / len(losses) / (len(pictures) - len(count))
        temperature = (scatter / count.double().mean()).sqrt()
    else:  # one draw of each picture: nothing tells chance from difference
        temperature = means.std()
    return evidence[:, there] - means / temperature.clamp(min=1e-12)


def mixture_weights(likelihood: Tensor, weights: Tensor, iterations: int) -> Tensor:
    """The weights (n, words) of a mixture by expectation maximisation, from the same weight for each word.

    likelihood: the logarithms (words, pictures); weights (n, pictures): how much each picture counts, n times over.
    """
    weights = (weights / weights.sum(1, keepdim=True)).to(likelihood)
    shares = torch.full((len(weights), len(likelihood)), 1 / len(likelihood)).to(likelihood)
    for _ in range(iterations):
        shares = ((likelihood + shares.log()[:, :, None]).softmax(1) @ weights[:, :, None]).squeeze(2)
    return shares
