"""Checksums of what a run prepared: data.json and the files of cache/, so that one flipped bit in them is found.

What an evaluation works out and keeps lies in folders of cache/ and has checksums of its own.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from sfumato.training.run import Run, RunError, sealed, unsealed, write_text

NAME = "checksums.json"


def seal(run: Run) -> None:
    """Write down size and SHA-256 of everything that was prepared."""
    write_text(run.path / NAME, sealed({name: _state(run.path / name) for name in _names(run)}))


def unchanged(run: Run, only: str | None = None) -> None:
    """Complain unless what was prepared is there as it was (``only`` this file of it). A run of an older revision, which has no
    checksums, passes. Raises RunError naming the file."""
    try:
        known: dict[str, Any] = unsealed((run.path / NAME).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(
            f"{run.path / NAME}: cannot be read ({error}); if the data is sound, delete this file and go on"
        ) from error
    for name, state in known.items():
        if only not in (None, name):
            continue
        file = run.path / name
        try:
            wrong = "is damaged, its checksum differs" if _state(file) != state else ""
        except FileNotFoundError:
            wrong = "is missing"
        except OSError as error:
            wrong = f"cannot be read ({error.strerror})"
        if wrong:
            raise RunError(f"{file}: {wrong}; restore it from a copy, or train again from the data")


def _names(run: Run) -> list[str]:
    cached = sorted(run.cache.rglob("*")) if run.cache.is_dir() else []
    files = [run.path / "data.json", run.path / "data.safetensors", *cached]
    return [str(file.relative_to(run.path)) for file in files if file.is_file()]


def _state(file: Path) -> list[Any]:
    with file.open("rb") as stream:
        return [file.stat().st_size, hashlib.file_digest(stream, "sha256").hexdigest()]
