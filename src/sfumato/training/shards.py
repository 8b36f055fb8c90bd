"""Checkpoints of many processes: each writes the rows that it holds, and any number of processes reads them.

A group of tensors then is not one file but several, `network@2-of-4.safetensors`; which rows of each tensor a file has, and
the shape of the whole, stand in its header. A tensor without such an entry is whole, in one of them.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import safe_open
from torch import Tensor

PLACES = "places"
"""The entry of a file's header."""
SUFFIX = ".safetensors"
_PART = re.compile(r"(.+)@(\d+)-of-(\d+)\.safetensors")


@dataclass(frozen=True)
class Place:
    """The rows of a tensor that a process holds begin at ``first``; the whole has this shape."""

    first: int
    shape: tuple[int, ...]


Rows = tuple[int, int]
"""The first of some rows, and the one after the last."""


def file_of(group: str, index: int, count: int) -> str:
    """The file of a part of a group."""
    return f"{group}@{index}-of-{count}{SUFFIX}"


def header(places: Mapping[str, Place]) -> dict[str, str]:
    """What stands in its header."""
    return {PLACES: json.dumps({name: [at.first, list(at.shape)] for name, at in places.items()})}


def grouped(folder: Path, files: Iterable[str]) -> dict[str, Group]:
    """Groups of tensors by name, of the files of a checkpoint. Raises ValueError for files that do not fit together."""
    found: dict[str, list[tuple[int, int, Path]]] = {}
    for name in files:
        if not name.endswith(SUFFIX):
            continue
        part = _PART.fullmatch(name)
        group = part[1] if part else name.removesuffix(SUFFIX)
        found.setdefault(group, []).append(
            (int(part[2]), int(part[3]), folder / name) if part else (0, 1, folder / name)
        )
    made: dict[str, Group] = {}
    for group, parts in found.items():
        parts.sort()
        if [index for index, _, _ in parts] != list(range(len(parts))) or {n for _, n, _ in parts} != {len(parts)}:
            raise ValueError(f"of {group} there are {len(parts)} of {max(n for _, n, _ in parts)} parts")
        made[group] = Group([path for _, _, path in parts])
    return made


class Group:
    """The tensors of some files, read when they are asked for. Raises ValueError for pieces that do not make wholes."""

    def __init__(self, files: Sequence[Path]):
        self._open = [safe_open(file, "pt") for file in files]
        self._pieces: dict[str, list[tuple[int, int, int]]] = {}  # name -> (first row, rows, file), in order
        self.shapes: dict[str, tuple[int, ...]] = {}
        for k, opened in enumerate(self._open):
            told = json.loads((opened.metadata() or {}).get(PLACES, "{}"))
            for name in opened.keys():  # noqa: SIM118
                shape = tuple(opened.get_slice(name).get_shape())
                first, whole = told.get(name, (0, shape))
                if self.shapes.setdefault(name, tuple(whole)) != tuple(whole) or shape[1:] != tuple(whole[1:]):
                    raise ValueError(f"pieces of {name} have different shapes")
                self._pieces.setdefault(name, []).append((int(first), shape[0] if shape else 1, k))
        for name, pieces in self._pieces.items():
            pieces.sort()
            ends = [0]
            for first, rows, _ in pieces:
                if rows and first != ends[-1]:
                    raise ValueError(f"rows {ends[-1]} to {first} of {name} are missing")
                ends.append(ends[-1] + rows)
            if ends[-1] != (self.shapes[name][0] if self.shapes[name] else 1):
                raise ValueError(f"{name} has {ends[-1]} rows of {self.shapes[name]}")

    def read(self, name: str, rows: Rows | None = None) -> Tensor:
        """A tensor, or some rows of it."""
        if len(self._pieces[name]) == 1 and rows is None:
            return self._open[self._pieces[name][0][2]].get_tensor(name).clone()
        low, high = rows if rows is not None else (0, self.shapes[name][0])
        found = []
        for first, count, k in self._pieces[name]:
            a, b = max(low, first), min(high, first + count)
            if b > a:
                found.append(self._open[k].get_slice(name)[a - first : b - first])
        if not found:
            return self._open[self._pieces[name][0][2]].get_slice(name)[:0].clone()
        return torch.cat(found) if len(found) > 1 else found[0].clone()


# ---- of the processes that write -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Together:
    """All processes of a run as they write a checkpoint, in a process group of its own, on the CPU: it is written beside the
    training, whose messages must not meet these.

    index, count: of the part that this process writes, if it ``writes``. pid: the first one's number.
    """

    group: Any
    rank: int
    world: int
    index: int
    count: int
    writes: bool
    pid: int

    @classmethod
    def of_all(cls, index: int, count: int, writes: bool) -> Together:
        """Of the processes that there are; all of them call it."""
        group = dist.new_group(backend="gloo")
        pid = torch.tensor([os.getpid()])
        dist.broadcast(pid, 0, group=group)
        return cls(group, dist.get_rank(), dist.get_world_size(), index, count, writes, int(pid))

    @property
    def first(self) -> bool:
        """Whether this process makes the folder and the manifest."""
        return self.rank == 0

    def least(self, number: int) -> int:
        """The least of the numbers that the processes say."""
        said = torch.tensor([number])
        dist.all_reduce(said, op=dist.ReduceOp.MIN, group=self.group)
        return int(said)

    def seals(self, mine: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
        """Sizes and checksums of the files of all processes; those that write have a file of each group each."""
        names = sorted(mine)
        rows = [list(mine[n]["size"].to_bytes(8, "little")) + list(bytes.fromhex(mine[n]["sha256"])) for n in names]
        # those that write nothing say nothing of as many files
        many = torch.tensor([len(rows)])
        dist.all_reduce(many, op=dist.ReduceOp.MAX, group=self.group)
        told = torch.zeros(int(many), 40, dtype=torch.uint8)
        if rows:
            told[:] = torch.tensor(rows, dtype=torch.uint8)
        every = [torch.empty_like(told) for _ in range(self.world)]
        dist.all_gather(every, told, group=self.group)
        groups = [_PART.fullmatch(name) for name in names]
        found: dict[str, dict[str, Any]] = {}
        for index, table in enumerate(every[: self.count]):
            for part, row in zip(groups, table.tolist()):
                assert part is not None
                seal = {"size": int.from_bytes(bytes(row[:8]), "little"), "sha256": bytes(row[8:]).hex()}
                found[file_of(part[1], index, self.count)] = seal
        return found
