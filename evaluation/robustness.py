"""`robustness`: random graphs of the pack's nodes in a real host, right and wrong.

A right graph is random in its nodes, links and values; a wrong one is a right one with one input broken. Each must run
or end with one clear sentence; afterwards the host, its model and its folders must be as they were. The same seed makes
the same graphs.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from ..harness.terminal.console import Console
from ..hosting.server import Graph, GraphError, HostServer
from .measures import Measure, report

Link = list[Any]
Spec = list[Any]  # of an input: its type, then its options
CHEAP = {  # values that keep a graph at seconds
    "steps": 2,
    "sampling_steps": 2,
    "num_images": 4,
    "validation_images": 1,
    "validate_every": 1,
    "batch_size": 2,
    "width": 64,
    "height": 64,
    "image_size": 64,
    "num_tokens": 6,
    "dictionary_size": 40,
    "iterations": 2,
    "components": 2,
    "count": 2,
    "top": 3,
    "sampler_name": "euler",
    "scheduler": "normal",
    "templates": "none",
    "tokens": "words",
    "search": "bisection",
    "validation": "loss",
    "regularization": 30.0,
    "denoise": 1.0,
}
TEXTS = {  # by the input's name; of a node and a name where its meaning is another
    "text": ["dog: 0.6, cat: 0.2, male: 0.3, female: 0.1", "rose: 1, male: 1, female: 2"],
    "prompt": ["a photo of a {}"],
    "concept": ["pest", "rose", "ice cream"],
    "source": ["a rose"],
    "destination": ["a blue rose"],
    "edits": ["a rose => a blue rose\na car => a green car"],
    "preserve": ["", "a tulip"],
    "group_a": ["male"],
    "group_b": ["female"],
    "coefficients": ["", '{"v": 1, "top": 2}'],
    "at_percent": ["0.5", "all"],
    "remove_indices": ["0", ""],
    "positive_pictures": ["0"],
    "negative_pictures": ["1"],
    "positive_text": ["a rose"],
    "negative_text": ["a car"],
    "balance": ["", "a dog, a cat"],
    "filename_prefix": ["robustness"],
    "labels": ["one"],
}
SLOTTED = ("TokenMixConditioning", "ImageDecompose", "ConceptBias", "ConceptCard")  # their prompts have a <>
STOCK = ("CLIPTextEncode", "EmptyLatentImage", "KSampler", "VAEDecode", "VAEEncode", "BasicScheduler", "SolidMask")
LOADER = {"MODEL": 0, "CLIP": 1, "VAE": 2, "CLIP_VISION": 3}
ODD = [
    "",
    " ",
    "\U0001f984" * 300,
    "<>" * 3,
    "{}{}",
    "=>",
    "a => b => c",
    "%s%n",
    "../../x",
    "\x00",
    "nan",
    "1e999",
    "[1",
    "dog: x",
]
STRANGE = [None, True, -1, 10**30, 1e308, "", "x", [], {}, ["nowhere", 0], [[["loader", 0]]]]


@dataclass
class Maker:
    """Random graphs of the host's nodes."""

    info: dict[str, dict[str, Any]]  # what the host says of its nodes
    generator: random.Random
    graph: Graph = field(default_factory=dict)

    @property
    def ours(self) -> list[str]:
        """The pack's nodes, but for those that load what nothing has saved yet."""
        return [
            kind
            for kind, node in self.info.items()
            if node["python_module"].endswith("conceptlens") and not kind.startswith("Load")
        ]

    def right(self) -> Graph:
        """A graph around a random node of the pack, with something that makes the host run it."""
        self.graph = {"loader": {"class_type": "EmojiWorldLoader", "inputs": {}}}
        kind = self.generator.choice([kind for kind in self.ours if kind != "EmojiWorldLoader"])
        name = self._node(kind)
        for slot, output in enumerate(self.info[kind]["output"]):
            if not self.info[kind]["output_node"]:
                self._show(output, [name, slot])
        return self.graph

    def wrong(self) -> Graph:
        """A right graph with one input broken."""
        graph = self.right()
        places = [(name, key) for name, node in graph.items() for key in node["inputs"] if self._is_ours(node)]
        if not places:
            return self.wrong()
        name, key = self.generator.choice(places)
        inputs = graph[name]["inputs"]
        # A constant in place of a model, which no editor can write, the host hands over to any node unseen.
        kinds = ["missing", "link", "loop"] + ([] if isinstance(inputs[key], list) else ["odd", "strange"])
        kind = self.generator.choice(kinds)
        if kind == "odd":
            inputs[key] = self.generator.choice(ODD)
        elif kind == "strange":
            inputs[key] = self.generator.choice(STRANGE)
        elif kind == "missing":
            del inputs[key]
        elif kind == "link":
            inputs[key] = ["loader", self.generator.randrange(6)]
        else:
            inputs[key] = [name, 0]
        return graph

    def _is_ours(self, node: dict[str, Any]) -> bool:
        return node["class_type"] in self.ours

    def _node(self, kind: str, depth: int = 0) -> str:
        """Adds a node with all that it needs, or also with all that it can have; returns its name."""
        told = self.info[kind]["input"]
        # A picture to judge needs its VAE and its judge: all of them or none.
        every = depth < 2 and self.generator.random() < 0.3
        optional = told.get("optional", {}).items()
        wanted = {**told.get("required", {}), **{name: spec for name, spec in optional if every or name == "mix"}}
        inputs = {name: self._value(kind, name, spec, depth) for name, spec in wanted.items()}
        if kind == "ConceptDecompose" and self.generator.random() < 0.9:
            inputs["method"] = "conceptor"  # the other one compares words for minutes, whatever the settings
        name = f"{kind} {len(self.graph)}"
        self.graph[name] = {"class_type": kind, "inputs": inputs}
        return name

    def _value(self, kind: str, name: str, spec: Spec, depth: int) -> Any:
        form, options = spec[0], spec[1] if len(spec) > 1 else {}
        if name in CHEAP and not options.get("forceInput"):
            return CHEAP[name]
        if form == "BOOLEAN":
            return self.generator.random() < 0.5
        if form == "INT":
            return self.generator.randint(options.get("min", 0), min(options.get("max", 10), 10))
        if form == "FLOAT":
            low, high = max(options.get("min", 0.0), -5.0), min(options.get("max", 1.0), 5.0)
            return round(self.generator.uniform(low, high), 3)
        if form == "COMBO" or isinstance(form, list):
            return self.generator.choice(options["options"] if form == "COMBO" else form)
        if form == "STRING" and not options.get("forceInput"):
            if name == "name":
                return f"robustness {self.generator.getrandbits(32)}"
            text = self.generator.choice(TEXTS.get(name, [options.get("default", "a dog")]))
            return text.replace("{}", "<>") if kind in SLOTTED else text
        return self._link(form, depth)

    def _link(self, form: str, depth: int) -> Link:
        """An output of the wanted type: one that is there, or of a new node."""
        there = [
            [name, slot]
            for name, node in self.graph.items()
            for slot, output in enumerate(self.info[node["class_type"]]["output"])
            if output == form and name != "loader"
        ]
        if there and self.generator.random() < 0.7:
            return self.generator.choice(there)
        makers = [
            (kind, slot)
            for kind in (*self.ours, *STOCK)
            for slot, output in enumerate(self.info[kind]["output"])
            if output == form and kind != "EmojiWorldLoader"
        ]
        if form in LOADER and (not makers or depth > 2 or self.generator.random() < 0.7):
            return ["loader", LOADER[form]]
        if depth > 2:  # the nearest end: fewest inputs of other nodes
            makers = [min(makers, key=lambda maker: (form in self._links(maker[0]), len(self._links(maker[0])), maker))]
        kind, slot = self.generator.choice(makers)
        return [self._node(kind, depth + 1), slot]

    def _links(self, kind: str) -> list[str]:
        """The types of what a node needs from other nodes than the loader."""
        told = self.info[kind]["input"]
        needed = [*told.get("required", {}).values()]
        needed += [spec for name, spec in told.get("optional", {}).items() if name == "mix"]  # always given
        return [spec[0] for spec in needed if spec[0] not in ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", *LOADER)]

    def _show(self, output: str, link: Link) -> None:
        """Connects an output to a node that the host runs for its own sake."""
        number = len(self.graph)
        if output == "IMAGE":
            self.graph[f"show {number}"] = {"class_type": "PreviewImage", "inputs": {"images": link}}
        else:
            self.graph[f"show {number}"] = {"class_type": "PreviewAny", "inputs": {"source": link}}


def outcome(host: HostServer, graph: Graph) -> str:
    """What the host made of a graph: done, refused, a sentence, or the bugs that are looked for: traceback, hang."""
    try:
        host.run(graph)
    except GraphError as error:
        details = error.details
        if "exception_type" not in details:
            return "refused"
        if details["exception_type"].endswith("UserError"):
            return "sentence"
        return f"traceback: {details['exception_message']}{''.join(details['traceback'])}"
    except TimeoutError as error:
        host.post("/interrupt", {})
        return f"hang: {error}"
    return "done"


def campaign(
    host: HostServer,
    rights: int,
    wrongs: int,
    interrupts: int,
    repeats: int,
    seed: int = 0,
    tell: Callable[[str], object] = print,
) -> list[Measure]:
    """The measures of so many right, wrong and interrupted graphs, and of one graph that is run again and again."""
    maker = Maker(host.get("/object_info"), random.Random(seed))
    before = picture(host)
    counts: dict[str, Counter[str]] = {"right": Counter(), "wrong": Counter()}
    for kind, count, make in (("right", rights, maker.right), ("wrong", wrongs, maker.wrong)):
        for number in range(count):
            graph = make()
            found = outcome(host, graph)
            counts[kind][found.split(":")[0]] += 1
            if found.startswith(("traceback", "hang")):
                tell(f"{kind} graph {number}: {found}\n{graph}")
    changed = float(picture(host) != before)
    deaf = sum(not interrupted(host, maker.right(), maker.generator.uniform(0, 2)) for _ in range(interrupts))
    changed_by_cancel = float(picture(host) != before)
    grown = growth(host, repeats)
    leaked = float(len([*host.base.rglob("*.part")]))
    measures = [Measure("robustness: right graphs that ran", 100 * counts["right"]["done"] / rights, "%", rights, None)]
    for kind, count in (("right", rights), ("wrong", wrongs)):
        for bug, told in (("traceback", "ended with a traceback"), ("hang", "did not end")):
            found = float(counts[kind][bug])
            measures.append(Measure(f"robustness: {kind} graphs that {told}", found, "graphs", count, None))
    return [
        *measures,
        Measure("robustness: interrupted graphs that did not end", float(deaf), "graphs", interrupts, None),
        Measure("robustness: models changed by graphs", changed, "", rights + wrongs, None),
        Measure("robustness: models changed by interrupted graphs", changed_by_cancel, "", interrupts, None),
        Measure("robustness: files left half written", leaked, "", rights + wrongs + interrupts, None),
        Measure("robustness: growth of the host's memory over runs of one graph", grown, "MB", repeats, None),
    ]


def interrupted(host: HostServer, graph: Graph, after: float) -> bool:
    """Runs a graph and presses Cancel after some seconds; whether the graph has ended then."""
    try:
        prompt = host.queue(graph)
        time.sleep(after)
        host.post("/interrupt", {})
        host.wait(prompt)
    except GraphError:  # it was refused
        return True
    except TimeoutError:
        return False
    return True


def plain(seed: int) -> Graph:
    """A picture of EmojiWorld by stock nodes."""
    links = {"model": ["loader", 0], "positive": ["text", 0], "negative": ["none", 0], "latent_image": ["latent", 0]}
    how = {"seed": seed, "steps": 4, "cfg": 2.5, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    return {
        "loader": {"class_type": "EmojiWorldLoader", "inputs": {}},
        "text": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["loader", 1], "text": "a photo of a rose"}},
        "none": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["loader", 1], "text": ""}},
        "latent": {"class_type": "EmptyLatentImage", "inputs": {"width": 128, "height": 128, "batch_size": 1}},
        "sampler": {"class_type": "KSampler", "inputs": {**links, **how}},
        "decoded": {"class_type": "VAEDecode", "inputs": {"samples": ["sampler", 0], "vae": ["loader", 2]}},
        "save": {"class_type": "SaveImage", "inputs": {"images": ["decoded", 0], "filename_prefix": f"plain{seed}"}},
    }


