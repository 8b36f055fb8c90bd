"""A dry run: what each of many processes would hold and do, worked out in one, without their memory.

The network is on the meta device, where tensors have shapes and no numbers, and its weights are laid in parts by the same
function as in a real run, in a process group that only pretends to have others. One row or two of the data say what the
network is shown; from what autograd would keep of them comes the memory of a batch.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from sfumato.diffusion import key, tree
from sfumato.diffusion.tree import Tree
from sfumato.errors import Mendable, Wrong
from sfumato.training.loader import fetch
from sfumato.training.mesh import Mesh
from sfumato.training.objective import Objective, Task, noised
from sfumato.training.optim import hidden_matrices
from sfumato.training.options import TrainOptions
from sfumato.training.sharding import lay, local, units

PEAK, SHARE = 989e12, 0.5
"""Multiplications and additions a second of one H100 in bfloat16, dense, and what part of them a good run makes use of."""
WIDE = 4
"""Bytes of a number of weights, gradients, averages and moments."""


class Cannot(Mendable, RuntimeError):
    """What stands in the way of a dry run."""


@dataclass(frozen=True)
class Foreseen:
    """A run of many processes. Bytes are those of one process, the one that has most.

    units: how many of each kind, its numbers, and bytes that one keeps for the way back. parameters: numbers of the network;
    held: of these, how many one process holds. unit, root: numbers of the largest unit, and of all that is in none.
    rows: of a piece of a batch that one process learns from at once. kept: bytes for the way back, in all. flops: of a step.
    """

    mesh: Mesh
    units: tuple[tuple[str, int, int, int], ...]
    parameters: int
    held: int
    unit: int
    root: int
    rows: int
    kept: int
    flops: float
    moments: float

    @property
    def state(self) -> int:
        """Bytes of weights, gradients, moments of the optimiser and two averages."""
        return round(WIDE * self.held * (4 + self.moments))

    @property
    def gathered(self) -> int:
        """Bytes of what is whole for a while: the unit at work, the next one, the gradient of one, and what is in no unit with
        its gradient. Nothing where weights lie whole in any case."""
        return WIDE * (3 * self.unit + 2 * self.root) if self.mesh.shard > 1 else 0

    @property
    def bytes(self) -> int:
        """In all, at the fullest."""
        return self.state + self.gathered + self.kept

    @property
    def seconds(self) -> float:
        """A step's, by arithmetic alone, at `SHARE` of `PEAK`."""
        return self.flops / (PEAK * SHARE)

    def lines(self) -> Iterator[str]:
        """For people."""
        yield f"processes {self.mesh.size}: {self.mesh.words()}; {self.rows} row(s) at a time in each"
        for kind, many, numbers, kept in self.units:
            yield f"units     {many} {kind} of {numbers / 1e6:.2f} M numbers; each keeps {_bytes(kept)} for the way back"
        whole = self.parameters - sum(many * numbers for _, many, numbers, _ in self.units)
        yield f"          and {max(whole, 0) / 1e6:.2f} M numbers in no unit; {self.parameters / 1e6:.1f} M in all"
        yield (
            f"state     {_bytes(self.state)} in each process: {self.held / 1e6:.2f} M numbers "
            f"({self.held / self.parameters:.2%}), their gradients, moments and two averages"
        )
        yield f"gathered  {_bytes(self.gathered)} at most: units while they are at work"
        yield f"kept      {_bytes(self.kept)} for the way back"
        more = _bytes(WIDE * self.parameters)
        yield f"memory    {_bytes(self.bytes)} in each process; the first holds the averaged network besides, {more}"
        yield (
            f"work      {self.flops / 1e12:.3g} TFLOP a step and process: {self.seconds:.3g} s at {SHARE:.0%} of an H100 in "
            "bfloat16, messages and data aside"
        )


