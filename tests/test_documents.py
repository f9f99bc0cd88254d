"""What the documents say: figures are those of the result files, links lead somewhere."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path

import pytest
from conceptlens.tests.conftest import ROOT

# document and file of evaluation/results: text of the document, # for the figure and * for a cell, and the measure
FIGURES = {
    ("README.md", "bench"): {
        "32 projections | # x |": "TIME edit, SD 1.5: published / ours, time",
        "32 projections | * | # s |": "TIME edit, SD 1.5: ours, from text states to factors",
        "32 projections | * | * | # MB more": "TIME edit, SD 1.5: peak extra memory",
        "from 4 of them) | # x |": "TIME edit, SDXL: published / ours, time",
        "from 4 of them) | * | # s |": "TIME edit, SDXL: ours, from text states to factors",
        "from 4 of them) | * | * | # MB more": "TIME edit, SDXL: peak extra memory",
        "the text entry of Flux.1; of Z-Image | # x;": "TIME edit, Flux.1's text entry: published / ours, time",
        "that words name, EmojiWorld; one that is fitted | # x;": "explanation of carnival: published / ours, time",
        "features of the vocabulary, EmojiWorld | # x |": "vocabulary, EmojiWorld: published / ours, time",
        "Conceptor's fit, EmojiWorld | # x |": "fit step, EmojiWorld: published / ours, time",
        "Conceptor's fit, EmojiWorld | * | # s |": "fit step, EmojiWorld: ours",
        "over 30), EmojiWorld | # x |": "single picture, EmojiWorld: published / ours, pictures made",
        "at one noise level, EmojiWorld | # x |": (
            "h-space Jacobian, EmojiWorld: published / ours, time to the same accuracy"
        ),
        "at one noise level, EmojiWorld | * | # s |": "h-space Jacobian, EmojiWorld: ours",
        "direction / without one | # x |": "h-space direction, EmojiWorld: sampling with / without, time",
        "SD 1.5's bottleneck | * | # s |": "h-space PCA, 500 samples x 10 levels of SD 1.5: time",
        "SD 1.5's bottleneck | * | * | # MB with": (
            "h-space PCA, 500 samples x 10 levels of SD 1.5: peak memory with the samples"
        ),
    },
    ("README.md", "timed_relative"): {"see what was wanted in # %": "timed: efficacy"},
    ("docs/evaluating.md", "timed_relative"): {
        "0.1 relative | # (": "timed: efficacy",
        "0.1 relative | * | # (": "timed: generality",
        "0.1 relative | * | * | # (": "timed: specificity",
    },
    ("docs/evaluating.md", "timed_transformer"): {
        "| the transformer | # (": "timed: efficacy",
        "| the transformer | * | # (": "timed: generality",
        "| the transformer | * | * | # (": "timed: specificity",
        "| the transformer | * | * | * | # |": "timed: harmonic",
    },
    ("docs/evaluating.md", "timed_transformer_no_pooled"): {
        "without the pooled text's edit | # (": "timed: efficacy",
        "without the pooled text's edit | * | # (": "timed: generality",
        "without the pooled text's edit | * | * | # (": "timed: specificity",
        "without the pooled text's edit | * | * | * | # |": "timed: harmonic",
    },
    ("README.md", "timed_transformer_no_pooled"): {"without it # % of 20": "timed: efficacy"},
    ("README.md", "timed_transformer"): {"pictures instead of # %": "timed: efficacy"},
    ("docs/evaluating.md", "timed_transformer_strength"): {
        "transformer, strength 1.5 | # (": "timed: efficacy",
        "transformer, strength 1.5 | * | # (": "timed: generality",
        "transformer, strength 1.5 | * | * | # (": "timed: specificity",
        "transformer, strength 1.5 | * | * | * | # |": "timed: harmonic",
    },
    ("docs/evaluating.md", "timed_part"): {
        "the UNet, on the same edits | # (": "timed: efficacy",
        "the UNet, on the same edits | * | # (": "timed: generality",
        "the UNet, on the same edits | * | * | # (": "timed: specificity",
        "the UNet, on the same edits | * | * | * | # |": "timed: harmonic",
    },
    ("world/emoji/README.md", "emoji_world_transformer"): {
        "plain names: right emoji; default hue | # %;": "transformer, names: right emoji, top 1",
        "right emoji; default hue | 100 %; # %": "transformer, names: default hue",
        "| trained pairs show the hue | # %": "transformer, colours: trained pairs, hue",
        "| held-out pairs show the hue; the object | # %;": "transformer, colours: held-out pairs, hue",
        "show the hue; the object | 92.8 %; # %": "transformer, colours: held-out pairs, object",
        "pictures that show an exemplar | # %": "transformer, keywords: one of the exemplars",
        "of which each exemplar of 20 % or more appears | # %": (
            "transformer, keywords: every exemplar of 20 % or more appears"
        ),
    },
    ("docs/evaluating.md", "timed_exact"): {
        "prompts preserved exactly | # (": "timed: efficacy",
        "the same, prompts preserved exactly | * | * | # (": "timed: specificity",
    },
    ("README.md", "concepts"): {
        "20 such concepts it finds # % of": "keywords: frequent exemplars among the top 10",
    },
    ("README.md", "concepts_published"): {
        "the published fit # %": "keywords: frequent exemplars among the top 10, published fit",
    },
    ("README.md", "pictures"): {
        "In # % of 88 pictures": "single pictures: a remaining word draws the exemplar shown",
    },
    ("docs/methods.md", "bench"): {"Published / ours: # times": "TIME edit, SD 1.5: published / ours, time"},
    ("docs/methods.md", "concepts"): {
        "among the ten largest words | # % |": "keywords: frequent exemplars among the top 10",
        "among the ten largest words | * | # % |": (
            "keywords: frequent exemplars among the top 10 (settings reported on)"
        ),
        "nothing to do with the concept | # |": "keywords: unrelated words among the top 10",
        "nothing to do with the concept | * | # |": "keywords: unrelated words among the top 10 (settings reported on)",
        "what removal costs | # |": "faithfulness: rank correlation of coefficient and removal cost",
        "ten largest words of two seeds in common | # %": "stability: top 10 of two seeds in common",
        "what the word's own show | # %": "reconstruction: top 50, of what the word's own pictures reach",
        "of its ten largest words | # %": "reconstruction: top 10, of what the word's own pictures reach",
        "rises with its coefficient | # %": "manipulation: concepts in which a share rises with its coefficient",
        "where its coefficient is 0 | # %": "manipulation: share of an exemplar whose coefficient is 0",
        "name among the five largest words | # %": "pictures of an emoji: its name among the top 5",
        "evaluations of the UNet: mean; most | #;": "cost: evaluations of the UNet",
        "that it says so of, of 8 | # %": "keywords never trained: no explanation",
    },
    ("docs/methods.md", "concepts_transformer"): {
        "the same defaults find # % of": "transformer, keywords: frequent exemplars among the top 10",
        "beside # unrelated ones": "transformer, keywords: unrelated words among the top 10",
        "for # evaluations in the mean": "transformer, cost: evaluations of the UNet",
        "in the mean and # at most": "transformer, cost: evaluations of the UNet, at most",
        "for # % of five pairs": "transformer, mixes of two objects: pairs in which the share rises",
        "draw neither object (# % of": "transformer, mixes of the word's state: pairs in which the share rises",
        "in the encoder (# %), but": "transformer, mixes of all slots' states: pairs in which the share rises",
    },
    ("docs/methods.md", "audit"): {
        "the intervals hold # % of 52": "planted shares in the interval",
        "of 8 objects they hold # %": "objects: colours: planted shares in the interval",
        "shares of men # %: mechanics": "professions: men: planted shares in the interval",
        "of the professions is # points": "professions: men: mean error",
        "points, beside # for colours": "objects: colours: mean error",
    },
    ("docs/methods.md", "concepts_thorough"): {
        "exemplars are found in # %": "keywords: frequent exemplars among the top 10",
        "in 88 % (# % of the other half)": "keywords: frequent exemplars among the top 10 (settings reported on)",
        "beside # unrelated words": "keywords: unrelated words among the top 10",
    },
    ("docs/methods.md", "concepts_published"): {
        "among the ten largest words | * | * | # % |": "keywords: frequent exemplars among the top 10, published fit",
        "nothing to do with the concept | * | * | # |": "keywords: unrelated words among the top 10, published fit",
    },
    ("docs/methods.md", "bias"): {
        "they were planted: rank correlation **#** (target": "mix of both words: rank correlation with planted shares",
        "What is drawn does so with #:": "pictures: rank correlation of drawn with planted shares",
        "points of a half (# %;": "TIME edits: share near a half",
    },
    ("world/emoji/README.md", "hspace"): {
        "in 70 % or more | # |": "attributes moved, class kept",
        "by a random direction | # |": "attributes that a random direction moves, class kept",
        "over five scales | # % |": "strength: attributes monotone over five scales",
        "found with 20 | # % |": "direction of 10 steps in 20, of the effect of one of 20",
        "(median of 5) | # % |": "disentangled: side effect, of that before",
    },
    ("docs/methods.md", "pictures"): {
        "draws what the picture shows | # %": "single pictures: a remaining word draws the exemplar shown",
        "largest remaining word draws it | # %": "single pictures: the largest remaining word draws it",
        "(50 at most) | # |": "single pictures: words that remain",
        "published search (30 pictures) | # |": "single pictures: pictures made, of those of the published search",
    },
    ("docs/compatibility.md", "robustness"): {"200 right graphs | # % ran": "robustness: right graphs that ran"},
    ("docs/scale.md", "bench"): {
        "`quick` is # times as fast": "explanation of carnival: published / ours, time",
        "and # times for": "explanation of penguin: published / ours, time",
        ": # times faster; kept on disk": "vocabulary, EmojiWorld: published / ours, time",
        "not once a draw: # times faster": "fit step, EmojiWorld: published / ours, time",
        "32 products, # s on two cores": "TIME edit, SD 1.5: ours, from text states to factors",
    },
    **{
        ("docs/evaluating.md", f"timed_{file}"): {
            f"| {row} | # ": "timed: efficacy",
            f"| {row} | * | # ": "timed: generality",
            f"| {row} | * | * | # ": "timed: specificity",
            f"| {row} | * | * | * | # |": "timed: harmonic",
        }
        for row, file in (
            ("the model as it is", "none"),
            ("the edit said in words", "words"),
            ("TIME", "time"),
            ("TIME, preserved prompts", "preserve"),
        )
    },
}
DOCUMENTS = sorted(file for file in ROOT.glob("[!.]*/**/*.md")) + sorted(ROOT.glob("*.md"))


@cache
def measured(file: str) -> dict[str, float]:
    """The measures of a file of `evaluation/results`."""
    rows = json.loads((ROOT / f"evaluation/results/{file}.json").read_text(encoding="utf-8"))["measures"]
    return {row["name"]: row["value"] for row in rows}


@cache
def text_of(document: Path) -> str:
    """A document with its line breaks as blanks."""
    return re.sub(r"\s+", " ", document.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("document", "file", "said", "measure"),
    [(*place, *figure) for place, figures in FIGURES.items() for figure in figures.items()],
)
def test_a_figure_is_the_measured_one(document: str, file: str, said: str, measure: str) -> None:
    pattern = re.escape(said).replace(r"\#", r"(\d+(?:\.\d+)?)").replace(r"\ \*\ ", "[^|]*")
    (figure,) = re.findall(pattern, text_of(ROOT / document))
    assert figure == f"{measured(file)[measure]:.{len(figure.partition('.')[2])}f}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: str(document.relative_to(ROOT)))
def test_links_of_a_document_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(document)):
        if re.match("https?:", target):
            continue
        path, _, anchor = target.partition("#")
        file = document.parent / path if path else document
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {slug(heading) for heading in headings}, target


def slug(heading: str) -> str:
    """The anchor under which Markdown pages are linked to."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
