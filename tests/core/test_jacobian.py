"""The decoder's Jacobian against brute force in double precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from conceptlens.core.errors import UserError
from conceptlens.core.hspace import jacobian
from conceptlens.core.hspace.jacobian import Half, jacobian_directions, nearest_levels, products, singular_directions
from conceptlens.core.hspace.samples import Recorder
from conceptlens.tests.core.toy import ToyBottleneck, random
from torch import Tensor
from torch.nn import Conv2d, GroupNorm


def decoder() -> Callable[[Tensor], Tensor]:
    """A decoder with normalisation, attention and a nonlinearity: from (n, 6, 3, 3) to (n, 2, 6, 6)."""
    torch.manual_seed(0)
    norm, first, last = GroupNorm(2, 6).double(), Conv2d(6, 8, 3, padding=1).double(), Conv2d(8, 2, 1).double()

    def decode(h: Tensor) -> Tensor:
        x = torch.nn.functional.silu(first(norm(h)))
        tokens = x.flatten(2).transpose(1, 2)
        mixed = torch.softmax(tokens @ tokens.transpose(1, 2), -1) @ tokens
        x = x + mixed.transpose(1, 2).view_as(x)
        return last(torch.nn.functional.interpolate(x, scale_factor=2))

    return decode


def explicit(decode: Callable[[Tensor], Tensor], h: Tensor) -> Tensor:
    """J (outputs, inputs), column by column."""
    found: Any = torch.autograd.functional.jacobian(lambda x: decode(x[None])[0].flatten(), h)
    return found.flatten(1)


@pytest.mark.parametrize("masked", [False, True])
def test_singular_triplets_are_those_of_the_explicit_jacobian(masked: bool) -> None:
    decode, h = decoder(), random(6, 3, 3)
    mask = torch.zeros(1, 6, 6, dtype=torch.float64)
    mask[:, 1:4, 2:] = 1
    whole = explicit((lambda x: decode(x) * mask) if masked else decode, h)
    left, values, right = torch.linalg.svd(whole)
    found = singular_directions(decode, h, 3, tolerance=1e-9, mask=mask if masked else None)
    assert found.converged
    torch.testing.assert_close(found.values, values[:3], atol=1e-6, rtol=0)
    for row in range(3):
        sign = torch.sign(found.right[row].flatten() @ right[row])
        torch.testing.assert_close(found.right[row].flatten() * sign, right[row], atol=1e-6, rtol=0)
        torch.testing.assert_close(found.left[row].flatten() * sign, left[:, row], atol=1e-6, rtol=0)


def test_close_singular_values_are_told_from_the_rest() -> None:
    """Two that differ by a millionth: each vector is hardly defined, the plane of both is."""
    values = torch.tensor([2.0, 2.0 - 2e-6, 1.9, 1.0, *[0.5] * 20, *[0.1] * 30], dtype=torch.float64)
    left, right = (torch.linalg.qr(random(54, 54, seed=seed)).Q for seed in (1, 2))
    matrix = left @ values.diag() @ right
    found = singular_directions(lambda h: (h.flatten(1) @ matrix.T)[:, None], random(6, 3, 3), 2, tolerance=1e-10)
    torch.testing.assert_close(found.values, values[:2], atol=1e-6, rtol=0)
    inside = found.right.flatten(1) @ right[:2].T
    torch.testing.assert_close(torch.linalg.svdvals(inside), torch.ones(2, dtype=torch.float64), atol=1e-6, rtol=0)


def test_a_start_from_before_saves_passes() -> None:
    decode, h = decoder(), random(6, 3, 3)
    cold = singular_directions(decode, h, 3)
    warm = singular_directions(decode, h + 1e-3 * random(6, 3, 3, seed=5), 3, start=cold.right)
    assert warm.passes < cold.passes


def test_fewer_outputs_than_vectors_asked_for_is_no_error() -> None:
    found = singular_directions(lambda h: h.flatten(1)[:, :2], random(6, 3, 3), 3)
    assert found.values.tolist() == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize("way", ["_forward", "_twice_backward", "_differences"])
def test_each_way_to_push_is_the_jacobian(way: str) -> None:
    decode, h, tangents = decoder(), random(6, 3, 3), random(4, 6, 3, 3, seed=3)
    expected = (tangents.flatten(1) @ explicit(decode, h).T).view(4, 2, 6, 6)
    exact = 1e-4 if way == "_differences" else 1e-10
    torch.testing.assert_close(getattr(jacobian, way)(decode, h, tangents), expected, atol=exact, rtol=exact)


def test_a_decoder_without_forward_derivatives_is_differenced() -> None:
    push, pull = products(ScaledOnce.apply, random(6, 3, 3))
    tangents = random(2, 6, 3, 3, seed=4)
    torch.testing.assert_close(push(tangents), 3 * tangents, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(pull(tangents), 3 * tangents)


def test_little_memory_costs_time_only() -> None:
    whole, h = decoder(), random(6, 3, 3)
    expected = singular_directions(whole, h, 3)

    def narrow(rows: Tensor) -> Tensor:
        if len(rows) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return whole(rows)

    torch.testing.assert_close(singular_directions(narrow, h, 3).values, expected.values)
    with pytest.raises(UserError, match="does not hold one picture"):
        singular_directions(lambda rows: narrow(rows.repeat(3, 1, 1, 1)), h, 3)


def test_what_can_not_be_differentiated_is_refused() -> None:
    with pytest.raises(UserError, match="can't be differentiated"):
        products(lambda h: h.round() * 1.0 + h.detach(), random(6, 3, 3))
    with pytest.raises(UserError, match="mask is empty"):
        singular_directions(decoder(), random(6, 3, 3), 1, mask=torch.zeros(1, 6, 6))


ONE: dict[str, Any] = {"components": 1, "bottleneck": ToyBottleneck(), "position": "after", "made_by": {}}


def test_a_bottleneck_that_changes_its_size_is_named() -> None:
    """As with Deep Shrink: the cause is a patch, and is told at the first level that differs."""
    recorder = Recorder([2.0, 1.0])
    recorder.record(2.0, random(2, 5, 2, 2), [True])
    with pytest.raises(UserError, match=r"2 x 2 at some noise levels and 4 x 4 at others.*Deep Shrink"):
        recorder.record(1.0, random(2, 5, 4, 4), [True])
    levels = [Half(2.0, random(6, 3, 3), decoder()), Half(1.0, random(6, 2, 2), decoder())]
    with pytest.raises(UserError, match=r"3 x 3 at some noise levels and 2 x 2 at others"):
        jacobian_directions(levels, iterations=2, tolerance=1e-3, **ONE)


def test_each_iteration_is_told() -> None:
    told: list[tuple[int, int]] = []
    levels = [Half(2.0, random(6, 3, 3), decoder()), Half(1.0, random(6, 3, 3), decoder())]
    told_of: dict[str, Any] = {"watch": lambda found, iterated: told.append((len(found), iterated))}
    jacobian_directions(levels, iterations=3, tolerance=0.0, **ONE, **told_of)
    assert told == [(0, 1), (0, 2), (0, 3), (1, 0), (1, 1), (1, 2), (1, 3), (2, 0)]


def test_the_nearest_levels_are_chosen_by_their_ratio() -> None:
    levels = [10.0, 4.0, 1.0, 0.1]
    assert nearest_levels(levels, [float("inf"), 2.1]) == [10.0, 4.0]
    assert nearest_levels(levels, [1.9, 0.0, 0.9]) == [1.0, 0.1]


class ScaledOnce(torch.autograd.Function):
    """Has a derivative, and no second and no forward one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ARG004
        return 3 * x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ARG004
        return 3 * gradient
