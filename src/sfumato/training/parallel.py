"""One process or many: rank, world, device, and the few collective operations that training needs."""

from __future__ import annotations

import dataclasses
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
from sfumato.training.mesh import Mesh
from sfumato.training.options import ParallelOptions
from sfumato.training.sharding import Sharding, strips
from sfumato.training.shards import Together


@dataclass(frozen=True)
class Runtime:
    """Where this process stands. One process has rank 0 of 1.

    mesh: how the processes are laid out; copies of everything unless given. sharding: where weights lie in parts, the
    processes that hold one copy of them.
    """

    rank: int
    world: int
    device: torch.device
    mesh: Mesh = Mesh()
    sharding: Sharding | None = None

    def arranged(self, asked: ParallelOptions) -> Runtime:
        """This process in the layout asked for; all processes call it. Raises Wrong for one that they cannot be in."""
        mesh = Mesh.of(asked, self.world)
        sharding = Sharding.over(mesh, self.rank, self.device) if mesh.shard > 1 else None
        return dataclasses.replace(self, mesh=mesh, sharding=sharding)

    @property
    def first(self) -> bool:
        """Whether this process writes files and talks to people."""
        return self.rank == 0

    @property
    def lane(self) -> int:
        """Which share of a batch is this process's; those that share out samples have the same."""
        return self.rank // self.mesh.context

    def share(self, items: int) -> range:
        """This process's places in a global batch: equal contiguous shares.

        Raises ValueError if the batch cannot be shared out evenly.
        """
        lanes = self.world // self.mesh.context
        if items % lanes:
            below = items - items % lanes
            near = f"{below} or {below + lanes}" if below else f"{lanes}"
            raise Wrong(f"a batch of {items} cannot be shared evenly among {lanes} processes; the nearest is {near}")
        size = items // lanes
        return range(self.lane * size, (self.lane + 1) * size)

    def parallel(self, objective: nn.Module, network: nn.Module, compiled: bool = False) -> nn.Module:
        """The objective with its gradients averaged over processes, its weights in parts where that was asked for."""
        if self.world == 1:
            return objective
        if self.mesh.context > 1:
            strips(network, self.mesh, self.rank)
        if self.sharding is not None:
            return self.sharding.wrap(objective, network, compiled)
        ids = [self.device.index] if self.device.type == "cuda" else None
        # a network may have parts that this objective leaves out, such as the second time of flow maps
        return nn.parallel.DistributedDataParallel(objective, device_ids=ids, find_unused_parameters=True)

    @contextmanager
    def piece(self, module: nn.Module, last: bool) -> Iterator[None]:
        """One piece of a batch, forward and backward: gradients go from copy to copy with the last one alone."""
        if self.sharding is not None:
            self.sharding.copies(module, last)
            yield
        elif isinstance(module, nn.parallel.DistributedDataParallel) and not last:
            with module.no_sync():
                yield
        else:
            yield

    def apart(self, objective: nn.Module) -> None:
        """After a call without gradients: weights that lie in parts, and stay whole until the way back, do so again."""
        if self.sharding is not None:
            self.sharding.apart(objective)

    @property
    def saves(self) -> bool:
        """Whether this process has something to write into a checkpoint."""
        return self.first or self.sharding is not None

    @property
    def together(self) -> Together | None:
        """Who writes a checkpoint together, where its tensors lie in parts."""
        return None if self.sharding is None else self.sharding.together

    def mean(self, value: Tensor) -> Tensor:
        """Mean over processes."""
        if self.world > 1:
            value = value.clone()
            dist.all_reduce(value)
            value /= self.world
        return value

    def gather(self, value: Tensor) -> Tensor:
        """Rows of all processes, in the order of their places."""
        if self.world == 1:
            return value
        parts = [torch.empty_like(value, memory_format=torch.contiguous_format) for _ in range(self.world)]
        dist.all_gather(parts, value.contiguous())
        return torch.cat(parts[:: self.mesh.context])

    @property
    def gathers(self) -> Callable[[Tensor], Tensor] | None:
        """:meth:`gather`, where there is something to gather."""
        return self.gather if self.world > 1 else None

    def agree(self, flag: bool) -> bool:
        """Whether any process says yes, so that all of them stop at the same step."""
        return self.agreed(flag)[0]

    def agreed(self, *flags: bool) -> tuple[bool, ...]:
        """Of each flag, whether any process says yes."""
        if self.world == 1:
            return flags
        vote = torch.tensor([int(flag) for flag in flags], device=self.device)
        dist.all_reduce(vote, op=dist.ReduceOp.MAX)
        return tuple(bool(said) for said in vote.tolist())

    def told(self, number: int) -> int:
        """A whole number that the first process says."""
        if self.world == 1:
            return number
        said = torch.tensor([number], dtype=torch.int64, device=self.device)
        dist.broadcast(said, 0)
        return int(said.item())

    def heard(self, text: str) -> str:
        """What the first process says."""
        if self.world == 1:
            return text
        said = list(text.encode()) if self.first else [0] * self.told(len(text.encode()))
        if self.first:
            self.told(len(said))
        words = torch.tensor(said, dtype=torch.uint8, device=self.device)
        dist.broadcast(words, 0)
        return bytes(words.tolist()).decode()

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
            world_of: Any = getattr(dist.distributed_c10d, "_world", None)
            _KEPT.append(list(getattr(world_of, "pg_map", ())))  # those of a mesh, too
            dist.destroy_process_group()
