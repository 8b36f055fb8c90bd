"""Teams: rows that walk together as one batch, which others join and some leave between any two steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from sfumato.diffusion import tree
from sfumato.diffusion.sample import Solver, still
from sfumato.diffusion.tree import Tree
from sfumato.serving.guess import ByRow
from sfumato.serving.lookup import Lookups, Stops
from sfumato.serving.rows import Row, Together, ends_apart, form, joined, settled, taken


@dataclass(frozen=True)
class Walker:
    """How rows are walked: the denoiser, the solver and how it is spelt, guidance around what was said (of strengths (B,)),
    and the field's own around that, for a query's batch."""

    model: Any
    solver: Solver
    spelt: str
    around: Callable[[Any, Any], Any]
    guide: Callable[[Any, Mapping[str, Tree]], Any]

    @cached_property
    def ends_apart(self) -> bool:
        """Whether the last step of its solver is another one than those before."""
        return ends_apart(self.solver)


class Team:
    """Rows that walk together, as one batch.

    Args:
        rows: of one key. lookups: where their times are looked up. count: told the rows of each call of the network.
        before: the team that some of them have walked in until now, with its keys told: these come first, in its order.
    """

    rows: list[Row]
    x_t: Tree
    query: Tree
    strong: Tree
    weak: Tree

    def __init__(self, rows: Sequence[Row], lookups: Lookups, count: Callable[[int], None], before: Team | None = None):
        mine = set(map(id, rows))
        stay = [i for i, row in enumerate(before.rows) if id(row) in mine] if before is not None else []
        kept = [before.rows[i] for i in stay] if before is not None else []
        old = set(map(id, kept))
        new = [row for row in rows if id(row) not in old]
        self.rows, self.new, self.kept = kept + new, new, kept
        self.before, self.which = before, torch.tensor(stay, dtype=torch.int64)
        self.walker: Walker = self.rows[0].walker
        self.x_t = self._together(lambda team: team.x_t, lambda row: row.x_t)
        self.memory = self._remembered()
        self.query = self._together(lambda team: team.query, lambda row: dict(row.query))
        self.strong = self._together(lambda team: team.strong, lambda row: row.sides["strong"])
        self.guided = ["weak" in row.sides for row in self.rows]
        self.weak = self._weak(old) if any(self.guided) else None
        # compared with times, hence as wide as those
        w, low, high = (wide(each) for each in zip(*((row.w, row.low, row.high) for row in self.rows), strict=True))
        self.guess = ByRow(
            self.walker.model,
            self.strong,
            self.weak,
            torch.tensor(self.guided),
            w,
            low,
            high,
            self.walker.around,
            count,
        )
        self.guide = self.walker.guide(self.guess, self.query)
        self.rng = Together([row.rng for row in self.rows])
        self.stops = Stops(lookups, [row.times for row in self.rows], [row.place for row in self.rows])
        self.ahead, self.t, self.seen = 0, self.stops.at(0), None
        self.before = None

    def _together(self, of_team: Callable[[Team], Tree], of_row: Callable[[Row], Tree]) -> Tree:
        """What those who stay have had together, and the others alone."""
        parts = [of_row(row) for row in self.new]
        if self.before is not None and self.kept:
            whole = of_team(self.before)
            if whole is None:
                return None
            parts.insert(0, whole if len(self.kept) == len(self.before.rows) else tree.take(whole, self.which))
        return None if parts[0] is None else parts[0] if len(parts) == 1 else tree.join(*parts)

    def _remembered(self) -> Any:
        parts = [row.memory for row in self.new]
        if self.before is not None and self.kept:
            parts.insert(0, taken(self.before.settled(self.kept[0]), self.which))
        return joined(parts)

    def _weak(self, old: set[int]) -> Tree:
        """The hidden sides of those who are guided."""
        parts = [row.sides["weak"] for row in self.new if "weak" in row.sides]
        if self.before is not None and self.before.weak is not None:
            guided = [row for row in self.before.rows if "weak" in row.sides]
            which = torch.tensor([i for i, row in enumerate(guided) if id(row) in old], dtype=torch.int64)
            if len(which):
                parts.insert(0, tree.take(self.before.weak, which))
        return parts[0] if len(parts) == 1 else tree.join(*parts)

    def settled(self, row: Row) -> Any:
        """What the solver remembers, in the form of those that are as far as this row."""
        return settled(self.walker.solver, self.memory, self.x_t, self.t, row.steps_left)

    def tell_keys(self) -> None:
        """Say of each row that goes on with whom it can stand now."""
        forms: dict[bool, Any] = {}
        for row in self.rows:
            if row.steps_left:
                last = row.steps_left == 1
                if last not in forms:
                    forms[last] = form(self.settled(row))
                row.fits(forms[last])

    def step(self) -> None:
        """One step of all of them. Nothing is changed where it fails."""
        t, s = self.t, self.stops.at(self.ahead + 1)
        self.memory = self.settled(self.rows[0])
        x_s, memory = self.walker.solver.step(self.guide, self.x_t, t, s, self.memory, self.rng)
        self.x_t, self.memory, self.seen = still(self.x_t, x_s, t, s), memory, None
        self.t, self.ahead = s, self.ahead + 1
        for row in self.rows:
            row.place += 1

    def leave(self, rows: Sequence[Row]) -> None:
        """Give these their own state back."""
        mine = set(map(id, rows))
        for i, row in enumerate(self.rows):
            if id(row) in mine:
                row.x_t, row.memory = tree.take(self.x_t, slice(i, i + 1)), taken(self.memory, slice(i, i + 1))
                row.settle()

    def data(self, i: int) -> Tree:
        """What is guessed of a row as data, (1, ...)."""
        if self.seen is None:
            assert self.guess.last is not None
            self.seen = self.guide.process.interpolate(*self.guess.last, torch.zeros((), dtype=torch.float64))
        return tree.take(self.seen, slice(i, i + 1))


def wide(numbers: Sequence[float]) -> torch.Tensor:
    """Numbers as they are, on the CPU."""
    return torch.tensor(numbers, dtype=torch.float64)
