"""FaceWorld: its truth is what pictures and captions are drawn from, and its UNet has no way around the bottleneck."""

from __future__ import annotations

import random
import re
from collections import Counter

import pytest
import torch
from conceptlens.world.faces import judge
from conceptlens.world.faces.denoiser import NOISE, Bottlenecked, Lessons
from conceptlens.world.faces.pictures import HAIRSTYLES, Look, Personas
from conceptlens.world.faces.truth import (
    HELD_OUT_SEEDS,
    PLANTED,
    SHARES,
    TRAINING_SEEDS,
    VALUES,
    Face,
    Truth,
    build_truth,
    draw_caption,
)
from torch import Tensor


@pytest.fixture(scope="module")
def faces() -> list[Face]:
    return [Face.of_seed(seed) for seed in TRAINING_SEEDS]


def test_the_truth_is_the_same_on_every_machine() -> None:
    assert Truth.load() == build_truth()


def test_labels_and_seeds_are_the_same_faces(faces: list[Face]) -> None:
    labels = Truth.load().training["labels"].split()
    assert [Face.of_labels([int(digit) for digit in word]) for word in labels] == faces
    assert not set(TRAINING_SEEDS) & set(HELD_OUT_SEEDS)


def test_attributes_come_in_their_shares_and_each_for_itself(faces: list[Face]) -> None:
    labels = torch.tensor([face.labels for face in faces]).double()
    for place, (name, values) in enumerate(VALUES.items()):
        counts = Counter(labels[:, place].tolist())
        for value in range(len(values)):
            share = SHARES.get(name, 0.5) if len(values) == 2 else 1 / len(values)
            assert counts[value] / len(faces) == pytest.approx(share if value else 1 - share, abs=0.02) or (
                len(values) > 2 and counts[value] / len(faces) == pytest.approx(share, abs=0.02)
            )
    names = list(VALUES)
    found = torch.corrcoef(labels.T).fill_diagonal_(0)
    pair = names.index("smile"), names.index("long_hair")
    assert float(found[pair]) == pytest.approx(PLANTED[True] - PLANTED[False], abs=0.03)
    found[pair] = found[pair[::-1]] = 0
    assert found.abs().max() < 0.04


def test_a_cap_hides_the_hair_alone() -> None:
    face = next(face for face in map(Face.of_seed, range(100)) if face.cap)
    assert [name for name, shown in zip(VALUES, face.shown, strict=True) if not shown] == ["long_hair", "hair"]


def test_captions_are_true_and_name_all_some_or_nothing(faces: list[Face]) -> None:
    generator = random.Random(0)
    captions = [draw_caption(face, generator).text for face in faces]
    assert captions.count("a face") / len(faces) == pytest.approx(0.1, abs=0.03)
    named = [re.findall(r"(\w+) (?:hair|skin|clothes|background)", text) for text in captions]
    assert sum(len(words) == 4 for words in named) / len(faces) == pytest.approx(0.41, abs=0.03)
    for face, text in zip(faces, captions, strict=True):
        for attribute in ("glasses", "beard", "cap"):
            assert attribute not in text or getattr(face, attribute)
        assert not re.search("frowning" if face.smile else "smiling", text)
        for attribute in ("hair", "skin", "clothes", "background"):
            assert {*re.findall(rf"(\w+) {attribute}", text)} <= {getattr(face, attribute)}
        assert not re.search("short" if face.long_hair else "long", text)


def parts() -> Personas:
    """A drawing whose every part is a rectangle of its own, in the place of Personas' one."""
    personas = Personas.__new__(Personas)
    eyes = {"open": '<path d="M4 2h16v6h-16Z"/>', "glasses": '<path d="M0 0h24v10h-24Z"/>'}
    mouths = {"bigSmile": '<path d="M6 3h6v3h-6Z" fill="#fff"/>', "frown": '<path d="M6 3h6v3h-6Z" fill="#000"/>'}
    lock = '<path d="M15 8h30v14h-30Z" fill="${escape.xml(`${colors.hair}`)}"/>'
    hair = dict.fromkeys([*HAIRSTYLES[True], *HAIRSTYLES[False]], lock)
    body = '<path d="M3 8h36v12h-36Z" fill="${escape.xml(`${colors.clothing}`)}"/>'
    personas.__dict__["_parts"] = {
        "eyes": eyes,
        "mouth": mouths,
        "hair": hair | {"cap": '<path d="M16 10h28v12h-28Z" fill="#f80"/>'},
        "body": {"squared": body, "rounded": body},
        "nose": {"mediumRound": ""},
    }
    return personas


