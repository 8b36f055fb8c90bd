"""`sfumato evaluate`: samples against training data, beside the floor that real held-out data sets."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from sfumato.errors import check
from sfumato.fields.images.facts import PictureFacts
from sfumato.fields.images.reading import read_pictures
from sfumato.jobs import plots
from sfumato.jobs.evaluate import CURVE_SAMPLES, MOST, draw_samples, likelihood, quality, shuffled, spread_out, stacked
from sfumato.jobs.flags import arg
from sfumato.jobs.model import Model
from sfumato.jobs.report import Report, Saves
from sfumato.jobs.watched import watched
from sfumato.training.run import RunError

if TYPE_CHECKING:
    from torch import Tensor

    from sfumato.diffusion import Blanks
    from sfumato.jobs.recipe import Data
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
    """Space of the distances: auto (patches for pictures, pca for the rest), patches, pca, raw, waves, imagenet (a network from a
    package, extra `features`), or a network of your own as a .onnx file. A second space is always measured beside it."""
    inception: Path | None = None
    """File of the Inception weights of 2015, for FID and KID by the letter, in the safetensors format (docs/images.md)."""
    inception_sha: str | None = None
    """SHA-256 that this file must have, or its first digits; the one found stands beside the numbers in any case."""
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


def features_for(train: Tensor) -> Any:
    """The feature map that samples are compared in: patch statistics for pictures, main axes for the rest."""
    from sfumato.data.sheet import is_picture
    from sfumato.metrics.features import PCA, Patches

    if is_picture(tuple(train.shape[1:])) and min(train.shape[2:]) >= 6:
        return Patches.fit(train)
    return PCA.fit(train, min(64, len(train) - 1, train[0].numel()))


def measurable(model: Model, measure: Measure) -> None:
    """What would be missing at the end: samples enough, a space for these items, packages and files. Raises RunError,
    MetricError."""
    import torch

    from sfumato.metrics import inception, spaces

    if measure.samples is None and measure.n is not None and measure.n < LEAST:
        raise RunError(f"{measure.n} samples are too few to be measured: at least {LEAST} are needed")
    if measure.features not in ("auto", "pca", "patches", "raw", "waves") or (
        measure.features == "patches" and not spaces.is_textured(model.facts.shape)
    ):
        spaces.choose(measure.features, torch.zeros(1, *model.facts.shape), lambda x: x)
    if measure.inception:
        inception.load(measure.inception, measure.inception_sha)


def evaluate(model: Model, measure: Measure, ask: Any) -> Report:
    """Samples against training data, beside the floor that real held-out data set.

    What depends on real data alone is kept in the run under a hash of it, and not worked out again.
    Raises RunError, DataError, MetricError.
    """
    from sfumato.metrics import spaces
    from sfumato.metrics.cache import cached
    from sfumato.metrics.table import compare

    recipe: Any = model.recipe
    facts, data = model.facts, recipe.seen(model.run)
    train = stacked(data.train)
    own = facts, recipe.broken_budget, recipe.data.name
    held_out = spread_out(data.held_out, MOST) if measure.data is None else {"x": read_pictures(measure.data, *own)}
    real = held_out["x"]
    if len(real) < LEAST:
        raise RunError(f"{len(real)} held-out items are too few to measure with: give at least {LEAST} with --data")
    if measure.data is not None and (share := known_share(real, train)) >= 0.5:
        raise RunError(f"{measure.data}: {share:.0%} of it was learned from; give items that the model has not seen")
    fresh = measure.samples is None
    if measure.samples is None:
        count = measure.n or min(len(real), MOST)
        queries = as_held_out(recipe.queries(model, ask, count), ask, data)
        fake = draw_samples(model, count, queries=queries)
        labels = queries.batch(range(count)).get("label")
    else:
        fake, labels = read_pictures(measure.samples, *own), None
    if len(fake) < LEAST:
        raise RunError(f"{len(fake)} samples are too few to be measured: at least {LEAST} are needed")

    remember: Remember = partial(cached, model.run.cache / "reference")
    restore = partial(restored, facts)
    space = watched(spaces.choose(measure.features, train, restore, remember))
    known, held = (space.remembered(x, remember) for x in (train, real))
    rows = compare(space(fake), known, held, remember=remember)
    other = spaces.choose(spaces.beside(space.name, facts.shape), train, restore, remember)
    beside = compare(other(fake), *(other.remembered(x, remember) for x in (train, real)), remember=remember)
    about: dict[str, Any] = {"features": space.name, "data": str(measure.data or "held out")}
    if not fresh:
        about["samples"] = str(measure.samples)
    if measure.inception:
        more, checksum = fid(measure.inception, measure.inception_sha, fake, train, real, restore, remember)
        rows, about = rows + more, {**about, "inception_sha256": checksum}
    curve: list[dict[str, float]] = []
    levels: dict[str, Levels] = {}
    if fresh and not measure.quick:
        curve = quality(model, space, known, queries, min(CURVE_SAMPLES, len(fake)))
        if facts.space is None:
            more, levels = likelihood(model, data.train, held_out, measure.bits, *bins(facts))
            rows += more
    about["quality_against_steps"] = curve
    about["loss_by_level"] = {name: plots.level_curve(of) for name, of in levels.items()}
    pictures: dict[str, Any] = {}
    if facts.pictures:
        floor = next(row.floor for row in rows if row.metric == "kernel_distance")
        shown = chosen(fake, labels, held_out, facts.classes)
        drawn = partial(report, shown, train, restore, curve, floor, about["loss_by_level"])
        pictures = {"report.png": Saves(drawn)}
    notes = [*strange(real, measure.data), *strange(fake, measure.samples)]
    notes += remarks(rows, {other.name: beside}, fresh, model, measure)
    return Report(tuple(rows), tuple(notes), pictures, about, space=space.name, beside={other.name: beside})


def known_share(real: Tensor, train: Tensor) -> float:
    """The share of items (N, ...) that are, number for number, among the training items."""
    known = {row.tobytes() for row in train.numpy()}
    return sum(row.tobytes() in known for row in real.numpy()) / len(real)


def restored(facts: PictureFacts, x: Tensor) -> Tensor:
    """Items (N, *shape) as they are seen: pictures from -1 (black) to 1 (white), others in the numbers of the data."""
    import torch

    from sfumato.data.units import raw_of

    scale = facts.statistics
    mean, spread = (torch.as_tensor(scale.along(ends)).to(x) for ends in (scale.mean, scale.spread))
    raw: Tensor = x * spread + mean
    if facts.exact or not facts.pictures:
        return raw
    black, white = (torch.as_tensor(raw_of(ends, facts.kind)).to(x).reshape(-1, 1, 1) for ends in facts.ends)
    seen: Tensor = (raw - black) / (white - black) * 2 - 1
    return seen


def bins(facts: PictureFacts) -> tuple[float | None, float]:
    """The width of the bins that data lie in, in standard units (None: they are a density), and the bits that are to be added
    for a density per unit of the data's own numbers."""
    if facts.bytes and not facts.each:
        return 2 / 255 / facts.spread, 0.0
    unit = 127.5 if facts.bytes else 1.0
    spreads = [spread for spread in facts.spreads if spread > 0] if facts.each else [facts.spread]
    changing = (
        len(spreads) / len(facts.spreads) if facts.each else 1.0
    )  # what never changes has no density: it adds nothing
    return None, changing * sum(math.log2(unit * spread) for spread in spreads) / len(spreads)


