"""h-space on diffusers models, as a user types it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conceptlens.core.errors import UserError
from conceptlens.core.hspace.contrast import contrast
from conceptlens.core.hspace.directions import HSpaceDirections
from conceptlens.core.hspace.jacobian import singular_directions
from conceptlens.core.hspace.samples import HSpaceSamples, joined
from conceptlens.evaluation.face_trials import YES, Faces
from conceptlens.evaluation.hspace import ATTRIBUTES, channel, random_like
from conceptlens.harness.__main__ import main
from conceptlens.pipelines.bottleneck import DiffusersBottleneck
from conceptlens.pipelines.pictures import Sampling, sample_latents
from conceptlens.tests.tiny import tiny_pipeline
from conceptlens.world.emoji.classifier import kinds
from conceptlens.world.emoji.truth import Truth
from diffusers import AutoencoderTiny, DDPMPipeline, DDPMScheduler, UNet2DModel
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

TEXTS = ("--model", "text", "--positive-text", "a rose", "--negative-text", "a cat")
DRAWING = ("--steps", "3", "--guidance-scale", "3", "--size", "64")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SD 1.x model and an unconditional one, and samples of the first."""
    folder = tmp_path_factory.mktemp("models")
    tiny_pipeline("SD 1.x").save_pretrained(folder / "text")
    unconditional().save_pretrained(folder / "plain")
    assert hspace(*sampling(folder, "a rose", folder / "roses")) == 0
    assert hspace(*sampling(folder, "a cat", folder / "cats")) == 0
    return folder


def unconditional() -> DDPMPipeline:
    torch.manual_seed(0)
    blocks: Any = {
        "block_out_channels": (32, 64),
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    }
    return DDPMPipeline(UNet2DModel(16, 3, 3, layers_per_block=1, **blocks), DDPMScheduler())


def sampling(folder: Path, prompt: str, out: Path, *options: str) -> list[str | Path]:
    what = ("--model", folder / "text", "--prompt", prompt, *DRAWING, "--samples", "18")
    return ["sample", *what, "--out", out, *options]


def hspace(*arguments: str | Path) -> int:
    return main(["hspace", *map(str, arguments)])


def samples(folder: Path) -> HSpaceSamples:
    return joined([HSpaceSamples.load(file) for file in sorted(folder.glob("samples-*.safetensors"))])


@pytest.mark.parametrize(
    ("family", "prediction"),
    [("SD 1.x", "epsilon"), ("SD 1.x", "sample"), ("SD 2.x", "v_prediction"), ("SDXL", "epsilon")],
)
def test_pictures_are_the_pipelines_own(family: Any, prediction: str) -> None:
    """But for diffusers' last step, which leaves a rest of noise."""
    pipe = tiny_pipeline(family)
    pipe.scheduler.register_to_config(prediction_type=prediction)
    drawn = DiffusersBottleneck(pipe, "a rose", 3.0, 64).draw([4, 5], 5)
    expected = sample_latents(pipe, [4, 5], Sampling(5, 3.0, 64), prompt="a rose")
    assert float((drawn - expected).norm() / expected.norm()) < 0.05


def test_samples_are_kept_and_not_drawn_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = samples(folder / "roses")
    assert found.activations.shape == (3, 18, 64, 4, 4)
    files = {file: file.stat().st_mtime_ns for file in (folder / "roses").iterdir()}
    assert len(files) == 4
    assert hspace(*sampling(folder, "a rose", folder / "roses")) == 0
    assert {file: file.stat().st_mtime_ns for file in (folder / "roses").iterdir()} == files
    (folder / "same").symlink_to(folder / "text")
    assert hspace(*sampling(folder, "a rose", folder / "roses", "--model", str(folder / "same"))) == 1
    assert "choose another --out" in capsys.readouterr().err
    assert hspace(*sampling(folder, "a tulip", folder / "roses")) == 1
    assert "choose another --out" in capsys.readouterr().err


@pytest.mark.parametrize("position", ["after", "before", "inside"])
@pytest.mark.parametrize("kind", ["text", "plain"])
def test_the_rest_of_the_unet_is_a_function_of_the_bottleneck(kind: str, position: Any) -> None:
    pipe = unconditional() if kind == "plain" else tiny_pipeline("SDXL")
    bottleneck = DiffusersBottleneck(pipe, None if kind == "plain" else "a rose", 3.0)
    x = 3 * torch.randn(1, *bottleneck.shape, generator=torch.Generator().manual_seed(0))
    seen: list[Tensor] = []

    def look(h: Tensor, *_: Any) -> Tensor:
        seen.append(h)
        return h + 0.1

    h, decoder = bottleneck.halves(x, 2.0, position)
    output = (x - bottleneck.predict(x, 2.0)) / 2
    torch.testing.assert_close(decoder(h[None]), output, atol=1e-4, rtol=1e-4)
    with bottleneck.visited(position, look):
        moved = (x - bottleneck.predict(x, 2.0)) / 2
    torch.testing.assert_close(seen[0][0], h)
    torch.testing.assert_close(decoder(h[None] + 0.1), moved, atol=1e-4, rtol=1e-4)
    found = singular_directions(decoder, h, 1, iterations=3)
    assert found.values[0] > 0


