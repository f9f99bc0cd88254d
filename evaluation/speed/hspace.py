"""h-space: the Jacobian beside the published power iteration, PCA at SD 1.5's size, and what a direction costs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ...core.hspace.directions import HSpaceDirections
from ...core.hspace.jacobian import Decoder, products, singular_directions
from ...core.hspace.pca import pca
from ...core.hspace.samples import HSpaceSamples
from ...harness.terminal.models import EMOJI_WORLD, load_pipeline
from ...pipelines.bottleneck import DiffusersBottleneck
from ..measures import Measure, peak_extra_megabytes, seconds

PROMPT, GUIDANCE = "a photo of a rose", 2.5
SIGMA = 2.0  # where a picture's shape is decided
VECTORS = 3
PUBLISHED_ITERATIONS = 50  # at most, for each vector
SAMPLES, LEVELS, SHAPE = 500, 10, (1280, 8, 8)  # SD 1.5's bottleneck
PICTURES, STEPS, PAIRS = 2, 5, 40


def measure() -> list[Measure]:
    torch.manual_seed(0)
    bottleneck = DiffusersBottleneck(load_pipeline(EMOJI_WORLD), PROMPT, GUIDANCE)
    return [*jacobian(bottleneck), *components(), *direction(bottleneck)]


def jacobian(bottleneck: DiffusersBottleneck) -> list[Measure]:
    """Both find three vectors; ours goes on until they are as good as the published ones."""
    x = torch.randn(1, *bottleneck.shape).to(bottleneck.unet.device) * (1 + SIGMA**2) ** 0.5
    h, decoder = bottleneck.halves(x, SIGMA, "after")
    truth = singular_directions(decoder, h, VECTORS, iterations=60, tolerance=1e-6).right.flatten(1)
    found: list[Tensor] = []
    passes = 0

    def published() -> None:
        nonlocal passes
        vectors, passes = power_iteration(whole_unet(bottleneck, x), h)
        found.append(vectors)

    slow = seconds(published)
    wanted = error(found[0], truth)
    iterations, ours = 1, singular_directions(decoder, h, VECTORS, iterations=1, tolerance=0)
    while error(ours.right.flatten(1), truth) > wanted:
        iterations += 1
        ours = singular_directions(decoder, h, VECTORS, iterations=iterations, tolerance=0)
    fast = seconds(lambda: singular_directions(decoder, h, VECTORS, iterations=iterations, tolerance=0))
    name = "h-space Jacobian, EmojiWorld: "
    return [
        Measure(name + "published / ours, time to the same accuracy", slow / fast, "x", 1, None),
        Measure(name + "published / ours, passes", passes / ours.passes, "x", 1, None),
        Measure(name + "error of the subspace reached by both", wanted, "", 1, None),
        Measure(name + "ours", fast, "s", 1, None),
    ]


def error(vectors: Tensor, truth: Tensor) -> float:
    """The sine of the largest angle between two subspaces, whose orthonormal bases are the rows."""
    vectors = torch.linalg.qr(vectors.T).Q.T.to(truth)
    return float(torch.linalg.matrix_norm(truth - truth @ vectors.T @ vectors, 2))


def whole_unet(bottleneck: DiffusersBottleneck, x: Tensor) -> Decoder:
    """The guided output as a function of the bottleneck, the rest of the UNet computed anew each time."""

    def decode(rows: Tensor) -> Tensor:
        outputs = []
        for row in rows:

            def put(h: Tensor, *_: object, row: Tensor = row) -> Tensor:
                return h + (row - h[:1])

            with bottleneck.visited("after", put):
                conditional, unconditional = bottleneck.outputs(x, SIGMA).chunk(2)
            outputs.append(GUIDANCE * conditional + (1 - GUIDANCE) * unconditional)
        return torch.cat(outputs)

    return decode


def power_iteration(decoder: Decoder, h: Tensor, tolerance: float = 1e-5) -> tuple[Tensor, int]:
    """The published procedure: v <- J^T J v, one vector after another, those found before projected out."""
    push, pull = products(decoder, h)
    found: list[Tensor] = []
    passes = 0
    for _ in range(VECTORS):
        vector = torch.randn(h.shape).to(h)
        vector = vector / vector.norm()
        for _ in range(PUBLISHED_ITERATIONS):
            before, passes = vector, passes + 2
            vector = pull(push(vector[None]))[0]
            for other in found:
                vector = vector - (vector * other).sum() * other
            vector = vector / vector.norm()
            if float((vector - before).norm()) < tolerance:
                break
        found.append(vector)
    return torch.stack(found).flatten(1), passes


def components() -> list[Measure]:
    spent: list[float] = []

    def work() -> None:
        activations = torch.randn(LEVELS, SAMPLES, *SHAPE, dtype=torch.float16)
        samples = HSpaceSamples(torch.logspace(1, -1, LEVELS), activations, "SD 1.x", "after", {})
        spent.append(seconds(lambda: pca(samples, 10)))

    memory = peak_extra_megabytes(work)
    name, missing = "h-space PCA, 500 samples x 10 levels of SD 1.5: ", None if memory else "needs Linux's /proc"
    return [
        Measure(name + "time", spent[0], "s", 1, None),
        Measure(name + "peak memory with the samples", memory, "MB", 1, None, missing),
    ]


def direction(bottleneck: DiffusersBottleneck) -> list[Measure]:
    """Sampling with a direction and without one, in turn."""
    shifts = torch.randn(1, 10, bottleneck.channels, 4, 4)
    found = HSpaceDirections(torch.logspace(1, -1, 10), shifts, torch.ones(1, 10), bottleneck.family, "after", {})

    def draw() -> object:
        return bottleneck.draw(range(PICTURES), STEPS)

    def shifted() -> None:
        with bottleneck.shifted(found, 0, 0.1):
            draw()

    pairs: list[tuple[Callable[[], object], Callable[[], object]]] = [(shifted, draw), (draw, shifted)]
    ratios = []
    draw()
    for number in range(PAIRS):
        order = pairs[number % 2]
        spent = dict(zip(order, (seconds(work) for work in order), strict=True))
        ratios.append(spent[shifted] / spent[draw])
    return [Measure.of("h-space direction, EmojiWorld: sampling with / without, time", ratios, "x")]
