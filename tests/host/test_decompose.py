"""Concepts explained in the host: as in the harness, on weights of both kinds, and in a real graph."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from conceptlens.core.conceptor.explanation import explain
from conceptlens.core.conceptor.fit import Settings
from conceptlens.core.conceptor.mixture import TokenMix
from conceptlens.core.conceptor.vocabulary import Vocabulary, embed_vocabulary, fingerprint
from conceptlens.core.errors import UserError
from conceptlens.core.model.protocols import Family
from conceptlens.core.model.template import Template
from conceptlens.hosting.server import Graph, GraphError, HostServer
from conceptlens.pipelines.pictures import Sampling
from conceptlens.pipelines.studio import DiffusersStudio
from conceptlens.tests.host.graphs import executed_nodes, node, watch
from torch import Tensor

pytestmark = pytest.mark.usefixtures("host_modules")
SIZE, STEPS, CFG = 64, 4, 3.0
SETTINGS = Settings(
    num_tokens=5, dictionary_size=12, steps=8, validate_every=4, exclude_concept=False, racers=12, draws=8
)


class Unwatched:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.previews: list[Tensor] = []
        self.mixes: list[TokenMix] = []

    def bar(self, done: int, total: int, picture: Tensor | None = None) -> None:
        assert 0 <= done <= total
        self.previews += [] if picture is None else [picture]

    def say(self, text: str) -> None:
        self.texts.append(text)

    def found(self, mix: TokenMix) -> None:
        self.mixes.append(mix)


def host_studio(pipe: Any, family: Family, inference: bool, steps: int = STEPS) -> Any:
    from conceptlens.nodes.host import HostStudio, Sampling, encoded
    from conceptlens.nodes.host.world import _tiny_vae
    from conceptlens.tests.host.twin import twin_clip, twin_model

    with torch.inference_mode(inference):
        model, clip = twin_model(pipe, family), twin_clip(pipe, family)
        vae = _tiny_vae(pipe.vae.state_dict())
        # The twins' UNet is trained on the VAE's own scale; the host's is on that of its family.
        taesd: Any = vae.first_stage_model
        taesd.vae_scale.data.fill_(model.model.latent_format.scale_factor)
    with torch.inference_mode(False):
        return HostStudio(model, clip, vae, None, Sampling(encoded(clip, ""), steps, CFG, SIZE, SIZE))


WORDS: dict[str, Vocabulary] = {}


def words_of(studio: Any) -> Vocabulary:
    """Each program's own: it is known by all that the program has of the encoder, and made once for that."""
    known_by = fingerprint(studio.encoder.towers())
    if known_by not in WORDS:
        WORDS[known_by] = embed_vocabulary(studio.encoder, "none")
    return WORDS[known_by]


@pytest.mark.parametrize("method", ["shares", "conceptor"])
@pytest.mark.parametrize("inference", [True, False])
def test_host_and_harness_explain_alike(pipe: Any, family: Family, method: Any, inference: bool) -> None:
    """From pictures to the mix, with the same weights, words and seeds."""
    settings = Settings(**{**vars(SETTINGS), "method": method})
    own = torch.rand(7, SIZE, SIZE, 3, generator=torch.Generator().manual_seed(1))
    studios = [DiffusersStudio(pipe, Sampling(STEPS, CFG, SIZE)), host_studio(pipe, family, inference)]
    with torch.inference_mode(), torch.inference_mode(False):  # as in a node that the host runs
        harness, found = (
            explain(
                studio,
                words,
                "castle",
                Template.of("a photo of a {}"),
                settings,
                Unwatched(),
                validation_images=2,
                given=own,
            )
            for studio, words in ((studio, words_of(studio)) for studio in studios)
        )
    assert found.found.mix.texts == harness.found.mix.texts
    assert found.found.mix.shares() == pytest.approx(harness.found.mix.shares(), abs=1e-3)  # only ratios count


def test_host_and_harness_make_the_same_pictures(pipe: Any, family: Family) -> None:
    """From prompts and from mixes. The host starts from noise without the picture's last trace: 0.3 % less of it."""
    harness, found = DiffusersStudio(pipe, Sampling(50, CFG, SIZE)), host_studio(pipe, family, False, steps=50)
    mix = TokenMix.of([1929, 2583], ["dog", "snow"], [2.0, 1.0])
    for make in (
        lambda studio: studio.latents_of_prompt("a photo of a castle", [3, 4]),
        lambda studio: studio.latents_of_mix(Template.of("a photo of a {}"), mix, [3, 4]),
    ):
        expected, latents = make(harness), make(found)
        assert (latents - expected).norm() < 0.01 * expected.norm()
        torch.testing.assert_close(found.pictures(expected), harness.pictures(expected), atol=1e-3, rtol=0)


