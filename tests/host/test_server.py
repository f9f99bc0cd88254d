"""The pack in a real host, driven as its users' graphs drive it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import numpy as np
import pytest
import torch
from conceptlens.hosting.server import Graph, GraphError, HostServer
from conceptlens.tests.host.graphs import (
    EDIT,
    SETTINGS,
    edit_node,
    edited_graph,
    executed_nodes,
    node,
    run_to_latent,
    sampling_graph,
    watch,
)
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file


def refresh(server: HostServer) -> None:
    """Runs a graph without our nodes, after which the host's classic cache holds no other sampler's result."""
    server.run(sampling_graph(seed=999, steps=1))


def test_pack_loads_without_a_warning(server: HostServer) -> None:
    start, _, _ = server.log().partition("To see the GUI")  # what other tests provoke comes later
    lines = [line for line in start.splitlines() if "conceptlens" in line.lower()]
    assert any("seconds" in line for line in lines)
    assert not any("fail" in line.lower() or "error" in line.lower() or "warn" in line.lower() for line in lines)


def test_a_new_base_is_all_that_the_host_expects(server: HostServer) -> None:
    start, _, _ = server.log().partition("To see the GUI")
    assert "Database upgraded from None" in start
    assert not any(word in start.lower() for word in ("[error]", "failed", "traceback"))
    assert (server.base / "user/comfyui.db").is_file()


def test_undo_is_clean(server: HostServer) -> None:
    plain = run_to_latent(server, sampling_graph())
    edited = run_to_latent(server, edited_graph())
    half = run_to_latent(server, edited_graph(strength=0.5))
    again = run_to_latent(server, edited_graph())
    none = run_to_latent(server, edited_graph(strength=0.0))
    undone = run_to_latent(server, sampling_graph())
    assert torch.equal(plain, undone)
    assert torch.equal(plain, none)
    assert torch.equal(edited, again)
    distances = [float((latent - plain).norm() / plain.norm()) for latent in (half, edited)]
    assert min(distances) > 1e-3
    assert distances[0] != distances[1]


def test_model_is_clean_after_cancel_while_sampling(server: HostServer) -> None:
    refresh(server)
    plain, edited = run_to_latent(server, sampling_graph()), run_to_latent(server, edited_graph())
    messages = asyncio.run(watch(server, edited_graph(seed=2, steps=400), interrupt_at="sampler"))
    assert messages[-1]["type"] == "execution_interrupted"
    steps = [m["data"]["value"] for m in messages if m["type"] == "progress" and m["data"]["node"] == "sampler"]
    assert 2 <= max(steps) < 100
    assert torch.equal(plain, run_to_latent(server, sampling_graph()))
    assert torch.equal(edited, run_to_latent(server, edited_graph()))


def test_model_is_clean_after_an_error_in_our_node(server: HostServer) -> None:
    refresh(server)
    plain = run_to_latent(server, sampling_graph())
    with pytest.raises(GraphError, match='lacks the source\'s word "pack"'):
        server.run(edited_graph(destination="a bouquet of roses"))
    refresh(server)
    assert torch.equal(plain, run_to_latent(server, sampling_graph()))


def test_progress_is_reported(server: HostServer) -> None:
    refresh(server)
    messages = asyncio.run(watch(server, edited_graph(seed=3)))
    steps = [m["data"] for m in messages if m["type"] == "progress" and m["data"]["node"] == "edit"]
    assert steps
    assert steps[-1]["value"] == steps[-1]["max"] == 14


def test_same_graph_twice_is_taken_from_the_cache(server: HostServer) -> None:
    graph = edited_graph(seed=4)
    server.run(graph)
    assert executed_nodes(server.run(graph), graph) == set()


def test_saved_edit_gives_the_live_picture_through_stock_loaders(server: HostServer) -> None:
    refresh(server)
    save = node("SaveTIMEEdit", lora=["edit", 1], filename_prefix="edits/roses", folder="loras")
    graph = {**edited_graph(), "file": save, "stock": node("SaveLoRA", lora=["edit", 1], prefix="loras/stock")}
    history = server.run(graph)
    path = history["outputs"]["file"]["text"][0]
    assert path == str(server.base / "models/loras/edits/roses_00001_.safetensors")
    live = run_to_latent(server, edited_graph(seed=1, steps=3, rank=0, preserve="\n"))  # blank lines preserve nothing
    socket = node("LoraModelLoader", model=["loader", 0], lora=["edit", 1], strength_model=1.0, bypass=False)
    from_socket = run_to_latent(server, sampling_graph({"edit": edit_node(), "load": socket}, ["load", 0]))
    lora_name = "edits/roses_00001_.safetensors"
    file = node("LoraLoaderModelOnly", model=["loader", 0], lora_name=lora_name, strength_model=1.0)
    from_file = run_to_latent(server, sampling_graph({"load": file}, ["load", 0]))
    plain = run_to_latent(server, sampling_graph())
    assert torch.equal(from_socket, from_file)
    assert (from_file - live).norm() < 5e-3 * (live - plain).norm()
    with safe_open(path, framework="pt") as saved:
        assert json.loads(saved.metadata()["prompt"])["edit"]["inputs"]["destination"] == EDIT["destination"]
    stock = load_file(next((server.base / "output/loras").glob("stock_*.safetensors")))
    ours = load_file(path)
    assert stock.keys() == ours.keys()
    assert all(torch.equal(stock[key], ours[key]) for key in ours)
    assert "lora key not loaded" not in server.log()


@pytest.mark.parametrize("how", [{}, {"regularize": "relative"}, {"preserve": "a tulip", "preserve_mode": "exact"}])
def test_an_edited_prompt_draws_what_the_edited_model_does(server: HostServer, how: dict[str, Any]) -> None:
    """On the model as it is; at half of the strength as well."""
    refresh(server)
    plain = run_to_latent(server, sampling_graph())
    for strength in (1.0, 0.5):
        graph = sampling_graph({"edit": edit_node(**how)})
        for name in ("positive", "negative"):
            prompt = node("TIMEEditConditioning", conditioning=[name, 0], edit=["edit", 3], strength=strength)
            graph[f"edited {name}"] = prompt
            graph["sampler"]["inputs"][name] = [f"edited {name}", 0]
        by_prompt = run_to_latent(server, graph)
        by_weights = run_to_latent(server, edited_graph(strength=strength, **how))
        assert (by_prompt - by_weights).norm() < 5e-3 * (by_weights - plain).norm()


def test_a_graph_without_the_unit_of_lambda_means_an_absolute_one(server: HostServer) -> None:
    refresh(server)
    units: list[dict[str, Any]] = [{}, {"regularize": "absolute"}, {"regularize": "relative"}]
    one, other, relative = (run_to_latent(server, edited_graph(**unit)) for unit in units)
    assert torch.equal(one, other)
    assert not torch.allclose(one, relative, atol=1e-3)


def test_saving_again_takes_the_next_number(server: HostServer) -> None:
    save = node("SaveTIMEEdit", lora=["edit", 1], filename_prefix="numbered", folder="output")
    for number, strength in enumerate((0.7, 0.8), start=1):
        history = server.run({**edited_graph(strength=strength), "file": save})
        assert history["outputs"]["file"]["text"] == [str(server.base / f"output/numbered_{number:05}_.safetensors")]


def test_chained_edits_start_from_the_weights_as_they_arrive(server: HostServer) -> None:
    refresh(server)
    houses = {"source": "a house", "destination": "a burning house"}
    both = {"first": edit_node(**houses), "second": edit_node(["first", 0])}
    chained = run_to_latent(server, sampling_graph(both, ["second", 0]))
    saves = {
        name: node("SaveTIMEEdit", lora=[name, 1], filename_prefix=name, folder="loras") for name in ("first", "second")
    }
    server.run({**sampling_graph(both, ["second", 0]), **{f"save {k}": v for k, v in saves.items()}})
    files = {"lora_name": "first_00001_.safetensors"}, {"lora_name": "second_00001_.safetensors"}
    loads = {
        "one": node("LoraLoaderModelOnly", model=["loader", 0], strength_model=1.0, **files[0]),
        "two": node("LoraLoaderModelOnly", model=["one", 0], strength_model=1.0, **files[1]),
    }
    refresh(server)
    loaded = run_to_latent(server, sampling_graph(loads, ["two", 0]))
    plain = run_to_latent(server, sampling_graph())
    assert (loaded - chained).norm() < 5e-3 * (chained - plain).norm()


def test_batch_of_one_is_the_single_edit(server: HostServer) -> None:
    refresh(server)
    edits = f"\n{EDIT['source']} => {EDIT['destination']}\n"
    batch = node("TIMEEditBatch", model=["loader", 0], clip=["loader", 1], edits=edits, **SETTINGS)
    found = run_to_latent(server, sampling_graph({"edit": batch}, ["edit", 0]))
    assert torch.equal(found, run_to_latent(server, edited_graph()))


def test_sweep_fills_a_labelled_grid(server: HostServer) -> None:
    graph = edited_graph(strength=["sweep", 0])
    graph |= {
        "sweep": node("StrengthSweep", start=-1.0, stop=1.0, count=3),
        "decode": node("VAEDecode", samples=["sampler", 0], vae=["loader", 2]),
        "grid": node("LabelledGrid", images=["decode", 0], labels=["sweep", 1], columns=3),
        "image": node("SaveImage", images=["grid", 0], filename_prefix="grid"),
        "one": node("SaveImage", images=["decode", 0], filename_prefix="one"),
    }
    outputs = server.run(graph)["outputs"]
    singles = [Image.open(server.base / "output" / file["filename"]) for file in outputs["one"]["images"]]
    assert len(singles) == 3
    pictures = [np.asarray(single) for single in singles]
    grid = np.asarray(Image.open(server.base / "output" / outputs["image"]["images"][0]["filename"]))
    assert grid.shape[0] < 2 * 64 < 3 * 64 <= grid.shape[1]
    for picture in pictures:
        places = np.lib.stride_tricks.sliding_window_view(grid, picture.shape)[:, :, 0]
        assert (places[:, :, ::37, ::37] == picture[::37, ::37]).all((2, 3, 4)).any()
    assert not np.array_equal(pictures[0], pictures[2])


BAD: list[tuple[dict[str, Any], str]] = [
    ({"source": " "}, "The source is empty"),
    ({"destination": ""}, "The destination is empty"),
    ({"regularization": 0.0}, "Value 0.0 smaller than min"),
    ({"rank": -1}, "Value -1 smaller than min"),
    ({"destination": "a bouquet of blue roses"}, 'lacks the source\'s word "pack"'),
    ({"source": "a (rose:1.2)", "destination": "a blue (rose:1.2)"}, "contains a weight"),
    ({"source": "rose " * 80, "destination": "rose " * 80 + "blue"}, "82 tokens and 77 fit"),
]


def told(server: HostServer, graph: Graph) -> str:
    """What the user is shown: the host's account of a refused graph, or the message of the node that stopped it."""
    with pytest.raises(GraphError) as error:
        server.run(graph)
    errors = error.value.details.get("node_errors", {})
    return " ".join(f"{e['message']}: {e['details']}" for n in errors.values() for e in n["errors"]) or str(error.value)


