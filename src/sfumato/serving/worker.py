"""The process that draws: it holds the runs and the device, and is spoken to over a socket. `python -m sfumato.serving.worker`.

It is started by the process that speaks HTTP, and started again where it dies: nothing that it knows is lost with it, for a
sample is a function of its run, query, seed and number.
"""

from __future__ import annotations

import dataclasses
import os
import queue
import re
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch.autograd import forward_ad

from sfumato.errors import Mendable, one_line
from sfumato.jobs.model import load
from sfumato.jobs.strict import options, to_plain
from sfumato.jobs.taken import fingerprint
from sfumato.jobs.walk import solvers_of
from sfumato.serving import cap
from sfumato.serving.engine import Cancelled, Engine
from sfumato.serving.wire import Closed, Wire
from sfumato.serving.work import Laden, Wish, Work
from sfumato.training.run import RunError

WORDS = 1000
"""Words of an option that the page is told at most."""
BEAT = 0.5
"""Seconds between two reports of how much was done."""


class Worker:
    """See above. ``runs``: name -> folder."""

    def __init__(self, wire: Wire, runs: Mapping[str, Path], most: int = 64, threads: int | None = None):
        self.wire, self.runs, self.most = wire, dict(runs), most
        if threads:
            torch.set_num_threads(threads)
        self.laden: dict[str, Laden] = {}
        self.caps: dict[int, cap.Cap] = {}
        self.engine = Engine(lambda model: self.caps[model].rows if model in self.caps else 16)
        self.works: dict[str, Work] = {}
        self.looks: queue.Queue[Callable[[], None] | None] = queue.Queue(1024)

    def load(self) -> None:
        """Load every run, and measure how many rows pay. Tells each."""
        derived()
        for name, folder in self.runs.items():
            model = load(folder)
            warmed(model)
            laden = Laden(name, model, fingerprint(model.run))
            found = cap.of_model(model, self.most, laden.weights)
            self.laden[name], self.caps[id(model.denoiser)] = laden, found
            self.wire.send(
                op="run", name=name, weights=laden.weights, walk=to_plain(model.walk), cap=found.rows,
                table=[list(pair) for pair in found.table], states=model.process.states, guided=guided(model),
                choices=choices(model), device=model.device.type,
                solvers=sorted(solvers_of(model.process)),
            )  # fmt: skip
        self.wire.send(op="ready")

    def run(self) -> None:
        """Load, then draw until told to stop or nobody listens any more."""
        self.load()
        for work in (self._listen, self._show, self._beat):
            threading.Thread(target=work, daemon=True, name=work.__name__).start()
        self.engine.run()

    # ---- threads -------------------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        while True:
            try:
                said, _ = self.wire.receive()
            except Closed:
                said = {"op": "stop"}
            if said["op"] == "submit":
                threading.Thread(target=self._work, args=(said["wish"],), daemon=True).start()
            elif said["op"] == "cancel" and (work := self.works.get(said["id"])) is not None:
                work.asker.gone = True
                self.engine.wake()
            elif said["op"] == "weights":
                self.engine.shares.weights = dict(said["weights"])
            elif said["op"] == "stop":
                self.engine.stop()
                return

    def _show(self) -> None:
        """Looks at samples on the way, one after the other: they hold nobody up."""
        while (look := self.looks.get()) is not None:
            try:
                look()
            except Exception:
                print(traceback.format_exc(), file=sys.stderr)

    def _enqueue(self, look: Callable[[], None]) -> None:
        try:
            self.looks.put_nowait(look)
        except queue.Full:
            return

    def _beat(self) -> None:
        while not self.engine.stopping:
            self.wire.send(op="beat", **self.figures())
            time.sleep(BEAT)

    def figures(self) -> dict[str, Any]:
        """What was done so far, in numbers."""
        counts = self.engine.counts
        return {
            "turns": counts.turns, "seconds": counts.seconds, "network": counts.network, "calls": counts.rows,
            "arrived": counts.arrived, "left": counts.left, "walking": len(self.engine.rows),
            "sizes": {str(size): turns for size, turns in counts.sizes.items()},
        }  # fmt: skip

    @torch.no_grad()
    def _work(self, said: Mapping[str, Any]) -> None:
        """A request, in a thread of its own."""
        number = said["id"]
        try:
            wish = options(Wish, said)
            work = Work(wish, self.laden[wish.run], self.engine, self.wire.send, self._enqueue)
            self.works[number] = work
            work.prepare()
        except Mendable as error:
            self.wire.send(op="refused", id=number, why=self._said(str(error), said))
        except Exception as error:
            self._broken(number, error)
        else:
            named = [list(work.queries.name(i)) for i in work.numbers[:64]]
            self.wire.send(
                op="admitted", id=number, rows=len(work.numbers), names=named, walk=to_plain(work.model.walk)
            )  # fmt: skip
            try:
                work.do()
                self._flush()
                self.wire.send(op="done", id=number)
            except Cancelled:
                self.wire.send(op="cancelled", id=number)
            except Mendable as error:
                why = self._said(one_line(error), said)
                self.wire.send(op="failed", id=number, why=why, kind=type(error).__name__)
            except Exception as error:
                self._broken(number, error)
        finally:
            self.works.pop(number, None)

    def _said(self, text: str, wish: Mapping[str, Any]) -> str:
        """A complaint without the places of this machine: a run has its name, a file that came with the request its own."""
        text = re.sub(re.escape(f"{wish['folder']}/") + r"(?:given/\w+/)?", "", text)
        for name, folder in self.runs.items():
            text = re.sub(re.escape(str(folder)) + r"(?=[:/,;\s'\"]|$)", name, text)
        return text

    def _flush(self) -> None:
        """Wait until what was to be shown is shown."""
        shown = threading.Event()
        self.looks.put(shown.set)
        shown.wait(30)

    def _broken(self, number: str, error: BaseException) -> None:
        """A bug, or a machine that fails: its traceback goes to the log, under the number of the request, and to nobody else."""
        print(f"request {number}: {''.join(traceback.format_exception(error))}", file=sys.stderr)
        self.wire.send(op="failed", id=number, why="", kind=type(error).__name__)


