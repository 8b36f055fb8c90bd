"""Where samples are written: a folder or a file, in which nothing is overwritten that was not written by us."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sfumato.jobs.making import Making
from sfumato.training.run import RunError, write_text

LIST = "samples.json"
"""What was written into a folder and how it was made; beside a single file NAME it is NAME.json."""


@dataclass(frozen=True)
class Place:
    """A folder (or, if ``single``, a file) for one set of samples."""

    path: Path
    single: bool

    @property
    def list(self) -> Path:
        """The file that says what else is ours."""
        return self.path.with_name(self.path.name + ".json") if self.single else self.path / LIST

    @property
    def folder(self) -> Path:
        return self.path.parent if self.single else self.path

    def clear(self) -> None:
        """Make the folder, and remove an earlier set of ours, of which no file was changed since.

        Raises RunError where something stands there that we did not write, or that was changed.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(
                f"{self.folder}: cannot write here ({error.strerror}); choose another folder with --out"
            ) from error
        ours = self._ours()
        found = {path for path in ([self.path] if self.single else self.folder.iterdir()) if path.exists()} - {
            self.list
        }
        strange = sorted(path for path in found if ours.get(path.name) != _state(path))
        if strange:
            more = f" and {len(strange) - 1} more" if len(strange) > 1 else ""
            raise RunError(
                f"{strange[0]}{more}: was not written by `sfumato sample`, or was changed since; nothing is overwritten, "
                "give another --out"
            )
        for path in found:
            path.unlink()

    def _ours(self) -> dict[str, Any]:
        try:
            return dict(json.loads(self.list.read_text(encoding="utf-8"))["files"])
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def note(self, files: Iterable[Path], making: Making) -> None:
        """Write down what was written, and how it was made."""
        states = {path.name: _state(path) for path in files if path.is_file()}
        write_text(self.list, json.dumps({"making": json.loads(making.text()), "files": states}, indent=1))


def _state(path: Path) -> Any:
    """What tells a file that was changed from one that was not: its size and time."""
    if not path.is_file() or path.is_symlink():
        return None
    found = path.stat()
    return [found.st_size, found.st_mtime_ns]
