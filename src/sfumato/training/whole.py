"""Files that are whole or not there: tensors as safetensors, made inside a hidden folder and moved into place.

    write -> fsync -> rename -> fsync the folder

so a kill or a full disk leaves what stood there before. Nothing here can run code from a file.
"""

from __future__ import annotations

import errno
import math
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from sfumato.errors import Mendable, one_line
from sfumato.training import sums

_TEMPORARY = re.compile(r"\.tmp-.+-(\d+)")
_FULL = re.compile(r"os error (27|28|122)\b")  # EFBIG, ENOSPC, EDQUOT as the safetensors writer reports them

# Temporary folders this process is filling; any other one with its number is litter of an earlier life.
_in_flight: set[Path] = set()


class CheckpointError(Mendable):
    """A checkpoint cannot be written or read. One line: the path, what is wrong, what to do."""


def reached(point: str) -> None:
    """Does nothing. Tests replace it to stop the process dead at a named point of a save."""


def save_weights(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write one safetensors file so that `path` holds either the old content or the new, never a part.

    metadata: text to text, kept in the file's header, with a checksum of it and of the tensors, which `read_tensors`
    compares. Raises CheckpointError as `save` does.
    """
    path = Path(path)
    about = dict(metadata or {})
    with workspace(path.parent, path.name, size_of(tensors)) as temporary:
        file = temporary / path.name
        write_tensors(file, tensors, sums.summed(tensors, about))
        sync(file)
        reached("before_rename")
        os.replace(file, path)
        reached("after_rename")
        sync(path.parent)


@contextmanager
def workspace(folder: Path, label: str, need: int) -> Iterator[Path]:
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


def write_tensors(file: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
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
        raise CheckpointError(
            f"{file}: is not a readable safetensors file ({one_line(error)}); copy it again, or train again"
        ) from error
    if not sums.sound(tensors, about):
        raise CheckpointError(f"{file}: is damaged, its checksum differs; restore it from a copy, or train again")
    return {name: tensor.to(device) for name, tensor in tensors.items()}, about


def sync(path: Path) -> None:
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


def size_of(tensors: Mapping[str, Tensor]) -> int:
    return 4096 + sum(tensor.numel() * tensor.element_size() + len(name) + 128 for name, tensor in tensors.items())


def _megabytes(size: int, rounding: Any = math.ceil) -> str:
    return f"{rounding(size / 1e5) / 10:,.1f}"