def test_a_picture_does_not_depend_on_those_beside_it(pipe: Any, family: Family) -> None:
    studio = host_studio(pipe, family, inference=True)
    three, one = (studio.latents_of_prompt("a photo of a castle", seeds) for seeds in ([7, 8, 9], [8]))
    torch.testing.assert_close(three[1:2], one, rtol=1e-4, atol=1e-4)


def test_what_is_seen_of_a_fit(pipe: Any, family: Family) -> None:
    """Words and time left at each step, a picture of the mix at each validation; own pictures need no name."""
    live = Unwatched()
    with torch.inference_mode(), torch.inference_mode(False):
        studio = host_studio(pipe, family, inference=True)
        own = torch.rand(7, 80, 96, 3, generator=torch.Generator().manual_seed(1))
        settings = replace(SETTINGS, method="conceptor")
        explained = explain(
            studio, words_of(studio), "", Template.of("a photo of a {}"), settings, live, validation_images=2, given=own
        )
    assert any("step 8 of 8, loss " in text for text in live.texts)
    assert explained.found.mix.texts[0] in live.mixes[-1].texts
    assert len(live.previews) == 3
    assert live.previews[0].shape == (SIZE, SIZE, 3)
    assert explained.reconstructions.shape == (2, SIZE, SIZE, 3)
    assert explained.found.mix.made_by["pictures"] == 6
    for part in ("fit ", "validation ", "dictionary "):
        assert part in explained.report()
    assert explained.chart().shape == (360, 640, 3)


EMBARRASSING: list[tuple[dict[str, Any], str]] = [
    ({"prompt": "rose " * 90 + "{}"}, "tokens with start and end"),
    ({"name": "a (big:1.3) castle"}, "contains a weight"),
    ({"name": "embedding:castle"}, "names an embedding"),
    ({"prompt": "a (photo:1.2) of a {}"}, "contains a weight"),
    ({"name": ""}, "The concept is empty"),
    ({"validation": "pictures"}, "connect clip_vision"),
    ({"words": "other"}, "made with another text encoder"),
    ({"channels": 9}, "reads 9 channels"),
]


