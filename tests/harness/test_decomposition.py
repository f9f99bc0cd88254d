"""Conceptor's fit on tiny pipelines: its parts against the formulas, its whole by what it must find."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conceptlens.core.checkpoint import Checkpoint
from conceptlens.core.conceptor.decomposition import Concept, decompose, explains, helpful, removal_costs
from conceptlens.core.conceptor.dictionary import Dictionary, own_words, rank_by_gradient, taught, token_losses
from conceptlens.core.conceptor.evaluations import Evaluations
from conceptlens.core.conceptor.fit import FitStep, Judge, Settings
from conceptlens.core.conceptor.pursuit import Reading, pursue
from conceptlens.core.conceptor.race import ITERATIONS, likelihoods, mixture_weights, race, rounds
from conceptlens.core.conceptor.vocabulary import Vocabulary, embed_vocabulary, named_tokens
from conceptlens.core.errors import UserError
from conceptlens.core.model.diffusion import Prediction, draw
from conceptlens.core.model.protocols import Family
from conceptlens.core.model.slot import Slot
from conceptlens.core.model.template import Template
from conceptlens.core.model.text_tower import Encoded
from conceptlens.pipelines.adapter import DiffusersTextEncoder
from torch import Tensor

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def some_words(vocabulary: Vocabulary) -> Vocabulary:
    """63 of its words."""
    rows = [*range(500, 560), *(vocabulary.texts.index(word) for word in ("castle", "river", "palace"))]
    return replace(
        vocabulary,
        ids=vocabulary.ids[rows],
        texts=[vocabulary.texts[row] for row in rows],
        embeddings=[table[rows] for table in vocabulary.embeddings],
        features=vocabulary.features[rows],
    )


def test_a_concepts_own_words_are_known_by_spelling(encoder: DiffusersTextEncoder, vocabulary: Vocabulary) -> None:
    spelled = replace(vocabulary, made_by={**vocabulary.made_by, "projected": False})  # meanings are not compared

    def words(concept: str) -> set[str]:
        return {vocabulary.texts[row] for row in own_words(spelled, encoder, encoder.towers()[-1], concept)}

    assert {"rose", "roses"} <= words("Rose")
    assert {"rose", "roses"} <= words("roses")
    assert {"berry", "berries"} <= words("berry")
    assert {"ice", "cream", "creams"} <= words("ice cream")
    assert words("rose").isdisjoint({"rosie", "ros", "flower", "prose"})


def test_a_concepts_own_words_are_known_by_meaning_where_there_is_a_projection(
    encoder: DiffusersTextEncoder, vocabulary: Vocabulary, family: Family
) -> None:
    """Those whose features are nearly the concept's own, and only where features mean something."""
    tower = encoder.towers()[-1]
    feature = vocabulary.features[vocabulary.texts.index("rose")]
    alike = set((vocabulary.features @ feature > 0.9).nonzero().flatten().tolist())
    assert (alike <= own_words(vocabulary, encoder, tower, "rose")) == (family == "SDXL" or len(alike) == 1)


def mixture(losses: Tensor, pictures: Tensor, evidence: Tensor) -> Tensor:
    """The mixture weights (words,) of losses (words, draws)."""
    chances = likelihoods(losses, pictures, evidence)
    return mixture_weights(chances, torch.ones(1, chances.shape[1]), ITERATIONS)[0].float()


def test_shares_of_a_planted_mixture_are_found() -> None:
    """40 tokens; 300 pictures, each drawn by one of three; two draws of each with noise as large as the difference."""
    generator = torch.Generator().manual_seed(3)
    shares = torch.tensor([0.5, 0.3, 0.2])
    maker = torch.multinomial(shares, 300, replacement=True, generator=generator)
    pictures = torch.arange(600) % 300
    losses = 1 + 0.01 * torch.randn(40, 600, generator=generator) + torch.randn(600, generator=generator)
    losses[maker[pictures], torch.arange(600)] -= 0.03
    found = mixture(losses, pictures, torch.zeros(40, 300))
    assert found.argsort(descending=True)[:3].tolist() == [0, 1, 2]
    torch.testing.assert_close(found[:3], shares, atol=0.06, rtol=0)
    assert found.sum() == pytest.approx(1)


