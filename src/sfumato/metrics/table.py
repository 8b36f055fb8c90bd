"""All metrics of a set of samples at once, each with its interval and its floor."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from sfumato.metrics.cache import content_key
from sfumato.metrics.coverage import ball_rates, checked_k, distance_blocks, nearest, nearness, neighbours
from sfumato.metrics.distances import (
    Distance,
    MetricError,
    checked,
    checked_pair,
    frechet_from,
    kernel_matrix,
    kernel_within,
    sliced_from,
)
from sfumato.metrics.extrapolate import axes_for, frechet_infinity
from sfumato.metrics.features import PCA, Features
from sfumato.metrics.intervals import share_interval
from sfumato.metrics.two_sample import classifier_test

Better = Literal["lower", "higher", "near 1"]
Remember = Callable[[Any, Callable[[], Mapping[str, Tensor]]], Mapping[str, Tensor]]  # key and work -> its result
Statistic = Callable[[Tensor], tuple[float, ...]]  # indexes of some samples -> the metrics of those samples
Prepare = Callable[[Tensor], Statistic]  # all samples (n, d) -> what has been worked out once for any subset of them

MOST = 5000  # samples compared, and reference points compared with, at most: bounds time and memory
PARTS = 100  # random parts of the samples behind each interval,
KEEP = 0.8  # and the share of the samples in each
DEGREE = 3
KINDS: dict[str, tuple[Better, float, float]] = {  # what is better, and the least and most the metric can be
    "frechet_distance": ("lower", 0.0, math.inf),
    "kernel_distance": ("lower", -math.inf, math.inf),
    "sliced_wasserstein": ("lower", 0.0, math.inf),
    "precision": ("higher", 0.0, 1.0),
    "recall": ("higher", 0.0, 1.0),
    "density": ("near 1", 0.0, math.inf),
    "coverage": ("higher", 0.0, 1.0),
    "memorisation_ratio": ("near 1", 0.0, math.inf),
    "copied": ("lower", 0.0, 1.0),
    "frechet_infinity": ("lower", -math.inf, math.inf),
    "classifier_accuracy": ("lower", 0.0, 1.0),
    "fid": ("lower", 0.0, math.inf),
    "kid": ("lower", -math.inf, math.inf),
}
SHARES = ("precision", "copied")  # of the samples, one by one; recall and coverage are shares of the reference


@dataclass(frozen=True)
class Row:
    """One metric. `low` to `high` is a 90% interval for what `n` fresh samples of this model would score on average."""

    metric: str
    value: float
    low: float
    high: float
    floor: float | None  # the same metric of n held-out real items: what a perfect model would score; None: unknowable
    better: Better
    n: int  # samples, and held-out items, compared
    reference: int  # training items they were compared with; 0 where there is no comparison


def forgetful(key: Any, work: Callable[[], Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
    """A `Remember` that keeps nothing. `partial(cache.cached, folder)` is one that does."""
    return work()


def _number(remember: Remember, key: Any, work: Callable[[], float]) -> float:
    return float(remember(key, lambda: {"it": torch.tensor(work(), dtype=torch.float64)})["it"])


def _fixed(make: Callable[[Tensor], Distance], reference: Tensor) -> Prepare:
    distance = make(reference)
    return lambda x: lambda rows: (distance(x[rows]),)


def _kernel(reference: Tensor, remember: Remember = forgetful, key: str = "") -> Prepare:
    within = _number(remember, ("kernel within", DEGREE, key), lambda: kernel_within(reference, DEGREE))

    def of(x: Tensor) -> Statistic:
        own = kernel_matrix(x, x, DEGREE).fill_diagonal_(0)
        cross = torch.cat([kernel_matrix(part, reference, DEGREE).mean(1) for part in x.split(1024)])

        def statistic(rows: Tensor) -> tuple[float]:
            n = len(rows)
            chosen = torch.zeros(len(x), dtype=own.dtype, device=x.device)
            chosen[rows] = 1
            pairs = float(chosen @ own @ chosen) / (n * (n - 1))
            return (pairs + within - 2 * float(cross[rows].mean()),)

        return statistic

    return of


def _balls(reference: Tensor, k: int, remember: Remember, key: str) -> Prepare:
    found = remember(("radius", k, key), lambda: {"radius": neighbours(reference, k)[0][:, -1]})
    real_radius = found["radius"].to(reference.device)

    def of(x: Tensor) -> Statistic:
        cross = torch.cat(list(distance_blocks(x, reference)))
        # A random part keeps most neighbours: the k-th kept one is among these but for odds below 1e-20.
        near, which = neighbours(x, min(len(x) - 1, 8 * k + 24))

        def statistic(rows: Tensor) -> tuple[float, ...]:
            chosen = torch.zeros(len(x), dtype=torch.bool, device=x.device)
            chosen[rows] = True
            rank = chosen[which[rows]].cumsum(1)
            place = (rank < k).sum(1).clamp(max=near.shape[1] - 1)
            radius = near[rows].gather(1, place[:, None])[:, 0]
            rates = ball_rates((cross[part] for part in rows.split(512)), real_radius, radius, k)
            return tuple(rates[name] for name in ("precision", "recall", "density", "coverage"))

        return statistic

    return of


def _nearness(train: Tensor, held_out: Tensor, remember: Remember, key: str) -> Prepare:
    found = remember(("usual distance", key), lambda: {"distance": nearest(held_out, train)[0]})
    usual = found["distance"].to(train.device)

    def of(x: Tensor) -> Statistic:
        own = nearest(x, train)[0]

        def statistic(rows: Tensor) -> tuple[float, float]:
            rates = nearness(own[rows], usual)
            return rates["ratio"], rates["copied"]

        return statistic

    return of


def _subset(x: Tensor, most: int, rng: torch.Generator) -> Tensor:
    """At most `most` rows, drawn rather than cut off: sets are often sorted."""
    return x if len(x) <= most else x[torch.randperm(len(x), generator=rng)[:most].sort().values.to(x.device)]


def interval(value: float, parts: Tensor, n: int) -> tuple[float, float]:
    """90% interval from the metric on random parts, by subsampling (Politis & Romano 1994)."""
    h = int(n * KEEP)
    # A mean over h of n points, drawn without replacement, has variance (1/h)(1 - h/n) about the mean over all n, which
    # itself has variance 1/n: their ratio is h / (n - h).
    root = (parts - parts.mean()) * math.sqrt(h / (n - h))
    low, high = root.quantile(torch.tensor([0.05, 0.95], dtype=root.dtype)).tolist()
    return value - high, value - low


def kernel_distances(samples: Sequence[Tensor], reference: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Kernel distances of several equally long sets of features (N, d) to a reference, for paired comparisons.

    Returns (S,) for the whole sets, and (PARTS, S) for the same random rows of each set: sets made from the same noise
    share most of their chance, so `interval(a - b, parts_a - parts_b, N)` is much narrower than the two intervals.
    """
    sets = [_kernel(reference)(x) for x in samples]
    n = len(samples[0])
    if any(len(x) != n for x in samples):
        raise MetricError(f"paired sets must be equally long, got {', '.join(str(len(x)) for x in samples)}")
    generator = torch.Generator().manual_seed(seed)
    chosen = [torch.randperm(n, generator=generator)[: int(n * KEEP)] for _ in range(PARTS)]
    whole = torch.tensor([statistic(torch.arange(n))[0] for statistic in sets], dtype=torch.float64)
    parts = torch.tensor([[statistic(rows)[0] for statistic in sets] for rows in chosen], dtype=torch.float64)
    return whole, parts


