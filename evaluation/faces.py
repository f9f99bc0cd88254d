"""`faces`: what directions of h-space do on FaceWorld, against its truth.

The claims of the papers, on faces: pictures of the prompt "a face", 20 steps of DDIM without guidance; directions from
200 generated pictures that the judge has labelled, tried on 64 new seeds. Each supervised direction is the difference
of the means without what it shares with those of other attributes; its scale is chosen on 32 of the 200 pictures, and
beside it stands a random direction of the same length. About an hour on 2 CPU cores: parts that --json FILE holds
already are taken from there as long as the weights are the same; --only NAME measures one part anew.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from ..core.conceptor.vocabulary import zero_shot_features
from ..core.hspace.contrast import contrast_by_text
from ..core.hspace.directions import HSpaceDirections, disentangled
from ..core.hspace.jacobian import Half, jacobian_directions
from ..core.hspace.pca import pca
from ..core.hspace.process import invert, restored
from ..core.pictures.grid import labelled_grid, save_picture
from ..harness.terminal.console import Console
from ..harness.terminal.options import check_file
from ..pipelines.adapter import DiffusersTextEncoder
from ..pipelines.studio import image_features
from ..world import weights
from ..world.faces import judge
from ..world.faces.architecture import WEIGHTS
from ..world.faces.truth import HELD_OUT_SEEDS, VALUES, Face
from ..world.pictures import to_tensor
from .face_trials import (
    ATTRIBUTES,
    FLIPPED,
    FOUND_IN,
    NAMES,
    NEW,
    PROMPT,
    SCALES,
    STEPS,
    YES,
    Faces,
    Trial,
    alone,
    directions,
    unchanged,
)
from .hspace import random_like
from .measures import Measure
from .parts import Evaluation, Part

FEW_STEPS = 10
PAIRS = 32  # of new seeds that swap their bottlenecks
PARTS_OF_SCALE = (0.2, 0.4, 0.6, 0.8, 1.0)  # over which the share shall rise
COMPONENTS, CORRELATED = 8, 0.7
TEXTS = {  # what ranks pictures for an attribute: a text that fits it, and one that does not
    "glasses": ("a face with glasses", "a face"),
    "smile": ("a smiling face", "a frowning face"),
    "cap": ("a face with a cap", "a face"),
}
ENDS = 40  # pictures at each end of that order
FACES = 10  # whose Jacobian is looked at, and that are inverted
JACOBIAN_LEVELS = slice(9, 18, 2)  # of the steps: while the parts of the picture are decided
OUTSIDE = 48  # singular directions of the rest of the picture that are taken out
PUSHES = (-0.3, -0.15, 0.15, 0.3)  # along a singular vector, in lengths of the direction of what shall move
# Of the latents: rows and columns, and the attribute that is to be seen there.
MASKS = {"smile": (slice(9, 12), slice(5, 11)), "glasses": (slice(4, 8), slice(3, 13))}
SHOWN, SHOWN_SEED = (-0.6, -0.3, 0.0, 0.3, 0.6), 15  # scales of a sheet, and whose face it shows
CLOSE = 0.25  # of the distance between two faces, outside of the eyes: as near an edited picture stays


def swap(faces: Faces) -> Part:
    """With B's bottleneck in A's trajectory: which of the attributes in which they differ become B's."""
    seeds, others = NEW[:PAIRS], NEW[PAIRS : 2 * PAIRS]
    one, two = faces.before[:PAIRS], faces.before[PAIRS : 2 * PAIRS]
    got = faces.labels(faces.swapped(seeds, faces.samples(others)[0]))
    differ = ~unchanged(one, two)
    became = {name: float((got == two)[:, place][differ[:, place]].float().mean()) for place, name in enumerate(NAMES)}
    yield (
        Measure.share(
            "faces: with B's bottleneck, differing attributes that become B's", (got == two)[differ].tolist()
        ),
        {"by attribute": became},
    )