@pytest.mark.parametrize(("changes", "says"), BAD)
def test_bad_input_is_one_sentence(server: HostServer, changes: dict[str, Any], says: str) -> None:
    message = told(server, edited_graph(**changes))
    assert says in message
    assert "Traceback" not in message


@pytest.mark.parametrize("name", ["../../escaped", "/somewhere/else", "a/../../b", "", "..", "a\0b", "a\nb"])
def test_file_names_stay_inside_the_folder(server: HostServer, name: str) -> None:
    before = set(server.base.parent.rglob("*.safetensors"))
    for folder in ("loras", "output"):
        save = node("SaveTIMEEdit", lora=["edit", 1], filename_prefix=name, folder=folder)
        assert "is empty or leaves the folder" in told(server, {**edited_graph(), "file": save})
    assert set(server.base.parent.rglob("*.safetensors")) == before


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"folder": "checkpoints"}, "folder is 'checkpoints'; choose loras, output"),
        ({"filename_prefix": "x" * 400}, "File name too long"),
    ],
)
def test_places_that_can_not_be_written_are_explained(server: HostServer, changes: dict[str, Any], says: str) -> None:
    options = {"filename_prefix": "edit", "folder": "loras", **changes}
    assert says in told(server, {**edited_graph(), "file": node("SaveTIMEEdit", lora=["edit", 1], **options)})


def test_saving_an_edit_of_strength_zero_is_explained(server: HostServer) -> None:
    save = node("SaveTIMEEdit", lora=["edit", 1], filename_prefix="nothing", folder="loras")
    assert "changes nothing" in told(server, {**edited_graph(strength=0.0), "file": save})


def test_wrong_number_of_labels_is_explained(server: HostServer) -> None:
    graph = {
        "empty": node("EmptyImage", width=32, height=32, batch_size=3, color=0),
        "sweep": node("StrengthSweep", start=0.0, stop=1.0, count=2),
        "grid": node("LabelledGrid", images=["empty", 0], labels=["sweep", 1], columns=0),
        "image": node("PreviewImage", images=["grid", 0]),
    }
    assert "2 labels came with 3 pictures" in told(server, graph)
