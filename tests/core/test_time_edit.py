"""TIME against the paper's formula, term by term."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conceptlens.core.errors import UserError
from conceptlens.core.model.protocols import Family
from conceptlens.core.time_edit import time_edit as model_edit
from conceptlens.core.time_edit.alignment import align_tokens
from conceptlens.core.time_edit.context_edit import ContextEdit, edited_context, edited_pooled
from conceptlens.core.time_edit.lora import balanced_factors, lora_factors
from conceptlens.core.time_edit.ordinary import PROMPTS, ordinary_covariance
from conceptlens.core.time_edit.time_edit import (
    EditPair,
    Regularize,
    augment_prompt,
    edit_model,
    fit_time_edit,
    parse_edits,
    time_edit,
    triangular_factor,
)
from conceptlens.tests.core.toy import ToyDenoiser, ToyEncoder
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

ROSES = EditPair("a pack of roses", "a pack of blue roses")
MANY = [ROSES, EditPair("an apple", "a green apple"), EditPair("a doctor", "a female doctor at work")]
EXAMPLES = {
    "one pair": ([ROSES], []),
    "many pairs": (MANY, []),
    "preserved prompts": ([ROSES], ["a pack of dogs", "a tulip"]),
    "parts of the way": ([ROSES._replace(strength=0.3), MANY[1]._replace(strength=0.0), MANY[2]], ["a tulip"]),
    "more columns than dimensions": (MANY, [f"prompt number {i}" for i in range(20)]),
    "prompts preserved several times": ([ROSES], ["a tulip", "a pack of dogs", "a tulip", ROSES.source, "a tulip"]),
}


def by_the_book(weight: Tensor, states: Tensor, targets: Tensor, regularization: float) -> Tensor:
    """Equation 4 of the paper for one layer: the sums over columns and the inverse."""
    numerator = regularization * weight + (weight @ targets.T) @ states
    denominator = regularization * torch.eye(weight.shape[1], dtype=torch.float64) + states.T @ states
    return numerator @ torch.linalg.inv(denominator)


def book_columns(encoder: ToyEncoder, pairs: list[EditPair], preserve: list[str]) -> tuple[Tensor, Tensor]:
    """States and target states, aligned by the paper's rule as written down for reading, not for speed."""
    states, targets = [], []
    for pair in pairs:
        prefixes = ["", "a photo of ", "an image of ", "a picture of "]
        for prefix in prefixes:
            source, destination = prefix + pair.source, prefix + pair.destination
            wanted, offered = encoder.decode(encoder.tokenize(source)), encoder.decode(encoder.tokenize(destination))
            wanted, offered = ([{"an": "a"}.get(w, w) for w in text.split()] for text in (wanted, offered))
            slots, j = [], 0
            for word in wanted:
                while offered[j] != word:
                    j += 1
                slots.append(j)
                j += 1
            while len(slots) < 77:
                slots.append(min(j, 76))
                j += 1
            context, target_context = encoder.encode([source])[0], encoder.encode([destination])[0]
            for i in range(77):
                states.append(context[i])
                targets.append(torch.lerp(context[i].double(), target_context[slots[i]].double(), pair.strength))
    for prompt in preserve:
        states += list(encoder.encode([prompt])[0])
        targets += list(encoder.encode([prompt])[0])
    return torch.stack(states), torch.stack(targets)


def dense(edit: ContextEdit) -> Tensor:
    """E itself (width, width)."""
    return edit.left * edit.singular_values @ edit.right


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize("example", EXAMPLES)
@pytest.mark.parametrize(("width", "out"), [(768, 320), (1024, 640), (2048, 1280), (192, 64)])
def test_low_rank_path_is_the_formula(width: int, out: int, example: str) -> None:
    pairs, preserve = EXAMPLES[example]
    encoder = ToyEncoder(width)
    weight = torch.randn(out, width, generator=torch.Generator().manual_seed(3), dtype=torch.float64) * width**-0.5
    edit = fit_time_edit(encoder, pairs, regularization=0.1, preserve=preserve)
    expected = by_the_book(weight, *book_columns(encoder, pairs, preserve), 0.1)
    up, down = lora_factors(balanced_factors(edit, torch.float64), weight)
    assert relative_error(weight + up @ down, expected) <= 1e-9
    assert relative_error(up @ down, expected - weight) <= 1e-9