def supervised(faces: Faces) -> Part:
    """Directions from labelled pictures, over their strengths, and from fewer steps by another sampler."""
    noisy = faces.labels(faces.drawn(NEW, eta=1.0))
    few, latents = faces.samples(FOUND_IN, FEW_STEPS)
    sooner = directions(few, faces.labels(latents))
    reached, chance, monotone, kept, details = [], [], [], [], {}
    for attribute in ATTRIBUTES:
        shift, scale = alone(attribute, faces.found), faces.scale(attribute)
        trial, random = faces.tried(attribute, shift, scale), faces.tried(attribute, random_like(shift), scale)
        shares = [
            float(attribute.there(faces.labels(faces.drawn(NEW, shift, part * scale))).float().mean())
            for part in PARTS_OF_SCALE
        ]
        effects = [
            Trial.of(attribute, scale, noisy, faces.labels(faces.drawn(NEW, each, scale, eta=1.0))).flipped
            for each in (alone(attribute, sooner), shift)
        ]
        reached.append(trial.reached)
        chance.append(random.reached)
        monotone.append(all(a <= b for a, b in pairwise(shares)) and shares[-1] > shares[0])
        kept.append(100 * effects[0] / max(effects[1], 1e-9))
        details[attribute.name] = {
            "trial": vars(trial),
            "random direction of the same length": vars(random),
            "share over five scales": shares,
            "flipped by directions of 10 and of 20 steps, eta 1": effects,
        }
    count = len(ATTRIBUTES)
    yield Measure("faces: attributes of 10 that directions flip, the rest kept", sum(reached), "", count, None), details
    yield Measure("faces: attributes of 10 that random directions flip", sum(chance), "", count, None), {}
    yield Measure("faces: attributes of 10 whose share rises over five scales", sum(monotone), "", count, None), {}
    yield Measure.of("faces: effect of a direction of 10 steps in another sampler's 20", kept, "%"), {}


def projections(faces: Faces) -> Part:
    """Table I: the effect of five directions on five attributes, before and after the other four are taken out."""

    def shares(labels: Tensor) -> Tensor:
        return torch.stack([each.there(labels).float().mean() for each in YES])

    plain = shares(faces.before)
    tables = {}
    for name in ("before", "after"):
        rows = []
        for attribute in YES:
            shift = faces.found[attribute.name] if name == "before" else alone(attribute, faces.found, among=YES)
            rows.append(shares(faces.labels(faces.drawn(NEW, shift, 1.0))) - plain)
        tables[name] = torch.stack(rows)
    largest = int((tables["after"].abs().argmax(1) == torch.arange(len(YES))).sum())
    smile, hair = (
        next(place for place, each in enumerate(YES) if each.name == name) for name in ("smile", "long hair")
    )
    remains = (100 * tables["after"][smile] / tables["before"][smile]).abs().tolist()
    details = {f"Table I {name}": table.tolist() for name, table in tables.items()}
    yield Measure("faces: Table I, rows of 5 with the intended effect largest", largest, "", len(YES), None), details
    yield (
        Measure("faces: smile on the length of hair after projection, of before", remains[hair], "%", 1, None),
        {},
    )
    yield Measure("faces: smile's own effect after projection, of before", remains[smile], "%", 1, None), {}


def components(faces: Faces) -> Part:
    """The principal components of one prompt's pictures that go with an attribute."""
    samples, _, labels = faces.drawn_to_find
    found, _ = pca(samples, COMPONENTS, per_step=False)
    centred = samples.activations.float() - samples.activations.float().mean(1, keepdim=True)
    ratios = correlation_ratios(torch.einsum("lpchw,dlchw->dp", centred, found.shifts), labels)
    high = int((ratios.amax(1) >= CORRELATED).sum())
    rows = {f"component {number}": dict(zip(NAMES, row, strict=True)) for number, row in enumerate(ratios.tolist())}
    yield (
        Measure("faces: principal components of 8 that go with an attribute", high, "", COMPONENTS, None),
        {"correlation ratios": rows},
    )