def table(
    samples: Tensor, train: Tensor, held_out: Tensor, features: Features, *, k: int = 5, seed: int = 0
) -> tuple[Row, ...]:
    """Every metric of `samples` against `train`, each beside the same metric of `held_out` against `train`.

    `samples`, `train` and `held_out` are batches (N, ...) that `features` maps to (N, d), which `compare` compares.
    Raises MetricError for whatever `features` refuses, and as `compare` does.
    """
    return compare(features(samples), features(train), features(held_out), k=k, seed=seed)


def compare(
    samples: Tensor, train: Tensor, held_out: Tensor, *, k: int = 5, seed: int = 0, remember: Remember = forgetful
) -> tuple[Row, ...]:
    """Every metric of the features `samples` (N, d) against `train`, each beside that of `held_out` against `train`.

    Both sides of each comparison have n = min(len(samples), len(held_out), 5000) items against the same reference, the
    training set (at most 5000 of it, drawn by `seed`), because most of these metrics depend on the counts: a model is as
    good as its `value` is near its `floor`, whatever the value. Memorisation is measured against the whole training
    set, and its usual nearest-neighbour distance comes from all of `held_out`.

    Intervals are for fresh samples with training and held-out sets fixed. They come from random parts of the samples,
    80% each, without replacement, centred on the full value (precision, copied and classifier_accuracy, being plain
    shares, have Wilson's interval; frechet_infinity has its own). A bootstrap would draw duplicates, and a duplicate is
    its own nearest neighbour, adds k(x, x) to a U-statistic and narrows a covariance: all these metrics would be
    shifted by it. The floor is one draw too, uncertain by about as much as the interval is wide.

    Rows: frechet_distance, kernel_distance, sliced_wasserstein (512 directions; 128 for its interval), precision,
    recall, density, coverage, memorisation_ratio, copied; from 20 samples on classifier_accuracy (can logistic
    regression tell them from training items? 0.5 is as good as data); from 25 on frechet_infinity, on as many main axes
    of the training features as the counts carry (`extrapolate.axes_for`). Equal input and `seed` give equal rows.

    What depends on real data alone goes through `remember`: the floors, and statistics of the reference.

    Raises MetricError for fewer than 2k + 2 samples or held-out items, fewer than k + 1 training items, NaN or
    infinity, or unequal feature dimensions.
    """
    least = 2 * checked_k(k) + 2  # a part must have k neighbours for each of its points
    known = checked(train, "train", max(2, k + 1))
    x, _ = checked_pair(checked(samples, "samples", least), known, names=("samples", "train"))
    held, _ = checked_pair(checked(held_out, "held_out", least), known, names=("held_out", "train"))
    known, held = known.to(x.device), held.to(x.device)

    rng = torch.Generator().manual_seed(seed)
    n = min(len(x), len(held), MOST)
    usual = held
    x, held, reference = _subset(x, n, rng), _subset(held, n, rng), _subset(known, MOST, rng)
    parts = [torch.randperm(n, generator=rng)[: int(n * KEEP)].to(x.device) for _ in range(PARTS)]
    everything = torch.arange(n, device=x.device)
    sides = content_key((known, usual))
    keys = {"reference": content_key(reference), "usual": sides, "floor": content_key((sides, n, k, seed))}

    sliced = (_fixed(partial(sliced_from, projections=count, seed=seed), reference) for count in (512, 128))
    groups: list[tuple[tuple[str, ...], tuple[Prepare, ...]]] = [
        (("frechet_distance",), (_fixed(frechet_from, reference),)),
        (("kernel_distance",), (_kernel(reference, remember, keys["reference"]),)),
        (("sliced_wasserstein",), tuple(sliced)),
        (("precision", "recall", "density", "coverage"), (_balls(reference, k, remember, keys["reference"]),)),
        (("memorisation_ratio", "copied"), (_nearness(known, usual, remember, keys["usual"]),)),
    ]
    rows = []
    for names, prepare in groups:
        floors = _floor(remember, (names, keys["floor"]), lambda: prepare[0](held)(everything))  # noqa: B023
        statistic = prepare[0](x)
        values = statistic(everything)
        rough = prepare[1](x) if len(prepare) > 1 else statistic
        spread = torch.tensor([rough(part) for part in parts], dtype=torch.float64)
        for name, value, floor, column in zip(names, values, floors, spread.T):
            ends = share_interval(value, n) if name in SHARES else interval(value, column, n)
            rows.append(_row(name, value, ends, floor, n, len(reference)))
    if n >= 20:
        test = classifier_test(x, reference, seed=seed)
        (floor,) = _floor(
            remember, ("classifier", keys["floor"]), lambda: (classifier_test(held, reference, seed=seed).accuracy,)
        )
        ends = share_interval(test.accuracy, 2 * test.tested)
        rows.append(_row("classifier_accuracy", test.accuracy, ends, floor, n, len(reference)))
    if dims := axes_for(min(n, len(reference)), known.shape[1]):
        axes = _main_axes(reference, dims)
        found = frechet_infinity(axes(x), axes(reference), seed=seed)
        (floor,) = _floor(
            remember, ("infinity", keys["floor"]),
            lambda: (frechet_infinity(axes(held), axes(reference), seed=seed).value,),
        )  # fmt: skip
        rows.append(_row("frechet_infinity", found.value, (found.low, found.high), floor, n, len(reference)))
    return tuple(rows)


