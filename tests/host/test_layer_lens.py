"""Layer Lens: its pictures are those of the host's clip skip, on EmojiWorld; on tiny random encoders, its layers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from conceptlens.core.errors import UserError
from conceptlens.core.model.protocols import Family
from conceptlens.core.pictures.grid import from_pil, labelled_grid
from conceptlens.hosting.server import Graph, HostServer
from conceptlens.tests.host.graphs import node
from conceptlens.tests.tiny import tiny_pipeline
from PIL import Image
from torch import Tensor

MODEL = {"model": ["world", 0], "clip": ["world", 1], "vae": ["world", 2]}
HOW = {"steps": 6, "cfg": 2.5, "sampler_name": "euler", "scheduler": "normal", "seed": 3}
SIZE = {"width": 128, "height": 128}
LAYERS = ["layer 1 of 3", "layer 2 of 3", "layer 3 of 3"]  # of EmojiWorld


def graph(prompt: str = "a photo of a blue rose", pictures: int = 6, clip: str = "world", **given: Any) -> Graph:
    """The lens, and what the host's own nodes draw of a prompt without clip skip (`skip0`) and with some."""
    lens = {**MODEL, **HOW, **SIZE, "prompt": prompt, "pictures": pictures, **given}
    lens["clip"] = [clip, clip == "world"]
    found: Graph = {
        "world": node("EmojiWorldLoader"),
        "skipping": node("CLIPSetLastLayer", clip=["world", 1], stop_at_clip_layer=-2),
        "lens": node("LayerLens", **lens),
        "row": node("SaveImage", images=["lens", 0], filename_prefix="row"),
        "pictures": node("SaveImage", images=["lens", 1], filename_prefix="pictures"),
        "negative": node("CLIPTextEncode", clip=["world", 1], text=""),
        "other negative": node("CLIPTextEncode", clip=["world", 1], text="a red car"),
        "latent": node("EmptyLatentImage", batch_size=1, **SIZE),
    }
    for skip in range(4):
        source = ["world", 1]
        if skip:
            found[f"clip{skip}"] = node("CLIPSetLastLayer", clip=source, stop_at_clip_layer=-skip)
            source = [f"clip{skip}", 0]
        found[f"text{skip}"] = node("CLIPTextEncode", clip=source, text=prompt)
        links = {"model": ["world", 0], "positive": [f"text{skip}", 0], "latent_image": ["latent", 0]}
        links["negative"] = given.get("negative", ["negative", 0])
        found[f"sampler{skip}"] = node("KSampler", denoise=1.0, **HOW, **links)
        found[f"decoded{skip}"] = node("VAEDecode", samples=[f"sampler{skip}", 0], vae=["world", 2])
        found[f"skip{skip}"] = node("SaveImage", images=[f"decoded{skip}", 0], filename_prefix="skip")
    return found


def saved(server: HostServer, history: dict[str, Any], name: str) -> list[Tensor]:
    images = history["outputs"][name]["images"]
    return [from_pil(Image.open(server.base / "output" / each["subfolder"] / each["filename"])) for each in images]


def lens_and_stock(server: HostServer, **given: Any) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """The lens's pictures; those of the host's nodes for 0 to 3 layers counted from the end; and the row."""
    history = server.run(graph(**given))
    stock = [picture for skip in range(4) for picture in saved(server, history, f"skip{skip}")]
    return saved(server, history, "pictures"), stock, saved(server, history, "row")[0]


