"""Errors of solvers against exact flows, measured on a panel of Gaussian and mixture data; prints the table of orders.

    python -m tests.laws.orders          solver x data: measured order, declared order, worst ratio of two errors

The panel is one denoiser of independent coordinates: 12 normals and one 1-D mixture, each followed from several noises.
Each row of the batch has its own grid, so all grids of a schedule are walked at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from sfumato.diffusion.exact import Exact, GaussianData, MixtureData
from sfumato.diffusion.grids import auto, cosine, karras, logsnr, uniform
from sfumato.diffusion.process import Gaussian
from sfumato.diffusion.sample import sample
from sfumato.diffusion.schedule import VP, Linear, LogLinear, Schedule
from sfumato.diffusion.solvers import (
    Churn,
    EulerMaruyama,
    PredictorCorrector,
    ab,
    ancestral,
    dpmpp_2m,
    dpmpp_2s,
    euler,
    heun,
    unipc,
)

F64 = torch.float64
VARIANCES = torch.logspace(-2, math.log10(4), 12, dtype=F64)
MEANS = torch.linspace(-1, 1, 12, dtype=F64)
MIXTURE = ([0.3, 0.5, 0.2], [-1.2, 0.4, 1.5], [0.25, 0.35, 0.2])
QUANTILES = 24
"""Noises from which the mixture is followed: the middles of so many equal shares of the normal distribution."""

DETERMINISTIC = {
    "euler": euler(),
    "heun": heun(),
    "dpmpp_2m": dpmpp_2m(),
    "dpmpp_2s": dpmpp_2s(),
    "ab1": ab(1),
    "ab2": ab(2),
    "ab3": ab(3),
    "ab4": ab(4),
    "unipc2": unipc(2),
    "unipc3": unipc(3),
    "unipc4": unipc(4),
}
STOCHASTIC = {
    "ancestral": ancestral(),
    "euler_half": euler(0.5),
    "churn": Churn(),
    "euler_maruyama": EulerMaruyama(),
    "predictor_corrector": PredictorCorrector(),
    "dpmpp_2m_half": dpmpp_2m(0.5),
}
GRIDS = ("uniform", "cosine", "auto", "karras", "logsnr")


def gaussian(schedule: Schedule) -> GaussianData:
    return GaussianData(MEANS, VARIANCES, process=Gaussian(schedule, "data"))


def mixture(schedule: Schedule) -> MixtureData:
    weights, means, deviations = (torch.tensor(values, dtype=F64) for values in MIXTURE)
    return MixtureData(weights, means[:, None], deviations, process=Gaussian(schedule, "data"))


@dataclass(frozen=True)
class Panel(Exact):
    """Independent coordinates: the 12 normals from z = -1 and from z = 1 (their flow is affine), then the mixture."""

    def mean_given(self, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        left = x_t[:, :24].reshape(-1, 12)
        a, b = (v.reshape(-1, 1) if v.ndim else v for v in (alpha, sigma))
        two = [v.repeat_interleave(2, 0) if v.ndim else v for v in (a, b)]
        many = [v.repeat_interleave(QUANTILES, 0) if v.ndim else v for v in (a, b)]
        normals = gaussian(self.process.schedule).mean_given(left, *two).reshape(-1, 24)
        mixed = mixture(self.process.schedule).mean_given(x_t[:, 24:].reshape(-1, 1), *many)
        return torch.cat([normals, mixed.reshape(-1, QUANTILES)], 1)


def panel(schedule: Schedule) -> Panel:
    return Panel(process=Gaussian(schedule, "data"))


def noises() -> Tensor:
    middles = (torch.arange(QUANTILES, dtype=F64) + 0.5) / QUANTILES
    return torch.cat([-torch.ones(12, dtype=F64), torch.ones(12, dtype=F64), torch.special.ndtri(middles)])


def transport(x_t: Tensor, schedule: Schedule, t: float, s: float) -> Tensor:
    """The exact probability flow of the 1-D mixture: it keeps every point's quantile. Bisection on the distribution."""
    weights, means, deviations = (torch.tensor(values, dtype=F64) for values in MIXTURE)

    def share_below(x: Tensor, at: float) -> Tensor:
        time = torch.tensor(at, dtype=F64)
        alpha, sigma = schedule.alpha(time), schedule.sigma(time)
        spread = (alpha**2 * deviations**2 + sigma**2).sqrt()
        return (weights * torch.special.ndtr((x[:, None] - alpha * means) / spread)).sum(1)

    wanted = share_below(x_t, t)
    low, high = torch.full_like(x_t, -20.0), torch.full_like(x_t, 20.0)
    for _ in range(70):
        middle = (low + high) / 2
        below = share_below(middle, s) < wanted
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return (low + high) / 2