def picture(host: HostServer) -> bytes:
    """The pixels of the plain picture, drawn anew."""
    host.post("/free", {"unload_models": True, "free_memory": True})
    time.sleep(2)  # the host frees between two graphs
    saved = host.run(plain(1))["outputs"]["save"]["images"][0]
    return Image.open(host.base / "output" / saved["subfolder"] / saved["filename"]).tobytes()


def edited(seed: int) -> Graph:
    """The plain picture under a TIME edit, with another seed each time so that nothing is taken from the cache."""
    graph = plain(seed)
    given = {"model": ["loader", 0], "clip": ["loader", 1], "source": "a rose", "destination": "a blue rose"}
    given |= {
        "regularization": 30.0 + seed,
        "edit_keys": True,
        "augment": True,
        "strength": 1.0,
        "preserve": "",
        "rank": 0,
    }
    graph["edit"] = {"class_type": "TIMEEditModel", "inputs": given}
    graph["sampler"]["inputs"]["model"] = ["edit", 0]
    return graph


def growth(host: HostServer, repeats: int) -> float:
    """Megabytes by which the host grows from the middle of many runs to their end (Linux)."""
    sizes = []
    for number in range(repeats):
        host.run(edited(100 + number))
        sizes.append(host.megabytes())
    return sizes[-1] - sizes[len(sizes) // 2]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    for name, default in (("right", 200), ("wrong", 500), ("interrupts", 100), ("repeats", 100), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=f"default {default}")


def run(arguments: argparse.Namespace, console: Console) -> None:
    settings = {name: getattr(arguments, name) for name in ("right", "wrong", "interrupts", "repeats", "seed")}
    with tempfile.TemporaryDirectory() as base, HostServer(Path(base), "--cpu", "--cache-classic") as host:
        measures = campaign(host, *settings.values(), tell=console.line)
    report("python -m conceptlens.evaluation robustness", settings, measures, arguments.json)
