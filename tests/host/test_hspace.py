"""h-space in the host: what is recorded while it samples, and that a direction can be undone."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from conceptlens.hosting.server import Graph, GraphError, HostServer
from conceptlens.tests.host.graphs import Link, node, sampling_graph, saved_latent
from safetensors import safe_open
from torch import Tensor


def sample_node(**changes: Any) -> dict[str, Any]:
    links = {"model": ["loader", 0], "positive": ["positive", 0], "negative": ["negative", 0], "vae": ["loader", 2]}
    settings = {"samples": 3, "seed": 5, "steps": 3, "cfg": 5.0, "sampler_name": "euler", "scheduler": "normal"}
    settings |= {"width": 64, "height": 64, "batch_size": 2, "position": "after"}
    return node("HSpaceSample", **links, **{**settings, **changes})


def directed(scale: float = 1.0, /, seed: int = 1, sampling: dict[str, Any] | None = None, **changes: Any) -> Graph:
    """A latent sampled along the first principal component."""
    options = {"index": 0, "scale": scale, "start_percent": 0.0, "end_percent": 1.0, "apply_to": "both", **changes}
    extra = {
        "samples": sample_node(**(sampling or {})),
        "pca": node("HSpacePCA", samples=["samples", 0], components=2, per_step=True),
        "direction": node("HSpaceDirection", model=["loader", 0], directions=["pca", 0], **options),
    }
    return sampling_graph(extra, ["direction", 0], seed)


def latent(server: HostServer, graph: Graph) -> Tensor:
    return saved_latent(server, server.run(graph))


def distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm())


def test_a_direction_is_undone(server: HostServer) -> None:
    plain = latent(server, sampling_graph())
    shifted = latent(server, directed(2.0))
    assert distance(shifted, plain) > 1e-3
    assert torch.equal(latent(server, directed(0.0)), plain)
    assert torch.equal(latent(server, directed(2.0)), shifted)
    assert torch.equal(latent(server, sampling_graph()), plain)


def test_directions_in_a_row_add_up(server: HostServer) -> None:
    once = latent(server, directed(2.0))
    twice = directed(1.5)
    twice["more"] = node("HSpaceDirection", **{**twice["direction"]["inputs"], "model": ["direction", 0], "scale": 0.5})
    twice["sampler"]["inputs"]["model"] = ["more", 0]
    assert distance(latent(server, twice), once) < 1e-3
    back = directed(1.5)
    back["more"] = node("HSpaceDirection", **{**back["direction"]["inputs"], "model": ["direction", 0], "scale": -1.5})
    back["sampler"]["inputs"]["model"] = ["more", 0]
    assert distance(latent(server, back), latent(server, sampling_graph())) < 1e-3


def test_a_window_and_the_positive_prompt_alone_do_less(server: HostServer) -> None:
    plain, whole = latent(server, sampling_graph()), latent(server, directed(2.0))
    late = latent(server, directed(2.0, start_percent=0.9))
    prompted = latent(server, directed(2.0, apply_to="positive"))
    assert 0 < distance(late, plain) < distance(whole, plain)
    assert distance(prompted, whole) > 1e-3
    assert distance(prompted, plain) > 1e-3


@pytest.mark.parametrize(
    "sampling",
    [
        {"sampler_name": "heun"},
        {"sampler_name": "dpmpp_2m_sde", "scheduler": "karras"},
        {"sampler_name": "dpm_2_ancestral", "scheduler": "exponential"},
        {"sampler_name": "lcm", "cfg": 1.0},
        {"position": "before"},
        {"position": "inside"},
        {"width": 128, "height": 64},
    ],
    ids=lambda sampling: " ".join(map(str, sampling.values())),
)
def test_the_bottleneck_is_recorded_whatever_samples(server: HostServer, sampling: dict[str, Any]) -> None:
    graph = directed(2.0, sampling=sampling)
    if "width" in sampling:
        graph["latent"]["inputs"] |= {"width": 128}
    plain = sampling_graph()
    plain["latent"] = graph["latent"]
    assert distance(latent(server, graph), latent(server, plain)) > 1e-3


def jacobian(**changes: Any) -> Graph:
    links = {"model": ["loader", 0], "positive": ["positive", 0], "negative": ["negative", 0]}
    settings = {"seed": 1, "steps": 3, "cfg": 5.0, "sampler_name": "euler", "scheduler": "normal"}
    settings |= {"width": 64, "height": 64, "components": 2, "iterations": 4, "tolerance": 1e-4}
    settings |= {"at_percent": "0.5", "position": "after", **changes}
    graph = directed(0.05)
    del graph["samples"]
    graph["pca"] = node("HSpaceJacobian", **links, **settings)
    return graph


def test_a_mask_chooses_where_a_picture_changes(server: HostServer) -> None:
    plain = latent(server, sampling_graph())
    shares = []
    for left, rest in ((1.0, 0.0), (0.0, 1.0)):
        graph = jacobian(mask=["mask", 0])
        graph["half"] = node("SolidMask", value=left, width=32, height=64)
        graph["all"] = node("SolidMask", value=rest, width=64, height=64)
        where = {"destination": ["all", 0], "source": ["half", 0], "x": 0, "y": 0}
        graph["mask"] = node("MaskComposite", **where, operation="add" if left else "multiply")
        change = (latent(server, graph) - plain).square()
        assert change.sum() > 0
        shares.append(float(change[..., :4].sum() / change.sum()))
    assert shares[0] > shares[1]


def test_levels_are_chosen_by_parts_of_the_sampling(server: HostServer) -> None:
    graph = jacobian(at_percent="0.1", position="before")
    assert distance(latent(server, graph), latent(server, sampling_graph())) > 0
    with pytest.raises(GraphError) as error:
        server.run(jacobian(at_percent="often"))
    assert "is not a list of numbers" in str(error.value.details)


def test_a_contrast_with_itself_changes_nothing(server: HostServer) -> None:
    graph = directed(3.0)
    graph["pca"] = node("HSpaceContrast", positive_samples=["samples", 0], negative_samples=["samples", 0])
    assert torch.equal(latent(server, graph), latent(server, sampling_graph()))


def test_directions_are_kept_in_a_file(server: HostServer) -> None:
    saving = directed(2.0)
    saving["kept"] = node("SaveHSpaceDirections", directions=["pca", 0], filename_prefix="found/first")
    expected = latent(server, saving)
    loading = {name: part for name, part in directed(2.0).items() if name not in ("samples", "pca")}
    loading["pca"] = node("LoadHSpaceDirections", file="found/first_00001_.safetensors")
    (file,) = server.base.rglob("hspace_directions/found/first_00001_.safetensors")
    with safe_open(file, framework="pt") as kept:  # with the graph that made it, as the host's own files
        assert json.loads(kept.metadata()["prompt"])["kept"]["inputs"]["filename_prefix"] == "found/first"
    assert distance(latent(server, loading), expected) < 1e-2  # half precision


def test_pictures_are_the_samplers_own(server: HostServer) -> None:
    """A sample's picture is the one that KSampler makes of its seed."""
    graph = sampling_graph(seed=6)
    graph["samples"] = sample_node()
    graph["image"] = node("VAEDecode", samples=["sampler", 0], vae=["loader", 2])
    graph["second"] = node("ImageFromBatch", image=["samples", 1], batch_index=1, length=1)
    outputs = {"alone": ["image", 0], "recorded": ["second", 0]}
    for name, link in outputs.items():
        graph[name] = node("SaveImage", images=link, filename_prefix=name)
    shown = server.run(graph)["outputs"]
    one, other = (picture(server, shown[name]["images"][0]) for name in outputs)
    assert (one - other).abs().max() <= 2 / 255


