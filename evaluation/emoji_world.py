"""`emoji-world`: what EmojiWorld draws, understands and confuses, against its ground truth.

Fixed seeds, 8 pictures a prompt (more where shares are counted), 12 steps of DPM-Solver++. The UNet is compiled and
multiplies in bfloat16 where that is faster, as in training. The better part of an hour on 2 CPU cores: parts that
--json FILE holds already are taken from there as long as weights and guidance are the same; --only NAME measures one
part anew.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate, normalize
from tqdm import tqdm

from ..harness.terminal.console import Console
from ..world import weights
from ..world.emoji import encoders, language
from ..world.emoji.architecture import GUIDANCE, WEIGHTS
from ..world.emoji.captions import SEXES, Caption, draw_caption, with_article
from ..world.emoji.classifier import classifier_batch
from ..world.emoji.colours import HUES
from ..world.emoji.denoiser import NOISE
from ..world.emoji.pictures import DRAWN, SEEN, varied
from ..world.emoji.pipeline import emoji_world_pipeline
from ..world.emoji.truth import STYLES
from ..world.pictures import to_tensor
from . import meters
from .laboratory import AT_ONCE, STEPS, Laboratory
from .measures import Measure
from .parts import Evaluation, Part

SEEDS = range(8)  # of a prompt
KEYWORD_SEEDS = range(32)
PEOPLE_SEEDS = range(128)  # a share of 50 % is known to 4 points then
TRAINED_PAIRS = 60
CONTEXTS_AT_ONCE = 50
CANDIDATES = 500  # single tokens among which a keyword's exemplars are looked for
DRAWS = 16  # pictures of a keyword on which the best of them are compared
PROBES = 200  # words
COPY = 0.03  # root mean square distance, of 0..1, at 32 x 32 pixels: below it two pictures look the same


def names(lab: Laboratory) -> Part:
    """Plain names: the object, its default colour, and how pictures of one name differ."""
    prompts = {f"a photo of {with_article(name)}": name for name in lab.truth.emoji}
    made = lab.sample(dict.fromkeys(prompts, SEEDS))
    first, fifth, hues, confused, wrong = [], [], [], Counter(), Counter()
    for prompt, name in prompts.items():
        for seen in lab.seen(made[prompt]):
            first.append(seen[0] == name)
            fifth.append(name in seen)
            confused.update([] if seen[0] == name else [f"{name}: {seen[0]}"])
        if default := lab.truth.default_colours.get(name):
            shown = lab.colours(made[prompt])
            hues += [colour == default for colour in shown]
            wrong.update(f"{name}: {colour}, not {default}" for colour in shown if colour != default)
    yield Measure.share("names: right emoji, top 1", first), {"confused names": dict(confused.most_common(40))}
    yield Measure.share("names: right emoji, top 5", fifth), {}
    yield Measure.share("names: default hue", hues), {"wrong default hues": dict(wrong.most_common(40))}
    nearest = _nearest_emoji(lab, torch.cat([made[prompt] for prompt in prompts]))
    wanted = [name for name in prompts.values() for _ in SEEDS]
    yield (
        Measure.share(
            "names: nearest emoji by the image encoder", [a == b for a, b in zip(nearest, wanted, strict=True)]
        ),
        {},
    )
    yield from _diversity(lab, {name: made[prompt] for prompt, name in prompts.items()})


def _diversity(lab: Laboratory, made: Mapping[str, Tensor]) -> Part:
    generator = random.Random("diversity")
    drawn, trained, copies, fresh_copies = [], [], [], []
    for name, pictures in made.items():
        clean = lab.pictures.clean(Caption("", name, "name", name, lab.truth.emoji[name], "3d"))
        variants = torch.stack([to_tensor(varied(clean, generator, DRAWN)) for _ in range(64)])
        drawn.append(_mean_distance(pictures))
        trained.append(_mean_distance(variants[: len(pictures)]))
        fresh = torch.stack([to_tensor(varied(clean, generator, DRAWN)) for _ in SEEDS])
        for result, these in ((copies, pictures), (fresh_copies, fresh)):
            result += (torch.cdist(_small(these), _small(variants)).amin(1) < COPY).tolist()
    ratio = statistics.mean(drawn) / statistics.mean(trained)
    yield (
        Measure(
            "names: distance between pictures, of that between training variants", 100 * ratio, "%", len(made), None
        ),
        {},
    )
    yield Measure.share("names: copies of one of 64 training variants", copies), {}
    yield Measure.share("training variants: copies of one of 64 others", fresh_copies), {}


def _small(pictures: Tensor) -> Tensor:
    """Pictures as rows whose Euclidean distance is the root mean square difference at 32 x 32 pixels, in 0..1."""
    small = interpolate(pictures / 2 + 0.5, size=(32, 32), mode="area").flatten(1)
    return small / small.shape[1] ** 0.5


def _mean_distance(pictures: Tensor) -> float:
    rows = _small(pictures)
    return statistics.mean(float((rows[i] - rows[j]).norm()) for i, j in combinations(range(len(rows)), 2))


@torch.no_grad()
def _nearest_emoji(lab: Laboratory, pictures: Tensor) -> list[str]:
    """The emoji whose training variants the image encoder finds most like each picture."""
    generator = random.Random("prototypes")
    prototypes = []
    for name, characters in lab.truth.emoji.items():
        clean = lab.pictures.clean(Caption("", name, "name", name, characters, "3d"))
        variants = torch.stack([to_tensor(varied(clean, generator, SEEN)) for _ in range(meters.PROTOTYPE_VARIANTS)])
        prototypes.append(encoders.image_features(lab.clip, variants).mean(0))
    features = torch.cat([encoders.image_features(lab.clip, some) for some in pictures.split(AT_ONCE)])
    best = (features @ normalize(torch.stack(prototypes), dim=-1).T).argmax(1)
    known = list(lab.truth.emoji)
    return [known[i] for i in best.tolist()]


def colours(lab: Laboratory) -> Part:
    """Coloured names: the hue of trained pairs, hue and object of held-out pairs."""
    truth = lab.truth
    held_out = [(name, colour) for name, colour in truth.held_out_pairs]
    every = [(name, colour) for name in truth.default_colours for colour in truth.colours_of(name)]
    trained = random.Random("pairs").sample(every, TRAINED_PAIRS)
    made = lab.sample({_coloured(*pair): SEEDS for pair in trained + held_out})
    shown = {pair: lab.colours(made[_coloured(*pair)]) for pair in trained + held_out}
    yield Measure.share("colours: trained pairs, hue", [c == pair[1] for pair in trained for c in shown[pair]]), {}
    wrong = Counter(f"{c} {n}: {got}" for n, c in held_out for got in shown[n, c] if got != c)
    yield (
        Measure.share("colours: held-out pairs, hue", [c == pair[1] for pair in held_out for c in shown[pair]]),
        {"wrong hues of held-out pairs": dict(wrong.most_common(20))},
    )
    seen = {pair: lab.seen(made[_coloured(*pair)]) for pair in held_out}
    yield (
        Measure.share("colours: held-out pairs, object", [s[0] == pair[0] for pair in held_out for s in seen[pair]]),
        {},
    )


def _coloured(name: str, colour: str) -> str:
    return f"a photo of {with_article(f'{colour} {name}')}"


def keywords(lab: Laboratory) -> Part:
    """Keywords: one of the exemplars, and all of the frequent ones."""
    truth = lab.truth
    trained = [keyword for keyword in truth.keywords if keyword not in truth.held_out_keywords]
    for label, these in (("keywords", trained), ("keywords held out", list(truth.held_out_keywords))):
        if not these:  # the transformer was taught all of its part
            continue
        made = lab.sample({_photo(keyword): KEYWORD_SEEDS for keyword in these})
        hits, complete, found = [], [], {}
        for keyword in these:
            counts = Counter(seen[0] for seen in lab.seen(made[_photo(keyword)]))
            shares = truth.keywords[keyword]
            hits += [kind in shares for kind in counts.elements()]
            complete.append(all(counts[name] for name, part in shares.items() if part >= 0.2))
            found[keyword] = dict(counts.most_common())
        yield Measure.share(f"{label}: one of the exemplars", hits), {f"pictures of {label}": found}
        yield Measure.share(f"{label}: every exemplar of 20 % or more appears", complete), {}


def _photo(words: str) -> str:
    return f"a photo of {with_article(words)}"


def people(lab: Laboratory) -> Part:
    """The share of men for the plain word, and whether "male" and "female" are obeyed."""
    truth = lab.truth
    made = lab.sample({_photo(name): PEOPLE_SEEDS for name in truth.professions})
    errors, shares = {}, {}
    for name, profession in truth.professions.items():
        shares[name] = 100 * statistics.mean(sex == "man" for sex in lab.sexes(name, made[_photo(name)]))
        errors[name] = abs(shares[name] - 100 * profession["share_of_men"])
    yield (
        Measure("people: largest error of a share", max(errors.values()), "points", len(errors), None),
        {"shares of men": {name: [shares[name], 100 * truth.professions[name]["share_of_men"]] for name in shares}},
    )
    yield Measure.share("people: shares within 12 points", [error <= 12 for error in errors.values()]), {}
    told = {_photo(f"{SEXES[sex]} {name}"): (name, sex) for name in truth.professions for sex in SEXES}
    made = lab.sample(dict.fromkeys(told, SEEDS))
    yield (
        Measure.share(
            "people: man or woman as told",
            [got == sex for prompt, (name, sex) in told.items() for got in lab.sexes(name, made[prompt])],
        ),
        {},
    )


@torch.no_grad()
def judges(lab: Laboratory) -> Part:
    """The meters' own errors, on pictures that were never trained."""
    generator = random.Random("held-out renderings")
    pictures, labels = classifier_batch(lab.pictures, 2000, generator)
    seen = lab.seen(pictures)
    yield (
        Measure.share(
            "classifier: right, on renderings never seen",
            [s[0] == lab.kinds[i] for s, i in zip(seen, labels, strict=True)],
        ),
        {},
    )
    told = [(lab.kinds[i].split(" ", 1), picture) for i, picture in zip(labels, pictures, strict=True)]
    told = [(name, sex, picture) for (sex, *rest), picture in told if (name := " ".join(rest)) in lab.truth.professions]
    hits = [SEXES[lab.sexes(name, picture[None])[0]] == sex for name, sex, picture in told]
    yield Measure.share("classifier: man or woman, on renderings never seen", hits), {}
    wrong = []
    for name, characters in lab.truth.emoji.items():
        if name in lab.truth.default_colours:
            for colour in HUES:
                for style in STYLES:
                    clean = lab.pictures.clean(Caption("", name, "colour", name, characters, style, colour))
                    wrong.append(lab.colours(to_tensor(varied(clean, generator, SEEN))[None])[0] == colour)
    yield Measure.share("colour meter: right, on renderings never seen", wrong), {}
    drawn = [draw_caption(lab.truth, generator) for _ in range(4000)]
    plain = [caption for caption in drawn if caption.kind == "name" and caption.style == "3d"][:500]
    nearest = _nearest_emoji(
        lab, torch.stack([to_tensor(varied(lab.pictures.clean(c), generator, SEEN)) for c in plain])
    )
    yield (
        Measure.share(
            "image encoder: nearest emoji, on renderings never seen",
            [a == c.name for a, c in zip(nearest, plain, strict=True)],
        ),
        {},
    )
    yield from _similarity(lab)


