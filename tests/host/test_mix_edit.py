"""A mix as an edit: a word means the mix, by the same closed form as TIME's edits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conceptlens.core.conceptor.mixture import TokenMix, mix_from_text
from conceptlens.core.errors import UserError
from conceptlens.core.model.template import Template
from conceptlens.core.time_edit.lora import lora_state_dict, save_lora
from conceptlens.core.time_edit.mix_edit import MixedPrompt, edit_to_mix
from conceptlens.core.time_edit.time_edit import PREFIXES
from conceptlens.hosting.server import Graph, GraphError, HostServer
from conceptlens.tests.host.graphs import node, run_to_latent, sampling_graph
from safetensors.torch import load_file
from torch import Tensor

pytestmark = pytest.mark.usefixtures("host_modules")


def mixed(denoiser: Any, clip: Any, mix: TokenMix, template: Template) -> MixedPrompt:
    from conceptlens.nodes.host import mix_encoder_of, read_by

    with torch.inference_mode():
        return read_by(denoiser, mix_encoder_of(clip).conditioning(template, mix))


def by_formula(covariance: Tensor, states: Tensor, targets: Tensor) -> Tensor:
    """E = (C* - C) C^T (lambda Sigma + C C^T)^-1, with lambda 0.1 and states as rows."""
    return (targets - states).T @ states @ torch.linalg.inv(0.1 * covariance + states.T @ states)


@pytest.mark.parametrize("family", ["Flux.1", "SD 3", "Z-Image", "Qwen-Image", "Krea 2", "HunyuanImage"])
def test_it_is_the_formula_on_the_states_of_mixed_prompts(family: str, host_modules: None) -> None:  # noqa: ARG001
    from conceptlens.core.time_edit.ordinary import ordinary_covariance
    from conceptlens.nodes.host import denoiser_of, mix_encoder_of, prompt_encoder_of
    from conceptlens.tests.host.transformers import tiny_transformer

    with torch.inference_mode():
        model, clip = tiny_transformer(family)
    denoiser, into = denoiser_of(model), mix_encoder_of(clip)
    encoder, mix = prompt_encoder_of(clip, denoiser), mix_from_text(into, "heart: 0.7, tree: 0.3", None)
    edited = edit_to_mix(encoder, denoiser, "rose", lambda template: mixed(denoiser, clip, mix, template))
    bases = ["a ", *(f"{prefix}a " for prefix in PREFIXES)]
    states = torch.cat([*encoder.encode([f"{base}rose" for base in bases])]).double()
    targets = [mixed(denoiser, clip, mix, Template.of(f"{base}<>", "<>")) for base in bases]
    expected = by_formula(
        ordinary_covariance(encoder, None), states, torch.cat([target.states for target in targets]).double()
    )
    found = edited.edit.context.left * edited.edit.context.singular_values @ edited.edit.context.right
    assert (found - expected).norm() <= 1e-6 * expected.norm()
    assert expected.norm() > 1e-3
    if family in ("Flux.1", "SD 3"):
        assert encoder.pooled is not None
        assert edited.edit.pooled is not None
        states = torch.cat([*encoder.pooled.encode([f"{base}rose" for base in bases])]).double()
        wanted = [target.pooled for target in targets if target.pooled is not None]
        expected = by_formula(ordinary_covariance(encoder.pooled, None), states, torch.cat(wanted).double())
        pooled = edited.edit.pooled.left * edited.edit.pooled.singular_values @ edited.edit.pooled.right
        assert (pooled - expected).norm() <= 1e-6 * expected.norm()
    with pytest.raises(UserError, match=r'"\w+( \w+)?" is \d tokens of this text encoder'):
        edit_to_mix(encoder, denoiser, "blue rose", lambda template: mixed(denoiser, clip, mix, template))


def test_a_word_of_emoji_world_draws_the_mix(host_modules: None, tmp_path: Path) -> None:  # noqa: ARG001
    """By the judges' own image encoder: with the LoRA "a bell" shows the heart that the mix is made of."""
    import comfy.sd
    from conceptlens.nodes import host
    from torch.nn.functional import normalize

    with torch.inference_mode():
        model, clip, vae, clip_vision = host.load_world(host.EMOJI_WORLD)
    denoiser = host.denoiser_of(model)
    encoder = host.prompt_encoder_of(clip, denoiser)
    into: Any = host.mix_encoder_of(clip)
    mix = mix_from_text(into, "heart: 1", into.family)
    with torch.inference_mode():
        edited = edit_to_mix(encoder, denoiser, "bell", lambda template: mixed(denoiser, clip, mix, template))
    assert "a bell => a <>" in edited.report
    save_lora(tmp_path / "bell.safetensors", lora_state_dict(edited.factors, denoiser.family))
    loaded, _ = comfy.sd.load_lora_for_models(model, None, load_file(tmp_path / "bell.safetensors"), 1.0, 0.0)
    tower = into.towers()[-1]
    named = torch.stack([_text_feature(into, tower, word) for word in ("bell", "heart", "tulip")])

    @torch.inference_mode()
    def seen(some: Any, prompt: str) -> list[int]:
        sampling = host.Sampling(host.encoded(clip, ""), 12, 2.5, 128, 128, "dpmpp_2m", "normal")
        pictures = [host.drawn(some, vae, host.encoded(clip, prompt), seed, sampling) for seed in range(4)]
        features = host.image_features(clip_vision, torch.stack(pictures))
        return (normalize(features, dim=-1).cpu() @ named.T.cpu()).argmax(1).tolist()

    assert seen(model, "a photo of a bell") == [0] * 4
    assert seen(loaded, "a photo of a bell") == [1] * 4
    assert seen(loaded, "a photo of a tulip") == [2] * 4


