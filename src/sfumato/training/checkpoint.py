"""Checkpoints that survive a kill, a full disk and a flipped bit.

A checkpoint is a folder `step-00000012` that holds one `GROUP.safetensors` per group of tensors, `meta.json`, and
`manifest.json` with the size and SHA-256 of every other file and of itself. It is built inside a hidden temporary
folder beside its final place:

    write files -> fsync each -> write manifest, fsync -> fsync folder -> rename -> fsync parent -> delete old ones

so at every instant the newest folder with a manifest is whole, and an old one goes only after the new one is in place.
Nothing here can run code from a file: tensors are safetensors, all else is JSON.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from sfumato.errors import Mendable
from sfumato.training import sums

FORMAT = 1
MANIFEST = "manifest.json"
META = "meta.json"

_STEP = re.compile(r"step-(\d+)")
_TEMPORARY = re.compile(r"\.tmp-.+-(\d+)")
_GROUP = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_FULL = re.compile(r"os error (27|28|122)\b")  # EFBIG, ENOSPC, EDQUOT as the safetensors writer reports them

# Temporary folders this process is filling; any other one with its number is litter of an earlier life.
_in_flight: set[Path] = set()


class CheckpointError(Mendable):
    """A checkpoint cannot be written or read. One line: the path, what is wrong, what to do."""


@dataclass(frozen=True)
class Checkpoint:
    """What `load` returns.

    step: updates done when it was saved. tensors: group -> name -> tensor. meta: what was given to `save`, as JSON
    returns it (tuples come back as lists, keys as strings).
    """

    step: int
    tensors: dict[str, dict[str, Tensor]]
    meta: dict[str, Any]


def _reached(point: str) -> None:
    """Does nothing. Tests replace it to stop the process dead at a named point of a save."""


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
    folder = Path(folder)
    if isinstance(step, bool) or not isinstance(step, int) or step < 0:
        raise ValueError(f"step must be a whole number from 0, got {step!r}")
    if keep < 1:
        raise ValueError(f"keep must be at least 1, got {keep}")
    for group in tensors:
        if not _GROUP.fullmatch(group):
            raise ValueError(f"{group!r} cannot name a file: use letters, digits, '_', '-' and '.'")
    try:
        text = json.dumps(dict(meta), indent=1)
    except (TypeError, ValueError) as error:
        raise ValueError(f"meta cannot be written as JSON: {error}") from error

    final = folder / f"step-{step:08d}"
    need = len(text) + sum(_size(group) for group in tensors.values())
    if final.exists():
        with suppress(CheckpointError):
            verify(final)
            return final
    with _workspace(folder, str(step), need) as temporary:
        files: dict[str, dict[str, Any]] = {}
        for group, named in tensors.items():
            file = temporary / f"{group}.safetensors"
            _write_tensors(file, named)
            files[file.name] = _seal(file)
            _reached(f"after_file:{group}")
        (temporary / META).write_text(text, encoding="utf-8")
        files[META] = _seal(temporary / META)
        _reached("after_file:meta")
        # Last, so that a folder with a readable manifest has everything the manifest names.
        body = {"format": FORMAT, "step": step, "files": files}
        (temporary / MANIFEST).write_text(_manifest(body), encoding="utf-8")
        _sync(temporary / MANIFEST)
        _sync(temporary)
        _reached("before_rename")
        if final.exists():  # damaged, see above: out of the way, worth nothing
            _discard(final)
        os.rename(temporary, final)
        _reached("after_rename")
        _sync(folder)
    _retain(folder, step, keep)
    return final


def save_weights(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write one safetensors file so that `path` holds either the old content or the new, never a part.

    metadata: text to text, kept in the file's header, with a checksum of it and of the tensors, which `read_tensors`
    compares. Raises CheckpointError as `save` does.
    """
    path = Path(path)
    about = dict(metadata or {})
    with _workspace(path.parent, path.name, _size(tensors)) as temporary:
        file = temporary / path.name
        _write_tensors(file, tensors, sums.summed(tensors, about))
        _sync(file)
        _reached("before_rename")
        os.replace(file, path)
        _reached("after_rename")
        _sync(path.parent)


@contextmanager
def _workspace(folder: Path, label: str, need: int) -> Iterator[Path]:
    """A fresh temporary folder inside `folder`, gone at the end whatever happens; room for `need` bytes is checked."""
    temporary = folder / f".tmp-{label}-{os.getpid()}"
    if temporary in _in_flight:
        raise CheckpointError(f"{folder}: {label} is being saved at this moment; wait for it")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _clear_stale(folder)
        if need > (have := shutil.disk_usage(folder).free):
            raise CheckpointError(
                f"{folder}: the disk is too full to save, need {_megabytes(need)} MB, have "
                f"{_megabytes(have, math.floor)} MB; free some space, nothing was touched"
            )
        _in_flight.add(temporary)
        temporary.mkdir()
        yield temporary
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error).splitlines()[0]
        full = error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT) if isinstance(error, OSError) else False
        if full or _FULL.search(str(error)):
            have = 0
            with suppress(OSError):
                have = shutil.disk_usage(folder).free
            reason += f", need {_megabytes(need)} MB, have {_megabytes(have, math.floor)} MB"
            advice = "free some space (or raise the quota)"
        else:
            advice = "check that the folder exists, is writable and is not on a failing disk"
        raise CheckpointError(f"{folder}: could not save {label} ({reason}); {advice}, older files are kept") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        _in_flight.discard(temporary)


