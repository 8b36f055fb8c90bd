"""Checkpoints that survive a kill, a full disk and a flipped bit.

A checkpoint is a folder `step-00000012` that holds one `GROUP.safetensors` per group of tensors, `meta.json`, and
`manifest.json` with the size and SHA-256 of every other file and of itself. It is built inside a hidden temporary
folder beside its final place:

    write files -> fsync each -> write manifest, fsync -> fsync folder -> rename -> fsync parent -> delete old ones

so at every instant the newest folder with a manifest is whole, and an old one goes only after the new one is in place.
Where the weights of a run lie in parts over many processes, each writes the rows that it holds (`shards`), into the same
folder, which the first process makes, seals and moves. Any number of processes reads either kind.
Nothing here can run code from a file: tensors are safetensors, all else is JSON.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from sfumato.errors import one_line
from sfumato.training import shards, sums, whole
from sfumato.training.shards import Place, Rows, Together
from sfumato.training.whole import CheckpointError, read_tensors, read_weights, save_weights

__all__ = ["Checkpoint", "CheckpointError", "about", "fits", "forget", "load", "newest", "older", "path_of", "read_tensors",
           "read_weights", "save", "save_parts", "save_weights", "shapes", "verify"]  # fmt: skip

FORMAT, PARTS = 1, 2
"""Of one process, or of many that have everything; and of parts."""
MANIFEST = "manifest.json"
META = "meta.json"

_STEP = re.compile(r"step-(\d+)")
_GROUP = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Checkpoint:
    """What `load` returns.

    step: updates done when it was saved. tensors: group -> name -> tensor. meta: what was given to `save`, as JSON
    returns it (tuples come back as lists, keys as strings).
    """

    step: int
    tensors: dict[str, dict[str, Tensor]]
    meta: dict[str, Any]


# ---------------------------------------------------------------------------------------------------------- writing


def save(
    folder: Path,
    step: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    meta: Mapping[str, Any],
    keep: int = 2,
) -> Path:
    """Write the checkpoint `folder/step-XXXXXXXX` and return its path.

    tensors: group name -> tensor name -> tensor of any shape, dtype and device; shared and non-contiguous ones are
    copied. meta: anything JSON can hold. keep: how many complete checkpoints up to this step stay, at least 1; those of
    later steps are never touched. A step that is already there and whole is left as it is; a damaged one is replaced.

    Raises CheckpointError when it cannot be written (older checkpoints are then all still there, and no temporary
    file is left) and ValueError for arguments that could never be saved.
    """
    folder, text = Path(folder), _checked(step, tensors, meta, keep)
    final = path_of(folder, step)
    need = len(text) + sum(whole.size_of(group) for group in tensors.values())
    if final.exists():
        with suppress(CheckpointError):
            verify(final)
            return final
    with whole.workspace(folder, str(step), need) as temporary:
        files: dict[str, dict[str, Any]] = {}
        for group, named in tensors.items():
            file = temporary / f"{group}.safetensors"
            whole.write_tensors(file, named)
            files[file.name] = _seal(file)
            whole.reached(f"after_file:{group}")
        _commit(temporary, final, {"format": FORMAT, "step": step, "files": files}, text)
    _retain(folder, step, keep)
    return final


def save_parts(
    folder: Path,
    step: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    places: Mapping[str, Mapping[str, Place]],
    meta: Mapping[str, Any],
    keep: int,
    together: Together,
    sound: bool = True,
) -> Path:
    """`save`, of many processes, each of which gives the rows that it holds, with their places, and all of which call it, for
    the same step. The meta of the first counts. One that says that what it has is not ``sound`` ends it for all.

    Raises CheckpointError in all processes where it cannot be written by one.
    """
    folder, text = Path(folder), _checked(step, tensors, meta, keep)
    final, temporary = path_of(folder, step), folder / f".tmp-{step}-{together.pid}"
    failed = CheckpointError(f"{folder}: step {step} could not be saved by another process; older files are kept")
    with ExitStack() as stack:
        there = False
        if together.first:
            with suppress(CheckpointError):
                if final.exists():
                    verify(final)
                    there = True
            size = sum(whole.size_of(group) for group in tensors.values())
            try:
                if not there:
                    stack.enter_context(whole.workspace(folder, str(step), len(text) + together.count * size))
            except CheckpointError as error:
                failed, sound = error, False
        agreed = together.least(0 if not sound else 1 if there else 2)
        if agreed < 2:
            if agreed == 0:
                raise failed
            return final
        mine: dict[str, dict[str, Any]] = {}
        try:
            for group, named in tensors.items() if together.writes else ():
                file = temporary / shards.file_of(group, together.index, together.count)
                whole.write_tensors(file, named, shards.header(places.get(group, {})))
                mine[file.name] = _seal(file)
                whole.reached(f"after_file:{group}")
        except (OSError, SafetensorError, CheckpointError) as error:
            hint = "" if temporary.is_dir() else "; every process must see the disk of the run"
            failed, sound = CheckpointError(f"{folder}: a part could not be saved ({one_line(error)}){hint}"), False
        if not together.least(int(sound)):
            raise failed
        files = together.seals(mine)
        if together.first:
            try:
                _commit(temporary, final, {"format": PARTS, "step": step, "files": files}, text)
            except OSError as error:
                failed, sound = CheckpointError(f"{folder}: could not save {step} ({one_line(error)})"), False
        if not together.least(int(sound)):
            raise failed
    if together.first:
        _retain(folder, step, keep)
    return final


def _checked(step: int, tensors: Mapping[str, Any], meta: Mapping[str, Any], keep: int) -> str:
    """The meta as text. Raises ValueError for what could never be saved."""
    if isinstance(step, bool) or not isinstance(step, int) or step < 0:
        raise ValueError(f"step must be a whole number from 0, got {step!r}")
    if keep < 1:
        raise ValueError(f"keep must be at least 1, got {keep}")
    for group in tensors:
        if not _GROUP.fullmatch(group):
            raise ValueError(f"{group!r} cannot name a file: use letters, digits, '_', '-' and '.'")
    try:
        return json.dumps(dict(meta), indent=1)
    except (TypeError, ValueError) as error:
        raise ValueError(f"meta cannot be written as JSON: {error}") from error


def _commit(temporary: Path, final: Path, body: dict[str, Any], meta: str) -> None:
    """Meta and manifest into the folder, and the folder into its place."""
    (temporary / META).write_text(meta, encoding="utf-8")
    body["files"][META] = _seal(temporary / META)
    whole.reached("after_file:meta")
    # Last, so that a folder with a readable manifest has everything the manifest names.
    (temporary / MANIFEST).write_text(_manifest(body), encoding="utf-8")
    whole.sync(temporary / MANIFEST)
    whole.sync(temporary)
    whole.reached("before_rename")
    if final.exists():  # damaged: out of the way, worth nothing
        _discard(final)
    os.rename(temporary, final)
    whole.reached("after_rename")
    whole.sync(final.parent)


def _seal(file: Path) -> dict[str, Any]:
    whole.sync(file)
    return {"size": file.stat().st_size, "sha256": _digest(file)}


def _retain(folder: Path, step: int, keep: int) -> None:
    """Delete what `step`, just saved, makes superfluous. A failure here must never hurt: the next save tries again."""
    with suppress(CheckpointError):
        older = [path for number, path in reversed(_steps(folder)) if number < step]
        sound = [path for path in older if _looks_whole(path)]
        kept = set(sound[: keep - 1])
        for path in older:
            if path not in kept:
                whole.reached("before_delete")
                with suppress(OSError):
                    _discard(path)


def forget(folder: Path, after: int) -> None:
    """Take away the checkpoints of steps past ``after``. Raises OSError where one stays."""
    for number, path in reversed(_steps(Path(folder))):
        if number > after:
            _discard(path)


def _discard(path: Path) -> None:
    # Renamed first: a kill in the middle of the deletion then leaves litter that is known as such, not half a step.
    away = path.with_name(f".tmp-{path.name}.old-{os.getpid()}")
    os.rename(path, away)
    shutil.rmtree(away, ignore_errors=True)


# ---------------------------------------------------------------------------------------------------------- reading


def verify(path: Path) -> None:
    """Read every byte of the checkpoint at `path`; CheckpointError names the first file that is not as it was saved."""
    _verified(Path(path))


Part = Callable[[str, str, tuple[int, ...]], Rows | None]
"""Group, name and shape of a tensor -> the rows of it that are wanted, None for all."""


def load(
    path: Path, device: str | torch.device = "cpu", part: Part | None = None, verified: bool = False
) -> Checkpoint:
    """Read a checkpoint, after `verify`; of each tensor all, or the rows that ``part`` says. The tensors are on `device` and
    independent of the files. ``verified``: another process did that.

    Raises CheckpointError if anything is missing, damaged or of a newer format.
    """
    path = Path(path)
    body = _read_manifest(path) if verified else _verified(path)
    meta = _meta(path, body)
    try:
        tensors = {
            group: {
                name: found.read(name, None if part is None else part(group, name, shape)).to(device)
                for name, shape in found.shapes.items()
            }
            for group, found in shards.grouped(path, body["files"]).items()
        }
    except _UNREADABLE as error:
        raise CheckpointError(f"{path}: cannot be read ({one_line(error)}); use an older checkpoint") from error
    return Checkpoint(int(body["step"]), tensors, meta)


def about(path: Path) -> Checkpoint:
    """Step and meta of a checkpoint, without its tensors, which are not looked at. Raises CheckpointError."""
    body = _read_manifest(Path(path))
    return Checkpoint(int(body["step"]), {}, _meta(Path(path), body))


def _meta(path: Path, body: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return json.loads((path / META).read_text(encoding="utf-8")) if META in body["files"] else {}
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read ({one_line(error)}); use an older checkpoint") from error


def path_of(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step is."""
    return Path(folder) / f"step-{step:08d}"