@pytest.mark.parametrize("example", EXAMPLES)
def test_model_with_a_lora_keys_off(example: str) -> None:
    pairs, preserve = EXAMPLES[example]
    encoder, denoiser = ToyEncoder(192), ToyDenoiser(192)
    generator = torch.Generator().manual_seed(5)
    for weight in denoiser.weights.values():  # a LoRA that came before
        weight += torch.randn(len(weight), 4, generator=generator) @ torch.randn(4, 192, generator=generator) / 50
    edited = edit_model(encoder, denoiser, pairs, preserve=preserve, edit_keys=False)
    assert edited.factors.keys() == {name for name in denoiser.weights if name.endswith("to_v")}
    columns = book_columns(encoder, pairs, preserve)
    for name, (up, down) in edited.factors.items():
        expected = by_the_book(denoiser.weights[name].double(), *columns, 0.1)
        assert relative_error(denoiser.weights[name] + up @ down, expected) <= 1e-6


def test_accumulated_edits_start_from_the_weights_as_they_arrive() -> None:
    encoder, denoiser = ToyEncoder(192), ToyDenoiser(192)
    first, second = fit_time_edit(encoder, [ROSES]), fit_time_edit(encoder, MANY[1:])
    name, weight = next(iter(denoiser.weights.items()))
    after_first = by_the_book(weight.double(), *book_columns(encoder, [ROSES], []), 0.1)
    after_both = by_the_book(after_first, *book_columns(encoder, MANY[1:], []), 0.1)
    up, down = lora_factors(balanced_factors(first.then(second), torch.float64), weight.double())
    assert relative_error(weight.double() + up @ down, after_both) <= 1e-9
    denoiser.weights[name] = after_first.float()
    up, down = edit_model(encoder, denoiser, MANY[1:]).factors[name]
    assert relative_error(after_first.float() + up @ down, after_both) <= 1e-6


@pytest.mark.parametrize("example", EXAMPLES)
@pytest.mark.parametrize("width", [192, 768])
def test_relative_lambda_is_in_units_of_ordinary_prompts(width: int, example: str) -> None:
    """E = (C* - C) C^T (lambda Sigma + C C^T)^-1, whatever the scale of the encoder's states."""
    pairs, preserve = EXAMPLES[example]
    encoder = ToyEncoder(width)
    ordinary = encoder.encode(PROMPTS).flatten(0, 1).double()
    plain = 100 / len(PROMPTS) * ordinary.T @ ordinary
    covariance = 0.9 * plain + 0.1 * plain.diagonal().mean() * torch.eye(width).double()
    states, targets = (columns.double() for columns in book_columns(encoder, pairs, preserve))
    inverse = torch.linalg.inv(0.3 * covariance + states.T @ states)
    expected = (targets - states).T @ states @ inverse
    settings: dict[str, Any] = {"regularization": 0.3, "preserve": preserve, "regularize": "relative"}
    edit = fit_time_edit(encoder, pairs, **settings)
    assert relative_error(dense(edit), expected) <= 1e-9
    encoder.scale = 64.0
    assert relative_error(dense(fit_time_edit(encoder, pairs, **settings)), expected) <= 1e-9


@pytest.mark.parametrize("regularize", ["absolute", "relative"])
def test_what_is_preserved_exactly_does_not_move(monkeypatch: pytest.MonkeyPatch, regularize: Regularize) -> None:
    """The minimiser under the condition E p = 0, by its Lagrangian; a thousand times the edit moves p no further."""
    encoder, preserve = ToyEncoder(768), ["a pack of dogs", "a tulip"]
    kept = encoder.encode(preserve).flatten(0, 1).double()
    settings: dict[str, Any] = {"preserve": preserve, "preserve_mode": "exact", "regularize": regularize}
    rough = fit_time_edit(encoder, MANY, **settings)
    assert (rough(kept) - kept).norm() <= 5e-2 * kept.norm()  # in directions that they hardly have
    monkeypatch.setattr(model_edit, "TOLERANCE", 1e-9)
    _, values, directions = torch.linalg.svd(kept, full_matrices=False)
    basis = directions[values > 1e-9 * values[0]]
    edit = fit_time_edit(encoder, MANY, **settings)
    assert (edit.scaled(1000)(kept) - kept).norm() <= 1e-6 * kept.norm()
    held = torch.eye(768).double() if regularize == "absolute" else ordinary_covariance(encoder)
    states, targets = (columns.double() for columns in book_columns(encoder, MANY, []))
    count = len(basis)
    inner = torch.cat([0.1 * held + states.T @ states, basis.T], dim=1)
    system = torch.cat([inner, torch.cat([basis, torch.zeros(count, count).double()], dim=1)])
    wanted = torch.cat([states.T @ (targets - states), torch.zeros(count, 768).double()])
    assert relative_error(dense(edit), torch.linalg.solve(system, wanted)[:768].T) <= 1e-8
    assert 0.1 < edit.made_by["reached"] < fit_time_edit(encoder, MANY, regularize=regularize).made_by["reached"]


