"""Explanations without gradients: of models whose prompts T5 or a language model reads, on the host's own model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from conceptlens.core.conceptor.dictionary import Dictionary, prompt_losses, token_losses
from conceptlens.core.conceptor.explanation import explain
from conceptlens.core.conceptor.fit import Settings
from conceptlens.core.conceptor.mixture import TokenMix
from conceptlens.core.conceptor.vocabulary import Vocabulary, embed_vocabulary, named_tokens
from conceptlens.core.errors import UserError
from conceptlens.core.model.diffusion import Draws, denoising_loss
from conceptlens.core.model.template import Template
from conceptlens.core.model.text_tower import Encoded
from torch import Tensor

pytestmark = pytest.mark.usefixtures("host_modules")

FAMILIES = ("Flux.1", "Chroma", "SD 3", "AuraFlow", "PixArt", "Z-Image", "Qwen-Image", "OmniGen2", "Flux.2")
FAMILIES += ("HunyuanImage", "Krea 2", "Cosmos-Predict2")
PROMPT = Template.of("a photo of a {}")
WORDS = ("rose", "heart", "tulip", "lobster", "shrimp", "sushi", "bell", "doctor", "snake", "tomato")
TIMESTEPS = torch.tensor([300, 600, 999])
SIZE = 64


@pytest.fixture(scope="module")
def world(host_modules: None) -> Sequence[Any]:  # noqa: ARG001  (makes the host importable)
    from conceptlens.nodes import host

    return host.load_world(host.EMOJI_WORLD)


@pytest.fixture(scope="module")
def vocabulary(world: Sequence[Any]) -> Vocabulary:
    """Of EmojiWorld's CLIP, whose image encoder shares its space."""
    from conceptlens.nodes.host import HostTextEncoder

    with torch.inference_mode(False):
        encoder = HostTextEncoder(world[1])
        return embed_vocabulary(encoder, "none", named_tokens(encoder, WORDS))


@pytest.fixture(scope="module")
def pictures(world: Sequence[Any]) -> Tensor:
    """What EmojiWorld draws for a rose and a heart."""
    from conceptlens.nodes import host

    model, clip, vae, _ = world
    sampling = host.Sampling(host.encoded(clip, ""), 8, 2.5, 128, 128)
    drawn = [host.drawn(model, vae, host.encoded(clip, f"a {word}"), 1, sampling) for word in ("rose", "rose", "heart")]
    return torch.stack([*drawn, drawn[0].flip(1), drawn[2].flip(1)]).clone()


def tiny(family: str) -> tuple[Any, Any]:
    from conceptlens.tests.host.transformers import tiny_transformer

    with torch.inference_mode():
        return tiny_transformer(family)


def parts_of(family: str, vocabulary: Vocabulary) -> tuple[Any, Any, Any, Any, Any]:
    """A family's model and text encoder, a slot, what denoises in it, and the words as its encoder has them."""
    from conceptlens.nodes.host import Sampling, encoded, studio_of
    from conceptlens.tests.host.transformers import tiny_vae

    model, clip = tiny(family)
    with torch.inference_mode():
        vae, sampling = tiny_vae(), Sampling(encoded(clip, ""), 2, 1.0, SIZE, SIZE)
    studio = studio_of(model, clip, vae, None, sampling, vocabulary)
    words = Dictionary.of(vocabulary.read_by(studio.words), range(3), torch.device("cpu"))
    return model, clip, studio.slot(PROMPT), studio.diffusion(), words


