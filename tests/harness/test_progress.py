"""What is seen of an explanation while it is made: every evaluation of the UNet counts, and asks whether to go on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from conceptlens.core.conceptor.dictionary import ROWS_AT_ONCE
from conceptlens.core.conceptor.explanation import explain
from conceptlens.core.conceptor.fit import Settings
from conceptlens.core.conceptor.mixture import TokenMix
from conceptlens.core.conceptor.vocabulary import Vocabulary, embed_vocabulary, named_tokens, text_feature
from conceptlens.core.model.diffusion import Prediction
from conceptlens.core.model.template import Template
from conceptlens.core.model.text_tower import Encoded
from conceptlens.harness.terminal.console import Console
from conceptlens.pipelines.adapter import DiffusersTextEncoder
from conceptlens.pipelines.pictures import Sampling
from conceptlens.pipelines.studio import DiffusersStudio
from conceptlens.tests.tiny import tiny_pipeline
from torch import Tensor

WORDS = ("dog", "cat", "castle", "river", "rose", "snow", "night", "house", "tree", "stone")
SETTINGS = Settings("shares", num_tokens=4, dictionary_size=8, steps=3, batch_size=4, validate_every=2)


class StoppedError(Exception):
    pass


class Live:
    """Keeps what it is told, beside the evaluations made by then; at one call it raises."""

    def __init__(self, evaluations: Callable[[], int], stop_at: int | None = None) -> None:
        self.told: list[tuple[int, int]] = []
        self.seen: list[int] = []  # evaluations
        self.said: list[str] = []
        self.mixes: list[tuple[int, TokenMix]] = []  # beside the evaluations made by then
        self._evaluations, self._stop_at = evaluations, stop_at

    def bar(self, done: int, total: int, picture: Tensor | None = None) -> None:  # noqa: ARG002
        self.told.append((done, total))
        self.seen.append(self._evaluations())
        if len(self.told) == self._stop_at:
            raise StoppedError

    def say(self, text: str) -> None:
        self.said.append(text)

    def found(self, mix: TokenMix) -> None:
        self.mixes.append((len(self.seen) and self.seen[-1], mix))


class Cheap:
    """Predicts nearly the same whatever the text is, and counts its rows."""

    prediction: Prediction = "epsilon"
    alphas_cumprod = torch.full((1000,), 0.5)

    def __init__(self, studio: Counting) -> None:
        self._studio = studio

    def predict(self, noisy: Tensor, timesteps: Tensor, encoded: Encoded) -> Tensor:  # noqa: ARG002
        self._studio.rows += len(noisy)
        return noisy + encoded.context.mean((1, 2)).view(-1, 1, 1, 1)

    def make_room(self) -> bool:
        return False

    def save_memory(self) -> bool:
        return False


class Counting(DiffusersStudio):
    """Counts the rows that go through its UNet, which draws, and through a cheap one, to which mixes are fitted."""

    def __init__(self, pipe: Any, judged: bool) -> None:
        super().__init__(pipe, Sampling(2, 2.0, 64))
        self.rows = 0
        self._judged = judged
        pipe.unet.register_forward_pre_hook(self._count)

    def _count(self, _: Any, inputs: Sequence[Tensor]) -> None:
        self.rows += len(inputs[0])

    def diffusion(self) -> Any:
        return Cheap(self)

    def features(self, pictures: Tensor) -> Tensor | None:
        """Nearly the text's own, where they are judged: of pictures that show the concept."""
        if not self._judged:
            return None
        own = text_feature(self.encoder, self.towers[-1], "palace", ["{}"]).cpu()
        return torch.nn.functional.normalize(own + 0.01 * pictures.flatten(1)[:, :96], dim=-1)


@pytest.fixture(scope="module")
def pipe() -> Any:
    return tiny_pipeline("SDXL")


@pytest.fixture(scope="module")
def words(pipe: Any) -> Vocabulary:
    encoder = DiffusersTextEncoder(pipe)
    return embed_vocabulary(encoder, "none", named_tokens(encoder, WORDS))


def explained(
    pipe: Any, words: Vocabulary, validation: Any = "loss", stop_at: int | None = None, settings: Settings = SETTINGS
) -> Live:
    studio = Counting(pipe, validation == "pictures")
    live = Live(lambda: studio.rows, stop_at)
    try:
        counts: dict[str, Any] = {"num_images": 3, "validation_images": 2}
        explain(
            studio, words, "palace", Template.of("a photo of a {}"), settings, live, **counts, validation=validation
        )
    except StoppedError:
        live.seen.append(studio.rows)
    return live


@pytest.mark.parametrize("validation", ["loss", "pictures"])
def test_one_bar_counts_all_evaluations(validation: Any, pipe: Any, words: Vocabulary) -> None:
    """It moves with each batch, never falls and is full at the end and not before; what is left is said too."""
    live = explained(pipe, words, validation)
    parts = [done / total for done, total in live.told]
    assert parts == sorted(parts)
    assert parts[-1] == 1 > parts[-2]
    steps = [after - before for before, after in zip([0, *live.seen], live.seen, strict=False)]
    assert max(steps) <= ROWS_AT_ONCE
    first = [text.splitlines()[0].split(",")[0] for text in live.said]
    phases = ["making pictures", "the model's own word", "choosing words", "comparing words"]
    assert first[: len(phases)] == phases
    assert first[-2:] == ["judging each word", "making pictures of the mix"]
    assert all("s left" in text for text in live.said[1:])


def test_words_are_told_with_their_intervals_while_they_race(pipe: Any, words: Vocabulary) -> None:
    """First those that the image encoder sees in the pictures to judge by, without intervals."""
    studio = Counting(pipe, judged=True)
    live = Live(lambda: studio.rows)
    counts: dict[str, Any] = {"num_images": 3, "validation_images": 2}
    explained = explain(studio, words, "palace", Template.of("a photo of a {}"), SETTINGS, live, **counts)
    (made, first), (_, raced), *_ = live.mixes
    assert made == studio.evaluations(2)
    assert not first.intervals()
    assert len(raced.intervals()) == len(raced)
    assert set(live.mixes[-1][1].texts) >= set(explained.found.mix.texts)


def test_at_every_call_it_can_be_stopped(pipe: Any, words: Vocabulary) -> None:
    """Nothing more is evaluated then."""
    short = replace(SETTINGS, method="conceptor")
    calls = len(explained(pipe, words, settings=short).told)
    for number in range(1, calls, max(1, calls // 3)):
        *_, at_the_call, after = explained(pipe, words, stop_at=number, settings=short).seen
        assert after == at_the_call


def test_a_batch_tells_of_each_step(pipe: Any) -> None:
    told: list[tuple[int, int]] = []
    studio = DiffusersStudio(pipe, Sampling(2, 2.0, 64))
    studio.latents_of_prompt("a cat", range(17), lambda *at: told.append(at))
    assert told == [(16, 34), (32, 34), (33, 34), (34, 34)]


def test_a_pipe_is_told_how_much_there_is_and_how_long_it_takes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the first step that is heard of is not the first: pictures are drawn in batches."""
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    with Console().progress("drawing") as progress:
        for done in range(16, 97, 16):
            now[0] += 25
            progress(done, 96)
    assert capsys.readouterr().out.splitlines() == ["drawing (96)", "drawing: 64 of 96, 50 s left"]
