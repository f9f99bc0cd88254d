"""Models that carry other people's patches: what is followed is exact, what is not is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from conceptlens.core.errors import UserError
from conceptlens.core.hspace.directions import HSpaceDirections
from conceptlens.core.model.protocols import Family, unseen
from conceptlens.core.model.text_tower import Encoded
from torch import Tensor

pytestmark = pytest.mark.usefixtures("host_modules")
Patch = Callable[[Any], Any]


@pytest.fixture(params=["SD 1.x"], scope="module")
def family(request: pytest.FixtureRequest) -> Family:
    return request.param


@pytest.fixture(scope="module")
def model(pipe: Any, family: Family, host_modules: None) -> Any:
    from conceptlens.tests.host.twin import twin_model

    del host_modules
    with torch.inference_mode():  # as a loader node makes it
        return twin_model(pipe, family)


def prompt(seed: int) -> Any:
    return [[torch.randn(1, 77, 64, generator=torch.Generator().manual_seed(seed)), {}]]


POSITIVE, NEGATIVE = prompt(1), prompt(2)
UNUSED: Any = None


def directions(position: Any = "after") -> HSpaceDirections:
    shifts = torch.randn(1, 2, 64, 4, 4, generator=torch.Generator().manual_seed(4))
    return HSpaceDirections(torch.tensor([10.0, 0.1]), shifts, torch.ones(1, 2), "SD 1.x", position, {})


EULER: dict[str, Any] = {"sampler_name": "euler", "scheduler": "normal"}
RECORDED: dict[str, Any] = {"at_once": 1, "position": "after", "made_by": {}, "progress": unseen}


def sampling(**changes: Any) -> Any:
    from conceptlens.nodes.host import Sampling

    return Sampling(NEGATIVE, **{"steps": 3, "cfg": 4.0, "width": 64, "height": 64, **EULER, **changes})


def stock(kind: str, /, **inputs: Any) -> Patch:
    """A node of the host that takes and gives a MODEL."""
    import importlib

    module, name = kind.split(".")

    def patched(model: Any) -> Any:
        node: Any = getattr(importlib.import_module(f"comfy_extras.nodes_{module}"), name)
        if not hasattr(node, "execute"):
            return node().patch(model, **inputs)[0]
        output = node.execute(model, **inputs)
        return output[0] if isinstance(output, tuple) else output.args[0]

    return patched


def direction(position: Any = "after", scale: float = 1.0, positive: bool = False) -> Patch:
    def patched(model: Any) -> Any:
        from conceptlens.nodes.host import HostBottleneck

        return HostBottleneck(model).shifted(directions(position), 0, scale, positive_only=positive)

    return patched


def chained(*patches: Patch) -> Patch:
    def patched(model: Any) -> Any:
        for patch in patches:
            model = patch(model)
        return model

    return patched


def replaced_attention(model: Any) -> Any:
    """Cross-attention that sees the patch's own keys, as picture prompts do."""
    clone = model.clone()

    def attend(q: Tensor, k: Tensor, v: Tensor, extra: dict[str, Any]) -> Tensor:
        from comfy.ldm.modules.attention import optimized_attention

        return optimized_attention(q, 0.5 * k, v, extra["n_heads"]) + 0.1 * float(extra["sigmas"][0] > 1) * q

    clone.set_model_attn2_replace(attend, "middle", 0)
    clone.set_model_attn2_replace(attend, "output", 1)
    return clone


class Projected:
    """A patch with weights, as hypernetworks have them, which the host moves about."""

    def __init__(self) -> None:
        self.weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(3)) / 8

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, _: Any) -> Any:
        return (q, k + k @ self.weight, v) if k.shape[-1] == 64 else (q, k, v)

    def to(self, where: Any) -> Projected:
        self.weight = self.weight.to(where)
        return self


def with_weights(model: Any) -> Any:
    with torch.inference_mode():
        patch = Projected()
    clone = model.clone()
    clone.set_model_attn2_patch(patch)
    return clone