def test_what_can_not_be_explained_is_said_before_pictures_are_made(
    pipe: Any, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    studio = host_studio(pipe, family, inference=True)
    monkeypatch.setattr(studio, "latents_of_prompt", lambda *_: pytest.fail("pictures were made"))
    words = words_of(studio)
    kinds = {"own": words, "other": replace(words, made_by={**words.made_by, "encoder": "another"})}
    config = studio._model.model.model_config
    for changes, message in EMBARRASSING:
        given = {"name": "castle", "prompt": "a photo of a {}", "validation": "loss", "words": "own", **changes}
        monkeypatch.setattr(config, "unet_config", {**config.unet_config, "in_channels": changes.get("channels", 4)})
        what = (kinds[given["words"]], given["name"], Template.of(given["prompt"]), SETTINGS, Unwatched())
        with torch.inference_mode(False), pytest.raises(UserError, match=message):
            explain(studio, *what, validation=given["validation"])


@pytest.mark.parametrize("count", [1, 2])
def test_a_picture_of_a_list_is_told_from_a_batch(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from conceptlens.nodes.conceptor import decompose

    explained = MagicMock()
    explained.report.return_value = "words"
    monkeypatch.setattr(decompose, "explain", lambda *_, **__: explained)
    for part in ("studio_of", "LiveView", "check_parts", "encoded"):
        monkeypatch.setattr(decompose.host, part, MagicMock())
    names = ("concept", "prompt", "image_size", "cfg", "exclude_concept", "seed")
    asked = {name: DECOMPOSE[name] for name in names}
    given: Any = dict.fromkeys(("model", "clip", "vae", "vocabulary"), object())
    found: Any = decompose.ConceptDecompose.execute(**given, **asked, images=torch.zeros(count, 8, 8, 3))
    assert ("Rebatch Images" in found.result[-1]) == (count == 1)


DECOMPOSE: dict[str, Any] = {
    "concept": "rose",
    "prompt": "a photo of a {}",
    "num_tokens": 8,
    "dictionary_size": 24,
    "steps": 3,
    "batch_size": 2,
    "learning_rate": 1e-3,
    "sparsity": 1e-3,
    "num_images": 3,
    "image_size": 64,
    "cfg": 3.0,
    "sampling_steps": 3,
    "validate_every": 2,
    "validation_images": 2,
    "exclude_concept": True,
    "seed": 5,
}


def decompose_graph(**changes: Any) -> Graph:
    links = {
        "model": ["loader", 0],
        "clip": ["loader", 1],
        "vae": ["loader", 2],
        "vocabulary": ["words", 0],
        "clip_vision": ["loader", 3],
    }
    return {
        "loader": node("EmojiWorldLoader"),
        "words": node("VocabEmbed", clip=["loader", 1], templates="photo", tokens="words", cache=True),
        "found": node("ConceptDecompose", **links, **{**DECOMPOSE, **changes}),
        "save": node("SaveTokenMix", mix=["found", 0], filename_prefix="found"),
        "pictures": node("PreviewImage", images=["found", 1]),
        "remade": node("PreviewImage", images=["found", 2]),
        "chart": node("PreviewImage", images=["found", 3]),
        "report": node("PreviewAny", source=["found", 4]),
    }


def mix_of(server: HostServer, graph: Graph) -> TokenMix:
    """What the graph's fit computed anew."""
    history = server.run(graph)
    assert "found" in executed_nodes(history, graph)
    return TokenMix.load(Path(history["outputs"]["save"]["text"][0]))


def test_a_graph_explains_a_concept(server: HostServer) -> None:
    outputs = server.run(decompose_graph())["outputs"]
    assert [len(outputs[name]["images"]) for name in ("pictures", "remade", "chart")] == [3, 2, 1]
    assert 'tokens of SD 1.x for "rose"' in outputs["report"]["text"][0]
    mix = TokenMix.load(Path(outputs["save"]["text"][0]))
    assert 0 < len(mix) <= 8
    assert not {"rose", "roses"} & {text.casefold() for text in mix.texts}
    published = server.run(decompose_graph(method="conceptor", validation="pictures", seed=6))
    assert "by conceptor from 3 pictures" in published["outputs"]["report"]["text"][0]


def test_cancel_in_the_fit_leaves_nothing_behind(server: HostServer) -> None:
    """No mix is passed on, and the next run is the run that it would have been."""
    before = mix_of(server, decompose_graph(seed=9, method="conceptor"))
    long = decompose_graph(steps=5000, seed=8, method="conceptor")
    messages = asyncio.run(watch(server, long, interrupt_at="found"))
    assert messages[-1]["type"] == "execution_interrupted"
    assert not any(message["type"] == "executed" and message["data"]["node"] == "save" for message in messages)
    assert mix_of(server, decompose_graph(seed=9, method="conceptor")) == before


def test_two_in_one_graph_are_each_what_they_are_alone(server: HostServer) -> None:
    """Also after the host has unloaded its models and forgotten what it had computed."""
    alone = mix_of(server, decompose_graph(seed=11, method="conceptor"))
    server.post("/free", {"unload_models": True, "free_memory": True})
    both = decompose_graph(seed=11, method="conceptor")
    both["other"] = node("ConceptDecompose", **{**both["found"]["inputs"], "concept": "boat"})
    both["save other"] = node("SaveTokenMix", mix=["other", 0], filename_prefix="other")
    outputs = server.run(both)["outputs"]
    together, other = (TokenMix.load(Path(outputs[name]["text"][0])) for name in ("save", "save other"))
    assert together == alone
    assert other.made_by["concept"] == "boat"
    assert other.ids != together.ids


@pytest.mark.parametrize("concept", ["ice cream", "\u65e5\u672c\u306e\u72ac", " ".join(["dog"] * 70)])
def test_concepts_of_any_length_and_script(server: HostServer, concept: str) -> None:
    assert 1 <= len(mix_of(server, decompose_graph(concept=concept, method="conceptor"))) <= 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": "a photo"}, "must have one"),
        ({"concept": " "}, "The concept is empty"),
        ({"validation": "pictures"}, "connect clip_vision"),
    ],
)
def test_what_can_not_be_explained_is_refused(server: HostServer, changes: dict[str, Any], message: str) -> None:
    """Before anything runs."""
    graph = decompose_graph(**changes)
    del graph["found"]["inputs"]["clip_vision"]
    with pytest.raises(GraphError, match="refused") as refused:
        server.queue(graph)
    assert message in str(refused.value.details)


def test_pictures_need_no_name(server: HostServer) -> None:
    graph = decompose_graph(concept="", images=["own", 0], method="conceptor")
    graph["own"] = node("EmptyImage", width=128, height=128, batch_size=3, color=200)
    assert len(mix_of(server, graph)) > 0
