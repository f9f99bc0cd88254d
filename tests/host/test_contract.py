"""What a user finds of every node: its inputs, help page and names, and the graphs that use it."""

from __future__ import annotations

import json
import urllib.request
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from conceptlens.hosting.server import HostServer
from conceptlens.tests.conftest import ROOT
from conceptlens.tests.host.graphs import SETTINGS
from PIL import Image

CONTRACT: dict[str, tuple[dict[str, Any], list[str]]] = {
    "TIMEEditModel": (
        {"model": None, "clip": None, "source": "", "destination": "", **SETTINGS},
        ["model", "lora", "report", "edit"],
    ),
    "TIMEEditBatch": ({"model": None, "clip": None, "edits": "", **SETTINGS}, ["model", "lora", "report", "edit"]),
    "TIMEEditConditioning": ({"conditioning": None, "edit": None, "strength": 1.0}, ["conditioning"]),
    "SaveTIMEEdit": ({"lora": None, "filename_prefix": "time_edit", "folder": "loras"}, ["path"]),
    "VocabEmbed": (
        {"clip": None, "templates": "conceptor27", "tokens": "words", "cache": True},
        ["vocabulary", "report"],
    ),
    "VocabSearch": ({"vocabulary": None, "clip": None, "text": "", "top": 20}, ["tokens", "mix"]),
    "ConceptDecompose": (
        {
            "model": None,
            "clip": None,
            "vae": None,
            "vocabulary": None,
            "concept": "",
            "prompt": "a photo of a {}",
            "num_tokens": 50,
            "dictionary_size": 5000,
            "steps": 0,
            "batch_size": 0,
            "learning_rate": 0.0,
            "sparsity": 0.001,
            "num_images": 0,
            "image_size": 512,
            "cfg": 7.5,
            "sampling_steps": 0,
            "validate_every": 0,
            "validation_images": 0,
            "exclude_concept": True,
            "seed": 0,
        },
        ["mix", "images", "reconstructions", "chart", "report"],
    ),
    "TokenMixFromText": ({"clip": None, "text": ""}, ["mix"]),
    "TokenMixConditioning": (
        {"clip": None, "prompt": "a photo of a <>", "num_tokens": 50, "coefficients": ""},
        ["conditioning", "mix"],
    ),
    "TokenMixPlot": ({"mix": None, "style": "bars", "top": 20}, ["image"]),
    "TokenMixGallery": (
        {
            "model": None,
            "clip": None,
            "vae": None,
            "mix": None,
            "prompt": "a photo of a {}",
            "top": 8,
            "steps": 20,
            "cfg": 7.5,
            "sampler_name": "euler",
            "scheduler": "normal",
            "seed": 0,
            "width": 512,
            "height": 512,
        },
        ["image", "images"],
    ),
    "ImageDecompose": (
        {
            "model": None,
            "clip": None,
            "vae": None,
            "vocabulary": None,
            "mix": None,
            "prompt": "a photo of a <>",
            "seed": 0,
            "steps": 25,
            "cfg": 7.5,
            "width": 512,
            "height": 512,
            "threshold": 0.93,
            "similar": 0.95,
        },
        ["mix", "before", "after", "features", "report"],
    ),
    "ConceptBias": (
        {"mix": None, "group_a": "man, male, he", "group_b": "woman, female, she"},
        ["report", "chart", "balance"],
    ),
    "ConceptCard": ({"mix": None}, ["image"]),
    "ModelAudit": (
        {
            "model": None,
            "clip": None,
            "vae": None,
            "clip_vision": None,
            "words": "doctor, nurse, teacher, judge, cook, pilot, mechanic, scientist, student, farmer, singer, "
            "astronaut",
            "traits": "sex: male | female",
            "prompt": "a photo of a {}",
            "num_images": 32,
            "told_images": 16,
            "steps": 20,
            "cfg": 7.5,
            "sampler_name": "euler",
            "scheduler": "normal",
            "seed": 0,
            "width": 512,
            "height": 512,
            "filename_prefix": "audit",
        },
        ["chart", "report"],
    ),
    "LayerLens": (
        {
            "model": None,
            "clip": None,
            "vae": None,
            "prompt": "",
            "pictures": 6,
            "steps": 20,
            "cfg": 7.5,
            "sampler_name": "euler",
            "scheduler": "normal",
            "seed": 0,
            "width": 512,
            "height": 512,
        },
        ["image", "images"],
    ),
    "TokenMixBalance": (
        {
            "mix": None,
            "group_a": "man, male, he",
            "group_b": "woman, female, she",
            "target": 0.5,
            "strength": 1.0,
        },
        ["mix"],
    ),
    "SaveTokenMix": ({"mix": None, "filename_prefix": "token_mix"}, []),
    "LoadTokenMix": ({"file": None}, ["mix"]),
    "SaveTokenMixEdit": (
        {"mix": None, "clip": None, "model": None, "word": "", "filename_prefix": "token_mix_edit"},
        ["path", "lora"],
    ),
    "SaveTokenMixEmbedding": ({"mix": None, "clip": None, "name": "my_concept"}, ["name"]),
    "HSpaceSample": (
        {
            "model": None,
            "positive": None,
            "negative": None,
            "vae": None,
            "samples": 100,
            "seed": 0,
            "steps": 20,
            "cfg": 7.5,
            "sampler_name": "euler",
            "scheduler": "normal",
            "width": 512,
            "height": 512,
            "batch_size": 4,
            "position": "after",
        },
        ["samples", "images"],
    ),
    "HSpacePCA": ({"samples": None, "components": 10, "per_step": True}, ["directions", "chart"]),
    "HSpaceJacobian": (
        {
            "model": None,
            "positive": None,
            "negative": None,
            "seed": 0,
            "steps": 20,
            "cfg": 7.5,
            "sampler_name": "euler",
            "scheduler": "normal",
            "width": 512,
            "height": 512,
            "components": 3,
            "iterations": 50,
            "tolerance": 1e-4,
            "at_percent": "all",
            "position": "after",
        },
        ["directions", "chart"],
    ),
    "HSpaceContrast": ({"positive_samples": None, "negative_samples": None}, ["directions"]),
    "HSpaceContrastByText": (
        {
            "samples": None,
            "images": None,
            "clip_vision": None,
            "clip": None,
            "positive_text": "a smiling face",
            "negative_text": "a sad face",
            "count": 10,
            "balance": "",
        },
        ["directions", "ranked"],
    ),
    "HSpaceContrastByChoice": (
        {"samples": None, "positive_pictures": "0", "negative_pictures": "1"},
        ["directions"],
    ),
    "HSpaceInvert": (
        {
            "model": None,
            "positive": None,
            "negative": None,
            "latent_image": None,
            "sigmas": None,
            "cfg": 2.5,
            "eta": 1.0,
            "seed": 0,
        },
        ["latent", "sampler"],
    ),
    "SamplerAsyrp": ({"eta": 0.0}, ["sampler"]),
    "HSpaceDisentangle": ({"directions": None, "remove": None, "remove_indices": "0"}, ["directions"]),
    "HSpaceDirection": (
        {
            "model": None,
            "directions": None,
            "index": 0,
            "scale": 1.0,
            "start_percent": 0.0,
            "end_percent": 1.0,
            "apply_to": "both",
        },
        ["model"],
    ),
    "SaveHSpaceDirections": ({"directions": None, "filename_prefix": "directions"}, []),
    "LoadHSpaceDirections": ({"file": None}, ["directions"]),
    "EmojiWorldLoader": ({}, ["model", "clip", "vae", "clip_vision"]),
    "FaceWorldLoader": ({}, ["model", "clip", "vae", "clip_vision"]),
    "StrengthSweep": ({"start": -2.0, "stop": 2.0, "count": 5}, ["value", "label"]),
    "LabelledGrid": ({"images": None, "labels": None, "columns": 0}, ["image"]),
}