def foresee(task: Task, options: TrainOptions, world: int, rank: int = 0) -> Foreseen:
    """A run of so many processes, as one of them sees it. The network's own weights are not touched.

    Raises Wrong for a mesh or a batch that the processes cannot share out, and where weights are to lie in parts and no unit is
    named; Cannot where the network cannot be called without numbers.
    """
    mesh = Mesh.of(options.parallel, world) if world > 1 else Mesh()
    assert options.batch is not None
    piece = options.batch // options.accumulate
    if piece % mesh.lanes:
        raise Wrong(f"a batch of {piece} cannot be shared evenly among {mesh.lanes} processes")
    rows = piece // mesh.lanes
    network = copy.deepcopy(task.network).to("meta")
    named = units(network) if mesh.shard > 1 else _named(network)
    kept, flops = _called(network, task, options, min(rows, 2))
    many = rows * task.copies / mesh.context
    apart = _outermost(named)
    sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in named}
    total = sum(p.numel() for p in network.parameters())
    kinds = Counter(type(part).__name__ for _, part in apart)
    listed = []
    for kind, count in kinds.items():
        names = [name for name, part in apart if type(part).__name__ == kind]
        each = [round(many * kept.get(name, 0)) for name in names]
        listed.append((kind, count, round(sum(sizes[n] for n in names) / count), max(each)))
    muon = sum(p.numel() for p in hidden_matrices(network).values()) if options.optim.kind == "muon" else 0
    held = _held(network, mesh, rank)
    return Foreseen(
        mesh, tuple(listed), total, held, max((sizes[name] for name, _ in named), default=0),
        total - sum(sizes[name] for name, _ in apart), rows, round(many * sum(kept.values())),
        flops * many * options.accumulate, 2 - muon / max(total, 1),
    )  # fmt: skip


def _named(network: nn.Module) -> list[tuple[str, nn.Module]]:
    try:
        return units(network)
    except Wrong:
        return []


def _outermost(named: list[tuple[str, nn.Module]]) -> list[tuple[str, nn.Module]]:
    names = [name for name, _ in named]
    return [(name, part) for name, part in named if not any(name.startswith(f"{other}.") for other in names)]


def _held(network: nn.Module, mesh: Mesh, rank: int) -> int:
    """How many numbers of its parameters a process holds. Raises Cannot where a unit was left out."""
    if mesh.shard == 1:
        return sum(p.numel() for p in network.parameters())
    laid = copy.deepcopy(network)
    with pretended(mesh.size, rank):
        made = (mesh.size // mesh.holders, mesh.holders)
        names = ("replicate", "shard")
        shape, words = (made, names) if made[0] > 1 else (made[1:], names[1:])
        lay(laid, laid, init_device_mesh("cpu", shape, mesh_dim_names=words))
        bare = [name for name, part in units(laid) if not isinstance(part, FSDPModule)]
        if bare:
            raise Cannot(f"units that would not lie in parts: {', '.join(bare[:4])}")
        return sum(local(p).numel() for p in laid.parameters())


@contextmanager
def pretended(world: int, rank: int) -> Iterator[None]:
    """A process group of so many, of which this is the only one: nothing is sent. Raises Cannot where torch has none."""
    try:
        from torch.testing._internal.distributed.fake_pg import FakeStore
    except ImportError as error:  # it is torch's own business, and may go
        raise Cannot("this version of torch cannot pretend to have many processes") from error
    if dist.is_initialized():
        raise Cannot("a dry run is made in one process alone, not under torchrun")
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=world)
    try:
        yield
    finally:
        dist.destroy_process_group()


# ---- what the network is shown -------------------------------------------------------------------------------------------


class _Enough(Exception):
    """The network was called."""


