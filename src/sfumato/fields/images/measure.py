"""`sfumato evaluate`: samples against training data, beside the floor that real held-out data sets."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from sfumato.errors import check
from sfumato.jobs import plots
from sfumato.jobs.evaluate import CURVE_SAMPLES, MOST, draw_samples, likelihood, quality, spread_out, stacked
from sfumato.jobs.flags import arg
from sfumato.jobs.model import Model
from sfumato.jobs.report import Report, Saves
from sfumato.training.run import RunError

if TYPE_CHECKING:
    from torch import Tensor

    from sfumato.data import Statistics
    from sfumato.metrics.likelihood import Levels
    from sfumato.metrics.table import Remember, Row

LEAST = 12


@dataclass(frozen=True)
class Measure:
    """What `sfumato evaluate` can be asked of pictures and other items."""

    data: Path | None = None
    """Real pictures that were not trained on (default: those the run held out)."""
    n: Annotated[int | None, arg(aliases=["-n"])] = None
    """How many samples (default: as many as there are real ones, at most 2000)."""
    samples: Path | None = None
    """Measure these pictures instead of drawing samples."""
    features: str = "auto"
    """Space of the distances: auto (patches for pictures, pca for the rest), patches, pca, raw, imagenet (a network from a
    package, extra `features`), or a network of your own as a .onnx file."""
    inception: Path | None = None
    """File of the Inception weights of 2015, for FID and KID by the letter (pt_inception-2015-12-05-6726825d.pth)."""
    inception_sha: str | None = None
    """SHA-256 of that file, if it is a copy in another format."""
    bits: int = 32
    """Held-out items whose likelihood is measured; 0 for none."""
    quick: bool = False
    """Leave out what takes many calls of the network: likelihood, and quality against steps."""

    def __post_init__(self) -> None:
        check(
            self,
            (self.n is None or self.n >= 1, "n", "at least 1"),
            (self.bits == 0 or self.bits >= 2, "bits", "0, or 2 items or more"),
            (self.inception_sha is None or self.inception, "inception_sha", "given with inception"),
        )


def read_pictures(folder: Path, statistics: Statistics, budget: float, learned: str) -> Tensor:
    """Pictures of a folder (or an array file) as the run saw its own: same side, same standardisation.

    ``budget`` is the share of broken files that is let pass, ``learned`` the name of what the run was trained on.
    """
    import tempfile

    from sfumato.data import ArrayDataset, check_budget, gather, open_array, scan

    if folder.suffix.lower() in (".npy", ".npz"):
        return stacked(ArrayDataset(open_array(folder).x, statistics, names=folder.name))
    shape = statistics.shape
    if len(shape) != 3 or shape[0] != 3 or shape[1] != shape[2]:
        raise RunError(f"{folder}: this run learned items of shape {shape} from {learned}; give a .npy or .npz file")
    found = scan(folder)
    check_budget(found, budget)
    kept = [i for i, path in enumerate(found.files) if path != folder / "grid.png"]  # the sheet beside the samples
    found = dataclasses.replace(
        found, files=tuple(found.files[i] for i in kept), digests=tuple(found.digests[i] for i in kept)
    )
    with tempfile.TemporaryDirectory() as temporary:
        array = gather(found, shape[1], Path(temporary) / "pictures.npy")
        return stacked(ArrayDataset(array, statistics))


def features_for(train: Tensor) -> Any:
    """The feature map that samples are compared in: patch statistics for pictures, main axes for the rest."""
    from sfumato.data.sheet import is_picture
    from sfumato.metrics.features import PCA, Patches

    if is_picture(tuple(train.shape[1:])) and min(train.shape[2:]) >= 6:
        return Patches.fit(train)
    return PCA.fit(train, min(64, len(train) - 1, train[0].numel()))


def evaluate(model: Model, measure: Measure, ask: Any) -> Report:
    """Samples against training data, beside the floor that real held-out data set.

    What depends on real data alone is kept in the run under a hash of it, and not worked out again.
    Raises RunError, DataError, MetricError.
    """
    from sfumato.metrics import spaces
    from sfumato.metrics.cache import cached
    from sfumato.metrics.table import compare

    recipe: Any = model.recipe
    facts, data = model.facts, recipe.open(model.run)
    train = stacked(data.train)
    own = facts.statistics, recipe.broken_budget, recipe.data.name
    held_out = spread_out(data.held_out, MOST) if measure.data is None else {"x": read_pictures(measure.data, *own)}
    real = held_out["x"]
    if len(real) < LEAST:
        raise RunError(f"{len(real)} held-out items are too few to measure with: give at least {LEAST} with --data")
    fresh = measure.samples is None
    if measure.samples is None:
        fake = draw_samples(model, measure.n or min(len(real), MOST), ask=ask)
    else:
        fake = read_pictures(measure.samples, *own)
    if len(fake) < LEAST:
        raise RunError(f"{len(fake)} samples are too few to be measured: at least {LEAST} are needed")

    remember: Remember = partial(cached, model.run.cache / "reference")
    restore = partial(restored, facts)
    space = spaces.choose(measure.features, train, restore, remember)
    known, held = (space.remembered(x, remember) for x in (train, real))
    rows = compare(space(fake), known, held, remember=remember)
    about: dict[str, Any] = {"features": space.name, "data": str(measure.data or "held out")}
    if not fresh:
        about["samples"] = str(measure.samples)
    if measure.inception:
        more, checksum = fid(measure.inception, measure.inception_sha, fake, train, real, restore, remember)
        rows, about = rows + more, {**about, "inception_sha256": checksum}
    curve: list[dict[str, float]] = []
    levels: dict[str, Levels] = {}
    if fresh and not measure.quick:
        curve = quality(model, space, known, ask, min(CURVE_SAMPLES, len(fake)))
        bin_width = 2 / 255 / facts.spread if facts.bytes else None
        unit = 0.0 if facts.bytes else math.log2(facts.spread)  # a density is per unit of the data's own numbers
        more, levels = likelihood(model, data.train, held_out, measure.bits, bin_width, unit)
        rows += more
    about["quality_against_steps"] = curve
    about["loss_by_level"] = {name: plots.level_curve(of) for name, of in levels.items()}
    pictures: dict[str, Any] = {}
    if facts.pictures:
        floor = next(row.floor for row in rows if row.metric == "kernel_distance")
        drawn = partial(report, fake, train, real, restore, curve, floor, about["loss_by_level"])
        pictures = {"report.png": Saves(drawn)}
    notes = [f"features: {space.name}", *remarks(rows, fresh, model, measure)]
    return Report(tuple(rows), tuple(notes), pictures, about)


def restored(facts: Any, x: Tensor) -> Tensor:
    """Items in the numbers of the data."""
    raw: Tensor = x * facts.spread + facts.mean
    return raw


def fid(
    path: Path, checksum: str | None, fake: Tensor, train: Tensor, real: Tensor, restore: Any, remember: Remember
) -> tuple[tuple[Row, ...], str]:
    """Rows of FID and KID, and the checksum of the weights. Raises MetricError for another file than is asked for."""
    from sfumato.metrics import inception
    from sfumato.metrics.spaces import Space, restore_key
    from sfumato.metrics.table import inception_rows

    network = inception.load(path, checksum or inception.CHECKSUM)
    space = Space("inception", lambda x: network(restore(x)), ("inception", network.checksum, restore_key(restore)))
    known, held = (space.remembered(x, remember) for x in (train, real))
    return inception_rows(space(fake), known, held, remember=remember), network.checksum


def remarks(rows: Sequence[Row], fresh: bool, model: Model, measure: Measure) -> list[str]:
    """What the numbers say, in words, where they say it clearly; and what was not measured."""
    by = {row.metric: row for row in rows}
    found = []
    copied, ratio = by["copied"], by["memorisation_ratio"]
    if copied.low > 0.05:
        found.append(
            f"MEMORISED: {copied.value:.0%} of the samples are as close to a training item as the closest 1% of held-out "
            f"items are; nearest distance {ratio.value:.2g} times the usual"
        )
    kernel, told = by["kernel_distance"], by.get("classifier_accuracy")
    assert kernel.floor is not None
    if kernel.low <= kernel.floor and (told is None or told.low <= max(0.5, told.floor or 0)):
        found.append(
            f"at the floor: {kernel.n} samples cannot be told from real held-out items by kernel distance"
            + (" or classifier" if told else "")
        )
    if "frechet_infinity" in by:
        found.append("frechet_infinity: without the bias of finite counts, on as many main axes as they carry")
    elbo = next((row for row in rows if row.metric.endswith("_elbo")), None)
    if elbo:
        what = "-log2 P, bytes" if elbo.metric.startswith("bits") else "-log2 of the density, in the data's own units"
        found.append(
            f"{elbo.metric.removesuffix('_elbo')}: upper bounds on {what}, per number, on held-out items: of ancestral sampling "
            "(elbo, from the loss by noise level) and of the probability flow; their floor, the data's entropy, is unknown"
        )
    elif fresh:
        reason = "--quick" if measure.quick else "a flow map has none" if model.adaptations else "its process has none"
        found.append(f"likelihood: not measured ({reason})")
    return found


def report(
    fake: Tensor, train: Tensor, real: Tensor, restore: Any, curve: Sequence[dict[str, float]], floor: float | None,
    levels: dict[str, Any], path: Path, shown: int = 12,
) -> None:  # fmt: skip
    """report.png: samples, the training picture nearest to each, real held-out pictures; and the curves there are.

    Without matplotlib the three rows of pictures alone.
    """
    import torch

    from sfumato.data.sheet import sheet, to_bytes
    from sfumato.metrics.coverage import nearest

    some = fake[torch.arange(min(shown, len(fake))) * len(fake) // min(shown, len(fake))]
    _, which = nearest(some.flatten(1).double(), train.flatten(1).double())
    chosen = real[torch.arange(len(some)) * len(real) // len(some)]
    strips = {"samples": some, "nearest in training": train[which], "real, held out": chosen}
    pictures = {name: to_bytes(restore(x).float().cpu().numpy()) for name, x in strips.items()}
    if plots.available():
        plots.report(pictures, curve, floor, levels, path)
    else:
        sheet([each for strip in pictures.values() for each in strip], columns=len(some), least=900).save(path)