@pytest.mark.parametrize("kind", CONTRACT)
def test_node_keeps_its_contract(server: HostServer, kind: str) -> None:
    info = server.get(f"/object_info/{kind}")[kind]
    inputs, outputs = CONTRACT[kind]
    assert info["input_order"].get("required", [])[: len(inputs)] == list(inputs)
    assert info["output_name"] == outputs
    assert info["category"].startswith("ConceptLens/")
    assert info["search_aliases"]
    for name, default in inputs.items():
        options = info["input"]["required"][name][1]
        assert options["tooltip"], name
        if default is not None:
            assert options["default"] == default, name


# Boxes for prompts. Where {} marks the concept's place, the host's dynamic prompts would eat it.
PROMPTS = {
    ("TIMEEditModel", "source"),
    ("TIMEEditModel", "destination"),
    ("TIMEEditModel", "preserve"),
    ("TIMEEditBatch", "edits"),
    ("TIMEEditBatch", "preserve"),
    ("VocabSearch", "text"),
    ("TokenMixConditioning", "prompt"),
    ("ImageDecompose", "prompt"),
    ("ConceptBias", "prompt"),
    ("LayerLens", "prompt"),
    ("HSpaceContrastByText", "positive_text"),
    ("HSpaceContrastByText", "negative_text"),
}


