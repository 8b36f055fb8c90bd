"""Processes of this machine that draw bundles: given one at a time, begun again where one dies."""

from __future__ import annotations

import multiprocessing
import os
import signal
import traceback
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from sfumato.errors import Mendable
from sfumato.jobs.bulk import Bulk
from sfumato.training.leaving import Asked
from sfumato.training.run import RunError

PATIENCE = 3
"""Deaths over one bundle, without a batch of it drawn in between, after which it is given up."""
TICK = 0.5
"""Seconds after which a signal is heard at the latest."""


class Left(Mendable):
    """A process was told to leave, or those who told it what to do are gone."""


@dataclass
class Told:
    """What a set of processes did. deaths: processes that died. repeated: samples of batches that they had begun."""

    deaths: int = 0
    repeated: int = 0


@dataclass
class _Worker:
    process: Any
    pipe: Connection
    bundle: int | None = None
    begun: int = 0
    """Samples of the batch that it draws."""


def draw(bulk: Bulk, places: Sequence[int], count: int, noted: Asked, show: Callable[[int], None]) -> Told:
    """Draw the bundles of these places in ``count`` processes, until all are made or a signal came.

    Args:
        show: is told the samples that are there of these bundles, as they come.

    Raises what a process raised, and RunError where processes die over one bundle again and again.
    """
    return _Crew(bulk, deque(places), noted, show).work(min(count, len(places)))


class _Crew:
    def __init__(self, bulk: Bulk, waiting: deque[int], noted: Asked, show: Callable[[int], None]):
        self.bulk, self.waiting, self.noted, self.show = bulk, waiting, noted, show
        self.workers: list[_Worker | None] = []
        self.there: dict[int, int] = {}
        self.deaths: Counter[int] = Counter()
        self.told, self.made = Told(), 0

    def work(self, count: int) -> Told:
        try:
            for place in range(count):
                self.workers.append(self._begun(place))
            while every := [worker for worker in self.workers if worker is not None]:
                ready = wait([end for each in every for end in (each.pipe, each.process.sentinel)], TICK)
                if self.noted.signal is not None:
                    self.waiting.clear()
                    for each in every:
                        _say(each, "leave")
                for place, worker in enumerate(self.workers):
                    if worker is not None and (worker.pipe in ready or worker.process.sentinel in ready):
                        self._hear(place, worker)
        finally:
            for worker in self.workers:
                if worker is not None:
                    worker.process.kill()
                    worker.process.join()
        return self.told

    def _begun(self, place: int) -> _Worker:
        context = multiprocessing.get_context("spawn")
        mine, theirs = context.Pipe()
        process = context.Process(target=serve, args=(theirs, self.bulk, place), daemon=True)
        process.start()
        theirs.close()
        return _Worker(process, mine)

    def _hear(self, place: int, worker: _Worker) -> None:
        """All that a process has said by now; where it has ended, what comes of that."""
        try:
            while worker.pipe.poll():
                self._heard(worker, *worker.pipe.recv())
        except (EOFError, OSError):
            worker.process.join()
        if worker.process.is_alive():
            return
        over: int = worker.process.exitcode
        self.workers[place] = None
        if worker.bundle is not None and self.noted.signal is None:
            self._died(worker, over)
        if self.waiting:
            self.workers[place] = self._begun(place)

    def _heard(self, worker: _Worker, what: str, *said: Any) -> None:
        if what == "begins":
            worker.begun = said[0]
        elif what == "there":
            worker.begun = 0
            assert worker.bundle is not None
            if said[0] > self.there.get(worker.bundle, 0):
                self.deaths[worker.bundle] = 0
            self.there[worker.bundle] = said[0]
            self.show(self.made + sum(self.there.values()))
        elif what == "free":
            if worker.bundle is not None:
                self.made += self.there.pop(worker.bundle, 0)
            worker.bundle = self.waiting.popleft() if self.waiting else None
            _say(worker, worker.bundle)
        elif what == "failed":
            text, mendable = said
            raise Mendable(text) if mendable else RuntimeError(text)

    def _died(self, worker: _Worker, code: int) -> None:
        assert worker.bundle is not None
        bundle = self.bulk.bundle(worker.bundle)
        self.told.deaths += 1
        self.told.repeated += worker.begun
        self.deaths[worker.bundle] += 1
        if self.deaths[worker.bundle] >= PATIENCE:
            raise RunError(
                f"{self.bulk.folder}: {PATIENCE} processes that drew samples {bundle.first} to {bundle.stop - 1} died one "
                f"after the other (exit status {code}); often memory ran out: fewer --workers or a smaller --batch need less"
            )
        self.waiting.appendleft(worker.bundle)


def _say(worker: _Worker, word: Any) -> None:
    with suppress(OSError):  # where it has ended its sentinel tells
        worker.pipe.send(word)


# ---- in the process ------------------------------------------------------------------------------------------------------


def serve(pipe: Connection, bulk: Bulk, place: int) -> None:
    """Make the bundles that one is told to, until one is told to leave or nobody is there who tells."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)  # whoever begun this process hears them, and says so
    parent = os.getppid()
    try:
        _on_device(place)
        from sfumato.jobs.bulk_drawing import Drawer, one_thread

        with one_thread():
            drawer = Drawer(bulk)

            def look(done: int, begins: bool) -> None:
                if os.getppid() != parent or (pipe.poll() and pipe.recv() == "leave"):
                    raise Left
                size = min(drawer.model.walk.batch or 16, len(bulk.bundle(bundle)) - done)
                pipe.send(("begins", size) if begins else ("there", done))

            while True:
                pipe.send(("free",))
                bundle = pipe.recv()
                if not isinstance(bundle, int):
                    return
                drawer.make(bundle, look)
    except (Left, EOFError, BrokenPipeError, ConnectionResetError):
        return
    except Mendable as error:
        pipe.send(("failed", str(error), True))
    except BaseException:
        pipe.send(("failed", f"in a process that draws:\n{traceback.format_exc()}", False))


def _on_device(place: int) -> None:
    """Of several accelerators of a machine each process uses one, in turn."""
    import torch

    if torch.cuda.is_available() and torch.cuda.device_count() > 1:
        torch.cuda.set_device(place % torch.cuda.device_count())