@pytest.mark.parametrize(
    "given",
    [{}, {"prompt": ""}, {"clip": "skipping"}, {"negative": ["other negative", 0]}],
    ids=["prompt", "no prompt", "clip skip of its own", "negative"],
)
def test_each_picture_is_that_of_the_hosts_clip_skip(server: HostServer, given: dict[str, Any]) -> None:
    """All layers, as there are fewer than wanted; from the first to the one that is read without clip skip."""
    pictures, stock, row = lens_and_stock(server, **given)
    assert len(pictures) == 3
    for picture, skip in zip(pictures, (3, 2, 1), strict=True):
        assert torch.equal(picture, stock[skip])
    assert torch.equal(pictures[-1], stock[0])
    assert not any(torch.equal(pictures[one], pictures[other]) for one, other in ((0, 1), (0, 2), (1, 2)))
    expected = labelled_grid(pictures, LAYERS, 3)
    assert row.shape == expected.shape
    assert (row - expected).abs().max() < 1.5 / 255  # the host cuts off where it writes a picture, pillow does not


def test_few_pictures_are_of_the_first_and_the_last_layer(server: HostServer) -> None:
    pictures, stock, row = lens_and_stock(server, pictures=2)
    assert [torch.equal(picture, stock[skip]) for picture, skip in zip(pictures, (3, 0), strict=True)] == [True, True]
    ends = [labelled_grid(pictures, labels, 2) for labels in (LAYERS[::2], LAYERS[:2])]
    assert [bool((row - each).abs().max() < 1.5 / 255) for each in ends] == [True, False]


# Of tiny random families the encoders whose states make a prompt, and the labels: up to the layer that the model reads.
ENCODERS: dict[str, tuple[list[str], list[str]]] = {
    "SD 1.x": (["clip_l"], LAYERS),
    "SD 2.x": (["clip_h"], LAYERS[:2]),
    "SDXL": (["clip_l", "clip_g"], ["layer 1 of 3, 1 of 3", "layer 2 of 3, 2 of 3"]),
    "SD 3": (["clip_l", "clip_g"], ["layer 1 of 3, 1 of 3", "layer 2 of 3, 2 of 3"]),
    "Flux.1": (["t5xxl"], ["layer 1 of 2", "layer 2 of 2"]),
    "Chroma": (["t5xxl"], ["layer 1 of 2", "layer 2 of 2"]),
    "PixArt": (["t5xxl"], ["layer 1 of 2", "layer 2 of 2"]),
    "Cosmos-Predict2": (["t5xxl"], ["layer 1 of 2", "layer 2 of 2"]),
    "AuraFlow": (["pile_t5xl"], ["layer 1 of 2", "layer 2 of 2"]),
    "Anima": (["qwen3_06b"], LAYERS),
    "Qwen-Image": (["qwen25_7b"], LAYERS),
    "OmniGen2": (["qwen25_3b"], LAYERS),
    "Z-Image": (["qwen3_4b"], LAYERS[:2]),
    "HunyuanImage": (["qwen25_7b"], ["layer 1 of 4", "layer 2 of 4"]),
}
PROMPT = "a photo of a rose"


def tiny_clip(family: str) -> Any:
    from conceptlens.tests.host.transformers import TINY, tiny_transformer
    from conceptlens.tests.host.twin import twin_clip

    if family in TINY:
        return tiny_transformer(family)[1]
    kind = cast(Family, family)
    return twin_clip(tiny_pipeline(kind), kind)


@contextmanager
def layers_seen(encoder: Any) -> Iterator[list[Tensor]]:
    """What each layer of one of the host's encoders gives, by hooks, normed where the host norms a clip skip's."""
    seen: list[Tensor] = []
    layers = next(part for part in encoder.transformer.modules() if isinstance(part, torch.nn.ModuleList))
    norms = [part for name, part in encoder.transformer.named_modules() if name.endswith("final_layer_norm")]

    def look(_: Any, __: Any, given: Any) -> None:
        states = given[0] if isinstance(given, tuple) else given
        seen.append(norms[0](states.clone()) if encoder.layer_norm_hidden_state else states.clone())

    hooks = [layer.register_forward_hook(look) for layer in layers]
    yield seen
    for hook in hooks:
        hook.remove()


