"""Mixes: their order, parts, text, files and an artist's changes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conceptlens.core.conceptor.mixture import MixEdits, TokenMix, mix_from_text
from conceptlens.core.errors import UserError
from conceptlens.core.model.text_tower import WordTable
from conceptlens.tests.core.toy import ToyEncoder
from hypothesis import given
from hypothesis import strategies as st

NUMBERS = st.floats(-10, 10, allow_nan=False)


@pytest.fixture
def encoder() -> ToyEncoder:
    encoder = ToyEncoder(8)
    encoder.tokenize("dog snow wolf cat")
    return encoder


@pytest.fixture
def mix(encoder: ToyEncoder) -> TokenMix:
    return mix_from_text(encoder, "dog: 0.6, snow: 0.2\nwolf: 0.9", "SD 1.x")


def test_the_largest_coefficient_comes_first(mix: TokenMix) -> None:
    assert mix.texts == ("wolf", "dog", "snow")
    assert mix.coefficients == (0.9, 0.6, 0.2)
    assert mix.shares() == pytest.approx([0.9 / 1.7, 0.6 / 1.7, 0.2 / 1.7])


def test_text_form_comes_back(mix: TokenMix, encoder: ToyEncoder) -> None:
    assert mix_from_text(encoder, mix.to_text(), "SD 1.x") == mix
    assert mix_from_text(encoder, f"#{mix.ids[0]}: 2", "SD 1.x").texts == ("wolf",)
    assert mix_from_text(encoder, "dog", "SD 1.x").coefficients == (1.0,)
    assert mix_from_text(encoder, "6: 1, nan: 0.5", "SD 1.x").texts == ("6", "nan")  # words too


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        (" , \n", "empty"),
        ("dog: much", "no number"),
        ("dog snow: 1", 'is 2 tokens of this model ("dog", "snow")'),
        ("dog: nan", 'coefficient of "dog" is nan'),
        ("dog: 1, dog: 2", '"dog" is in the mix more than once'),
        ("dog: 0,6, snow: 0,2", '"6" is a number alone; write decimals with a point (dog: 0.6)'),
        ("dog\n.5", "write decimals with a point"),
        ("-2e-1", "write decimals with a point"),
    ],
)
def test_unusable_text_is_one_sentence(encoder: ToyEncoder, text: str, says: str) -> None:
    with pytest.raises(UserError) as error:
        mix_from_text(encoder, text, "SD 1.x")
    assert says in str(error.value)


def scaled(mix: TokenMix, factor: float) -> TokenMix:
    return replace(mix, coefficients=tuple(factor * value for value in mix.coefficients))


def test_parts_of_a_mix(mix: TokenMix) -> None:
    assert mix.top(2).texts == ("wolf", "dog")
    assert mix.without([mix.ids[0]]).texts == ("dog", "snow")


@given(st.dictionaries(st.integers(0, 49407), NUMBERS, max_size=20))
def test_files_hold_what_was_saved(tmp_path_factory: pytest.TempPathFactory, values: dict[int, float]) -> None:
    file = tmp_path_factory.mktemp("mix") / "mix.safetensors"
    mix = TokenMix.of(list(values), [f"token {i}" for i in values], list(values.values()), concept="dog", steps=3)
    mix.save(file)
    loaded = TokenMix.load(file)
    assert loaded == mix
    assert loaded.made_by == {"concept": "dog", "steps": 3}


def test_damaged_files_are_named(mix: TokenMix, tmp_path: Path) -> None:
    file = tmp_path / "mix.safetensors"
    mix.save(file)
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(UserError, match=r"mix\.safetensors is damaged"):
        TokenMix.load(file)


def test_pseudo_token_is_the_normed_sum(mix: TokenMix) -> None:
    tables = [WordTable(torch.randn(10, 8)), WordTable(torch.randn(10, 6))]
    for vector, table in zip(mix.pseudo_token(tables), tables, strict=True):
        total = torch.tensor(mix.coefficients) @ table.rows[list(mix.ids)]
        torch.testing.assert_close(vector[0], total / total.norm() * table.rows.norm(dim=1).mean())
        for factor in (7.0, 1e39, 1e-39):  # beyond float32 too: only ratios count
            torch.testing.assert_close(scaled(mix, factor).pseudo_token([table])[0], vector)
    for nothing in (scaled(mix, 0.0), mix.top(0)):
        with pytest.raises(UserError, match="empty or its coefficients cancel"):
            nothing.pseudo_token(tables)


def test_edits_are_applied_by_token_id(mix: TokenMix, encoder: ToyEncoder) -> None:
    wolf, dog, snow = mix.ids
    cat = encoder.tokenize("cat")[1]
    edits = MixEdits.parse(
        f'{{"v": 1, "set": {{"{dog}": 2, "{cat + 1}": 9}}, "off": [{wolf}], "add": {{"{cat}": 1}}, "top": 2}}', 400
    )
    edited = edits.apply(mix, encoder)
    assert edited.texts == ("dog", "cat")
    assert edited.coefficients == (2.0, 1.0)
    assert MixEdits.parse("", 400).apply(mix, encoder) == mix
    assert edits.apply(TokenMix.of([snow], ["snow"], [1.0]), encoder).texts == ("snow", "cat")


def test_of_equal_coefficients_the_first_stay(mix: TokenMix, encoder: ToyEncoder) -> None:
    """Those of the mix in its order, then added ones by their ids, as the editor shows them."""
    cat, bird = encoder.tokenize("cat bird")[1:-1]
    added = f'{{"v": 1, "set": {{"{mix.ids[0]}": 0.2, "{mix.ids[1]}": 0.2}}, "add": {{"{bird}": 0.2, "{cat}": 0.2}}'
    edited = MixEdits.parse(added + ', "top": 4}', 400).apply(mix, encoder)
    assert edited.texts == ("wolf", "dog", "snow", "cat")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "can't be read"),
        ("[]", "not an object of version 1"),
        ('{"v": 2}', "not an object of version 1"),
        ('{"v": 1, "sett": {}}', 'an entry "sett"'),
        ('{"v": 1, "set": {"5": "x"}}', "x is no finite number"),
        ('{"v": 1, "set": {"5": NaN}}', "nan is no finite number"),
        ('{"v": 1, "set": {"dog": 1}}', "can't be read"),
        ('{"v": 1, "add": {"400": 1}}', "no token 400"),
        ('{"v": 1, "off": [-1]}', "no token -1"),
        ('{"v": 1, "top": 0}', 'its "top" is 0'),
        ('{"v": 1, "top": true}', 'its "top" is True'),
        ('{"v": 1, "off": "12"}', "12 is no list"),
        ('{"v": 1, "off": [1.7]}', "1.7 is no token"),
        ('{"v": 1, "off": [Infinity]}', "inf is no token"),
        (f'{{"v": 1, "set": {{"5": {10**400}}}}}', "can't be read"),
        ('{"v": ' + "[" * 100_000, "can't be read"),
    ],
)
def test_unreadable_edits_are_refused(text: str, says: str) -> None:
    with pytest.raises(UserError) as error:
        MixEdits.parse(text, 400)
    assert says in str(error.value)


def test_intervals_are_of_coefficients_as_they_were_found() -> None:
    found = TokenMix.of([7, 8, 9], ["a", "b", "c"], [0.5, 0.3, 0.2], interval={"7": [0.4, 0.6], "8": [0.0, 0.4]})
    assert found.intervals() == {"7": (0.4, 0.6), "8": (0.0, 0.4)}
    changed = TokenMix.of([7, 8], ["a", "b"], [0.9, 0.3], **found.made_by)
    assert changed.intervals() == {"8": (0.0, 0.4)}
    assert TokenMix.of([7], ["a"], [1.0]).intervals() == {}
    strange = TokenMix.of([7, 8], ["a", "b"], [0.5, 0.3], interval={"7": "x", "8": [0.1]})
    assert strange.intervals() == {}
