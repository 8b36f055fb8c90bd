"""Plumes and rank histograms, drawn with matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sfumato.fields.weather.data import Store, places
from sfumato.fields.weather.grid import said

if TYPE_CHECKING:
    from sfumato.fields.weather.facts import WeatherFacts
    from sfumato.fields.weather.options import ForecastAsk
    from sfumato.fields.weather.writing import Forecast
    from sfumato.jobs.model import Model

PANELS = 6


@dataclass(frozen=True, eq=False)
class Plume:
    """Forecasts from one start over their leads, a panel for each channel (six at most): each member's mean over area
    thin, the mean of the members dashed, what was there before and what came thick."""

    store: Store
    forecasts: Sequence[Forecast]

    def save(self, path: Path, /) -> None:
        """As a picture."""
        from matplotlib.figure import Figure

        store, facts, start = self.store, self.store.facts, self.forecasts[0].start
        x = np.stack([forecast.values for forecast in self.forecasts])
        leads, channels = x.shape[1], min(PANELS, x.shape[2])
        share = store.area / store.area.sum((1, 2), keepdims=True)
        known = np.arange(-1, leads + 1)
        at = places(store.times, start + known * facts.step)
        seen = store.restored(store.standard(at[at >= 0]))
        now = store.restored(store.standard(places(store.times, np.array([start]))))[0]
        figure = Figure(figsize=(4.2 * channels, 3.0), layout="constrained")
        axes = figure.subplots(1, channels, squeeze=False)[0]
        for c, panel in enumerate(axes):

            def mean(values: np.ndarray, c: int = c) -> np.ndarray:
                return np.asarray(np.nansum(values[..., c, :, :] * share[c], (-2, -1)))

            hours = facts.hours * np.arange(0, leads + 1)
            begun = np.concatenate((np.full((len(x), 1), mean(now)), mean(x)), 1)
            panel.plot(hours, begun.T, color="#63b3ed", linewidth=0.7, alpha=0.8)
            panel.plot(
                hours, begun.mean(0), color="#2b6cb0", linewidth=1.2, linestyle="--", label="mean of the members"
            )
            panel.plot(facts.hours * known[at >= 0], mean(seen), color="black", linewidth=2.2, label="what came")
            panel.set_title(f"{facts.channels[c].label} ({facts.channels[c].units})", fontsize=9)
            panel.set_xlabel("hours from the start", fontsize=8)
            panel.tick_params(labelsize=7)
        axes[0].legend(fontsize=7, frameon=False)
        figure.suptitle(f"mean over the area, from {said(start)} UTC, {len(x)} members", fontsize=9)
        figure.savefig(path, dpi=110)


@dataclass(frozen=True, eq=False)
class Ranks:
    """Rank histograms (leads, C, M + 1), a row for each of the first, a middle and the last lead, a panel for each channel."""

    facts: WeatherFacts
    ranks: np.ndarray

    def save(self, path: Path, /) -> None:
        """As a picture."""
        from matplotlib.figure import Figure

        leads, channels = len(self.ranks), min(PANELS, self.ranks.shape[1])
        rows = sorted({0, leads // 2, leads - 1})
        figure = Figure(figsize=(3.2 * channels, 2.0 * len(rows) + 0.4), layout="constrained")
        axes: Any = figure.subplots(len(rows), channels, squeeze=False, sharex=True)
        count = self.ranks.shape[2]
        for i, k in enumerate(rows):
            for c in range(channels):
                axes[i, c].bar(range(count), self.ranks[k, c] * count, color="#63b3ed", width=0.9)
                axes[i, c].axhline(1, color="black", linewidth=0.8)
                axes[i, c].set_title(f"{self.facts.channels[c].label}, +{(k + 1) * self.facts.hours:g} h", fontsize=8)
                axes[i, c].tick_params(labelsize=7)
        figure.supxlabel("rank of the truth among the members", fontsize=8)
        figure.supylabel("frequency, of a flat one", fontsize=8)
        figure.savefig(path, dpi=110)


def beside(model: Model, ask: ForecastAsk, members: int, out: Path) -> Path | None:
    """The plume of the first start of what was written into ``out``, drawn from the file, beside it. None without matplotlib."""
    from sfumato.fields.weather.writing import read
    from sfumato.jobs.plots import available

    if not available():
        return None
    path = out.with_name(out.name + ".plume.png")
    Plume(model.companions, read(model.facts, out)).save(path)
    return path
