"""Principal components of the bottleneck: how pictures of one prompt differ most."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ..errors import UserError
from .directions import HSpaceDirections, aligned, first_signs
from .samples import HSpaceSamples, check_alike

FEATURES_AT_ONCE = 8192  # of a bottleneck, in single precision
RANK = 4  # times the components asked for: what is kept of earlier samples


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
    level for itself, signs aligned; otherwise of whole trajectories ("all" in the code of Haas et al., arXiv
    2303.11073), of which the shares are the same at each level. Raises UserError when there are not more samples than
    components.
    """
    _check_count(len(samples), components)
    levels = [level.flatten(1) for level in samples.activations]
    if per_step:
        each = [principal_components([level], components) for level in levels]
        found = [level for (level,), _, _ in each]
        deviations = torch.stack([deviation for _, deviation, _ in each], 1)
        shares = torch.stack([share for _, _, share in each], 1)
    else:
        found, deviation, share = principal_components(levels, components)
        deviations, shares = (values[:, None].expand(-1, len(levels)) for values in (deviation, share))
    return _directions(samples, len(samples), found, deviations, per_step), shares.float()


def incremental_pca(
    parts: Iterable[HSpaceSamples], components: int, per_step: bool = True
) -> tuple[HSpaceDirections, Tensor]:
    """The same of more samples than fit into memory, which come in parts.

    The components of what came before are kept, RANK times as many as asked for: exact as long as there are not more
    samples than that, nearly so afterwards. Raises UserError as `pca` does, and for parts that were not drawn alike.
    """
    first: HSpaceSamples | None = None
    streams: list[IncrementalPCA] = []
    for part in parts:
        if first is None:
            first = part
        check_alike(first, part)
        levels = part.activations.flatten(2)
        rows = levels if per_step else levels.transpose(0, 1).flatten(1)[None]
        streams = streams or [IncrementalPCA(RANK * components) for _ in rows]
        for stream, some in zip(streams, rows, strict=True):
            stream.update(some)
    count = streams[0].count if streams else 0
    _check_count(count, components)
    assert first is not None
    each = [stream.components(components) for stream in streams]
    found = [level for level, _, _ in each]
    deviations = torch.stack([deviation for _, deviation, _ in each], 1)
    shares = torch.stack([share for _, _, share in each], 1)
    if not per_step:
        levels = len(first.sigmas)
        found = list(found[0].chunk(levels, dim=1))
        deviations, shares = (values.expand(-1, levels) for values in (deviations, shares))
    return _directions(first, count, found, deviations, per_step), shares.float()


def _check_count(samples: int, components: int) -> None:
    if components >= samples:
        raise UserError(
            f"{samples} samples have at most {max(0, samples - 1)} principal components, but {components} were asked "
            "for; draw more samples or ask for fewer components."
        )


def _directions(
    samples: HSpaceSamples, count: int, found: Sequence[Tensor], deviations: Tensor, per_step: bool
) -> HSpaceDirections:
    """Components of each level (components, features), times their deviations (components, levels)."""
    shifts = torch.stack(list(found), 1) * deviations[..., None].to(found[0])
    shifts = aligned(shifts) if per_step else shifts * first_signs(shifts)[..., None]
    shifts = shifts.unflatten(2, samples.activations.shape[2:]).float()
    made_by = {**samples.made_by, "method": "pca", "per step": per_step, "samples": count}
    return HSpaceDirections(
        samples.sigmas, shifts, deviations.float(), samples.family, samples.position, made_by, samples.downsampling
    )


class IncrementalPCA:
    """PCA of more samples than fit into memory, batch by batch (Ross et al., 2008).

    Keeps `rank` components between batches: exact as long as there are not more samples, and as near as the others are
    small afterwards.
    """

    def __init__(self, rank: int) -> None:
        self.rank, self.count = rank, 0
        self.mean = torch.empty(0)
        self._scatter = 0.0  # the sum of squares around the mean
        self._rows = torch.empty(0)  # S V^T of what came so far

    def update(self, rows: Tensor) -> None:
        """Takes up a batch (samples, features)."""
        rows = rows if rows.dtype == torch.float64 else rows.float()
        mean, count = rows.mean(0), len(rows)
        stacked = rows - mean
        self._scatter += float(stacked.double().square().sum())
        if self.count:
            total = self.count + count
            moved = (self.count * count / total) ** 0.5 * (self.mean - mean)
            self._scatter += float(moved.double().square().sum())
            stacked = torch.cat([self._rows, stacked, moved[None]])
            mean = torch.lerp(self.mean, mean, count / total)
        self.mean, self.count = mean, self.count + count
        vectors = torch.linalg.eigh((stacked @ stacked.T).double()).eigenvectors  # the largest last
        best = vectors.flip(1)[:, : min(self.rank, len(stacked))]
        self._rows = best.T.to(stacked) @ stacked

    def components(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """The first components (count, features) of length 1, their standard deviations and shares of the variance."""
        lengths = self._rows[:count].norm(dim=1)
        found = self._rows[:count] / lengths[:, None].clamp(min=1e-30)
        return found, lengths / max(1, self.count - 1) ** 0.5, lengths.square() / max(self._scatter, 1e-30)
