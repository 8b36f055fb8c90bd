"""Fans: the history, quantiles shaded, some paths thin, what came thick. Drawn with matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path as File
from typing import Any

import numpy as np

from sfumato.fields.series.data import Store
from sfumato.fields.series.forecasting import Path
from sfumato.fields.series.writing import times

PANELS = 6
PATHS = 8
SHADES = ((0.025, 0.975, 0.15), (0.1, 0.9, 0.25), (0.25, 0.75, 0.4))
BLUE, INK = "#2b6cb0", "#1a202c"


@dataclass(frozen=True, eq=False)
class Fan:
    """Forecasts over their history, a panel for each of the first series."""

    store: Store
    paths: Sequence[Path]
    columns: int = 2

    def save(self, path: File, /) -> None:
        """As a picture."""
        from matplotlib.figure import Figure

        groups: dict[tuple[str, int], list[Path]] = {}
        for each in self.paths:
            groups.setdefault((each.series, each.place), []).append(each)
        shown = list(groups.values())[:PANELS]
        rows = -(-len(shown) // self.columns)
        wide = min(self.columns, len(shown))
        figure = Figure(figsize=(6.4 * wide, 2.7 * rows), layout="constrained")
        axes = figure.subplots(rows, wide, squeeze=False).flatten()
        for panel, own in zip(axes, shown):
            self._panel(panel, own)
        for panel in axes[len(shown) :]:
            panel.axis("off")
        axes[0].legend(fontsize=7, frameon=False, loc="upper left")
        figure.savefig(path, dpi=110)

    def _panel(self, panel: Any, own: Sequence[Path]) -> None:
        facts, first = self.store.facts, own[0]
        values = np.stack([each.values for each in own])
        leads = values.shape[1]
        at = np.arange(1, leads + 1)
        known = {name: i for i, name in enumerate(facts.names)}
        i = known.get(first.series)
        if i is not None:
            series, begin = self.store.series(i), first.place - int(self.store.starts[i])
            back = max(0, begin - max(3 * leads, min(facts.past, 6 * leads)))
            panel.plot(np.arange(back, begin) - begin + 1, series[back:begin], color=INK, linewidth=1.0)
            came = series[begin : begin + leads]
            if len(came):
                panel.plot(at[: len(came)], came, color=INK, linewidth=1.8, label="what came", zorder=5)
        for low, high, alpha in SHADES if len(values) >= 8 else ():
            panel.fill_between(at, *np.quantile(values, (low, high), axis=0), color=BLUE, alpha=alpha, linewidth=0,
                               label=f"{100 * (high - low):.0f} %")  # fmt: skip
        panel.plot(at, values[:PATHS].T, color=BLUE, linewidth=0.5, alpha=0.7)
        panel.plot(at, np.median(values, 0), color=BLUE, linewidth=1.4, linestyle="--", label="median")
        panel.axvline(0.5, color="#a0aec0", linewidth=0.8)
        panel.set_title(f"{first.series}, from {times(facts, first.place, 1)[0]}", fontsize=9)
        panel.set_xlabel(f"steps of {facts.frequency.name}" if facts.dated else "steps", fontsize=8)
        panel.tick_params(labelsize=7)
        panel.spines[["top", "right"]].set_visible(False)


@dataclass(frozen=True, eq=False)
class Calibration:
    """Ranks of the truth among the paths (M + 1,), and the coverage of central intervals, (levels,), beside what they promise."""

    ranks: np.ndarray
    levels: np.ndarray
    covered: np.ndarray
    sums: np.ndarray

    def save(self, path: File, /) -> None:
        """As a picture."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9, 3.4), layout="constrained")
        left, right = figure.subplots(1, 2)
        bins = self.ranks.reshape(len(self.ranks), -1).sum(1)
        left.bar(np.arange(len(bins)) + 0.5, bins * len(bins), width=0.92, color="#63b3ed")
        left.axhline(1, color=INK, linewidth=0.8)
        left.set_title("rank of the truth among the paths, of a flat one", fontsize=9)
        right.plot([0, 1], [0, 1], color="#a0aec0", linewidth=1)
        right.plot(self.levels, self.covered, color=BLUE, marker="o", markersize=3, label="steps")
        right.plot(self.levels, self.sums, color="#dd6b20", marker="o", markersize=3, label="sums over the horizon")
        right.set_title("how often an interval holds what came", fontsize=9)
        right.set_xlabel("promised", fontsize=8)
        right.legend(fontsize=8, frameon=False)
        for panel in (left, right):
            panel.tick_params(labelsize=7)
            panel.spines[["top", "right"]].set_visible(False)
        figure.savefig(path, dpi=110)
