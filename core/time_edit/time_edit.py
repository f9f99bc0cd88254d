"""TIME: a closed-form edit of what a model assumes about a prompt (Orgad, Kawar and Belinkov, arXiv 2303.08084).

TIME replaces every projection W of text to keys or values by the minimiser of (its equations 3 and 4)

    sum_i ||W' c_i - W c*_i||^2 + lambda ||W' - W||_F^2
    =>  W' = (lambda W + sum_i W c*_i c_i^T) (lambda I + sum_i c_i c_i^T)^-1

where c_i are the text states of the source prompt's tokens and c*_i those of the destination prompt's. With the states
as columns of C and C* this is W' = W (I + E), with one and the same

    E = (C* - C) (lambda I + C^T C)^-1 C^T

for every W: an edit is a linear map of the text context, found by one solve, of a rank of at most the number of token
slots whose states differ. `ContextEdit` is that map; on weights it is a LoRA (`core.time_edit.lora`).

A relative lambda holds W' back where ordinary prompts are: with Sigma the covariance of their states (`ordinary`),

    sum_i ||W' c_i - W c*_i||^2 + lambda tr((W' - W) Sigma (W' - W)^T)
    =>  E = (C* - C) C^T (lambda Sigma + C C^T)^-1

and what is preserved exactly adds the condition E p = 0 for its states p (the null space of SPEED, arXiv 2503.07392).
Both are the same solve for other states: with Sigma = L L^T, and Q the orthonormal columns that span L^-1 p,

    T = (I - Q Q^T) L^-1,  E = (C* - C) (lambda I + (T C)^T T C)^-1 (T C)^T T.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from textwrap import shorten
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.linalg import solve_triangular

from ..errors import UserError
from ..model.protocols import Denoiser, Progress, PromptEncoder, PromptStates, check_fits, unseen
from .alignment import Articles, align_sections, check_aligned
from .context_edit import KNOWN_BY, ContextEdit, PromptEdit
from .lora import LoraFactors, check_match, edit_denoiser
from .ordinary import ordinary_covariance

Regularize = Literal["absolute", "relative"]
PreserveMode = Literal["weighted", "exact"]
MARK = re.compile(r"<\|.*?\|>|</?s>|<(?:pad|bos|eos|start_of_turn|end_of_turn)>")  # of CLIP, T5 and language models
PREFIXES = ("A photo of ", "An image of ", "A picture of ")  # the paper's augmentations
TOLERANCE = 3e-3  # of the largest singular value: what preserved states are in directions that they do not fill
PROMPTS_AT_ONCE = 32  # preserved prompts whose states are in memory together: 8 MB for SD 1.x, 20 MB for SDXL


class EditPair(NamedTuple):
    """What a prompt is (`source`) and what it shall mean from now on (`destination`), or `strength` of the way there.

    At a strength of 0 it keeps its meaning.
    """

    source: str
    destination: str
    strength: float = 1.0

    def __str__(self) -> str:
        strength = "" if self.strength == 1 else f", strength {self.strength:g}"
        return f"{self.source} => {self.destination}{strength}"


@dataclass(frozen=True)
class Sight:
    """T (width, width), through which `time_edit` sees states: Sigma's units, and blind for what is preserved.

    T = (I - Q Q^T) L^-1 with `root` L, I where it is None, and `basis` Q (width, n).
    """

    root: Tensor | None
    basis: Tensor

    @classmethod
    def of(cls, covariance: Tensor | None, preserved: Tensor) -> Sight:
        """With Sigma, I without it, and states (n, width) that an edit shall not move, n may be 0.

        They are taken to fill the directions in which they are larger than TOLERANCE of the largest.
        """
        root = None if covariance is None else torch.linalg.cholesky(covariance)
        if not len(preserved):
            return cls(root, torch.zeros(preserved.shape[1], 0, dtype=torch.float64))
        _, values, directions = torch.linalg.svd(preserved.double(), full_matrices=False)
        filled = directions[values > TOLERANCE * values[0]].T
        return cls(root, torch.linalg.qr(filled if root is None else solve_triangular(root, filled, upper=False)).Q)

    def seen(self, states: Tensor) -> Tensor:
        """T c for states c (n, width)."""
        whitened = states if self.root is None else solve_triangular(self.root, states.T, upper=False).T
        return whitened - whitened @ self.basis @ self.basis.T

    def back(self, rows: Tensor) -> Tensor:
        """r T for rows r (n, width)."""
        left = rows - rows @ self.basis @ self.basis.T
        return left if self.root is None else solve_triangular(self.root, left, upper=False, left=False)


def time_edit(states: Tensor, target_states: Tensor, regularization: float, sight: Sight | None = None) -> ContextEdit:
    """TIME's closed form (its equation 4) as a map of the context.

    `states` c_i and `target_states` c*_i are (n, width); `regularization` is lambda > 0; `sight` is T, I without it.
    Computed in float64 with one solve of min(n, width) unknowns:
    (lambda I + C^T C)^-1 C^T = C^T (lambda I + C C^T)^-1. Raises UserError for states that are not finite, and for a
    lambda so small that there is no unique solution.
    """
    states, difference = states.double(), (target_states.double() - states.double())
    if not torch.isfinite(difference).all():
        raise UserError(
            "The text encoder gave values that are not finite numbers; its weights are damaged, or half precision "
            "overflowed: load it again in float32."
        )
    moved = difference.abs().amax(dim=1) > 0  # equal states, such as all before the first new word, add nothing to E
    if not moved.any():
        nothing = torch.zeros(0, states.shape[1], dtype=torch.float64)
        return ContextEdit.from_factors(nothing.T, nothing)
    n, width = states.shape
    states = states if sight is None else sight.seen(states)
    try:
        if n <= width:
            gram = states @ states.T + regularization * torch.eye(n, dtype=torch.float64)
            up, down = difference[moved].T, torch.linalg.solve(gram, states)[moved]
        else:
            covariance = states.T @ states + regularization * torch.eye(width, dtype=torch.float64)
            if moved.sum() < width:
                up, down = difference[moved].T, torch.linalg.solve(covariance, states[moved].T).T
            else:
                product = difference[moved].T @ states[moved]
                up = torch.linalg.solve(covariance, product, left=False)
                down = torch.eye(width, dtype=torch.float64)
    except torch.linalg.LinAlgError as error:
        raise UserError(
            f"With regularization {regularization:g} the edit has no unique solution in double precision; use a larger "
            "one, such as 0.1."
        ) from error
    return ContextEdit.from_factors(up, down if sight is None else sight.back(down))


def triangular_factor(portions: Iterable[Tensor], width: int) -> Tensor:
    """R (at most `width` rows, width), float64, with R^T R = sum_i c_i c_i^T over all rows of `portions` (n, width).

    Preserved states (c* = c) enter equation 4 through that sum alone, so R's rows stand for any number of them: those
    of a QR decomposition that goes on from portion to portion. States that are no more than `width` stay as they are.
    """
    rows = torch.zeros(0, width, dtype=torch.float64)
    for portion in portions:
        rows = torch.cat([rows, portion.double()])
        if len(rows) > width:
            rows = torch.linalg.qr(rows, mode="r").R
    return rows


def augment_prompt(prompt: str) -> list[str]:
    """The prompt itself and the prompt after each of the paper's prefixes."""
    base = "a" + prompt[1:] if prompt.startswith("A") else prompt
    return [prompt, *(prefix + base for prefix in PREFIXES)]


