"""Conceptor on EmojiWorld beside the published procedures written plainly, in one run: words, fit, single pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Linear, ReLU, Sequential
from torch.nn.functional import cosine_similarity, mse_loss, normalize

from ...core.conceptor.dictionary import Dictionary
from ...core.conceptor.explanation import explain
from ...core.conceptor.fit import HIDDEN, WEIGHT_DECAY, FitState, Settings, fit_conceptor
from ...core.conceptor.mixture import TokenMix
from ...core.conceptor.pruning import bundles_of
from ...core.conceptor.quality import QUALITIES, Quality
from ...core.conceptor.vocabulary import CONCEPTOR_TEMPLATES, Vocabulary, embed_vocabulary, template_features
from ...core.model.diffusion import add_noise
from ...core.model.slot import Slot
from ...core.model.template import Template
from ...harness.terminal.models import EMOJI_WORLD, load_pipeline
from ...pipelines.adapter import DiffusersDiffusion, DiffusersTextEncoder
from ...pipelines.pictures import Sampling
from ...pipelines.studio import DiffusersStudio
from ...world.emoji.architecture import GUIDANCE
from .. import pictures as bench_pictures
from ..measures import Measure, seconds

PROMPT = Template.of("a photo of a {}")
TOKENS, PUBLISHED_TOKENS = 2048, 16  # embedded by either procedure
PICTURES = 12
STEPS = 8  # timed ones; one more comes before them
EXPLANATIONS = Path(__file__).parents[1] / "results/explanations"  # of `concepts`
KEYWORDS = ("meat", "clothes", "beverage", "rodent", "carnival")
NAMED, UNNAMED = "carnival", "penguin"  # by few words; by none but its own
SETTINGS = Settings(method="conceptor", steps=STEPS + 1, validate_every=STEPS + 2)


def measure() -> list[Measure]:
    torch.manual_seed(0)
    pipe = load_pipeline(EMOJI_WORLD)
    words = embed_vocabulary(DiffusersTextEncoder(pipe), "none")
    return [*vocabulary(pipe, words), *fit(pipe, words), *explanation(pipe, words), *single_pictures(pipe)]


def explanation(pipe: Any, words: Vocabulary) -> list[Measure]:
    """From a concept's name to its mix, report and reconstructions: as published, and with the defaults.

    By defaults a concept that few words name and one that is fitted; as published both take the same.
    """

    def explained(concept: str, quality: Quality) -> tuple[float, int]:
        preset, made = QUALITIES[quality], []
        studio = DiffusersStudio(pipe, Sampling(preset.sampling_steps, GUIDANCE, sampler=preset.sampler))
        what = (studio, words, concept, PROMPT, preset.settings, Unwatched())
        counts: dict[str, Any] = {"num_images": preset.num_images, "validation_images": preset.validation_images}
        spent = seconds(lambda: made.append(explain(*what, **counts).found.mix.made_by["evaluations"]))
        return spent, made[0]

    slow, most = explained(NAMED, "published")
    measures = [Measure("explanation, EmojiWorld: evaluations as published", most, "", 1, None)]
    for concept in (NAMED, UNNAMED):
        fast, few = explained(concept, "quick")
        measures += [
            Measure(f"explanation of {concept}: published / ours, time", slow / fast, "x", 1, None),
            Measure(f"explanation of {concept}: evaluations", few, "", 1, None),
        ]
    return measures


class Unwatched:
    """Nobody sees it."""

    def bar(self, done: int, total: int, picture: Tensor | None = None) -> None:
        pass

    def say(self, text: str) -> None:
        pass

    def found(self, mix: TokenMix) -> None:
        pass


def vocabulary(pipe: Any, words: Vocabulary) -> list[Measure]:
    encoder = DiffusersTextEncoder(pipe)
    ids = words.ids[:: len(words) // TOKENS][:TOKENS]
    some = ids[:: TOKENS // PUBLISHED_TOKENS][:PUBLISHED_TOKENS]
    with torch.no_grad():
        tower = encoder.towers()[-1]
        fast = [seconds(lambda: template_features(encoder, tower, ids[:, None], CONCEPTOR_TEMPLATES)) for _ in range(3)]
        slow, features = [], []
        for token in some.tolist():
            slow.append(seconds(lambda token=token: features.append(published_feature(pipe, encoder.decode([token])))))
        ours = template_features(encoder, tower, some[:, None], CONCEPTOR_TEMPLATES)
    apart = float((torch.stack(features) - ours).abs().max())
    each = sorted(slow)[len(slow) // 2]
    return [
        Measure.of("vocabulary, EmojiWorld: published / ours, time", [each / (spent / TOKENS) for spent in fast], "x"),
        Measure("vocabulary, EmojiWorld: largest difference of features", apart, "", len(some), None),
    ]


def published_feature(pipe: Any, text: str) -> Tensor:
    """One token: all its prompts, each of 77 tokens, through the text encoder."""
    prompts = [template.replace("{}", text) for template in CONCEPTOR_TEMPLATES]
    inputs = pipe.tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt").to(pipe.device)
    pooled = pipe.text_encoder(inputs.input_ids).pooler_output
    features = normalize(pipe.text_encoder.text_projection(pooled), dim=-1)
    return normalize(features.mean(0), dim=-1).cpu()


def fit(pipe: Any, words: Vocabulary) -> list[Measure]:
    encoder, diffusion = DiffusersTextEncoder(pipe), DiffusersDiffusion(pipe)
    rows = range(0, len(words), len(words) // SETTINGS.dictionary_size)[: SETTINGS.dictionary_size]
    dictionary = Dictionary.of(words, rows, pipe.device)
    pictures = torch.rand(PICTURES, 3, 128, 128, device=pipe.device) * 2 - 1
    with torch.no_grad():
        latents = pipe.vae.encode(pictures).latents
    slot = Slot.of(encoder, encoder.towers(), PROMPT)
    state = FitState.begin(dictionary, torch.ones(len(dictionary)), SETTINGS, torch.Generator().manual_seed(0))
    steps = fit_conceptor(diffusion, slot, dictionary, state, latents, lambda *_: 0.0, SETTINGS)
    next(steps)  # the start
    published = published_step(pipe, slot, dictionary, pictures)
    fast, slow = [], []
    for number in range(STEPS + 1):  # one by one in turn: both meet the same machine
        ours, theirs = seconds(lambda: next(steps)), seconds(published)
        if number:
            fast.append(ours)
            slow.append(theirs)
    ratios = [theirs / ours for theirs, ours in zip(slow, fast, strict=True)]
    return [
        Measure.of("fit step, EmojiWorld: published / ours, time", ratios, "x"),
        Measure.of("fit step, EmojiWorld: ours", fast, "s"),
    ]


def published_step(pipe: Any, slot: Slot, dictionary: Dictionary, pictures: Tensor) -> Callable[[], None]:
    """One step of the published loop: pictures are encoded, the prompt is encoded for each of them."""
    tower, embeddings, norm = slot.towers[0], dictionary.embeddings[0], dictionary.norms[0]
    layers = (Linear(embeddings.shape[1], HIDDEN), ReLU(), Linear(HIDDEN, 1))
    network = Sequential(*layers).to(pipe.device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=SETTINGS.learning_rate, weight_decay=WEIGHT_DECAY)
    prompt = tower.embed(tower.pad_out(slot.tokens))
    here = torch.zeros(len(prompt), 1, dtype=torch.bool, device=prompt.device)
    here[list(slot.places)] = True
    alphas = pipe.scheduler.alphas_cumprod.to(pipe.device)

    def step() -> None:
        batch = pictures[torch.randint(PICTURES, (SETTINGS.batch_size,))]
        with torch.no_grad():
            latents = pipe.vae.encode(batch).latents
        noise, timesteps = torch.randn_like(latents), torch.randint(len(alphas), (len(batch),), device=latents.device)
        noisy = add_noise(alphas, latents, noise, timesteps)
        values = network(embeddings).abs().squeeze(1)
        whole = normalize(values @ embeddings, dim=0) * norm
        best = values.topk(SETTINGS.num_tokens).indices
        largest = normalize(values[best] @ embeddings[best], dim=0) * norm
        states = tower.read(torch.where(here, whole, prompt).expand(len(batch), -1, -1)).states
        loss = mse_loss(pipe.unet(noisy, timesteps, states).sample, noise)
        loss = loss + SETTINGS.sparsity * (1 - cosine_similarity(largest, whole, dim=0))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def single_pictures(pipe: Any) -> list[Measure]:
    """The first seed's picture of some keywords, from the mixes of `concepts`, explained by either search."""
    studio = DiffusersStudio(pipe, Sampling(bench_pictures.STEPS, GUIDANCE))
    ratios = []
    for keyword in KEYWORDS:
        mix = TokenMix.load(EXPLANATIONS / f"{keyword}_quick_0.safetensors").top(bench_pictures.TOKENS)
        features = template_features(
            studio.encoder, studio.towers[-1], torch.tensor(mix.ids)[:, None], CONCEPTOR_TEMPLATES
        )
        bundles = bundles_of(mix, features @ features.T, bench_pictures.SIMILAR)
        _, published = bench_pictures.plainly(studio, mix, 0, bundles)
        ours = bench_pictures.explained(studio, mix, 0, bundles).found
        ratios.append(published / ours.pictures)
    return [Measure.of("single picture, EmojiWorld: published / ours, pictures made", ratios, "x")]
