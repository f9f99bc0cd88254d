"""`hspace`: directions in the bottleneck of a diffusers model, text-to-image or unconditional.

Under `accelerate launch` or `torchrun` the processes draw samples, and look at seeds, together in one --out folder.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from ...core import storage
from ...core.errors import UserError
from ...core.hspace.directions import HSpaceDirections, Position, check_window, disentangled
from ...core.hspace.parsing import counted, percents, two_texts
from ...core.hspace.samples import HSpaceSamples, joined
from ...core.model.protocols import Progress
from ..terminal.console import Console
from ..terminal.options import (
    add_json_option,
    add_model_options,
    add_sampling_options,
    asked,
    check_ending,
    check_folder,
    open_model,
    sampling_of,
    seeds_of,
)

if TYPE_CHECKING:
    from torch import Tensor

    from ...pipelines.bottleneck import DiffusersBottleneck

IN_MEMORY = 2 << 30  # bytes of samples; beyond them PCA takes up one file after the other
SCALES = (-2.0, -1.0, 0.0, 1.0, 2.0)
FEATURES = "picture features"  # the kind of the files beside those of samples


def add_arguments(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(
        work: Callable[..., None], drawing: bool, out: str, ending: str | None = None
    ) -> argparse.ArgumentParser:
        assert work.__doc__
        found = commands.add_parser(work.__name__.replace("_", "-"), help=work.__doc__, description=work.__doc__)
        found.set_defaults(work=work, ending=ending)
        if drawing:
            add_model_options(found)
            found.add_argument("--prompt", metavar="TEXT", help="what is drawn; an unconditional model takes none")
            add_sampling_options(found)
        found.add_argument("--out", type=Path, required=True, metavar="PATH", help=out)
        add_json_option(found)
        return found

    def add_position(parser: argparse.ArgumentParser) -> None:
        places = get_args(Position)
        parser.add_argument("--position", choices=places, default="after", help="of the middle block (default after)")

    sampling = command(sample, True, "folder for samples, and pictures with their numbers")
    sampling.add_argument("--samples", type=int, default=100, metavar="N", help="from --seed on (default 100)")
    add_position(sampling)

    components = command(pca, False, "directions file to write (.safetensors); a chart goes beside it", ".safetensors")
    components.add_argument("samples", type=Path, metavar="DIR", help="what `sample` has made")
    components.add_argument("--components", type=int, default=10, metavar="N", help="directions (default 10)")
    components.add_argument("--joint", action="store_true", help="of whole trajectories, not of each noise level")

    derivative = command(jacobian, True, "folder for a directions file and a chart of each seed")
    add = derivative.add_argument
    add("--components", type=int, default=3, metavar="N", help="directions (default 3)")
    add("--iterations", type=int, default=50, metavar="N", help="at most, at each noise level (default 50)")
    add("--tolerance", type=float, default=1e-4, help="residual over the largest singular value (default 1e-4)")
    add("--mask", type=Path, metavar="PNG", help="white where the picture is looked at")
    add("--at", default="all", metavar="PARTS", help="parts of the sampling between commas: 0.2,0.5 (default all)")
    add_position(derivative)

    difference = command(contrast, False, "directions file to write (.safetensors)", ".safetensors")
    add = difference.add_argument
    add("positive", type=Path, metavar="DIR", help="samples with what the direction shall bring")
    add("negative", type=Path, metavar="DIR", help="samples without it; may be the same folder")
    add("--positive-pictures", metavar="NUMBERS", help="some of the first, between commas (default all)")
    add("--negative-pictures", metavar="NUMBERS", help="some of the second (default all)")
    add("--without", type=Path, action="append", default=[], metavar="FILE", help="directions to take out (repeatable)")

    ranking = command(contrast_by_text, False, "directions file to write (.safetensors)", ".safetensors")
    add_model_options(ranking)
    add = ranking.add_argument
    add("samples", type=Path, metavar="DIR", help="what `sample` has made with a model that has an image encoder")
    add("--positive-text", required=True, metavar="TEXT", help="what the direction shall bring")
    add("--negative-text", required=True, metavar="TEXT", help="what it leads away from")
    add("--count", type=int, default=10, metavar="N", help="pictures at each end (default 10)")
    add(
        "--balance", default="", metavar="TEXTS", help='both ends alike in this: "a man, a woman" (default: no balance)'
    )

    along = command(apply, True, "picture to write (.png): a row a seed, a column a scale", ".png")
    add = along.add_argument
    add("--directions", type=Path, required=True, metavar="FILE", help="what another command has made")
    add("--index", type=int, default=0, metavar="N", help="which of them (default 0)")
    add("--scale", type=float, action="append", default=[], help="strength (repeatable; default -2 -1 0 1 2)")
    add("--start", type=float, default=0.0, help="part of the sampling from which on it counts (default 0)")
    add("--end", type=float, default=1.0, help="until where (default 1)")
    add("--positive-only", action="store_true", help="not for the negative prompt, so that guidance multiplies it")
    add("--asymmetric", action="store_true", help="for the predicted picture only (Asyrp)")
    add("--eta", type=float, default=0.0, help="share of DDPM's noise in each step (default 0)")


def run(arguments: argparse.Namespace, console: Console) -> None:
    from ...pipelines.loading import check_loras

    if arguments.ending:
        check_ending("--out", arguments.out, arguments.ending)
    else:
        check_folder("--out", arguments.out)
    check_loras(getattr(arguments, "lora", ()))
    arguments.work(arguments, console)


def sample(arguments: argparse.Namespace, console: Console) -> None:
    """Draws pictures and keeps what the bottleneck holds; a killed run goes on."""
    from ...core.pictures.grid import labelled_grid, save_picture
    from ...pipelines.studio import image_features, portions
    from ..terminal.processes import Processes

    _at_least_1(arguments, "samples")
    sampling, seeds = sampling_of(arguments), seeds_of(arguments, arguments.samples)
    processes = Processes()
    console.bars = processes.first
    processes.check_shared(arguments.out)
    made_by = {
        **asked(arguments, "prompt", "steps", "size"),
        "cfg": sampling.guidance_scale,
        "seed": seeds[0],
    }
    work = {
        arguments.out / f"samples-{numbers[0]:06}.safetensors": numbers
        for numbers in processes.share(portions(range(arguments.samples)))
    }
    pending = {
        file: numbers for file, numbers in work.items() if not _there(file, made_by, arguments.position, len(numbers))
    }
    bottleneck = _bottleneck(arguments, processes.device)
    with console.progress("sampling pictures") as progress:
        for number, (file, numbers) in enumerate(pending.items(), start=1):
            own = [seeds[number] for number in numbers]
            found, latents = bottleneck.record(own, sampling.num_inference_steps, arguments.position, made_by)
            drawn = bottleneck.pictures(latents)
            save_picture(labelled_grid([*drawn], list(map(str, numbers)), columns=4), file.with_suffix(".png"))
            if (features := image_features(bottleneck.pipe, drawn)) is not None:
                storage.write(_beside(file), {"features": features}, {"kind": FEATURES, "version": 1})
            found.save(file)
            progress(number, len(pending))
    processes.meet()
    if processes.first:
        files = _files(arguments.out)
        console.line(f"{arguments.samples} samples in {len(files)} files in {arguments.out}")
        console.result({"samples": arguments.samples, "files": list(map(str, files))})


def pca(arguments: argparse.Namespace, console: Console) -> None:
    """The directions in which samples differ most, by principal component analysis."""
    from ...core.hspace import pca as analysis
    from ...core.pictures.grid import save_picture
    from ...core.pictures.hspace_charts import variance_chart

    _at_least_1(arguments, "components")
    files = _files(arguments.samples)
    parts = map(HSpaceSamples.load, files)
    if sum(file.stat().st_size for file in files) <= IN_MEMORY:
        found, shares = analysis.pca(joined(list(parts)), arguments.components, not arguments.joint)
    else:
        found, shares = analysis.incremental_pca(parts, arguments.components, not arguments.joint)
    save_picture(variance_chart(found, shares), arguments.out.with_suffix(".png"))
    explained = [round(share, 4) for share in shares.mean(1).tolist()]
    console.line(f"shares of the variance, mean over noise levels: {explained}")
    _keep(found, arguments.out, console, {"shares": explained})


def jacobian(arguments: argparse.Namespace, console: Console) -> None:
    """The directions that change one picture, or a part of it, most: singular vectors of the decoder's Jacobian."""
    from ...core.hspace.jacobian import Half, jacobian_directions, nearest_levels
    from ...core.pictures.grid import save_picture
    from ...core.pictures.hspace_charts import values_chart
    from ..terminal.processes import Processes

    _at_least_1(arguments, "components", "iterations")
    _finite(arguments, "tolerance")
    sampling, seeds, wanted = sampling_of(arguments), seeds_of(arguments), percents(arguments.at)
    steps = sampling.num_inference_steps
    processes = Processes()
    console.bars = processes.first
    processes.check_shared(arguments.out)
    mask = None if arguments.mask is None else _read_mask(arguments.mask)
    bottleneck = _bottleneck(arguments, processes.device)
    bottleneck.unet.float()  # as the host has it: half precision does not bear derivatives of derivatives
    levels = every = bottleneck.sigmas(steps)[:-1].tolist()
    if wanted is not None:
        levels = nearest_levels(every, [bottleneck.sigma_at(part) for part in wanted])
    made_by = {
        "method": "jacobian",
        "prompt": arguments.prompt,
        "steps": steps,
        "masked": bool(arguments.mask),
    }
    results, count = {}, arguments.iterations
    for seed in processes.share(seeds):
        visited: list[Tensor] = []
        bottleneck.draw([seed], steps, watch=lambda _, x, __, to=visited: to.append(x))
        halves = (
            Half(sigma, *bottleneck.halves(x, sigma, arguments.position))
            for sigma, x in zip(every, visited, strict=True)
            if sigma in levels
        )
        with console.progress(f"seed {seed}") as progress:

            def watch(found: Sequence[Any], iterated: int, show: Progress = progress) -> None:
                show(len(found) * count + iterated, len(levels) * count)

            directions = jacobian_directions(
                halves,
                components=arguments.components,
                iterations=count,
                tolerance=arguments.tolerance,
                mask=mask,
                bottleneck=bottleneck,
                position=arguments.position,
                made_by={**made_by, "seed": seed},
                watch=watch,
            )
        file = arguments.out / f"seed-{seed}.safetensors"
        save_picture(values_chart(directions), file.with_suffix(".png"))
        directions.save(file)
        console.line(str(file))
        results[str(seed)] = str(file)
    console.result(results)