def strange(x: Tensor, source: Path | None, most: float = 10.0) -> list[str]:
    """A word where a file's numbers are far from those learned: x in standard units, of mean 0 and spread 1 if they are alike."""
    if source is None:
        return []
    mean, spread = float(x.double().mean()), float(x.double().std())
    if abs(mean) <= most and 1 / most <= spread <= most:
        return []
    return [
        f"OTHER UNITS? {source}: its numbers have mean {mean:.3g} and spread {spread:.3g} where those learned have 0 and 1; "
        "give them in the units of the data"
    ]


def fid(
    path: Path, checksum: str | None, fake: Tensor, train: Tensor, real: Tensor, restore: Any, remember: Remember
) -> tuple[tuple[Row, ...], str]:
    """Rows of FID and KID, and the checksum of the weights. Raises MetricError for another file than is asked for."""
    from sfumato.metrics import inception
    from sfumato.metrics.spaces import Space, restore_key
    from sfumato.metrics.table import inception_rows

    network = inception.load(path, checksum)
    about = ("inception", network.checksum, restore_key(restore))
    space = watched(Space("inception", lambda x: network(restore(x)), about, slow=True))
    known, held = (space.remembered(x, remember) for x in (train, real))
    return inception_rows(space(fake), known, held, remember=remember), network.checksum


def remarks(
    rows: Sequence[Row], beside: Mapping[str, Sequence[Row]], fresh: bool, model: Model, measure: Measure
) -> list[str]:
    """What the numbers say, in words, where they say it clearly; and what was not measured.

    Every sentence follows from the whole row: the samples' value with its interval, and the floor, which is the same metric
    of held-out items and as uncertain as the interval is wide.
    """
    found = said(rows, beside)
    if any(row.metric == "frechet_infinity" for row in rows):
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
        reason = reason if model.facts.space is None else "it would be that of codes"
        found.append(f"likelihood: not measured ({reason})")
    return found


