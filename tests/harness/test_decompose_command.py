"""`decompose` as a user types it: once for each concept, taken up again, by one process or two."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from conceptlens.core.conceptor.mixture import TokenMix
from conceptlens.harness.__main__ import main
from conceptlens.tests.harness.found import found_in, json_to

SMALL = ["--num-tokens", "4", "--dictionary-size", "6", "--steps", "2", "--num-images", "2", "--validation-images", "1"]
SMALL += ["--sampling-steps", "2", "--size", "64", "--templates", "none", "--method", "conceptor"]


def test_concepts_are_explained_once(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Into files of their own; finished ones are not made again, and a lost one is."""
    listed = tmp_path / "concepts.txt"
    listed.write_text("ice cream\n\n\u65e5\u672c\u306e\u72ac\n", encoding="utf-8-sig")  # as Windows' Notepad does
    out = tmp_path / "out"
    command = ["decompose", *json_to(tmp_path), "--model", str(model), "--out", str(out), *SMALL]
    command += ["--concept", "castle", "--concepts", str(listed)]
    assert main(command) == 0
    results = found_in(tmp_path)
    assert list(results) == ["castle", "ice cream", "\u65e5\u672c\u306e\u72ac"]
    for name in ("castle", "ice_cream", "\u65e5\u672c\u306e\u72ac"):
        mix = TokenMix.load(out / f"{name}.safetensors")
        assert 0 < len(mix) <= 4
        for suffix in (".png", ".bars.png", ".loss.png"):
            assert (out / f"{name}{suffix}").is_file()
    assert not list(out.glob("*.checkpoint"))
    (out / "castle.safetensors").unlink()
    written = {file: file.stat().st_mtime_ns for file in out.glob("*.safetensors")}
    assert main(command) == 0
    assert found_in(tmp_path) == results
    assert {file: file.stat().st_mtime_ns for file in written} == written
    assert main([*command, "--steps", "3"]) == 1
    assert "was made with other settings" in capsys.readouterr().err
    assert main([*command, "--guidance-scale", "2"]) == 1
    assert "was made with other guidance_scale (7.5, not 2.0)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ((), "There is no concept"),
        (("--concept", "Turkey", "--concept", "turkey"), "differ in signs or capitals only"),
        (("--concept", "dog", "--prompt", "a photo"), "must have one {}"),
        (("--concepts", "missing.txt"), "missing.txt can't be read"),
        (("--concept", "dog", "--size", "100"), "multiple of 64"),
    ],
)
def test_what_can_not_be_explained_is_one_line(
    model: Path, tmp_path: Path, options: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["decompose", "--model", str(model), "--out", str(tmp_path / "out"), *options]) == 1
    told = capsys.readouterr().err
    assert says in told
    assert len(told.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_two_processes_find_what_one_does(model: Path, tmp_path: Path) -> None:
    """Both have work: three concepts, whose pictures and words they share out."""
    concepts = ("castle", "river", "palace")
    command = ["decompose", *json_to(tmp_path), "--model", str(model), *SMALL, "--num-images", "17"]
    command += [part for concept in concepts for part in ("--concept", concept)]
    assert main([*command, "--out", str(tmp_path / "one")]) == 0
    expected = found_in(tmp_path)
    (tmp_path / "found.json").unlink()
    together = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "conceptlens.harness"]
    two = subprocess.run(
        [*together, *command, "--out", str(tmp_path / "two")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert two.returncode == 0, two.stderr
    assert sorted(map(str, (tmp_path / "two").glob("*.png"))) != []
    found = found_in(tmp_path)
    assert list(found) == list(expected) == list(concepts)
    for concept in concepts:
        assert found[concept] == pytest.approx(expected[concept], rel=1e-3)


def test_a_run_that_was_cut_off_finds_its_pictures_again(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from conceptlens.core.conceptor import explanation
    from conceptlens.pipelines import studio

    command = ["decompose", *json_to(tmp_path), "--model", str(model), "--out", str(tmp_path), *SMALL]
    command += ["--concept", "castle"]

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as during:
        during.setattr(explanation, "decompose", interrupted)
        assert main(command) == 130
    assert not list(tmp_path.glob("*.safetensors"))
    asked = []
    original = studio.sample_latents

    def counted(pipe: object, seeds: Sequence[int], sampling: object, **prompt: object) -> torch.Tensor:
        asked.extend(prompt)
        return original(pipe, seeds, sampling, **prompt)  # type: ignore[arg-type]

    monkeypatch.setattr(studio, "sample_latents", counted)
    assert main(command) == 0
    assert "prompt" not in asked  # pictures of mixes come by "prompt_embeds"
    assert "prompt_embeds" in asked
    kept = list((tmp_path / "cache").glob("*.safetensors"))
    for file in kept:  # one of them: the words
        file.write_bytes(file.read_bytes()[:100])
    (tmp_path / "castle.safetensors").rename(tmp_path / "before")
    assert main(command) == 0
    assert found_in(tmp_path)["castle"] == pytest.approx(
        dict(zip(*_words(TokenMix.load(tmp_path / "before")), strict=True)), rel=1e-3
    )


def _words(mix: TokenMix) -> tuple[tuple[str, ...], tuple[float, ...]]:
    return mix.texts, mix.coefficients
