"""A run directory: everything about one training, from which it can be continued and its model rebuilt.

config.yaml  model.safetensors  checkpoints/  snapshots/  log.jsonl  samples/  README.md
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sfumato.errors import Mendable

SEAL = "checksum"
"""The name under which a file of names and values keeps its own checksum."""


class RunError(Mendable):
    """One line: which run, what is wrong, what to do."""


@dataclass(frozen=True)
class Run:
    """Paths and files of a run directory."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def model(self) -> Path:
        return self.path / "model.safetensors"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def snapshots(self) -> Path:
        return self.path / "snapshots"

    @property
    def samples(self) -> Path:
        return self.path / "samples"

    @property
    def walk(self) -> Path:
        """What the run measured of itself for sampling: its grid, a residual."""
        return self.path / "walk.json"

    @property
    def cache(self) -> Path:
        return self.path / "cache"

    def sub(self, name: str) -> Run:
        """A run inside this one."""
        return Run(self.path / name)

    def create(self) -> None:
        """Make the directory. Raises RunError if it cannot be written."""
        try:
            for folder in (self.path, self.samples, self.cache):
                folder.mkdir(parents=True, exist_ok=True)
            probe = self.path / f".writable.{os.getpid()}"  # of several processes that begin at once each has its own
            probe.write_bytes(b"")
            probe.unlink(missing_ok=True)
        except OSError as error:
            raise RunError(
                f"{self.path}: cannot write here ({error.strerror}); choose another folder with --out"
            ) from error

    def require(self) -> None:
        """Raises RunError unless this is a run."""
        if not self.config.is_file():
            raise RunError(f"{self.path}: not a run (no config.yaml); give the folder that `sfumato train --out` made")

    def log(self, record: Mapping[str, Any]) -> None:
        """Append a line to log.jsonl; a full disk must not stop training."""
        try:
            with (self.path / "log.jsonl").open("a") as file:
                file.write(json.dumps({"time": round(time.time(), 3), **record}) + "\n")
        except OSError:
            pass

    def records(self) -> list[dict[str, Any]]:
        """The lines of log.jsonl that can be read (a killed process may have left half a line)."""
        found = []
        try:
            for line in (self.path / "log.jsonl").read_text(encoding="utf-8", errors="replace").splitlines():
                with suppress(ValueError, RecursionError):
                    record = json.loads(line)
                    found += [record] if isinstance(record, dict) else []
        except OSError:
            pass
        return found

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run for this process. Raises RunError if another one trains in it, here or on another machine."""
        lock = self.path / ".lock"
        mine = f"{os.getpid()} {socket.gethostname()}"
        try:
            while not _created(lock, mine):
                if (holder := _holder(lock)) is not None:
                    raise RunError(
                        f"{self.path}: process {holder} is training in this run; wait for it or stop it (if that is over, or "
                        f"another program, delete {lock})"
                    )
                lock.unlink(missing_ok=True)  # of a process that is dead
        except OSError as error:
            raise RunError(
                f"{self.path}: cannot write here ({error.strerror}); free some space, or check its rights"
            ) from error
        try:
            yield
        finally:
            with suppress(OSError):
                lock.unlink(missing_ok=True)


def _created(lock: Path, text: str) -> bool:
    """Whether the file was made by this call; of two processes that try at once, by one."""
    fresh = lock.with_name(f".lock.{os.getpid()}")
    try:
        fresh.write_text(text)
        os.link(fresh, lock)
    except FileExistsError:
        return False
    except OSError:  # no hard links on this file system
        if not fresh.is_file():
            raise
        try:
            with lock.open("x") as file:
                file.write(text)
        except FileExistsError:
            return False
    finally:
        with suppress(OSError):
            fresh.unlink(missing_ok=True)
    return True


def _holder(lock: Path) -> str | None:
    """Who holds a lock, in words; None where nobody does: the process is dead, or this one. Of another machine nobody can tell
    from here. A lock without a machine is of an earlier revision, and of this one."""
    try:
        pid, _, host = lock.read_text().strip().partition(" ")
        number = int(pid)
    except (OSError, ValueError):
        return None
    if host not in ("", socket.gethostname()):
        return f"{pid} on {host}"
    return pid if number != os.getpid() and alive(number) else None


def alive(pid: int) -> bool:
    """Whether there is a process of this number on this machine."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def write_text(path: Path, text: str) -> None:
    """Replace a small file in one move, so that a reader never sees half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except OSError:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def sealed(facts: Mapping[str, Any]) -> str:
    """Names and values as JSON, with a checksum of the rest as the last of them."""
    return json.dumps({**facts, SEAL: _checksum(facts)})


def unsealed(text: str) -> dict[str, Any]:
    """What `sealed` wrote; without a checksum, as in files of older revisions, it is taken as it is. Raises ValueError where
    a bit of it was changed."""
    stored = json.loads(text)
    if not isinstance(stored, dict):
        raise ValueError("no names and values")
    told = stored.pop(SEAL, None)
    if told is not None and (told != _checksum(stored) or text != json.dumps({**stored, SEAL: told})):
        raise ValueError("it is damaged, its checksum differs")
    return stored


def _checksum(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
