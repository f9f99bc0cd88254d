"""A tiny pipeline's parts, for the tests of what is fitted to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conceptlens.core.conceptor.dictionary import Dictionary
from conceptlens.core.conceptor.vocabulary import Vocabulary, embed_vocabulary
from conceptlens.core.model.slot import Slot
from conceptlens.core.model.template import Template
from conceptlens.pipelines.adapter import DiffusersDiffusion, DiffusersTextEncoder
from conceptlens.tests.tiny import tiny_pipeline
from torch import Tensor


@pytest.fixture(scope="module")
def diffusion(pipe: Any) -> DiffusersDiffusion:
    return DiffusersDiffusion(pipe)


@pytest.fixture(scope="module")
def encoder(pipe: Any) -> DiffusersTextEncoder:
    return DiffusersTextEncoder(pipe)


@pytest.fixture(scope="module")
def vocabulary(encoder: DiffusersTextEncoder) -> Vocabulary:
    return embed_vocabulary(encoder, "none")


@pytest.fixture(scope="module")
def slot(encoder: DiffusersTextEncoder) -> Slot:
    return Slot.of(encoder, encoder.towers(), Template.of("a photo of a {}"))


@pytest.fixture(scope="module")
def dictionary(vocabulary: Vocabulary) -> Dictionary:
    return Dictionary.of(vocabulary, range(1000, 1040), torch.device("cpu"))


@pytest.fixture(scope="module")
def latents() -> Tensor:
    return torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(7))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny_pipeline("SD 1.x").save_pretrained(folder)
    return folder