@cache
def exact_end(schedule: Schedule) -> Tensor:
    """Where the flow takes the panel from t = 1 to t = 0."""
    start = Gaussian(schedule).start(noises())
    one, zero = torch.ones((), dtype=F64), torch.zeros((), dtype=F64)
    normals = gaussian(schedule).flow(start[:24].reshape(2, 12), one, zero).reshape(-1)
    return torch.cat([normals, transport(start[24:], schedule, 1.0, 0.0)])


@cache
def measured(schedule: Schedule) -> Any:
    """The auto grid of the panel, measured once from 16 fixed noises."""
    rng = torch.Generator().manual_seed(0)
    return auto(panel(schedule), torch.randn(16, 24 + QUANTILES, dtype=F64, generator=rng))


def grid(name: str, schedule: Schedule, steps: int) -> Tensor:
    rules = {"uniform": uniform, "cosine": cosine, "karras": karras, "logsnr": logsnr}
    return measured(schedule)(schedule, steps) if name == "auto" else rules[name](schedule, steps)


def errors(solver: Any, schedule: Schedule, grids: Sequence[str], steps: int) -> Tensor:
    """Root-mean-square error at t = 0: (grids, 2), Gaussian and mixture."""
    times = torch.stack([grid(name, schedule, steps) for name in grids], 1)
    times = times[:, 0] if len(grids) == 1 else times
    z = noises().expand(len(grids), -1)
    away = (sample(panel(schedule), z, times, solver) - exact_end(schedule)) ** 2
    return torch.stack([away[:, :24].mean(1), away[:, 24:].mean(1)], 1).sqrt()


def slope(coarse: Tensor | float, fine: Tensor | float, ratio: float) -> float:
    return math.log(float(coarse) / float(fine)) / math.log(ratio)


def worst_ratio(found: Sequence[float], floor: float = 0.0) -> float:
    """Largest error relative to the smallest one at fewer steps; errors below ``floor`` count as ``floor``. NaN is inf."""
    least, worst = math.inf, 0.0
    for error in found:
        if not math.isfinite(error):
            return math.inf
        error = max(error, floor)
        worst, least = max(worst, error / least), min(least, error)
    return worst


# ---- stochastic solvers, without Monte Carlo -------------------------------------------------------------------------


