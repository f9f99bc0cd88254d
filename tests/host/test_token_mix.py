"""Mixes in the host: in prompts, as embeddings, in files, and against what a fit computes."""

from __future__ import annotations

import json
import re
import urllib.error
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conceptlens.core.conceptor.mixture import TokenMix, mix_from_text
from conceptlens.core.errors import UserError
from conceptlens.core.model.protocols import Family
from conceptlens.core.model.template import Template
from conceptlens.core.model.text_tower import encode
from conceptlens.core.pictures.grid import from_pil
from conceptlens.hosting.server import Graph, GraphError, HostServer
from conceptlens.tests.conftest import ROOT
from conceptlens.tests.host.graphs import CHECKPOINT, executed_nodes, node, saved_latent
from conceptlens.tests.tiny import FAMILIES, tiny_pipeline
from PIL import Image
from torch import Tensor

pytestmark = pytest.mark.usefixtures("host_modules")
DOG = 1929


@pytest.fixture(scope="module")
def encoder(pipe: Any, family: Family, host_modules: None) -> Any:  # noqa: ARG001
    from conceptlens.nodes.host import HostTextEncoder
    from conceptlens.tests.host.twin import twin_clip

    return HostTextEncoder(twin_clip(pipe, family))


def template(prompt: str) -> Template:
    return Template.of_several(prompt, "<>")


def mix_of(encoder: Any) -> TokenMix:
    return mix_from_text(encoder, "dog: 0.6, snow: 0.3, wolf: -0.1", encoder.family)


def test_the_hosts_conditioning_is_the_fits(encoder: Any, family: Family) -> None:
    """The same prompt, encoded by the host with all that it can, and by the towers that a fit differentiates."""
    mix = mix_of(encoder)
    tokens = encoder.tokenize("a photo of a dog, and a dog")
    slots = [place for place, token in enumerate(tokens) if token == DOG]
    ((context, extras),) = encoder.conditioning(template("a photo of a <>, and a <>"), mix)
    towers = encoder.towers()
    encoded = encode(towers, tokens, slots, mix.pseudo_token([tower.words for tower in towers]))
    torch.testing.assert_close(context.float(), encoded.context, rtol=1e-4, atol=1e-4)
    if family == "SDXL":
        torch.testing.assert_close(extras["pooled_output"].float(), encoded.pooled, rtol=1e-4, atol=1e-4)