def fit_time_edit(
    encoder: PromptEncoder,
    pairs: Sequence[EditPair],
    *,
    regularization: float = 0.1,
    augment: bool = True,
    preserve: Sequence[str] = (),
    rank: int = 0,
    regularize: Regularize = "absolute",
    preserve_mode: PreserveMode = "weighted",
    cache: Path | None = None,
    pooled: bool = False,
    progress: Progress = unseen,
) -> ContextEdit:
    """The edit after which each pair's source prompt means its destination prompt, all pairs in one solve.

    `regularization` is TIME's lambda, by `regularize` "relative" in units of the covariance of ordinary prompts'
    states, which is kept in the folder `cache`; `augment` edits each pair after the paper's prefixes as well
    (`augment_prompt`). `preserve` are prompts that shall keep their meaning (Unified Concept Editing, arXiv
    2308.14761): states with c* = c, which hold the model in place through the inverse, or, by `preserve_mode` "exact",
    are not moved at all. They may be thousands; `progress` counts them, each text once. `pooled`: the edit of the
    pooled text, one state a prompt, instead of the context's. `rank` = 0 keeps the edit
    exact, another value its best approximation of that rank on the prompts' states; `made_by["energy_kept"]` says how
    good that is, and `made_by["reached"]` which share of the wanted change the edit makes. Raises UserError for empty
    prompts, lambda <= 0, a rank below 0, prompts beyond 77 tokens, and destinations without the source's words.
    """
    if not pairs:
        raise UserError("There is nothing to edit: give at least one source prompt with its destination.")
    if not (regularization > 0 and math.isfinite(regularization)):
        raise UserError(f"regularization is {regularization:g}; it must be above 0 and finite, the paper uses 0.1.")
    if rank < 0:
        raise UserError(f"rank is {rank}; give 0 for the exact edit or a rank above it.")
    sources, destinations, strengths = [], [], []
    articles = Articles.of(encoder)
    for pair in pairs:
        forms = (augment_prompt(p) if augment else [p] for p in (pair.source, pair.destination))
        for source, destination in zip(*forms, strict=True):
            _check_usable(encoder, source)
            _check_usable(encoder, destination)
            check_aligned(encoder, source, destination, articles)
            sources.append(source)
            destinations.append(destination)
            strengths.append(pair.strength)
    for prompt in preserve:
        _check_usable(encoder, prompt)
    prompts = list(dict.fromkeys([*sources, *destinations]))
    given = encoder.pooled if pooled else encoder
    if given is None:
        raise UserError("The text encoder gives no pooled text; turn edit_pooled off, or load CLIP beside it.")
    states = dict(zip(prompts, given.encode(prompts), strict=True))
    kept = triangular_factor(_preserved_states(given, preserve, progress), given.width)
    columns = torch.cat([states[source].double() for source in sources])
    targets = []
    for source, destination, strength in zip(sources, destinations, strengths, strict=True):
        one, other = states[source].double(), states[destination].double()
        slots = [0]
        if not pooled:
            sections = encoder.sections(source), encoder.sections(destination)
            slots = align_sections(*sections, articles, (len(one), len(other)))
        targets.append(torch.lerp(one, other[slots], strength))
    wanted = torch.cat(targets)
    exact = kept if preserve_mode == "exact" else kept[:0]
    weighted = kept[len(exact) :]
    changes = not torch.equal(columns, wanted)
    covariance = ordinary_covariance(given, cache) if changes and regularize == "relative" else None
    sight = Sight.of(covariance, exact) if covariance is not None or len(exact) else None
    edit = time_edit(torch.cat([columns, weighted]), torch.cat([wanted, weighted]), regularization, sight)
    edit, energy = edit.truncated(rank or edit.rank, torch.cat([columns, weighted]))
    made_by = {
        "method": "TIME",
        "pairs": [list(pair) for pair in pairs],
        "regularization": regularization,
        "augment": augment,
        "preserve": list(preserve),
        "regularize": regularize,
        "preserve_mode": preserve_mode,
        "energy_kept": energy,
        "reached": _reached(edit, columns, wanted),
        "start": _start([states[prompt] for prompt in prompts]),
    }
    return ContextEdit(edit.left, edit.singular_values, edit.right, made_by)


