"""Balance between groups of words: measured, set to a target, and counted in pictures."""

from __future__ import annotations

import pytest
import torch
from conceptlens.core.conceptor.bias import balance, balanced, nearness, pairs_in, word_groups, word_pair
from conceptlens.core.conceptor.mixture import TokenMix
from conceptlens.core.conceptor.shares import Share, picture_share
from conceptlens.core.errors import UserError
from conceptlens.core.model.text_tower import WordTable
from conceptlens.core.time_edit.strength import edits_for_share, reach_share, slot_of
from conceptlens.core.time_edit.time_edit import EditPair
from conceptlens.tests.core.toy import ToyEncoder
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

MIX = TokenMix.of(
    [1, 2, 3, 4, 5, 6],
    ["wrench", "Man", "he", "woman", "young", "old"],
    [0.9, 0.6, 0.2, 0.1, 0.3, 0.1],
    family="SD 1.x",
)


def test_balance_is_the_share_of_the_first_groups_coefficients() -> None:
    gender, age = pairs_in(MIX, word_groups("man, male, he\nyoung", "woman, female\nold"))
    assert gender.name == "man / woman"
    assert gender.ids == ({2, 3}, {4})
    assert balance(MIX, gender) == pytest.approx(0.8 / 0.9)
    assert balance(MIX, age) == pytest.approx(0.75)


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_balanced_mix_has_the_target_and_else_stays_as_it_is(target: float, strength: float) -> None:
    pairs = pairs_in(MIX, word_groups("man, he\nyoung", "woman\nold"))
    found = balanced(MIX, pairs, target, strength)
    values, before = (dict(zip(mix.ids, mix.coefficients, strict=True)) for mix in (found, MIX))
    for pair in pairs:
        old = balance(MIX, pair)
        assert balance(found, pair) == pytest.approx(old + strength * (target - old), abs=1e-9)
        tokens = pair.ids[0] | pair.ids[1]
        assert sum(values[token] for token in tokens) == pytest.approx(sum(before[token] for token in tokens))
    assert values[1] == 0.9
    assert values[2] == pytest.approx(3 * values[3])  # inside a group the ratios stay
    assert dict(zip(found.ids, found.texts, strict=True)) == dict(zip(MIX.ids, MIX.texts, strict=True))
    assert found.made_by == MIX.made_by


def test_a_group_of_coefficients_0_is_filled_evenly() -> None:
    mix = TokenMix.of([1, 2, 3], ["man", "woman", "girl"], [1.0, 0.0, 0.0])
    found = balanced(mix, pairs_in(mix, word_groups("man", "woman, girl")), 0.5)
    assert dict(zip(found.ids, found.coefficients, strict=True)) == {1: 0.5, 2: 0.25, 3: 0.25}


def test_no_strength_changes_nothing() -> None:
    """Negative coefficients neither, which count as 0 as soon as there is a balance."""
    mix = TokenMix.of([1, 2, 3], ["man", "he", "woman"], [1.0, -0.5, 0.5])
    pairs = pairs_in(mix, word_groups("man, he", "woman"))
    assert balanced(mix, pairs, 0.5, 0.0) == mix
    assert min(balanced(mix, pairs, 0.5, 0.1).coefficients) >= 0


def test_a_word_and_a_beginning_of_the_same_letters_belong_to_the_same_group() -> None:
    mix = TokenMix.of([1, 2, 3], ["man", "man", "woman"], [0.9, 0.1, 1.0])
    (pair,) = pairs_in(mix, word_groups("man", "woman"))
    assert pair.ids == ({1, 2}, {3})
    assert balance(mix, pair) == pytest.approx(0.5)


def test_groups_are_widened_by_near_tokens_but_not_by_those_near_to_both() -> None:
    encoder = ToyEncoder(3)
    man, woman, guy, lady, person = (encoder.tokenize(word)[1] for word in ("man", "woman", "guy", "lady", "person"))
    table = torch.zeros(max(man, woman, guy, lady, person) + 1, 3)
    for token, vector in ((man, [1, 0, 0]), (guy, [0.9, 0.1, 0]), (woman, [0, 1, 0]), (lady, [0.1, 0.9, 0])):
        table[token] = torch.tensor(vector)
    table[person] = torch.tensor([0.7, 0.7, 0.1])
    mix = TokenMix.of([man, woman, guy, lady, person], ["man", "woman", "guy", "lady", "person"], [1.0] * 5)
    near = nearness(encoder, WordTable(table))
    (pair,) = pairs_in(mix, word_groups("man", "woman"), near, mix.ids, 2)
    assert pair.ids == ({man, guy}, {woman, lady})
    with pytest.raises(UserError, match="whose nearest words are guy, person"):
        pairs_in(mix.without([man]), word_groups("man", "woman"), near)