class _Caught(nn.Module):
    """Stands where the network does, and keeps what it is called with, on the meta device."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network
        self.shown: tuple[Any, ...] = ()
        self.condition: dict[str, Any] = {}

    def given(self, **condition: Tree) -> Tree:
        """What the network makes of its conditions, without numbers."""
        make: Any = getattr(self.network, "given", None)
        away = {name: _away(value) for name, value in condition.items()}
        return away if make is None or not condition else make(**away)

    def forward(self, *shown: Tree, **condition: Any) -> Tree:
        self.shown = tuple(_away(value) for value in shown)
        self.condition = {name: _away(value) for name, value in condition.items()}
        raise _Enough


def _away(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _away(part) for name, part in value.items()}
    return value.to("meta") if isinstance(value, Tensor) else value


def _called(network: nn.Module, task: Task, options: TrainOptions, rows: int) -> tuple[dict[str, int], float]:
    """Of one call forward and back with so many rows: bytes kept for the way back by unit ("" for the rest), a row; and floating
    point operations, a row."""
    batch = fetch(task.train, list(range(rows)))
    caught = _Caught(network)
    objective = Objective(task, False)
    objective._precise = (caught,)  # type: ignore[assignment]
    base = key("dry")
    with torch.no_grad():
        piece = noised(task, batch, base, 0, rows, torch.device("cpu"))
        with suppress(_Enough):
            objective(*piece)
    count = tree.rows(caught.shown[0])
    network.train().requires_grad_(True)
    kept = {name: 0 for name, _ in _outermost(_named(network))} | {"": 0}
    try:
        with fused_attention(), FlopCounterMode(display=False) as counter:
            with _keeping(network, kept):
                answer = network(*caught.shown, **caught.condition)
            torch.stack(
                [part.float().sum() for part in tree.leaves(answer) if part.is_floating_point()]
            ).sum().backward()
    except (RuntimeError, NotImplementedError) as error:
        raise Cannot(
            f"{type(network).__name__} cannot be called without numbers, and so its memory is not known: {error}"
        ) from error
    half = 0.5 if options.precision == "bf16" else 1.0
    return {name: round(half * size / count) for name, size in kept.items()}, counter.get_total_flops() / count


@contextmanager
def _keeping(network: nn.Module, kept: dict[str, int]) -> Iterator[None]:
    """Count the bytes that autograd keeps, by the unit they are kept in; each memory once, weights aside."""
    own = {value.untyped_storage()._cdata for value in [*network.parameters(), *network.buffers()]}
    seen: dict[int, Tensor] = {}  # held, so that no memory is taken for another one
    where = [""]

    def keep(value: Tensor) -> Tensor:
        at = value.untyped_storage()._cdata
        if at not in own and at not in seen:
            seen[at] = value
            kept[where[-1]] += value.numel() * value.element_size()
        return value

    def enter(name: str) -> Callable[..., None]:
        return lambda *_: where.append(name)

    handles = []
    for name, part in network.named_modules():
        if name and name in kept:
            handles += [
                part.register_forward_pre_hook(enter(name)),
                part.register_forward_hook(lambda *_: where.pop() and None),
            ]
    try:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
            yield
    finally:
        for handle in handles:
            handle.remove()


class _Fused(torch.autograd.Function):
    """Attention that keeps what fused kernels do: queries, keys, values and answers, no square of the tokens."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        answer = (q @ k.transpose(-1, -2)) @ v
        ctx.save_for_backward(q, k, v, answer)
        return answer

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v, _ = ctx.saved_tensors
        shares = q @ k.transpose(-1, -2)
        wrong = slope @ v.transpose(-1, -2)
        return wrong @ k, wrong.transpose(-1, -2) @ q, shares.transpose(-1, -2) @ slope


@contextmanager
def fused_attention() -> Iterator[None]:
    """Attention on the meta device as a fused kernel does it; torch's own would keep the shares, and so the square."""
    before = F.scaled_dot_product_attention

    def attention(q: Tensor, k: Tensor, v: Tensor, *_: Any, **__: Any) -> Tensor:
        return _Fused.apply(q, k, v)

    F.scaled_dot_product_attention = attention  # type: ignore[assignment]
    try:
        yield
    finally:
        F.scaled_dot_product_attention = before


def _bytes(count: float) -> str:
    return f"{count / 1e9:.3g} GB" if count >= 1e9 else f"{count / 1e6:.3g} MB"
