"""Nodes that keep a thing of the pack in a file of its own folder, and read it."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

from comfy_api.v0_0_2 import io, ui

from . import host
from .connected import Node
from .inputs import filename_input


class Saving(Node):
    """Has two inputs: the thing, which has a method `save`, and the name of its file."""

    FOLDER: ClassVar[str]

    @classmethod
    def schema(cls, thing: Any, default: str, **said: Any) -> io.Schema:
        """said: what else a schema tells of a node."""
        inputs = [thing, filename_input(default)]
        return io.Schema(is_output_node=True, inputs=inputs, outputs=[], **said)

    @classmethod
    def validate_inputs(cls, filename_prefix: str | None = None) -> bool | str:
        return host.usable_name(filename_prefix, cls.FOLDER)

    @classmethod
    def execute(cls, filename_prefix: str, **things: Any) -> io.NodeOutput:
        (thing,) = things.values()
        path = host.numbered_path(filename_prefix, cls.FOLDER)
        thing.save(path, host.workflow_metadata(cls.hidden.prompt, cls.hidden.extra_pnginfo))
        return io.NodeOutput(ui=ui.PreviewText(str(path)))


class Loadable(Protocol):
    """What can be read from a file."""

    def load(self, path: Any) -> Any: ...


class Loading(Node):
    """Reads what a node of `Saving` has kept."""

    FOLDER: ClassVar[str]
    KIND: ClassVar[Loadable]

    @classmethod
    def schema(cls, thing: Any, **said: Any) -> io.Schema:
        """thing: the output; said: what else a schema tells of a node."""
        where = f"A file in the folder models/{cls.FOLDER} (press R)."
        inputs: list[Any] = [io.Combo.Input("file", options=host.files(cls.FOLDER), tooltip=where)]
        return io.Schema(inputs=inputs, outputs=[thing], **said)

    @classmethod
    def fingerprint_inputs(cls, file: str) -> float:
        return host.changed_at(cls.FOLDER, file)

    @classmethod
    def execute(cls, file: str) -> io.NodeOutput:
        return io.NodeOutput(cls.KIND.load(host.file(cls.FOLDER, file)))