def test_what_is_known_besides_decides_between_words_that_denoise_alike() -> None:
    generator = torch.Generator().manual_seed(0)
    losses, pictures = 1 + 0.01 * torch.randn(40, 24, generator=generator), torch.arange(24) % 12
    evidence = torch.zeros(40, 12)
    evidence[7, :8] = evidence[31, 8:] = 20
    found = mixture(losses, pictures, evidence)
    torch.testing.assert_close(found[[7, 31]], torch.tensor([2 / 3, 1 / 3]), atol=0.05, rtol=0)


class Planted:
    """Denoises without error what one of two words says: bright pictures the first, dark ones the second."""

    prediction: Prediction = "epsilon"

    def __init__(self, slot: Slot, singles: list[Tensor]) -> None:
        self.alphas_cumprod = torch.full((1000,), 0.99)
        self._contexts = slot.encode(singles).context
        self.rows: list[int] = []  # of each pass

    def predict(self, noisy: Tensor, timesteps: Tensor, encoded: Encoded) -> Tensor:
        self.rows.append(len(noisy))
        bright = noisy.mean((1, 2, 3)) > 0
        clean = torch.where(bright, 1.0, -1.0).view(-1, 1, 1, 1)
        signal = self.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
        noise = (noisy - signal.sqrt() * clean) / (1 - signal).sqrt()
        wanted = self._contexts[torch.where(bright, 0, 1)]
        return noise + ((encoded.context - wanted).square().mean((1, 2)) + 1e-12).sqrt().view(-1, 1, 1, 1)

    def make_room(self) -> bool:
        return False

    def save_memory(self) -> bool:
        return False


@pytest.fixture(scope="module")
def planted(slot: Slot, vocabulary: Vocabulary) -> Planted:
    rows = [vocabulary.texts.index(word) for word in ("castle", "river")]
    return Planted(slot, Dictionary.of(vocabulary, rows, torch.device("cpu")).singles())


def pictures_of(bright: int, dark: int) -> Tensor:
    return torch.cat([torch.ones(bright, 4, 8, 8), -torch.ones(dark, 4, 8, 8)])


def concept_of(
    planted: Any, encoder: DiffusersTextEncoder, vocabulary: Vocabulary, family: Family, name: str = "palace"
) -> Concept:
    template, towers = Template.of("a photo of a {}"), encoder.towers()
    return Concept(
        encoder=encoder,
        towers=towers,
        family=family,
        diffusion=planted,
        vocabulary=vocabulary,
        name=name,
        template=template,
        slot=Slot.of(encoder, towers, template),
        latents=pictures_of(8, 4),
        held_out=pictures_of(4, 2),
    )


