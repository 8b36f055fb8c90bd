"""The engine: one thread that walks the rows of everybody, a step of a batch at a time.

A turn takes up to as many rows of one form as pay (the cap), makes one step of their solver, and takes out those that have
arrived. Rows come and go between any two steps. What is no walk of rows (solvers that choose their own steps, an exact
repetition) asks for single calls of the network, which wait in the same line.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from sfumato.diffusion.tree import Tree
from sfumato.errors import Mendable
from sfumato.serving import fair
from sfumato.serving.lookup import Lookups
from sfumato.serving.rows import Row
from sfumato.serving.team import Team
from sfumato.training.memory import is_short, release

QUANTUM = 8
"""Turns before it is asked again who walks, where nobody came or went and others wait."""


class Cancelled(Mendable, Exception):
    """Whom it was drawn for has gone."""


class Owner(Protocol):
    """Whom rows are drawn for. All is called by the engine's thread."""

    gone: bool

    def stepped(self, row: Row, data: Callable[[], Tree]) -> None:
        """A row has made a step; ``data`` gives what is guessed of it by now, (1, ...)."""

    def arrived(self, row: Row) -> None:
        """A row is data."""

    def failed(self, error: BaseException) -> None:
        """Nothing will come any more."""


@dataclass(eq=False)
class Line:
    """What is done call by call, as one that waits: how many calls it takes, about, how many were made, and how long it has
    waited between them."""

    cost: int = 20
    made: int = 0
    waited: int = 0


@dataclass(eq=False)
class Call:
    """A single call of the network that waits in line as rows do: the next one of its line."""

    work: Callable[[], Any]
    share: str
    rows: int
    line: Line
    gone: Callable[[], bool]
    order: int = 0
    done: threading.Event = field(default_factory=threading.Event)
    answer: Any = None
    error: BaseException | None = None

    @property
    def cost(self) -> int:
        return self.line.cost

    @property
    def left(self) -> float:
        return max(1, self.line.cost - self.line.made)

    @property
    def waited(self) -> int:
        return self.line.waited

    @waited.setter
    def waited(self, calls: int) -> None:
        self.line.waited = calls

    @property
    def key(self) -> Any:
        return id(self)


@dataclass
class Counts:
    """What was done so far."""

    turns: int = 0
    seconds: float = 0.0
    network: float = 0.0
    rows: int = 0
    """Rows of all calls of the network."""
    arrived: int = 0
    left: int = 0
    sizes: Counter[int] = field(default_factory=Counter)
    """Rows of a batch -> turns."""


