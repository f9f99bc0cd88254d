"""`python -m conceptlens.evaluation QUESTION`: everything that measures."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ..harness.terminal.entry import run_command

QUESTIONS = {
    "timed": "TIME edits as published, on any model and any file with TIMED's columns",
    "alternatives": "what people would do instead of a TIME edit, beside it, on EmojiWorld",
    "conceptor": "pictures of mixes beside those of their concepts, on any model, as published",
    "concepts": "explanations of EmojiWorld's concepts, against its truth",
    "pictures": "single pictures of EmojiWorld's keywords, explained by few words",
    "bias": "EmojiWorld's professions: shares of men and women, measured and balanced",
    "audit": "what an audit says of EmojiWorld's words, held to what was planted",
    "hspace": "directions of EmojiWorld's bottleneck",
    "emoji-world": "what EmojiWorld draws, understands and confuses",
    "faces": "directions of FaceWorld's bottleneck, against its truth",
    "robustness": "random graphs of the pack's nodes in a real host",
    "speed": "time and memory beside the published procedures: python run.py bench",
}


def main(arguments: Sequence[str] | None = None) -> int:
    return run_command("conceptlens.evaluation", "Everything that measures.", QUESTIONS, arguments)


if __name__ == "__main__":
    sys.exit(main())