def test_one_file_is_the_mix_in_the_host_and_in_diffusers(
    encoder: Any, family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`embedding:my_concept` here, the help page's lines there, and the live pseudo-token give one context."""
    mix, clip = mix_of(encoder), encoder._clip
    ((expected, extras),) = encoder.conditioning(template("a <> in snow"), mix)
    mix.save_embedding(tmp_path / "my_concept.safetensors", encoder.words())
    for name in encoder.names:
        monkeypatch.setattr(getattr(clip.tokenizer, name), "embedding_directory", str(tmp_path))
    prompt = clip.tokenize("a embedding:my_concept in snow")
    ((here, extras_here),) = clip.encode_from_tokens_scheduled(prompt)
    assert torch.equal(here, expected)

    pipe = tiny_pipeline(family)  # of its own: it is given a word
    if family == "SDXL":
        pipe.text_encoder_2.text_model.eos_token_id = 2  # as in the published checkpoint
    page = (ROOT / "web/docs/SaveTokenMixEmbedding.md").read_text(encoding="utf-8")
    for_one_encoder, for_sdxl = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(for_sdxl if family == "SDXL" else for_one_encoder, {"pipe": pipe})  # noqa: S102 # a page of ours
    options = {"device": "cpu", "num_images_per_prompt": 1, "do_classifier_free_guidance": False}
    with torch.inference_mode():
        there: Any = pipe.encode_prompt("a <my_concept> in snow", **options)
    torch.testing.assert_close(there[0], expected, rtol=1e-4, atol=1e-4)
    if family == "SDXL":
        assert torch.equal(extras_here["pooled_output"], extras["pooled_output"])
        torch.testing.assert_close(there[2], extras["pooled_output"], rtol=1e-4, atol=1e-4)


def test_weights_around_a_mix_count(encoder: Any) -> None:
    mix = mix_of(encoder)
    plain, weighted, word = (
        encoder.conditioning(template(f"a {slot} in snow"), mix)[0][0] for slot in ("<>", "(<>:1.4)", "<>")
    )
    assert torch.equal(plain, word)
    assert not torch.allclose(plain, weighted, atol=1e-3)


def test_prompts_that_lost_their_slot_are_refused() -> None:
    with pytest.raises(UserError, match="has no <>"):
        template("a photo of a dog")


def test_a_mix_of_another_family_is_refused(encoder: Any, family: Family) -> None:
    other = next(name for name in FAMILIES if name != family)
    with pytest.raises(UserError, match=f"made for {other}, but the model is {family}"):
        TokenMix.of([DOG], ["dog"], [1.0], family=other).check_family(encoder.family)


def graph(
    mix: str = "rose: 1, tulip: 0.5", coefficients: str = "", prompt: str = "a photo of a <>", seed: int = 1
) -> Graph:
    sampling = {"seed": seed, "steps": 3, "cfg": 4.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    links = {"model": ["loader", 0], "positive": ["mixed", 0], "negative": ["negative", 0]}
    return {
        "loader": node("CheckpointLoaderSimple", ckpt_name=CHECKPOINT),
        "mix": node("TokenMixFromText", clip=["loader", 1], text=mix),
        "mixed": node(
            "TokenMixConditioning",
            clip=["loader", 1],
            prompt=prompt,
            num_tokens=50,
            coefficients=coefficients,
            mix=["mix", 0],
        ),
        "negative": node("CLIPTextEncode", clip=["loader", 1], text=""),
        "latent": node("EmptyLatentImage", width=128, height=128, batch_size=1),
        "sampler": node("KSampler", **links, latent_image=["latent", 0], **sampling),
        "save": node("SaveLatent", samples=["sampler", 0], filename_prefix="mix"),
        "plot": node("TokenMixPlot", mix=["mixed", 1], style="bars", top=20),
        "cloud": node("TokenMixPlot", mix=["mix", 0], style="cloud", top=20),
        "shown": node("SaveImage", images=["plot", 0], filename_prefix="bars"),
        "clouds": node("SaveImage", images=["cloud", 0], filename_prefix="cloud"),
    }


def test_a_changed_coefficient_costs_one_encoding_and_the_sampling(server: HostServer) -> None:
    first = server.run(graph())
    changed = graph(coefficients='{"v": 1, "set": {"3568": 0.1}}')
    second = server.run(changed)
    assert executed_nodes(second, changed) == {"mixed", "sampler", "save", "plot", "shown"}
    assert not torch.equal(saved_latent(server, first), saved_latent(server, second))
    third = server.run(graph(mix="rose: 0.1, tulip: 0.5"))
    torch.testing.assert_close(saved_latent(server, third), saved_latent(server, second))


def test_a_gallery_shows_each_word_as_the_sampler_draws_it(server: HostServer) -> None:
    base = graph(mix="rose: 1", seed=3)
    base["decoded"] = node("VAEDecode", samples=["sampler", 0], vae=["loader", 2])
    base["alone"] = node("SaveImage", images=["decoded", 0], filename_prefix="alone")
    gallery = {"model": ["loader", 0], "clip": ["loader", 1], "vae": ["loader", 2], "mix": ["words", 0]}
    settings = {"steps": 3, "cfg": 4.0, "sampler_name": "euler", "scheduler": "normal", "seed": 3}
    size = {"width": 128, "height": 128}
    base["words"] = node("TokenMixFromText", clip=["loader", 1], text="tulip: 0.2, rose: 1, dog: 0.1")
    base["gallery"] = node("TokenMixGallery", **gallery, prompt="a photo of a {}", top=2, **settings, **size)
    base["grid"] = node("SaveImage", images=["gallery", 0], filename_prefix="grid")
    base["each"] = node("SaveImage", images=["gallery", 1], filename_prefix="each")
    outputs = server.run(base)["outputs"]
    assert [words()[token] for token in outputs["gallery"]["tokens"]] == ["rose", "tulip"]
    assert len(outputs["each"]["images"]) == len(outputs["gallery"]["images"]) == 2
    first, alone = (saved_picture(server, outputs[name]["images"][0]) for name in ("each", "alone"))
    assert torch.equal(first, alone)
    assert not torch.equal(first, saved_picture(server, outputs["each"]["images"][1]))
    with pytest.raises(GraphError) as refused:
        server.run(base | {"gallery": node("TokenMixGallery", **gallery, prompt="dog", top=2, **settings, **size)})
    assert "must have one {}" in str(refused.value.details)


def words() -> dict[int, str]:
    from conceptlens.nodes.host import words

    return words()


def saved_picture(server: HostServer, image: dict[str, str]) -> Tensor:
    return from_pil(Image.open(server.base / "output" / image["subfolder"] / image["filename"]))


def test_a_mix_is_kept_and_used_as_an_embedding(server: HostServer) -> None:
    base = graph()
    saving = base | {
        "kept": node("SaveTokenMix", mix=["mix", 0], filename_prefix="flowers/two"),
        "embedded": node("SaveTokenMixEmbedding", mix=["mix", 0], clip=["loader", 1], name="two_flowers"),
    }
    history = server.run(saving)
    assert history["outputs"]["embedded"]["text"] == ["embedding:two_flowers"]
    loading = {key: value for key, value in base.items() if key not in ("mix", "cloud", "clouds")}
    loading["mix"] = node("LoadTokenMix", file="flowers/two_00001_.safetensors")
    torch.testing.assert_close(saved_latent(server, server.run(loading)), saved_latent(server, history))
    prompted = {key: value for key, value in base.items() if key in ("loader", "negative", "latent", "sampler", "save")}
    prompted["mixed"] = node("CLIPTextEncode", clip=["loader", 1], text="a photo of a embedding:two_flowers")
    torch.testing.assert_close(
        saved_latent(server, server.run(prompted)), saved_latent(server, history), rtol=1e-3, atol=1e-3
    )
    with pytest.raises(GraphError, match="exists already"):
        server.run(saving | {"latent": node("EmptyLatentImage", width=64, height=64, batch_size=1)})


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"mix": "computer: 1"}, "tokens of this model"),
        ({"mix": "rose: 1, tulip: much"}, "no number"),
        ({"mix": "rose: 0"}, "cancel out|nothing to draw"),
    ],
)
def test_unusable_mixes_are_one_sentence(server: HostServer, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(GraphError, match=says):
        server.run(graph(**changes))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("my concept", "No prompt can use"),
        ("a(b)", "No prompt can use"),
        ("<x>", "No prompt can use"),
        ("\u00e9" * 130, "File name too long"),
        ("../x", "leaves the folder"),
    ],
)
def test_names_that_no_prompt_or_disk_has_are_refused(name: str, says: str) -> None:
    from conceptlens.nodes import host

    assert says in str(host.usable_name(name, host.EMBEDDINGS))
    assert host.usable_name("my_concept-2", host.EMBEDDINGS) is True
    assert host.usable_name("my concept (2)", host.MIXES) is True


