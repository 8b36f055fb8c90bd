"""Which rows walk next: classes share the device by weight, within a class the shortest walk comes first, and nobody waits
for longer than four times its own length.

Pure functions of what they are given: a simulated clock tests them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

PATIENCE = 4
"""A row that has waited for so many times its own cost comes first."""


class Waiting(Protocol):
    """A row as it is seen from here: its class, the cost of its whole walk, what is left of it, what was done for others
    since it last walked, and the order in which it came."""

    share: str
    cost: int
    waited: int
    order: int

    @property
    def left(self) -> float: ...
    @property
    def key(self) -> Any: ...


@dataclass
class Shares:
    """What each class has had, divided by its weight. One that comes back from idling begins where the least served is: it
    has saved nothing up."""

    weights: dict[str, float] = field(default_factory=dict)
    had: dict[str, float] = field(default_factory=dict)

    def weight(self, name: str) -> float:
        """1 unless told otherwise."""
        return self.weights.get(name, 1.0)

    def present(self, names: Iterable[str]) -> None:
        """Those with rows now; the others are forgotten."""
        here = set(names)
        self.had = {name: spent for name, spent in self.had.items() if name in here}
        least = min(self.had.values(), default=0.0)
        for name in here - self.had.keys():
            self.had[name] = least

    def charge(self, name: str, cost: float) -> None:
        """So many calls were made for a class."""
        self.had[name] = self.had.get(name, 0.0) + cost / self.weight(name)


def chosen(rows: Sequence[Waiting], shares: Shares, most: Callable[[Any], int]) -> list[Any]:
    """Those that walk together next, all of one key and at most ``most(key)`` of them.

    First come rows that have waited too long, then those of the class that has had least, the shortest first. Each one that
    is chosen counts for its class before the next is.
    """
    if not rows:
        return []
    shares.present(row.share for row in rows)
    late = [row for row in rows if row.waited > PATIENCE * row.cost]
    first = min(late, key=lambda row: (row.cost - row.waited, row.order)) if late else None
    queues: dict[str, list[Any]] = {}
    for row in rows:
        queues.setdefault(row.share, []).append(row)
    if first is None:
        name = min(queues, key=lambda each: (shares.had[each], each))
        first = min(queues[name], key=_shortest)
    key = first.key
    room = max(1, most(key))
    fitting = [row for row in rows if row is not first and row.key == key]
    if len(fitting) < room:
        return [first, *fitting]
    urgent = sorted((row for row in fitting if row.waited > PATIENCE * row.cost), key=lambda row: row.cost - row.waited)
    found = [first, *urgent][:room]
    taken = set(map(id, found))
    left = {name: sorted((r for r in queue if r.key == key and id(r) not in taken), key=_shortest, reverse=True)
            for name, queue in queues.items()}  # fmt: skip
    had = dict(shares.had)
    for row in found:
        had[row.share] += 1 / shares.weight(row.share)
    while len(found) < room and (names := [name for name, queue in left.items() if queue]):
        name = min(names, key=lambda each: (had[each], each))
        found.append(left[name].pop())
        had[name] += 1 / shares.weight(name)
    return found


def _shortest(row: Waiting) -> tuple[float, int]:
    return row.left, row.order