def correlation_ratios(scores: Tensor, labels: Tensor) -> Tensor:
    """How scores (components, pictures) go with each attribute of labels (pictures, attributes), in 0..1.

    The deviation of the means of an attribute's values, of the scores' own: (components, attributes). It is |r| for an
    attribute of two values, and does not ask for an order of more.
    """
    scores = scores.double() - scores.double().mean(1, keepdim=True)
    ratios = []
    for place, values in enumerate(VALUES.values()):
        rows = one_hot(labels[:, place], len(values)).double()
        counts = rows.sum(0).clamp(min=1)
        between = ((scores @ rows / counts).square() * counts).sum(1)
        ratios.append((between / scores.square().sum(1)).sqrt())
    return torch.stack(ratios, 1)


def by_text(faces: Faces) -> Part:
    """Directions from the ends of an order by the image encoder and two texts."""
    samples, latents, _ = faces.drawn_to_find
    pipe = faces.bottleneck.pipe
    with torch.no_grad():
        shown = torch.cat([faces.bottleneck.pictures(some) for some in latents.split(FACES)])
    pictures = image_features(pipe, shown)
    assert pictures is not None  # FaceWorld has an image encoder
    encoder = DiffusersTextEncoder(pipe)
    tower = encoder.towers()[-1]
    found, details = [], {}
    for attribute in (each for each in ATTRIBUTES if each.name in TEXTS):
        texts = zero_shot_features(encoder, tower, TEXTS[attribute.name], pictures)
        direction, high, low = contrast_by_text(samples, pictures, texts, texts[2:], ENDS)
        trial = faces.tried(attribute, direction, faces.scale(attribute))
        found.append(trial.flipped >= FLIPPED)
        labels = faces.drawn_to_find[2]
        right = [float(attribute.there(labels[end]).float().mean()) for end in (high, low)]
        details[attribute.name] = {"trial": vars(trial), "share with it at both ends": right}
    yield Measure("faces: attributes of 3 found by two texts", sum(found), "", len(TEXTS), None), details


def masked(faces: Faces) -> Part:
    """The first singular vector of the Jacobian with a mask on the mouth or on the eyes: what it moves, and where."""
    bottleneck = faces.bottleneck
    for name, (rows, columns) in MASKS.items():
        attribute = next(each for each in ATTRIBUTES if each.name == name)
        mask = torch.zeros(bottleneck.shape[1:])
        mask[rows, columns] = 1
        area = mask.repeat_interleave(8, 0).repeat_interleave(8, 1)[..., None]
        shares, moved = [], []
        for seed in NEW[:FACES]:
            plain, singular = looked_at(faces, seed, mask)
            lengths = faces.found[name].shifts.flatten(2).norm(dim=2).mean() / singular.shifts.flatten(2).norm(dim=2)
            singular = replace(singular, shifts=singular.shifts * lengths[..., None, None, None])
            pushed = torch.cat([faces.drawn([seed], singular, push) for push in PUSHES])
            there = attribute.there(faces.labels(torch.cat([plain, pushed])))
            moved.append(bool((there[1:] != there[0]).any()))
            change = (bottleneck.pictures(pushed) - bottleneck.pictures(plain)).square()
            shares.append(100 * float((change * area).sum() / change.sum()))
        yield (
            Measure.of(f"faces: Jacobian with a mask for {name}, share of the change inside", shares, "%"),
            {f"mask for {name}: share inside, moved": [shares, moved]},
        )
        yield Measure(f"faces: Jacobian with a mask moves {name}, of 10 faces", sum(moved), "", FACES, None), {}


def looked_at(faces: Faces, seed: int, mask: Tensor) -> tuple[Tensor, HSpaceDirections]:
    """A picture's latents, and what changes its part most, without what changes the rest of it most."""
    bottleneck = faces.bottleneck
    visited: list[Tensor] = []
    plain = bottleneck.draw([seed], STEPS, watch=lambda _, x, __: visited.append(x))
    levels = list(zip(bottleneck.sigmas(STEPS)[:-1].tolist(), visited, strict=True))[JACOBIAN_LEVELS]
    halves = [Half(sigma, *bottleneck.halves(x, sigma, "after")) for sigma, x in levels]
    inside, outside = (
        jacobian_directions(
            halves,
            components=count,
            iterations=8,
            tolerance=1e-3,
            mask=part,
            bottleneck=bottleneck,
            position="after",
            made_by={"method": "jacobian"},
        )
        for count, part in ((1, mask), (OUTSIDE, 1 - mask))
    )
    return plain, disentangled(inside, outside)


