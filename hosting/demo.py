"""`python run.py demo`: an edit that one sees, made by a real ComfyUI on the model that comes with the pack.

The path of the picture is printed on a line of its own.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import webbrowser
from functools import partial
from pathlib import Path

from ..core.errors import UserError
from .server import Graph, GraphError, HostServer, add_node

EDIT = {"source": "a rose", "destination": "a blue rose", "preserve": "a tulip\nan apple"}
PROMPTS = ("a rose", "a photo of a rose", "a tulip", "an apple", "a car", "a mechanic")
PICTURES = 2  # of a prompt


def before_and_after() -> Graph:
    """Roses turned blue: the edited prompt, a related one, two preserved and two unrelated ones, before and after."""
    options = {"edit_keys": True, "augment": True, "strength": 1.0, "rank": 0}
    options |= {"regularization": 0.1, "regularize": "relative"}
    sampling = {"seed": 1, "steps": 25, "cfg": 2.5, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    graph: Graph = {}
    add = partial(add_node, graph)
    before = add("world", "EmojiWorldLoader")
    clip, vae = ["world", 1], ["world", 2]
    after = add("edit", "TIMEEditModel", model=before, clip=clip, **EDIT, **options)
    add("saved edit", "SaveTIMEEdit", lora=["edit", 1], filename_prefix="blue_roses", folder="loras")
    add("report", "PreviewAny", source=["edit", 2])
    latent = add("latent", "EmptyLatentImage", width=128, height=128, batch_size=PICTURES)
    negative = add("negative", "CLIPTextEncode", clip=clip, text="")
    images, labels = None, []
    for prompt in PROMPTS:
        positive = add(prompt, "CLIPTextEncode", clip=clip, text=prompt)
        for label, model in (("before", before), ("after", after)):
            name = f"{prompt} ({label})"
            links = {"model": model, "positive": positive, "negative": negative, "latent_image": latent}
            sampled = add(f"sampled {name}", "KSampler", **links, **sampling)
            pictures = add(f"pictures {name}", "VAEDecode", samples=sampled, vae=vae)
            images = add(f"until {name}", "ImageBatch", image1=images, image2=pictures) if images else pictures
            labels += [name] * PICTURES
    lines = add("labels", "PrimitiveStringMultiline", value="\n".join(labels))
    grid = add("grid", "LabelledGrid", images=images, labels=lines, columns=4 * PICTURES)
    add("saved picture", "SaveImage", images=grid, filename_prefix="time_edit")
    return graph


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--open", action="store_true")
    arguments = parser.parse_args()
    base = arguments.out / "host"
    try:
        print("starting ComfyUI", flush=True)
        with HostServer(base) as host:
            outputs = host.run(before_and_after())["outputs"]
        picture = arguments.out / "time_edit.png"
        shutil.copyfile(base / "output" / outputs["saved picture"]["images"][0]["filename"], picture)
    except (UserError, GraphError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    print(outputs["report"]["text"][0])
    print(f"saved as a LoRA: {outputs['saved edit']['text'][0]}")
    print(picture)
    if arguments.open:
        webbrowser.open(picture.resolve().as_uri())
    return 0


if __name__ == "__main__":
    sys.exit(main())