def test_a_seed_is_one_face_and_every_place_for_a_colour_is_filled() -> None:
    personas = parts()
    for seed in range(40):
        face = Face.of_seed(seed)
        look = Look.of_seed(seed, face)
        assert look == Look.of_seed(seed, face)
        assert "$" not in personas.svg(face, look)


def test_hidden_hair_teaches_the_judge_nothing() -> None:
    torch.manual_seed(0)
    model, pictures = judge.build(), torch.rand(2, 3, 128, 128) * 2 - 1
    labels = torch.tensor([Face.of_seed(1).labels, Face.of_seed(2).labels])
    place = list(VALUES).index("hair")
    hidden = labels.clone()
    hidden[0, place] = judge.UNKNOWN
    difference = judge.loss(model, pictures, labels) - judge.loss(model, pictures, hidden)
    scores = judge.logits(model, pictures)[place].log_softmax(1)
    both, second = -scores[[0, 1], labels[:, place]].mean(), -scores[1, labels[1, place]]
    assert difference.item() == pytest.approx((both - second).item() / len(VALUES), abs=1e-5)
    assert judge.attributes(model, pictures).shape == (2, len(VALUES))


@pytest.fixture(scope="module")
def unet() -> Bottlenecked:
    torch.manual_seed(0)
    model = Bottlenecked().double()
    torch.nn.init.normal_(model.unet.conv_out.weight, std=0.1)
    return model.requires_grad_(False)


def noisy(count: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x, contexts = (torch.randn(count, *shape, generator=generator).double() for shape in ((4, 16, 16), (77, 384)))
    return x, torch.tensor([10, 500, 990])[:count], contexts


def test_what_is_trained_is_what_diffusers_computes(unet: Bottlenecked) -> None:
    x, timesteps, contexts = noisy(3)
    assert torch.allclose(unet(x, timesteps, contexts), unet.unet(x, timesteps, contexts).sample, atol=1e-10)
    fewer = torch.cat([contexts[:1], contexts[1:2].expand(2, -1, -1)])
    assert torch.allclose(unet(x, timesteps, contexts[:2]), unet.unet(x, timesteps, fewer).sample, atol=1e-10)


def test_a_picture_has_to_pass_the_bottleneck(unet: Bottlenecked) -> None:
    """With h as it is, nothing of the noisy picture or of the text is seen; with another h all is."""
    x, timesteps, contexts = noisy(2)
    h = [torch.ones(2, 192, 8, 8).double()]
    handle = unet.unet.mid_block.register_forward_hook(lambda *_: h[0])
    try:
        one = unet.unet(x, timesteps, contexts).sample
        assert torch.equal(one, unet.unet(-x, timesteps, 0 * contexts).sample)
        h[0] = -h[0]
        assert not torch.allclose(one, unet.unet(x, timesteps, contexts).sample)
    finally:
        handle.remove()


def test_the_mean_of_what_noise_hides_is_bayes() -> None:
    latents = torch.randn(50, 4, 16, 16, generator=torch.Generator().manual_seed(0)) / 8
    lessons = Lessons(latents, torch.zeros(50, 77, 384), ())
    timesteps = torch.tensor([600, 999])
    signal = NOISE.alphas_cumprod.double()[timesteps].view(-1, 1, 1, 1)
    x = signal.sqrt() * latents[3:5].double() + (1 - signal).sqrt() * torch.randn(2, 4, 16, 16).double()
    errors = (x[:, None] - signal[:, None].sqrt() * latents.double()).square().flatten(2).sum(2)
    chances = (-errors / (2 * (1 - signal[:, :, 0, 0]))).softmax(1)
    expected = torch.einsum("nf,fchw->nchw", chances, latents.double())
    found = lessons.posterior_mean(x.float(), timesteps).double()
    assert (found - expected).norm() < 0.02 * expected.norm()  # bfloat16


def test_training_leaves_closed_what_is_closed(unet: Bottlenecked) -> None:
    torch.manual_seed(0)
    model = Bottlenecked()
    latents, contexts = torch.randn(8, 4, 16, 16), torch.randn(8, 77, 384)
    lessons = Lessons(latents, contexts, (contexts[:1], 0 * contexts[:1]))
    optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), 0.1)
    for step in range(2):
        lessons.loss(model, 4, step).backward()
        optimizer.step()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    model.close()
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert not torch.equal(before["unet.conv_out.weight"], unet.unet.conv_out.weight.float())
