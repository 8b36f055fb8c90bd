"""Weights in parts: each process holds some rows of every parameter, and has a unit's whole while the unit is at work.

Torch's `fully_shard` (FSDP2) around each *unit*, a repeated block of a network as its class declares it, and around the
objective last. Averages and the optimiser's state lie in the same parts. Where there are several copies (HSDP), the processes
of a copy sum gradients among themselves first, then the copies do.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from sfumato.errors import Wrong
from sfumato.networks.strips import Strip
from sfumato.training.mesh import Mesh
from sfumato.training.shards import Place, Together


def units(network: nn.Module) -> list[tuple[str, nn.Module]]:
    """The units of a network by name, from the outside in: parts of classes that its own class, or that of a part of it,
    names in ``units``.

    Raises Wrong where there are none, with the types that it is made of.
    """
    found: dict[str, nn.Module] = {}
    for name, part in network.named_modules():
        declared: tuple[str, ...] = getattr(part, "units", ())
        for inner, module in part.named_modules() if declared else ():
            if inner and any(kind.__name__ in declared for kind in type(module).__mro__):
                found[f"{name}.{inner}".strip(".")] = module
    if found:
        return sorted(found.items(), key=lambda item: item[0].count("."))
    kinds = Counter(type(part).__name__ for part in network.modules())
    listed = ", ".join(f"{kind} ({many})" for kind, many in kinds.most_common(12))
    raise Wrong(
        f"parallel.shard: {type(network).__name__} names no units by which its weights could lie in parts; it is made of "
        f"{listed}: "
        'name the repeated one on its class, as in units = ("Block",), or leave --parallel.shard out'
    )


def local(value: Tensor) -> Tensor:
    """What this process holds of a tensor; all of one that does not lie in parts."""
    if not isinstance(value, DTensor):
        return value
    part: Any = value.detach()
    return part.to_local()


def place(value: Tensor) -> Place | None:
    """Which rows that is; None of a tensor that does not lie in parts."""
    if not isinstance(value, DTensor):
        return None
    mesh, rows = value.device_mesh, value.shape[0]
    count = mesh.size(mesh.ndim - 1)
    each = -(-rows // count)  # as torch.chunk cuts: the last ones may have fewer rows, or none
    return Place(min(rows, mesh.get_local_rank(mesh.ndim - 1) * each), tuple(value.shape))


def lay(
    objective: nn.Module,
    network: nn.Module,
    mesh: DeviceMesh,
    compiled: bool = False,
    take: Callable[[nn.Module], None] = lambda part: None,
) -> None:
    """Lay the weights of an objective in parts, unit by unit of its network, the inner ones first, and all the rest last.

    compiled: each unit by itself. take: is called with each part before. Raises Wrong where there are no units.
    """
    # blocks end in a view, which nothing changes in place
    warnings.filterwarnings("ignore", "FSDP2-wrapped module", UserWarning)
    for _, unit in reversed(units(network)):
        if compiled:
            unit.compile()
        take(unit)
        fully_shard(unit, mesh=mesh)
    take(objective)
    fully_shard(objective, mesh=mesh)


@dataclasses.dataclass(frozen=True)
class Sharding:
    """The processes that hold one copy of the weights together, of which this is the ``index``-th of ``count``.

    mesh: (copies, parts) or (parts,). writes: whether its copy is the one that goes into files. together: how all processes
    write a checkpoint.
    """

    mesh: DeviceMesh
    index: int
    count: int
    writes: bool
    together: Together

    @classmethod
    def over(cls, mesh: Mesh, rank: int, device: torch.device) -> Sharding:
        """Of a layout whose weights lie in parts; all processes call it."""
        count = mesh.holders
        if count == mesh.size:
            made = init_device_mesh(device.type, (count,), mesh_dim_names=("shard",))
        else:
            made = init_device_mesh(device.type, (mesh.size // count, count), mesh_dim_names=("replicate", "shard"))
        index, writes = rank % count, rank < count
        return cls(made, index, count, writes, Together.of_all(index, count, writes))

    def wrap(self, objective: nn.Module, network: nn.Module, compiled: bool = False) -> nn.Module:
        """The objective with its weights in parts, those of the first process; the objective itself, changed."""
        lay(objective, network, self.mesh, compiled, self._take)
        return objective

    @torch.no_grad()
    def _take(self, module: nn.Module) -> None:
        """Weights and buffers of a part that is about to lie in parts: onto the device, as the first process has them."""
        device = torch.device(self.mesh.device_type)
        if device.type == "cuda":
            device = torch.device("cuda", torch.cuda.current_device())
        for name, value, owner in _own(module):
            if value.is_meta:
                value = torch.empty_like(value, device=device)
                _replace(owner, name, value)
            value.data = value.data.to(device)
            dist.broadcast(value.data, 0)

    def copies(self, module: nn.Module, last: bool) -> None:
        """Whether gradients go from copy to copy with the pieces that come now."""
        if self.mesh.ndim > 1:
            assert isinstance(module, FSDPModule)
            module.set_requires_all_reduce(last)

    def apart(self, objective: nn.Module) -> None:
        """After a call without gradients, what stays whole until the way back is taken apart."""
        for part in objective.modules():
            if isinstance(part, FSDPModule):
                part.reshard()

    def clip(self, gradients: Iterable[Tensor], limit: float) -> Tensor:
        """As `optim.clip`: of gradients in parts, and none that every process has whole."""
        parts = [local(gradient) for gradient in gradients]
        square = torch.nn.utils.get_total_norm(parts).double().square()
        dist.all_reduce(square, group=self.mesh.get_group("shard"))
        total = square.sqrt().to(parts[0].dtype)
        torch._foreach_mul_(parts, (limit / (total + 1e-6)).clamp(max=1.0))
        return total

    def whole(self, part: Tensor, like: Tensor) -> Tensor:
        """A tensor of which every process of a copy holds a part, as it does of ``like``; all of them call it."""
        if not isinstance(like, DTensor):
            return part
        made = DTensor.from_local(part, like.device_mesh, like.placements, shape=like.shape, stride=like.stride())
        return made.full_tensor()

    def parts(
        self, groups: Mapping[str, Mapping[str, Tensor]], places: Mapping[str, Mapping[str, Place]]
    ) -> tuple[dict[str, dict[str, Tensor]], dict[str, dict[str, Place]]]:
        """What this process writes of tensors by group, and which rows of each. What does not lie in parts the first writes;
        other copies than the first write nothing."""
        tensors: dict[str, dict[str, Tensor]] = {group: {} for group in groups}
        mine: dict[str, dict[str, Place]] = {group: {} for group in groups}
        for group, named in groups.items():
            for name, value in named.items():
                at = places.get(group, {}).get(name) or place(value)
                if not self.writes or (at is None and self.index):
                    continue
                tensors[group][name] = local(value)
                if at is not None:
                    mine[group][name] = at
        return tensors, mine


def _own(module: nn.Module) -> Iterator[tuple[str, Tensor, nn.Module]]:
    """Parameters and buffers that do not lie in parts yet, each with the module that owns it."""
    for owner in module.modules():
        for name, value in [*owner._parameters.items(), *owner._buffers.items()]:
            if value is not None and not isinstance(value, DTensor):
                yield name, value, owner


def _replace(owner: nn.Module, name: str, value: Tensor) -> None:
    if name in owner._parameters:
        before = owner._parameters[name]
        assert before is not None
        owner._parameters[name] = nn.Parameter(value, before.requires_grad)
    else:
        owner._buffers[name] = value


def strips(network: nn.Module, mesh: Mesh, rank: int) -> None:
    """Let the tokens of each sample be shared out among the processes of a strip group; all processes call it.

    Raises Wrong for a network none of whose parts can, or not among so many.
    """
    groups = [dist.new_group(list(range(first, first + mesh.context))) for first in range(0, mesh.size, mesh.context)]
    strip = Strip(rank % mesh.context, mesh.context, groups[rank // mesh.context])
    able: list[Any] = [part for part in network.modules() if hasattr(part, "in_strips")]
    if not able:
        raise Wrong(
            f"parallel.context = {mesh.context}: {type(network).__name__} cannot share out its tokens; leave it out"
        )
    try:
        for part in able:
            part.in_strips(strip)
    except ValueError as error:
        raise Wrong(f"parallel.context = {mesh.context}: {error}") from error
