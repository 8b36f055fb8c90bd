"""The scores of one forecast, an ensemble of fields, against what came: of each cell, of the fields together, of extremes.

All in standard units, float64; means over cells are weighted by area. Scores are fair: ensembles of different sizes compare.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from sfumato.fields.weather.data import Store
from sfumato.metrics.forecast import brier, crps, energy_score, rank_histogram, variogram_score

EXTREMES = (0.02, 0.1, 0.9, 0.98)
"""Quantiles of the climatology of a cell and month, beyond which weather is called extreme."""
PAIRED = 192
"""Cells of a field at most whose pairs the variogram score looks at, evenly spread."""
LEAST = 100
"""Days of a month of the year at least for its own quantiles; with fewer those of all the year stand."""
MONTH = 31556952 / 12
MODEL = "model"


@dataclass(frozen=True, eq=False)
class Scores:
    """Of each forecaster, "model" and the baselines, on the same cases: ``by`` forecaster -> score -> (cases, leads[, C]), means
    over area in standard units (squared ones of squares); of the model how often the truth had each rank, (leads, C,
    members + 1); ``power`` by wavenumber of forecasters and of the "truth", (leads, C, wavenumbers). When each case began."""

    by: Mapping[str, Mapping[str, np.ndarray]]
    ranks: np.ndarray
    power: Mapping[str, np.ndarray]
    begun: np.ndarray
    members: int
    leads: int


@dataclass(frozen=True, eq=False)
class Scoring:
    """What scores need to know of the fields: areas, distances, quantiles."""

    store: Store

    @cached_property
    def area(self) -> Tensor:
        """(C, rows, columns), 0 where there is no value."""
        return torch.from_numpy(self.store.area).double()

    @cached_property
    def share(self) -> Tensor:
        """Of each cell in the mean of its channel."""
        return self.area / self.area.sum((1, 2), keepdim=True)

    @cached_property
    def pairs(self) -> tuple[Tensor, Tensor]:
        """Cells (n,) of a field that the variogram score looks at, those with a value in all channels; weights (n, n), 1 over the
        distance in degrees of a great circle."""
        there = np.flatnonzero((~self.store.hidden).all(0).ravel())
        if len(there) > PAIRED:
            there = there[np.linspace(0, len(there) - 1, PAIRED).round().astype(int)]
        grid = self.store.facts.grid
        lat, lon = np.meshgrid(np.deg2rad(grid.latitude), np.deg2rad(grid.longitude), indexing="ij")
        at = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], -1).reshape(-1, 3)[there]
        apart = np.rad2deg(np.arccos((at @ at.T).clip(-1, 1)))
        return torch.from_numpy(there), torch.from_numpy(1 / np.maximum(apart, 1e-3))

    @cached_property
    def quantiles(self) -> Tensor:
        """Of the times learned from, by month of the year: (12, quantiles, C, rows, columns)."""
        store = self.store
        learned = np.flatnonzero(store.times < store.facts.until)
        learned = learned[np.linspace(0, len(learned) - 1, min(len(learned), 20_000)).round().astype(int)]
        values, months = store.standard(learned), month(store.times[learned])
        whole = np.quantile(values, EXTREMES, axis=0)
        own = [
            np.quantile(values[months == m], EXTREMES, axis=0) if (months == m).sum() >= LEAST else whole
            for m in range(12)
        ]
        return torch.from_numpy(np.stack(own)).double()

    def mean(self, values: Tensor) -> Tensor:
        """Over area: (..., C, rows, columns) -> (..., C)."""
        return (values * self.share).sum((-2, -1))

    def plain(self, x: Tensor, truth: Tensor) -> dict[str, Tensor]:
        """CRPS, squared error of the mean, variance of the members: x (M, leads, C, rows, columns) -> (leads, C) each. Of one
        member its absolute error is the CRPS, and there is no variance."""
        one = len(x) == 1
        return {
            "crps": self.mean(crps(x, truth, fair=not one)), "square": self.mean((x.mean(0) - truth).square()),
            "variance": self.mean(torch.zeros_like(truth) if one else x.var(0)),
        }  # fmt: skip

    def joint(self, x: Tensor, truth: Tensor, due: np.ndarray) -> dict[str, Tensor]:
        """Scores of fields as a whole, of an ensemble x (M, leads, C, rows, columns), M > 1, whose leads are due at these times:
        ``energy`` (leads,) of all channels together; ``variogram``, ``pooled2``, ``pooled3`` (the CRPS of means over
        squares of so many cells a side) and a Brier score for each extreme, (leads, C)."""
        root = (self.area / self.area.sum()).sqrt()
        found = {"energy": energy_score((x * root).flatten(2), (truth * root).flatten(1))}
        cells, weights = self.pairs
        if len(cells) > 1:
            flat, told = x.flatten(3)[..., cells], truth.flatten(2)[..., cells]
            found["variogram"] = torch.stack(
                [variogram_score(flat[:, :, c], told[:, c], weights) for c in range(x.shape[2])], 1
            )
        for side in (2, 3):
            if min(x.shape[-2:]) >= side:
                area = self.pooled(self.area, side)
                some = crps(self.pooled(x * self.area, side) / area.clamp_min(1e-12), self.pooled(truth * self.area, side)
                            / area.clamp_min(1e-12))  # fmt: skip
                found[f"pooled{side}"] = (some * area).sum((-2, -1)) / area.sum((-2, -1))
        limits = self.quantiles[month(due)]  # (leads, quantiles, C, rows, columns)
        for place, level in enumerate(EXTREMES):
            # of the rare side: below a low quantile, above a high one
            sign = -1.0 if level < 0.5 else 1.0
            found[f"brier_{100 * level:g}"] = self.mean(brier(sign * x, sign * truth, sign * limits[:, place]))
        return found

    def pooled(self, values: Tensor, side: int) -> Tensor:
        """Sums over squares of so many cells a side."""
        flat = values.reshape(-1, 1, *values.shape[-2:])
        return (F.avg_pool2d(flat, side) * side**2).reshape(
            *values.shape[:-2], values.shape[-2] // side, values.shape[-1] // side
        )

    def ranks(self, x: Tensor, truth: Tensor, chance: torch.Generator) -> Tensor:
        """How often the truth had each rank among the members, (leads, C, M + 1)."""
        return torch.stack([
            torch.stack([rank_histogram(x[:, k, c], truth[k, c], chance, self.area[c]) for c in range(x.shape[2])])
            for k in range(x.shape[1])
        ])  # fmt: skip

    def power(self, values: Tensor) -> Tensor:
        """Power by wavenumber along the rows, weighted by area: (..., C, rows, columns) -> (..., C, columns // 2 + 1).
        Rows that do not close are let fall to 0 at their ends (Hann), about their mean."""
        columns = values.shape[-1]
        off = values - values.mean(-1, keepdim=True)
        if not self.store.facts.grid.closes:
            window = torch.hann_window(columns + 2, periodic=False, dtype=values.dtype)[1:-1]
            off = off * window / window.square().mean().sqrt()
        power = torch.fft.rfft(off, dim=-1).abs().square() / columns**2
        power = power * torch.where(torch.arange(power.shape[-1]) % columns == 0, 1.0, 2.0)
        rows = self.area.sum(-1)  # (C, rows)
        return (power * (rows / rows.sum(-1, keepdim=True))[..., None]).sum(-2)


def month(seconds: np.ndarray) -> np.ndarray:
    """The twelfth of the mean year that moments fall into, 0 to 11."""
    return (np.asarray(seconds) % 31556952 / MONTH).astype(int).clip(0, 11)


def scores(scoring: Scoring, x: Tensor, truth: Tensor, due: np.ndarray) -> Mapping[str, Tensor]:
    """All scores of an ensemble (of one member those that it has)."""
    found = scoring.plain(x, truth)
    return found | scoring.joint(x, truth, due) if len(x) > 1 else found
