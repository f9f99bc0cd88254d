"""Models that carry other people's patches, drawn with by the host's own guiders and samplers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from conceptlens.core.errors import UserError
from conceptlens.core.model.protocols import unseen
from conceptlens.tests.host.patches import (
    CACHE,
    NEGATIVE,
    POSITIVE,
    RECORDED,
    Patch,
    chained,
    custom,
    direction,
    prompt,
    sampling,
    stock,
    with_function_wrapper,
    wrapped,
)
from torch import Tensor

pytestmark = pytest.mark.usefixtures("host_modules")


def shifted_prompts(model: Any, guider: Callable[[Any], Any], patch: Patch) -> dict[str, set[bool]]:
    """Which prompts a direction for the positive one moves: the name of the prompt -> whether it was shifted.

    Each evaluation of the UNet is made twice, with and without the direction.
    """
    from comfy.patcher_extension import WrappersMP
    from conceptlens.nodes.host.hspace import UNSHIFTED

    found: dict[str, set[bool]] = {}
    patched = patch(direction(positive=True)(model)).clone()

    def look(executor: Any, x: Tensor, timesteps: Tensor, context: Tensor, *others: Any, **named: Any) -> Tensor:
        *before, options = others
        output = executor(x, timesteps, context, *before, dict(options), **named)
        plain = executor(x, timesteps, context, *before, {**options, UNSHIFTED: True}, **named)
        for row, its in enumerate(context):
            name = next(name for name, prompt in PROMPTS.items() if torch.equal(prompt[0][0][0], its))
            found.setdefault(name, set()).add(not torch.allclose(output[row], plain[row], atol=1e-4))
        return output

    patched.add_wrapper(WrappersMP.DIFFUSION_MODEL, look)
    with torch.inference_mode():
        import comfy.samplers

        sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", 2)
        noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        how = (noise, torch.zeros_like(noise), comfy.samplers.sampler_object("euler"), sigmas)
        guider(patched).sample(*how, disable_pbar=True, seed=0)
    return found


PROMPTS = {"positive": POSITIVE, "negative": NEGATIVE, "third": prompt(3)}


def cfg(scale: float, positive: Any = POSITIVE) -> Callable[[Any], Any]:
    def made(model: Any) -> Any:
        import comfy.samplers

        guider = comfy.samplers.CFGGuider(model)
        guider.set_conds(positive, NEGATIVE)
        guider.set_cfg(scale)
        return guider

    return made


def custom_guider(name: str, *scales: Any, prompts: int = 3) -> Callable[[Any], Any]:
    def made(model: Any) -> Any:
        import comfy_extras.nodes_custom_sampler as custom
        import comfy_extras.nodes_perpneg as perpneg

        guider = getattr(custom, name, None) or getattr(perpneg, name)
        guider = guider(model)
        guider.set_conds(*list(PROMPTS.values())[:prompts])
        if scales:
            guider.set_cfg(*scales)
        return guider

    return made


def dual_model_guider(model: Any) -> Any:
    from comfy_extras.nodes_custom_sampler import Guider_DualModel

    guider = Guider_DualModel(model, model.clone())
    guider.set_conds(POSITIVE, NEGATIVE)
    guider.set_cfg(4.0)
    return guider


AREA = [[POSITIVE[0][0], {"area": (4, 4, 0, 0)}], [prompt(3)[0][0], {}]]
GUIDERS: dict[str, tuple[Callable[[Any], Any], Patch, dict[str, set[bool]]]] = {
    "CFG": (cfg(4.0), chained(), {"positive": {True}, "negative": {False}}),
    "CFG of 1": (cfg(1.0), chained(), {"positive": {True}}),
    "an area": (
        cfg(4.0, AREA),
        chained(),
        {"positive": {True}, "third": {True}, "negative": {False}},
    ),
    "SAG": (
        cfg(0.0),
        stock("sag.SelfAttentionGuidance", scale=1.0, blur_sigma=2.0),
        {"positive": {True}, "negative": {False}},
    ),
    "PAG": (
        cfg(4.0),
        stock("pag.PerturbedAttentionGuidance", scale=3.0),
        {"positive": {True}, "negative": {False}},
    ),
    "Dual CFG": (
        custom_guider("Guider_DualCFG", 4.0, 2.0),
        chained(),
        {"positive": {True}, "negative": {False}, "third": {False}},
    ),
    "Dual CFG nested": (
        custom_guider("Guider_DualCFG", 4.0, 2.0, True),
        chained(),
        {"positive": {True}, "negative": {False}, "third": {False}},
    ),
    "Perp-Neg": (
        custom_guider("Guider_PerpNeg", 4.0, 1.0),
        chained(),
        {"positive": {True}, "negative": {False}, "third": {False}},
    ),
    "Basic": (custom_guider("Guider_Basic", prompts=1), chained(), {"positive": {True}}),
    "two models": (dual_model_guider, chained(), {"positive": {True}, "negative": {False}}),
}


@pytest.mark.parametrize("name", GUIDERS)
def test_the_positive_prompt_is_told_from_others(model: Any, name: str) -> None:
    guider, patch, expected = GUIDERS[name]
    assert shifted_prompts(model, guider, patch) == expected


def test_a_guider_that_names_no_positive_prompt_is_told(model: Any) -> None:
    import comfy.samplers

    class Unnamed(comfy.samplers.CFGGuider):
        def set_conds(self, one: Any, other: Any) -> None:
            self.inner_set_conds({"first": one, "second": other})

        def predict_noise(self, x: Tensor, timestep: Tensor, model_options: Any = None, seed: Any = None) -> Tensor:
            del seed
            return comfy.samplers.calc_cond_batch(self.inner_model, [self.conds["first"]], x, timestep, model_options)[
                0
            ]

    def made(model: Any) -> Any:
        guider = Unnamed(model)
        guider.set_conds(POSITIVE, NEGATIVE)
        return guider

    with pytest.raises(UserError, match="does not say which prompt is the positive one"):
        shifted_prompts(model, made, chained())


def stateful(model: Any) -> Any:
    """A cache of another pack: it answers every other time."""
    clone, kept = model.clone(), []

    def cached(apply: Any, given: dict[str, Any]) -> Tensor:
        if kept:
            return kept.pop()
        kept.append(apply(given["input"], given["timestep"], **given["c"]))
        return kept[0]

    clone.set_model_unet_function_wrapper(cached)
    return clone


@pytest.mark.parametrize(
    ("patch", "name"),
    [
        (stock("easycache.LazyCacheNode", **CACHE), "LazyCache"),
        (stock("easycache.EasyCacheNode", **CACHE), "EasyCache"),
        (stateful, "stateful"),
    ],
    ids=["LazyCache", "EasyCache", "another"],
)
def test_a_step_cache_does_not_take_one_evaluation_for_another(model: Any, patch: Patch, name: str) -> None:
    """What is evaluated with and without a shift; and where each noise level is looked at."""
    from conceptlens.nodes.host import asyrp_sampler, inverted, sample_bottleneck

    shifted = direction(scale=5.0)(model)
    with pytest.raises(UserError, match=f"{name}.*evaluated twice.*connect it before"):
        custom(patch(shifted), asyrp_sampler(0.0))
    sigmas = torch.tensor([10.0, 3.0, 1.0, 0.0])
    with pytest.raises(UserError, match=f"{name}.*connect it before"), torch.inference_mode():
        how = {"mask": None, "cfg": 4.0, "eta": 0.0, "seed": 0, "progress": unseen}
        inverted(patch(model), POSITIVE, NEGATIVE, torch.ones(1, 4, 8, 8), sigmas, **how)
    if name != "stateful":
        with pytest.raises(UserError, match=f"{name}.*not run at each noise level; connect it before"):
            sample_bottleneck(patch(model), VAE, POSITIVE, [1], sampling(), **RECORDED)


def test_wrappers_that_keep_nothing_do_not_stand_in_the_way(model: Any) -> None:
    from conceptlens.nodes.host import asyrp_sampler

    shifted = direction(scale=5.0)(model)
    expected = custom(shifted, asyrp_sampler(0.0))
    assert not torch.equal(expected, custom(model, asyrp_sampler(0.0)))
    for patch in (with_function_wrapper, wrapped("predict_noise"), wrapped("diffusion_model")):
        assert torch.equal(custom(patch(shifted), asyrp_sampler(0.0)), expected)


class Decoder:
    """A VAE that shows latents as they are."""

    def decode(self, latents: Tensor) -> Tensor:
        return latents.movedim(1, -1)[..., :3]


VAE: Any = Decoder()


def test_deep_shrink_is_named(model: Any) -> None:
    from conceptlens.nodes.host import sample_bottleneck

    methods = {"downscale_method": "bicubic", "upscale_method": "bicubic", "downscale_after_skip": True}
    window = {"start_percent": 0.0, "end_percent": 0.35}
    shrunk = stock("model_downscale.PatchModelAddDownscale", block_number=2, downscale_factor=2.0, **window, **methods)(
        model
    )
    with pytest.raises(UserError, match=r"2 x 2 at some noise levels and 4 x 4 at others.*Deep Shrink"):
        sample_bottleneck(shrunk, VAE, POSITIVE, [1], sampling(), **RECORDED)


# Of the host's samplers those that neither add noise nor look at the whole batch. CFG++ of res_multistep is given new
# noise that counts nothing.
EACH_ALONE = {"euler", "euler_cfg_pp", "heun", "heunpp2", "exp_heun_2_x0", "dpm_2", "lms", "dpm_fast", "dpmpp_2m"}
EACH_ALONE |= {"dpmpp_2m_cfg_pp", "ipndm", "ipndm_v", "deis", "res_multistep", "res_multistep_cfg_pp"}
EACH_ALONE |= {"gradient_estimation", "gradient_estimation_cfg_pp", "ddim", "uni_pc", "uni_pc_bh2"}
# Of the host's samplers' own making.
OWN_WARNINGS = pytest.mark.filterwarnings(
    "ignore:(To copy construct|Should have t):UserWarning", "ignore:__array_wrap__:DeprecationWarning"
)


@OWN_WARNINGS
def test_which_samplers_draw_each_picture_alone_is_found_out(model: Any) -> None:
    from conceptlens.nodes.host import samplers
    from conceptlens.nodes.host.sampling import draws_each_alone

    found = {name for name in samplers() if draws_each_alone(model, POSITIVE, sampling(sampler_name=name))}
    assert found == EACH_ALONE & set(samplers())


@OWN_WARNINGS
@pytest.mark.parametrize("name", ["euler", "uni_pc", "euler_ancestral", "dpmpp_2m_sde", "euler_ancestral_cfg_pp"])
def test_a_picture_is_the_samplers_of_its_seed_whatever_is_beside_it(model: Any, name: str) -> None:
    from conceptlens.nodes.host.sampling import sampled

    how = sampling(sampler_name=name, steps=2)
    told: list[int] = []
    with torch.inference_mode():
        together = sampled(model, POSITIVE, [5, 6], how, lambda done, _: told.append(done), 2)
        alone = torch.cat([sampled(model, POSITIVE, [seed], how) for seed in (5, 6)])
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-4)
    assert told == sorted(told)


def test_samples_of_a_noisy_sampler_are_those_of_their_seeds(model: Any) -> None:
    from conceptlens.nodes.host import sample_bottleneck

    how = sampling(sampler_name="euler_ancestral")
    told: list[int] = []
    several = {**RECORDED, "at_once": 2, "progress": lambda done, _: told.append(done)}
    together = sample_bottleneck(model, VAE, POSITIVE, [5, 6, 7], how, **several)
    alone = [sample_bottleneck(model, VAE, POSITIVE, [seed], how, **RECORDED) for seed in (5, 6, 7)]
    torch.testing.assert_close(together[1], torch.cat([pictures for _, pictures in alone]))
    assert torch.equal(together[0].activations, torch.cat([samples.activations for samples, _ in alone], 1))
    assert told == list(range(1, 10))


def test_a_noise_mask_leaves_the_rest_of_an_inverted_picture(model: Any) -> None:
    import comfy.samplers
    from conceptlens.nodes.hspace.process import HSpaceInvert

    picture = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    mask = torch.zeros(1, 64, 64)
    mask[..., 32:] = 1
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", 4)
    latent = {"samples": picture, "noise_mask": mask, "batch_index": [3], "type": "audio"}
    with torch.inference_mode():
        output = HSpaceInvert.execute(model, POSITIVE, NEGATIVE, latent, sigmas, 4.0, 1.0, 0)
    noise, sampler = output.args
    assert set(noise) == {"samples"}
    start = {"noise": torch.zeros_like(picture), "latent_image": noise["samples"]}
    torch.testing.assert_close(custom(model, sampler, **start), picture, atol=1e-3, rtol=0)
    edited = custom(direction(scale=5.0)(model), sampler, **start)
    torch.testing.assert_close(edited[..., :3], picture[..., :3], atol=1e-3, rtol=0)
    assert (edited[..., 5:] - picture[..., 5:]).abs().mean() > 0.01