@torch.inference_mode()
def _text_feature(encoder: Any, tower: Any, word: str) -> Tensor:
    from conceptlens.core.conceptor.vocabulary import text_feature

    return text_feature(encoder, tower, word, ("a photo of a {}",)).cpu()


def test_the_node_writes_the_file_and_gives_the_lora(host_modules: None, tmp_path: Path) -> None:  # noqa: ARG001
    import folder_paths
    from conceptlens.nodes.host import mix_encoder_of
    from conceptlens.nodes.time_edit.mix import SaveTokenMixEdit
    from conceptlens.tests.host.transformers import tiny_transformer

    folder_paths.set_user_directory(str(tmp_path / "user"))
    folder_paths.folder_names_and_paths["loras"] = ([str(tmp_path / "loras")], {".safetensors"})
    with torch.inference_mode():
        model, clip = tiny_transformer("Z-Image")
    given: dict[str, Any] = {"mix": mix_from_text(mix_encoder_of(clip), "heart, tree", None), "model": model}
    node: Any = SaveTokenMixEdit.PREPARE_CLASS_CLONE(None)
    path, lora = node.execute(**given, clip=clip, word="rose", filename_prefix="mixes/rose").args
    kept = load_file(path)
    assert kept.keys() == lora.keys()
    assert all(torch.equal(kept[name], lora[name]) for name in kept)
    assert Path(path).parent == tmp_path / "loras/mixes"
    assert (
        node.validate_inputs(word=" ", filename_prefix="x")
        == "The word is empty; write the one that shall mean the mix."
    )


def test_a_graph_makes_the_file_and_draws_with_it(server: HostServer) -> None:
    """From a mix to a picture through the stock loaders, by the node's output and by its file."""

    def graph(load: Graph, model: list[Any]) -> Graph:
        drawn = sampling_graph({**mixed_graph, **load}, model)
        drawn["loader"] = node("EmojiWorldLoader")
        drawn["positive"]["inputs"]["text"] = "a photo of a bell"
        return drawn

    mixed_graph: Graph = {
        "mix": node("TokenMixFromText", clip=["loader", 1], text="heart"),
        "edit": node(
            "SaveTokenMixEdit",
            mix=["mix", 0],
            clip=["loader", 1],
            model=["loader", 0],
            word="bell",
            filename_prefix="mixes/bell",
        ),
    }
    socket = node("LoraModelLoader", model=["loader", 0], lora=["edit", 1], strength_model=1.0, bypass=False)
    from_socket = run_to_latent(server, graph({"load": socket}, ["load", 0]))
    name = "mixes/bell_00001_.safetensors"
    assert (server.base / "models/loras" / name).is_file()
    server.get("/object_info/LoraLoaderModelOnly")  # the list of files anew
    file = node("LoraLoaderModelOnly", model=["loader", 0], lora_name=name, strength_model=1.0)
    from_file = run_to_latent(server, graph({"load": file}, ["load", 0]))
    plain = run_to_latent(server, graph({}, ["loader", 0]))
    assert torch.equal(from_socket, from_file)
    assert (from_file - plain).norm() > 0.1 * plain.norm()
    several = graph({}, ["loader", 0])
    several["edit"]["inputs"]["word"] = "blue bell"
    with pytest.raises(GraphError, match="2 tokens of this text encoder"):
        server.run(several)