def derived() -> None:
    """A derivative, so that torch has compiled what it needs for one while there is but one thread: Python 3.11 reads source in
    two of them wrongly ("AST constructor recursion depth mismatch")."""
    with forward_ad.dual_level():
        forward_ad.make_dual(torch.zeros(1), torch.ones(1))


@torch.no_grad()
def warmed(model: Any) -> None:
    """One usual sample in a single step, made into a thing, so that the first request waits for nothing that is loaded when it
    is first used. A run that cannot tells whoever asks."""
    one = dataclasses.replace(model, walk=dataclasses.replace(model.walk, steps=1, tol=None))
    with suppress(Exception):
        queries = one.recipe.queries(one, one.recipe.Ask(), 1)
        for drawn in one.recipe.draw(one, queries, range(min(1, len(queries)))):
            one.recipe.things(one, queries, drawn)


def guided(model: Any) -> bool:
    """Whether strength of guidance does anything here."""
    return bool(model.recipe.guided)


def choices(model: Any) -> dict[str, list[str]]:
    """Words that an option of the query can take, as the field lists them: label -> its classes."""
    return {name: list(words)[:WORDS] for name, words in model.recipe.choices(model).items()}


def main(arguments: list[str]) -> int:
    """FD of the socket, rows of a batch at most, threads (0: as torch likes), then NAME=FOLDER for each run."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that speaks HTTP, which then says stop
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    end = socket.socket(fileno=int(arguments[0]))
    wire = Wire(end)
    runs = dict(word.split("=", 1) for word in arguments[3:])
    try:
        Worker(wire, {name: Path(folder) for name, folder in runs.items()}, int(arguments[1]), int(arguments[2])).run()
    except (Mendable, RunError) as error:
        wire.send(op="broken", why=str(error))
        return 1
    return 0


def leave(status: int) -> NoReturn:
    """At once: nothing here has to be put in order, and Python's own end picks up for seconds what torch has left."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
