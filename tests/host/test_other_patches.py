"""Models that carry other people's patches: what is followed is exact, what is not is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from conceptlens.core.backend import Family, unseen
from conceptlens.core.errors import UserError
from conceptlens.core.hspace.directions import HSpaceDirections
from conceptlens.core.text_tower import Encoded
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


def directions(position: Any = "after") -> HSpaceDirections:
    shifts = torch.randn(1, 2, 64, 4, 4, generator=torch.Generator().manual_seed(4))
    return HSpaceDirections(torch.tensor([10.0, 0.1]), shifts, torch.ones(1, 2), "SD 1.x", position, {})


def sampling(**changes: Any) -> Any:
    from conceptlens.nodes.host import Sampling

    return Sampling(3, 4.0, "euler", "normal", 64, 64)._replace(**changes)


def stock(kind: str, /, **inputs: Any) -> Patch:
    """A node of the host that takes and gives a MODEL."""
    import importlib

    module, name = kind.split(".")

    def patched(model: Any) -> Any:
        node = getattr(importlib.import_module(f"comfy_extras.nodes_{module}"), name)
        if not hasattr(node, "execute"):
            return node().patch(model, **inputs)[0]
        output = node.execute(model, **inputs)
        return output[0] if isinstance(output, tuple) else output.args[0]

    return patched


def direction(position: Any = "after", scale: float = 1.0, positive: bool = False, window: Any = (0.0, 1.0)) -> Patch:
    def patched(model: Any) -> Any:
        from conceptlens.nodes.host import HostBottleneck

        return HostBottleneck(model).shifted(directions(position), 0, scale, *window, positive)

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
        torch.manual_seed(3)
        self.layer = torch.nn.Linear(64, 64)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, _: Any) -> Any:
        return (q, k + self.layer(k), v) if k.shape[-1] == 64 else (q, k, v)

    def to(self, where: Any) -> Projected:
        self.layer = self.layer.to(where)
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

    how = (positive, NEGATIVE, 1, sampling(**changes), position, None, unseen)
    with torch.inference_mode(), torch.inference_mode(False):
        return list(guided_decoders(model, *how))


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
        sampled(clone, POSITIVE, NEGATIVE, [1], sampling())
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
        steps.append(given[4].steps)
        return sampled(*given)

    sampled = evaluations.sampled
    for module in (evaluations, hspace, studio):
        monkeypatch.setattr(module, "sampled", counted)
    with pytest.raises(UserError, match="connect it before that node") as error:
        levels(patched)
    assert f"The model carries {name}" in str(error.value)
    own = studio.HostStudio.__new__(studio.HostStudio)
    own._model, own._negative, own._sampling = patched, NEGATIVE, sampling()
    monkeypatch.setattr(studio, "encoded", lambda *_: POSITIVE)
    own._clip = own
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


def difference(one: Any, other: Any) -> float:
    return float((one - other).norm() / other.norm())