FOLLOWED: dict[str, Patch] = {
    "FreeU": stock("freelunch.FreeU", b1=1.3, b2=1.4, s1=0.9, s2=0.2),
    "FreeU_V2": stock("freelunch.FreeU_V2", b1=1.3, b2=1.4, s1=0.9, s2=0.2),
    "HyperTile": stock("hypertile.HyperTile", tile_size=32, swap_size=2, max_depth=1, scale_depth=False),
    "attention": replaced_attention,
    "weights": with_weights,
    "direction after": direction(),
    "direction before": direction("before"),
    "direction inside": direction("inside"),
    "direction positive": direction(positive=True),
    "two and FreeU": chained(
        direction("inside"), direction("inside", 0.5), stock("freelunch.FreeU", b1=1.3, b2=1.4, s1=0.9, s2=0.2)
    ),
}


def levels(model: Any, position: Any = "after", positive: Any = POSITIVE, **changes: Any) -> list[Any]:
    from conceptlens.nodes.host import guided_decoders

    how = {"position": position, "percents": None, "progress": unseen}
    with torch.inference_mode(), torch.inference_mode(False):
        return list(guided_decoders(model, positive, 1, sampling(**changes), **how))


@pytest.fixture(scope="module")
def plain(model: Any) -> Any:
    """The private UNet without patches."""
    from conceptlens.nodes.host import HostDiffusion

    with torch.inference_mode(False):
        return HostDiffusion(model, exact=True)


@pytest.mark.parametrize("kind", FOLLOWED)
def test_what_is_followed_is_what_the_host_computes(model: Any, plain: Any, kind: str) -> None:
    """Both ways: the whole UNet as a fit evaluates it, and its halves at each level as the host's sampler had them."""
    from conceptlens.nodes.host import HostDiffusion
    from conceptlens.nodes.host.evaluations import Evaluated, apart, watched
    from conceptlens.nodes.host.sampling import sampled

    patched = FOLLOWED[kind](model)
    seen: list[tuple[float, Evaluated]] = []
    clone = watched(patched, lambda sigma, chunks: seen.extend((sigma, chunk) for chunk in chunks))
    with torch.inference_mode():
        sampled(clone, POSITIVE, [1], sampling())
    with torch.inference_mode(), torch.inference_mode(False):
        diffusion = HostDiffusion(patched, exact=True)
        assert len(seen) == 6
        for _, chunk in seen:
            for position in ("before", "inside", "after"):
                h, decode = diffusion.halves(chunk.given, position)
                assert apart(decode(h[None]), chunk.output) < 1e-5
        given = [chunk for _, chunk in seen if chunk.prompted]
        x, timesteps, contexts = (
            torch.cat([getattr(chunk.given, name) for chunk in given]) for name in ("x", "timesteps", "context")
        )
        encoded = Encoded(contexts.requires_grad_(), contexts[:, 0])
        found = diffusion.predict(x, timesteps, encoded)  # several noise levels at once
        assert apart(found, torch.cat([chunk.output for chunk in given])) < 1e-5
        assert apart(found, plain.predict(x, timesteps, encoded)) > 1e-4
        (gradient,) = torch.autograd.grad(found.square().sum(), contexts)
        assert diffusion.save_memory()
        again = diffusion.predict(x, timesteps, encoded)
        torch.testing.assert_close(torch.autograd.grad(again.square().sum(), contexts)[0], gradient)