def by_the_sampler(model: Any, conditioning: Any, drawn: Draws, sigmas: Tensor) -> Tensor:
    """The loss (draws,) by one step of the host's Euler sampler from each noise level to none: it ends at x_0."""
    import comfy.model_sampling
    import comfy.sample
    import comfy.samplers

    flow = comfy.model_sampling.CONST in type(model.get_model_object("model_sampling")).__bases__
    latent_format: Any = model.get_model_object("latent_format")
    euler: Any = comfy.samplers.sampler_object("euler")
    losses = []
    for row, sigma in enumerate(sigmas.tolist()):
        clean, noise = drawn.latents[row : row + 1], drawn.noise[row : row + 1]
        with torch.inference_mode():
            given: Any = latent_format.process_out(clean.clone())
            steps = torch.tensor([sigma, 0.0])
            ended = comfy.sample.sample_custom(model, noise, 1.0, euler, steps, conditioning, conditioning, given)
            found: Any = latent_format.process_in(ended)
        x = (1 - sigma) * clean + sigma * noise if flow else clean + sigma * noise
        losses.append(((x - found) / sigma - (noise - clean if flow else noise)).square().mean())
    return torch.stack(losses).clone()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_words_loss_is_that_of_the_hosts_own_sampler(family: str, vocabulary: Vocabulary) -> None:
    """For words as mixes and for a prompt, of every family's latents, masks and pooled texts."""
    from conceptlens.nodes.host import encoded, mix_encoder_of

    model, clip, slot, diffusion, words = parts_of(family, vocabulary)
    latent_format: Any = model.get_model_object("latent_format")
    side = (512 if family == "PixArt" else SIZE) // latent_format.spacial_downscale_ratio  # PixArt draws none smaller
    frames = (1,) if latent_format.latent_dimensions == 3 else ()
    generator = torch.Generator().manual_seed(2)
    latents, noise = (
        torch.randn(3, latent_format.latent_channels, *frames, side, side, generator=generator) for _ in range(2)
    )
    drawn = Draws(latents, noise, TIMESTEPS, torch.arange(3))
    found = token_losses(diffusion, slot, words.singles(), drawn)
    named = prompt_losses(diffusion, slot.named("red rose"), drawn)
    assert found.shape == (3, 3)
    sigmas = diffusion._sigmas[TIMESTEPS]
    singles = [TokenMix.of([int(token)], [text], [1.0]) for token, text in zip(words.ids, words.texts, strict=True)]
    with torch.inference_mode():
        prompts = [mix_encoder_of(clip).conditioning(PROMPT, mix) for mix in singles]
        prompts.append(encoded(clip, "a photo of a red rose"))
    for losses, conditioning in zip([*found, *named], prompts, strict=True):
        torch.testing.assert_close(losses, by_the_sampler(model, conditioning, drawn, sigmas), rtol=2e-3, atol=1e-4)
    assert found.std(0).max() > 1e-6  # words are told apart


def test_it_says_what_a_copy_of_the_model_says() -> None:
    """Of EmojiWorld's transformer, whose slot has gradients."""
    from conceptlens.nodes import host
    from conceptlens.nodes.host.forward import Conditionings, HostForward

    model, clip, *_ = host.load_world(host.EMOJI_WORLD_TRANSFORMER)
    generator = torch.Generator().manual_seed(1)
    latents, noise = (torch.randn(3, 4, 16, 16, generator=generator) for _ in range(2))
    drawn, prompts = Draws(latents, noise, TIMESTEPS, torch.arange(3)), Conditionings()
    with torch.inference_mode(False), torch.no_grad():
        ((context, others),) = host.encoded(clip, "a rose")
        copied = Encoded(context.clone(), others["pooled_output"].clone())
        expected = denoising_loss(host.HostDiffusion(model, exact=True), drawn, copied.repeated(3))
        numbers = prompts.add([[[context, others]]])
        found = denoising_loss(HostForward(model, prompts), drawn, numbers.repeated(3))
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-3)


def explained(family: str, vocabulary: Vocabulary, clip_vision: Any, **changes: Any) -> Any:
    from conceptlens.nodes.conceptor.decompose import ConceptDecompose
    from conceptlens.tests.host.transformers import tiny_vae

    model, clip = changes.pop("parts", None) or tiny(family)
    with torch.inference_mode():
        vae = tiny_vae()
    given: dict[str, Any] = {"model": model, "clip": clip, "vae": vae, "vocabulary": vocabulary, "concept": "flower"}
    given |= {"prompt": str(PROMPT), "image_size": SIZE, "cfg": 1.0, "exclude_concept": True, "seed": 0}
    given |= {"clip_vision": clip_vision, "validation_images": 1, "num_images": 3, "sampling_steps": 2}
    given = {name: value for name, value in (given | changes).items() if value is not None}  # not connected
    with torch.inference_mode():
        return ConceptDecompose.execute(**given).args


