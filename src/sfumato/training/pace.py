"""CPU threads, measured again while a run trains.

Where another process is busy, two threads wait for each other and can be ten times slower than one; on an idle machine one is
slower than two. So now and then a few steps, which are steps of the training like any other, are made with another number,
and what is faster is kept.

How many threads multiply does change the last bits of sums (in a small transformer after five steps: 4 of 187 tensors
differ between one thread and two). So a run is the same bit for bit, whatever interrupted it, on one machine with
``--threads N``; without, it is the same up to rounding.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

LONG, SHARE, TRIES, GAIN = 20.0, 20.0, 3, 0.85
"""Seconds between trials at least; seconds for each one that a trial took; steps of a trial with each number, twice; the time
a step must at most take of what it took, for the number to be changed."""

DEFAULT = torch.get_num_threads()
"""Threads that torch uses of itself: as many as there are cores, or as the environment says."""


class Pace:
    """Call :meth:`begin` before each step and :meth:`end` after it."""

    def __init__(self, enabled: bool, tell: Callable[[str], None], most: int | None = None,
                 clock: Callable[[], float] = time.monotonic):  # fmt: skip
        self.now = torch.get_num_threads()
        self.most = max(self.now, DEFAULT if most is None else most)
        self.enabled, self.tell, self.clock = enabled and self.most > 1, tell, clock
        self.due = clock() + LONG
        self.turn = 0
        self._plan: list[int] = []
        self._times: dict[int, list[float]] = {}
        self._began = 0.0

    def begin(self) -> None:
        """A step begins: with the usual threads, or with those on trial."""
        if not self.enabled:
            return
        self._began = self.clock()
        if not self._plan and self._began >= self.due:
            self._start()
        if self._plan:
            torch.set_num_threads(self._plan[0])

    def end(self) -> None:
        """A step is done; after the last one of a trial the better number stays."""
        if not self.enabled or not self._plan:
            return
        self._times.setdefault(self._plan.pop(0), []).append(self.clock() - self._began)
        if not self._plan:
            self._decide()

    def _start(self) -> None:
        fewer, more = max(1, self.now // 2), min(self.most, self.now * 2)
        others = [n for n in (fewer, more) if n != self.now]
        other = others[self.turn % len(others)]
        self.turn += 1
        # in turns, so that what else goes on on the machine meets both
        self._plan = ([self.now] * TRIES + [other] * TRIES) * 2
        self._times = {}

    def _decide(self) -> None:
        spent = sum(map(sum, self._times.values()))
        self.due = self.clock() + max(LONG, SHARE * spent)
        # the first step with another number starts its threads: left out by the median
        speeds = {n: statistics.median(times) for n, times in self._times.items()}
        best = min(speeds, key=lambda n: speeds[n])
        if best != self.now and speeds[best] < GAIN * speeds[self.now]:
            self.tell(
                f"threads: {best} instead of {self.now}, which are faster now ({speeds[best]:.3g} s a step, not "
                f"{speeds[self.now]:.3g})"
            )
            self.now = best
        torch.set_num_threads(self.now)