def test_report_says_how_much_of_an_edit_is_left() -> None:
    """Nothing, of one whose source is preserved itself."""
    settings: dict[str, Any] = {"preserve": augment_prompt(ROSES.source), "preserve_mode": "exact"}
    edited = edit_model(ToyEncoder(768), ToyDenoiser(768), [ROSES], **settings)
    assert "preserved exactly leaves 0% of the change" in edited.report


def test_ordinary_states_are_found_again(tmp_path: Path) -> None:
    """By the encoder's own states; a file that is damaged or of something else is made anew."""
    encoder = ToyEncoder(64)
    first = ordinary_covariance(encoder, tmp_path)
    (file,) = tmp_path.iterdir()
    encoder.batches.clear()
    assert torch.equal(ordinary_covariance(encoder, tmp_path), first)
    assert encoder.batches == [1]
    file.write_bytes(file.read_bytes()[:-9])
    assert torch.equal(ordinary_covariance(encoder, tmp_path), first)
    assert not torch.equal(ordinary_covariance(ToyEncoder(64, seed=1), tmp_path), first)
    assert len(list(tmp_path.iterdir())) == 2
    (tmp_path / "a file").write_text("")
    assert torch.equal(ordinary_covariance(encoder, tmp_path / "a file"), first)  # where nothing can be kept


def test_an_edited_prompt_reads_as_by_edited_weights() -> None:
    """W (I + E) c = W ((I + E) c)."""
    encoder, denoiser = ToyEncoder(192), ToyDenoiser(192)
    edited = edit_model(encoder, denoiser, MANY, strength=0.7)
    context = encoder.encode(["a pack of roses and a doctor"]).float()
    for name, (up, down) in edited.factors.items():
        weight = denoiser.weights[name]
        torch.testing.assert_close(
            edited_context(edited.edit.context, context) @ weight.T,
            context @ (weight + up @ down).T,
            rtol=1e-5,
            atol=1e-5,
        )


def test_a_prompt_that_an_edit_does_not_fit_is_refused() -> None:
    encoder, denoiser = ToyEncoder(192), ToyDenoiser(192)
    edit, context = edit_model(encoder, denoiser, [ROSES]).edit.context, encoder.encode(["a rose"]).float()
    torch.testing.assert_close(edited_context(edit, 1.01 * context), edit(1.01 * context))  # half precision, a LoRA
    with pytest.raises(UserError, match="made by another text encoder than the edit"):
        edited_context(edit, ToyEncoder(192, seed=1).encode(["a rose"]).float())
    with pytest.raises(UserError, match="context has width 64, the edit is of width 192"):
        edited_context(edit, context[..., :64])
    with pytest.raises(UserError, match="covers values only"):
        edited_context(edit_model(encoder, denoiser, [ROSES], edit_keys=False).edit.context, context)


def test_rank_is_at_most_the_number_of_slots_that_differ() -> None:
    encoder = ToyEncoder(768)
    states, targets = book_columns(encoder, [ROSES], [])
    differing = int(((states - targets).abs().amax(1) > 0).sum())
    edit = fit_time_edit(encoder, [ROSES])
    assert edit.rank <= differing < len(states)


def test_prompts_of_the_pairs_are_encoded_in_one_batch() -> None:
    """States of one beginning are equal to the last bit then, and add nothing to the edit."""
    encoder = ToyEncoder(64)
    fit_time_edit(encoder, MANY)
    assert len(encoder.batches) == 1


