"""Rows: samples under way, each with its own times, memory, strength of guidance and randomness; and how they are joined.

What a solver carries from step to step is a tree whose leaves are tensors with a row each, numbers and nothings. Rows can
stand in one batch where all of that has the same form.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sfumato.adapting.flow_map import Leap
from sfumato.diffusion.flow_solvers import DPMpp2M, DPMpp2S, Heun, Multistep
from sfumato.diffusion.parts import Parts
from sfumato.diffusion.rng import Streams
from sfumato.diffusion.sample import Solver
from sfumato.diffusion.tree import Tree
from sfumato.diffusion.unmasking import Confidence, RandomOrder
from sfumato.serving.lookup import Times

# ---- what a solver remembers -------------------------------------------------------------------------------------------


def form(memory: Any) -> Any:
    """What two memories must have in common to be joined: where their tensors are, of which shape and type, and all else."""
    if isinstance(memory, Tensor):
        return tuple(memory.shape[1:]), memory.dtype
    if isinstance(memory, Mapping):
        return tuple((name, form(value)) for name, value in memory.items())
    if isinstance(memory, tuple):
        return tuple(form(value) for value in memory)
    return memory


def joined(memories: Sequence[Any]) -> Any:
    """Memories of one form as that of their rows together."""
    one = memories[0]
    if isinstance(one, Tensor):
        return torch.cat(list(memories))
    if isinstance(one, Mapping):
        return {name: joined([each[name] for each in memories]) for name in one}
    if isinstance(one, tuple):
        return _alike(one, [joined([each[i] for each in memories]) for i in range(len(one))])
    return one


def taken(memory: Any, rows: Tensor | slice) -> Any:
    """That of some of its rows."""
    if isinstance(memory, Tensor):
        return memory[rows]
    if isinstance(memory, Mapping):
        return {name: taken(value, rows) for name, value in memory.items()}
    if isinstance(memory, tuple):
        return _alike(memory, [taken(value, rows) for value in memory])
    return memory


def _alike(kind: tuple[Any, ...], values: list[Any]) -> Any:
    return type(kind)(*values) if hasattr(kind, "_fields") else tuple(values)


def settled(solver: Solver, memory: Any, x_t: Tree, t: Tree, left: int) -> Any:
    """A row's memory in the form that rows further on have too, where that means the same to the solver: a guess before the
    first one at its own time counts nothing, no fraction of a token is left over, and steps are counted from the end.

    Args:
        left: steps to go, this one among them.
    """
    if isinstance(solver, Parts):
        own = {name: (x_t[name], t[name] if isinstance(t, Mapping) else t) for name in solver.solvers if name in x_t}
        kept = {
            name: settled(solver.solvers[name], (memory or {}).get(name), *pair, left) for name, pair in own.items()
        }
        return {**(memory or {}), **kept}
    if memory is None and isinstance(solver, DPMpp2M):
        return t, torch.zeros_like(x_t)
    if memory is None and isinstance(solver, (Confidence, RandomOrder)):
        return torch.zeros(len(x_t), dtype=torch.float64, device=x_t.device)
    if isinstance(solver, Leap):
        return -1 if memory < 0 else 0 if left == 1 else 1
    return memory


def ends_apart(solver: Solver) -> bool:
    """Whether the last step is another one than those before, so that rows walk it apart: a step that ends at data asks for no
    second guess at its end, a flow map may go to the mean there."""
    if isinstance(solver, Leap):
        return solver.mean
    return isinstance(solver, (Heun, DPMpp2S)) or (
        isinstance(solver, Multistep) and (solver.corrector or solver.order > 2)
    )


def calls(solver: Solver, steps: int) -> int:
    """Calls of the network that so many steps take, about: for shares and for waiting."""
    twice = isinstance(solver, (Heun, DPMpp2S)) or type(solver).__name__ in ("Churn", "PredictorCorrector")
    return 2 * steps if twice else steps


# ---- randomness --------------------------------------------------------------------------------------------------------


class Together(Streams):
    """The streams of rows that were opened one by one, drawn from together: each goes on where it stands."""

    def __init__(self, own: Sequence[Streams]):
        self.own, self.device, self.counted, self.count = list(own), own[0].device, own[0].counted, len(own)
        if self.counted:
            self.keys = torch.cat([each.keys for each in own])
        else:
            self.generators = [generator for each in own for generator in each.generators]

    @property
    def drawn(self) -> Any:
        """How often each row has drawn, (B, 1)."""
        return torch.tensor([[each.drawn] for each in self.own], device=self.device)

    @drawn.setter
    def drawn(self, now: Any) -> None:
        for each, count in zip(self.own, now.reshape(-1).tolist(), strict=True):
            each.drawn = count


# ---- rows --------------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Row:
    """One sample under way.

    Attributes:
        number: its place in what is drawn together; owner: whom to tell, see :class:`~sfumato.serving.engine.Owner`.
        walker: the model that it is drawn from, its solver and how it is guided: rows of one batch share it.
        begin: gives its first state (1, ...), its times and its stream; called again where
            memory ran out on the way.
        query: its query's batch, of one row. sides: what the denoiser makes of its conditions, "strong" and, where it is
            guided, "weak".
        w, low, high: strength of guidance, and between which times.
        share: the class that pays for it. cost: network calls of its whole walk, about.
    """

    number: int
    owner: Any
    walker: Any
    begin: Callable[[], tuple[Tree, Times, Streams]]
    query: Mapping[str, Tree]
    sides: Mapping[str, Tree]
    w: float = 1.0
    low: float = 0.0
    high: float = 1.0
    share: str = ""
    place: int = 0
    waited: int = 0
    order: int = 0
    x_t: Tree = None
    times: Any = ()
    rng: Any = None
    memory: Any = None
    static: Any = None
    key: Any = None
    """Rows of one key can stand in one batch."""
    steps: int = 0
    cost: int = 1

    def start(self) -> None:
        """At its beginning, also once more."""
        self.x_t, self.times, self.rng = self.begin()
        self.place, self.memory, self.steps = 0, self.walker.solver.prepare(self.times), len(self.times) - 1
        self.static = (
            id(self.walker.model), self.walker.spelt, form(self.x_t), form(self.times[0]), form(dict(self.query)),
            form(self.sides["strong"]),
        )  # fmt: skip
        self.cost = calls(self.walker.solver, self.steps) * (2 if "weak" in self.sides else 1)
        self.settle()

    def settle(self) -> None:
        """Make its memory fit for company."""
        if self.steps_left:
            solver = self.walker.solver
            self.memory = settled(solver, self.memory, self.x_t, self.times[self.place], self.steps_left)
            self.fits(form(self.memory))

    def fits(self, memory: Any) -> None:
        """With whom it can stand now that its memory has this form."""
        self.key = self.static, memory, self.steps_left == 1 and self.walker.ends_apart

    @property
    def steps_left(self) -> int:
        return self.steps - self.place

    @property
    def left(self) -> float:
        """Network calls to go, about."""
        return self.cost * self.steps_left / max(1, self.steps)
