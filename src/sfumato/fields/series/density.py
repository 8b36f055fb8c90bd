"""How likely the model finds what came: nats a step beside the ridge's Gaussian law, in the same units.

Both are densities of the same white numbers e = A^-1 r, so their difference is that of the densities of the values themselves.
The model's is the evidence bound over noise levels (Kingma et al. 2021, arXiv 2107.00630), which is tight for a perfect denoiser.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from sfumato.fields.series.data import Store
from sfumato.fields.series.windowing import Windows, windows
from sfumato.metrics.likelihood import Levels, measure_levels

if TYPE_CHECKING:
    from sfumato.fields.series.forecasting import Case
    from sfumato.jobs.model import Model

MOST = 400


def densities(model: Model, chosen: Sequence[Case]) -> np.ndarray | None:
    """-log density a step of windows without gaps (N, 2): by the model, and by the law it began at. None for models that have
    none: flow maps, and paths of one call; or where no window is whole."""
    from sfumato.fields.series.forecasting import learns

    if model.adaptations or learns(model) == "crps":
        return None
    store: Store = model.companions.store
    ours = _items(model, windows(model.companions.base, store.tracks, _of(store, chosen), 1))
    held = [store.held(i) for i in range(len(store))]
    if ours is None or not sum(map(len, held)):
        return None
    other = _items(model, windows(model.companions.base, store.tracks, held, 1))
    if other is None:
        return None
    first = _levels(model, other).best()  # chosen on other windows than those that are measured
    found = _levels(model, ours).bound(first) * math.log(2)
    plain = (ours["x"].double().square() / 2).mean(1) + math.log(2 * math.pi) / 2
    return torch.stack((found.double(), plain), 1).numpy()


def _of(store: Store, chosen: Sequence[Case]) -> list[np.ndarray]:
    origins: list[list[int]] = [[] for _ in range(len(store))]
    for case in chosen:
        origins[case.index].append(case.origin)
    return [np.array(sorted(own), dtype=np.int64) for own in origins]


def _items(model: Model, data: Windows) -> dict[str, Tensor] | None:
    """Whole windows, evenly spread."""
    rows = np.unique(np.linspace(0, len(data) - 1, min(MOST, len(data))).astype(int))
    batch = data.batch(rows)
    whole = (batch["weight"] > 0).all(1)
    if whole.sum() < 2:
        return None
    return {name: torch.from_numpy(batch[name][whole]).to(model.device) for name in ("x", "told", "around")}


def _levels(model: Model, items: dict[str, Tensor]) -> Levels:
    return measure_levels(model.denoiser, items["x"], None, batch=256, told=items["told"], around=items["around"])
