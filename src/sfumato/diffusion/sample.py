"""Sampling: the walk from noise to data.

``sample`` is the whole method; better solvers than Euler's are better guesses of the endpoints (``solvers.py``), and where
to stop on the way is said by grids (``grids.py``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from sfumato.diffusion.coefficients import floating, numbers, plain
from sfumato.diffusion.denoiser import Guess
from sfumato.diffusion.paths import Endpoints
from sfumato.diffusion.process import States
from sfumato.diffusion.rng import Rng
from sfumato.diffusion.tree import Tree, own


class Solver(Protocol):
    """One step of the walk. ``memory`` is whatever the solver carries from step to step, at first ``prepare(times)``.

    Inherit from it: then the solver walks vectors, counts no calls and remembers nothing, unless it says otherwise.
    """

    states: ClassVar[tuple[States, ...]] = ("vectors",)
    """The worlds it walks; :func:`walk` refuses the others by name."""
    counts: ClassVar[bool] = False
    """Whether its memory is the number of calls of each row, (B,) int64: of solvers that choose their own steps."""

    @property
    def order(self) -> int:
        """Declared order of accuracy (weak order for stochastic solvers)."""

    def prepare(self, times: Tree) -> Any:
        """The memory before the first step."""
        return None

    def step(self, guess: Guess, x_t: Tree, t: Tree, s: Tree, memory: Any, rng: Rng) -> tuple[Tree, Any]:
        """x_t at time t -> x_s at the smaller time s, and the memory for the next step."""

    def scores(self, memory: Any) -> dict[str, Tree]:
        """What the memory says in the end of each row, name -> (B, ...)."""
        return {"calls": memory} if self.counts else {}


@dataclass(frozen=True)
class Euler(Solver):
    """Guess the endpoints, interpolate them at the next time. eta = 0 is DDIM, which is Euler's method in sigma / alpha
    and on the straight schedule Euler's method of the flow; eta = 1 is DDPM's ancestral sampling. Walks every world."""

    eta: float = 0.0
    order: int = 1
    states: ClassVar[tuple[States, ...]] = ("vectors", "tokens", "points", "parts")

    def step(self, guess: Guess, x_t: Tree, t: Tree, s: Tree, memory: None, rng: Rng) -> tuple[Tree, None]:
        return guess.process.step(guess(x_t, t), x_t, t, s, self.eta, rng), None


@dataclass(frozen=True)
class Bound:
    """A denoiser with its condition filled in; what depends on the condition alone is worked out once."""

    denoiser: Guess
    known: Tree | None

    @classmethod
    def of(cls, denoiser: Guess, condition: Mapping[str, Tree]) -> Bound:
        """The denoiser bound to these conditions, name -> (B, ...)."""
        return cls(denoiser, denoiser.given(**condition) if condition else None)

    @property
    def process(self) -> Any:
        return self.denoiser.process

    def given(self, **condition: Tree) -> Tree:
        """What is filled in already."""
        return self.known

    def __call__(
        self, x_t: Tree, t: Tree, s: Tree | None = None, *, given: Tree | None = None, **beside: Any
    ) -> Endpoints:
        known = self.known if given is None else given
        return self.denoiser(x_t, t, s, **beside) if known is None else self.denoiser(x_t, t, s, given=known, **beside)


def walk(
    denoiser: Guess,
    z: Tree,
    times: Tree,
    solver: Solver = Euler(),
    rng: Rng = None,
    *,
    x_t: Tree | None = None,
    **condition: Tree,
) -> Iterator[tuple[Tree, Any]]:
    """The :func:`trajectory` with the solver's memory beside each state: solvers that choose their own steps count their
    calls there, (B,). With ``x_t`` the walk begins there, at the first of ``times``, and not at ``process.start(z)``.

    Raises:
        ValueError: a solver that does not walk this world, or one of whose parameters is NaN; times that are not falling from
            at most 1 to at least 0.
    """
    process = denoiser.process
    check_world(process, solver)
    numbers(solver)
    check_times(times)
    guess = Bound.of(denoiser, condition)
    x_t, memory = process.start(z) if x_t is None else x_t, solver.prepare(times)
    if process.states in ("vectors", "points") and isinstance(x_t, Tensor):
        floating(x_t)
    yield x_t, memory
    for t, s in pairwise(times):
        x_s, memory = solver.step(guess, x_t, t, s, memory, rng)
        x_t = still(x_t, x_s, t, s)
        yield x_t, memory


def check_world(process: Any, solver: Solver) -> None:
    """Complain unless the solver walks the world of this process. Raises ValueError, which names both."""
    if process.states not in solver.states:
        raise ValueError(
            f"{type(solver).__name__} walks {' and '.join(solver.states)}, and the states of {type(process).__name__} are "
            f"{process.states}: use Euler()" + (", or Parts with a solver for each part" * (process.states == "parts"))
        )


def still(x_t: Tree, x_s: Tree, t: Tree, s: Tree) -> Tree:
    """x_s, and x_t itself wherever time stands still (t = s): known frames, columns and tokens stay to the bit."""
    if isinstance(x_s, Mapping):
        times = {name: (own(t, name), own(s, name)) for name in x_s}
        clean = {name for name, pair in times.items() if any(u is None for u in pair)}
        return {name: x if name in clean else still(x_t[name], x, *times[name]) for name, x in x_s.items()}
    if x_s is x_t:  # a clean part, whose shape has nothing to do with the times
        return x_s
    if plain(t) and plain(s):
        return x_t if t.item() == s.item() else x_s
    same = t == s
    if same.device.type == "cpu" and not bool(same.any()):
        return x_s
    return torch.where(same.to(x_s.device).reshape(same.shape + (1,) * (x_s.ndim - same.ndim)), x_t, x_s)


def check_times(times: Tree) -> None:
    """Complain unless these are times to walk along: a tensor (n + 1, ...), or a list of n + 1 dicts, n at least 1, that
    fall (or stand) from at most 1 to at least 0. Numbers on an accelerator are not looked at, which would wait for it.

    Raises:
        TypeError, ValueError: what is wrong with them.
    """
    if not isinstance(times, Tensor):
        if not isinstance(times, Sequence) or not all(isinstance(t, (Mapping, Tensor)) for t in times):
            raise TypeError(
                f"times must be a tensor (n + 1, ...), or a list of dicts for products, got {type(times).__name__}"
            )
        if len(times) < 2:
            raise ValueError(f"{len(times)} time(s): a walk needs two at least, where it begins and where it ends")
        for t, s in pairwise(times):
            _check_fall(t, s)
        return
    if times.ndim == 0 or len(times) < 2:
        raise ValueError(
            f"times of shape {tuple(times.shape)}: a walk needs two at least, as in torch.tensor([1.0, 0.0])"
        )
    _check_fall(times[:-1], times[1:])


def _check_fall(t: Tree, s: Tree, part: str = "") -> None:
    """Complain unless 1 >= t >= s >= 0 everywhere, part by part."""
    if isinstance(t, Mapping) or isinstance(s, Mapping):
        for name in t if isinstance(t, Mapping) else s:
            here, there = own(t, name), own(s, name)
            if here is not None and there is not None:
                _check_fall(here, there, f" of part {name!r}")
        return
    if t.device.type != "cpu" or s.device.type != "cpu":
        return
    low, high = float(s.min()), float(t.max())
    if bool((t < s).any()):
        raise ValueError(f"the times{part} must fall, from noise (1) to data (0): these rise somewhere")
    if not (low >= 0 and high <= 1):
        raise ValueError(f"the times{part} go from {high:g} to {low:g}: they must lie between 0 and 1")


def trajectory(
    denoiser: Guess, z: Tree, times: Tree, solver: Solver = Euler(), rng: Rng = None, **condition: Tree
) -> Iterator[Tree]:
    """Walk from noise z (B, ...) to data along ``times`` (falling; (n + 1,), or (n + 1, B) or (n + 1, B, L) where each
    sample or token has its own; a list of dicts for products) and yield every state on the way, the start included.
    Previews, early stops and videos need no other interface."""
    for x_t, _ in walk(denoiser, z, times, solver, rng, **condition):
        yield x_t


@torch.no_grad()
def sample(denoiser: Guess, z: Any, times: Tensor, solver: Solver = Euler(), rng: Rng = None, **condition: Any) -> Any:
    """The end of the :func:`trajectory`: samples shaped like z."""
    for x_t in trajectory(denoiser, z, times, solver, rng, **condition):  # noqa: B007
        pass
    return x_t