@pytest.mark.usefixtures("host_modules")
@pytest.mark.parametrize("family", ENCODERS)
@torch.inference_mode()
def test_the_layers_of_a_familys_encoders(family: str) -> None:
    """Each gives what the layer of its label says; the last what is read without clip skip, whatever the clip has."""
    from conceptlens.nodes.host import encoded, layers_of

    clip, (names, labels) = tiny_clip(family), ENCODERS[family]
    skipping = clip.clone()
    skipping.clip_layer(-2)
    layers = layers_of(skipping, 100)
    assert [layer.label for layer in layers] == labels
    assert skipping.layer_idx == -2
    with ExitStack() as hooks:
        seen = [hooks.enter_context(layers_seen(getattr(clip.cond_stage_model, name))) for name in names]
        plain = encoded(clip, PROMPT)[0]
    expected = [torch.cat(states, -1) for states in zip(*seen, strict=True)]
    for place, layer in enumerate(layers):
        (states, given), wanted = encoded(layer.clip, PROMPT)[0], expected[place]
        if layer is layers[-1]:
            assert torch.equal(states, plain[0])
        else:  # some leave out a template's beginning, what is padding, or fill the states up
            states, wanted = states[..., : wanted.shape[-1]], wanted[:, -states.shape[1] :]
            there = (states != 0).any(-1)
            assert there.sum() > 4
            assert torch.equal(states[there], wanted[there])
        assert given.keys() == plain[1].keys()
        pooled = (given.get("pooled_output"), plain[1].get("pooled_output"))
        assert pooled == (None, None) or torch.equal(*pooled)


@pytest.mark.usefixtures("host_modules")
def test_layers_are_chosen_evenly() -> None:
    """Of twelve layers: the first, the last and others between; two encoders go back together, to the first of one."""
    from conceptlens.nodes.host import layers_of

    def labels(count: int, *encoders: tuple[int, tuple[Any, ...]]) -> list[str]:
        class Clip:
            cond_stage_model = torch.nn.Module()
            layer_idx = None

            def tokenize(self, _: str) -> dict[str, list[Any]]:
                return {name: [] for name in ("g", "l")[-len(encoders) :]}

            def clone(self) -> Clip:
                return self

            def clip_layer(self, layer: int | None) -> None:
                self.layer_idx = layer

        for name, (layers, default) in zip(("clip_l", "clip_g"), encoders, strict=False):
            encoder = torch.nn.Module()
            encoder.num_layers, encoder.options_default = layers, default  # pyright: ignore[reportArgumentType]
            Clip.cond_stage_model.add_module(name, encoder)
        clip: Any = Clip()
        return [layer.label for layer in layers_of(clip, count)]

    last, hidden = ("last", None, False), ("hidden", -2, True)
    assert labels(4, (12, last)) == [f"layer {place} of 12" for place in (1, 5, 8, 12)]
    assert labels(2, (12, last)) == ["layer 1 of 12", "layer 12 of 12"]
    assert labels(12, (12, last)) == labels(99, (12, last)) == [f"layer {place} of 12" for place in range(1, 13)]
    assert labels(3, (12, hidden), (32, hidden)) == [
        "layer 1 of 12, 21 of 32",
        "layer 6 of 12, 26 of 32",
        "layer 11 of 12, 31 of 32",
    ]
    assert labels(9, (1, last)) == ["layer 1 of 1"]


