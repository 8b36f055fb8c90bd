"""Sets of samples too large for one process: in bundles, drawn by any number of processes, gone on with after any end.

A bundle holds the samples of so many numbers in a row in one file: a tar of the field's own files, or of a field whose samples
go into one file that file (.csv, .parquet, ...). Which numbers are in which bundle is a function of the set alone, a sample one
of its number and the seed; so the files are the same bit for bit for any number of processes, in any shares, killed anywhere.

    OUT/bulk.json               what is drawn: the making of the set, how many, how many in a bundle
    OUT/000000000.tar           the samples from number 0, moved into place once they are whole
    OUT/ledger/000000000.json   written after that: which numbers are in which file, its size and checksum, calls a sample
    OUT/ledger.csv              the same a line a sample, once all are there
    OUT/.drawn/                 batches of bundles that are not whole yet

What is left to do is all numbers without those in the ledger; so nothing is drawn twice but the batch that a kill met, and a
bundle that is torn, or was changed, is made again.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
import os
import re
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfumato.errors import Wrong, typed
from sfumato.jobs.making import LONGEST, MOST, Making
from sfumato.jobs.strict import convert, to_plain
from sfumato.jobs.walk import Drawing, Walk
from sfumato.training.run import RunError, alive, write_text

if TYPE_CHECKING:
    from sfumato.diffusion.generate import Queries
    from sfumato.jobs.model import Model

SET, LEDGER, TABLE, DRAWN = "bulk.json", "ledger", "ledger.csv", ".drawn"
USUAL = 1000
"""Samples in a bundle, or as many batches as come next to it."""
LARGEST = 1_000_000
"""Samples in a bundle at most."""
SHARES = 1_000_000
"""Shares of a set at most."""


@dataclass(frozen=True)
class Share:
    """Every ``of``-th bundle from the ``place``-th one on."""

    place: int = 0
    of: int = 1

    @classmethod
    def read(cls, text: str | None) -> Share:
        """Of ``I/N``; all of it where nothing is asked. Raises Wrong."""
        if text is None:
            return cls()
        found = re.fullmatch(r"\s*(\d{1,9})\s*/\s*(\d{1,9})\s*", text)
        place, of = (int(found[1]), int(found[2])) if found else (0, 0)
        if not 0 <= place < of <= SHARES:
            last = "" if not 0 < of <= SHARES else f": from 0/{of} to {of - 1}/{of}"
            raise Wrong(f"shard = {text!r}: must be I/N, where I counts from 0{last}")
        return cls(place, of)


@dataclass(frozen=True)
class Bundle:
    """The samples from number ``first`` to before ``stop``."""

    first: int
    stop: int

    @property
    def name(self) -> str:
        return f"{self.first:09d}"

    def __len__(self) -> int:
        return self.stop - self.first


@dataclass(frozen=True)
class Bulk:
    """A set in its folder, with all that a process needs to draw of it.

    n: as asked; total: samples in all. size: samples in a bundle. making: as it stands in every file, with the run as the first
    process spelt it. suffix: of the bundles.
    """

    folder: Path
    run: Path
    walk: Walk
    drawing: Drawing
    named: str
    ask: Any
    n: int | None
    total: int
    size: int
    making: Making
    suffix: str

    def __len__(self) -> int:
        """Bundles."""
        return -(-self.total // self.size)

    def bundle(self, place: int) -> Bundle:
        return Bundle(place * self.size, min((place + 1) * self.size, self.total))

    def file(self, bundle: Bundle) -> Path:
        return self.folder / f"{bundle.name}{self.suffix}"

    def record(self, bundle: Bundle) -> Path:
        return self.folder / LEDGER / f"{bundle.name}.json"

    def drawn(self, bundle: Bundle) -> Path:
        """Where its batches are kept until it is whole."""
        return self.folder / DRAWN / bundle.name

    @property
    def single(self) -> bool:
        """Whether the field itself writes many samples into one file."""
        return self.suffix != ".tar"

    # ---- what is there

    def calls(self, bundle: Bundle) -> list[int] | None:
        """Calls of the network for each of its samples as the ledger has them; None where it is not in the ledger, or its file
        is not there as the ledger says, to the size."""
        told = _told(self.record(bundle))
        if told is None or told.get("file") != self.file(bundle).name:
            return None
        calls = told.get("calls")
        if not isinstance(calls, list) or [told.get("first"), told.get("stop")] != [bundle.first, bundle.stop]:
            return None
        if len(calls) != len(bundle) or not all(isinstance(each, int) for each in calls):
            return None
        return calls if _size(self.file(bundle)) == told.get("bytes") else None

    def sound(self, bundle: Bundle) -> bool:
        """Whether it is in the ledger and its file is as it was written, to the bit."""
        if self.calls(bundle) is None:
            return False
        told = _told(self.record(bundle)) or {}
        return told.get("sha256") == summed(self.file(bundle))

    def left(self, share: Share) -> Iterator[int]:
        """The bundles of a share that are to be made, in order: those that are not sound."""
        return (k for k in range(share.place, len(self), share.of) if not self.sound(self.bundle(k)))

    def rows(self, queries: Queries) -> Iterator[tuple[int, int, str, int, str, int | None]]:
        """All samples in order, whether they are drawn or not: number, seed, name of the query and the place in it, file and
        calls of the network ("" and None where it is not there). One bundle is held at a time."""
        for k in range(len(self)):
            bundle = self.bundle(k)
            calls = self.calls(bundle)
            for number in range(bundle.first, bundle.stop):
                name, place = queries.name(number)
                there = ("", None) if calls is None else (self.file(bundle).name, calls[number - bundle.first])
                yield number, self.making.seed, name, place, *there

    def missing(self) -> Iterator[int]:
        """The numbers that are asked for and not in the ledger."""
        for k in range(len(self)):
            bundle = self.bundle(k)
            if self.calls(bundle) is None:
                yield from range(bundle.first, bundle.stop)

    # ---- what is written

    def desk(self) -> Path:
        """A hidden folder of this process, where files are made; those of dead ones of this machine go."""
        host = re.sub(r"[^\w.]", "_", socket.gethostname())
        for path in self.folder.glob(f".writing-{host}-*"):
            pid = path.name.rpartition("-")[2]
            if pid.isdigit() and int(pid) != os.getpid() and not alive(int(pid)):
                shutil.rmtree(path, ignore_errors=True)
        own = self.folder / f".writing-{host}-{os.getpid()}"
        own.mkdir(exist_ok=True)
        return own

    def commit(self, bundle: Bundle, made: Path, calls: list[int]) -> None:
        """Move a whole bundle into place, and write it into the ledger."""
        from sfumato.training import whole

        state = {"bytes": _size(made), "sha256": summed(made)}
        for path in (made, *(made.rglob("*") if made.is_dir() else ())):
            whole.sync(path)
        final = self.file(bundle)
        if final.is_dir() and not final.is_symlink():  # a store is a folder, which no move replaces
            shutil.rmtree(final)
        whole.reached("before_rename")
        os.replace(made, final)
        whole.reached("after_rename")
        whole.sync(self.folder)
        told = {"first": bundle.first, "stop": bundle.stop, "file": final.name, **state, "calls": calls}
        write_text(self.record(bundle), json.dumps(told))
        whole.reached("after_ledger")
        shutil.rmtree(self.drawn(bundle), ignore_errors=True)

    def close(self, queries: Queries) -> bool:
        """Where all is there, write the ledger as a table; whether it is."""
        if any(self.calls(self.bundle(k)) is None for k in range(len(self))):
            return False
        path = self.folder / TABLE
        fresh = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}")
        with fresh.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("number", "seed", "query", "place", "file", "calls"))
            writer.writerows(self.rows(queries))
        os.replace(fresh, path)
        shutil.rmtree(self.folder / DRAWN, ignore_errors=True)
        return True


def begun(
    model: Model, queries: Queries, ask: Any, n: int | None, out: Path, suffix: str = "", size: int | None = None
) -> Bulk:
    """The set of these samples in the folder ``out``: a new one, or the one that is there, if it is the same.

    Args:
        n: as asked for; size: samples in a bundle, None as it is there, or about :data:`USUAL`.

    Raises Wrong for what cannot be drawn in bundles, RunError where something else stands there.
    """
    recipe, batch = model.recipe, model.walk.batch or 16
    if suffix and suffix not in recipe.formats:
        raise Wrong(f"format = {suffix!r}: must be one of {', '.join(recipe.formats)}")
    if len(queries) > MOST:
        raise Wrong(f"n = {n}: makes {len(queries):,} samples; at most {MOST:,}")
    recipe.bundled(model, queries)
    plain, single, kept = recipe.destination(model, None, suffix)
    if single and out.suffix.lower() in recipe.formats:
        raise Wrong(f"out = {str(out)!r}: must be a folder where samples go into bundles")
    making = model.making(ask, kept)
    if size is not None and size % batch and size < len(queries):
        near = sorted({max(size // batch, 1) * batch, -(-size // batch) * batch})
        raise Wrong(
            f"bundle = {size}: must be a multiple of the {batch} samples of a batch, as {' or '.join(map(str, near))}"
        )
    asked = Bulk(
        out, model.run.path, model.given, model.drawing, model.named, ask, n, len(queries),
        size or -(-USUAL // batch) * batch, making, plain.suffix if single else ".tar",
    )  # fmt: skip
    return _met(asked, size)


def _met(asked: Bulk, size: int | None) -> Bulk:
    """The set as its folder has it. Raises RunError where that holds something else."""
    place = asked.folder / SET
    try:
        if not place.exists():
            stands = sorted(path for path in asked.folder.iterdir()) if asked.folder.is_dir() else []
            if strange := [path for path in stands if not path.name.startswith(".")]:
                raise RunError(f"{strange[0]}: is not of a set in bundles; give another --out")
            (asked.folder / LEDGER).mkdir(parents=True, exist_ok=True)
            _first(place, _text(asked))
        told = _told(place)
    except OSError as error:
        raise RunError(
            f"{asked.folder}: cannot write here ({error.strerror}); choose another folder with --out"
        ) from error
    if told is None:
        raise RunError(f"{place}: cannot be read; restore it from a copy, or give another --out")
    own = json.loads(_text(asked))
    if size is None and isinstance(told.get("bundle"), int) and 1 <= told["bundle"] <= LARGEST:
        own["bundle"] = told["bundle"]
    if other := _differences(told, own):
        raise RunError(f"{asked.folder}: holds another set ({'; '.join(other)}); give another --out")
    (asked.folder / LEDGER).mkdir(exist_ok=True)
    made = {name: convert(str, told["making"][name]) for name in ("run",)}
    return dataclasses.replace(asked, size=own["bundle"], making=dataclasses.replace(asked.making, **made))


def _text(bulk: Bulk) -> str:
    return json.dumps(
        {"making": to_plain(bulk.making), "n": bulk.n, "total": bulk.total, "bundle": bulk.size, "files": bulk.suffix}
    )


def _differences(told: dict[str, Any], own: dict[str, Any]) -> list[str]:
    """In what two sets differ, "n: it has 5, asked is 6"; the folder of the run may be spelt otherwise."""

    def flat(of: Any, name: str = "") -> dict[str, Any]:
        if not isinstance(of, dict):
            return {name: of}
        found: dict[str, Any] = {}
        for key, value in of.items():
            found |= flat(value, key if name in ("", "making") else f"{name}.{key}")
        return found

    there, here = flat(told), flat(own)
    names = [name for name in {**here, **there} if name != "run" and there.get(name) != here.get(name)]
    return [f"{name}: it has {there.get(name)}, asked is {here.get(name)}" for name in names[:3]]


def _first(place: Path, text: str) -> None:
    """Write a file unless another process was first."""
    fresh = place.with_name(f".{place.name}.{socket.gethostname()}.{os.getpid()}")
    fresh.write_text(text, encoding="utf-8")
    try:
        os.link(fresh, place)
    except FileExistsError:
        return
    except OSError:  # no hard links on this file system
        if not place.exists():
            os.replace(fresh, place)
    finally:
        fresh.unlink(missing_ok=True)


def _told(path: Path) -> dict[str, Any] | None:
    """A small file of ours; None where it is not there, or is damaged."""
    try:
        with path.open(encoding="utf-8") as opened:
            text = opened.read(LONGEST + 1)
        found = json.loads(text) if len(text) <= LONGEST else None
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _files(path: Path) -> list[Path]:
    return sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]


def _size(path: Path) -> int | None:
    """Bytes of a file, of a store those of all its files; None where there is none, or a link."""
    if path.is_symlink() or not path.exists():
        return None
    return sum(each.stat().st_size for each in _files(path))


def summed(path: Path) -> str:
    """SHA-256 of a file, of a store that of all its files and their names."""
    digest = hashlib.sha256()
    for each in _files(path):
        if each != path:
            digest.update(str(each.relative_to(path)).encode() + b"\0")
        with each.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def same_command(bulk: Bulk) -> str:
    """How a set that is not whole is gone on with."""
    return f"go on by giving the same command again; what is drawn stays in {typed(bulk.folder)}"