def _write_tensors(file: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    ready: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided:
            raise CheckpointError(f"{file.name}: '{name}' is {tensor.layout}; only dense tensors can be saved")
        plain = tensor.detach().resolve_conj().resolve_neg().to("cpu").contiguous()
        storage = plain.untyped_storage()
        # The format refuses two names for one memory, and a slice may drag its whole storage along.
        if storage.data_ptr() in seen or storage.nbytes() != plain.nbytes:
            plain = plain.clone()
        seen.add(plain.untyped_storage().data_ptr())
        ready[name] = plain
    try:
        save_file(ready, file, metadata)
    except KeyError as error:  # the writer's table of dtypes
        raise CheckpointError(f"{file.name}: dtype {error} cannot be stored; convert the tensor first") from error
    # The writer makes files only their owner can read; follow the folder, which follows the user's umask.
    os.chmod(file, file.parent.stat().st_mode & 0o666)


def _seal(file: Path) -> dict[str, Any]:
    _sync(file)
    return {"size": file.stat().st_size, "sha256": _digest(file)}


def _sync(path: Path) -> None:
    if path.is_dir() and os.name == "nt":  # folders cannot be opened there
        return
    handle = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network file systems have no fsync of a folder; of a file it must work.
        if not (path.is_dir() and error.errno in (errno.EINVAL, errno.ENOTSUP)):
            raise
    finally:
        os.close(handle)


def _retain(folder: Path, step: int, keep: int) -> None:
    """Delete what `step`, just saved, makes superfluous. A failure here must never hurt: the next save tries again."""
    with suppress(CheckpointError):
        older = [path for number, path in reversed(_steps(folder)) if number < step]
        whole = [path for path in older if _looks_whole(path)]
        kept = set(whole[: keep - 1])
        for path in older:
            if path not in kept:
                _reached("before_delete")
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


def _clear_stale(folder: Path) -> None:
    for path in folder.iterdir():
        found = _TEMPORARY.fullmatch(path.name)
        if found and path not in _in_flight and not _alive(int(found[1])):
            shutil.rmtree(path, ignore_errors=True)


def _alive(pid: int) -> bool:
    if pid == os.getpid():  # what is ours is in flight: this is an earlier life with our number, as in a container
        return False
    if os.name == "nt":  # there is no harmless probe there
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


def _size(tensors: Mapping[str, Tensor]) -> int:
    return 4096 + sum(tensor.numel() * tensor.element_size() + len(name) + 128 for name, tensor in tensors.items())


def _megabytes(size: int, rounding: Any = math.ceil) -> str:
    return f"{rounding(size / 1e5) / 10:,.1f}"


# ---------------------------------------------------------------------------------------------------------- reading


def verify(path: Path) -> None:
    """Read every byte of the checkpoint at `path`; CheckpointError names the first file that is not as it was saved."""
    _verified(Path(path))


def load(path: Path, device: str | torch.device = "cpu") -> Checkpoint:
    """Read a checkpoint, after `verify`. The tensors are on `device` and independent of the files.

    Raises CheckpointError if anything is missing, damaged or of a newer format.
    """
    path = Path(path)
    body = _verified(path)
    try:
        meta = json.loads((path / META).read_text(encoding="utf-8")) if META in body["files"] else {}
        tensors = {
            name.removesuffix(".safetensors"): read_tensors(path / name, device)
            for name in body["files"]
            if name.endswith(".safetensors")
        }
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); use an older checkpoint") from error
    return Checkpoint(int(body["step"]), tensors, meta)


def read_tensors(file: Path, device: str | torch.device = "cpu") -> dict[str, Tensor]:
    """All tensors of one safetensors file; CheckpointError if it is not one, or not as `save_weights` wrote it."""
    return read_weights(file, device)[0]


def read_weights(file: Path, device: str | torch.device = "cpu") -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors of one safetensors file, and the text in its header. Raises CheckpointError as `read_tensors`."""
    try:
        with safe_open(file, "pt") as opened:
            about = dict(opened.metadata() or {})
        # On the CPU the tensors are a map of the file: without a copy, writing to the file would change them.
        tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    except (OSError, SafetensorError, ValueError, KeyError, RuntimeError) as error:
        said = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{file}: is not a readable safetensors file ({said})") from error
    if not sums.sound(tensors, about):
        raise CheckpointError(f"{file}: is damaged, its checksum differs; restore it from a copy, or train again")
    return {name: tensor.to(device) for name, tensor in tensors.items()}, about


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
    if body["format"] != FORMAT:
        raise CheckpointError(f"{path}: has format {body['format']}, known is {FORMAT}; update sfumato")
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
