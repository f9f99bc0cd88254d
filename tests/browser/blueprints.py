"""`python -m conceptlens.tests.browser.blueprints`: makes subgraphs/*.json, parts of the example graphs as one node.

What a part takes from outside becomes an input, with the name of the output that it came from; chosen widgets become
widgets of the node.
"""

from __future__ import annotations

import json
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conceptlens.hosting.server import HostServer
from conceptlens.tests.conftest import ROOT

INPUTS, OUTPUTS = -10, -20  # the host's ids of a subgraph's two ends
WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
# Of a checkpoint of Stable Diffusion 1.5, where the example graphs have those of the pack's own small models.
SIZE = {"width": 512, "height": 512}
SAMPLING = {"steps": 20, "cfg": 7.0}
Node = dict[str, Any]


@dataclass(frozen=True)
class Blueprint:
    """Nodes of an example graph as one."""

    graph: str
    nodes: Sequence[int]
    widgets: Mapping[str, Sequence[tuple[int, str]]]  # label -> the widgets of nodes that it sets
    outputs: Mapping[str, tuple[int, int]]  # label -> a node and its output
    values: Mapping[int, Mapping[str, Any]]  # node -> widget -> value, where it is not the example's
    description: str


BLUEPRINTS = {
    "Explain a concept": Blueprint(
        graph="explain_concept",
        nodes=(2, 3, 6, 9, 10, 11, 12, 13),
        widgets={
            "concept": [(3, "concept")],
            "quality": [(3, "quality")],
            "size": [(3, "image_size"), (11, "width"), (11, "height")],
            "steps": [(12, "steps")],
            "cfg": [(3, "cfg"), (12, "cfg")],
            "seed": [(12, "seed")],
        },
        outputs={"image": (13, 0), "mix": (9, 1), "chart": (6, 0), "report": (3, 4)},
        values={3: {"image_size": 512, "cfg": 7.0}, 11: SIZE, 12: SAMPLING},
        description="Finds the words of its own vocabulary that a model means by a concept (Conceptor), and draws the "
        "mix of them. Open it to change their coefficients.",
    ),
    "Change an assumption": Blueprint(
        graph="time_edit",
        nodes=(2, 3, 4, 5, 6, 7, 8, 9),
        widgets={
            "source": [(2, "source")],
            "destination": [(2, "destination")],
            "prompt": [(3, "text")],
            "width": [(5, "width")],
            "height": [(5, "height")],
            "steps": [(6, "steps"), (7, "steps")],
            "cfg": [(6, "cfg"), (7, "cfg")],
            "seed": [(6, "seed"), (7, "seed")],
        },
        outputs={"model": (2, 0), "before": (8, 0), "after": (9, 0), "lora": (2, 1), "report": (2, 2)},
        values={5: SIZE, 6: SAMPLING, 7: SAMPLING},
        description="Edits what a model assumes by default (TIME), and draws a prompt before and after.",
    ),
    "Audit an edit": Blueprint(
        graph="model_audit",
        nodes=(2, 3),
        widgets={
            "source": [(2, "source")],
            "destination": [(2, "destination")],
            "words": [(3, "words")],
            "traits": [(3, "traits")],
            "num_images": [(3, "num_images")],
            "told_images": [(3, "told_images")],
            "width": [(3, "width")],
            "height": [(3, "height")],
            "steps": [(3, "steps")],
            "cfg": [(3, "cfg")],
            "seed": [(3, "seed")],
        },
        outputs={"chart": (3, 0), "report": (3, 1), "model": (2, 0), "lora": (2, 1)},
        values={3: {**SIZE, **SAMPLING, "num_images": 32, "told_images": 16}},
        description="Counts what a model assumes of plain words, before an edit (TIME) and after it, with intervals.",
    ),
    "Directions of a prompt": Blueprint(
        graph="hspace_explore",
        nodes=(2, 3, 4, 5, 7, 8, 9, 10, 11, 12, 13, 14),
        widgets={
            "prompt": [(2, "text")],
            "samples": [(4, "samples")],
            "index": [(8, "index")],
            "width": [(4, "width"), (9, "width")],
            "height": [(4, "height"), (9, "height")],
            "steps": [(4, "steps"), (11, "steps")],
            "cfg": [(4, "cfg"), (12, "cfg")],
            "seed": [(12, "noise_seed")],
        },
        outputs={"image": (14, 0), "directions": (5, 0), "chart": (5, 1)},
        values={
            4: {**SIZE, **SAMPLING, "batch_size": 4},
            7: {"start": -3.0, "stop": 3.0},
            9: {**SIZE, "batch_size": 2},
            11: {"steps": 20},
            12: {"cfg": 7.0},
        },
        description="Draws pictures of a prompt, finds by PCA what differs most between them in the UNet's bottleneck "
        "(h-space), and draws new ones along one such direction.",
    ),
}


