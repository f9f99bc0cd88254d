"""What the bottleneck changes most in one picture, or in a part of it: singular vectors of the decoder's Jacobian."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import interpolate

from ..errors import UserError
from ..model.memory import Portions
from ..model.protocols import Bottleneck, Progress, unseen
from .directions import HSpaceDirections, Position, aligned, check_one_size

Decoder = Callable[[Tensor], Tensor]
"""From bottlenecks (n, channels, height, width) to predictions (n, ...), each row for itself."""
Product = Callable[[Tensor], Tensor]
SPARE = 2  # vectors beyond those asked for in the first block: close singular values need them
ROWS_AT_ONCE = 16  # through the decoder, where memory allows
SELF_CHECK = 1e-3  # by how much <u, J v> and <J^T u, v> may differ in single precision


@dataclass(frozen=True, eq=False)
class SingularDirections:
    """The leading singular triplets of a Jacobian."""

    right: Tensor  # (count, channels, height, width): in the bottleneck, of length 1
    values: Tensor  # (count,), falling
    left: Tensor  # (count, ...): what they change in the prediction, of length 1
    passes: int  # rows that went through the decoder's derivatives
    iterations: int
    converged: bool


def singular_directions(
    decoder: Decoder,
    h: Tensor,
    count: int,
    iterations: int = 50,
    tolerance: float = 1e-4,
    mask: Tensor | None = None,
    start: Tensor | None = None,
    generator: torch.Generator | None = None,
    progress: Progress = unseen,
) -> SingularDirections:
    """The `count` leading singular triplets of J = d(mask * decoder(h)) / dh at h (channels, height, width).

    All at once, in the Krylov space of J^T J that grows by a block of `count` vectors with each iteration (block
    Lanczos with full orthogonalisation, in the Rayleigh-Ritz form): J itself is never built. Haas et al. (arXiv
    2303.11073) find the same vectors one after another, by power iteration. Ends when |J^T u - s v| is at most
    `tolerance` times the largest singular value for each, or after `iterations`; `progress` is told of each. `mask`
    (height, width) is brought to the prediction's size; `start` (n, ...) are vectors to begin with, those of the noise
    level before, and `generator`, on the CPU, draws what they lack. Raises UserError for a mask that hides everything,
    and when the decoder can't be differentiated.
    """
    if mask is not None and not (mask != 0).any():
        raise UserError("The mask is empty: no part of the picture would be looked at; paint the part that matters.")
    seen = decoder if mask is None else masked(decoder, mask)
    with full_precision():
        return _lanczos(*products(seen, h), h, count, iterations, tolerance, start, generator, progress)


def masked(decoder: Decoder, mask: Tensor) -> Decoder:
    """The prediction times a mask (1, height, width) or (height, width), which is brought to its size."""

    def decode(rows: Tensor) -> Tensor:
        predicted = decoder(rows)
        size = predicted.shape[-2:]
        area = (
            mask
            if mask.shape[-2:] == size
            else interpolate(mask.float()[(None,) * (4 - mask.ndim)], size, mode="area")[0]
        )
        return predicted * area.to(predicted)

    return decode


@contextmanager
def full_precision() -> Iterator[None]:
    """Convolutions in float32 on GPUs that would round their factors to TF32 (10 bits) otherwise."""
    now = torch.backends.cudnn
    with now.flags(now.enabled, now.benchmark, deterministic=now.deterministic, allow_tf32=False):
        yield


def _lanczos(
    push: Product,
    pull: Product,
    h: Tensor,
    count: int,
    iterations: int,
    tolerance: float,
    start: Tensor | None,
    generator: torch.Generator | None,
    progress: Progress,
) -> SingularDirections:
    """`singular_directions` of a Jacobian that is given by its products."""
    size, passes = h.numel(), 0
    count = min(count, size)
    random = torch.randn(count + SPARE, size, generator=generator).to(h)
    first = random if start is None else torch.cat([start.flatten(1).to(h), random])[: count + SPARE]
    basis = h.new_zeros(0, size)
    fresh, images, rounds = _orthonormal(first, basis), [], 0
    while True:
        basis = torch.cat([basis, fresh])
        pushed = push(fresh.view(-1, *h.shape))
        images.append(pushed.flatten(1))
        rotation, values, left = torch.linalg.svd(torch.cat(images), full_matrices=False)  # of J v, v the basis
        right, values, left = (rotation.T @ basis)[:count], values[:count], left[:count]
        pulled = pull(left.view(-1, *pushed.shape[1:])).flatten(1)
        passes += len(fresh) + len(left)
        residual = pulled - values[:, None] * right
        done = bool((residual.norm(dim=1) <= tolerance * values[0]).all())
        fresh, rounds = _orthonormal(residual, basis), rounds + 1
        progress(rounds, iterations)
        if done or rounds >= iterations or not len(fresh):
            right, left = right.view(-1, *h.shape), left.view(-1, *pushed.shape[1:])
            return SingularDirections(right, values, left, passes, rounds, done)


def _orthonormal(rows: Tensor, basis: Tensor) -> Tensor:
    """What rows (n, size) add to the orthonormal rows of a basis, as orthonormal rows: at most n."""
    scale = rows.norm(dim=1, keepdim=True).clamp(min=1e-30)
    rows = rows / scale
    for _ in range(2):  # twice: once leaves rounding errors that later blocks would amplify
        rows = rows - rows @ basis.T @ basis
        _, values, right = torch.linalg.svd(rows, full_matrices=False)
        rows = right[values > 100 * torch.finfo(rows.dtype).eps]
    return rows


def products(decoder: Decoder, h: Tensor) -> tuple[Product, Product]:
    """v -> J v and u -> J^T u, each for rows at once, at h (channels, height, width).

    J v by forward-mode derivatives where all operations have them (fused attention, which has none, is taken apart),
    otherwise by differentiating J^T u with respect to u, otherwise by central differences: the first for which
    <u, J v> is <J^T u, v>. Fewer rows at once where memory runs out. Raises UserError when no way is right, and when
    memory does not hold one row.
    """
    portions = Portions(ROWS_AT_ONCE)

    def split(product: Product) -> Product:
        return lambda rows: portions.run(lambda size: torch.cat([product(some) for some in rows.split(size)]))

    def pull(cotangents: Tensor) -> Tensor:
        rows = h.detach().expand(len(cotangents), *h.shape).clone().requires_grad_()
        return torch.autograd.grad(decoder(rows), rows, cotangents)[0]

    direction = torch.randn(1, *h.shape, generator=torch.Generator().manual_seed(0)).to(h)
    direction /= direction.norm()
    reasons = []
    for way in (_forward, _twice_backward, _differences):
        push = split(partial(way, decoder, h))
        try:
            image = push(direction)
            back = split(pull)(image)
        except RuntimeError as error:  # some operation has no such derivative
            reasons.append(str(error).splitlines()[0])
            continue
        there, again = float(image.square().sum()), float((back * direction).sum())
        if there > 0 and abs(there - again) <= SELF_CHECK * there:
            return push, split(pull)
        reasons.append(f"<u, J v> is {there:.6g}, but <J^T u, v> {again:.6g}")
    raise UserError(f"The model's decoder can't be differentiated ({'; '.join(reasons)}); run it in float32.")


def _forward(decoder: Decoder, h: Tensor, tangents: Tensor) -> Tensor:
    with forward_ad.dual_level(), torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        rows = h.detach().expand(len(tangents), *h.shape).clone()
        tangent = forward_ad.unpack_dual(decoder(forward_ad.make_dual(rows, tangents))).tangent
        if tangent is None:
            raise RuntimeError("an operation dropped its tangent")
        return tangent


def _twice_backward(decoder: Decoder, h: Tensor, tangents: Tensor) -> Tensor:
    rows = h.detach().expand(len(tangents), *h.shape).clone().requires_grad_()
    predicted = decoder(rows)
    cotangents = torch.zeros_like(predicted, requires_grad=True)
    back = torch.autograd.grad(predicted, rows, cotangents, create_graph=True)[0]
    return torch.autograd.grad(back, cotangents, tangents)[0]


@torch.no_grad()
def _differences(decoder: Decoder, h: Tensor, tangents: Tensor) -> Tensor:
    step = torch.finfo(h.dtype).eps ** (1 / 3) * h.norm()  # of unit vectors: where rounding and curvature meet
    return (decoder(h + step * tangents) - decoder(h - step * tangents)) / (2 * step)


def guided_decoder(
    guidance_scale: float, h: Tensor, prompted: Decoder, unprompted_h: Tensor, unprompted: Decoder
) -> Decoder:
    """The guided prediction as a function of the bottleneck for the prompt.

    The one for the negative prompt moves along with it, as with a direction that is applied to both:
    g eps_c(h) + (1 - g) eps_u(h_u + h - h_c), classifier-free guidance (arXiv 2207.12598, equation 6). g is
    `guidance_scale`, the paper's 1 + w; eps_c is `prompted` and eps_u `unprompted`; h_c is `h` and h_u `unprompted_h`,
    each (channels, height, width).
    """

    def decode(rows: Tensor) -> Tensor:
        moved = rows - h + unprompted_h
        return guidance_scale * prompted(rows) + (1 - guidance_scale) * unprompted(moved)

    return decode


class Half(NamedTuple):
    """One picture at a noise level: its bottleneck, and the UNet from there on."""

    sigma: float  # noise over signal
    h: Tensor  # (channels, height, width)
    decoder: Decoder


Watch = Callable[[Sequence[tuple[float, SingularDirections]], int], object]
"""Called with what was found at each noise level so far, and how many iterations the next one has taken."""


def unwatched(_: Sequence[tuple[float, SingularDirections]], __: int) -> None:
    """The search that nobody watches."""


def jacobian_directions(
    halves: Iterable[Half],
    *,
    components: int,
    iterations: int,
    tolerance: float,
    mask: Tensor | None = None,
    bottleneck: Bottleneck,
    position: Position,
    made_by: Mapping[str, Any],
    watch: Watch = unwatched,
) -> HSpaceDirections:
    """The leading singular vectors of the decoder's Jacobian at falling noise levels, each times its singular value.

    `components` of each level, with the `iterations` and the `tolerance` of `singular_directions`; each search begins
    with the vectors of the level before. mask (height, width): what of the picture is looked at, in pixels or in
    latents. Raises UserError for bottlenecks of several sizes, and as `singular_directions` does.
    """
    found: list[tuple[float, SingularDirections]] = []

    def iterated(done: int, _: int) -> None:
        watch(found, done)

    for sigma, h, decoder in halves:
        check_one_size([*(each.right.shape for _, each in found), h.shape])
        each = singular_directions(
            decoder,
            h,
            components,
            iterations=iterations,
            tolerance=tolerance,
            mask=mask,
            start=found[-1][1].right if found else None,
            progress=iterated,
        )
        found.append((sigma, each))
        watch(found, 0)
    return directions_of_levels(found, bottleneck, position, made_by)


def nearest_levels(levels: Sequence[float], wanted: Sequence[float]) -> list[float]:
    """Those of a sampler's noise levels that are nearest to wanted ones by their logarithms, falling."""
    first, last = max(levels), min(levels)

    def apart(level: float, sigma: float) -> float:
        return abs(math.log(level / min(max(sigma, last), first)))

    return sorted({min(levels, key=lambda level: apart(level, sigma)) for sigma in wanted}, reverse=True)


def directions_of_levels(
    found: Sequence[tuple[float, SingularDirections]],
    bottleneck: Bottleneck,
    position: Position,
    made_by: Mapping[str, Any],
) -> HSpaceDirections:
    """The singular vectors of falling noise levels (sigma, found) as directions: each times its singular value."""
    count = min(len(each.values) for _, each in found)
    right = torch.stack([each.right[:count] for _, each in found], 1).float().cpu()
    values = torch.stack([each.values[:count] for _, each in found], 1).float().cpu()
    shifts = aligned(right) * values[..., None, None, None]
    passes = {"passes": sum(each.passes for _, each in found), "converged": all(each.converged for _, each in found)}
    sigmas = torch.tensor([sigma for sigma, _ in found])
    made_by = {**made_by, **passes}
    return HSpaceDirections(
        sigmas, shifts, values, bottleneck.family, position, made_by, downsampling=bottleneck.downsampling
    )
