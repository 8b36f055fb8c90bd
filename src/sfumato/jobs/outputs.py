"""Where samples are written: a folder or a file, in which nothing is overwritten that was not written by us.

Files are made in a hidden folder, noted in a list there, and only then put in their place: so whatever kills the writer,
each file that stands there is known as ours, and none is a half.
"""

from __future__ import annotations

import glob
import json
import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sfumato.jobs.making import LIST, Making
from sfumato.training.run import RunError, alive, write_text

NOTED = "list"
"""What was put in its place from a desk: a line each, name and state."""


@dataclass(frozen=True)
class Place:
    """A folder (or, if ``single``, a file) for one set of samples."""

    path: Path
    single: bool

    @property
    def manifest(self) -> Path:
        """The file that says what else is ours."""
        return self.path.with_name(self.path.name + ".json") if self.single else self.path / LIST

    @property
    def folder(self) -> Path:
        return self.path.parent if self.single else self.path

    def check(self) -> None:
        """Make the folder, and see that what stands there is an earlier set of ours, of which no file was changed since.

        Raises RunError where something stands there that we did not write, or that was changed, or a link.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(
                f"{self.folder}: cannot write here ({error.strerror}); choose another folder with --out"
            ) from error
        for desk in self._desks():
            if (pid := int(desk.name.rpartition("-")[2])) != os.getpid() and alive(pid):
                raise RunError(f"{self.path}: process {pid} is writing there; wait for it, or give another --out")
        ours = self._ours()
        strange = sorted(
            path for path in self._there() if (state := _state(path)) is None or ours.get(path.name) != state
        )
        if (self.manifest.exists() or self.manifest.is_symlink()) and (_state(self.manifest) is None or not ours):
            strange.append(self.manifest)
        if strange:
            more = f" and {len(strange) - 1} more" if len(strange) > 1 else ""
            raise RunError(
                f"{strange[0]}{more}: was not written by `sfumato sample`, or was changed since; nothing is overwritten, "
                "give another --out"
            )

    def clear(self) -> None:
        """Remove the earlier set of ours. Raises RunError as :meth:`check`."""
        self.check()
        for path in self._there():
            shutil.rmtree(path) if path.is_dir() else path.unlink()  # a store is a folder
        for desk in self._desks():
            shutil.rmtree(desk, ignore_errors=True)

    @property
    def desk(self) -> Path:
        """Where the files are made: a folder, or the file in it."""
        folder = self.folder / f"{self._sign}{os.getpid()}"
        folder.mkdir(exist_ok=True)
        return folder / self.path.name if self.single else folder

    def put(self, made: Path) -> Path:
        """A finished file of the desk, in its place. Raises RunError where something stands there by now."""
        final = self.folder / made.name
        if final.exists() or final.is_symlink():
            raise RunError(f"{final}: came while the samples were drawn; nothing is overwritten, give another --out")
        with (made.parent / NOTED).open("a", encoding="utf-8") as file:
            file.write(json.dumps([made.name, _state(made)]) + "\n")
        os.rename(made, final)
        return final

    @property
    def _sign(self) -> str:
        return f".writing-{self.path.name}-" if self.single else ".writing-"

    def _desks(self) -> list[Path]:
        """Those of all writers, the dead ones' too."""
        return [
            path
            for path in self.folder.glob(f"{glob.escape(self._sign)}*")
            if path.name.removeprefix(self._sign).isdigit() and path.is_dir() and not path.is_symlink()
        ]

    def leave(self) -> None:
        """Remove the folder again if it is empty: nothing came of it."""
        with suppress(OSError):
            self.folder.rmdir()

    def _there(self) -> list[Path]:
        """What stands where samples go, links that lead nowhere too; the list aside."""
        paths = [self.path] if self.single else sorted(self.folder.iterdir())
        aside = {self.manifest, *self._desks()}
        return [path for path in paths if path not in aside and (path.exists() or path.is_symlink())]

    def _ours(self) -> dict[str, Any]:
        """What we wrote, name -> its state then; nothing where there is no list of ours."""
        found: dict[str, Any] = {}
        for desk in self._desks():
            with suppress(
                OSError, ValueError, TypeError, RecursionError
            ):  # a kill may have left half a line, the last one
                for line in (desk / NOTED).read_text(encoding="utf-8").splitlines():
                    name, state = json.loads(line)
                    found[str(name)] = state
        try:
            stored = json.loads(self.manifest.read_text(encoding="utf-8"))
            return {"": None, **stored["files"], **found} if "making" in stored else found
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return found

    def note(self, files: Iterable[Path], making: Making) -> None:
        """Write down what was written, and how it was made."""
        states = {path.name: _state(path) for path in files if path.exists()}
        write_text(self.manifest, json.dumps({"making": json.loads(making.text()), "files": states}, indent=1))
        for desk in self._desks():
            shutil.rmtree(desk, ignore_errors=True)


def _state(path: Path) -> Any:
    """What tells a file that was changed from one that was not: its size and time; of a folder (a store) those of all
    its files."""
    if path.is_symlink() or not path.exists():
        return None
    if path.is_dir():
        every = [each.lstat() for each in path.rglob("*") if not each.is_dir()]
        return [len(every), sum(each.st_size for each in every), max((each.st_mtime_ns for each in every), default=0)]
    found = path.stat()
    return [found.st_size, found.st_mtime_ns]