def subgraph(name: str, blueprint: Blueprint, nodes: Mapping[str, Any]) -> dict[str, Any]:
    """A blueprint's workflow, one node with its definition; `nodes` is what the host says of all nodes."""
    graph = json.loads((ROOT / f"workflows/{blueprint.graph}.json").read_text(encoding="utf-8"))
    all_nodes: dict[int, Node] = {node["id"]: node for node in graph["nodes"]}
    inner = [node for node in graph["nodes"] if node["id"] in blueprint.nodes]
    for number, values in blueprint.values.items():
        names = widgets_of(nodes[all_nodes[number]["type"]])
        for widget, value in values.items():
            all_nodes[number]["widgets_values"][names.index(widget)] = value
    outside = {(entry[1], entry[2], entry[5]) for entry in graph["links"] if entry[3] in blueprint.nodes}
    entries = [
        (all_nodes[origin]["outputs"][output]["name"], kind)
        for origin, output, kind in sorted(outside)
        if origin not in blueprint.nodes
    ]
    entries += [
        (label, kind_of(nodes[all_nodes[targets[0][0]]["type"]], targets[0][1]))
        for label, targets in blueprint.widgets.items()
    ]
    inputs = {
        label: {"id": identity(f"{name} {label}"), "name": label, "type": kind, "linkIds": []}
        for label, kind in entries
    }
    links: list[dict[str, Any]] = []

    def enter(label: str, target: int, slot: int) -> int:
        """A link from the subgraph's input of this label."""
        number = len(links) + 1
        links.append(link(number, (INPUTS, list(inputs).index(label)), (target, slot), inputs[label]["type"]))
        inputs[label]["linkIds"].append(number)
        return number

    for node in inner:
        for output in node["outputs"]:
            output["links"] = []
    for node in inner:
        for slot, given in enumerate(node["inputs"]):
            if given.get("link") is None:
                continue
            _, origin, output, _, _, kind = next(entry for entry in graph["links"] if entry[0] == given["link"])
            if origin in blueprint.nodes:
                given["link"] = len(links) + 1
                links.append(link(given["link"], (origin, output), (node["id"], slot), kind))
                all_nodes[origin]["outputs"][output]["links"].append(given["link"])
            else:
                given["link"] = enter(all_nodes[origin]["outputs"][output]["name"], node["id"], slot)
    for label, targets in blueprint.widgets.items():
        for number, widget in targets:
            node = all_nodes[number]
            kind = kind_of(nodes[node["type"]], widget)
            node["inputs"] = [given for given in node["inputs"] if given["name"] != widget]
            node["inputs"].append({"name": widget, "type": kind, "widget": {"name": widget}})
            node["inputs"][-1]["link"] = enter(label, number, len(node["inputs"]) - 1)
    outputs = []
    for place, (label, (number, slot)) in enumerate(blueprint.outputs.items()):
        output = all_nodes[number]["outputs"][slot]
        links.append(link(len(links) + 1, (number, slot), (OUTPUTS, place), output["type"]))
        output["links"].append(len(links))
        outputs.append(
            {"id": identity(f"{name} {label} out"), "name": label, "type": output["type"], "linkIds": [len(links)]}
        )
    right = max(node["pos"][0] + node["size"][0] for node in inner)
    definition = {
        "id": identity(name),
        "version": 1,
        "revision": 0,
        "state": {
            "lastGroupId": 0,
            "lastNodeId": max(blueprint.nodes),
            "lastLinkId": len(links),
            "lastRerouteId": 0,
        },
        "config": {},
        "name": name,
        "inputNode": {"id": INPUTS, "bounding": [-200, 120, 120, 40 + 20 * len(inputs)]},
        "outputNode": {"id": OUTPUTS, "bounding": [right + 100, 120, 120, 40 + 20 * len(outputs)]},
        "inputs": list(inputs.values()),
        "outputs": outputs,
        "widgets": [],
        "nodes": inner,
        "groups": [],
        "links": links,
        "extra": {},
        "category": "conceptlens",
        "description": blueprint.description,
    }
    node = {
        "id": 1,
        "type": definition["id"],
        "pos": [0, 0],
        "size": [340, 120 + 30 * len(blueprint.widgets)],
        "flags": {},
        "order": 0,
        "mode": 0,
        "inputs": [
            {"name": label, "type": given["type"], "link": None}
            | ({"widget": {"name": label}} if label in blueprint.widgets else {})
            for label, given in inputs.items()
        ],
        "outputs": [{"name": output["name"], "type": output["type"], "links": []} for output in outputs],
        "properties": {},
        "widgets_values": [],
        "title": name,
    }
    return {
        "id": identity(f"{name} file"),
        "revision": 0,
        "last_node_id": 1,
        "last_link_id": 0,
        "nodes": [node],
        "links": [],
        "version": 0.4,
        "definitions": {"subgraphs": [definition]},
        "extra": {"BlueprintDescription": blueprint.description},
    }


def link(number: int, origin: tuple[int, int], target: tuple[int, int], kind: str) -> dict[str, Any]:
    """From an output, (node, slot), to an input."""
    ends = {"origin_id": origin[0], "origin_slot": origin[1], "target_id": target[0], "target_slot": target[1]}
    return {"id": number, **ends, "type": kind}


def identity(text: str) -> str:
    """The same for the same text, so that what is made anew does not differ."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"https://github.com/conceptlens/conceptlens {text}"))


def kind_of(node: Mapping[str, Any], name: str) -> str:
    given = {**node["input"].get("required", {}), **node["input"].get("optional", {})}[name][0]
    return given if isinstance(given, str) else "COMBO"


def widgets_of(node: Mapping[str, Any]) -> list[str]:
    """The names that a node's saved values stand for; a seed brings its control with it."""
    names = []
    for part in ("required", "optional"):
        for name, (_, *options) in node["input"].get(part, {}).items():
            if kind_of(node, name) in WIDGETS and not (options and options[0].get("forceInput")):
                names.append(name)
                if options and options[0].get("control_after_generate"):
                    names.append("control_after_generate")
    return names


def main() -> None:
    with tempfile.TemporaryDirectory() as base, HostServer(Path(base), "--cpu") as host:
        nodes = host.get("/object_info")
    for name, blueprint in BLUEPRINTS.items():
        text = json.dumps(subgraph(name, blueprint, nodes), indent=1, ensure_ascii=False) + "\n"
        (ROOT / f"subgraphs/{name}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