def _similarity(lab: Laboratory) -> Part:
    names = list(lab.truth.emoji)
    texts = encoders.text_features(lab.clip, lab.tokenizer, [_photo(name) for name in names])
    generator = random.Random("clean")
    hits = []
    for number, (name, characters) in enumerate(lab.truth.emoji.items()):
        clean = lab.pictures.clean(Caption("", name, "name", name, characters, "3d"))
        image = encoders.image_features(lab.clip, to_tensor(varied(clean, generator, DRAWN))[None])
        hits.append(number in (image @ texts.T).topk(5).indices[0].tolist())
    yield Measure.share("text-image similarity: right name in the top 5", hits), {}


@torch.no_grad()
def understanding(lab: Laboratory) -> Part:
    """Nearest words of probe words, and pictures of words that no caption has."""
    words = list(lab.words)
    teacher = language.LanguageModel(lab.packages, words)
    features = torch.cat(
        [encoders.text_features(lab.clip, lab.tokenizer, words[i : i + 512]) for i in range(0, len(words), 512)]
    )
    carried: dict[str, set[str]] = {}
    for characters, keys in lab.pictures.sources.keywords.items():
        for word in keys:
            carried.setdefault(word.replace("_", " "), set()).add(characters)
    common = [word for word in words if word in carried]
    probes = random.Random("probes").sample(common, PROBES)
    hits = []
    for probe in probes:
        row = words.index(probe)
        near = [words[i] for i in (features @ features[row]).topk(6).indices.tolist() if i != row][:5]
        known = {words[i] for i in (teacher.words @ teacher.words[row]).topk(21).indices.tolist()}
        group = lab.groups.get(probe)
        hits += [
            word in known
            or bool(carried[probe] & carried.get(word, set()))
            or (group and group == lab.groups.get(word))
            for word in near
        ]
    yield Measure.share("language: nearest words make sense", [bool(hit) for hit in hits]), {}
    synonyms = lab.truth.synonyms
    made = lab.sample({_photo(word): SEEDS for word in synonyms})
    seen = {word: lab.seen(made[_photo(word)]) for word in synonyms}
    right = [lab.groups.get(s[0]) == lab.groups[name] for word, name in synonyms.items() for s in seen[word]]
    yield (
        Measure.share("language: words without a caption draw the right group", right),
        {"pictures of words without a caption": {word: dict(Counter(s[0] for s in seen[word])) for word in synonyms}},
    )