def inception_rows(
    samples: Tensor, train: Tensor, held_out: Tensor, *, seed: int = 0, remember: Remember = forgetful, parts: int = 20
) -> tuple[Row, ...]:
    """FID and KID by the letter, from Inception features (N, 2048), each beside its floor.

    The reference is the *whole* training set, and n = min(len(samples), len(held_out)) on both sides: all that there
    is. Published figures have n = 50,000; at another n the floor tells how much of the number is bias. Intervals as in
    `compare`, from fewer parts and hence by their standard deviation. KID is not multiplied by 1000.

    Raises MetricError for NaN or infinity, fewer than 5 samples or held-out items, or unequal feature dimensions.
    """
    known = checked(train, "train", 2)
    x, _ = checked_pair(checked(samples, "samples", 5), known, names=("samples", "train"))
    held, _ = checked_pair(checked(held_out, "held_out", 5), known, names=("held_out", "train"))
    rng = torch.Generator().manual_seed(seed)
    n = min(len(x), len(held))
    key = content_key((known, held, n, seed))
    x, held = _subset(x, n, rng), _subset(held, n, rng)
    chosen = [torch.randperm(n, generator=rng)[: int(n * KEEP)] for _ in range(parts)]
    rows = []
    for name, prepare in (("fid", _fixed(frechet_from, known)), ("kid", _kernel(known, remember, content_key(known)))):
        (floor,) = _floor(remember, (name, key), lambda: prepare(held)(torch.arange(n)))  # noqa: B023
        statistic = prepare(x)
        value = statistic(torch.arange(n))[0]
        spread = torch.tensor([statistic(part) for part in chosen], dtype=torch.float64).std()
        half = 1.6449 * float(spread) * math.sqrt(len(chosen[0]) / (n - len(chosen[0])))
        rows.append(_row(name, value, (value - half, value + half), floor, n, len(known)))
    return tuple(rows)