@pytest.mark.parametrize("changes", [{"mix": " "}, {"coefficients": "{"}, {"prompt": "a photo"}])
def test_what_the_widgets_show_is_refused_before_anything_runs(server: HostServer, changes: dict[str, Any]) -> None:
    with pytest.raises(GraphError, match="refused"):
        server.run(graph(**changes))


def test_vocabulary_is_searched_by_text_and_picture(
    encoder: Any, family: Family, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from conceptlens.nodes import host
    from conceptlens.nodes.conceptor.vocabulary import VocabEmbed, VocabSearch

    monkeypatch.setattr(host, "cache_folder", lambda: tmp_path)
    clip = encoder._clip
    projection = clip.cond_stage_model.state_dict().get(f"{encoder.names[-1]}.transformer.text_projection.weight")
    if family != "SDXL":  # whatever a checkpoint without one finds in memory
        projection.copy_(torch.eye(len(projection)) * 1e30)
    with torch.inference_mode():  # as the host runs its graphs
        embedded: Any = VocabEmbed.execute(clip, "none", "words", True)
        vocabulary, report = embedded.result
        found: Any = VocabSearch.execute(vocabulary, clip, "rose", 5)
        tokens, mix = found.result
        some: Any = VocabEmbed.execute(clip, "none", "words", True, "male, female,")
        others = replace(vocabulary, made_by={**vocabulary.made_by, "encoder": "another"})
        with pytest.raises(UserError, match="made with another text encoder"):
            VocabSearch.execute(others, clip, "rose", 5)
    assert sorted(some.result[0].texts) == ["female", "male"]
    assert not some.result[0].features.is_inference()
    assert f"tokens of {family}" in report
    assert tokens.splitlines()[0].startswith("rose: ")
    assert mix.texts[0] == "rose"
    assert len(mix) == 5
    assert not vocabulary.features.is_inference()
    assert len(list(tmp_path.iterdir())) == 1
    row = vocabulary.texts.index("rose")
    monkeypatch.setattr(host, "image_features", lambda *_: vocabulary.features[row : row + 1])
    picture = torch.zeros(1, 8, 8, 3)
    if family == "SDXL":
        found = VocabSearch.execute(vocabulary, clip, "", 5, picture, "an image encoder")
        assert found.result[1].texts[0] == "rose"
    else:  # of as many numbers, but of another space
        with pytest.raises(UserError, match="has no projection"):
            VocabSearch.execute(vocabulary, clip, "", 5, picture, "an image encoder")
    for arguments, says in (((), "nothing to look for"), ((picture,), "without clip_vision")):
        with pytest.raises(UserError, match=says):
            VocabSearch.execute(vocabulary, clip, "", 5, *arguments)


def test_the_editor_is_told_its_rows(server: HostServer) -> None:
    """Those that came, whatever was changed, with the words that are nearest to each."""
    history = server.run(graph(mix="rose: 1, tulip: 0.25", coefficients='{"v": 1, "set": {"3568": 0.5}}'))
    (told,) = history["outputs"]["mixed"]["token_mix"]
    assert told["rows"] == [[3568, 28389], ["rose", "tulip"], [1.0, 0.25]]
    assert {token: len(words) for token, words in told["near"].items()} == {"3568": 8, "28389": 8}
    assert "rose" not in [text for _, text in told["near"]["3568"]]


def test_words_are_completed(server: HostServer) -> None:
    found = server.get("/conceptlens/tokens?query=Wol&limit=4")
    assert [word["text"] for word in found] == ["wol", "wolf", "wolves", "wolverine"]
    assert server.get("/conceptlens/tokens?query=%E6%97%A5&limit=1") != []  # any script


REFUSED = ["", "query=", f"query={'a' * 65}"] + [
    f"query=a&limit={limit}" for limit in ("0", "101", "../etc", "9" * 5000)
]


@pytest.mark.parametrize("query", REFUSED)
def test_other_questions_are_refused(server: HostServer, query: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        server.get(f"/conceptlens/tokens?{query}")
    assert refused.value.code == 400
    assert "send" in json.load(refused.value)["error"]
