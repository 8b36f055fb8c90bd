"""Solvers by the names of the field. What they do is in flow_solvers.py, stochastic_solvers.py and adaptive_solver.py."""

from __future__ import annotations

from sfumato.diffusion.adaptive_solver import AdaptiveSolver, NotMet
from sfumato.diffusion.flow_solvers import DPMpp2M, DPMpp2S, Heun, Multistep, Node, follow
from sfumato.diffusion.sample import Euler, Solver
from sfumato.diffusion.stochastic_solvers import Churn, EulerMaruyama, Overstep, PredictorCorrector, Renoised

__all__ = [
    "SOLVERS",
    "AdaptiveSolver",
    "Churn",
    "DPMpp2M",
    "DPMpp2S",
    "Euler",
    "EulerMaruyama",
    "Heun",
    "Multistep",
    "Node",
    "NotMet",
    "Overstep",
    "PredictorCorrector",
    "Renoised",
    "ab",
    "ancestral",
    "dpmpp_2m",
    "dpmpp_2s",
    "euler",
    "follow",
    "heun",
    "unipc",
]


def euler(eta: float = 0.0) -> Euler:
    """DDIM (Song 2020) and Euler's method of the flow; ``eta`` as in DDIM."""
    return Euler(eta)


def ancestral() -> Euler:
    """DDPM's Markov chain (Ho 2020): Euler with eta = 1."""
    return Euler(1.0)


def heun() -> Heun:
    """Second order, two calls a step."""
    return Heun()


def dpmpp_2m(eta: float = 0.0) -> DPMpp2M:
    """DPM-Solver++(2M); ``eta`` as in :func:`euler`."""
    return DPMpp2M(eta)


def dpmpp_2s() -> DPMpp2S:
    """DPM-Solver++(2S): second order, two calls a step."""
    return DPMpp2S()


def ab(order: int = 3) -> Multistep:
    """Adams-Bashforth in the angle, order 1 to 4."""
    return Multistep(order)


def unipc(order: int = 3) -> Multistep:
    """Predictor and corrector for one call a step, order 2 to 4."""
    return Multistep(order, corrector=True)


SOLVERS: dict[str, Solver] = {
    "euler": Euler(),
    "ancestral": Euler(1.0),
    "heun": Heun(),
    "dpmpp_2m": DPMpp2M(),
    "dpmpp_2s": DPMpp2S(),
    "ab2": Multistep(2),
    "ab3": Multistep(3),
    "ab4": Multistep(4),
    "unipc": Multistep(3, corrector=True),
    "churn": Churn(),
    "euler_maruyama": EulerMaruyama(),
    "predictor_corrector": PredictorCorrector(),
    "adaptive": AdaptiveSolver(),
}
"""Solvers by the name a command line gives them."""