def shapes(path: Path) -> dict[str, dict[str, tuple[int, ...]]]:
    """Of each group of a checkpoint the shapes of its tensors by name, whole. Raises CheckpointError."""
    try:
        return {group: found.shapes for group, found in shards.grouped(path, _read_manifest(path)["files"]).items()}
    except _UNREADABLE as error:
        raise CheckpointError(f"{path}: cannot be read ({one_line(error)}); use an older checkpoint") from error


_UNREADABLE = (OSError, ValueError, TypeError, AttributeError, KeyError, IndexError, RecursionError, RuntimeError,
               SafetensorError)  # fmt: skip


def fits(
    saved: Mapping[str, Tensor], here: Mapping[str, Tensor], source: str, then: Any = None, now: Any = None
) -> None:
    """Complain, in a line, unless weights have the names and shapes of a network. ``then`` and ``now`` are the settings of both
    as JSON, where they are known: what differs in them is named. Raises CheckpointError."""
    if changed := sums.difference(saved, here, then, now):
        raise CheckpointError(
            f"{source}: is of another network ({changed}); put config.yaml back as it was, or train anew"
        )


def older(folder: Path, step: int) -> Iterator[tuple[int, Path]]:
    """Whole checkpoints from before a step, the newest first; that of the step itself comes last."""
    found = _steps(Path(folder))
    for number, path in [*((n, p) for n, p in reversed(found) if n < step), *((n, p) for n, p in found if n == step)]:
        with suppress(CheckpointError):
            verify(path)
            yield number, path


