"""A server under mixed load, cancels and garbage for as long as asked: memory, wrong answers, how it ends.

    python -m benchmarks.serving_soak [--minutes 10] [--run RUN]

A tenth of what is sent is nonsense, a fifth is given up on the way; every sixteenth answer is compared with the offline sample
of its seed. Memory is looked at once a minute, after the first.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import socket
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sfumato.jobs.model import load
from sfumato.jobs.walk import Drawing, Walk
from tests.serving.small import Server, served

GARBAGE = [
    b"{",
    b"[" * 5000,
    b'{"run": "x"}',
    b'{"n": NaN}',
    b"\x00\xff",
    b'{"walk": {"steps": 1e9}}',
    b"null",
    b'"' * 999,
]


def client(server: Server, run: str, number: int, end: float, counts: Counter[str], kept: dict[Any, bytes]) -> None:
    """One client, until the time is up."""
    draw = random.Random(number)
    while time.monotonic() < end:
        what = draw.random()
        try:
            if what < 0.1:
                counts[f"nonsense {server.ask('POST', '/v1/samples', raw=draw.choice(GARBAGE))[0]}"] += 1
                continue
            if what < 0.13:  # half a request, and away
                with socket.create_connection(("127.0.0.1", server.port), 10) as line:
                    line.sendall(b"POST /v1/samples HTTP/1.1\r\nHost: local")
                counts["half"] += 1
                continue
            seed, steps, w = draw.randrange(10**6), draw.choice((3, 8, 20, 60)), draw.choice((1.0, 1.5, 4.0))
            body = {
                "run": run,
                "seed": seed,
                "n": draw.choice((1, 1, 3)),
                "walk": {"steps": steps, "w": w},
                "previews": 2,
            }
            status, job, _ = server.ask("POST", "/v1/samples", body)
            if status == 429:
                counts["429"] += 1
                time.sleep(0.2)
                continue
            if what < 0.33:
                counts[f"given up {server.ask('DELETE', '/v1/samples/' + job['id'])[0]}"] += 1
                continue
            done = server.until(job["id"], "done", "failed", "cancelled", seconds=120)
            counts[done["state"]] += 1
            status, raw, _ = server.ask("GET", done["things"][0]["url"])
            if seed % 16 == 0 and status == 200:
                kept[(seed, steps, w)] = raw
        except (OSError, AssertionError, KeyError, IndexError) as error:
            counts[f"{type(error).__name__}: {str(error)[:60]}"] += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--run", type=Path, default=Path("tests/runs/a3fdda3/classes"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/serving_soak.json"))
    asked = parser.parse_args()
    counts: Counter[str] = Counter()
    kept: dict[Any, bytes] = {}
    memory = []
    with (
        tempfile.TemporaryDirectory() as room,
        served([asked.run.resolve()], Path(room), "--keep-minutes", "1") as server,
    ):
        end = time.monotonic() + 60 * asked.minutes
        threads = [
            threading.Thread(target=client, args=(server, asked.run.name, i, end, counts, kept))
            for i in range(asked.clients)
        ]
        for thread in threads:
            thread.start()
        while time.monotonic() < end:
            time.sleep(min(60.0, 6 * asked.minutes))
            memory.append(server.metric("resident_bytes") / 1e6)
            print(f"{memory[-1]:.0f} MB  {dict(counts)}", flush=True)
        for thread in threads:
            thread.join()
        status = server.end()
        log = server.log.read_text()
    worst = 0
    for (seed, steps, w), raw in kept.items():
        (wanted,) = load(asked.run, Walk(steps=steps, w=w), Drawing(seed)).sample(1)
        worst = max(worst, int(np.abs(np.asarray(Image.open(io.BytesIO(raw))).astype(int) - wanted.astype(int)).max()))
    found = {"minutes": asked.minutes, "counts": dict(counts), "memory_mb": memory, "growth": memory[-1] / memory[1] - 1,
             "compared": len(kept), "worst_gap_in_bytes_of_256": worst, "exit": status,
             "tracebacks": log.count("Traceback")}  # fmt: skip
    print(json.dumps(found, indent=1))
    asked.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
