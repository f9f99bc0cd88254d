"""The asymmetric reverse process (Asyrp; Kwon et al., arXiv 2210.10960), and real pictures taken into it.

Pictures at noise level sigma are x = x_0 + sigma eps throughout, as the host's samplers have them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ..errors import UserError

Denoise = Callable[[Tensor, float], Tensor]
"""From x (n, channels, height, width) at a noise level to the predicted x_0."""
Fresh = Callable[[], Tensor]
"""New noise of x's shape."""


def unwatched(number: int, x: Tensor, denoised: Tensor) -> None:
    """Called after each step with its number, x before it and the predicted picture."""


@dataclass(frozen=True, eq=False)
class Inversion:
    """Real pictures as noise, and what a sampler has to add at each step to come back to them."""

    sigmas: Tensor  # (levels,), falling, ending in 0
    eta: float  # times DDPM's noise; 0 is DDIM
    path: Sequence[Tensor]  # (n, ...) at each noise level, from the noise to the pictures, on any device
    corrections: Sequence[Tensor]  # of each step, of the same shape, on any device


def asymmetric_step(
    x: Tensor, predicted: Tensor, plain: Tensor, sigma: float, after: float, eta: float
) -> tuple[Tensor, float]:
    """x at the noise level `after`, and the standard deviation of the noise that is still to be added there.

    DDIM's step (arXiv 2010.02502, equations 12 and 16) x' = P + sqrt(after^2 - up^2) D with up = eta after sqrt(1 -
    after^2 / sigma^2): the picture P is the one `predicted` with the shifted bottleneck, the noise D is that of the
    `plain` prediction without the shift (Asyrp, section 3.2). x, `predicted` and `plain` have one shape; `sigma` is x's
    noise level.
    """
    up = eta * after * (1 - (after / sigma) ** 2) ** 0.5
    return predicted + (after**2 - up**2) ** 0.5 * (x - plain) / sigma, up


def asyrp(
    shifted: Denoise,
    plain: Denoise | None,
    x: Tensor,
    sigmas: Tensor,
    eta: float,
    fresh: Fresh,
    watch: Callable[..., object] = unwatched,
) -> Tensor:
    """Samples from x at the first of `sigmas` to the last, with `eta` times DDPM's noise in each step.

    x: (n, channels, height, width); sigmas: (levels,), falling. `plain` is the model without the shift; None: the shift
    counts for the noise as well, which is DDIM. `watch` is called as `unwatched` is. Raises UserError for noise levels
    that rise.
    """
    if not _fall(sigmas):
        raise UserError("The noise levels must fall; to get from a picture to its noise, use h-space Invert.")
    for number, (sigma, after) in enumerate(pairwise(sigmas.tolist())):
        predicted = shifted(x, sigma)
        unmoved = plain(x, sigma) if plain else predicted
        moved, up = asymmetric_step(x, predicted, unmoved, sigma, after, eta)
        watch(number, x, predicted)
        x = moved + up * fresh() if up else moved
    return x


def _fall(sigmas: Tensor) -> bool:
    return bool((sigmas.diff() < 0).all())


def invert(
    plain: Denoise, x_0: Tensor, sigmas: Tensor, eta: float, fresh: Fresh, watch: Callable[..., object] = unwatched
) -> Inversion:
    """Finds the noise from which pictures x_0 come, and corrections that make their way back exact.

    With eta = 0 by DDIM inversion (arXiv 2010.02502, section 4.3), each step with the noise that is predicted before
    it. With eta > 0 in DDPM's noise space (Huberman-Spiegelglas et al., arXiv 2304.06140): each level gets noise of its
    own, and edits hold on to the picture better. The corrections are what separates a step from the picture's next
    level: on DDIM's way its small errors, in DDPM's noise space the noise of the step. x_0: (n, channels, height,
    width). Raises UserError unless `sigmas` (levels,) fall and end in 0.
    """
    levels = sigmas.tolist()
    if levels[-1] != 0 or not _fall(sigmas):
        raise UserError("The noise levels must fall, and end in 0: give all sigmas of a scheduler, not a part of them.")
    way = [x_0]  # from the picture to the noise
    for number, (sigma, above) in enumerate(pairwise(reversed(levels))):
        if eta:
            way.append(x_0 + above * fresh())
            continue
        known = sigma or above  # at no noise at all the model predicts none
        denoised = plain(way[-1], known)
        watch(number, way[-1], denoised)
        way.append(way[-1] + (above - sigma) / known * (way[-1] - denoised))
    way.reverse()
    corrections = []
    for number, ((sigma, after), (x, then)) in enumerate(zip(pairwise(levels), pairwise(way), strict=True)):
        predicted = plain(x, sigma)
        watch(number, x, predicted)
        corrections.append(then - asymmetric_step(x, predicted, predicted, sigma, after, eta)[0])
    return Inversion(sigmas, eta, way, corrections)


def restored(
    shifted: Denoise,
    plain: Denoise,
    inversion: Inversion,
    x: Tensor,
    sigmas: Tensor,
    watch: Callable[..., object] = unwatched,
    mask: Tensor | None = None,
) -> Tensor:
    """Samples an inverted picture: without a shift exactly the picture, with one its edit.

    `x` is the noise of `inversion`, once or several times over; `shifted`, `plain` and `watch` are those of `asyrp`.
    Where `mask`, of the pictures' shape, is 0 the picture stays, where it is 1 it may change. Raises UserError for
    other noise levels or another size than it was inverted with.
    """
    if sigmas.shape != inversion.sigmas.shape or not torch.allclose(sigmas.cpu(), inversion.sigmas.cpu(), rtol=1e-4):
        raise UserError(
            f"The picture was inverted over {_levels(inversion.sigmas)}, and the sampler is given {_levels(sigmas)}; "
            "connect the same sigmas to both."
        )
    own = inversion.path[0]
    if x.shape[1:] != own.shape[1:] or len(x) % len(own):
        raise UserError(
            f"Pictures of {tuple(own.shape)} were inverted, and the sampler is given {tuple(x.shape)}; connect "
            "the latent that came with it."
        )

    def each(part: Tensor) -> Tensor:
        return part.to(x).repeat(len(x) // len(own), 1, 1, 1)

    for number, (sigma, after) in enumerate(pairwise(sigmas.tolist())):
        predicted = shifted(x, sigma)
        moved, _ = asymmetric_step(x, predicted, plain(x, sigma), sigma, after, inversion.eta)
        watch(number, x, predicted)
        x = moved + each(inversion.corrections[number])
        if mask is not None:
            x = torch.lerp(each(inversion.path[number + 1]), x, each(mask))
    return x


def _levels(sigmas: Tensor) -> str:
    return f"{len(sigmas) - 1} steps from sigma {float(sigmas[0]):.3g} to {float(sigmas[-1]):.3g}"
