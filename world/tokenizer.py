"""CLIP's tokenizer, whose vocabulary lies beside this file: a world needs no ComfyUI."""

from __future__ import annotations

from pathlib import Path

from transformers import CLIPTokenizer

FOLDER = Path(__file__).parent / "clip_tokenizer"


def clip_tokenizer() -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(FOLDER, local_files_only=True)