@pytest.mark.parametrize(
    ("group_a", "group_b", "says"),
    [
        ("", "woman", "has no words"),
        (" , ", "woman", "has no word"),
        ("man", " , ", "has no word"),
        ("man\nyoung", "woman", "2 lines and group_b 1"),
        ("man, woman", "Woman", '"woman" is in both groups'),
        ("king", "woman", "None of king is in the mix, whose largest words are wrench, Man"),
        ("man\nman", "woman\nold", '"Man" belongs to two lines'),
    ],
)
def test_unusable_groups_are_one_sentence(group_a: str, group_b: str, says: str) -> None:
    with pytest.raises(UserError) as error:
        pairs_in(MIX, word_groups(group_a, group_b))
    assert says in str(error.value)


def test_impossible_balances_are_refused() -> None:
    (pair,) = pairs_in(MIX, word_groups("man", "woman"))
    with pytest.raises(UserError, match="number from 0 to 1"):
        balanced(MIX, [pair], 1.5)
    with pytest.raises(UserError, match="no balance"):
        balance(TokenMix.of([2, 4], ["man", "woman"], [0.0, -1.0]), pair)


def test_pictures_are_counted_by_the_text_that_they_are_most_like() -> None:
    features = torch.nn.functional.normalize(torch.tensor([[1.0, 0.1, 0.0], [0.1, 1.0, 0.0], [0.0, 0.2, 1.0]]), dim=1)
    share = picture_share(features, torch.eye(3)[[0, 2]], torch.eye(3)[[1]])
    assert (share.count, share.total) == (2, 3)


@pytest.mark.parametrize(("count", "total"), [(0, 8), (3, 8), (32, 32), (50, 128)])
def test_the_interval_is_wilsons(count: int, total: int) -> None:
    expected = binomtest(count, total).proportion_ci(method="wilson")
    assert Share(count, total).interval == pytest.approx((expected.low, expected.high), abs=1e-4)


@given(st.floats(0.05, 0.95), st.floats(0.5, 3), st.booleans())
def test_a_setting_with_the_wanted_share_is_found(target: float, most: float, falls: bool) -> None:
    """Where shares move one way, to the picture, unless that takes finer settings than 64 of them."""
    asked: list[float] = []

    def share_at(setting: float) -> Share:
        asked.append(setting)
        count = round(32 * setting / most)
        return Share(32 - count if falls else count, 32)

    found = reach_share(share_at, target, most)
    assert abs(found.share.value - target) <= 1 / 64 + 1 / 32
    assert found.share == share_at(found.setting)
    assert len(asked[:-1]) == len(set(asked[:-1])) <= 8
    assert set(found.tried) == set(asked)


@pytest.mark.parametrize(("target", "setting"), [(0.9, 2.0), (0.05, 0.0)])
def test_what_is_out_of_reach_gives_the_nearer_end(target: float, setting: float) -> None:
    found = reach_share(lambda at: Share(10 + round(5 * at), 100), target, 2.0)
    assert found.setting == setting
    assert len(found.tried) == 2


def test_each_edit_is_looked_at_while_the_others_rest() -> None:
    pairs = [EditPair("a doctor", "a female doctor"), EditPair("a nurse", "a male nurse")]

    def share_of(pair: EditPair, edits: object) -> Share:
        rest = [other._replace(strength=0.0) for other in pairs]
        rest[[other.source for other in pairs].index(pair.source)] = pair
        assert edits == rest
        return Share(round(100 * (1 - pair.strength if pair.source == "a doctor" else pair.strength / 2)), 100)

    doctor, nurse = edits_for_share(pairs, share_of, 0.25, 1.0)
    assert (doctor.setting, nurse.setting) == (0.75, 0.5)
    with pytest.raises(UserError, match="number from 0 to 1"):
        edits_for_share(pairs, share_of, -0.1, 1.0)


def test_a_word_is_compared_where_the_edit_puts_its_own() -> None:
    assert str(slot_of(EditPair("a photo of a doctor", "a photo of a female doctor"))) == "a photo of a {} doctor"
    assert str(slot_of(EditPair("a doctor", "a doctor at work"))) == "a doctor {}"
    assert str(slot_of(EditPair("an engineer", "a female engineer"))) == "a {} engineer"
    assert str(slot_of(EditPair("A photo of a cook", "a photo of an old cook"))) == "a photo of an {} cook"


def test_one_pair_of_groups_is_asked_for() -> None:
    assert word_pair("man, he", "woman") == (("man", "he"), ("woman",))
    with pytest.raises(UserError, match="several lines"):
        word_pair("man\nyoung", "woman\nold")