def said(rows: Sequence[Row], beside: Mapping[str, Sequence[Row]] | None = None) -> list[str]:
    """What the rows say of copies, and of what is at the floor, in this feature space and those ``beside`` it."""
    from sfumato.metrics.intervals import share_interval
    from sfumato.metrics.words import above_floor, alarms

    by = {row.metric: row for row in rows}
    copied, ratio, kernel, told = (
        by.get(name) for name in ("copied", "memorisation_ratio", "kernel_distance", "classifier_accuracy")
    )
    assert copied is not None
    assert ratio is not None
    assert kernel is not None
    assert kernel.floor is not None
    found, usual = [], copied.floor or 0.0
    if memorised := copied.low > max(0.05, usual):
        found.append(
            f"MEMORISED: {copied.value:.0%} of the samples are as close to a training item as the closest 1% of held-out "
            f"items are (of held-out items {usual:.0%}); nearest distance {ratio.value:.2g} times the usual"
        )
    elif share_interval(usual, copied.n)[0] > 0.02:  # 0.01 by definition; beyond the chance of so many items
        found.append(
            f"the data repeat themselves: {usual:.0%} of the held-out items are copies of training items, or nearly"
        )
    far = [row.metric for row in rows if row.metric != "copied" and row.floor is not None and _beyond(row, row.floor)]
    others = [(space, row) for space, of in (beside or {}).items() for row in of]
    far += [f"{row.metric} in {space}" for space, row in others if row.metric == "kernel_distance" and above_floor(row)]
    low = any(map(alarms, (rows, *(beside or {}).values())))
    if not low and kernel.low <= kernel.floor and (told is None or told.low <= max(0.5, told.floor or 0)):
        if far:
            found.append(
                f"kernel distance is at the floor, but not {', '.join(far)}: the samples can be told from real items"
            )
        elif not memorised:
            found.append(
                f"at the floor: {kernel.n} samples cannot be told from real held-out items by kernel distance"
                + (" or classifier" if told else "")
            )
    return found


def _beyond(row: Row, floor: float) -> bool:
    """Whether a row is worse than its floor by more than both can scatter."""
    wide = row.high - row.low
    worse, better = row.low > floor + wide, row.high < floor - wide
    return worse if row.better == "lower" else better if row.better == "higher" else False


def chosen(
    fake: Tensor, labels: Tensor | None, held_out: dict[str, Tensor], classes: Sequence[str], most: int = 12
) -> dict[str, Any]:
    """A fair draw for people: samples, held-out items beside them, and the names of the samples' classes.

    Samples come class by class in turn, at random within each, by a fixed stream; of more classes than places the classes
    are drawn too. Held-out items are of the same classes, as far as there are any.
    """
    some = fair(labels, len(fake), most)
    names = None if labels is None else tuple(classes[int(labels[i])] for i in some)
    known = held_out.get("label")
    if known is None or labels is None:
        real = fair(None, len(held_out["x"]), len(some))
    else:
        order = fair(None, len(known), len(known))
        left = {place: [i for i in order if int(known[i]) == place] for place in {int(labels[i]) for i in some}}
        spare = [i for i in order if int(known[i]) not in left] or order
        real = [
            (rows.pop(0) if len(rows) > 1 else rows[0]) if (rows := left[int(labels[i])]) else spare[n % len(spare)]
            for n, i in enumerate(some)
        ]
    return {"samples": fake[some], "real": held_out["x"][real], "names": names}


def as_held_out(queries: Blanks, ask: Any, data: Data) -> Blanks:
    """The same samples for the classes of held-out items, in random order, unless a class was asked for: classes have unlike
    shares, and samples that have each as often as the others are farther from real items, however good."""
    if "label" not in queries.condition or ask.label is not None:
        return queries
    labels = shuffled(spread_out(data.held_out))["label"]
    return dataclasses.replace(queries, condition={**queries.condition, "label": labels})


def fair(labels: Tensor | None, count: int, most: int) -> list[int]:
    """At most so many of ``count`` rows, in random order; with classes in turn, each as often as the others."""
    import torch

    order = torch.randperm(count, generator=torch.Generator().manual_seed(0)).tolist()
    if labels is None:
        return order[:most]
    rows: dict[int, list[int]] = {}
    for i in order:
        rows.setdefault(int(labels[i]), []).append(i)
    kinds = list(rows)[:most] if len(rows) > most else sorted(rows)
    turns = [rows[kind][turn] for turn in range(most) for kind in sorted(kinds) if turn < len(rows[kind])]
    return turns[:most]


def report(
    shown: dict[str, Any], train: Tensor, restore: Any, curve: Sequence[dict[str, float]], floor: float | None,
    levels: dict[str, Any], path: Path,
) -> None:  # fmt: skip
    """report.png: samples, the training picture nearest to each, real held-out pictures; and the curves there are.

    Without matplotlib the three rows of pictures alone.

    Args:
        shown: what `chosen` gave.
    """
    from sfumato.data.sheet import sheet, to_bytes
    from sfumato.metrics.coverage import nearest

    some = shown["samples"]
    _, which = nearest(some.flatten(1).double(), train.flatten(1).double())
    strips = {"samples": some, "nearest in training": train[which], "real, held out": shown["real"]}
    pictures = {name: to_bytes(restore(x).float().cpu().numpy()) for name, x in strips.items()}
    if plots.available():
        plots.report(pictures, curve, floor, levels, path, shown["names"])
    else:
        sheet([each for strip in pictures.values() for each in strip], columns=len(some), least=900).save(path)