@pytest.mark.parametrize("family", ["Flux.1", "SD 3", "Z-Image", "Qwen-Image", "Cosmos-Predict2"])
def test_pictures_are_explained_and_the_mix_is_used(
    family: str, vocabulary: Vocabulary, world: Sequence[Any], pictures: Tensor
) -> None:
    """By the node, from pictures to words; the words go into a prompt of the same model."""
    from conceptlens.nodes.conceptor.token_mix import TokenMixConditioning

    parts = tiny(family)
    mix, trained_on, remade, chart, report = explained(family, vocabulary, world[3], parts=parts, images=pictures)
    assert set(mix.texts) <= set(WORDS)
    assert sum(mix.shares()) == pytest.approx(1, abs=1e-4)
    assert trained_on.shape == pictures.shape
    assert remade.shape[1:] == (SIZE, SIZE, 3)
    assert remade.isfinite().all()
    assert chart.ndim == 4
    assert "by shares" in report
    assert mix.made_by["family"] is None
    assert 0 < mix.made_by["evaluations"] <= 4000
    again = explained(family, vocabulary, world[3], parts=parts, images=pictures)[0]
    assert again.texts == mix.texts
    assert again.coefficients == pytest.approx(mix.coefficients, rel=1e-3)
    how: dict[str, Any] = {"prompt": "a <>", "num_tokens": 50, "coefficients": ""}
    (prompt, _) = TokenMixConditioning.execute(clip=parts[1], mix=mix, **how).args
    assert prompt[0][0].isfinite().all()


def test_the_words_are_those_of_an_explanation_with_gradients() -> None:
    """Of EmojiWorld's transformer: what seafood is made of is found either way, as a race finds it."""
    from conceptlens.nodes import host
    from conceptlens.nodes.host.studio import HostLanguageStudio

    model, clip, vae, clip_vision = host.load_world(host.EMOJI_WORLD_TRANSFORMER)
    sampling = host.Sampling(host.encoded(clip, ""), 6, 2.5, 128, 128, "dpmpp_2m", "normal")
    settings = Settings(racers=8, draws=8, num_tokens=8)
    mixes = []
    with torch.inference_mode(False):
        reader = host.HostTextEncoder(clip)
        words = embed_vocabulary(reader, "none", named_tokens(reader, WORDS))
        parts = (model, clip, vae, clip_vision, sampling)
        for studio in (host.HostStudio(*parts), HostLanguageStudio(*parts, encoder=reader)):
            how: dict[str, Any] = {"num_images": 8, "validation_images": 2}
            found = explain(studio, words, "seafood", PROMPT, settings, host.LiveView(), **how)
            mixes.append(found.found.mix)
    with_gradients, without = mixes
    assert without.texts == with_gradients.texts
    assert set(without.texts[:3]) <= {"lobster", "shrimp", "sushi"}
    assert without.shares() == pytest.approx(with_gradients.shares(), abs=0.05)


def test_a_name_that_no_words_name_is_said() -> None:
    """Where CLIP reads the prompt a mix of many words is fitted; here the closest words are told for what they are."""
    from conceptlens.nodes import host
    from conceptlens.nodes.host.studio import HostLanguageStudio

    model, clip, vae, clip_vision = host.load_world(host.EMOJI_WORLD_TRANSFORMER)
    sampling = host.Sampling(host.encoded(clip, ""), 6, 2.5, 128, 128, "dpmpp_2m", "normal")
    with torch.inference_mode(False):
        reader = host.HostTextEncoder(clip)
        words = embed_vocabulary(reader, "none", named_tokens(reader, ("doctor", "snake")))
        studio = HostLanguageStudio(model, clip, vae, clip_vision, sampling, encoder=reader)
        settings = Settings(racers=2, draws=4)
        how: dict[str, Any] = {"num_images": 3, "validation_images": 1}
        found = explain(studio, words, "tulip", PROMPT, settings, host.LiveView(), **how)
    assert found.report().startswith('No few words name "tulip"')
    assert "not fitted" in found.report()
    assert "name it" not in found.report().splitlines()[-3]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"clip_vision": None}, "connect an image encoder"),
        ({"method": "conceptor"}, "needs the gradients of CLIP"),
        ({"quality": "published"}, "needs the gradients of CLIP"),
    ],
)
def test_what_needs_gradients_is_refused_before_a_picture_is_drawn(
    changes: dict[str, Any], says: str, vocabulary: Vocabulary, world: Sequence[Any]
) -> None:
    with pytest.raises(UserError, match=says):
        explained("Z-Image", vocabulary, **{"clip_vision": world[3], **changes})


def test_a_step_cache_is_refused(vocabulary: Vocabulary, world: Sequence[Any]) -> None:
    from comfy_extras.nodes_easycache import EasyCacheNode

    model, clip = tiny("Z-Image")
    (cached,) = EasyCacheNode.execute(model, 0.2, 0.0, 1.0, False).args
    with pytest.raises(UserError, match="EasyCache"):
        explained("Z-Image", vocabulary, world[3], parts=(cached, clip))
