"""Single pictures and bias on EmojiWorld, from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conceptlens.core.conceptor.mixture import TokenMix, mix_from_text
from conceptlens.harness.__main__ import main
from conceptlens.harness.terminal.models import EMOJI_WORLD, load_pipeline
from conceptlens.harness.terminal.results import keep_result
from conceptlens.pipelines.adapter import DiffusersTextEncoder
from conceptlens.pipelines.studio import DiffusersStudio

pytestmark = pytest.mark.usefixtures("comfyui")
SAMPLING = ("--steps", "8", "--guidance-scale", "2.5")
GROUPS = ("--group-a", "male", "--group-b", "female")


@pytest.fixture(scope="module")
def mix() -> TokenMix:
    encoder = DiffusersTextEncoder(load_pipeline(EMOJI_WORLD))
    return mix_from_text(encoder, "rose: 1, tulip: 0.03, male: 0.3, female: 0.1, car: 0.005, dog: 0.004", "SD 1.x")


def bias(out: Path, *more: str) -> int:
    counted = ("--num-images", "16", *SAMPLING, "--out", str(out))
    return main(["bias", "--model", "emoji-world", *GROUPS, *counted, *more])


def test_a_picture_is_explained_by_few_of_the_words(mix: TokenMix, tmp_path: Path) -> None:
    file, out = tmp_path / "mix.safetensors", tmp_path / "explained"
    mix.without([token for token, text in zip(mix.ids, mix.texts, strict=True) if "male" in text]).save(file)
    options = ("--seed", "3", "--threshold", "0.8", *SAMPLING)
    options += ("--out", str(out), "--json", str(out / "found.json"))
    assert main(["explain-picture", "--model", "emoji-world", "--mix", str(file), *options]) == 0
    found = json.loads((out / "found.json").read_text())["3"]
    assert found["words"][0] == "rose"
    assert len(found["words"]) < 4
    assert found["similarity"] >= 0.8
    assert TokenMix.load(out / "seed-3.safetensors").texts == tuple(found["words"])
    assert (out / "seed-3.png").is_file()


def test_a_planted_bias_is_measured_and_finished_concepts_are_not_drawn_again(
    mix: TokenMix, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In EmojiWorld nine of ten mechanics are men, and one of ten singers."""
    mixes, out = tmp_path / "mixes", tmp_path / "bias"
    for concept, words in (("mechanic", mix), ("singer", mix.top(1))):
        words.save(mixes / f"{concept}.safetensors")
    concepts = ("--concept", "mechanic", "--concept", "singer", "--mixes", str(mixes))
    file = tmp_path / "found.json"
    assert bias(out, *concepts, "--json", str(file)) == 0
    found = json.loads(file.read_text())
    assert found["mechanic"]["pictures"] > 0.7
    assert found["singer"]["pictures"] < 0.3
    assert found["mechanic"]["mix"] == pytest.approx(0.75)
    assert found["singer"]["mix"] is None
    assert (out / "bias.png").is_file()
    monkeypatch.setattr(DiffusersStudio, "latents_of_prompt", lambda *_: pytest.fail("drawn again"))
    file.unlink()
    assert bias(out, *concepts, "--json", str(file)) == 0
    assert json.loads(file.read_text()) == found


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--concept", "mechanic", "--seed", "1"), "was made with other seed (0, not 1)"),
        (("--concept", "singer"), "can't be read"),
        (("--concept", "mechanic!"), "was made with other concept (mechanic, not mechanic!)"),
        (("--concept", "judge", "--num-images", "0"), "at least 1 picture"),
        (("--concept", "judge", "--group-a", "male\nyoung", "--group-b", "female\nold"), "several lines"),
        ((), "There is no concept"),
    ],
)
def test_what_can_not_be_counted_is_one_sentence(
    more: tuple[str, ...], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made_by = {"model": "emoji-world", "group_a": "male", "group_b": "female", "prompt": "a photo of a {}", "loras": []}
    made_by |= {"num_images": 16, "seed": 0, "steps": 8, "guidance_scale": 2.5, "size": None}
    keep_result(tmp_path / "mechanic.json", {**made_by, "concept": "mechanic"}, {"count": 1, "total": 16})
    (tmp_path / "singer.json").write_text("{")
    assert bias(tmp_path, *more) == 1
    told = capsys.readouterr().err
    assert says in told
    assert len(told.strip().splitlines()) == 1
