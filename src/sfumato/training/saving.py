"""Checkpoints written beside the training: a thread copies the state and writes the copy.

What a checkpoint holds stays as it is from one update to the next, so the copy may be taken while the next gradient is
worked out; only the update that would change it waits (`Saver.settle`). On an accelerator the copy has a stream of its
own. What `checkpoint` promises holds, for it is `checkpoint.save` that the thread calls; never are two in flight, and
nothing ends before the last one is on the disk.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from sfumato.training import checkpoint
from sfumato.training.memory import free, is_short
from sfumato.training.shards import Place, Together

Groups = Mapping[str, Mapping[str, Tensor]]
Copies = dict[str, dict[str, Tensor]]
Every = Mapping[tuple[str, str], Tensor]
Places = Mapping[str, Mapping[str, Place]]


class Saver:
    """Writes checkpoints of a run into ``folder``, of which ``keep`` stay. As a context manager it waits at the end."""

    def __init__(self, folder: Path, keep: int, tell: Callable[[str], None], together: Together | None = None):
        self.folder, self.keep, self.tell = folder, keep, tell
        self.together = together
        """The processes that write each checkpoint together, where its tensors lie in parts."""
        self.newest: int | None = None
        """The step of the last checkpoint that was written."""
        self._thread: threading.Thread | None = None
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._failed: BaseException | None = None
        self._copied, self._landed = threading.Event(), threading.Event()
        self._copied.set()
        self._landed.set()
        self._copies: Copies = {}
        self._beside = True  # False: the network changes its own weights when it is called

    def save(
        self,
        step: int,
        groups: Groups,
        meta: Mapping[str, Any],
        now: bool = False,
        restless: Collection[tuple[str, str]] = (),
        places: Places | None = None,
    ) -> None:
        """Write the state of a step, ``now`` or in the background, and then call `settle` before any of it changes. Where it
        cannot be written it says so and goes on: a full disk must not end a run that still holds everything in memory.

        restless: group and name of tensors that may change before that, as what a forward pass counts: copied before this
        returns. places: of tensors of which this process has some rows, where several write together.
        """
        self.wait()
        copies = None if now else self._room(groups)
        if copies is None:  # asked for, or no room for a second state
            self._write(step, groups, meta, places)
            self.wait()
            return
        every = {(group, name): value for group, named in groups.items() for name, value in named.items()}
        rest = {at: value for at, value in every.items() if self._beside and at not in restless}
        _copy({at: value for at, value in every.items() if at not in rest}, copies)
        versions = _versions(rest)
        beside = _stream(rest)
        self._copied.clear()
        self._landed.clear()

        def work() -> None:
            whole = False
            try:
                with beside:
                    _copy(rest, copies)
                whole = _versions(rest) == versions
                self._beside &= whole
            finally:
                self._copied.set()
                if not whole and self.together is not None:  # the others wait for this one's part
                    self._write(step, {group: {} for group in copies}, meta, places, False)
            if whole:
                self._write(step, copies, meta, places)
            elif self.together is None:
                self.tell(
                    f"warning: step {step} was not saved: the network changes its own weights when it is called; from here "
                    "on they are copied first"
                )

        self._start()
        self._work.put(work)

    def _start(self) -> None:
        # one thread for all: to begin one waits until it runs, which on a busy machine is longer than the copy
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name="save", daemon=True)
            self._thread.start()

    def _serve(self) -> None:
        while (work := self._work.get()) is not None:
            try:
                work()
            except BaseException as error:
                self._failed = error
            self._landed.set()

    def settle(self) -> None:
        """Until the state may change again. Raises what went wrong so far in the background, unless that was the disk."""
        self._copied.wait()
        if self._failed is not None:
            self.wait()

    @property
    def busy(self) -> bool:
        """Whether one is being written."""
        return not self._landed.is_set()

    def first(self, step: int, groups: Groups, meta: Mapping[str, Any], places: Places | None = None) -> None:
        """Write it now. Raises CheckpointError: where nothing can be written from the start, nothing should begin."""
        self._start()
        self._put(step, groups, meta, places)

    def wait(self) -> None:
        """Until what is in flight has landed. Raises what went wrong there, unless that was the disk."""
        self._landed.wait()
        if self._failed is not None:
            failed, self._failed = self._failed, None
            raise failed

    def _room(self, groups: Groups) -> Copies | None:
        """Tensors on the CPU like those of the state: the last ones where they fit; None where there is no room."""
        size, held = (
            sum(value.numel() * value.element_size() for named in every.values() for value in named.values())
            for every in (groups, self._copies)
        )
        room = free()
        if room is not None and room + held < 1.5 * size:
            self._copies = {}
            return None
        try:
            self._copies = {
                group: {name: _like(value, self._copies.get(group, {}).get(name)) for name, value in named.items()}
                for group, named in groups.items()
            }
        except (RuntimeError, MemoryError) as error:
            self._copies = {}
            if is_short(error):
                return None
            raise
        return self._copies

    def _put(
        self, step: int, groups: Groups, meta: Mapping[str, Any], places: Places | None, sound: bool = True
    ) -> None:
        if self.together is None:
            checkpoint.save(self.folder, step, groups, meta, self.keep)
        else:
            checkpoint.save_parts(self.folder, step, groups, places or {}, meta, self.keep, self.together, sound)
        self.newest = step

    def _write(
        self, step: int, groups: Groups, meta: Mapping[str, Any], places: Places | None = None, sound: bool = True
    ) -> None:
        try:
            self._put(step, groups, meta, places, sound)
        except checkpoint.CheckpointError as error:
            self.tell(f"warning: step {step} was not saved: {error}")

    def __enter__(self) -> Saver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._work.put(None)
        if kind is None or issubclass(kind, Exception):  # a second signal waits for nothing
            self.wait()


def _like(value: Tensor, last: Tensor | None) -> Tensor:
    """A tensor on the CPU of the same shape and type: the last one, for what takes long is to get memory."""
    fits = last is not None and last.shape == value.shape and last.dtype == value.dtype
    return last if fits and last is not None else torch.empty(value.shape, dtype=value.dtype)


@torch.no_grad()
def _copy(every: Every, copies: Copies) -> None:
    """All in one call, which lets other threads run meanwhile."""
    if every:
        torch._foreach_copy_([copies[group][name] for group, name in every], list(every.values()))


def _versions(every: Every) -> list[int]:
    """How often each tensor was changed in place, as autograd counts it."""
    return [value._version for value in every.values()]


def _stream(every: Every) -> AbstractContextManager[Any]:
    """On an accelerator, a stream that begins after all that is queued by now, so that the copy does not stand in the queue."""
    device = next((value.device for value in every.values() if value.is_cuda), None)
    if device is None:
        return nullcontext()
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    return torch.cuda.stream(stream)