@pytest.mark.parametrize("position", ["before", "inside", "after"])
def test_what_a_controlnet_adds_is_followed(plain: Any, position: Any) -> None:
    from conceptlens.nodes.host.evaluations import apart
    from conceptlens.nodes.host.halves import Evaluation

    shapes: list[Any] = []

    def look(h: Tensor, _: Any) -> Tensor:
        shapes.append(h.shape)
        return h

    given = Evaluation(torch.randn(1, 4, 8, 8), torch.tensor([400.0]), POSITIVE[0][0], None, {}, {})
    plain.halves(replace(given, options={"patches": {"input_block_patch": [look]}}), position)
    added: list[Tensor | None] = [torch.randn(shape) for shape in shapes]  # the last one first
    control = {"input": [*added[:0:-1], None], "middle": [torch.randn(1, 64, 4, 4)], "output": [None, *added[1:]]}
    own = {name: list(parts) for name, parts in control.items()}
    with torch.no_grad():
        whole = plain._unet(given.x, given.timesteps, context=given.context, control=own, transformer_options={})
        h, decode = plain.halves(replace(given, control=control), position)
        assert apart(decode(h[None]), whole) < 1e-5
        assert apart(plain.halves(given, position)[1](h[None]), whole) > 1e-2


def test_cancel_is_asked_for_in_each_evaluation(model: Any, plain: Any) -> None:
    import comfy.model_management as management
    from conceptlens.nodes.host.halves import Evaluation
    from conceptlens.nodes.host.sampling import sampled

    given = Evaluation(torch.randn(1, 4, 8, 8), torch.tensor([400.0]), POSITIVE[0][0], None, {}, {})
    h, decode = plain.halves(given, "after")
    management.interrupt_current_processing(True)
    with pytest.raises(management.InterruptProcessingException):
        decode(h[None])
    with pytest.raises(management.InterruptProcessingException), torch.inference_mode():
        sampled(model, POSITIVE, [1], sampling(), lambda *_: management.interrupt_current_processing(True))
    management.interrupt_current_processing(False)


@pytest.mark.parametrize("kind", ["FreeU", "weights", "two and FreeU"])
def test_the_jacobian_is_that_of_the_patched_model(model: Any, kind: str) -> None:
    """The decoders that are differentiated are the patched ones, and they have derivatives."""
    from conceptlens.core.hspace.jacobian import singular_directions

    position = "before" if kind == "weights" else "after"  # where the patch is behind the bottleneck
    (_, h, decode), *_ = levels(FOLLOWED[kind](model), position, steps=1)
    (_, _, plain), *_ = levels(model, position, steps=1)
    with torch.no_grad():
        assert not torch.allclose(decode(h[None]), plain(h[None]), rtol=1e-3)
    found = singular_directions(decode, h, 1, tolerance=1e-3)
    step = 1e-2 * found.right
    with torch.no_grad():
        moved = (decode(h + step) - decode(h - step)).norm() / 2e-2
    assert float(moved) == pytest.approx(float(found.values[0]), rel=2e-2)


def wrapped(kind: str) -> Patch:
    """A MODEL whose UNet or guidance a function stands around."""

    def patched(model: Any) -> Any:
        clone = model.clone()
        clone.add_wrapper(kind, lambda executor, *given, **named: executor(*given, **named))
        return clone

    return patched


def with_function_wrapper(model: Any) -> Any:
    clone = model.clone()
    clone.set_model_unet_function_wrapper(lambda apply, given: apply(given["input"], given["timestep"], **given["c"]))
    return clone


def with_injection(model: Any) -> Any:
    clone = model.clone()
    clone.set_injections("bypass_lora", [])
    return clone


def with_object(model: Any) -> Any:
    clone = model.clone()
    clone.add_object_patch("diffusion_model.out", torch.nn.Identity())
    return clone


def with_weight_wrapper(model: Any) -> Any:
    clone = model.clone()
    clone.add_weight_wrapper("diffusion_model.out.2.weight", torch.nn.Identity())
    return clone