def custom(scale: float, /, eta: float = 0.0, **links: Link) -> Graph:
    """The same, sampled by SamplerCustom."""
    graph = directed(scale)
    chosen: dict[str, Any] = {
        "model": ["direction", 0],
        "sampler": ["asyrp", 0],
        "latent_image": ["latent", 0],
        **links,
    }
    graph["asyrp"] = node("SamplerAsyrp", eta=eta)
    graph["sigmas"] = node("BasicScheduler", model=["loader", 0], scheduler="normal", steps=3, denoise=1.0)
    conditionings = {"positive": ["positive", 0], "negative": ["negative", 0], "sigmas": ["sigmas", 0]}
    noise = {"add_noise": "latent_image" not in links, "noise_seed": 1, "cfg": 5.0}
    graph["sampler"] = node("SamplerCustom", **noise, **conditionings, **chosen)
    return graph


def test_the_asymmetric_sampler_is_ddim_without_a_shift(server: HostServer) -> None:
    graph = custom(2.0, model=["loader", 0])
    plain = sampling_graph()
    plain["sampler"]["inputs"]["sampler_name"] = "ddim"
    assert distance(latent(server, graph), latent(server, plain)) < 1e-5


def test_the_asymmetric_sampler_shifts_the_predicted_picture_alone(server: HostServer) -> None:
    plain = latent(server, custom(2.0, model=["loader", 0]))
    once, twice = latent(server, custom(2.0)), latent(server, directed(2.0))
    assert distance(once, plain) > 1e-3
    assert distance(once, twice) > 1e-3
    noisy = latent(server, custom(2.0, eta=1.0))
    assert distance(noisy, once) > 1e-2
    assert torch.equal(latent(server, custom(2.0, eta=1.0)), noisy)


def inverted(scale: float, eta: float, **changes: Any) -> Graph:
    """A picture inverted and sampled again."""
    graph = custom(scale, latent_image=["inverse", 0], sampler=["inverse", 1])
    graph["picture"] = node("KSampler", **sampling_graph(seed=8)["sampler"]["inputs"])
    links = {"positive": ["positive", 0], "negative": ["negative", 0], "sigmas": ["sigmas", 0]}
    settings = {"latent_image": ["picture", 0], "cfg": 5.0, "eta": eta, "seed": 0, **changes}
    graph["inverse"] = node("HSpaceInvert", model=["loader", 0], **links, **settings)
    return graph


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_an_inverted_picture_comes_back_and_can_be_changed(server: HostServer, eta: float) -> None:
    own = latent(server, sampling_graph(seed=8))
    assert distance(latent(server, inverted(0.0, eta)), own) < 1e-4
    assert distance(latent(server, inverted(2.0, eta)), own) > 1e-3