def contrast(arguments: argparse.Namespace, console: Console) -> None:
    """The direction from the mean of some samples to that of others."""
    from ...core.hspace.contrast import contrast

    sides = []
    for folder, chosen in (
        (arguments.positive, arguments.positive_pictures),
        (arguments.negative, arguments.negative_pictures),
    ):
        samples = joined([HSpaceSamples.load(file) for file in _files(folder)])
        try:
            sides.append(samples if chosen is None else samples.chosen(counted(chosen)))
        except UserError as error:
            raise UserError(f"{folder}: {error}") from error
    found = contrast(*sides)
    if not found.shifts.any():
        raise UserError("Both sets are the same, so that nothing leads from one to the other; choose other pictures.")
    for file in arguments.without:
        found = disentangled(found, HSpaceDirections.load(file))
    _keep(found, arguments.out, console, {})


def contrast_by_text(arguments: argparse.Namespace, console: Console) -> None:
    """The direction to the pictures that one text fits better than another, from those that it fits worse."""
    import torch

    from ...core.conceptor.vocabulary import zero_shot_features
    from ...core.hspace.contrast import contrast_by_text
    from ...pipelines.adapter import DiffusersTextEncoder

    _at_least_1(arguments, "count")
    balance = two_texts(arguments.balance)
    files = _files(arguments.samples)
    pictures = torch.cat([_features(file) for file in files])
    samples = joined([HSpaceSamples.load(file) for file in files])
    encoder = DiffusersTextEncoder(open_model(arguments))
    wanted = [arguments.positive_text, arguments.negative_text, *balance]
    texts = zero_shot_features(encoder, encoder.towers()[-1], wanted, pictures)
    found, high, low = contrast_by_text(samples, pictures, texts[:2], texts[2:], arguments.count)
    console.line(f"from the pictures {low} to {high}")
    _keep(found, arguments.out, console, {"positive": high, "negative": low})