class Impulses:
    """In place of random numbers: row j + 2 is given a single 1, at draw j. Linear solvers then reveal all coefficients."""

    def __init__(self) -> None:
        self.draws = 0

    def normal(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        out = torch.zeros(tuple(shape), dtype=dtype)
        out[2 + self.draws] = 1
        self.draws += 1
        return out


def moments(solver: Any, schedule: Schedule, times: Tensor) -> tuple[Tensor, Tensor]:
    """Exact mean and standard deviation (12,) of what the solver makes of the 12 normals, started from their exact
    distribution at t = 1: the walk is affine in the start and in every draw, so unit impulses measure it whole."""
    data = gaussian(schedule)
    one = torch.ones((), dtype=F64)
    alpha, sigma = schedule.alpha(one), schedule.sigma(one)
    mean, std = alpha * MEANS, (alpha**2 * VARIANCES + sigma**2).sqrt()
    start = mean.repeat(2 * len(times), 1)
    start[1] += std
    impulses: Any = Impulses()
    end = sample(data, start / sigma, times, solver, impulses)
    assert impulses.draws + 2 <= len(end)
    return end[0], (end[1:] - end[0]).pow(2).sum(0).sqrt()


def moment_error(solver: Any, schedule: Schedule, times: Tensor) -> float:
    """Root-mean-square over the normals of the error in the standard deviation, plus that in the mean."""
    zero = torch.zeros((), dtype=F64)
    alpha, sigma = schedule.alpha(zero), schedule.sigma(zero)
    mean, std = moments(solver, schedule, times)
    true = (alpha**2 * VARIANCES + sigma**2).sqrt()
    return float((std - true).pow(2).mean().sqrt() + (mean - alpha * MEANS).pow(2).mean().sqrt())


def curve(solver: Any, schedule: Schedule, name: str, counts: Iterable[int]) -> list[float]:
    return [moment_error(solver, schedule, grid(name, schedule, n)) for n in counts]


# ---- the table -------------------------------------------------------------------------------------------------------

MANY = (*range(8, 101), *(n for n in range(101, 301) if (n * n + n // 7) % 3 == 0))
"""Every number of steps to 100, then a fixed irregular third of those to 300."""


def table(counts: Sequence[int] = MANY) -> list[str]:
    """Solver by solver: declared order; measured order (from 256 to 1024 steps) on a schedule with finite log-SNR and on
    the straight one; and, grid by grid, the worst ratio of an error to a smaller number of steps' (law 8 wants 1.1).
    Two numbers a cell are normals / mixture. For stochastic solvers: VP and the straight schedule; the ratios on VP."""
    from tests.laws.weak import remembering_curve, weak_curve

    lines = ["| solver | declared | LogLinear uniform | Linear uniform | " + " | ".join(GRIDS) + " |"]
    lines.append("|" + "---|" * (4 + len(GRIDS)))
    for name, solver in DETERMINISTIC.items():
        cells = [name, str(solver.order)]
        for schedule in (LogLinear(0.002, 80.0), Linear()):
            a, b = (errors(solver, schedule, ("uniform",), n)[0] for n in (256, 1024))
            cells.append(" / ".join(f"{slope(a[i], b[i], 4):.2f}" for i in (0, 1)))
        found = torch.stack([errors(solver, Linear(), GRIDS, n) for n in counts])
        for i in range(len(GRIDS)):
            cells.append(" / ".join(f"{worst_ratio(found[:, i, j].tolist()):.3f}" for j in (0, 1)))
        lines.append("| " + " | ".join(cells) + " |")
        print(lines[-1], flush=True)
    for name, solver in STOCHASTIC.items():
        cells = [name, str(solver.order)]
        on_mixture = remembering_curve if name == "dpmpp_2m_half" else weak_curve
        for schedule in (VP(), Linear()):
            if name == "euler_maruyama" and schedule == Linear():
                cells.append("refuses")
                continue
            curves = [f(solver, schedule, "uniform", (128, 512)) for f in (curve, on_mixture)]
            cells.append(" / ".join(f"{slope(*found, 4):.2f}" for found in curves) + f" on {type(schedule).__name__}")
        for rule in GRIDS:
            found = [worst_ratio(curve(solver, VP(), rule, counts[::4]))]
            found.append(worst_ratio(on_mixture(solver, VP(), rule, counts[::12])))
            cells.append(" / ".join(f"{ratio:.3f}" for ratio in found))
        lines.append("| " + " | ".join(cells) + " |")
        print(lines[-1], flush=True)
    return lines


if __name__ == "__main__":
    torch.set_num_threads(1)
    print("\n" + "\n".join(table()))
