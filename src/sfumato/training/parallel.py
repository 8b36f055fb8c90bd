"""One process or many: rank, world, device, and the few collective operations that training needs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from sfumato.errors import Wrong


@dataclass(frozen=True)
class Runtime:
    """Where this process stands. One process has rank 0 of 1."""

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this process writes files and talks to people."""
        return self.rank == 0

    def share(self, items: int) -> range:
        """This process's places in a global batch: equal contiguous shares.

        Raises ValueError if the batch cannot be shared out evenly.
        """
        if items % self.world:
            raise Wrong(f"a batch of {items} cannot be shared evenly among {self.world} processes")
        size = items // self.world
        return range(self.rank * size, (self.rank + 1) * size)

    def parallel(self, module: nn.Module) -> nn.Module:
        """The module with its gradients averaged over processes."""
        if self.world == 1:
            return module
        ids = [self.device.index] if self.device.type == "cuda" else None
        # a network may have parts that this objective leaves out, such as the second time of flow maps
        return nn.parallel.DistributedDataParallel(module, device_ids=ids, find_unused_parameters=True)

    def mean(self, value: Tensor) -> Tensor:
        """Mean over processes."""
        if self.world > 1:
            value = value.clone()
            dist.all_reduce(value)
            value /= self.world
        return value

    def gather(self, value: Tensor) -> Tensor:
        """Rows of all processes, in rank order."""
        if self.world == 1:
            return value
        parts = [torch.empty_like(value) for _ in range(self.world)]
        dist.all_gather(parts, value.contiguous())
        return torch.cat(parts)

    @property
    def gathers(self) -> Callable[[Tensor], Tensor] | None:
        """:meth:`gather`, where there is something to gather."""
        return self.gather if self.world > 1 else None

    def agree(self, flag: bool) -> bool:
        """Whether any process says yes, so that all of them stop at the same step."""
        if self.world == 1:
            return flag
        vote = torch.tensor([int(flag)], device=self.device)
        dist.all_reduce(vote, op=dist.ReduceOp.MAX)
        return bool(vote.item())

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.world > 1:
            dist.barrier()


def pick_device(name: str = "auto") -> torch.device:
    """The device asked for, or the best there is: CUDA, else Apple's MPS, else the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    return torch.device(name)


_KEPT: list[Any] = []
"""Groups that are done with. Gloo's ends by waiting for its thread, which may want Python's lock to let go of its last
barrier; whoever held the group last would wait with that lock in hand, for ever, as the wrapped network did now and then."""


@contextmanager
def launched(device: str = "auto") -> Iterator[Runtime]:
    """The runtime of this process, started by `torchrun` (which sets RANK, WORLD_SIZE, LOCAL_RANK) or by hand."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    place = pick_device(device)
    if world == 1:
        yield Runtime(0, 1, place)
        return
    if place.type == "cuda":
        place = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(place)
    outermost = not dist.is_initialized()  # one group for all: a second one would meet the first one's addresses
    if outermost:
        # torchrun keeps its store when it starts processes again: without a name for each start they would look for one another
        # at the addresses of the dead
        store, rank, world = next(rendezvous("env://"))
        start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        dist.init_process_group(
            "nccl" if place.type == "cuda" else "gloo",
            store=dist.PrefixStore(f"start {start}", store), rank=rank, world_size=world,
        )  # fmt: skip
    try:
        yield Runtime(dist.get_rank(), world, place)
    finally:
        if outermost:
            _KEPT.append(dist.group.WORLD)
            dist.destroy_process_group()
