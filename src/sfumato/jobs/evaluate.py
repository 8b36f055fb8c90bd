"""`sfumato evaluate`, what fields share of it: samples drawn, quality against steps, likelihood."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from sfumato.jobs.model import Model
from sfumato.jobs.report import render
from sfumato.jobs.seal import unchanged
from sfumato.jobs.walk import Walk

if TYPE_CHECKING:
    from torch import Tensor

    from sfumato.data import Dataset
    from sfumato.diffusion.generate import Queries
    from sfumato.metrics.likelihood import Levels
    from sfumato.metrics.spaces import Space
    from sfumato.metrics.table import Row

MOST = 2000
"""Real items or samples compared at most."""
CURVE, MAP_CURVE = (2, 4, 8, 16, 32), (1, 2, 4, 8, 16)
CURVE_SAMPLES = 96
LEVEL_ITEMS = 64
FLOW_STEPS = 8  # of Runge-Kutta in the likelihood: from 5 to 40 the demo's 6.53 bits moved by 0.015


def evaluate(model: Model, measure: Any = None, ask: Any = None) -> str:
    """The model measured as its field judges it; writes metrics.json, README.md and pictures into the run, and returns the
    report as text. Raises RunError, DataError, MetricError."""
    recipe = model.recipe
    measure, ask = recipe.Measure() if measure is None else measure, recipe.Ask() if ask is None else ask
    unchanged(model.run)
    recipe.measurable(model, measure, ask)
    return render(model, recipe.evaluate(model, measure, ask), ask)


def spread_out(dataset: Dataset, most: int | None = None) -> dict[str, Tensor]:
    """Items of a dataset as tensors (N, ...), "x" and its condition: at most ``most``, evenly spread."""
    from sfumato.training.loader import fetch

    count = len(dataset)
    chosen = range(count) if most is None or count <= most else [i * count // most for i in range(most)]
    rows = fetch(dataset, chosen)
    return {"x": rows.x, **rows.condition}


def stacked(dataset: Dataset, most: int | None = None) -> Tensor:
    """Items of a dataset as one tensor (N, ...), at most ``most``, evenly spread."""
    return spread_out(dataset, most)["x"]


def draw_samples(
    model: Model,
    count: int,
    walk: Walk | None = None,
    ask: Any = None,
    name: str = "sample",
    queries: Queries | None = None,
) -> Tensor:
    """``count`` samples in standard units of the data on the CPU, in the order of their numbers, with a progress bar. Of vectors.
    What they are drawn for is in ``queries``, or follows from what is asked."""
    import torch

    from sfumato.training.progress import Watch

    if queries is None:
        queries = model.recipe.queries(model, model.recipe.Ask() if ask is None else ask, count)
    parts: list[Tensor] = []
    numbers: list[int] = []
    with Watch(name, count, unit="samples") as watch:
        for drawn in model.draw(queries, range(count), walk=walk):
            parts.append(model.recipe.decoded(model, drawn.x.cpu()))
            numbers.extend(drawn.numbers)
            watch.show(len(numbers))
    return torch.cat(parts)[torch.tensor(numbers).argsort()]


def quality(model: Model, space: Space, known: Tensor, queries: Queries, count: int) -> list[dict[str, float]]:
    """Kernel distance of the first ``count`` samples at several numbers of steps, with 90% intervals; the same noise for all.
    Nothing where the solver chooses its own steps."""
    from sfumato.metrics.table import interval, kernel_distances

    if model.solver(model.walk).counts:
        return []
    numbers = MAP_CURVE if model.adaptations else CURVE
    drawn = [
        space(
            draw_samples(model, count, dataclasses.replace(model.walk, steps=n), None, f"{n} steps", queries)
        ).double()
        for n in numbers
    ]
    whole, parts = kernel_distances(drawn, known[:MOST].double())
    curve = []
    for i, steps in enumerate(numbers):
        low, high = interval(float(whole[i]), parts[:, i], count)
        curve.append({"steps": steps, "kernel_distance": float(whole[i]), "low": low, "high": high, "n": count})
    return curve


def likelihood(
    model: Model, train: Dataset, held_out: dict[str, Tensor], count: int, bin_width: float | None, unit: float
) -> tuple[tuple[Row, ...], dict[str, Levels]]:
    """Bits per dimension of held-out items, by the noise levels and by the probability flow; and the errors by level.

    Nothing for a flow map, whose steps have no density of their own, or a process that is not Gaussian.

    Args:
        held_out: "x" and conditions, name -> (N, ...).
        bin_width: of data that are whole numbers (bytes), in standard units; None: they are a density.
        unit: bits to add, log2 of the data's own unit in standard units.
    """
    import torch

    from sfumato.diffusion import Gaussian
    from sfumato.metrics.intervals import mean_interval
    from sfumato.metrics.likelihood import flow_bits, measure_levels
    from sfumato.metrics.table import Row
    from sfumato.training.progress import Watch

    if model.adaptations or not isinstance(model.process, Gaussian):
        return (), {}
    name = "bits_per_dim" if bin_width is not None else "density_bits"
    some = {key: value[: max(LEVEL_ITEMS, count)] for key, value in shuffled(held_out).items()}
    given = {"held out": some, "training": spread_out(train, LEVEL_ITEMS)}
    levels = {}
    with Watch("loss by level", 32, unit="levels") as watch:
        for done, (key, items) in enumerate(given.items()):
            x, condition = split_condition(items, LEVEL_ITEMS, model)
            levels[key] = measure_levels(
                model.denoiser, x, bin_width, progress=lambda k: watch.show(16 * done + k), **condition  # noqa: B023
            )  # fmt: skip
    first = levels["training"].best()  # chosen on other data than those it is for
    values = levels["held out"].bound(first) + unit
    rows = [Row(f"{name}_elbo", *mean_interval(values), None, "lower", len(values), 0)]
    if count:
        x, condition = split_condition(some, count, model)
        parts = []
        with Watch("likelihood", len(x), unit="items") as watch:
            for own in torch.arange(len(x)).split(8):
                rest = {key: value[own] for key, value in condition.items()}
                noise = levels["training"].noise(first)
                parts.append(flow_bits(model.denoiser, x[own], bin_width, noise, FLOW_STEPS, first=int(own[0]), **rest))
                watch.show(sum(map(len, parts)))
        rows.append(Row(f"{name}_flow", *mean_interval(torch.cat(parts) + unit), None, "lower", len(x), 0))
    return tuple(rows), levels


def shuffled(items: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same items in a fixed random order: data are often sorted."""
    import torch

    order = torch.randperm(len(items["x"]), generator=torch.Generator().manual_seed(0))
    return {name: value[order] for name, value in items.items()}


def split_condition(items: dict[str, Tensor], most: int, model: Model) -> tuple[Tensor, dict[str, Any]]:
    """At most so many items and their conditions, on the model's device; of items without conditions (somebody's own) they
    are hidden, as of nothing known."""
    import torch

    from sfumato.diffusion import hide

    items = {name: value[:most].to(model.device) for name, value in items.items()}
    x = items.pop("x")
    if missing := [name for name in model.recipe.guided if name not in items]:
        usual = model.recipe.queries(model, model.recipe.Ask(), len(x)).batch(range(len(x)))
        known = {name: usual[name].to(x.device) for name in missing if name in usual}
        items |= hide(known, list(known), torch.ones(len(x), dtype=torch.bool))
    return x, items
