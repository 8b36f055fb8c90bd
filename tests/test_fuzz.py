"""No file crashes us: a share of `python -m tests.fuzz`, and what it is that finds a crash."""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from sfumato.errors import DataError
from tests.fuzz import judge, watch
from tests.fuzz.kind import Kind, changed
from tests.fuzz.kinds import all_kinds
from tests.fuzz.watch import chance

KINDS = all_kinds()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_whole_sample_is_read(kind: Kind, tmp_path: Path):
    """Else a reader that refuses everything would pass."""
    whole = tmp_path / "whole"
    whole.mkdir()
    kind.make(whole)
    files = sorted({file for pattern in kind.targets for file in whole.glob(pattern) if file.is_file()})
    assert files
    for file in files if kind.alone else files[:1]:
        place = tmp_path / file.name
        if kind.alone:
            place.mkdir()
            (place / file.name).write_bytes(file.read_bytes())
        kind.read(place if kind.alone else whole)


def test_three_hundred_damaged_files_are_read_or_refused_in_a_line():
    found = list(watch.watched(range(300), seed=0))
    assert [each["number"] for each in found] == list(range(300))
    assert [(each["number"], each["fault"], each["said"]) for each in found if each["fault"]] == []
    refused = sum(bool(each["said"]) for each in found)
    assert 100 < refused < 290  # some are read: what is damaged is not all that matters
    assert len({each["kind"] for each in found}) > 20


def test_the_same_number_is_the_same_damage(tmp_path: Path):
    kind = next(kind for kind in KINDS if kind.name == "arrays")
    (tmp_path / "whole").mkdir()
    kind.make(tmp_path / "whole")

    def damaged(seed: int, number: int, name: str) -> tuple[str, bytes]:
        file = judge.damage(kind, tmp_path / "whole", tmp_path / name, chance(seed, number))
        return file.name, file.read_bytes()

    assert damaged(1, 2, "a") == damaged(1, 2, "b")
    assert len({damaged(*pair, f"{i}") for i, pair in enumerate([(1, 2), (1, 3), (2, 2)])}) == 3


# ---- faults are found ----------------------------------------------------------------------------------------------------


def raises(error: Exception) -> Callable[[Path], None]:
    def read(place: Path) -> None:
        raise error

    return read


def names_it(place: Path) -> None:
    raise DataError(f"{changed(place)}: is damaged; copy it again")


def asks_for_too_much(place: Path) -> None:
    try:
        raise MemoryError("Unable to allocate 16.0 GiB")
    except MemoryError as error:
        raise DataError(f"{changed(place)}: cannot be read") from error


def takes_memory(place: Path) -> None:
    np.ones((judge.GROWTH_MB + 100) << 17).sum()


def takes_time(place: Path) -> None:
    began = time.process_time()
    while time.process_time() - began < 0.2:
        pass


def warns(place: Path) -> None:
    for i in range(judge.WARNINGS + 1):
        warnings.warn(f"flood {i}", UserWarning, stacklevel=1)


@pytest.mark.parametrize(("read", "fault"), [
    (lambda place: None, ""), (names_it, ""), (raises(TypeError("x")), "raises TypeError"),
    (raises(RecursionError()), "raises RecursionError"), (raises(SystemExit(1)), "raises SystemExit"),
    (raises(DataError("something is damaged")), "names no file"),
    (raises(DataError("a.bin: two\nlines")), "says 16 characters in 2 lines"),
    (raises(DataError("a.bin: " + "x" * 5000)), "says 5007 characters in 1 lines"),
    (asks_for_too_much, "asked for too much memory"), (takes_memory, "grows by"), (takes_time, "takes"), (warns, "warns 4 times"),
    (lambda place: os.write(2, b"x" * (judge.NOISE + 1)), "prints"),
])  # fmt: skip
def test_what_is_no_answer_to_a_damaged_file_is_a_fault(
    read: Callable[[Path], None], fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    if fault == "grows by" and not Path("/proc/self/clear_refs").exists():
        pytest.skip("the peak of memory is not known here")
    monkeypatch.setattr(judge, "GROWTH_MB", 100)
    monkeypatch.setattr(judge, "CPU_S", 0.1 if read is takes_time else 30.0)
    whole = tmp_path / "whole"
    whole.mkdir()
    (whole / "a.bin").write_bytes(bytes(range(64)))
    found = judge.judged(Kind("planted", lambda place: None, read), whole, tmp_path / "case", Random(0))
    assert found["fault"].startswith(fault)
    assert bool(found["fault"]) == bool(fault)
    assert not (tmp_path / "case").exists()


READER = """
import json, os, signal, sys
for line in sys.stdin:
    number = int(line)
    print(json.dumps({"begins": number, "kind": "planted"}), flush=True)
    if number == 2:
        os.kill(os.getpid(), signal.SIGSEGV)
    if number == 4:
        print(json.dumps({"begins": "nothing", "kind": "stuck"}), flush=True)
    print(json.dumps({"number": number, "kind": "planted", "file": "a", "fault": "", "said": ""}), flush=True)
"""


def test_a_reader_that_dies_or_hangs_costs_one_file(monkeypatch: pytest.MonkeyPatch):
    said = watch._lines

    def lines(pipe: int, patience: float) -> Iterator[dict[str, Any]]:
        for found in said(pipe, patience):
            if found["kind"] == "stuck":
                raise TimeoutError
            yield found

    monkeypatch.setattr(watch, "_lines", lines)
    found = list(watch.watched(range(6), 0, reader=[sys.executable, "-S", "-c", READER]))
    assert [each["number"] for each in found] == list(range(6))
    assert [each["fault"] for each in found] == ["", "", "dies (status -11)", "", "hangs for 120 s", ""]


def test_silence_is_a_hang():
    ours, theirs = os.pipe()
    try:
        with pytest.raises(TimeoutError):
            list(watch._lines(ours, patience=0.0))
    finally:
        os.close(ours), os.close(theirs)
