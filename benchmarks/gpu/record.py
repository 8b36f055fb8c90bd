"""What the sections share: results that survive a crash, time limits, clocks, and where the host waits for the device."""

from __future__ import annotations

import json
import math
import signal
import statistics
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]
Facts = dict[str, Any]


class TimeUp(BaseException):
    """The section's time is over. Not an Exception, so that nothing on the way takes it for an error of its own."""


class Record:
    """Results in ``out/gpu.json``, written whole after every change, and a log beside it."""

    def __init__(self, out: Path, seconds: float):
        out.mkdir(parents=True, exist_ok=True)
        self.out, self.seconds, self.began = out, seconds, time.monotonic()
        self.facts: Facts = {}
        (out / "log.txt").write_text("")

    def left(self) -> float:
        """Seconds left of the whole budget."""
        return self.seconds - (time.monotonic() - self.began)

    def say(self, text: str) -> None:
        """A line to the terminal and to log.txt, with the seconds since the start."""
        line = f"[{time.monotonic() - self.began:6.1f}] {text}"
        print(line, flush=True)
        with (self.out / "log.txt").open("a") as file:
            file.write(line + "\n")

    def save(self) -> None:
        temporary = self.out / ".gpu.json"
        temporary.write_text(json.dumps(plain(self.facts), indent=1) + "\n")
        temporary.replace(self.out / "gpu.json")

    def section(self, name: str, work: Callable[[Facts], None], limit: float) -> None:
        """Run ``work(facts)`` within ``limit`` seconds and what is left; whatever it raises is kept, not passed on."""
        facts: Facts = {}
        self.facts[name] = facts
        limit = min(limit, self.left())
        if limit < 2:
            facts["skipped"] = "no time left"
            self.say(f"{name}: no time left")
            self.save()
            return
        self.say(f"{name} ...")
        began = time.monotonic()
        try:
            with alarm(limit):
                work(facts)
        except TimeUp:
            facts["error"] = f"stopped after {limit:.0f} s, its time limit"
        except Exception:
            facts["error"] = traceback.format_exc()
        facts["seconds"] = round(time.monotonic() - began, 2)
        self.save()
        self.say(f"{name}: {facts['seconds']} s" + (f"\n{facts['error']}" if "error" in facts else ""))

    def attempt(self, facts: Facts, name: str, work: Callable[..., Any], *arguments: Any) -> Any:
        """Put the result of ``work(*arguments)`` into ``facts[name]``, or its traceback under "error"; returns it, or None."""
        try:
            facts[name] = work(*arguments)
        except Exception:
            facts[name] = {"error": traceback.format_exc()}
            self.say(f"  {name}: {facts[name]['error'].strip().splitlines()[-1][:300]}")
            self.save()
            return None
        self.save()
        return facts[name]


def errors(facts: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """(place, last line) of every error below ``facts``."""
    if isinstance(facts, Mapping):
        for name, value in facts.items():
            if name == "error":
                yield where, str(value).strip().splitlines()[-1]
            else:
                yield from errors(value, f"{where}/{name}" if where else str(name))


def plain(value: Any) -> Any:
    """As JSON can hold it: numbers that are not finite become text, tensors lists."""
    if isinstance(value, Mapping):
        return {str(name): plain(part) for name, part in value.items()}
    if isinstance(value, torch.Tensor):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, str | int | float | None) else str(value)


@contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """Raise TimeUp in here after so many seconds; in another thread than the main one there is no limit."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(number: int, frame: Any) -> None:
        raise TimeUp

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def wait(device: torch.device) -> None:
    """Until the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def clock(device: torch.device, work: Callable[[], Any], times: int = 1) -> float:
    """Seconds of one ``work()``, the mean of so many in a row between two synchronisations."""
    wait(device)
    begin = time.perf_counter()
    for _ in range(times):
        work()
    wait(device)
    return (time.perf_counter() - begin) / times


def summary(values: list[float]) -> dict[str, float]:
    """Median, quartiles and number."""
    low, _, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return {"median": statistics.median(values), "low": low, "high": high, "count": len(values)}


def in_turn(
    device: torch.device, works: Mapping[str, Callable[[], Any]], repeats: int, warm: int = 2, times: int = 1
) -> dict[str, dict[str, float]]:
    """Seconds of each work, taken in turn ``repeats`` times after ``warm`` rounds that do not count."""
    found: dict[str, list[float]] = {name: [] for name in works}
    for repeat in range(warm + repeats):
        for name, work in works.items():
            seconds = clock(device, work, times)
            if repeat >= warm:
                found[name].append(seconds)
    return {name: summary(values) for name, values in found.items()}


def syncs(device: torch.device, work: Callable[[], Any]) -> Facts:
    """How often ``work()`` waits for the device, and where: "file:line function" of the innermost line of the library
    (else of whoever called), how often. Nothing is seen on a CPU."""
    places: Counter[str] = Counter()

    def note(message: Any, category: Any, filename: str, lineno: int, *rest: Any) -> None:
        if "called a synchronizing" not in str(message):
            return
        stack = traceback.extract_stack()
        ours = [frame for frame in stack if "/src/sfumato/" in frame.filename]
        others = [f for f in stack if "/benchmarks/" in f.filename and "record.py" not in f.filename]
        frame = (ours or others or stack)[-1]
        places[f"{Path(frame.filename).name}:{frame.lineno} {frame.name}: {frame.line}"] += 1

    wait(device)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note  # type: ignore[assignment]
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            if device.type == "cuda":
                torch.cuda.set_sync_debug_mode("default")
    return {"count": sum(places.values()), "places": dict(places.most_common())}
