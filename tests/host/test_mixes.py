"""Mixes in the text encoders of tiny random transformers: the vector that arrives is the mix, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from conceptlens.core.conceptor.mixture import TokenMix
from conceptlens.core.errors import UserError
from conceptlens.core.model.template import Template
from torch import Tensor

pytestmark = pytest.mark.usefixtures("host_modules")

FAMILIES = ("Flux.1", "Chroma", "SD 3", "AuraFlow", "PixArt", "Z-Image", "Qwen-Image", "OmniGen2", "Flux.2")
FAMILIES += ("HunyuanImage", "Krea 2", "Cosmos-Predict2")
PROMPT = Template.of_several("a photo of a <> by the sea", "<>")
WORDS = "rose: 0.7, heart: 0.4, doctor: -0.2"


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def clip(family: str, host_modules: None) -> Any:  # noqa: ARG001  (makes the host importable)
    from conceptlens.tests.host.transformers import tiny_transformer

    with torch.inference_mode():
        return tiny_transformer(family)[1]


@contextmanager
def read_by(clip: Any) -> Iterator[dict[str, Tensor]]:
    """What each encoder takes for a prompt's tokens, (slots, width)."""
    from conceptlens.nodes.host import mix_encoder_of

    seen: dict[str, Tensor] = {}
    hooks = []
    for name in mix_encoder_of(clip).words():
        model = clip.cond_stage_model
        encoder = getattr(model, f"clip_{name}", None) or getattr(model, name)

        def look(_: Any, __: Any, named: dict[str, Any], name: str = name) -> None:
            seen[name] = named["embeds"][0].clone()

        hooks.append(encoder.transformer.register_forward_pre_hook(look, with_kwargs=True))
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def mixed(clip: Any, text: str = WORDS) -> TokenMix:
    from conceptlens.nodes.conceptor.token_mix import TokenMixFromText

    (mix,) = TokenMixFromText.execute(clip=clip, text=text).args
    return mix


def test_the_vector_that_arrives_is_the_mix(clip: Any) -> None:
    """And all the others are those of the prompt with a word in its place."""
    from conceptlens.nodes.conceptor.token_mix import TokenMixConditioning
    from conceptlens.nodes.host import encoded, mix_encoder_of

    encoder, mix = mix_encoder_of(clip), mixed(clip)
    with read_by(clip) as seen:
        conditioning, _ = TokenMixConditioning.execute(
            clip=clip, prompt="a photo of a <> by the sea", num_tokens=50, coefficients="", mix=mix
        ).args
        with_mix = dict(seen)
        plain = encoded(clip, "a photo of a house by the sea")
    tables = encoder.words()
    assert with_mix.keys() == tables.keys()
    for (name, table), vector in zip(tables.items(), mix.pseudo_token(list(tables.values())), strict=True):
        differ = (with_mix[name] != seen[name]).any(1).nonzero().flatten()
        assert len(differ) == 1
        assert torch.equal(with_mix[name][differ[0]], vector[0].to(with_mix[name]))
        assert vector.norm() == pytest.approx(table.mean_length, rel=1e-4)
    assert conditioning[0][0].shape == plain[0][0].shape
    assert not torch.equal(conditioning[0][0], plain[0][0])


def test_a_word_of_several_pieces_is_their_mean(clip: Any) -> None:
    from conceptlens.nodes.host import HostLanguageEncoder, mix_encoder_of, words

    encoder = mix_encoder_of(clip)
    assert isinstance(encoder, HostLanguageEncoder)
    ids = {word: token for token, word in words().items()}
    for name, table in encoder.words().items():
        if name in ("l", "g"):
            continue
        model = clip.cond_stage_model
        embed = (getattr(model, f"clip_{name}", None) or getattr(model, name)).transformer.get_input_embeddings()
        lengths = set()
        for word in ("rose", "butterfly", "caterpillar", "ladybug", "screwdriver"):
            pieces = encoder._pieces(name, word)
            lengths.add(len(pieces))
            with torch.inference_mode():
                expected = embed(torch.tensor(pieces), out_dtype=torch.float32).mean(0)
            torch.testing.assert_close(table.of([ids[word]])[0], expected, rtol=1e-3, atol=1e-3)
        assert max(lengths) > 1


