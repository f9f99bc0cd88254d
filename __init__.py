"""ConceptLens: see and change what a diffusion model means by a word. The host's entry into the pack."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from comfy_api.v0_0_2 import ComfyExtension

WEB_DIRECTORY = "./web"


async def comfy_entrypoint() -> ComfyExtension:
    # Imported when the host asks, so that the package also imports where there is no host.
    from .nodes import ConceptLensExtension

    return ConceptLensExtension()
