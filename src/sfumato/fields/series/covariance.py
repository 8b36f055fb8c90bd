"""How what a regression leaves varies together, from a few hundred windows."""

from __future__ import annotations

import numpy as np


def covariance(residuals: np.ndarray) -> np.ndarray:
    """Of residuals (n, H) about 0, drawn towards its diagonal's mean (Ledoit and Wolf 2004); beyond 8 spreads they count as 8."""
    spread = np.sqrt(np.mean(np.clip(residuals, *np.quantile(residuals, (0.005, 0.995), axis=0)) ** 2, 0)) + 1e-9
    held = np.clip(residuals, -8 * spread, 8 * spread)
    n, leads = held.shape
    raw = held.T @ held / n
    level = float(np.trace(raw)) / leads
    target = level * np.eye(leads)
    apart = float(((raw - target) ** 2).sum())
    noise = float(((held**2).sum(1) ** 2).mean() - (raw**2).sum()) / n if n > 1 else apart
    share = min(1.0, max(noise, 0.0) / apart) if apart > 0 else 1.0
    share = max(share, 1e-4)
    return np.asarray((1 - share) * raw + share * target + 1e-9 * np.eye(leads))
