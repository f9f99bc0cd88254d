"""What a run shows, and the server that shows it."""

from __future__ import annotations

from typing import Any

import comfy.utils
from comfy_execution.utils import get_executing_context
from torch import Tensor

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

    def bar(self, done: int, total: int, picture: Tensor | None = None) -> None:
        """The bar, with a picture (height, width, 3); raises when the user has pressed Cancel."""
        preview = None if picture is None else ("JPEG", to_pil(picture), 512)
        self._bar.update_absolute(done, total, preview)

    def say(self, text: str) -> None:
        """A text under the node, in place of the one before."""
        context = get_executing_context()
        if context is not None:  # there is nobody to tell outside of a run
            from server import PromptServer  # the web server, which only a run has

            PromptServer.instance.send_progress_text(text, context.node_id)
