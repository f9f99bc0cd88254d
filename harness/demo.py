"""`python run.py demo`: an edit that one sees, and the same edit in a real ComfyUI.

A trained model is edited with diffusers and pictured before and after: the folder that --model names, or a small model
that may lie beside the repository. Then the host is started and an example graph with TIMEEditModel runs in it on
random weights. The path of each picture is printed on a line of its own.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import webbrowser
from pathlib import Path

from ..core.errors import UserError
from ..core.lora import lora_state_dict
from ..core.model_edit import EditPair, edit_model
from .console import Console, quiet_libraries
from .diffusers_backend import DiffusersDenoiser, DiffusersTextEncoder, load_pipeline
from .host_server import ROOT, Graph, GraphError, HostServer, comfyui_folder
from .pictures import Sampling, before_and_after, comparison, save_picture

SMALL_MODEL = ROOT.parent / "shared/emoji_world_start"


def picture(model: Path, out: Path, console: Console) -> Path:
    """Roses turned blue: the edited prompt, a related one, two preserved and two unrelated ones, before and after."""
    pipe = load_pipeline(model, comfyui_folder() / "comfy/sd1_tokenizer")
    denoiser = DiffusersDenoiser(pipe)
    small = denoiser.context_width < 512
    # 308 token states fill all dimensions of a narrow text encoder, so that its edit reaches every prompt unless a
    # large lambda holds it; Stable Diffusion's widths leave most dimensions free.
    regularization = 1000.0 if small else 0.1
    pair = EditPair("a rose", "a blue rose")
    preserve = ["a tulip", "an apple"]
    prompts = [pair.source, f"a photo of {pair.source}", *preserve, "a car", "a cat"]
    with console.progress("editing weights") as progress:
        encoder = DiffusersTextEncoder(pipe)
        settings = {"regularization": regularization, "preserve": preserve}
        edited = edit_model(encoder, denoiser, [pair], **settings, progress=progress)
    console.line(edited.report)
    lora = lora_state_dict(edited.edit, edited.factors, denoiser.family)
    sampling = Sampling(seeds=(1, 2), steps=25, guidance_scale=4.0 if small else 7.5)
    before, after = before_and_after(pipe, lora, prompts, sampling, console)
    path = out / "time_edit.png"
    save_picture(comparison(before, after, prompts), path)
    return path


def example_graph(checkpoint: str) -> Graph:
    """TIMEEditModel between stock nodes, its edit saved as a LoRA."""
    edit = {"source": "a pack of roses", "destination": "a pack of blue roses", "regularization": 0.1, "preserve": ""}
    edit |= {"edit_keys": True, "augment": True, "strength": 1.0, "rank": 0}
    sampler = {"seed": 1, "steps": 4, "cfg": 7.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    links = {"model": ["2", 0], "positive": ["3", 0], "negative": ["4", 0], "latent_image": ["5", 0]}
    nodes = {
        "1": ("CheckpointLoaderSimple", {"ckpt_name": checkpoint}),
        "2": ("TIMEEditModel", {"model": ["1", 0], "clip": ["1", 1], **edit}),
        "3": ("CLIPTextEncode", {"clip": ["1", 1], "text": "a field of roses"}),
        "4": ("CLIPTextEncode", {"clip": ["1", 1], "text": ""}),
        "5": ("EmptyLatentImage", {"width": 128, "height": 128, "batch_size": 1}),
        "6": ("KSampler", {**links, **sampler}),
        "7": ("VAEDecode", {"samples": ["6", 0], "vae": ["1", 2]}),
        "8": ("SaveImage", {"images": ["7", 0], "filename_prefix": "random_weights"}),
        "9": ("SaveTIMEEdit", {"lora": ["2", 1], "filename_prefix": "blue_roses", "folder": "loras"}),
    }
    return {number: {"class_type": kind, "inputs": inputs} for number, (kind, inputs) in nodes.items()}


def run_in_host(base: Path, console: Console) -> None:
    checkpoint = base / "models/checkpoints/random.safetensors"
    if not checkpoint.exists():
        command = [sys.executable, "-m", "conceptlens.harness.random_checkpoint", "sd1-small", str(checkpoint)]
        subprocess.run(command, check=True)
    console.line("starting ComfyUI")
    with HostServer(base) as host:
        outputs = host.run(example_graph(checkpoint.name))["outputs"]
    console.line(f"ComfyUI ran an example graph on random weights and saved the edit as {outputs['9']['text'][0]}")
    for file in outputs["8"]["images"]:
        console.line(str(base / "output" / file["filename"]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--open", action="store_true")
    arguments = parser.parse_args()
    quiet_libraries()
    console = Console(as_json=False)
    try:
        model = arguments.model or (SMALL_MODEL if SMALL_MODEL.is_dir() else None)
        if model:
            path = picture(model, arguments.out, console)
            console.line(str(path))
            if arguments.open:
                webbrowser.open(path.resolve().as_uri())
        else:
            console.line("No trained model is at hand, so no picture is made; name one with --model PATH.")
        run_in_host(arguments.out / "host", console)
    except (UserError, GraphError, OSError, subprocess.CalledProcessError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