def apply(arguments: argparse.Namespace, console: Console) -> None:
    """Draws pictures along a direction."""
    from ...core.pictures.grid import labelled_grid, save_picture
    from ...pipelines.studio import portions

    _finite(arguments, "scale", "start", "end", "eta")
    if not 0 <= arguments.eta <= 1:
        raise UserError(f"--eta is {arguments.eta}; it is a share of DDPM's noise: give 0 to 1.")
    check_window(arguments.start, arguments.end)
    sampling, seeds, scales = sampling_of(arguments), seeds_of(arguments), arguments.scale or SCALES
    how = {"num_inference_steps": sampling.num_inference_steps, "eta": arguments.eta}
    directions, bottleneck = HSpaceDirections.load(arguments.directions), _bottleneck(arguments)
    window = {"start": arguments.start, "end": arguments.end, "positive_only": arguments.positive_only}
    columns = []
    with console.progress("sampling pictures") as progress:
        for number, scale in enumerate(scales, start=1):
            with bottleneck.shifted(directions, arguments.index, scale, **window):
                pictures = [
                    bottleneck.pictures(bottleneck.draw(some, asymmetric=arguments.asymmetric, **how))
                    for some in portions(seeds)
                ]
            columns.append([picture for some in pictures for picture in some])
            progress(number, len(scales))
    rows = [picture for row in zip(*columns, strict=True) for picture in row]
    labels = [f"{scale:g}" for _ in seeds for scale in scales]
    save_picture(labelled_grid(rows, labels, columns=len(scales)), arguments.out)
    console.line(str(arguments.out))
    console.result({"picture": str(arguments.out), "scales": list(scales)})