def _reached(edit: ContextEdit, states: Tensor, wanted: Tensor) -> float:
    """The share of the wanted change of states (n, width) that the edit makes, in squared norm: 1 is all of it."""
    change = (wanted - states).square().sum()
    return 1.0 - float((wanted - edit(states)).square().sum() / change) if change > 0 else 1.0


def _start(states: Sequence[Tensor]) -> list[float]:
    """Numbers of the state of the first slot, where that is the same for all prompts; empty for other encoders."""
    first, *others = (each[0, :KNOWN_BY] for each in states)
    return first.tolist() if all(torch.allclose(first, other, rtol=1e-3, atol=1e-5) for other in others) else []


def _preserved_states(encoder: PromptStates, prompts: Sequence[str], progress: Progress) -> Iterator[Tensor]:
    """The states of some prompts at once; of one that is given k times, once and times the square root of k."""
    counts = Counter(prompts)
    texts = list(counts)
    for first in range(0, len(texts), PROMPTS_AT_ONCE):
        some = texts[first : first + PROMPTS_AT_ONCE]
        weighed = zip(some, encoder.encode(some), strict=True)
        yield torch.cat([states.double() * math.sqrt(counts[text]) for text, states in weighed])
        progress(first + len(some), len(texts))


class ModelEdit(NamedTuple):
    """An edit of a model: the maps it is, factors by module path, and a report for its user."""

    edit: PromptEdit
    factors: dict[str, LoraFactors]
    report: str


