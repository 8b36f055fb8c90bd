"""Files that appear only when they are complete."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from sfumato.data.errors import DataError, shown


@contextmanager
def appearing(path: Path) -> Iterator[BinaryIO]:
    """A file to write bytes to, which gets the name ``path`` once the block has ended well and the disk holds it; until then,
    and after an error, what was there under that name stays. Its folder is made.

    Raises DataError where it cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        raise DataError(f"{shown(path)}: cannot be written: {(error.strerror or 'error').lower()}") from error
    finally:
        with suppress(OSError):
            partial.unlink()