def test_a_race_finds_the_words_that_made_the_pictures(planted: Planted, slot: Slot, vocabulary: Vocabulary) -> None:
    """Among 240 words, each the best on its own pictures only."""
    rows = [vocabulary.texts.index(word) for word in ("castle", "river")]
    dictionary = Dictionary.of(vocabulary, [*range(500, 738), *rows], torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    *_, found = race(planted, slot, dictionary, pictures_of(8, 4), generator, racers=240, draws=12)
    assert len(found.words) == 60
    assert found.words.texts[:2] == ["castle", "river"]
    torch.testing.assert_close(found.shares[:2], torch.tensor([2 / 3, 1 / 3]), atol=0.05, rtol=0)
    assert found.losses.mean(1).argmin() == 0  # of all pictures: "river" is wrong on two of three
    low, high = found.intervals[:2].T
    assert (low <= found.shares[:2]).all()
    assert (found.shares[:2] <= high).all()
    # 12 pictures of two kinds: a share's standard error is 0.14, of which an interval of 90 % spans 3.3
    torch.testing.assert_close(high - low, torch.full((2,), 0.45), atol=0.1, rtol=0)


def test_a_race_of_few_words_takes_as_many_evaluations() -> None:
    assert rounds(1000, 64, 12) == [(64, 12), (16, 24)]
    assert rounds(32, 64, 12) == [(32, 24), (16, 48)]
    assert rounds(16, 64, 12) == [(16, 48)]
    assert rounds(1, 64, 12) == [(1, 768)]


def test_of_two_words_none_leaves_the_race(planted: Planted, slot: Slot, vocabulary: Vocabulary) -> None:
    """How pictures divide between words that somebody chose: both have their share."""
    both = Dictionary.of(vocabulary, [vocabulary.texts.index(word) for word in ("river", "castle")], CPU)
    *_, found = race(planted, slot, both, pictures_of(8, 4), torch.Generator().manual_seed(0), racers=64, draws=12)
    assert found.words.texts == ["castle", "river"]
    torch.testing.assert_close(found.shares, torch.tensor([2 / 3, 1 / 3]), atol=0.05, rtol=0)


def test_weighted_shares_are_those_of_pictures_that_come_so_often() -> None:
    """What a bootstrap does at once for all its draws."""
    generator = torch.Generator().manual_seed(2)
    losses, pictures = torch.randn(6, 20, generator=generator), torch.arange(20) % 10
    chances = likelihoods(losses, pictures, torch.zeros(6, 10))
    counts = torch.tensor([[2, 0, 1, 3, 0, 1, 1, 0, 1, 1], [1] * 10])
    both = mixture_weights(chances, counts, 30)
    repeated = chances.repeat_interleave(counts[0], 1)
    torch.testing.assert_close(both[0], mixture_weights(repeated, torch.ones(1, 10), 30)[0])
    torch.testing.assert_close(both[1], mixture_weights(chances, torch.ones(1, 10), 30)[0])


def test_an_explanation_is_complete(
    planted: Planted, encoder: DiffusersTextEncoder, some_words: Vocabulary, family: Family
) -> None:
    """Both methods, from pictures to a mix that says how it was made."""
    concept = concept_of(planted, encoder, some_words, family)
    settings = Settings(num_tokens=6, dictionary_size=64, steps=6, validate_every=3)
    found = decompose(concept, settings)
    assert found.mix.texts == ("castle", "river")
    assert found.mix.coefficients == pytest.approx((2 / 3, 1 / 3), abs=0.05)
    made_by = found.mix.made_by
    assert (made_by["family"], made_by["concept"], made_by["settings"]["steps"]) == (family, "palace", 6)
    assert found.losses == []
    assert found.validations == [(0, made_by["validation"])]
    for known in ("alone", "removal", "interval"):
        assert list(made_by[known]) == [str(token) for token in found.mix.ids]
    assert "not fitted" in found.report()
    assert decompose(concept, settings).mix == found.mix
    published = decompose(concept, replace(settings, method="conceptor"))
    assert [step for step, _ in published.losses] == [1, 2, 3, 4, 5, 6]
    assert [step for step, _ in published.validations] == [0, 3, 6]
    assert "interval" in published.mix.made_by
    assert len(published.mix) == 6
    assert published.mix.made_by["validation"] == min(loss for _, loss in published.validations)
    assert published.validations != found.validations


def test_what_no_other_word_names_is_fitted_from_many(
    planted: Planted, encoder: DiffusersTextEncoder, slot: Slot, some_words: Vocabulary, family: Family
) -> None:
    """Pictures that "castle" alone denoises without error, explained with that word and without it."""
    concept = replace(concept_of(planted, encoder, some_words, family, "castle"), latents=pictures_of(8, 0))
    drawn = draw(pictures_of(4, 0), 8, (0, 1000), torch.Generator().manual_seed(0))
    words = {word: Dictionary.of(some_words, [some_words.texts.index(word)], CPU) for word in ("castle", "river")}
    castle, river = (token_losses(planted, slot, words[word].singles(), drawn) for word in ("castle", "river"))
    assert explains(concept, castle, drawn)
    assert not explains(concept, river, drawn)
    assert explains(replace(concept, name=""), river, drawn)
    settings = Settings(num_tokens=6, dictionary_size=64, steps=30, validate_every=10)
    found = decompose(replace(concept, held_out=pictures_of(4, 0)), settings)
    assert "castle" not in found.mix.texts
    assert [step for step, _ in found.validations] == [0, 10, 20, 30]
    assert found.mix.made_by["validation"] <= 1.02 * found.validations[0][1]  # read first, so that little is left
    assert found.mix.made_by["alone"] == {}
    assert min(found.mix.made_by["removal"].values()) > 0
    theirs = decompose(replace(concept, held_out=pictures_of(4, 0), drawn=False), settings)
    assert theirs.losses == []  # what others' pictures show is not what the model's own word says
    named = decompose(replace(concept, held_out=pictures_of(4, 0)), replace(settings, exclude_concept=False))
    assert named.mix.texts[0] == "castle"


def test_words_that_each_name_some_pictures_explain_a_mixed_concept(
    planted: Planted, encoder: DiffusersTextEncoder, slot: Slot, some_words: Vocabulary, family: Family
) -> None:
    """Though their sum, a word between them, denoises none of the pictures."""
    concept = replace(concept_of(planted, encoder, some_words, family, "castle"), latents=pictures_of(4, 4))
    both = Dictionary.of(some_words, [some_words.texts.index(word) for word in ("castle", "river")], CPU)
    drawn = draw(pictures_of(4, 4), 8, (0, 1000), torch.Generator().manual_seed(0))
    singles, between = both.singles(), both.pseudo_token(torch.ones(2))
    assert token_losses(planted, slot, between, drawn).min() > 1e-3
    assert token_losses(planted, slot, singles, drawn).amin(0).max() < 1e-6
    assert explains(concept, token_losses(planted, slot, singles, drawn), drawn)


def test_words_are_pursued_whose_sum_the_text_encoder_reads_as_the_name(slot: Slot, vocabulary: Vocabulary) -> None:
    """The name itself, where it is among them; without it, nearer with more words; a name of two tokens too."""
    pool = Dictionary.of(vocabulary, range(400, 800), CPU)
    for name in ("castle", "ice cream"):
        reading = Reading.of_name(slot, name)
        distances = []
        for count in (4, 12, 40):
            words, values = pursue(reading, pool, range(2), count)
            assert len(words) == count == len(set(words.ids.tolist()))
            assert values.min() > 0
            assert float(values.sum()) == pytest.approx(1)
            distances.append(float(reading.distance(words.pseudo_token(values))))
        assert distances == sorted(distances, reverse=True)
        assert distances[-1] < 0.9 * float(reading.distance(pool.pseudo_token(torch.ones(len(pool)))))
    castle = Reading.of_name(slot, "castle")
    row = vocabulary.texts.index("castle")
    itself = Dictionary.of(vocabulary, [row], CPU)
    assert float(castle.distance(itself.pseudo_token(torch.ones(1)))) < 1e-3
    words, values = pursue(castle, Dictionary.of(vocabulary, [*range(400, 440), row], CPU), range(2), 6)
    assert words.texts[int(values.argmax())] == "castle"


def test_draws_are_taught_what_the_model_itself_says(planted: Planted, slot: Slot, vocabulary: Vocabulary) -> None:
    """A word that says the same has no loss then, whatever chance the noise is."""
    own = slot.named("castle")
    drawn = draw(pictures_of(5, 3), 40, (0, 1000), torch.Generator().manual_seed(1))
    lesson = taught(planted, drawn, own)
    both = Dictionary.of(vocabulary, [vocabulary.texts.index(word) for word in ("castle", "river")], CPU)
    same, other = token_losses(planted, slot, both.singles(), lesson)
    assert same.max() < 1e-3 < other.min()  # words have a mean length as pseudo-tokens, and one of their own here
    target: Any = lesson.target
    assert torch.equal(torch.cat([some.target for some in lesson.split(7) if some.target is not None]), target)
    chosen: Any = lesson.at(torch.tensor([7, 7, 3])).target
    assert torch.equal(chosen, target[[7, 7, 3]])


@pytest.mark.parametrize("method", ["shares", "conceptor"])
def test_a_killed_run_goes_on_from_its_last_validation(
    method: Any,
    planted: Planted,
    encoder: DiffusersTextEncoder,
    some_words: Vocabulary,
    family: Family,
    tmp_path: Path,
) -> None:
    """To the very numbers of a run that was not, without comparing words again."""
    concept = concept_of(planted, encoder, some_words, family, "castle")
    concept = replace(concept, latents=pictures_of(8, 0), held_out=pictures_of(4, 0))  # no other word names these
    settings = Settings(method, num_tokens=6, dictionary_size=64, steps=7, validate_every=2)
    checkpoint, steps, begun = Checkpoint(tmp_path / "fit", "a model"), [], []

    def killed(step: FitStep) -> None:
        if step.step == 5:
            raise KeyboardInterrupt

    whole = decompose(concept, settings)
    with pytest.raises(KeyboardInterrupt):
        decompose(concept, settings, killed, checkpoint=checkpoint)
    resumed = decompose(
        *(concept, settings, lambda step: steps.append(step.step)),
        Evaluations(say=begun.append),
        checkpoint=checkpoint,
    )
    assert steps == [5, 6, 7]
    assert "comparing words" not in " ".join(begun)
    assert (resumed.mix, resumed.losses, resumed.validations) == (whole.mix, whole.losses, whole.validations)


def test_a_checkpoint_of_other_work_is_not_used(
    planted: Planted, encoder: DiffusersTextEncoder, some_words: Vocabulary, family: Family, tmp_path: Path
) -> None:
    """Other settings, pictures, words, another judge or model, a damaged file: the fit begins anew."""
    concept = concept_of(planted, encoder, some_words, family)
    settings = Settings("conceptor", num_tokens=6, dictionary_size=64, steps=2, validate_every=2)
    checkpoint = Checkpoint(tmp_path / "fit", "a model")

    def steps(
        concept: Concept, settings: Settings, judge: Judge | None = None, checkpoint: Checkpoint = checkpoint
    ) -> list[int]:
        taken: list[int] = []
        decompose(concept, settings, lambda step: taken.append(step.step), judge=judge, checkpoint=checkpoint)
        return taken

    assert steps(concept, settings) == [0, 1, 2]
    assert steps(concept, settings) == []
    assert steps(concept, replace(settings, seed=1)) == [0, 1, 2]
    assert steps(concept, settings, checkpoint=replace(checkpoint, model="another model")) == [0, 1, 2]
    assert steps(concept, settings, lambda *_: 0.0) == [0, 1, 2]
    photos = replace(some_words, made_by={**some_words.made_by, "templates": ["a photo of a {}"]})
    assert steps(replace(concept, vocabulary=photos), settings) == [0, 1, 2]
    assert steps(replace(concept, latents=concept.latents * 2), replace(settings, seed=1)) == [0, 1, 2]
    checkpoint.file.write_bytes(checkpoint.file.read_bytes()[:-20])
    assert steps(replace(concept, latents=concept.latents * 2), replace(settings, seed=1)) == [0, 1, 2]


def test_a_concepts_own_words_do_not_explain_it(
    planted: Planted, encoder: DiffusersTextEncoder, some_words: Vocabulary, family: Family
) -> None:
    concept = concept_of(planted, encoder, some_words, family, "castles")
    settings = Settings(num_tokens=6, dictionary_size=64, steps=1, validate_every=1)
    assert "castle" not in decompose(concept, settings).mix.texts
    assert "castle" in decompose(concept, replace(settings, exclude_concept=False)).mix.texts


def test_a_vocabulary_of_nothing_but_the_concept_is_refused(
    planted: Planted, encoder: DiffusersTextEncoder, family: Family
) -> None:
    castle = embed_vocabulary(encoder, "none", named_tokens(encoder, ["castle"]))
    concept = concept_of(planted, encoder, castle, family, "castles")
    with pytest.raises(UserError, match='no word but "castles" itself'):
        decompose(concept, Settings(num_tokens=6, steps=1))


def test_the_gradient_ranks_what_helps_near_the_mean_of_all_words(
    planted: Planted, slot: Slot, vocabulary: Vocabulary
) -> None:
    """A small step towards the first of the ranked words lowers the loss, towards the last raises it."""
    drawn = draw(pictures_of(8, 4), 16, (0, 1000), torch.Generator().manual_seed(1))
    order = rank_by_gradient(vocabulary, planted, slot, drawn)
    assert order.unique().numel() == len(vocabulary)
    everything = Dictionary.of(vocabulary, range(len(vocabulary)), torch.device("cpu"))
    mean = everything.pseudo_token(torch.ones(len(vocabulary)))
    first, last = ([single[order[end]][None] for single in everything.singles()] for end in (0, -1))
    losses = [
        token_losses(planted, slot, [m + 0.02 * w for m, w in zip(mean, word, strict=True)], drawn).mean()
        for word in (first, last)
    ]
    here = token_losses(planted, slot, mean, drawn).mean()
    assert losses[0] < here < losses[1]


def test_removal_is_the_rise_of_the_loss(planted: Planted, slot: Slot, dictionary: Dictionary) -> None:
    values = torch.rand(40, generator=torch.Generator().manual_seed(1))
    drawn = draw(pictures_of(2, 1), 3, (0, 1000), torch.Generator().manual_seed(1))
    removal = removal_costs(planted, slot, dictionary, values, drawn)
    without = values.clone()
    without[7] = 0
    losses = [token_losses(planted, slot, dictionary.pseudo_token(v), drawn).mean() for v in (without, values)]
    torch.testing.assert_close(removal[7], losses[0] - losses[1], rtol=1e-3, atol=1e-6)
    whole = removal_costs(planted, slot, dictionary.only(torch.tensor([7])), values[7:8], drawn)
    assert whole.tolist() == [0]


def test_words_that_do_nothing_leave_a_mix(planted: Planted, slot: Slot, vocabulary: Vocabulary) -> None:
    """One without which the pictures are denoised better, and one with less than a hundredth of the mix."""
    rows = [vocabulary.texts.index(word) for word in ("castle", "river", "palace", "dog")]
    words = Dictionary.of(vocabulary, rows, CPU)
    drawn = draw(pictures_of(31, 1), 32, (0, 1000), torch.Generator().manual_seed(1))
    coefficients = torch.tensor([0.6, 0.2, 0.14, 0.009])
    found, left, costs = helpful(planted, slot, words, coefficients, drawn)
    three = words.only(torch.arange(3))
    expected = removal_costs(planted, slot, three, coefficients[:3], drawn)
    assert expected[0] > 0 > expected[2]
    stays = (expected > 0).nonzero().flatten()
    assert found.texts == [three.texts[row] for row in stays.tolist()]
    assert torch.equal(left, coefficients[:3][stays])
    assert torch.equal(costs, expected[stays])
    alone, _, nothing = helpful(planted, slot, words.only(torch.tensor([2])), coefficients[2:3], drawn)
    assert (alone.texts, nothing.tolist()) == (["palace"], [0])  # the last one stays


class Narrow(Planted):
    """Has memory for few pictures at once."""

    limit = 3

    def predict(self, noisy: Tensor, timesteps: Tensor, encoded: Encoded) -> Tensor:
        if len(noisy) > self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return super().predict(noisy, timesteps, encoded)

    def save_memory(self) -> bool:
        done, self.limit = self.limit, max(self.limit, 1)
        return done < 1


def test_little_memory_costs_time_only(
    planted: Planted, encoder: DiffusersTextEncoder, some_words: Vocabulary, family: Family, slot: Slot
) -> None:
    singles = Dictionary.of(some_words, [60, 61], torch.device("cpu"))
    narrow = Narrow(slot, singles.singles())
    settings = Settings(num_tokens=4, dictionary_size=8, steps=2, validate_every=1)
    concept = concept_of(planted, encoder, some_words, family)
    expected = decompose(concept, settings).mix
    for limit in (3, 0):
        narrow.limit = limit
        mix = decompose(replace(concept, diffusion=narrow), settings).mix
        assert mix.texts == expected.texts
        assert mix.coefficients == pytest.approx(expected.coefficients, rel=1e-4)
    narrow.limit = -1
    narrow.save_memory = lambda: False
    with pytest.raises(UserError, match="memory does not hold one picture"):
        decompose(replace(concept, diffusion=narrow), settings)


class Overflowing(Planted):
    """Gives no finite number any more after the third step of a fit."""

    fitted = 0

    def predict(self, noisy: Tensor, timesteps: Tensor, encoded: Encoded) -> Tensor:
        self.fitted += encoded.context.requires_grad and len(noisy) == Settings.batch_size
        return super().predict(noisy, timesteps, encoded) * (float("nan") if self.fitted > 3 else 1.0)


def test_a_fit_that_overflows_leaves_its_last_good_state(
    slot: Slot, encoder: DiffusersTextEncoder, vocabulary: Vocabulary, some_words: Vocabulary, family: Family
) -> None:
    rows = [vocabulary.texts.index(word) for word in ("castle", "river")]
    singles = Dictionary.of(vocabulary, rows, torch.device("cpu")).singles()
    found = decompose(
        concept_of(Overflowing(slot, singles), encoder, some_words, family),
        Settings("conceptor", num_tokens=6, dictionary_size=64, steps=6, validate_every=2, learning_rate=1e-6),
    )
    assert [step for step, _ in found.losses] == [1, 2, 3]
    assert len(found.mix) == 6
    assert found.report().startswith("The loss of step 4 is nan")
