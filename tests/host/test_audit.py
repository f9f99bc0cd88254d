"""Model Audit in the real host: what EmojiWorld assumes, before an edit and after it, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conceptlens.hosting.server import Graph, GraphError, HostServer
from conceptlens.tests.host.graphs import node

PARTS = {"model": ["world", 0], "clip": ["world", 1], "vae": ["world", 2], "clip_vision": ["world", 3]}
HOW = {"steps": 10, "cfg": 2.5, "sampler_name": "dpmpp_2m", "scheduler": "normal", "seed": 0}
EDIT = {"edit_keys": True, "augment": True, "strength": 1.0, "rank": 0, "regularization": 0.1, "preserve": ""}


def graph(**changes: Any) -> Graph:
    """Of a rose, which is red, before and after it is edited to be blue; and of a singer, who is a woman."""
    audited = {**PARTS, **HOW, "words": "rose, singer", "traits": "colour: red | blue\nsex: male | female"}
    audited |= {"prompt": "a photo of a {}", "num_images": 8, "told_images": 4, "width": 128, "height": 128}
    audited |= {"filename_prefix": "audit", "changed_model": ["edited", 0]}
    edit = {"source": "a rose", "destination": "a blue rose", "regularize": "relative", **EDIT}
    return {
        "world": node("EmojiWorldLoader"),
        "edited": node("TIMEEditModel", model=["world", 0], clip=["world", 1], **edit),
        "audit": node("ModelAudit", **{k: v for k, v in (audited | changes).items() if v is not None}),
        "chart": node("PreviewImage", images=["audit", 0]),
    }


def findings(server: HostServer, history: dict[str, Any]) -> dict[tuple[str, str, str], dict[str, Any]]:
    """Those of the file that the node says it has written, by model, word and trait."""
    (file,) = history["outputs"]["audit"]["text"]
    assert file.startswith(str(server.base / "output"))
    report = json.loads(Path(file).read_text(encoding="utf-8"))
    assert report["made by"]["num_images"] == 8
    return {(each["model"], each["word"], each["trait"]): each for each in report["findings"]}


def test_an_audit_says_what_is_assumed_and_what_an_edit_changes(server: HostServer) -> None:
    found = findings(server, server.run(graph()))
    assert len(found) == 2 * 2 * 2
    before, after = (found[model, "rose", "colour"] for model in ("before", "after"))
    assert before["shares"]["red"] > 0.8
    assert after["shares"]["blue"] > 0.8
    assert before["intervals"]["red"][0] > after["intervals"]["red"][1]
    assert before["told apart"] == 1
    for model in ("before", "after"):
        assert found[model, "singer", "sex"]["shares"]["female"] > 0.7
        for each in found.values():
            assert sum(each["shares"].values()) == pytest.approx(1)
            for group, (low, high) in each["intervals"].items():
                assert 0 <= low <= each["shares"][group] <= high <= 1


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"words": " , "}, "no word to audit"),
        ({"traits": "male | female"}, "is no trait"),
        ({"prompt": "a photo"}, "must have one"),
        ({"filename_prefix": "../audit"}, "leaves the folder"),
        ({"changed_model": None, "changed_clip": ["world", 1]}, "without changed_model"),
    ],
)
def test_what_can_not_be_counted_is_said(changes: dict[str, Any], says: str, server: HostServer) -> None:
    with pytest.raises(GraphError) as refused:
        server.run(graph(**changes))
    assert says in json.dumps(refused.value.details, ensure_ascii=False)


@pytest.mark.usefixtures("host_modules")
@pytest.mark.parametrize("family", ["Z-Image", "Qwen-Image"])
def test_a_model_that_a_language_model_tells_is_audited(
    family: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Of random weights: any pictures are counted, and all of them."""
    import folder_paths
    import torch
    from conceptlens.nodes import host
    from conceptlens.nodes.conceptor.audit import ModelAudit
    from conceptlens.tests.host.transformers import tiny_transformer, tiny_vae

    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
    with torch.inference_mode():
        (model, clip), vae = tiny_transformer(family), tiny_vae()
        clip_vision = host.load_world(host.EMOJI_WORLD)[3]
    given: dict[str, Any] = {"model": model, "clip": clip, "vae": vae, "clip_vision": clip_vision, **HOW}
    given |= {"words": "rose", "traits": "colour: red | blue", "prompt": "a {}", "num_images": 2, "told_images": 2}
    given |= {"steps": 2, "cfg": 1.0, "width": 64, "height": 64, "filename_prefix": "audit"}
    with torch.inference_mode():
        chart, report = ModelAudit.execute(**given).args
    (found,) = json.loads(report)["findings"]
    assert found["model"] == "model"
    assert found["pictures"] == 2
    assert chart.ndim == 4
    assert json.loads((tmp_path / "audit_00001_.json").read_text(encoding="utf-8")) == json.loads(report)
