"""The harness with its model on a GPU that only pretends: nothing meets that lies on two devices."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conceptlens.harness.__main__ import main
from conceptlens.tests.conftest import ROOT
from conceptlens.tests.tiny import tiny_pipeline
from safetensors.torch import load_file
from torch import Tensor

SAMPLING = ("--steps", "2", "--size", "64", "--seed", "3")
COMMANDS = {
    "edit": ("edit", "--source", "a rose", "--destination", "a blue rose", "--prompt", "a rose", *SAMPLING),
    "decompose": (
        *("decompose", "--concept", "castle", "--num-tokens", "4", "--dictionary-size", "6", "--steps", "2"),
        *("--num-images", "2", "--validation-images", "1", "--sampling-steps", "2", "--size", "64"),
        *("--templates", "none"),
    ),
    "hspace": ("hspace", "sample", "--prompt", "a rose", "--samples", "2", "--steps", "2", "--size", "64"),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny_pipeline("SD 1.x").save_pretrained(folder)
    return folder


def whole(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A LoRA's factors, which may differ in signs, as what they add to each weight; other files as they are."""
    ups = [name for name in tensors if name.endswith(".lora_up.weight")]
    return {up: tensors[up].float() @ tensors[up.replace(".lora_up.", ".lora_down.")].float() for up in ups} or tensors


@pytest.mark.parametrize("name", COMMANDS)
def test_the_result_is_the_cpus(name: str, model: Path, tmp_path: Path) -> None:
    def command(out: Path) -> list[str]:
        out.mkdir()
        return [
            *COMMANDS[name],
            "--model",
            str(model),
            "--out",
            str(out / "edit.safetensors" if name == "edit" else out),
        ]

    on_a_gpu = [sys.executable, "-m", "conceptlens.tests.pretended_gpu", *command(tmp_path / "there")]
    result = subprocess.run(on_a_gpu, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert main(command(tmp_path / "here")) == 0
    there, here = (
        [whole(load_file(file)) for file in (tmp_path / place).glob("*.safetensors")] for place in ("there", "here")
    )
    assert len(there) == len(here) == 1
    (there,), (here,) = there, here
    assert there.keys() == here.keys()
    for key, expected in here.items():
        torch.testing.assert_close(there[key], expected, rtol=1e-3, atol=1e-3)


def test_tensors_of_both_devices_do_not_meet() -> None:
    lines = ["import torch", "from conceptlens.tests.pretended_gpu import register", "register()"]
    lines += [
        "there = torch.ones(2, device='pretended')",
        "print((there + there).cpu(), there[torch.tensor([0])].tolist())",
    ]
    lines += ["there + torch.ones(2)"]
    result = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=False)
    assert result.stdout.split() == ["tensor([2.,", "2.])", "[1.0]"]
    assert "tensors [(2,)] of the GPU and [(2,)] of the CPU" in result.stderr
