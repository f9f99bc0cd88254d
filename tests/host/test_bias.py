"""One picture explained, and bias, in the real host on EmojiWorld."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conceptlens.core.pictures.grid import from_pil
from conceptlens.hosting.server import Graph, GraphError, HostServer
from conceptlens.tests.host.graphs import node
from PIL import Image
from torch import Tensor

MIX = "rose: 1, tulip: 0.03, male: 0.02, female: 0.01, car: 0.005, dog: 0.004"
SAMPLING = {"steps": 6, "cfg": 2.5}
SIZE = {"width": 128, "height": 128}


def graph(mix: str = MIX, sampler: str = "euler", **settings: Any) -> Graph:
    """A mix's picture by the host's own sampler, and the same picture explained."""
    model = {"model": ["world", 0], "clip": ["world", 1], "vae": ["world", 2]}
    how = {"sampler_name": sampler, "scheduler": "normal", **SAMPLING}
    links = {
        "model": ["world", 0],
        "positive": ["mixed", 0],
        "negative": ["negative", 0],
        "latent_image": ["latent", 0],
    }
    explain = {"prompt": "a photo of a <>", "seed": 3, "threshold": 0.8, "similar": 0.95, **how, **SIZE, **settings}
    return {
        "world": node("EmojiWorldLoader"),
        "mix": node("TokenMixFromText", clip=["world", 1], text=mix),
        "words": node("VocabEmbed", clip=["world", 1], templates="none", tokens="words", cache=True),
        "mixed": node(
            "TokenMixConditioning",
            clip=["world", 1],
            prompt="a photo of a <>",
            num_tokens=50,
            coefficients="",
            mix=["mix", 0],
        ),
        "negative": node("CLIPTextEncode", clip=["world", 1], text=""),
        "latent": node("EmptyLatentImage", batch_size=1, **SIZE),
        "sampler": node("KSampler", seed=3, denoise=1.0, **how, **links),
        "decoded": node("VAEDecode", samples=["sampler", 0], vae=["world", 2]),
        "explained": node(
            "ImageDecompose",
            **model,
            vocabulary=["words", 0],
            mix=["mix", 0],
            clip_vision=["world", 3],
            **{name: value for name, value in explain.items() if value is not None},
        ),
        "plot": node("TokenMixPlot", mix=["explained", 0], style="bars", top=20),
        "own": node("SaveImage", images=["decoded", 0], filename_prefix="own"),
        "before": node("SaveImage", images=["explained", 1], filename_prefix="before"),
        "after": node("SaveImage", images=["explained", 2], filename_prefix="after"),
        "features": node("SaveImage", images=["explained", 3], filename_prefix="features"),
        "report": node("PreviewAny", source=["explained", 4]),
        "shown": node("SaveImage", images=["plot", 0], filename_prefix="bars"),
    }


def saved(server: HostServer, history: dict[str, Any], name: str) -> Tensor:
    (image,) = history["outputs"][name]["images"]
    return from_pil(Image.open(server.base / "output" / image["subfolder"] / image["filename"]))


@pytest.mark.parametrize("sampler", ["euler", "euler_ancestral"])
def test_the_picture_that_is_explained_is_the_samplers(server: HostServer, sampler: str) -> None:
    """Also of one that adds noise; what remains draws nearly the same, and words that did nothing are gone."""
    history = server.run(graph(sampler=sampler))
    before, after = saved(server, history, "before"), saved(server, history, "after")
    assert torch.equal(before, saved(server, history, "own"))
    assert not torch.equal(before, after)
    (report,) = history["outputs"]["report"]["text"]
    kept = [line.split(":")[0] for line in report.splitlines()[1:]]
    assert kept[0] == "rose"
    assert len(kept) < 6
    assert float(report.split("their picture is ")[1].split()[0]) >= 0.8
    assert "by the image encoder's features" in report


def test_without_an_image_encoder_latents_are_compared(server: HostServer) -> None:
    plain = graph()
    del plain["explained"]["inputs"]["clip_vision"]
    (report,) = server.run(plain)["outputs"]["report"]["text"]
    assert "the VAE's latents" in report


def test_a_picture_that_the_seed_does_not_give_is_refused(server: HostServer) -> None:
    server.run(graph(image=["decoded", 0]))
    with pytest.raises(GraphError, match="has 128 x 128 pixels and the one that is made 64 x 128"):
        server.run(graph(image=["decoded", 0], width=64))
    other = graph(image=["decoded", 0])
    other["other"] = node("TokenMixFromText", clip=["world", 1], text="car: 1")
    other["explained"]["inputs"]["mix"] = ["other", 0]
    with pytest.raises(GraphError, match="give another picture"):
        server.run(other)


def test_a_picture_without_a_seed_is_explained_from_its_noise(server: HostServer) -> None:
    """It is inverted with the whole mix; what is made of that noise is the picture, and not by chance of the seed."""
    how = {"steps": 20, "cfg": 1.0, "sampler": "ddim", "seed": 4, "image": ["decoded", 0]}
    own = graph(**how, latent=["inverted", 0])
    own["sampler"]["inputs"] |= {"seed": 3, "cfg": 2.5}
    own["encoded"] = node("VAEEncode", pixels=["decoded", 0], vae=["world", 2])
    own["sigmas"] = node("BasicScheduler", model=["world", 0], scheduler="normal", steps=20, denoise=1.0)
    own["inverted"] = node(
        "HSpaceInvert",
        model=["world", 0],
        positive=["mixed", 0],
        negative=["negative", 0],
        latent_image=["encoded", 0],
        sigmas=["sigmas", 0],
        cfg=1.0,
        eta=0.0,
        seed=0,
    )
    inverted, seeded = server.run(own), server.run(graph(**{**how, "image": None}))
    picture = saved(server, inverted, "own")
    distances = [(saved(server, history, "before") - picture).abs().mean() for history in (inverted, seeded)]
    assert distances[0] < 0.05
    assert distances[1] > 2 * distances[0]


GROUPS = {"group_a": "male\nrose", "group_b": "female\ntulip, lily"}


def bias_graph(**changes: Any) -> Graph:
    whole = {"model": ["world", 0], "clip": ["world", 1], "vae": ["world", 2], "clip_vision": ["world", 3]}
    settings = {"num_images": 4, "image_size": 128, "sampling_steps": 4, "cfg": 2.5, "seed": 1, "widen": 0}
    inputs = {"mix": ["balanced", 0], "prompt": "a photo of a <>", **GROUPS, **settings, **whole, **changes}
    return {
        "world": node("EmojiWorldLoader"),
        "mix": node("TokenMixFromText", clip=["world", 1], text=MIX),
        "balanced": node("TokenMixBalance", mix=["mix", 0], target=0.25, strength=1.0, **GROUPS),
        "bias": node("ConceptBias", **{name: value for name, value in inputs.items() if value is not None}),
        "report": node("PreviewAny", source=["bias", 0]),
        "chart": node("SaveImage", images=["bias", 1], filename_prefix="bias"),
        "balance": node("PreviewAny", source=["bias", 2]),
    }


def test_a_balanced_mix_is_told_to_be(server: HostServer) -> None:
    history = server.run(bias_graph())
    (report,), (balance,) = (history["outputs"][name]["text"] for name in ("report", "balance"))
    assert float(balance) == pytest.approx(0.25)
    assert report.count("in the mix: 25% to 75%") == 2
    assert report.count("in 4 pictures: ") == 2
    chart = saved(server, history, "chart")
    assert chart.shape[1] == 640
    assert chart.std() > 0.1


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"vae": None}, "connected without vae"),
        ({"group_a": "king", "group_b": "queen"}, "None of king is in the mix, whose nearest words are"),
        ({"clip": None, "model": None, "widen": 3}, "widen is 3 without a text encoder"),
        ({"group_a": "male", "group_b": "female\ntulip"}, "1 lines and group_b 2"),
        ({"prompt": "a photo"}, "has no <>"),
    ],
)
def test_unusable_questions_are_one_sentence(server: HostServer, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(GraphError) as error:
        server.run(bias_graph(**changes))
    assert says in f"{error.value} {error.value.details}"


def edit_graph(**changes: Any) -> Graph:
    """Mechanics, nearly all men in EmojiWorld, edited towards women."""
    whole = {"model": ["world", 0], "clip": ["world", 1], "vae": ["world", 2], "clip_vision": ["world", 3]}
    settings = {"regularization": 3.0, "edit_keys": True, "augment": True, "strength": 1.0, "preserve": "", "rank": 0}
    pictures = {"num_images": 8, "image_size": 128, "sampling_steps": 6, "cfg": 2.5, "seed": 1}
    groups = {"group_a": "male", "group_b": "female", "target": 0.5}
    inputs = {"edits": "a photo of a mechanic => a photo of a female mechanic", **settings, **pictures, **groups}
    inputs |= {**whole, **changes}
    return {
        "world": node("EmojiWorldLoader"),
        "edit": node("TIMEEditBatch", **{name: value for name, value in inputs.items() if value is not None}),
        "report": node("PreviewAny", source=["edit", 2]),
    }


def strength_and_share(server: HostServer, **changes: Any) -> tuple[float, float]:
    (report,) = server.run(edit_graph(**changes))["outputs"]["report"]["text"]
    edit, *_, told = report.splitlines()
    strength = float(edit.partition(", strength ")[2] or 1)
    return strength, float(told.partition("mechanic: male ")[2].partition("%")[0]) / 100


def test_an_edit_is_as_strong_as_a_wanted_share_needs(server: HostServer) -> None:
    """None at all for the share that there is, all of it for what is beyond it, and part of it between."""
    strength, men = strength_and_share(server, target=1.0)
    assert (strength, men > 0.75) == (0, True)
    strength, fewest = strength_and_share(server, target=0.0)
    assert (0 < strength <= 1, fewest < 0.25) == (True, True)
    strength, share = strength_and_share(server, target=0.5)
    assert 0 < strength < 1
    assert abs(share - 0.5) <= 0.25


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"vae": None}, "vae and clip_vision, and one of them is missing"),
        ({"group_a": "male\nyoung", "group_b": "female\nold"}, "several lines"),
    ],
)
def test_a_share_that_can_not_be_counted_is_refused(server: HostServer, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(GraphError) as error:
        server.run(edit_graph(**changes))
    assert says in f"{error.value} {error.value.details}"
