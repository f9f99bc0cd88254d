"""Principal components of the bottleneck: how pictures of one prompt differ most."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import UserError
from .directions import HSpaceDirections, aligned, first_signs
from .samples import HSpaceSamples

FEATURES_AT_ONCE = 8192  # of a bottleneck, in single precision


def principal_components(levels: Sequence[Tensor], components: int) -> tuple[list[Tensor], Tensor, Tensor]:
    """PCA of samples whose features lie in parts, one a noise level: each (samples, features).

    Through the Gram matrix of the samples, which are fewer than features: K = X X^T = V S V^T, and the components are
    S^-1/2 V^T X. K is the sum of the parts' own, so that they need not stand side by side. Returns for each part the
    components (components, features), which have length 1 together, their standard deviations (components,) and the
    shares (components,) of the variance that they explain.
    """
    samples = len(levels[0])
    kernel = sum(_gram(level) for level in levels)
    assert isinstance(kernel, Tensor)
    variances, vectors = torch.linalg.eigh(kernel)  # rising
    variances, vectors = variances.flip(0)[:components].clamp(min=0), vectors.flip(1)[:, :components]
    weights = vectors / variances.sqrt().clamp(min=1e-30)
    found = [_combined(weights, level) for level in levels]
    deviations = (variances / max(1, samples - 1)).sqrt()
    return found, deviations, variances / kernel.trace().clamp(min=1e-30)


def _gram(rows: Tensor) -> Tensor:
    """X X^T (samples, samples) in double precision of centred rows; products in single precision for half ones."""
    kernel = torch.zeros(len(rows), len(rows), dtype=torch.float64, device=rows.device)
    for part in rows.split(FEATURES_AT_ONCE, dim=1):
        centred = _centred(part)
        kernel += centred @ centred.T
    return kernel


def _combined(weights: Tensor, rows: Tensor) -> Tensor:
    """weights^T X of centred rows."""
    parts = [weights.T.to(centred) @ centred for centred in map(_centred, rows.split(FEATURES_AT_ONCE, dim=1))]
    return torch.cat(parts, 1)


def _centred(rows: Tensor) -> Tensor:
    rows = rows if rows.dtype == torch.float64 else rows.float()
    return rows - rows.mean(0)


def pca(samples: HSpaceSamples, components: int, per_step: bool = True) -> tuple[HSpaceDirections, Tensor]:
    """The principal components of samples, and the share (components, levels) of the variance that each explains.

    A shift is a component of length 1 times its standard deviation: scale 1 is one deviation. `per_step`: at each noise
    level for itself, signs aligned; otherwise of whole trajectories (the reference's "all"), of which the shares are
    the same at each level. Raises UserError when there are not more samples than components.
    """
    if components >= len(samples):
        raise UserError(
            f"{len(samples)} samples have at most {len(samples) - 1} principal components, {components} were asked "
            "for; draw more samples or ask for fewer components."
        )
    levels = [level.flatten(1) for level in samples.activations]
    if per_step:
        each = [principal_components([level], components) for level in levels]
        directions = torch.stack([found for (found,), _, _ in each], 1)
        deviations = torch.stack([deviation for _, deviation, _ in each], 1)
        shares = torch.stack([share for _, _, share in each], 1)
    else:
        found, deviation, share = principal_components(levels, components)
        directions = torch.stack(found, 1)
        deviations, shares = (values[:, None].expand(-1, len(levels)) for values in (deviation, share))
    shifts = directions * deviations[..., None].to(directions)
    shifts = aligned(shifts) if per_step else shifts * first_signs(shifts)[..., None]
    shape = samples.activations.shape[2:]
    made_by = {**samples.made_by, "method": "pca", "per step": per_step, "samples": len(samples)}
    return (
        HSpaceDirections(
            samples.sigmas,
            shifts.view(components, len(levels), *shape).float(),
            deviations.float(),
            samples.family,
            samples.position,
            made_by,
        ),
        shares.float(),
    )


class IncrementalPCA:
    """PCA of more samples than fit into memory, batch by batch (Ross et al., 2008).

    Keeps `rank` components between batches: exact as long as there are not more samples, and as near as the others are
    small afterwards.
    """

    def __init__(self, rank: int) -> None:
        self.rank, self.count = rank, 0
        self.mean = torch.empty(0)
        self._rows = torch.empty(0)  # S V^T of what came so far

    def update(self, rows: Tensor) -> None:
        """Takes up a batch (samples, features)."""
        rows = rows if rows.dtype == torch.float64 else rows.float()
        mean, count = rows.mean(0), len(rows)
        stacked = rows - mean
        if self.count:
            total = self.count + count
            moved = (self.count * count / total) ** 0.5 * (self.mean - mean)
            stacked = torch.cat([self._rows, stacked, moved[None]])
            mean = torch.lerp(self.mean, mean, count / total)
        self.mean, self.count = mean, self.count + count
        vectors = torch.linalg.eigh((stacked @ stacked.T).double()).eigenvectors  # the largest last
        best = vectors.flip(1)[:, : min(self.rank, len(stacked))]
        self._rows = best.T.to(stacked) @ stacked

    def components(self, count: int) -> tuple[Tensor, Tensor]:
        """The first components (count, features) of length 1 and their standard deviations (count,)."""
        lengths = self._rows[:count].norm(dim=1)
        return self._rows[:count] / lengths[:, None].clamp(min=1e-30), lengths / max(1, self.count - 1) ** 0.5
