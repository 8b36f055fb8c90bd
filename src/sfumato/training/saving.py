"""Checkpoints written beside the training: the state is copied, which takes moments, and a thread writes the copy.

What `checkpoint` promises holds, for it is `checkpoint.save` that the thread calls; never are two in flight, and nothing
ends before the last one is on the disk.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from sfumato.training import checkpoint
from sfumato.training.memory import free, is_short

Groups = Mapping[str, Mapping[str, Tensor]]


class Saver:
    """Writes checkpoints of a run into ``folder``, of which ``keep`` stay. As a context manager it waits at the end."""

    def __init__(self, folder: Path, keep: int, tell: Callable[[str], None]):
        self.folder, self.keep, self.tell = folder, keep, tell
        self.newest: int | None = None
        """The step of the last checkpoint that was written."""
        self._thread: threading.Thread | None = None
        self._failed: BaseException | None = None
        self._copies: dict[str, Tensor] = {}

    def save(self, step: int, groups: Groups, meta: Mapping[str, Any], now: bool = False) -> None:
        """Write the state of a step, ``now`` or in the background. Where it cannot be written it says so and goes on: a
        full disk must not end a run that still holds everything in memory."""
        self.wait()
        copied = None if now else self._copied(groups)
        if copied is None:  # asked for, or no room for a second state
            self._write(step, groups, meta)
            self.wait()
            return
        self._thread = threading.Thread(target=self._write, args=(step, copied, meta), name="save", daemon=True)
        self._thread.start()

    def first(self, step: int, groups: Groups, meta: Mapping[str, Any]) -> None:
        """Write it now. Raises CheckpointError: where nothing can be written from the start, nothing should begin."""
        checkpoint.save(self.folder, step, groups, meta, self.keep)
        self.newest = step

    def wait(self) -> None:
        """Until what is in flight has landed. Raises what went wrong there, unless that was the disk."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._failed is not None:
            failed, self._failed = self._failed, None
            raise failed

    def _copied(self, groups: Groups) -> dict[str, dict[str, Tensor]] | None:
        """Copies on the CPU, in the memory of the last ones, for what takes long is to get it; None where there is no room."""
        size = sum(value.numel() * value.element_size() for named in groups.values() for value in named.values())
        held = sum(value.numel() * value.element_size() for value in self._copies.values())
        room = free()
        if room is not None and room + held < 1.5 * size:
            self._copies.clear()
            return None
        try:
            return {
                group: {name: self._copy(f"{group}/{name}", value) for name, value in named.items()}
                for group, named in groups.items()
            }
        except (RuntimeError, MemoryError) as error:
            self._copies.clear()
            if is_short(error):
                return None
            raise

    @torch.no_grad()
    def _copy(self, name: str, value: Tensor) -> Tensor:
        last = self._copies.get(name)
        if last is None or last.shape != value.shape or last.dtype != value.dtype:
            self._copies[name] = last = torch.empty(value.shape, dtype=value.dtype)
        return last.copy_(value)

    def _write(self, step: int, groups: Groups, meta: Mapping[str, Any]) -> None:
        try:
            checkpoint.save(self.folder, step, groups, meta, self.keep)
            self.newest = step
        except checkpoint.CheckpointError as error:
            self.tell(f"warning: step {step} was not saved: {error}")
        except BaseException as error:
            if threading.current_thread() is threading.main_thread():
                raise
            self._failed = error

    def __enter__(self) -> Saver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None or issubclass(kind, Exception):  # a second signal waits for nothing
            self.wait()