def test_an_interrupt_leaves_no_hooks() -> None:
    """Pressed while the bottleneck is looked for: the UNet is what it was."""
    pipe = unconditional()
    bottleneck = DiffusersBottleneck(pipe, None)

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    last = pipe.unet.conv_out.register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        bottleneck.halves(torch.randn(1, *bottleneck.shape), 2.0, "before")
    last.remove()
    assert not any(block._forward_pre_hooks for block in pipe.unet.modules())


def test_components_are_found_and_applied(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "found.safetensors"
    assert hspace("pca", folder / "roses", "--components", "3", "--out", out, "--json", tmp_path / "found.json") == 0
    told = json.loads((tmp_path / "found.json").read_text())
    assert told["count"] == len(told["shares"]) == 3
    assert Image.open(out.with_suffix(".png")).width > 100
    along = ("apply", "--model", folder / "text", "--prompt", "a rose", *DRAWING, "--directions", out)
    pictures = []
    for number, options in enumerate(((), ("--asymmetric",), ("--positive-only",), ("--start", "0.9"))):
        file = tmp_path / f"{number}.png"
        assert hspace(*along, "--scale", "0", "--scale", "9", "--seed", "3", *options, "--out", file) == 0
        pictures.append(file.read_bytes())
    assert len(set(pictures)) == 4
    assert hspace(*along, "--index", "3", "--out", tmp_path / "bad.png") == 1
    assert "There is no direction 3; there are 3" in capsys.readouterr().err


def test_a_contrast_of_chosen_pictures_without_other_directions(folder: Path, tmp_path: Path) -> None:
    plain, other, clean = (tmp_path / f"{name}.safetensors" for name in ("plain", "other", "clean"))
    assert hspace("contrast", folder / "roses", folder / "cats", "--out", plain) == 0
    chosen = ("--positive-pictures", "0, 2", "--negative-pictures", "17")
    assert hspace("contrast", folder / "roses", folder / "roses", *chosen, "--out", other) == 0
    assert hspace("contrast", folder / "roses", folder / "cats", "--without", other, "--out", clean) == 0
    first, second, third = (HSpaceDirections.load(file).shifts.double() for file in (plain, other, clean))
    roses, cats = samples(folder / "roses").activations.float(), samples(folder / "cats").activations.float()
    torch.testing.assert_close(first[0].float(), roses.mean(1) - cats.mean(1), atol=1e-3, rtol=1e-2)
    torch.testing.assert_close(second[0].float(), roses[:, [0, 2]].mean(1) - roses[:, 17], atol=1e-3, rtol=1e-2)
    overlap = (
        (third.flatten(2) * second.flatten(2)).sum(2) / second.flatten(2).norm(dim=2) / first.flatten(2).norm(dim=2)
    )
    assert float(overlap.abs().max()) < 2e-3  # files hold half precision


def test_two_texts_find_the_pictures_with_glasses(tmp_path: Path) -> None:
    """Of FaceWorld's: ranked as transformers' own CLIP ranks them, and right by the world's judge."""
    what = ("--model", "face-world", "--prompt", "a face", "--steps", "8", "--guidance-scale", "1", "--samples", "24")
    assert hspace("sample", *what, "--out", tmp_path) == 0
    texts, out, told = ("a face with glasses", "a face"), tmp_path / "glasses.safetensors", tmp_path / "told.json"
    wanted = ("--positive-text", texts[0], "--negative-text", texts[1], "--count", "4", "--json", told)
    assert hspace("contrast-by-text", tmp_path, "--model", "face-world", *wanted, "--out", out) == 0
    ends = json.loads(told.read_text())
    faces = Faces(tmp_path)
    latents, pipe = faces.bottleneck.draw(range(24), 8), faces.bottleneck.pipe
    pictures = faces.bottleneck.pictures(latents)
    with torch.no_grad():
        seen = pipe.image_encoder(2 * pictures.permute(0, 3, 1, 2) - 1).image_embeds
        read = pipe.text_encoder(pipe.tokenizer(list(texts), padding="max_length", return_tensors="pt").input_ids)
        told_apart = normalize(seen) @ normalize(pipe.text_encoder.text_projection(read.pooler_output)).T
    order = (told_apart[:, 0] - told_apart[:, 1]).argsort(descending=True).tolist()
    assert (ends["positive"], ends["negative"]) == (order[:4], order[-4:])
    wears = next(attribute for attribute in YES if attribute.name == "glasses").there(faces.labels(latents))
    assert wears[ends["positive"]].all()
    assert not wears[ends["negative"]].any()
    held = samples(tmp_path)
    expected = contrast(held.chosen(order[:4]), held.chosen(order[-4:])).shifts
    torch.testing.assert_close(HSpaceDirections.load(out).shifts.float(), expected, atol=1e-3, rtol=1e-2)


def test_the_jacobian_of_a_masked_picture(folder: Path, tmp_path: Path) -> None:
    mask = tmp_path / "mask.png"
    Image.new("L", (64, 64)).save(mask)
    drawing = ("jacobian", "--model", folder / "plain", "--steps", "3", "--components", "2", "--iterations", "3")
    assert hspace(*drawing, "--at", "0.1,0.9", "--seed", "1", "--seed", "2", "--out", tmp_path) == 0
    found = [HSpaceDirections.load(tmp_path / f"seed-{seed}.safetensors") for seed in (1, 2)]
    assert [one.family for one in found] == ["UNet2DModel"] * 2
    assert found[0].shifts.shape == (2, 2, 64, 8, 8)
    assert not torch.equal(found[0].values, found[1].values)
    assert hspace(*drawing, "--mask", mask, "--out", tmp_path / "black") == 1


def test_an_unconditional_model_is_sampled_too(folder: Path, tmp_path: Path) -> None:
    assert hspace("sample", "--model", folder / "plain", "--steps", "2", "--samples", "3", "--out", tmp_path) == 0
    found = samples(tmp_path)
    assert (found.family, len(found)) == ("UNet2DModel", 3)


def test_processes_draw_what_one_draws(folder: Path, tmp_path: Path) -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command = [*launch, "-m", "conceptlens.harness", "hspace", *map(str, sampling(folder, "a rose", tmp_path))]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    torch.testing.assert_close(
        samples(tmp_path).activations, samples(folder / "roses").activations, atol=2e-3, rtol=2e-3
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("pca", "none", "--out", "x.safetensors"), "holds no samples"),
        (("pca", "roses", "--components", "18", "--out", "x.safetensors"), "at most 17 principal components"),
        (
            ("contrast", "roses", "cats", "--negative-pictures", "18", "--out", "x.safetensors"),
            "cats: There is no picture 18; the set has 18",
        ),
        (("contrast", "roses", "roses", "--out", "x.safetensors"), "Both sets are the same"),
        (
            ("contrast-by-text", "roses", *TEXTS, "--out", "x.safetensors"),
            "drawn with a model without an image encoder",
        ),
        (
            ("contrast-by-text", "roses", *TEXTS, "--balance", "a man", "--out", "x.safetensors"),
            "two texts with a comma",
        ),
        (("sample", "--model", "plain", "--prompt", "a cat", "--out", "x"), "leave --prompt away"),
        (("sample", "--model", "text", "--out", "x"), "give one with --prompt"),
    ],
    ids=["none", "components", "pictures", "same", "no features", "balance", "prompt", "no prompt"],
)
def test_bad_input_is_one_sentence(
    folder: Path, arguments: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"none", "roses", "cats", "plain", "text", "x", "x.safetensors"}
    assert hspace(*[folder / part if part in places else part for part in arguments]) == 1
    assert says in capsys.readouterr().err


