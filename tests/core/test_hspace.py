"""The methods of h-space against brute force in double precision."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conceptlens.core.errors import UserError
from conceptlens.core.hspace.contrast import contrast, contrast_by_text, ends_of
from conceptlens.core.hspace.directions import HSpaceDirections, Shift, aligned, disentangled, resized
from conceptlens.core.hspace.parsing import counted, percents, two_texts
from conceptlens.core.hspace.pca import IncrementalPCA, incremental_pca, pca, principal_components
from conceptlens.core.hspace.samples import HSpaceSamples, Recorder, joined
from conceptlens.tests.core.toy import ToyBottleneck, random
from safetensors import safe_open
from torch import Tensor

SIGMAS = torch.tensor([10.0, 3.0, 1.0, 0.2])


def samples(count: int = 12, seed: int = 0, sigmas: Tensor = SIGMAS) -> HSpaceSamples:
    drawn = random(len(sigmas), count, 5, 2, 2, seed=seed) + 3
    return HSpaceSamples(sigmas, drawn, "SD 1.x", "after", {"prompt": "x"})


def test_principal_components_are_those_of_the_singular_value_decomposition() -> None:
    parts = [random(12, 40, seed=1) + 5, 2 * random(12, 30, seed=2)]
    whole = torch.cat(parts, 1)
    _, values, right = torch.linalg.svd(whole - whole.mean(0), full_matrices=False)
    found, deviations, shares = principal_components(parts, 4)
    together = torch.cat(found, 1)
    signs = (together * right[:4]).sum(1).sign()
    torch.testing.assert_close(together * signs[:, None], right[:4], atol=1e-6, rtol=0)
    torch.testing.assert_close(deviations, values[:4] / 11**0.5, atol=1e-6, rtol=0)
    torch.testing.assert_close(shares, values[:4].square() / values.square().sum(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("per_step", [True, False])
def test_a_shift_is_one_standard_deviation(per_step: bool) -> None:
    given = samples()
    directions, shares = pca(given, 3, per_step)
    assert directions.shifts.shape == (3, 4, 5, 2, 2)
    rows = given.activations.flatten(2)
    if not per_step:
        rows = rows.transpose(0, 1).flatten(1)[None]
    for level, level_rows in enumerate(rows):
        shifts = directions.shifts[:, level] if per_step else directions.shifts
        units = shifts.flatten(1).double() / shifts.flatten(1).double().norm(dim=1, keepdim=True)
        spread = (level_rows @ units.T).std(0)
        torch.testing.assert_close(spread, directions.values[:, level].double(), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(shifts.flatten(1).norm(dim=1), directions.values[:, level], atol=1e-5, rtol=1e-5)
    assert (shares.sum(0) < 1).all()
    assert (shares[:-1] >= shares[1:]).all()


def test_directions_keep_their_sign_from_level_to_level() -> None:
    base = random(2, 1, 3, 2, 2)
    flips = torch.tensor([[1, -1, -1, 1], [-1, -1, 1, 1]]).view(2, 4, 1, 1, 1)
    found = aligned(base * flips + 0.01 * random(2, 4, 3, 2, 2, seed=1))
    flat = found.flatten(2)
    assert ((flat[:, 1:] * flat[:, :-1]).sum(2) > 0).all()
    first = flat[:, 0]
    assert (first.gather(1, first.abs().argmax(1, keepdim=True)) > 0).all()


def test_a_direction_that_is_zero_at_the_first_level_is_kept_at_the_others() -> None:
    base = random(1, 3, 3, 2, 2)
    base[:, 0] = 0
    torch.testing.assert_close(aligned(base).abs(), base.abs())


def test_pictures_are_counted_from_0() -> None:
    for wrong in (-1, 12):
        with pytest.raises(UserError, match=f"no picture {wrong}; the set has 12, counted from 0"):
            samples().chosen([0, wrong])


@pytest.mark.parametrize(("rank", "exact"), [(60, 1e-9), (12, 1e-3)])
def test_components_batch_by_batch_are_those_of_all(rank: int, exact: float) -> None:
    """Exactly while nothing is dropped, nearly when what is dropped is small."""
    rows = random(60, 80) * (0.5 ** torch.arange(80)) + 2
    streamed = IncrementalPCA(rank)
    for batch in rows.split(7):
        streamed.update(batch)
    components, deviations, shares = streamed.components(3)
    (whole,), expected, explained = principal_components([rows], 3)
    torch.testing.assert_close(deviations, expected, atol=exact, rtol=exact)
    torch.testing.assert_close(shares, explained, atol=exact, rtol=exact)
    assert ((components * whole).sum(1).abs() - 1).abs().max() < exact
    torch.testing.assert_close(streamed.mean, rows.mean(0))


@pytest.mark.parametrize("per_step", [True, False])
def test_samples_that_come_in_parts_have_the_components_of_all(per_step: bool) -> None:
    parts = [samples(7, seed=seed) for seed in range(3)]
    found, shares = incremental_pca(iter(parts), 6, per_step)
    whole, expected = pca(joined(parts), 6, per_step)
    torch.testing.assert_close(found.shifts, whole.shifts, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(found.values, whole.values, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(shares, expected, atol=1e-5, rtol=1e-4)
    with pytest.raises(UserError, match="at most 6 principal components, but 7 were asked for"):
        incremental_pca(parts[:1], 7)
    with pytest.raises(UserError, match="draw both with the same model"):
        incremental_pca([parts[0], replace(parts[1], position="before")], 3)


def directions(count: int = 2, seed: int = 0, size: int = 2) -> HSpaceDirections:
    shifts = random(count, 4, 5, size, size, seed=seed)
    return HSpaceDirections(SIGMAS, shifts, shifts.flatten(2).norm(dim=2), "SD 1.x", "after", {"method": "test"})


def test_between_noise_levels_a_shift_is_interpolated() -> None:
    found = directions()
    for level, sigma in enumerate(SIGMAS.tolist()):
        torch.testing.assert_close(found.shift(1, sigma), found.shifts[1, level])
    middle = found.shift(0, 3**0.5)
    torch.testing.assert_close(middle, found.shifts[0, 1:3].mean(0))
    torch.testing.assert_close(found.shift(0, 99.0), found.shifts[0, 0])
    torch.testing.assert_close(found.shift(0, 0.001), found.shifts[0, 3])
    single = replace(found, sigmas=SIGMAS[:1], shifts=found.shifts[:, :1])
    torch.testing.assert_close(single.shift(0, 0.5), found.shifts[0, 0])
    with pytest.raises(UserError, match="no direction 2; there are 2"):
        found.shift(2, 1.0)


def test_another_size_is_resampled_and_another_shape_refused() -> None:
    flat = torch.ones(5, 2, 2)
    assert torch.equal(resized(flat, (4, 4)), torch.ones(5, 4, 4))
    assert resized(random(5, 4, 4), (2, 2)).shape == (5, 2, 2)
    with pytest.raises(UserError, match=r"2 x 2.*2 x 4, of another shape"):
        resized(flat, (2, 4))


def test_what_is_removed_is_gone_at_every_level() -> None:
    mixed, others = directions(3), directions(2, seed=9)
    found = disentangled(mixed, others)
    for level in range(4):
        products = found.shifts[:, level].flatten(1) @ others.shifts[:, level].flatten(1).T
        assert products.abs().max() <= 1e-10
        n, basis = mixed.shifts[:, level].flatten(1), others.shifts[:, level].flatten(1)
        expected = n - n @ basis.T @ torch.linalg.inv(basis @ basis.T) @ basis
        torch.testing.assert_close(found.shifts[:, level].flatten(1), expected)
    twice = replace(others, shifts=others.shifts[[0, 0]])
    again = disentangled(mixed, twice)
    torch.testing.assert_close(again.shifts, disentangled(mixed, others.chosen([0])).shifts)
    with pytest.raises(UserError, match=r"SD 1\.x.*SDXL"):
        disentangled(mixed, replace(others, family="SDXL"))


def test_a_contrast_is_the_difference_of_means() -> None:
    high, low = samples(4, seed=1), samples(7, seed=2)
    found = contrast(high, low)
    expected = high.activations.float().mean(1) - low.activations.float().mean(1)
    torch.testing.assert_close(found.shifts[0], expected)
    other = samples(3, sigmas=SIGMAS[:3])
    with pytest.raises(UserError, match=r"4 noise levels from 10 to 0.2.*3 noise levels from 10 to 1"):
        contrast(high, other)
    with pytest.raises(UserError, match="one set is empty"):
        contrast(high, low.chosen([]))


def test_both_ends_have_equally_many_of_each_group() -> None:
    scores = torch.arange(12.0)
    assert ends_of(scores, 2) == ([11, 10], [1, 0])
    high, low = ends_of(scores, 4, ["old"] * 5 + ["young"] * 7)
    assert sorted(high) == [3, 4, 10, 11]
    assert sorted(low) == [0, 1, 5, 6]
    with pytest.raises(UserError, match="has 12 in all"):
        ends_of(scores, 7)


def test_two_texts_rank_pictures() -> None:
    found, texts, other = samples(), random(2, 8, seed=3), random(2, 8, seed=4)
    pictures = random(12, 8, seed=5)
    order = sorted(range(12), key=lambda row: float(pictures[row] @ texts[1] - pictures[row] @ texts[0]))
    direction, high, low = contrast_by_text(found, pictures, texts, texts[2:], 3)
    assert (high, low) == (order[:3], order[-3:])
    torch.testing.assert_close(direction.shifts, contrast(found.chosen(order[:3]), found.chosen(order[-3:])).shifts)
    first = [row for row in order if pictures[row] @ other[0] > pictures[row] @ other[1]]
    second = [row for row in order if row not in first]
    assert min(len(first), len(second)) >= 2
    _, high, low = contrast_by_text(found, pictures, texts, other, 2)
    assert (set(high), set(low)) == ({first[0], second[0]}, {first[-1], second[-1]})


@pytest.mark.parametrize(("text", "parts"), [(" ", []), ("a man,  a woman ", ["a man", "a woman"])])
def test_two_texts_stand_between_a_comma(text: str, parts: list[str]) -> None:
    assert two_texts(text) == parts
    for wrong in ("a man", "a man,", "a, b, c"):
        with pytest.raises(UserError, match="must be two texts with a comma"):
            two_texts(wrong)


def test_a_direction_is_added_to_the_rows_that_it_is_for() -> None:
    found, h = directions(), random(6, 5, 4, 4)
    shift = resized(found.shifts[1, 2], (4, 4))
    torch.testing.assert_close(found.added(h, 1, 0.5, 1.0), h + 0.5 * shift)
    prompted = found.added(h, 1, 0.5, 1.0, [False, True, False])
    torch.testing.assert_close(prompted[2:4], h[2:4] + 0.5 * shift)
    assert torch.equal(prompted[[0, 1, 4, 5]], h[[0, 1, 4, 5]])


def test_directions_of_another_kind_of_model_are_refused_by_name(tmp_path: Path) -> None:
    """Of another family, width or depth; files from before the depth was kept are taken as they are."""
    found = directions()
    found.check_model(ToyBottleneck())
    with pytest.raises(UserError, match=r"SD 1\.x with 5 channels, the model is SDXL with 7 channels"):
        found.check_model(ToyBottleneck("SDXL", 7))
    replace(found, downsampling=2).save(tmp_path / "deep.safetensors")
    deep = HSpaceDirections.load(tmp_path / "deep.safetensors")
    with pytest.raises(UserError, match=r"at 1/2 of the latents' size, the model is .* at 1/4 of the latents' size"):
        deep.check_model(ToyBottleneck())
    with pytest.raises(UserError, match=r"at 1/2 of the latents' size, after the middle block, the others"):
        disentangled(deep, replace(found, downsampling=4))
    assert len(disentangled(deep, found)) == len(deep)


def test_a_shift_counts_between_its_noise_levels() -> None:
    found, h = directions(), random(2, 5, 2, 2)
    shift = Shift.of(ToyBottleneck(), found, 0, 2.0, start=0.5, end=0.9, positive_only=True)
    assert shift.window == pytest.approx((5.0, 1.0))
    for sigma in (6.0, 0.5):
        assert shift.added(h, sigma, lambda: pytest.fail("asked where it does not matter")) is h
    expected = found.added(h, 0, 2.0, 3.0, [True, False])
    torch.testing.assert_close(shift.added(h, 3.0, lambda: [True, False]), expected)
    with pytest.raises(UserError, match="There is no direction 7"):
        Shift.of(ToyBottleneck(), found, 7, 1.0)


def test_numbers_are_read_as_users_write_them() -> None:
    assert counted("0, 3 5") == [0, 3, 5]
    assert percents("0.2,1") == [0.2, 1.0]
    assert percents(" All ") is None
    for text, read in (("a", counted), ("-1", counted), ("b", percents), ("1.5", percents), ("", percents)):
        with pytest.raises(UserError, match=r"not a list of numbers|below 0|from 0 to 1"):
            read(text)


def test_a_file_brings_samples_back(tmp_path: Path) -> None:
    given = replace(samples(), activations=samples().activations.half())
    given.save(tmp_path / "a.safetensors")
    loaded = HSpaceSamples.load(tmp_path / "a.safetensors")
    assert torch.equal(loaded.activations, given.activations)
    assert (loaded.family, loaded.position, loaded.made_by) == (given.family, given.position, given.made_by)
    directions().save(tmp_path / "b.safetensors")
    with pytest.raises(UserError, match=r"another kind \(h-space directions\)"):
        HSpaceSamples.load(tmp_path / "b.safetensors")


@pytest.mark.parametrize("scale", [1e6, 1e-9])
def test_a_file_holds_what_half_precision_does_not(tmp_path: Path, scale: float) -> None:
    found = replace(directions(), shifts=scale * directions().shifts)
    found.save(tmp_path / "a.safetensors", {"prompt": "{}"})
    torch.testing.assert_close(HSpaceDirections.load(tmp_path / "a.safetensors").shifts, found.shifts.float())
    with safe_open(tmp_path / "a.safetensors", framework="pt") as file:
        assert file.metadata()["prompt"] == "{}"
    for bad in (replace(found, shifts=found.shifts * float("inf")), replace(found, values=found.values / 0)):
        with pytest.raises(UserError, match="not finite numbers"):
            bad.save(tmp_path / "b.safetensors")


def test_a_file_brings_directions_back(tmp_path: Path) -> None:
    found = directions()
    found.save(tmp_path / "a.safetensors")
    loaded = HSpaceDirections.load(tmp_path / "a.safetensors")
    torch.testing.assert_close(loaded.shifts.double(), found.shifts, atol=1e-3, rtol=1e-3)
    assert (loaded.family, loaded.position, loaded.made_by) == (found.family, found.position, found.made_by)
    replace(found, values=found.values[:1]).save(tmp_path / "b.safetensors")
    with pytest.raises(UserError, match="do not fit together"):
        HSpaceDirections.load(tmp_path / "b.safetensors")
    (tmp_path / "a.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(UserError, match="damaged"):
        HSpaceDirections.load(tmp_path / "a.safetensors")


def test_a_recorder_keeps_the_samplers_own_levels() -> None:
    """Whatever a sampler evaluates between them, in whatever chunks."""
    recorder = Recorder(SIGMAS.tolist())
    h = random(6, 5, 2, 2)
    for sigma in SIGMAS.tolist():
        recorder.record(sigma, h * sigma, [False, True, True])
        recorder.record(sigma * 0.8, h * 0, [False, True, True])
        recorder.record(sigma, h * 0, [False, True, True])
    prompted = recorder.stacked()
    assert prompted.dtype == torch.float16
    for level, sigma in enumerate(SIGMAS.tolist()):
        torch.testing.assert_close(prompted[level].double(), (h[2:4] + h[4:]) / 2 * sigma, atol=2e-2, rtol=2e-3)
    half = Recorder(SIGMAS.tolist())
    half.record(3.0, h, [True])
    with pytest.raises(UserError, match="1 of the 4 noise levels"):
        half.stacked()


def test_regions_count_together_however_they_are_evaluated() -> None:
    """A host that is short of memory evaluates them one by one."""
    h = random(4, 5, 2, 2)
    together, apart = Recorder([2.0]), Recorder([2.0])
    together.record(2.0, h, [True, True], ["left", "right"])
    apart.record(2.0, h[:2], [True], ["left"])
    apart.record(2.0, h[2:], [True], ["right"])
    apart.record(2.0, 0 * h[2:], [True], ["right"])
    assert torch.equal(together.stacked(), apart.stacked())
    with pytest.raises(UserError, match="regions of different sizes"):
        apart.record(2.0, h[:2, :, :1], [True], ["above"])


def test_what_was_recorded_stays_when_the_program_writes_into_its_own() -> None:
    h = random(2, 5, 2, 2).half()
    recorder = Recorder([2.0])
    recorder.record(2.0, h, [True])
    expected = h.clone()
    h.zero_()
    assert torch.equal(recorder.stacked()[0], expected)
    recorder = Recorder([2.0])
    recorder.record(2.0, 1e6 * random(2, 5, 2, 2), [True])
    with pytest.raises(UserError, match="not finite in half precision"):
        recorder.stacked()


def test_batches_of_samples_are_one_set() -> None:
    together = joined([samples(3), samples(4, seed=1)])
    assert len(together) == 7
    torch.testing.assert_close(together.activations[:, 3:], samples(4, seed=1).activations)
    with pytest.raises(UserError, match="at most 6 principal components"):
        pca(together, 7)