def real(faces: Faces) -> Part:
    """Held-out faces inverted, and glasses put on them: with the least of the scales at which they wear any."""
    bottleneck = faces.bottleneck
    glasses = next(each for each in ATTRIBUTES if each.name == "glasses")
    seeds = [seed for seed in HELD_OUT_SEEDS if not Face.of_seed(seed).glasses][: 2 * FACES]
    pictures = torch.stack([to_tensor(faces.personas.picture(seed)) for seed in seeds])
    with torch.no_grad():
        latents = bottleneck.pipe.vae.encode(pictures).latents
    sigmas = bottleneck.sigmas(STEPS)
    inversion = invert(bottleneck.predict_plainly, latents[:FACES], sigmas, 0.0, lambda: torch.randn(()))
    edited, wearing = latents[:FACES].clone(), torch.zeros(FACES, dtype=torch.bool)
    for scale in SCALES:
        with bottleneck.shifted(alone(glasses, faces.found), 0, scale):
            more = restored(bottleneck.predict, bottleneck.predict_plainly, inversion, inversion.path[0], sigmas)
        edited[~wearing] = more[~wearing]
        wearing |= glasses.there(faces.labels(more))
    outside = torch.ones(1, 1, *pictures.shape[2:])
    outside[..., MASKS["glasses"][0].start * 8 : MASKS["glasses"][0].stop * 8, :] = 0
    shown = [
        (bottleneck.pictures(some).permute(0, 3, 1, 2) * 2 - 1) * outside for some in (*latents.split(FACES), edited)
    ]
    one, other, after = (judge.features(faces.judge, some) for some in shown)
    apart, moved = ((one - some).square().mean((1, 2, 3)) for some in (other, after))
    hits = int((wearing & (moved <= CLOSE * apart.mean())).sum())
    yield (
        Measure("faces: inverted faces of 10 that wear glasses now and stay close", hits, "", FACES, None),
        {"wearing glasses, distance of that between two faces": [wearing.tolist(), (moved / apart.mean()).tolist()]},
    )


def sheet(faces: Faces) -> Tensor:
    """A grid (height, width, 3): a face along the direction of each attribute alone, at rising scales."""
    pictures, labels = [], []
    for attribute in YES:
        for scale in SHOWN:
            latents = faces.drawn([SHOWN_SEED], alone(attribute, faces.found), scale)
            pictures.append(faces.bottleneck.pictures(latents)[0])
            labels.append(f"{attribute.name} {scale:+g}" if scale else "0")
    return labelled_grid(pictures, labels, columns=len(SHOWN))


PARTS: dict[str, Callable[[Faces], Part]] = {
    part.__name__: part for part in (swap, supervised, projections, components, by_text, masked, real)
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--weights", type=Path, default=WEIGHTS, metavar="DIR", help="where the weights are")
    add("--packages", type=Path, default=Path(".world"), metavar="DIR", help="where packages are kept")
    add("--only", choices=list(PARTS), action="append", help="this part alone; may be given again")
    add("--sheet", type=Path, metavar="FILE", help="a face along directions; measures nothing")


def run(arguments: argparse.Namespace, _: Console) -> None:
    check_file("--sheet", arguments.sheet)
    if arguments.sheet:
        save_picture(sheet(Faces(arguments.packages, arguments.weights)), arguments.sheet)
        return
    conditions: dict[str, Any] = {
        "prompt": PROMPT,
        "sampling steps": STEPS,
        "found in": len(FOUND_IN),
        "tried on": len(NEW),
        "scales": list(SCALES),
        "weights": weights.checksums(arguments.weights),
    }
    evaluation = Evaluation("python -m conceptlens.evaluation faces", PARTS, conditions)
    evaluation.run(lambda: Faces(arguments.packages, arguments.weights), arguments.only, arguments.json)