def _floor(remember: Remember, key: Any, work: Callable[[], Sequence[float]]) -> list[float]:
    return remember(("floor", key), lambda: {"it": torch.tensor(work(), dtype=torch.float64)})["it"].tolist()


def _row(name: str, value: float, ends: tuple[float, float], floor: float, n: int, reference: int) -> Row:
    better, least, most = KINDS[name]
    low, high = (min(max(end, least), most) for end in (min(ends[0], value), max(ends[1], value)))
    return Row(name, value, low, high, floor, better, n, reference)


def _main_axes(reference: Tensor, dims: int) -> Features:
    """Coordinates on the main axes of the reference, in its own units; all of it where there are no more axes."""
    if dims >= reference.shape[1]:
        return lambda x: x
    axes = PCA.fit(reference, dims)
    return lambda x: axes(x) / axes.scale


def _counted(rows: Iterable[Row], n: int | None) -> tuple[tuple[Row, ...], int, int]:
    rows = tuple(rows)
    if not rows:
        raise MetricError("there are no rows to show")
    if n not in (None, rows[0].n):
        raise MetricError(f"the first row was measured with n = {rows[0].n}, not with n = {n}")
    return rows, rows[0].n, rows[0].reference


def format_table(rows: Iterable[Row], n: int | None = None) -> str:
    """The rows as aligned plain text, a line a metric under a line that says n, the reference and what the floor is.

    `n` may be given as a check: MetricError if the first row was measured with another.
    """
    rows, n, reference = _counted(rows, n)
    lines = [("metric", "value", "90% interval", "floor", "better", "n")]
    for row in rows:
        interval = f"[{row.low:.4g}, {row.high:.4g}]"
        floor = "unknown" if row.floor is None else f"{row.floor:.4g}"
        lines.append((row.metric, f"{row.value:.4g}", interval, floor, row.better, str(row.n)))
    widths = [max(map(len, column)) for column in zip(*lines)]
    head = f"n = {n} samples against {reference} training items; floor = {n} held-out items against the same"
    body = ("  ".join((line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:]))) for line in lines)
    return "\n".join((head, *body))


def as_dict(rows: Iterable[Row], n: int | None = None) -> dict[str, Any]:
    """The rows as plain numbers and strings: `{"n", "reference", "metrics": {name: {"value", "low", ...}}}`.

    `n` may be given as a check: MetricError if the first row was measured with another.
    """
    rows, n, reference = _counted(rows, n)
    names = ("value", "low", "high", "floor", "better", "n", "reference")
    metrics = {row.metric: {name: getattr(row, name) for name in names} for row in rows}
    return {"n": n, "reference": reference, "metrics": metrics}
