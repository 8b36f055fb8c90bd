"""The walk of rows: columns in turn, each row's in an order of its own, then all values together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from sfumato.diffusion.denoiser import Denoiser, Guess
from sfumato.diffusion.parts import AskedOnce, Parts
from sfumato.diffusion.paths import Endpoints
from sfumato.diffusion.process import States
from sfumato.diffusion.product import Product
from sfumato.diffusion.rng import Rng, uniform_like
from sfumato.diffusion.sample import Bound, Solver
from sfumato.diffusion.solvers import ab, dpmpp_2m
from sfumato.diffusion.tokens import draw, probabilities, share
from sfumato.diffusion.tree import Tree
from sfumato.fields.tables.apart import SIZES


class Order(NamedTuple):
    """What the states of rows are drawn by, worked out once: a uniform number for each state (B, C), its place in the row's
    order from 0 on (B, C), how many places there are, (B, 1), and what share of the states was there before, (B, 1)."""

    chance: Tensor
    place: Tensor
    places: Tensor
    before: Tensor


@dataclass(frozen=True)
class Turns(Solver):
    """States in turn, in a random order of each row: the data's own law where a step draws one.

    As :class:`~sfumato.diffusion.unmasking.RandomOrder`; but order and chance are drawn once, at the first step, and the guess
    is asked for the states that are drawn in this step alone. It must be :class:`OfStates`.

    Where steps are fewer than the columns that are to be drawn, those of a group (see :mod:`apart`) have one place in the order:
    they are drawn together, and columns that hang together are not.
    """

    order: int = 1
    states: ClassVar[tuple[States, ...]] = ("tokens",)

    def prepare(self, times: Any) -> int:
        """In how many steps states are drawn."""
        return sum(not torch.equal(t, s) for t, s in pairwise(times))

    def step(
        self, guess: Any, x_t: Tensor, t: Tensor, s: Tensor, memory: int | Order, rng: Rng
    ) -> tuple[Tensor, Order]:
        process = guess.process
        if not isinstance(memory, Order):
            memory = ordered(process, x_t, memory, rng, before=least(process, t, x_t))
        now = least(process, s, x_t)
        due = (memory.places * (now - memory.before) / (1 - memory.before) + 1e-6).floor()
        chosen = process.open(x_t) & (memory.place < due)
        if not bool(chosen.any()):
            return x_t, memory
        few, x_s = guess.of(chosen), x_t.clone()
        x_s[chosen] = draw(probabilities(few, few.shape[-1]), memory.chance[chosen]) if few.is_floating_point() else few
        return x_s, memory


def least(process: Any, t: Tensor, x: Tensor) -> Tensor:
    """The share of the states of a row that are there at t, (B, 1): that of a column that is not given from the start."""
    found = share(process.schedule, t, x)
    return found.expand(len(x), 1) if found.ndim < 2 else found.amin(1, keepdim=True).expand(len(x), 1)


def ordered(process: Any, x_t: Tensor, calls: int, rng: Rng, before: Tensor) -> Order:
    """An order of the masked states of each row, drawn by chance: of every state where ``calls`` are no fewer than they."""
    chance, turn = uniform_like(x_t, rng, (*x_t.shape, 2)).unbind(-1)
    open_ = process.open(x_t)
    if process.apart and calls:
        several = (open_.sum(1) / calls).round()  # columns a call, of each row
        size = torch.bucketize(several, torch.tensor(SIZES, dtype=several.dtype, device=x_t.device), right=True)
        group = torch.tensor([range(x_t.shape[1]), *process.apart], device=x_t.device)[size]
        turn = turn.gather(1, group)
    falling, at = torch.where(open_, turn, -1.0).sort(dim=1, descending=True, stable=True)
    new = torch.ones_like(open_)
    new[:, 1:] = falling[:, 1:] != falling[:, :-1]
    rank = new.cumsum(1) - 1  # those of a group have one number, and so one place
    place = torch.empty_like(rank).scatter_(1, at, rank)
    places = torch.where(open_, place + 1, 0).amax(1, keepdim=True)
    return Order(chance, place, places, before.clamp_max(1 - 1e-9))  # where every column is given nothing is due


@dataclass(frozen=True)
class InTurn(Parts):
    """States by :class:`Turns`, values by ``ab2``, as ``Parts`` of the two would walk them; with less work. A part whose time
    stands still in every row is left alone, unless it draws noise, and where values stand still the network is asked for the
    states alone that are drawn.

    In few even steps ``ab2`` keeps the spread of values that hang together where ``dpmpp_2m`` makes them too narrow: of normal
    columns with a correlation of .8, whose best guess is known, it loses a tenth of the variance in 5 steps, and that a quarter.

    Args:
        eta: fresh noise of the values; above 0 they are walked by ``dpmpp_2m``, which has some.
    """

    solvers: Mapping[str, Solver] = field(default_factory=dict, init=False, repr=False)
    eta: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "solvers", {"states": Turns(), "values": dpmpp_2m(self.eta) if self.eta else ab(2)})

    def of(self, product: Product) -> dict[str, Solver]:
        """The solver of each part; a table of words alone has no values."""
        return Parts({name: self.solvers[name] for name in product.moving() if name in self.solvers}).of(product)

    def prepare(self, times: Any) -> dict[str, Any]:
        """Of each part what its solver makes of its times; a table of words alone has none of values."""
        found = {}
        for name, solver in self.solvers.items():
            own = times if isinstance(times, Tensor) else [t.get(name) if isinstance(t, Mapping) else t for t in times]
            if all(t is not None for t in own):
                found[name] = solver.prepare(own)
        return found

    def step(self, guess: Guess, x_t: Tree, t: Tree, s: Tree, memory: Any, rng: Rng) -> tuple[Tree, Any]:
        rows: Any = x_t
        x_s, kept, solvers, moved = dict(rows), dict(memory), self.of(guess.process), {}
        for name, solver in solvers.items():
            here, there = ((u[name] if isinstance(u, Mapping) else u) for u in (t, s))
            if getattr(solver, "eta", 0.0) or not torch.equal(here, there):
                moved[name] = here, there
        asked = OfStates(guess, rows, t, alone="values" not in moved)
        for name, (here, there) in moved.items():
            told: Any = asked if name == "states" else asked.part(name, here, type(solvers[name]).__name__)
            x_s[name], kept[name] = solvers[name].step(told, rows[name], here, there, memory[name], rng)
        return x_s, kept


@dataclass(frozen=True)
class OfStates:
    """A guess of rows at one time, asked at most once, of which states are wanted: those that are chosen.

    Args:
        alone: whether nothing else is wanted. Then a network that can leaves out the answers of all other cells.
    """

    guess: Guess
    rows: Any
    t: Any
    alone: bool

    @property
    def process(self) -> Any:
        """That of the states."""
        return self.guess.process.processes["states"]

    @cached_property
    def ends(self) -> Any:
        """The guess of everything."""
        return self.guess(self.rows, self.t)

    def of(self, chosen: Tensor) -> Tensor:
        """What is guessed of the chosen cells, bool (B, C), in order: log-probabilities (n, V), or states (n,)."""
        inner = self.guess.denoiser if isinstance(self.guess, Bound) else self.guess
        # by any other guess (a guided one, one that is looked at) all is asked for
        if self.alone and self.process.only and isinstance(inner, Denoiser):
            found: Any = self.guess(self.rows, self.t, only=chosen)
            return found.x["states"]
        return self.ends.x["states"][chosen]

    def part(self, name: str, t: Tensor, who: str) -> AskedOnce:
        """The guess of another part."""
        ends = Endpoints(self.ends.x[name], self.ends.z[name])
        return AskedOnce(self.guess.process.processes[name], ends, self.rows[name], t, who)