def test_an_inverted_picture_needs_its_own_levels(server: HostServer) -> None:
    graph = inverted(0.0, 0.0)
    graph["others"] = node("BasicScheduler", model=["loader", 0], scheduler="karras", steps=3, denoise=1.0)
    graph["sampler"]["inputs"]["sigmas"] = ["others", 0]
    with pytest.raises(GraphError, match="connect the same sigmas to both"):
        server.run(graph)
    with pytest.raises(GraphError, match="The latent is empty"):
        server.run(inverted(0.0, 0.0, latent_image=["latent", 0]))


def world_graph(**changes: Any) -> Graph:
    """Roses of EmojiWorld, parted by text."""
    graph = directed(1.0)
    graph["loader"] = node("EmojiWorldLoader")
    graph["positive"]["inputs"]["text"] = "a photo of flowers"
    how = {"samples": 8, "steps": 6, "cfg": 2.5, "batch_size": 8}
    graph["samples"] = sample_node(**how)
    texts = {"positive_text": "a bouquet", "negative_text": "a rose", "count": 2, "balance": ""}
    links: dict[str, Any] = {
        "samples": ["samples", 0],
        "images": ["samples", 1],
        "clip_vision": ["loader", 3],
        "clip": ["loader", 1],
    }
    graph["pca"] = node("HSpaceContrastByText", **{**links, **texts, **changes})
    graph["ends"] = node("SaveImage", images=["pca", 1], filename_prefix="ends")
    graph["all"] = node("SaveImage", images=["samples", 1], filename_prefix="all")
    return graph


def test_pictures_are_parted_by_text_and_by_choice(server: HostServer) -> None:
    """What the text chose, chosen by hand, is the same direction."""
    graph = world_graph()
    history = server.run(graph)
    shown = {name: [picture(server, one) for one in history["outputs"][name]["images"]] for name in ("ends", "all")}
    places = [next(n for n, one in enumerate(shown["all"]) if torch.equal(one, end)) for end in shown["ends"]]
    assert len(set(places)) == 4
    sides = {"positive_pictures": str(places[:2])[1:-1], "negative_pictures": str(places[2:])[1:-1]}
    graph["pca"] = node("HSpaceContrastByChoice", samples=["samples", 0], **sides)
    del graph["ends"]
    assert torch.equal(latent(server, graph), saved_latent(server, history))
    graph["pca"]["inputs"]["negative_pictures"] = "8"
    with pytest.raises(GraphError, match="no picture 8; the set has 8"):
        server.run(graph)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"count": 5}, "has 8 in all"),
        ({"images": ["ends", 0]}, "connect both outputs"),
        ({"balance": "a man"}, "two texts with a comma"),
        ({"positive_text": " "}, "Both texts are needed"),
    ],
    ids=["count", "images", "balance", "text"],
)
def test_what_can_not_be_parted_is_one_sentence(server: HostServer, changes: dict[str, Any], says: str) -> None:
    graph = world_graph(**changes)
    graph["ends"] = node("ImageFromBatch", image=["samples", 1], batch_index=0, length=1)
    with pytest.raises(GraphError) as error:
        server.run(graph)
    assert says in f"{error.value} {error.value.details}"


def picture(server: HostServer, image: dict[str, str]) -> Tensor:
    from conceptlens.core.pictures.grid import from_pil
    from PIL import Image

    return from_pil(Image.open(server.base / "output" / image["subfolder"] / image["filename"]))


BAD: list[tuple[dict[str, Any], str]] = [
    ({"pca": {"components": 3}}, "at most 2 principal components"),
    ({"direction": {"index": 2}}, "There is no direction 2; there are 2"),
    ({"direction": {"start_percent": 0.5, "end_percent": 0.5}}, "let it end after it starts"),
    ({"latent": {"width": 256}}, "of another shape"),
]


@pytest.mark.parametrize(("changes", "says"), BAD, ids=[says for _, says in BAD])
def test_bad_input_is_one_sentence(server: HostServer, changes: dict[str, dict[str, Any]], says: str) -> None:
    graph = directed(2.0)
    for name, values in changes.items():
        graph[name]["inputs"] |= values
    with pytest.raises(GraphError) as error:
        server.run(graph)
    assert says in f"{error.value} {error.value.details}"


def test_samples_of_other_levels_are_no_contrast(server: HostServer) -> None:
    graph = directed(2.0)
    graph["others"] = sample_node(steps=4)
    both: dict[str, Link] = {"positive_samples": ["samples", 0], "negative_samples": ["others", 0]}
    graph["pca"] = node("HSpaceContrast", **both)
    with pytest.raises(GraphError, match=r"3 noise levels.*4 noise levels"):
        server.run(graph)