@pytest.mark.usefixtures("host_modules")
@pytest.mark.parametrize(
    ("kind", "label"), [("SD3ClipModel", "layer 11 of 12, 31 of 32, 24 of 24"), ("Module", "layer 24 of 24")]
)
def test_clip_beside_t5_counts_where_its_states_are_read(kind: str, label: str) -> None:
    """In SD 3 they are, with defaults of their own; in Flux.1 and others it gives the pooled text alone."""
    import comfy.text_encoders.sd3_clip
    from conceptlens.nodes.host import layers_of

    model = torch.nn.Module()
    if kind == "SD3ClipModel":
        model = comfy.text_encoders.sd3_clip.SD3ClipModel(clip_l=False, clip_g=False, t5=False)
        del model.clip_l, model.clip_g, model.t5xxl
    for name, layers, default in (
        ("clip_l", 12, ("hidden", -2, False)),
        ("clip_g", 32, ("hidden", -2, True)),
        ("t5xxl", 24, ("last", None, True)),
    ):
        encoder = torch.nn.Module()
        encoder.num_layers, encoder.options_default = layers, default  # pyright: ignore[reportArgumentType]
        model.add_module(name, encoder)
    clip: Any = SimpleNamespace(cond_stage_model=model, tokenize=lambda _: {"l": [], "g": [], "t5xxl": []})
    clip.clone = lambda: SimpleNamespace(clip_layer=lambda _: None)
    found = [layer.label for layer in layers_of(clip, 100)]
    assert found[-1] == label
    assert found[0] == ("layer 1 of 12, 21 of 32, 13 of 24" if kind == "SD3ClipModel" else "layer 1 of 24")
    assert len(found) == len(set(found)) == (11 if kind == "SD3ClipModel" else 24)


@pytest.mark.usefixtures("host_modules")
@pytest.mark.parametrize("family", ["Flux.2", "Krea 2"])
def test_a_model_that_reads_several_layers_at_once_is_refused(family: str) -> None:
    from conceptlens.nodes.host import layers_of

    with pytest.raises(UserError, match="reads several layers at once"):
        layers_of(tiny_clip(family), 6)


@pytest.mark.usefixtures("host_modules")
def test_an_encoder_whose_layers_are_not_told_is_refused() -> None:
    from conceptlens.nodes.host import layers_of

    clip: Any = SimpleNamespace(cond_stage_model=torch.nn.Module(), tokenize=lambda _: {"gpt": []})
    clip.cond_stage_model.add_module("gpt", torch.nn.Linear(2, 2))
    with pytest.raises(UserError, match="The CLIP is a Module, of which ComfyUI does not tell how many layers"):
        layers_of(clip, 6)


@pytest.mark.usefixtures("host_modules")
@pytest.mark.parametrize("family", ["Flux.1", "Z-Image", "Anima"])
@torch.inference_mode()
def test_the_lens_draws_with_a_transformer(family: str) -> None:
    """Also with one into whose prompts no mix goes."""
    from conceptlens.nodes import host
    from conceptlens.nodes.conceptor.layer_lens import LayerLens
    from conceptlens.tests.host.transformers import tiny_transformer

    class Latents:
        """In place of a VAE: shows what was drawn."""

        def decode(self, latents: Tensor) -> Tensor:
            return latents[:, :3].reshape(1, 3, *latents.shape[-2:]).movedim(1, -1)

    model, clip = tiny_transformer(family)
    vae: Any = Latents()
    how: dict[str, Any] = {"steps": 2, "cfg": 2.0, "width": 64, "height": 64}
    given: dict[str, Any] = {"model": model, "clip": clip, "vae": vae, "prompt": PROMPT, "pictures": 9, "seed": 3}
    row, images = LayerLens.execute(**given, **how, sampler_name="euler", scheduler="simple").args
    layers = ENCODERS[family][1]
    sampling = host.Sampling(host.encoded(clip, ""), **how, sampler_name="euler", scheduler="simple")
    assert len(images) == len(layers)
    assert row.shape[2] > len(layers) * images.shape[2]
    for back, image in zip(range(len(layers), 0, -1), images, strict=True):
        skipping = clip.clone()
        skipping.clip_layer(-back if family != "Z-Image" else -back - 1)  # which reads the layer before the last
        if back > 1:
            assert torch.equal(image, host.drawn(model, vae, host.encoded(skipping, PROMPT), 3, sampling))
    assert torch.equal(images[-1], host.drawn(model, vae, host.encoded(clip, PROMPT), 3, sampling))
    assert not torch.equal(images[0], images[-1])