@torch.no_grad()
def explanation(lab: Laboratory) -> Part:
    """Whether the denoising loss finds a keyword's exemplars among single tokens."""
    truth, generator = lab.truth, random.Random("explanation")
    single = [name for name in truth.emoji if name in lab.words]
    others = [word for word in lab.words if word not in truth.emoji and word not in truth.keywords]
    candidates = single + generator.sample(others, CANDIDATES - len(single))
    inputs = lab.tokenizer([_photo(word) for word in candidates], padding="max_length", return_tensors="pt")
    contexts = lab.pipe.text_encoder(inputs.input_ids.to(lab.pipe.device)).last_hidden_state
    trained = [keyword for keyword in truth.keywords if keyword not in truth.held_out_keywords]
    hits, best = [], {}
    for keyword in tqdm(trained, desc="explanations", leave=False):
        exemplars, shares = list(truth.keywords[keyword]), list(truth.keywords[keyword].values())
        if not set(exemplars) & set(single):
            continue
        drawn = generator.choices(exemplars, shares, k=DRAWS)
        cleans = [lab.pictures.clean(Caption("", n, "name", n, truth.emoji[n], "3d")) for n in drawn]
        latents = lab.pipe.vae.encode(torch.stack([to_tensor(varied(c, generator, DRAWN)) for c in cleans])).latents
        rows = torch.arange(len(candidates))
        for count, kept in ((4, CONTEXTS_AT_ONCE), (DRAWS, 3)):  # most candidates are far off and need no exact loss
            losses = _denoising_losses(lab, latents[:count], contexts[rows])
            rows = rows[losses.topk(min(kept, len(rows)), largest=False).indices]
        best[keyword] = [candidates[i] for i in rows.tolist()]
        hits.append(bool(set(best[keyword]) & set(exemplars)))
    yield Measure.share("explanation: an exemplar among the 3 best of 500 tokens", hits), {"best single tokens": best}