def test_a_model_without_a_bottleneck_is_refused() -> None:
    class Other:
        unet = AutoencoderTiny()

    with pytest.raises(UserError, match="Other; directions of h-space need a UNet"):
        DiffusersBottleneck(Other(), "a rose")  # pyright: ignore[reportArgumentType]


def test_the_random_direction_of_the_bench_is_as_long_as_the_one_it_stands_beside() -> None:
    shifts = torch.randn(1, 3, 8, 4, 4, generator=torch.Generator().manual_seed(1))
    found = HSpaceDirections(torch.tensor([3.0, 2.0, 1.0]), shifts, torch.ones(1, 3), "SD 1.x", "after", {})
    chance = random_like(found).shifts
    torch.testing.assert_close(chance.flatten(2).norm(dim=2), shifts.flatten(2).norm(dim=2))
    assert abs(float(torch.nn.functional.cosine_similarity(chance.flatten(), shifts.flatten(), 0))) < 0.2


def test_the_bench_judges_what_the_judges_know() -> None:
    known = kinds(Truth.load())
    assert all(set(attribute.kinds) <= known.keys() for attribute in ATTRIBUTES)
    assert len({attribute.name for attribute in ATTRIBUTES}) == len(ATTRIBUTES)
    red, blue = torch.zeros(2, 1, 3, 4, 4)
    red[:, 0], blue[:, 2] = 1, 1
    rise = channel(2, 0)
    assert rise(None, blue) > 0 > rise(None, red)  # pyright: ignore[reportArgumentType]
