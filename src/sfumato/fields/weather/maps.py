"""Maps of forecasts, drawn with matplotlib: what came, the mean, members, and their spread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sfumato.fields.weather.data import Store, places
from sfumato.fields.weather.grid import said

if TYPE_CHECKING:
    from sfumato.fields.weather.writing import Forecast

ROWS, MEMBERS = 6, 3


@dataclass(frozen=True, eq=False)
class Maps:
    """Forecasts from one start as maps at their last lead: a row for each channel (six at most)."""

    store: Store
    forecasts: Sequence[Forecast]

    def save(self, path: Path, /) -> None:
        """As a picture."""
        from matplotlib.figure import Figure

        facts, start = self.store.facts, self.forecasts[0].start
        leads = len(self.forecasts[0].values)
        due = start + leads * facts.step
        x = np.stack([forecast.values[-1] for forecast in self.forecasts])
        at = places(self.store.times, np.array([due]))
        truth = self.store.restored(self.store.standard(at))[0] if at[0] >= 0 else None
        shown = [("what came", truth)] if truth is not None else []
        shown += [("mean of the members", x.mean(0))]
        shown += [(f"member {forecast.member}", forecast.values[-1]) for forecast in self.forecasts[:MEMBERS]]
        channels = range(min(ROWS, x.shape[1]))
        aspect = min(2.5, max(0.4, facts.grid.shape[0] / facts.grid.shape[1]))
        figure = Figure(
            figsize=(2.4 * (len(shown) + 1), 0.7 + len(channels) * (0.5 + 2.1 * aspect)), layout="constrained"
        )
        axes = figure.subplots(len(channels), len(shown) + 1, squeeze=False)
        lat, lon = facts.grid.latitude, facts.grid.longitude
        half = abs(lat[0] - lat[1]) / 2, abs(lon[1] - lon[0]) / 2
        extent = (lon[0] - half[1], lon[-1] + half[1], lat[-1] - half[0], lat[0] + half[0])
        for c in channels:
            every = np.stack([values[c] for _, values in shown])
            low, high = float(np.nanmin(every)), float(np.nanmax(every))
            drawn: Any = None
            for place, (title, values) in enumerate(shown):
                drawn = axes[c, place].imshow(values[c], extent=extent, vmin=low, vmax=high, cmap="viridis")
                axes[c, place].set_title(title if c == 0 else "", fontsize=8)
            figure.colorbar(drawn, ax=axes[c, : len(shown)].tolist(), shrink=0.8).ax.tick_params(labelsize=6)
            spread = x[:, c].std(0, ddof=1) if len(x) > 1 else np.zeros_like(x[0, c])
            drawn = axes[c, -1].imshow(spread, extent=extent, vmin=0, cmap="magma")
            axes[c, -1].set_title(f"spread of {len(x)} members" if c == 0 else "", fontsize=8)
            figure.colorbar(drawn, ax=axes[c, -1], shrink=0.8).ax.tick_params(labelsize=6)
            axes[c, 0].set_ylabel(f"{facts.channels[c].label} ({facts.channels[c].units})", fontsize=8)
        for each in axes.flat:
            each.tick_params(labelsize=6)
        figure.suptitle(f"from {said(start)} to {said(due)} UTC (+{leads * facts.hours:g} h)", fontsize=9)
        figure.savefig(path, dpi=110)
