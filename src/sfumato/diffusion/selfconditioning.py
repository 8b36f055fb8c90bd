"""Self-conditioning: the network sees its own previous guess of the data (Chen 2022, "Analog Bits", arXiv 2208.04202).

    loss(SelfConditioned(denoiser, share=0.5, rng=rng), x, t, rng)        # training: the same loss
    sample(denoiser, z, times, remember(Euler()))                         # sampling: the same sampler

The network takes one more condition, ``previous``: the last guess of x, or zeros where there is none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sfumato.diffusion import tree
from sfumato.diffusion.denoiser import Denoiser, Guess
from sfumato.diffusion.process import States
from sfumato.diffusion.rng import Rng, uniform_like
from sfumato.diffusion.sample import Solver
from sfumato.diffusion.tree import Tree


def zeros(x_t: Tree) -> Tree:
    """No guess yet: zeros shaped like x_t (B, ...), or like every part of it."""
    return tree.each(lambda x: torch.zeros_like(x, dtype=x.dtype if x.is_floating_point() else torch.float32), x_t)


Blank = Callable[[Any], Any]
"""x_t -> what ``previous`` is when there is no guess: shaped like the process's guess of x (tokens: (B, L, vocabulary))."""


def _where(which: Tensor, yes: Tree, no: Tree) -> Tree:
    try:
        return tree.where(which, yes, no)
    except ValueError as wrong:
        raise ValueError(f"the guess and the blank differ in shape: {wrong}; pass blank=, a function of x_t") from wrong


@dataclass(frozen=True)
class SelfConditioned:
    """A denoiser to train with: a share of the rows sees the guess that the network makes without one.

    The first guess costs a second forward pass, but no gradient flows through it.

    Args:
        denoiser: its network takes ``previous=``.
        share: of the rows that see a guess; the others see the blank.
        rng: draws which rows do.
        blank: what the others see, zeros like x_t unless given.

    Raises:
        ValueError: a share outside 0..1; a guess shaped otherwise than the blank.
    """

    denoiser: Denoiser
    share: float = 0.5
    rng: Rng = None
    blank: Blank = zeros

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"share of the rows that see a guess must be 0 to 1, got {self.share}")

    @property
    def process(self) -> Any:
        return self.denoiser.process

    def given(self, **condition: Tree) -> Tree:
        """What the denoiser inside makes of the conditions."""
        return self.denoiser.given(**condition)

    def answer(self, x_t: Tree, t: Tree, s: Tree | None = None, *, given: Tree | None = None, **condition: Any) -> Tree:
        """The network's answer, some rows of it given the guess of x that it makes first."""
        given = self.denoiser.given(**condition) if given is None else {**given, **condition}
        row = tree.first(x_t)
        seen = uniform_like(row, self.rng, (len(row),)) < self.share
        previous = self.blank(x_t)
        if self.share > 0:  # whichever rows see one: where weights lie in parts, all processes make the same calls
            with torch.no_grad():
                guessed = self.denoiser(x_t, t, s, given=given, previous=previous).x
            previous = _where(seen, guessed, previous)
        return self.denoiser.answer(x_t, t, s, given=given, previous=previous)

    def __call__(
        self, x_t: Tree, t: Tree, s: Tree | None = None, *, given: Tree | None = None, **condition: Any
    ) -> Any:
        """Guess both endpoints."""
        return self.process.endpoints(self.answer(x_t, t, s, given=given, **condition), x_t, t)


@dataclass
class _Recalling:
    """A denoiser that is told its last guess; lives for one step of the solver."""

    denoiser: Guess
    previous: Any

    @property
    def process(self) -> Any:
        return self.denoiser.process

    def given(self, **condition: Tree) -> Tree:
        return self.denoiser.given(**condition)

    def __call__(self, x_t: Any, t: Any, s: Any = None, **condition: Any) -> Any:
        ends = self.denoiser(x_t, t, s, previous=self.previous, **condition)
        self.previous = ends.x
        return ends


@dataclass(frozen=True)
class Remember(Solver):
    """See :func:`remember`."""

    solver: Solver
    blank: Blank = zeros

    @property
    def states(self) -> tuple[States, ...]:  # type: ignore[override]
        """The worlds of the solver inside."""
        return self.solver.states

    @property
    def order(self) -> int:
        return self.solver.order

    def prepare(self, times: Any) -> tuple[Any, None]:
        return self.solver.prepare(times), None

    def step(self, guess: Guess, x_t: Any, t: Any, s: Any, memory: tuple[Any, Any], rng: Rng) -> tuple[Any, Any]:
        inner, previous = memory
        recalling = _Recalling(guess, self.blank(x_t) if previous is None else previous)
        x_s, inner = self.solver.step(recalling, x_t, t, s, inner, rng)
        return x_s, (inner, recalling.previous)


def remember(solver: Solver, blank: Blank = zeros) -> Remember:
    """The same solver, whose every call of the network is given the guess of x of the call before as ``previous=`` (the
    first one the blank). In a walk it stands beside the conditions and guidance does not hide it; a guided guess that is
    called bare with ``previous=`` must be told what to hide, ``guide(..., drop=["label"])``, or it hides this too."""
    return Remember(solver, blank)