def newest(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint in `folder` that passes `verify`, or None, and one line about each newer one that fails."""
    complaints: list[str] = []
    for _, path in reversed(_steps(Path(folder))):
        try:
            verify(path)
        except CheckpointError as error:
            complaints.append(str(error))
        else:
            return path, complaints
    return None, complaints


def _steps(folder: Path) -> list[tuple[int, Path]]:
    try:
        found = [(_STEP.fullmatch(path.name), path) for path in folder.iterdir() if path.is_dir()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise CheckpointError(
            f"{folder}: cannot be listed ({error.strerror}); check the path and its rights"
        ) from error
    return sorted((int(match[1]), path) for match, path in found if match)


def _manifest(body: Mapping[str, Any]) -> str:
    """The only text a manifest with this body can have, so that any changed byte shows."""
    plain = json.dumps(body, sort_keys=True)
    return json.dumps({**body, "checksum": hashlib.sha256(plain.encode()).hexdigest()}, sort_keys=True, indent=1) + "\n"


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        text = (path / MANIFEST).read_bytes().decode("utf-8")
        body = json.loads(text)
        body.pop("checksum")
        sound = _manifest(body) == text and all(Path(name).name == name for name in body["files"])
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: {MANIFEST} is missing, so it is not complete; use an older one") from error
    except OSError as error:
        raise CheckpointError(f"{path}: {MANIFEST} cannot be read ({error.strerror}); use an older one") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        sound = False
    if not sound:
        raise CheckpointError(f"{path}: {MANIFEST} is damaged, its own checksum differs; use an older one")
    if body["format"] not in (FORMAT, PARTS):
        raise CheckpointError(f"{path}: has format {body['format']}, known are {FORMAT} and {PARTS}; update sfumato")
    return body


def _verified(path: Path) -> dict[str, Any]:
    body = _read_manifest(path)
    for name, entry in body["files"].items():
        try:
            size = (path / name).stat().st_size
            wrong = f"has {size} bytes instead of {entry['size']}" if size != entry["size"] else ""
            if not wrong and _digest(path / name) != entry["sha256"]:
                wrong = "is damaged, its checksum differs"
        except FileNotFoundError:
            wrong = "is missing"
        except OSError as error:
            wrong = f"cannot be read ({error.strerror})"
        if wrong:
            raise CheckpointError(f"{path}: {name} {wrong}; use an older checkpoint or restore this file")
    return body


def _looks_whole(path: Path) -> bool:
    """Like `verify` without reading the data: quick enough to ask at every save."""
    try:
        files = _read_manifest(path)["files"]
        return all((path / name).stat().st_size == entry["size"] for name, entry in files.items())
    except (CheckpointError, OSError):
        return False


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