def test_the_editors_changes_and_files_are_those_of_mixes(clip: Any, tmp_path: Path) -> None:
    from conceptlens.nodes.conceptor.token_mix import TokenMixConditioning
    from conceptlens.nodes.host import mix_encoder_of

    mix = mixed(clip)
    off = mix.ids[mix.texts.index("heart")]
    coefficients = f'{{"v": 1, "set": {{"{mix.ids[0]}": 2.0}}, "off": [{off}], "add": {{}}, "top": 20}}'
    given: dict[str, Any] = {"clip": clip, "prompt": "a <>", "num_tokens": 50}
    edited, used = TokenMixConditioning.execute(**given, coefficients=coefficients, mix=mix).args
    assert dict(zip(used.texts, used.coefficients, strict=True)) == {"rose": 2.0, "doctor": -0.2}
    used.save(tmp_path / "mix.safetensors")
    again, _ = TokenMixConditioning.execute(
        **given, coefficients="", mix=TokenMix.load(tmp_path / "mix.safetensors")
    ).args
    assert torch.equal(edited[0][0], again[0][0])
    undone, _ = TokenMixConditioning.execute(**given, coefficients="", mix=mix).args
    fresh = mix_encoder_of(clip).conditioning(Template.of_several("a <>", "<>"), mix)
    assert torch.equal(undone[0][0], fresh[0][0])


def test_what_is_no_word_and_what_would_be_read_as_letters_is_said(clip: Any, family: str) -> None:
    from conceptlens.nodes.host import mix_encoder_of, words

    encoder = mix_encoder_of(clip)
    piece = next(token for token in range(1000, 40_000) if token not in words())
    with pytest.raises(UserError, match="a piece of words, which only CLIP has"):
        encoder.check_mix(TokenMix.of([piece], ["pie"], [1.0]))
    weighted = Template.of_several("a (big:1.2) <>", "<>")
    if family in ("Z-Image", "Qwen-Image", "Flux.2", "HunyuanImage", "Krea 2"):  # OmniGen2 reads weights
        with pytest.raises(UserError, match="read as letters"):
            encoder.conditioning(weighted, mixed(clip))
    else:
        assert encoder.conditioning(weighted, mixed(clip))
    with pytest.raises(UserError, match="cancel out"):
        encoder.conditioning(PROMPT, TokenMix.of([1929], ["dog"], [0.0]))


def test_an_encoder_that_takes_ids_alone_is_refused(host_modules: None) -> None:  # noqa: ARG001
    from conceptlens.nodes.host import mix_encoder_of
    from conceptlens.tests.host.transformers import tiny_transformer

    with torch.inference_mode():
        _, clip = tiny_transformer("Anima")
    with pytest.raises(UserError, match="takes tokens by their ids alone"):
        mix_encoder_of(clip)


@pytest.mark.parametrize("kind", ["Flux.1", "Z-Image"])
def test_the_gallery_draws_each_word_with_a_transformer(host_modules: None, kind: str) -> None:  # noqa: ARG001
    from conceptlens.nodes.conceptor.gallery import TokenMixGallery
    from conceptlens.nodes.host import encoded
    from conceptlens.tests.host.transformers import tiny_transformer, tiny_vae

    with torch.inference_mode():
        (model, clip), vae = tiny_transformer(kind), tiny_vae()
    given: dict[str, Any] = {"model": model, "clip": clip, "vae": vae, "mix": mixed(clip), "prompt": "a photo of a {}"}
    given |= {"steps": 2, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "seed": 0, "top": 2}
    given |= {"width": 64, "height": 64, "negative": encoded(clip, "")}
    grid, images = TokenMixGallery.execute(**given).args
    assert images.shape == (2, 64, 64, 3)
    assert images.isfinite().all()
    assert not torch.equal(images[0], images[1])
    assert grid.shape[2] > 128
