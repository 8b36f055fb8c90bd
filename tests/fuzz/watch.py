"""The readers in a process of their own: one that dies or hangs costs one file, and the next goes on."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

PATIENCE_S = 120.0
"""Wall-clock seconds without an answer after which a reader hangs: many, for the machine may be busy."""


def chance(seed: int, number: int) -> Random:
    """All chance of one file."""
    return Random(f"{seed}/{number}")


def work(seed: int, folder: Path, only: str) -> None:
    """The child: numbers come in by lines, findings go out by lines."""
    import torch

    from tests.fuzz.judge import confine, judged, line
    from tests.fuzz.kinds import all_kinds

    torch.set_num_threads(1)
    answers = os.fdopen(os.dup(1), "w")
    kinds = [kind for kind in all_kinds() if only in kind.name]
    weights = [kind.weight for kind in kinds]
    confined = False
    for words in sys.stdin:
        number = int(words)
        rng = chance(seed, number)
        kind = rng.choices(kinds, weights)[0]
        whole = folder / f"{zlib.crc32(kind.name.encode()):08x}"
        if not whole.exists():
            whole.mkdir()
            kind.make(whole)
        answers.write(json.dumps({"begins": number, "kind": kind.name}) + "\n")
        answers.flush()
        if not confined:
            confine()
            confined = True
        answers.write(
            line({"number": number, **judged(kind, whole, folder / f"case-{os.getpid()}-{number}", rng)}) + "\n"
        )
        answers.flush()


def watched(
    numbers: Iterable[int], seed: int, only: str = "", patience: float = PATIENCE_S, reader: Sequence[str] = ()
) -> Iterator[dict[str, Any]]:
    """What became of each file, in order; a process that dies or hangs is a finding, and another takes its place.

    reader: the command of that process, if another than `work`.
    """
    todo = list(numbers)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as place:
        while todo:
            usual = [sys.executable, "-m", "tests.fuzz", "--seed", str(seed), "--work", place, "--kind", only]
            command = list(reader) or usual
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
            # files, not pipes, for what it reads and complains of: nothing then waits for anything
            with tempfile.TemporaryFile("w+") as asked, tempfile.TemporaryFile("w+") as complaints:
                asked.write("\n".join(map(str, todo)))
                asked.seek(0)
                child = subprocess.Popen(
                    command, stdin=asked, stdout=subprocess.PIPE, stderr=complaints, env=environment
                )
                assert child.stdout is not None
                kind = "?"
                try:
                    for found in _lines(child.stdout.fileno(), patience):
                        if "begins" in found:
                            kind = found["kind"]
                            continue
                        todo.remove(found["number"])
                        yield found
                    child.wait(patience)
                    fault = f"dies (status {child.returncode})"
                except (TimeoutError, subprocess.TimeoutExpired):
                    fault = f"hangs for {patience:g} s"
                finally:
                    child.kill()
                    child.wait()
                    child.stdout.close()
                if todo:
                    complaints.seek(0)
                    yield {"number": todo.pop(0), "kind": kind, "file": "?", "fault": fault, "said": "",
                           "trace": complaints.read()[-3000:], "cpu": 0.0, "mb": 0}  # fmt: skip


def _lines(pipe: int, patience: float) -> Iterator[dict[str, Any]]:
    """Lines of JSON as they come. Raises TimeoutError."""
    kept, last = b"", time.monotonic()
    while True:
        ready, _, _ = select.select([pipe], [], [], 1.0)
        if not ready:
            if time.monotonic() - last > patience:
                raise TimeoutError
            continue
        block = os.read(pipe, 1 << 16)
        if not block:
            return
        last = time.monotonic()
        *whole, kept = (kept + block).split(b"\n")
        for each in whole:
            yield json.loads(each)
