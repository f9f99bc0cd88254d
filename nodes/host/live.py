"""What a run shows, and the server that shows it."""

from __future__ import annotations

from typing import Any

import comfy.utils
from comfy_execution.utils import ExecutionContext, get_executing_context
from torch import Tensor

from ...core.conceptor.mixture import TokenMix
from ...core.model.protocols import Progress
from ...core.pictures.grid import to_pil


def routes() -> Any:
    """The server's, to which handlers are added; it exists before nodes are loaded."""
    from server import PromptServer  # not where only the host's classes are used

    return PromptServer.instance.routes


def progress() -> Progress:
    """The bar of the node that is being executed; it raises when the user has pressed Cancel."""
    return comfy.utils.ProgressBar(1).update_absolute


class LiveView:
    """What the running node shows besides its result: a bar, a text and a picture."""

    def __init__(self) -> None:
        self._bar = comfy.utils.ProgressBar(1)
        self._said = self._words = ""

    def bar(self, done: int, total: int, picture: Tensor | None = None) -> None:
        """The bar, with a picture (height, width, 3); raises when the user has pressed Cancel."""
        preview = None if picture is None else ("JPEG", to_pil(picture), 512)
        self._bar.update_absolute(done, total, preview)

    def say(self, text: str) -> None:
        """A text under the node, in place of the one before."""
        self._said = text
        self._tell()

    def found(self, mix: TokenMix) -> None:
        """The words so far: under the node, and in the editors behind it."""
        self._words = ", ".join(f"{text} {value:.3g}" for text, value in zip(mix.texts, mix.coefficients, strict=True))
        self._tell()
        if (running := _running()) is not None:
            server, context = running
            where = {"node": context.node_id, "prompt_id": context.prompt_id}
            server.send_sync("conceptlens.found", {**where, **editor_rows(mix)}, server.client_id)

    def _tell(self) -> None:
        if (running := _running()) is not None:
            server, context = running
            server.send_progress_text("\n".join(filter(None, (self._said, self._words))), context.node_id)


def _running() -> tuple[Any, ExecutionContext] | None:
    """The web server and what it runs now; outside of a run there is nobody to tell."""
    context = get_executing_context()
    if context is None:
        return None
    from server import PromptServer  # which only a run has

    return PromptServer.instance, context


def editor_rows(mix: TokenMix) -> dict[str, Any]:
    """A mix as the coefficient editor reads it."""
    return {"rows": [mix.ids, mix.texts, mix.coefficients], "intervals": mix.intervals()}