@pytest.mark.parametrize("width", [64, 768])
def test_preserved_prompts_come_in_portions_and_change_no_digit(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setattr(model_edit, "PROMPTS_AT_ONCE", 7)
    encoder = ToyEncoder(width)
    preserve = [f"prompt number {number % 27}" for number in range(30)]
    seen: list[tuple[int, int]] = []
    edit = fit_time_edit(encoder, [ROSES], preserve=preserve, progress=lambda *at: seen.append(at))
    pairs, *portions = encoder.batches
    assert (pairs, portions) == (8, [7, 7, 7, 6])
    assert seen == [(7, 27), (14, 27), (21, 27), (27, 27)]
    one = torch.eye(width, dtype=torch.float64)
    expected = by_the_book(one, *book_columns(encoder, [ROSES], preserve), 0.1) - one
    assert relative_error(edit.left * edit.singular_values @ edit.right, expected) <= 1e-9


@pytest.mark.parametrize("sizes", [[], [3], [2, 3, 4], [20, 1, 20]])
def test_one_triangle_stands_for_all_states(sizes: list[int]) -> None:
    portions = [torch.randn(size, 8, generator=torch.Generator().manual_seed(size)) for size in sizes]
    states = torch.cat([torch.zeros(0, 8), *portions]).double()
    rows = triangular_factor(iter(portions), 8)
    torch.testing.assert_close(rows.T @ rows, states.T @ states, rtol=1e-12, atol=1e-12)
    assert len(rows) <= 8
    if len(states) <= 8:
        assert torch.equal(rows, states)


def test_progress_counts_preserved_prompts_and_layers() -> None:
    seen: list[tuple[int, int]] = []
    progress = lambda *at: seen.append(at)  # noqa: E731
    edit_model(ToyEncoder(64), ToyDenoiser(64), [ROSES], preserve=["a tulip", "a dog"], progress=progress)
    assert seen == [(2, 6), (3, 6), (4, 6), (5, 6), (6, 6)]


def test_regularization_is_the_papers() -> None:
    """A large lambda leaves the model alone; a small one moves the source's states onto their targets."""
    encoder = ToyEncoder(768)
    states, targets = book_columns(encoder, [ROSES], [])
    strong, weak = (time_edit(states, targets, regularization) for regularization in (1e-3, 1e9))
    assert relative_error(strong(states), targets) < 1e-2
    assert relative_error(weak(states), states) < 1e-3


def test_rank_is_bounded_with_more_columns_than_dimensions() -> None:
    encoder = ToyEncoder(192)
    preserve = [f"prompt number {number}" for number in range(3)]
    states, targets = book_columns(encoder, [ROSES], [])
    differing = int(((states - targets).abs().amax(1) > 0).sum())
    edit = fit_time_edit(
        encoder, [EditPair("a pack of roses", "a pack of roses blue")], augment=False, preserve=preserve
    )
    assert 4 * 77 > 192
    assert edit.rank <= 77 - 5 < differing


@pytest.mark.parametrize("strength", [float("nan"), float("inf")])
def test_strength_must_be_a_number(strength: float) -> None:
    with pytest.raises(UserError, match="strength is"):
        edit_model(ToyEncoder(64), ToyDenoiser(64), [ROSES], strength=strength)


def test_preserved_prompts_move_less() -> None:
    encoder = ToyEncoder(768)
    tulip = encoder.encode(["a tulip in a vase"])[0]
    moved = [
        float((fit_time_edit(encoder, [ROSES], regularization=1e-3, preserve=preserve)(tulip) - tulip).norm())
        for preserve in ([], ["a tulip in a vase"])
    ]
    assert moved[1] < moved[0] / 5


def test_same_prompts_change_nothing() -> None:
    encoder, denoiser = ToyEncoder(64), ToyDenoiser(64)
    edited = edit_model(encoder, denoiser, [EditPair("a rose", "a rose")])
    assert edited.edit.context.rank == 0
    assert edited.factors == {}
    assert "Nothing is changed" in edited.report


@pytest.mark.parametrize("family", ["SD 1.x", "SD 2.x", "SDXL"])
def test_report_says_what_of_sdxl_is_not_edited(family: Family) -> None:
    report = edit_model(ToyEncoder(64), ToyDenoiser(64, family=family), [ROSES]).report
    assert ("pooled text" in report) == (family == "SDXL")
    assert ("which is not edited and still says the source" in report) == (family == "SDXL")


@pytest.mark.parametrize("regularize", ["absolute", "relative"])
@pytest.mark.parametrize("preserve", [(), ("a tulip", "a dog")])
def test_pooled_edit_is_the_formula_on_pooled_texts(regularize: Regularize, preserve: tuple[str, ...]) -> None:
    encoder, denoiser = ToyEncoder(64), ToyDenoiser(64, family="SDXL")
    edited = edit_model(encoder, denoiser, MANY, preserve=preserve, regularize=regularize, edit_pooled=True)
    sources, destinations = (
        torch.cat(
            list(encoder.pooled.encode([text for pair in MANY for text in augment_prompt(str(pair[side]))]))
        ).double()
        for side in (0, 1)
    )
    kept = torch.cat(
        [torch.zeros(0, 32).double(), *(state.double() for text in preserve for state in encoder.pooled.encode([text]))]
    )
    c, wanted = torch.cat([sources, kept]), torch.cat([destinations, kept])
    unit = ordinary_covariance(encoder.pooled) if regularize == "relative" else torch.eye(32).double()
    expected = (wanted - c).T @ c @ torch.linalg.inv(0.1 * unit + c.T @ c)
    assert edited.edit.pooled is not None
    assert relative_error(dense(edited.edit.pooled), expected) <= 1e-9
    # On the weight: the sizes behind the pooled text are read as before, and the context's layers know nothing of it.
    layer = "add_embedding.linear_1"
    up, down = edited.factors[layer]
    assert denoiser.pooled is not None
    change = denoiser.pooled.text_weight(layer)[:, :32].double() @ expected
    assert relative_error((up @ down)[:, :32].double(), change) <= 1e-5
    assert not (up @ down)[:, 32:].any()
    without = edit_model(encoder, denoiser, MANY, preserve=preserve, regularize=regularize)
    assert set(edited.factors) - set(without.factors) == {layer}
    assert all(torch.equal(edited.factors[name].up, factors.up) for name, factors in without.factors.items())
    assert "pooled text is edited by a map of its own" in edited.report


def test_pooled_edit_of_a_prompt_is_what_the_edited_layer_reads() -> None:
    encoder, denoiser = ToyEncoder(64), ToyDenoiser(64, family="SDXL")
    edited = edit_model(encoder, denoiser, MANY, strength=0.7, edit_pooled=True)
    assert edited.edit.pooled is not None
    assert denoiser.pooled is not None
    (pooled,) = encoder.pooled.encode(["a rose in a garden"])
    given = torch.cat([pooled.float(), torch.randn(1, 6)], dim=1)
    weight = denoiser.pooled.weight
    up, down = edited.factors["add_embedding.linear_1"]
    by_prompt = torch.cat([edited_pooled(edited.edit.pooled, pooled.float()), given[:, 32:]], dim=1)
    torch.testing.assert_close(by_prompt @ weight.T, given @ (weight + up @ down).T, rtol=1e-5, atol=1e-5)
    with pytest.raises(UserError, match="pooled text has width 16, the edit is of width 32"):
        edited_pooled(edited.edit.pooled, pooled[:, :16].float())


def test_models_without_a_pooled_text_ignore_its_edit() -> None:
    settings: dict[str, Any] = {"encoder": ToyEncoder(64), "denoiser": ToyDenoiser(64), "pairs": [ROSES]}
    plain, asked = edit_model(**settings), edit_model(**settings, edit_pooled=True)
    assert asked.edit.pooled is None
    assert asked.report == plain.report
    assert set(asked.factors) == set(plain.factors)


@given(st.lists(st.integers(2, 6), max_size=20), st.data())
def test_alignment_matches_a_destination_made_by_inserting(words: list[int], data: st.DataObject) -> None:
    source = [0, *words, 1]
    destination = list(source)
    for _ in range(data.draw(st.integers(0, 20))):
        destination.insert(data.draw(st.integers(1, len(destination) - 1)), data.draw(st.integers(2, 6)))
    slots = align_tokens(source, destination)
    assert len(slots) == 77
    assert [destination[slot] for slot in slots[: len(source)]] == source
    last = slots[len(source) - 1]
    assert slots[: len(source)] == sorted(set(slots[: len(source)]))
    assert slots[len(source) :] == [min(slot, 76) for slot in range(last + 1, last + 1 + 77 - len(source))]


def test_alignment_of_the_papers_example() -> None:
    encoder = ToyEncoder(8)
    slots = align_tokens(encoder.tokenize(ROSES.source), encoder.tokenize(ROSES.destination))
    assert slots[:8] == [0, 1, 2, 3, 5, 6, 7, 8]
    assert slots[-3:] == [75, 76, 76]


def test_alignment_without_a_subsequence_names_the_token() -> None:
    with pytest.raises(LookupError) as missing:
        align_tokens([0, 5, 6, 7, 1], [0, 5, 7, 6, 1])
    assert missing.value.args == (3,)


def test_augmentation_is_the_papers() -> None:
    assert augment_prompt("A rose") == ["A rose", "A photo of a rose", "An image of a rose", "A picture of a rose"]


@pytest.mark.parametrize(
    ("pairs", "options", "says"),
    [
        ([], {}, "nothing to edit"),
        ([EditPair("", "a rose")], {}, "A prompt is empty"),
        ([ROSES], {"preserve": [" "]}, "A prompt is empty"),
        ([ROSES], {"regularization": 0.0}, "regularization is 0; it must be above 0"),
        ([ROSES], {"regularization": -1.0}, "regularization is -1"),
        ([ROSES], {"regularization": float("nan")}, "regularization is nan"),
        ([EditPair("a red rose", "a blue rose")], {}, 'lacks the source\'s word "red"'),
        ([EditPair("a rose garden", "a garden rose")], {}, 'lacks the source\'s word "garden"'),
        ([EditPair("a " * 75 + "rose", "a " * 75 + "blue rose")], {}, '78 tokens and 77 fit: "rose" would be cut off'),
        ([ROSES], {"preserve": ["word " * 80]}, "82 tokens and 77 fit"),
        ([ROSES], {"regularization": float("inf")}, "regularization is inf"),
        ([ROSES], {"rank": -1}, "rank is -1"),
        ([EditPair("a <|endoftext|> rose", "a <|endoftext|> blue rose")], {}, "contains the mark <|endoftext|>"),
    ],
)
def test_bad_input_is_one_sentence(pairs: list[EditPair], options: dict[str, object], says: str) -> None:
    with pytest.raises(UserError) as error:
        fit_time_edit(ToyEncoder(64), pairs, **{"augment": False, **options})  # pyright: ignore[reportArgumentType]
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_model_and_encoder_of_different_families_are_both_named() -> None:
    with pytest.raises(UserError, match=r"\(SD 2\.x\) reads text contexts of width 1024, .* gives width 768"):
        edit_model(ToyEncoder(768), ToyDenoiser(1024, family="SD 2.x"), [ROSES])


def test_broken_weights_are_named() -> None:
    denoiser = ToyDenoiser(64)
    name = list(denoiser.weights)[2]
    denoiser.weights[name][3, 5] = float("nan")
    with pytest.raises(UserError, match=f"weight {name} holds values that are not finite"):
        edit_model(ToyEncoder(64), denoiser, [ROSES])


def test_encoder_that_overflows_is_named() -> None:
    states = torch.full((3, 8), float("inf"))
    with pytest.raises(UserError, match="text encoder gave values that are not finite"):
        time_edit(states, torch.zeros(3, 8), 0.1)


def test_edits_are_read_line_by_line() -> None:
    assert parse_edits("a => a b\n\n  c=>c d \n") == [EditPair("a", "a b"), EditPair("c", "c d")]
    with pytest.raises(UserError, match='Line 2 of the edits is "a rose"'):
        parse_edits("a => a b\na rose")


def test_strength_and_rank_reach_the_factors() -> None:
    encoder, denoiser = ToyEncoder(192), ToyDenoiser(192)
    whole = edit_model(encoder, denoiser, [ROSES])
    half = edit_model(encoder, denoiser, [ROSES], strength=-0.5)
    few = edit_model(encoder, denoiser, [ROSES], rank=3)
    for name in whole.factors:
        change = (whole.factors[name].up @ whole.factors[name].down).double()
        assert relative_error(half.factors[name].up @ half.factors[name].down, -0.5 * change) < 1e-5
        assert few.factors[name].down.shape[0] == 3
    assert "rank 3 of 192" in few.report
    assert "100.00% of the edit's energy" in whole.report
    assert "strength -0.5" in half.report
    own = edit_model(encoder, denoiser, [ROSES._replace(strength=0.4)])
    assert own.report.count("strength") == 1  # the pair's own, and not a 1 beside it
    states, _ = book_columns(encoder, [ROSES], [])
    moved = [float((edit(states) - states).square().sum()) for edit in (few.edit.context, whole.edit.context)]
    assert few.edit.context.made_by["energy_kept"] == pytest.approx(moved[0] / moved[1])
    assert few.edit.context.made_by["energy_kept"] < 1.0
