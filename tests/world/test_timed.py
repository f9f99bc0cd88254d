"""EmojiWorld's own sets of edits are true in EmojiWorld."""

from __future__ import annotations

import csv
from itertools import pairwise

from conceptlens.evaluation.timed_set import TimedPair, Wording, read_pairs
from conceptlens.world.emoji.captions import FLAT_TEMPLATES, TEMPLATES, with_article
from conceptlens.world.emoji.timed import TEST, VALIDATION, edits
from conceptlens.world.emoji.truth import Truth

TRUTH = Truth.load()
PAIRS = {file: read_pairs(file) for file in (TEST, VALIDATION)}
EVERY = [pair for pairs in PAIRS.values() for pair in pairs]


def known() -> set[str]:
    """All prompts that EmojiWorld was trained with."""
    words = [*TRUTH.default_colours, *TRUTH.professions]
    words += [f"{colour} {name}" for name in TRUTH.default_colours for colour in TRUTH.colours_of(name)]
    words += [f"{sex} {name}" for name in TRUTH.professions for sex in ("male", "female")]
    return {template.format(with_article(word)) for word in words for template in (*TEMPLATES, *FLAT_TEMPLATES)}


def test_the_files_are_what_the_truth_gives() -> None:
    for file, rows in edits(TRUTH).items():
        with file.open(encoding="utf-8", newline="") as lines:
            assert list(csv.DictReader(lines)) == rows


def test_every_prompt_is_one_that_emoji_world_knows() -> None:
    prompts = {wording.prompt for pair in EVERY for wording in pair.wordings}
    changed = {wording.changed for pair in EVERY for wording in pair.wordings[:6]}
    assert not (prompts | changed) - known()


def test_no_edit_is_tested_that_settings_were_chosen_by() -> None:
    test, validation = ({pair.edit.source for pair in PAIRS[file]} for file in (TEST, VALIDATION))
    assert len(test) == len(PAIRS[TEST]) >= 40
    assert not test & validation


def test_what_shall_change_does_and_what_shall_not_would_be_wrong() -> None:
    """The destination is no truth about the plain source; the wrong wording none about the prompt."""
    for pair in EVERY:
        for wording in (Wording(pair.edit.source, pair.edit.destination), *pair.negatives):
            truth, told = default_of(wording.prompt), default_of(wording.changed)
            assert None not in (truth, told)
            assert truth != told
        assert len(set(pair.negatives)) == len(pair.negatives)
        assert all(prefixes_differ(pair))


def default_of(prompt: str) -> str | None:
    """The colour or the more frequent sex of what a bare prompt names."""
    _, *words = prompt.split()
    if len(words) == 2:
        return words[0]
    if words[0] in TRUTH.professions:
        return "male" if TRUTH.professions[words[0]]["share_of_men"] > 0.5 else "female"
    return TRUTH.default_colours.get(words[0])


def prefixes_differ(pair: TimedPair) -> list[bool]:
    prompts = sorted(wording.prompt for wording in pair.wordings)
    return [one != other for one, other in pairwise(prompts)]
