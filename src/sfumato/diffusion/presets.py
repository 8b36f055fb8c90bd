"""The literature in one line each: which process, which training times, which solver and grid."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

from sfumato.diffusion.grids import Grid, karras, uniform
from sfumato.diffusion.process import Gaussian
from sfumato.diffusion.sample import Euler, Solver
from sfumato.diffusion.schedule import EDM, VE, VP, Cosine, Linear
from sfumato.diffusion.solvers import EulerMaruyama, Heun, PredictorCorrector
from sfumato.diffusion.times import LogNormal, Times, Uniform


@dataclass(frozen=True)
class Method:
    """A published method: how it noises and answers, when it trains, how it samples."""

    process: Gaussian
    times: Times
    solver: Solver
    grid: Grid


def ddpm() -> Method:
    """Ho 2020: linear betas (their continuous limit), noise answer, ancestral sampling."""
    return Method(Gaussian(VP(), "noise"), Uniform(), Euler(eta=1.0), uniform)


def iddpm() -> Method:
    """Nichol & Dhariwal 2021: cosine schedule, noise answer."""
    return Method(Gaussian(Cosine(offset=0.008), "noise"), Uniform(), Euler(eta=1.0), uniform)


def edm(sigma_data: float = 0.5) -> Method:
    """Karras 2022; its noise levels are for data of spread ``sigma_data``, ours of unit spread, hence the division."""
    low, high = 0.002 / sigma_data, 80 / sigma_data
    grid = partial(karras, sigma_min=low, sigma_max=high)
    return Method(Gaussian(EDM(low, high), "v"), LogNormal(-1.2 - math.log(sigma_data), 1.2), Heun(), grid)


def vp_sde() -> Method:
    """Song 2021: variance-preserving SDE, sampled by Euler-Maruyama."""
    return Method(Gaussian(VP(), "noise"), Uniform(low=1e-3), EulerMaruyama(), uniform)


def ve_sde() -> Method:
    """Song 2021: variance-exploding SDE, predictor-corrector."""
    return Method(Gaussian(VE(), "noise"), Uniform(), PredictorCorrector(), uniform)


def flow_matching() -> Method:
    """Lipman 2023, Liu 2023: straight schedule, velocity answer, Euler."""
    return Method(Gaussian(Linear(), "velocity"), Uniform(low=0.0), Euler(), uniform)
