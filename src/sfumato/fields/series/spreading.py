"""How far paths are spread: a network that has learned long is too sure, by how much the windows held out say.

    path = centre + factor (path - centre),    centre the mean that the network expects

One factor for all leads, so that sums and leads are spread alike; the path keeps its shape, and depends on no other path.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np

from sfumato.data.arrays import kept_arrays
from sfumato.errors import DataError, shown
from sfumato.fields.series.base import Base
from sfumato.fields.series.data import REMEDY, facts_plan
from sfumato.fields.series.forecasting import Spread, walk_name
from sfumato.training.run import RunError, write_text

if TYPE_CHECKING:
    from sfumato.fields.series.facts import SeriesFacts
    from sfumato.jobs.model import Model
    from sfumato.training.run import Run

FILE = "spread.json"
LEVEL = 0.8
LEAST, MOST = 0.7, 1.6
PATHS = 128
WINDOWS = 1500


def base_of(run: Run, facts: SeriesFacts) -> Base:
    """What was fitted to a run's series. Raises DataError."""
    kept = kept_arrays(run.cache / "base.npz", REMEDY)
    try:
        return Base.of(facts_plan(facts), kept)
    except KeyError as error:
        raise DataError(f"{shown(run.cache / 'base.npz')}: lacks {error}; {REMEDY}") from error


def spread_of(run: Run) -> Spread:
    """That of a run, none where it was not measured yet. Raises RunError."""
    path = run.path / FILE
    if not path.is_file():
        return Spread({})
    try:
        found = {str(name): float(value) for name, value in json.loads(path.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise RunError(
            f"{path}: is no list of factors ({type(error).__name__}); delete it, and calibrate again"
        ) from error
    if wrong := [value for value in found.values() if not LEAST <= value <= MOST]:
        raise RunError(f"{path}: a factor of {wrong[0]:g} cannot be; delete it, and calibrate again")
    return Spread(found)


def calibrate(model: Model) -> float:
    """Measure and keep the factor at which the central 80 % of paths, walked as this model walks, hold 80 % of what came in the
    windows held out."""
    factor, run = measured(model), model.run
    kept = {**spread_of(run).factors, walk_name(model.walk): factor}
    write_text(run.path / FILE, json.dumps(kept, indent=1))
    return factor


def measured(model: Model) -> float:
    """The factor, from paths of windows held out."""
    from sfumato.fields.series.forecasting import Forecasts, cases_of, expected
    from sfumato.fields.series.white import White

    store, base = model.companions.store, model.companions.base
    held = [(i, int(o)) for i in range(len(store)) for o in store.held(i)]
    if not held:
        return 1.0
    chosen = [held[k] for k in np.unique(np.linspace(0, len(held) - 1, min(WINDOWS, len(held))).astype(int))]
    cases = cases_of(store, [i for i, _ in chosen], [o for _, o in chosen])
    forecasts = Forecasts.of(base, cases, PATHS, base.outlook.horizon)
    white, centre = np.empty((len(forecasts), base.outlook.horizon)), np.empty((len(forecasts), base.outlook.horizon))
    for whole in model.draw(forecasts, range(len(forecasts))):
        own = list(whole.numbers)
        white[own], centre[own] = whole.x.float().cpu().numpy(), expected(model, whole.query)
    root = White(base.root).root
    left, middle = white @ root.T, centre @ root.T
    truth = np.concatenate([base.left(table, case.track.values[None, case.origin : case.origin + base.outlook.horizon])
                            for case, table in zip(cases, forecasts.tables)])  # fmt: skip
    shape = len(cases), PATHS, base.outlook.horizon
    return best(left.reshape(shape), middle.reshape(shape)[:, 0], truth)


def best(left: np.ndarray, middle: np.ndarray, truth: np.ndarray) -> float:
    """The factor by which paths (N, M, H) are drawn from their middle (N, H) so that intervals cover as they promise."""
    low, high = np.quantile(left, ((1 - LEVEL) / 2, (1 + LEVEL) / 2), axis=1)
    off = truth - middle
    # of each number the factor from which on it is covered
    with np.errstate(divide="ignore", invalid="ignore"):
        need = np.where(off >= 0, off / (high - middle), off / (low - middle))
    need = need[np.isfinite(truth)]
    need = np.where(np.isfinite(need) & (need >= 0), need, np.inf)
    return float(np.clip(np.quantile(need, LEVEL), LEAST, MOST))