class Engine:
    """See above. ``cap``: rows of a batch at most, of a denoiser; ``shares``: the weights of the classes."""

    def __init__(self, cap: Callable[[Any], int], shares: fair.Shares | None = None):
        self.cap, self.shares = cap, shares or fair.Shares()
        self.inbox: deque[list[Row] | Call] = deque()
        self.news = threading.Condition()
        self.rows: list[Row] = []
        self.calls: list[Call] = []
        self.team: Team | None = None
        self.lookups, self.counts, self.stopping = Lookups(), Counts(), False
        self._stale = False  # some of the team have arrived, have gone, or make a last step of another kind
        self._until, self._order, self._few = 0, 0, dict[int, int]()
        self._thread = 0

    # ---- from other threads ------------------------------------------------------------------------------------------

    def enter(self, rows: Sequence[Row]) -> None:
        """Rows that are to be walked; their owners are told."""
        with self.news:
            self.inbox.append(list(rows))
            self.news.notify()

    def call(self, work: Callable[[], Any], share: str, rows: int, line: Line, gone: Callable[[], bool]) -> Any:
        """The outcome of ``work``, one call of the network of so many rows, once it was this one's turn. Raises Cancelled."""
        call = Call(work, share, rows, line, gone)
        with self.news:
            if self.stopping:
                raise Cancelled
            self.inbox.append(call)
            self.news.notify()
        call.done.wait()
        if call.error is not None:
            raise call.error
        return call.answer

    def here(self) -> bool:
        """Whether this is the engine's own thread."""
        return threading.get_ident() == self._thread

    def wake(self) -> None:
        """Somebody has gone."""
        with self.news:
            self.news.notify()

    def stop(self) -> None:
        """End :meth:`run` after this turn; what is left fails."""
        with self.news:
            self.stopping = True
            self.news.notify()

    # ---- the engine's own thread -------------------------------------------------------------------------------------

    @torch.no_grad()
    def run(self) -> None:
        """Turn after turn, until stopped."""
        self._thread = threading.get_ident()
        while True:
            with self.news:
                while not (self.inbox or self.rows or self.calls or self.stopping):
                    self.news.wait()
                if self.stopping:
                    break
            self.turn()
        for row in self.rows:
            row.owner.failed(Cancelled())
        for call in [*self.calls, *(each for each in self.inbox if isinstance(each, Call))]:
            call.error = Cancelled()
            call.done.set()

    @torch.no_grad()
    def turn(self) -> bool:
        """One turn; whether there was anything to do."""
        begun = time.perf_counter()
        changed = self._came() | self._went()
        if not (self.rows or self.calls):
            self.team = None
            return False
        if changed or self._stale or self.team is None or (self.counts.turns >= self._until and self._others()):
            self._choose()
        if self.team is not None:
            self._step(self.team)
        self.counts.turns += 1
        self.counts.seconds += time.perf_counter() - begun
        return True

    def _came(self) -> bool:
        came = False
        while self.inbox:
            new, came = self.inbox.popleft(), True
            for each in [new] if isinstance(new, Call) else new:
                self._order += 1
                each.order = self._order
            if isinstance(new, Call):
                self.calls.append(new)
                continue
            try:
                for row in new:
                    row.start()
                self.rows += new
            except Exception as error:
                new[0].owner.failed(error)
        return came

    def _went(self) -> bool:
        for call in [call for call in self.calls if call.gone()]:
            call.error = Cancelled()
            call.done.set()
            self.calls.remove(call)
        if not any(row.owner.gone for row in self.rows):
            return False
        self._stale = True
        gone = [row for row in self.rows if row.owner.gone]
        self.rows = [row for row in self.rows if not row.owner.gone]
        self.counts.left += len(gone)
        for owner in {id(row.owner): row.owner for row in gone}.values():
            owner.failed(Cancelled())
        return True

    def _others(self) -> bool:
        return bool(self.calls) or self.team is None or len(self.team.rows) < len(self.rows)

    def _most(self, key: Any) -> int:
        if isinstance(key, int):
            return 1
        model = key[0][0]
        return min(self._few.get(model, 1 << 30), self.cap(model))

    def _choose(self) -> None:
        """Who walks from now on. A call that is chosen is made at once."""
        before, stale = self.team, self._stale
        self._until, self._stale = self.counts.turns + QUANTUM, False
        if before is not None:
            if not stale and not self.calls and len(before.rows) == len(self.rows):
                return
            before.tell_keys()
        waiting: list[Any] = [*self.rows, *self.calls]
        found = fair.chosen(waiting, self.shares, self._most)
        call = found[0] if isinstance(found[0], Call) else None
        mine = set() if call is not None else set(map(id, found))
        if before is not None:
            others = [row for row in before.rows if id(row) not in mine]
            if not others and len(mine) == len(before.rows):
                return
            before.leave([row for row in others if row.steps_left and not row.owner.gone])
        self.team = Team(found, self.lookups, self._counted, before) if call is None else None
        if call is not None:
            self._made(call)

    def _counted(self, rows: int) -> None:
        self.counts.rows += rows

    def _made(self, call: Call) -> None:
        begun = time.perf_counter()
        try:
            call.answer = call.work()
        except BaseException as error:
            call.error = error
        self.calls.remove(call)
        call.line.made += 1
        self._counted(call.rows)
        self._passed(1, {call.share: call.rows}, ())
        call.done.set()
        self.counts.network += time.perf_counter() - begun

    def _passed(self, cost: int, paid: Mapping[str, int], walked: Sequence[Row]) -> None:
        """So many calls were made: their classes pay, and the others have waited."""
        for name, part in paid.items():
            self.shares.charge(name, part)
        if len(walked) == len(self.rows) and not self.calls:
            return
        mine = set(map(id, walked))
        everybody: list[Any] = [*self.rows, *self.calls]
        for each in everybody:
            if id(each) not in mine:
                each.waited += max(1, cost // max(1, len(walked)))

    def _step(self, team: Team) -> None:
        before, begun = self.counts.rows, time.perf_counter()
        try:
            team.step()
        except Exception as error:
            self._broken(team, error)
            return
        self.counts.network += time.perf_counter() - begun
        self.counts.sizes[len(team.rows)] += 1
        each = max(1, (self.counts.rows - before) // len(team.rows))
        self._passed(self.counts.rows - before, _paid(team.rows, each), team.rows)
        for i, row in enumerate(team.rows):
            row.owner.stepped(row, lambda i=i: team.data(i))
        done = [row for row in team.rows if row.steps_left == 0]
        if done:
            team.leave(done)
            self._stale = True
            self.rows = [row for row in self.rows if row.steps_left]
            self.counts.arrived += len(done)
            for row in done:
                row.owner.arrived(row)
        elif team.walker.ends_apart and 0 < sum(row.steps_left == 1 for row in team.rows) < len(team.rows):
            self._stale = True  # some of them ask once in their last step, and the others twice

    def _broken(self, team: Team, error: Exception) -> None:
        """A step failed: where memory ran out smaller batches begin again, else those that walked fail."""
        self.team, self._stale = None, False
        if is_short(error) and len(team.rows) > 1:
            release()
            self._few[id(team.walker.model)] = len(team.rows) // 2
            for row in team.rows:
                row.start()
            return
        mine = {id(row) for row in team.rows}
        self.rows = [row for row in self.rows if id(row) not in mine]
        for owner in {id(row.owner): row.owner for row in team.rows}.values():
            owner.failed(error)
        self.rows = [row for row in self.rows if not row.owner.gone]


def _paid(rows: Sequence[Row], each: int) -> dict[str, int]:
    paid: Counter[str] = Counter()
    for row in rows:
        paid[row.share] += each
    return dict(paid)
