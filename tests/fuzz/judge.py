"""What a reading came to: read, refused as it should be, or a fault of ours."""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
import time
import traceback
import warnings
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

from sfumato.data.errors import shown
from sfumato.errors import Mendable, NonFiniteSample
from tests.fuzz.kind import Kind

LONGEST = 1500
"""Characters of a refusal."""
WARNINGS = 3
NOISE = 4000
"""Bytes that decoders may print of their own."""
GROWTH_MB = 700
"""By how much a reading may grow the process: a picture of 64 million pixels, three times."""
CPU_S = 20.0
ROOM = 4 << 30
"""Address space beyond what the libraries took: whoever asks for more is found."""


def confine() -> None:
    """Bound the address space of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").is_file() else 0
    if pages:
        limit = pages * resource.getpagesize() + ROOM
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))


def _memory(name: str) -> float:
    """VmRSS or VmHWM in MB; 0 where there is none."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) / 1024
    return 0.0


def _forget_peak() -> None:
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def refusal(error: BaseException, file: Path, place: Path) -> str:
    """What is wrong with an error as an answer to a damaged ``file``, found by reading ``place``; "" for a good one."""
    if not isinstance(error, Mendable):
        return f"raises {type(error).__name__}"
    text = str(error)
    if "\n" in text or len(text) > LONGEST:
        return f"says {len(text)} characters in {text.count(chr(10)) + 1} lines"
    if isinstance(error, NonFiniteSample):  # weights that are numbers, if odd ones: there is nothing more to say
        return ""
    if not any(name in text for name in (file.name, shown(file.name), str(place), shown(place))):
        return "names no file"
    seen: set[int] = set()
    inner: BaseException | None = error
    while inner is not None and id(inner) not in seen:
        seen.add(id(inner))
        if isinstance(inner, MemoryError) or "allocate" in str(inner):
            return "asked for too much memory"
        inner = inner.__cause__ or inner.__context__
    return ""


def damage(kind: Kind, whole: Path, place: Path, rng: Random) -> Path:
    """A copy of a sample at ``place``, of which one file is damaged; returns that file."""
    files = sorted(file for pattern in kind.targets for file in whole.glob(pattern) if file.is_file())
    chosen = rng.choice(files)
    file = place / chosen.relative_to(whole)
    if kind.alone:
        place.mkdir()
    else:
        shutil.copytree(whole, place, copy_function=os.link)
        file.unlink()
    shutil.copyfile(chosen, file)
    data = kind.damaged(file, rng)
    file.write_bytes(data)
    return file


def judged(kind: Kind, whole: Path, place: Path, rng: Random) -> dict[str, Any]:
    """Damage a copy of a sample, read it, and say what came of it: {"kind", "file", "fault" or "", "said", "cpu", "mb"}."""
    file = damage(kind, whole, place, rng)
    before, began = _memory("VmRSS"), time.process_time()
    _forget_peak()
    fault, said, trace = "", "", ""
    noise = place / ".noise"
    with noise.open("wb") as sink, warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        for hidden in (DeprecationWarning, PendingDeprecationWarning, FutureWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", hidden)  # of libraries, about themselves
        streams = [os.dup(number) for number in (1, 2)]
        sys.stdout.flush(), sys.stderr.flush()
        for number in (1, 2):
            os.dup2(sink.fileno(), number)
        try:
            kind.read(place)
        except BaseException as error:
            said, fault = f"{type(error).__name__}: {error}"[:2000], refusal(error, file, place)
            trace = traceback.format_exc()[-3000:] if fault else ""
        finally:
            sys.stdout.flush(), sys.stderr.flush()
            for number, kept in zip((1, 2), streams):
                os.dup2(kept, number), os.close(kept)
    cpu, grown = time.process_time() - began, max(0.0, _memory("VmHWM") - before)
    if not fault and len(heard) > WARNINGS:
        fault, said = f"warns {len(heard)} times", str(heard[0].message)[:500]
    if not fault and noise.stat().st_size > NOISE:
        fault, said = f"prints {noise.stat().st_size} bytes", noise.read_bytes()[:500].decode("latin-1")
    if not fault and grown > GROWTH_MB:
        fault = f"grows by {grown:.0f} MB"
    if not fault and cpu > CPU_S:
        fault = f"takes {cpu:.0f} s"
    shutil.rmtree(place)
    return {"kind": kind.name, "file": str(file.relative_to(place)), "fault": fault, "said": said, "trace": trace,
            "cpu": round(cpu, 3), "mb": round(grown)}  # fmt: skip


def line(found: dict[str, Any]) -> str:
    """As it goes to the parent."""
    return json.dumps(found)