CACHE = {"reuse_threshold": 0.2, "start_percent": 0.0, "end_percent": 1.0, "verbose": False}
RENORMED = {"multiplier": 0.7}
# What can't be followed: how it is named, and whether it also stands in the way of explanations.
REFUSED: dict[str, tuple[Patch, bool]] = {
    "EasyCache (a step cache)": (stock("easycache.EasyCacheNode", **CACHE), True),
    "LazyCache (a step cache)": (stock("easycache.LazyCacheNode", **CACHE), True),
    "with_function_wrapper (model_function_wrapper)": (with_function_wrapper, True),
    "bypass_lora (injection)": (with_injection, True),
    "a replacement of diffusion_model.out": (with_object, True),
    "a wrapper of the weight diffusion_model.out.2.weight": (with_weight_wrapper, True),
    "wrapped (apply_model wrapper)": (wrapped("apply_model"), True),
    "wrapped (diffusion_model wrapper)": (wrapped("diffusion_model"), True),
    "NAGuidance": (stock("nag.NAGuidance", nag_scale=5.0, nag_alpha=0.5, nag_tau=2.5), True),
    "TomePatchModel": (stock("tomesd.TomePatchModel", ratio=0.5), True),
    "RescaleCFG (sampler_cfg_function)": (stock("model_advanced.RescaleCFG", **RENORMED), False),
    "PerturbedAttentionGuidance (sampler_post_cfg_function)": (stock("pag.PerturbedAttentionGuidance", scale=3), False),
    "SelfAttentionGuidance (sampler_post_cfg_function)": (
        stock("sag.SelfAttentionGuidance", scale=0.5, blur_sigma=2.0),
        False,
    ),
    "TCFG (sampler_pre_cfg_function)": (stock("tcfg.TCFG"), False),
    "CFGOverride (predict_noise wrapper)": (
        stock("custom_sampler.CFGOverride", cfg=1.0, start_percent=0.0, end_percent=0.5),
        False,
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_can_not_be_followed_is_named_before_anything_is_drawn(
    model: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from conceptlens.nodes.host import evaluations, hspace, studio

    patch, explained = REFUSED[name]
    patched = patch(model)
    steps: list[int] = []

    def counted(*given: Any) -> Tensor:
        steps.append(given[3].steps)
        return sampled(*given)

    sampled = evaluations.sampled
    for module in (evaluations, hspace, studio):
        monkeypatch.setattr(module, "sampled", counted)
    with pytest.raises(UserError, match="connect it before that node") as error:
        levels(patched)
    assert f"The model carries {name}" in str(error.value)
    monkeypatch.setattr(studio, "encoded", lambda *_: POSITIVE)
    monkeypatch.setattr(studio, "HostTextEncoder", lambda _: None)
    own = studio.HostStudio(patched, UNUSED, UNUSED, None, sampling())
    if explained:
        with pytest.raises(UserError, match="connect it before that node") as error:
            own.check_diffusion()
        assert f"The model carries {name}" in str(error.value)
    else:
        own.check_diffusion()
    assert all(count == 1 for count in steps)  # one look at what hangs on chance or on other prompts


def test_a_fit_that_begins_anyway_refuses_as_well(model: Any) -> None:
    from conceptlens.nodes.host import HostDenoiser, HostDiffusion

    patched = with_function_wrapper(model)
    with pytest.raises(UserError, match="with_function_wrapper"), torch.inference_mode(False):
        HostDiffusion(patched)
    assert HostDenoiser(patched).cross_attention_names()  # an edit reads weights alone


def test_prompts_with_weights_of_their_own_are_named(model: Any) -> None:
    import comfy.hooks

    group = comfy.hooks.HookGroup()
    group.add(comfy.hooks.WeightHook())
    hooked = [[POSITIVE[0][0], {"hooks": group}]]
    with pytest.raises(UserError, match="The positive prompt carries a LoRA"):
        levels(model, positive=hooked)


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


def custom(model: Any, sampler: Any, steps: int = 4, scale: float = 4.0, **given: Any) -> Tensor:
    """SamplerCustom's latents."""
    import comfy.sample
    import comfy.samplers

    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", steps)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    start = {"noise": noise, "latent_image": torch.zeros_like(noise), **given}
    with torch.inference_mode():
        sample: Any = comfy.sample.sample_custom
        how = {"cfg": scale, "sampler": sampler, "sigmas": sigmas, "positive": POSITIVE, "negative": NEGATIVE}
        return sample(model, **start, **how, disable_pbar=True, seed=0)


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