def test_prompt_boxes_have_the_hosts_choices_and_comments(server: HostServer) -> None:
    """As CLIP Text Encode's box has them: the page draws a choice and drops comments before it sends the graph."""
    information = server.get("/object_info")
    boxes = {
        (kind, name): options
        for kind in ("CLIPTextEncode", *CONTRACT)
        for inputs in information[kind]["input"].values()
        for name, (type_, options, *_) in ((name, [*given, {}]) for name, given in inputs.items())
        if type_ == "STRING"
    }
    assert {box for box, options in boxes.items() if options.get("dynamicPrompts")} == {
        ("CLIPTextEncode", "text"),
        *PROMPTS,
    }
    marked = [box for box, options in boxes.items() if "{}" in options.get("default", "")]
    assert marked == [("ConceptDecompose", "prompt"), ("TokenMixGallery", "prompt"), ("ModelAudit", "prompt")]
    assert all("no choices in braces and no comments" in boxes[box]["tooltip"] for box in marked)


def test_example_graphs_are_offered_with_a_picture(server: HostServer) -> None:
    names = [path.stem for path in (ROOT / "workflows").glob("*.json")]
    assert server.get("/workflow_templates")["conceptlens"] == names
    for name in names:
        assert Image.open(ROOT / "workflows" / f"{name}.jpg").width >= 300


WIDGETS = ("BOOLEAN", "COMBO", "FLOAT", "INT", "STRING")  # inputs with a value of their own


@pytest.mark.parametrize("path", sorted((ROOT / "workflows").glob("*.json")), ids=lambda path: path.stem)
def test_example_graph_fits_the_nodes(server: HostServer, path: Path) -> None:
    """Every node exists, and its widgets' values stand in the order of its inputs."""
    information = server.get("/object_info")
    for item in json.loads(path.read_text(encoding="utf-8"))["nodes"]:
        if item["type"] == "MarkdownNote":  # the frontend's own
            continue
        info = information[item["type"]]
        assert {output["name"] for output in item["outputs"]} >= set(info["output_name"])  # newer hosts add some
        if item["type"] in CONTRACT:
            assert [output["name"] for output in item["outputs"]] == info["output_name"]
            names = [name for name, default in CONTRACT[item["type"]][0].items() if default is not None]
            values = [value for value in item["widgets_values"] if value != "fixed"]  # what a seed does after a run
            optional = info["input"].get("optional", {})
            kinds = {name: kind for name, (kind, *_) in optional.items()}
            later = [name for name, kind in kinds.items() if kind in WIDGETS and name not in names]
            assert len(values) == len(names) + len(later)
            for name, value in zip(names, values[: len(names)], strict=True):
                assert type(value) is type(CONTRACT[item["type"]][0][name]), name


@pytest.mark.parametrize("kind", CONTRACT)
def test_every_node_has_a_help_page(server: HostServer, kind: str) -> None:
    with urllib.request.urlopen(f"{server.address}/extensions/conceptlens/docs/{kind}.md") as answer:
        page = answer.read().decode()
    for name in CONTRACT[kind][0]:
        assert kind == "TIMEEditBatch" or name in page, name
    with urllib.request.urlopen(f"{server.address}/extensions/conceptlens/docs/pictures/{kind}.jpg") as answer:
        Image.open(BytesIO(answer.read())).verify()


def test_translations_are_of_what_the_nodes_have(server: HostServer) -> None:
    """Every node and input that a language names; no letter that the host's translations read as a command."""
    nodes = server.get("/object_info")
    languages = server.get("/i18n")
    for language in ("de", "es", "fr", "ja", "ko", "ru", "zh"):
        for name, texts in languages[language]["nodeDefs"].items():
            known = {key for kind in ("required", "optional") for key in nodes[name]["input"].get(kind, {})}
            assert texts["inputs"].keys() == known, language
            assert texts["outputs"].keys() == {str(place) for place in range(len(nodes[name]["output"]))}, language
            for part in (texts["display_name"], texts["description"], *_tooltips(texts)):
                assert not set("{}@|") & set(part), (language, part)


def _tooltips(texts: dict[str, Any]) -> list[str]:
    return [part["tooltip"] for kind in ("inputs", "outputs") for part in texts[kind].values()]
