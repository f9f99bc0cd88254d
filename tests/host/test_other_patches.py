"""Models that carry other people's patches: what is followed is exact, what is not is refused by name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from conceptlens.core.errors import UserError
from conceptlens.core.model.protocols import unseen
from conceptlens.core.model.text_tower import Encoded
from conceptlens.tests.host.patches import (
    CACHE,
    POSITIVE,
    UNUSED,
    Patch,
    chained,
    direction,
    sampling,
    stock,
    with_function_wrapper,
    wrapped,
)
from torch import Tensor

pytestmark = pytest.mark.usefixtures("host_modules")


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
    assert HostDenoiser(patched).text_layers()  # an edit reads weights alone


def test_prompts_with_weights_of_their_own_are_named(model: Any) -> None:
    import comfy.hooks

    group = comfy.hooks.HookGroup()
    group.add(comfy.hooks.WeightHook())
    hooked = [[POSITIVE[0][0], {"hooks": group}]]
    with pytest.raises(UserError, match="The positive prompt carries a LoRA"):
        levels(model, positive=hooked)
