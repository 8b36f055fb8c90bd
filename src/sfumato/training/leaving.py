"""Being asked to leave: signals are noted, so that the step can be finished and saved."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sfumato.errors import Mendable, typed

NAMES = ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1")
"""Signals that ask for it: a scheduler's, Ctrl-C, a closed terminal, a scheduler's first warning."""


class Stopped(Mendable):
    """A signal asked to stop, and what was done is saved. ``code`` is the exit status to leave with."""

    def __init__(self, code: int, words: str = ""):
        super().__init__(f"stopped by {_name(code - 128)}{words and ' '}{words}")
        self.code = code


class Asked:
    """Which signal has come, if any."""

    signal: int | None = None


def _name(number: int) -> str:
    try:
        return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


@contextmanager
def asked() -> Iterator[Asked]:
    """Note the signals that ask to leave; a second one ends the process at once. One that is ignored, as SIGHUP under nohup,
    stays ignored. Under torchrun the same one is heard once more: a scheduler tells every process of a job, and the launcher
    passes on to its processes what it was told itself."""
    noted = Asked()
    echo = "TORCHELASTIC_RUN_ID" in os.environ

    def note(number: int, frame: Any) -> None:
        nonlocal echo
        if noted.signal is None:
            noted.signal = number
        elif echo and number == noted.signal:
            echo = False
        else:
            raise SystemExit(128 + number)

    before: dict[int, Any] = {}
    try:
        for name in NAMES:
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, note)
    except ValueError:  # not in the main thread: whoever runs us there handles signals
        pass
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def at_once() -> Iterator[None]:
    """Where there is nothing to save yet, the same signals end the process as Ctrl-C does: what was begun is cleared away."""

    def leave(number: int, frame: Any) -> None:
        raise SystemExit(128 + number)

    before: dict[int, Any] = {}
    try:
        for name in NAMES:
            number = getattr(signal, name, None)
            if name != "SIGINT" and number is not None and signal.getsignal(number) is signal.SIG_DFL:
                before[number] = signal.signal(number, leave)
    except ValueError:
        pass
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def go_on(folder: Path, known: bool) -> str:
    """How a run is gone on with: one that has a configuration, or one of a task of one's own."""
    return f"go on with `sfumato resume {typed(folder)}`" if known else f"go on by calling it again with {folder}"
