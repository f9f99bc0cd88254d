"""`python -m conceptlens.harness COMMAND`: the pack's methods without ComfyUI."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from .terminal.entry import run_command

COMMANDS = {
    "edit": "TIME: edit what a model assumes about a prompt, saved as a LoRA",
    "vocab": "the words that a model has, and those nearest to texts and pictures",
    "decompose": "Conceptor: which words a model pictures concepts with",
    "mix": "pictures of a token mix, its coefficients changed",
    "explain-picture": "one picture of a mix by the fewest of its words that still make it",
    "bias": "how concepts are balanced between two groups of words",
    "card": "explanations as pictures and as one page",
    "hspace": "directions in the bottleneck: sample, pca, jacobian, contrast, apply",
}


def main(arguments: Sequence[str] | None = None) -> int:
    description = "The pack's methods on diffusers models, without ComfyUI."
    return run_command("conceptlens.harness", description, COMMANDS, arguments, ".commands")


if __name__ == "__main__":
    sys.exit(main())
