"""Where the host's files lie, and what their names mean to it."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import pytest
from conceptlens.core.conceptor.mixture import TokenMix
from conceptlens.core.errors import UserError
from conceptlens.hosting.server import GraphError, HostServer
from conceptlens.tests.host.graphs import node
from safetensors import safe_open

pytestmark = pytest.mark.usefixtures("host_modules")
NOON = datetime(2026, 3, 4, 15, 6, 7).astimezone()


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        ("%date:yyyy-MM-dd%/edit", "2026-03-04/edit"),
        ("a_%date:yy.M%", "a_%date:yy.M%"),
        ("a_%date:yy-M-d h-m-s%", "a_26-3-4 15-6-7"),
        ("%date:hhmmss%%date:yyy%", "150607yyy"),
        ("%year%/%Sampler.seed%_100%", "%year%/%Sampler.seed%_100%"),
    ],
)
def test_dates_in_file_names_are_those_of_the_page(monkeypatch: pytest.MonkeyPatch, prefix: str, expected: str) -> None:
    from conceptlens.nodes.host import folders

    class Noon(datetime):
        @classmethod
        def now(cls, *_: object) -> datetime:  # pyright: ignore[reportIncompatibleMethodOverride]
            return NOON

    monkeypatch.setattr(folders, "datetime", Noon)
    assert folders.dated(prefix) == expected


@pytest.fixture
def embeddings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Path]:
    """Two folders of embeddings, as a user's extra_model_paths.yaml makes them."""
    import folder_paths

    found = [tmp_path / "own", tmp_path / "extra"]
    for folder in found:
        folder.mkdir()
    endings = {".safetensors", ".pt"}
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "embeddings", ([str(each) for each in found], endings))
    return found


@pytest.mark.parametrize("place", ["mine.pt", "mine.bin", "mine.safetensors", "mine", "deep/er/mine.pt"])
@pytest.mark.parametrize("extra", [False, True])
@pytest.mark.parametrize("name", ["mine", "flowers/mine"])
def test_an_embedding_that_prompts_have_is_not_taken_by_another(
    embeddings: list[Path], place: str, extra: bool, name: str
) -> None:
    from conceptlens.nodes import host

    file = embeddings[extra] / place
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    with pytest.raises(UserError, match=rf"{file.name} exists already, and prompts use it as embedding:mine; choose"):
        host.new_embedding(name)
    assert host.new_embedding("mine2") == embeddings[0] / "mine2.safetensors"


def test_saved_mixes_lie_where_their_date_says_and_carry_their_graph(server: HostServer) -> None:
    """And an embedding of the user's own is left alone."""
    own = server.base / "models/embeddings/taken.pt"
    own.parent.mkdir(parents=True, exist_ok=True)
    own.touch()
    graph = {
        "loader": node("EmojiWorldLoader"),
        "mix": node("TokenMixFromText", clip=["loader", 1], text="house: 1"),
        "save": node("SaveTokenMix", mix=["mix", 0], filename_prefix="%date:yyyy%/%year%_mix"),
    }
    history = server.run(graph)
    (said,) = history["outputs"]["save"]["text"]
    file = Path(said)
    year = file.parent.name
    assert year.isdigit()
    assert file == server.base / f"models/token_mixes/{year}/{year}_mix_00001_.safetensors"
    with safe_open(file, framework="pt") as read:
        assert json.loads(read.metadata()["prompt"])["mix"]["inputs"]["text"] == "house: 1"
    assert TokenMix.load(file).texts == ("house",)
    embedding = node("SaveTokenMixEmbedding", mix=["mix", 0], clip=["loader", 1], name="taken")
    with pytest.raises(GraphError, match=r"taken\.pt exists already, and prompts use it as embedding:taken"):
        server.run({**graph, "embedding": embedding})
    own.unlink()