def edit_model(
    encoder: PromptEncoder,
    denoiser: Denoiser,
    pairs: Sequence[EditPair],
    *,
    regularization: float = 0.1,
    edit_keys: bool = True,
    augment: bool = True,
    strength: float = 1.0,
    preserve: Sequence[str] = (),
    rank: int = 0,
    regularize: Regularize = "absolute",
    preserve_mode: PreserveMode = "weighted",
    edit_pooled: bool = False,
    cache: Path | None = None,
    progress: Progress = unseen,
) -> ModelEdit:
    """Fits TIME's edit (`fit_time_edit`) and applies it to the weights of `denoiser` as they are now.

    `strength` scales the edit; `edit_keys`: of the projections to keys as well as of those to values; `edit_pooled`: of
    the layer that reads a pooled text too, by an edit of its own, where model and encoder have one. `progress` counts
    preserved prompts, then projections. The model itself is not touched. Raises UserError for a text encoder of another
    family, for a strength that is not finite, and as `fit_time_edit` and `edit_denoiser` do.
    """
    check_match(encoder, denoiser)
    if not math.isfinite(strength):
        raise UserError(f"strength is {strength:g}; it must be a finite number, 1 applies the edit as fitted.")
    prompts, layers = len(set(preserve)), len(denoiser.text_layers(edit_keys))
    settings: dict[str, Any] = {"regularization": regularization, "augment": augment, "preserve": preserve}
    settings |= {"rank": rank, "regularize": regularize, "preserve_mode": preserve_mode, "cache": cache}
    edit = fit_time_edit(encoder, pairs, **settings, progress=lambda done, _: progress(done, prompts + layers)).scaled(
        strength
    )
    factors = {}
    if edit.rank:
        factors = edit_denoiser(
            edit, denoiser, keys=edit_keys, progress=lambda done, _: progress(prompts + done, prompts + layers)
        )
    pooled = None
    if edit_pooled and denoiser.pooled is not None and encoder.pooled is not None:
        check_match(encoder.pooled, denoiser.pooled)
        pooled = fit_time_edit(
            encoder, pairs, **settings, pooled=True, progress=lambda *_: progress(prompts + layers, prompts + layers)
        ).scaled(strength)
        if pooled.rank:
            factors |= edit_denoiser(pooled, denoiser.pooled)
    edit = replace(edit, made_by={**edit.made_by, "edit_keys": edit_keys, "normed": denoiser.normed})
    lines = [str(pair) for pair in pairs]
    if factors:
        lines += _told(edit, pooled, factors, denoiser, strength)
    else:
        lines.append("Nothing is changed: the strength is 0 or the destinations mean what the sources mean already")
    return ModelEdit(PromptEdit(edit, pooled), factors, "\n".join(lines))


def _told(
    edit: ContextEdit,
    pooled: ContextEdit | None,
    factors: Mapping[str, LoraFactors],
    denoiser: Denoiser,
    strength: float,
) -> Iterator[str]:
    """What was edited, and how exactly, in lines for its user."""
    made_by, family = edit.made_by, denoiser.family
    own = [name for name in factors if denoiser.pooled is None or name not in denoiser.pooled.text_layers()]
    if own:
        scaled = "" if strength == 1 else f", strength {strength:g}"
        relative = " relative to ordinary prompts" if made_by["regularize"] == "relative" else ""
        yield (
            f"{'1 layer' if len(own) == 1 else f'{len(own)} layers'} of {family} edited at rank "
            f"{factors[own[0]].down.shape[0]} of {edit.width}, {made_by['energy_kept']:.2%} of the edit's energy on "
            f"its prompts kept, lambda {made_by['regularization']:g}{relative}{scaled}"
        )
        if made_by["preserve"] and made_by["preserve_mode"] == "exact":
            yield f"What is preserved exactly leaves {made_by['reached']:.0%} of the change that was asked for"
    if pooled is not None and pooled.rank:
        yield (
            f"The pooled text is edited by a map of its own, at rank {pooled.rank} of {pooled.width}: "
            f"{pooled.made_by['reached']:.0%} of the change that was asked for"
        )
    elif pooled is None and denoiser.pooled is not None:
        yield f"{family} also reads a pooled text, which is not edited and still says the source"


def _check_usable(encoder: PromptEncoder, prompt: str) -> None:
    """Raises UserError for a prompt that is empty, contains an encoder's own marks or is too long."""
    sections = encoder.sections(prompt)
    if [each.tokens for each in sections] == [each.tokens for each in encoder.sections("")]:
        raise UserError("A prompt is empty; write both the source and the destination.")
    if mark := MARK.search(prompt):
        raise UserError(f'The prompt "{shorten(prompt, 80)}" contains the mark {mark[0]}; write plain words.')
    for each in sections:
        if each.slots is not None:
            check_fits(encoder, prompt, each.tokens)


def parse_edits(text: str) -> list[EditPair]:
    """The pairs of a text with one `source => destination` a line; blank lines are skipped.

    Raises UserError with the number of a line that is anything else.
    """
    pairs = []
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            source, arrow, destination = (part.strip() for part in line.partition("=>"))
            if not (source and arrow and destination):
                raise UserError(f'Line {number} of the edits is "{line.strip()}"; write it as source => destination.')
            pairs.append(EditPair(source, destination))
    return pairs