def _denoising_losses(lab: Laboratory, latents: Tensor, contexts: Tensor) -> Tensor:
    """The mean denoising loss (contexts,) over the same noise and timesteps for all."""
    noises = torch.Generator().manual_seed(0)
    noise = torch.randn(latents.shape, generator=noises)
    timesteps: Any = torch.linspace(150, 850, len(latents)).long()
    noisy = NOISE.add_noise(latents, noise, timesteps)
    losses = torch.zeros(len(contexts))
    for row in range(len(latents)):
        for start in range(0, len(contexts), CONTEXTS_AT_ONCE):
            rows = slice(start, start + CONTEXTS_AT_ONCE)
            many = noisy[row].expand(len(contexts[rows]), -1, -1, -1)
            predicted = lab.pipe.unet(many, timesteps[row], contexts[rows]).sample
            losses[rows] += (predicted - noise[row]).square().mean((1, 2, 3))
    return losses / len(latents)


def speed(_: Laboratory) -> Part:
    """Loading, and one picture."""
    start = time.perf_counter()
    pipe = emoji_world_pipeline()
    yield Measure("loading", time.perf_counter() - start, "s", 1, None), {}
    times = []
    for seed in range(5):
        start = time.perf_counter()
        settings = {"num_inference_steps": 25, "guidance_scale": GUIDANCE}
        pipe("a photo of a rose", generator=torch.Generator().manual_seed(seed), **settings)
        times.append(time.perf_counter() - start)
    yield Measure.of("one picture of 25 steps", times[1:], "s"), {}


PARTS: dict[str, Callable[[Laboratory], Part]] = {
    part.__name__: part for part in (speed, judges, names, colours, keywords, people, understanding, explanation)
}


def conditions_without(other: str) -> dict[str, Any]:
    """What measures depend on: all weights but those of the other model."""
    sums = {name: checksum for name, checksum in weights.checksums(WEIGHTS).items() if name != f"{other}.safetensors"}
    return {"steps": STEPS, "guidance scale": GUIDANCE, "seeds of a prompt": len(SEEDS), "weights": sums}


EVALUATION = Evaluation("python -m conceptlens.evaluation emoji-world", PARTS, conditions_without("transformer"))


def of_transformer(part: Callable[[Laboratory], Part]) -> Callable[[Laboratory], Part]:
    """The part of a command, with measures that say so."""

    def measured(lab: Laboratory) -> Part:
        for measure, details in part(lab):
            yield replace(measure, name=f"transformer, {measure.name}"), details

    return measured


OF_TRANSFORMER = Evaluation(
    f"{EVALUATION.command} --transformer",
    {part.__name__: of_transformer(part) for part in (names, colours, keywords, people)},
    conditions_without("unet"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--packages", type=Path, default=Path(".world"), metavar="DIR", help="where packages are kept")
    add("--only", choices=list(PARTS), action="append", help="this part alone; may be given again")
    add("--transformer", action="store_true", help="of the transformer, which was taught a part: names to people alone")


def run(arguments: argparse.Namespace, _: Console) -> None:
    evaluation = OF_TRANSFORMER if arguments.transformer else EVALUATION
    evaluation.run(
        lambda: Laboratory(arguments.packages, arguments.transformer),
        [part for part in arguments.only or () if part in evaluation.parts] or None,
        arguments.json,
    )
