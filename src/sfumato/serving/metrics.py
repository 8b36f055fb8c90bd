"""What the server has done, as Prometheus reads it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any


class Tally:
    """Counts that only the process that speaks HTTP knows."""

    def __init__(self) -> None:
        self.answers: Counter[tuple[str, int, str]] = Counter()
        self.ended: Counter[str] = Counter()
        self.refused = 0

    def answered(self, path: str, status: int, share: str) -> None:
        """An answer was sent. Of paths only what is known counts, so that nobody makes the list long."""
        self.answers[("/" + "/".join(path.split("/")[1:3]) if path.startswith("/v1/") else "page", status, share)] += 1
        if len(self.answers) > 10_000:
            self.answers.clear()


def line(name: str, value: float, **labels: Any) -> str:
    """One number."""
    told = ",".join(f'{key}="{_escaped(str(word))}"' for key, word in labels.items())
    return f"sfumato_{name}{{{told}}} {value:g}" if told else f"sfumato_{name} {value:g}"


def _escaped(word: str) -> str:
    return word.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")[:100]


def exposition(
    tally: Tally, live: Mapping[str, int], hands: Iterable[Any], caps: Mapping[str, int], restarts: int, kept: int,
    hooks: Mapping[str, int],
) -> str:  # fmt: skip
    """All of it. live: state -> rows; hands: the processes that draw."""
    out: list[str] = []

    def say(name: str, kind: str, words: str, lines: Iterable[str]) -> None:
        out.extend((f"# HELP sfumato_{name} {words}", f"# TYPE sfumato_{name} {kind}", *lines))

    answers = [
        line("http_requests_total", n, path=p, code=s, share=c) for (p, s, c), n in sorted(tally.answers.items())
    ]
    say("http_requests_total", "counter", "Answers by path, code and class.", answers)
    say("rows", "gauge", "Samples asked for, by state.", [line("rows", n, state=state) for state, n in live.items()])
    say("requests_ended_total", "counter", "Requests that have ended.",
        [line("requests_ended_total", n, state=state) for state, n in sorted(tally.ended.items())])  # fmt: skip
    say("requests_refused_total", "counter", "Requests turned away, the queue being full.",
        [line("requests_refused_total", tally.refused)])  # fmt: skip
    for name, key, words in (
        ("turns_total", "turns", "Steps of batches."), ("calls_total", "calls", "Rows of all calls of the network."),
        ("samples_total", "arrived", "Samples drawn."), ("left_total", "left", "Samples given up on the way."),
        ("turn_seconds_total", "seconds", "Seconds of turns."), ("step_seconds_total", "network", "Seconds of steps alone."),
    ):  # fmt: skip
        say(name, "counter", words, [line(name, hand.figures.get(key, 0), worker=hand.number) for hand in hands])
    say("batch_rows", "histogram", "Rows of a step.", [text for hand in hands for text in _histogram(hand)])
    say(
        "cap_rows",
        "gauge",
        "Rows of a batch at most, as measured.",
        [line("cap_rows", n, run=r) for r, n in caps.items()],
    )
    say("worker_ready", "gauge", "Whether a worker has its runs.",
        [line("worker_ready", hand.ready.is_set(), worker=hand.number) for hand in hands])  # fmt: skip
    say("worker_restarts_total", "counter", "Workers that died and were started again.",
        [line("worker_restarts_total", restarts)])  # fmt: skip
    say("webhooks_total", "counter", "Servers told that a request has ended.",
        [line("webhooks_total", hooks.get(outcome, 0), outcome=outcome) for outcome in ("taken", "lost")])  # fmt: skip
    say("kept_bytes", "gauge", "Bytes of what was made and is kept.", [line("kept_bytes", kept)])
    pids = {"http": os.getpid()} | {str(h.number): h.process.pid for h in hands if h.process is not None}
    say("resident_bytes", "gauge", "Memory of each process.",
        [line("resident_bytes", resident(pid), process=name) for name, pid in pids.items()])  # fmt: skip
    return "\n".join(out) + "\n"


def _histogram(hand: Any) -> list[str]:
    sizes = {int(size): turns for size, turns in hand.figures.get("sizes", {}).items()}
    out, size = [], 1
    while size <= 256:
        below = sum(turns for rows, turns in sizes.items() if rows <= size)
        out.append(line("batch_rows_bucket", below, worker=hand.number, le=size))
        size *= 2
    total = sum(sizes.values())
    rows = sum(size * turns for size, turns in sizes.items())
    return [*out, line("batch_rows_bucket", total, worker=hand.number, le="+Inf"),
            line("batch_rows_sum", rows, worker=hand.number), line("batch_rows_count", total, worker=hand.number)]  # fmt: skip


def resident(pid: int) -> int:
    """Bytes of memory that a process holds; 0 where nothing tells."""
    with suppress(OSError, ValueError, IndexError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0