def _bottleneck(arguments: argparse.Namespace, device: str | None = None) -> DiffusersBottleneck:
    from ...pipelines.adapter import Pipeline
    from ...pipelines.bottleneck import DiffusersBottleneck
    from ...pipelines.loading import load_loras
    from ..terminal.models import load_any_pipeline

    pipe = load_any_pipeline(arguments.model, device)
    if arguments.lora and isinstance(pipe, Pipeline):
        load_loras(pipe, arguments.lora)
    return DiffusersBottleneck(pipe, arguments.prompt, arguments.guidance_scale, arguments.size)


def _at_least_1(arguments: argparse.Namespace, *names: str) -> None:
    for name in names:
        if getattr(arguments, name) < 1:
            raise UserError(f"--{name} is {getattr(arguments, name)}; it has to be at least 1.")


def _finite(arguments: argparse.Namespace, *names: str) -> None:
    for name in names:
        value = getattr(arguments, name)
        if not all(map(math.isfinite, value if isinstance(value, list) else [value])):
            raise UserError(f"--{name} is {value}; give a finite number.")


def _files(folder: Path) -> list[Path]:
    if files := sorted(folder.glob("samples-*.safetensors")):
        return files
    raise UserError(f"{folder} holds no samples; make them with the command hspace sample.")


def _beside(file: Path) -> Path:
    """Where the image encoder's features of the pictures of a file of samples are."""
    return file.with_name(file.name.replace("samples", "features"))


def _features(file: Path) -> Tensor:
    """The features (pictures, width) that `sample` has kept beside a file of samples."""
    beside = _beside(file)
    if not beside.exists():
        raise UserError(
            f"{beside} is not there, because the samples were drawn with a model without an image encoder; draw them "
            "with one that has it, or choose the pictures with hspace contrast --positive-pictures."
        )
    kept, _ = storage.read(beside, FEATURES, 1, ("features",))
    storage.check_numbers(beside, {"features": 2}, kept)
    return kept["features"]


def _there(file: Path, made_by: dict[str, object], position: Position, count: int) -> bool:
    """Whether an earlier run has made these samples. Raises UserError when that run made others."""
    if not file.exists():
        return False
    found = HSpaceSamples.load(file)
    if (found.made_by, found.position, len(found)) == (made_by, position, count):
        return True
    raise UserError(
        f"{file} holds {len(found)} samples, {found.position} the middle block, of {found.made_by}; {count}, "
        f"{position} it, of {made_by} were to be drawn: remove it, or choose another --out."
    )


def _read_mask(file: Path) -> Tensor:
    """A picture's brightness, (height, width)."""
    from PIL import Image, UnidentifiedImageError

    from ...core.pictures.grid import from_pil

    try:
        picture = from_pil(Image.open(file).convert("RGB")).mean(2)
    except (OSError, UnidentifiedImageError) as error:
        raise UserError(f"{file} can't be read as a picture ({error}); give a PNG file.") from error
    return picture


def _keep(directions: HSpaceDirections, out: Path, console: Console, said: dict[str, object]) -> None:
    directions.save(out)
    console.line(str(out))
    console.result({"directions": str(out), "count": len(directions), **said})
