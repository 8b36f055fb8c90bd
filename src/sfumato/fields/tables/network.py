"""The network of tables: states and values of a row in, logits of every state and an answer for every value out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.networks.parts import LevelEmbedding, no_autocast, standard, waves, zero_

FREQUENCIES = 16


def usual_width(columns: int) -> int:
    """Of a network for so many columns."""
    return 256 if columns <= 64 else 512


BARRED = -1e30
"""Logit of a state that a column does not have: finite, as :data:`sfumato.diffusion.tokens.NEVER` is."""


class Block(nn.Module):
    """h + outer(silu(inner(standard(h)))); starts as the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Linear(width, width)
        self.outer = nn.Linear(width, width)
        zero_(self.outer)

    def forward(self, h: Tensor) -> Tensor:
        return h + self.outer(F.silu(self.inner(standard(h))))


class TableMLP(nn.Module):
    """Residual network on whole rows: every column is embedded, the row is one vector, every column has its own head.

    The level of the states is not looked at: which of them are masked is all that it could tell (the law of what stands
    under the masks is the same at every time). Values are shown times alpha / hypot, so that one that is all noise is
    silent, and not at all where their state is known to be no bin. Each value has its own alpha / hypot beside it, so any
    columns can be known; the level in waves is that of the noisiest.

    Args:
        sizes: number of states of each column, (C,).
        first_bins: the first state of each that is a bin, (C,).
        valued: which columns have values, (N,).
        width, depth: of the residual blocks.
        embedding: numbers that describe a state.
        by_bin: every bin has a direction of its own, along which its value moves the embedding, and an answer of its own. So
            what is shown of a number is piecewise linear in the number itself (Gorishniy et al. 2022, arXiv 2203.05556),
            and what a value means need not be multiplied out of state and value by the blocks. False: networks of old.
    """

    units = ("Block",)
    options: dict[str, Any]
    bar: Tensor
    place: Tensor
    row: Tensor
    slots: Tensor
    bins: Tensor
    owner: Tensor
    firsts: Tensor

    def __init__(
        self,
        *,
        sizes: Sequence[int],
        first_bins: Sequence[int],
        valued: Sequence[int],
        width: int = 256,
        depth: int = 3,
        embedding: int = 16,
        by_bin: bool = False,
    ) -> None:
        super().__init__()
        sizes, first_bins, valued = list(sizes), list(first_bins), list(valued)
        self.options = {
            "kind": "table", "sizes": sizes, "first_bins": first_bins, "valued": valued, "width": width, "depth": depth,
            "embedding": embedding, "by_bin": by_bin,
        }  # fmt: skip
        columns, most = len(sizes), max(sizes)
        self.most, self.columns = most, columns
        offsets = torch.tensor([0, *(size + 1 for size in sizes)]).cumsum(0)
        # column c's state k is row offsets[c] + k of the embedding, its mask the row after its last state
        row = offsets[:-1, None] + torch.arange(most + 1).clamp_max(torch.tensor(sizes)[:, None])
        place = [c * (most + 1) + k for c, size in enumerate(sizes) for k in range(size)]
        # where the logit of column c's state k stands among all; one after the last where it has no such state
        slots = torch.full((columns, most + 1), len(place))
        slots[torch.arange(most + 1)[None] < torch.tensor(sizes)[:, None]] = torch.arange(len(place))
        self.register_buffer("slots", slots, persistent=False)
        self.register_buffer("row", row, persistent=False)
        self.register_buffer("place", torch.tensor(place), persistent=False)
        self.register_buffer("bins", torch.tensor(first_bins), persistent=False)
        self.register_buffer("owner", torch.tensor(valued, dtype=torch.int64), persistent=False)
        self.states = nn.Embedding(sum(sizes) + columns, embedding)
        self.enter = nn.Linear(columns * embedding + (2 * len(valued) + 2 * FREQUENCIES if valued else 0), width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.logits = nn.Linear(width, sum(sizes))
        self.slopes = nn.Embedding(sum(sizes) + columns, embedding) if by_bin and valued else None
        # the answers of a column's bins and of its mask lie next to each other; a state that is no bin takes the last
        self.answers = [sizes[c] - first_bins[c] + 1 if by_bin else 1 for c in valued]
        firsts = torch.tensor([0, *self.answers]).cumsum(0)[:-1]
        self.register_buffer("firsts", firsts, persistent=False)
        self.values = nn.Linear(width, sum(self.answers)) if valued else None
        nn.init.normal_(self.states.weight, std=0.5)
        if self.slopes is not None:
            nn.init.normal_(self.slopes.weight, std=0.5)
        for head in (self.logits, self.values):
            if head is not None:
                zero_(head)

    def forward(
        self, shown: Mapping[str, Tensor], level: Mapping[str, Tensor], only: Tensor | None = None
    ) -> dict[str, Tensor]:
        """{"states": int64 (B, C), "values": (B, N)}, {"values": (B,) or (B, N)} -> {"states": logits (B, C, V), V one more
        than the most states that a column has, for the mask, "values": (B, N)}; no values where no column has any.

        Args:
            only: bool (B, C); then the states' answer is that of these cells alone, in order, (n, V), and the values' is 0.

        Raises:
            ValueError: a part of another shape.
        """
        x = shown["states"]
        if x.ndim != 2 or x.shape[1] != self.columns:
            raise ValueError(f"states have shape {tuple(x.shape)}, expected (batch, {self.columns})")
        columns = torch.arange(self.columns, device=x.device)
        embedded = self.states(self.row[columns, x])
        parts = []
        if self.values is not None:
            values, noise = self._values(shown["values"], level["values"])
            masked = x[:, self.owner] == self.most
            live = masked | (x[:, self.owner] >= self.bins[self.owner])
            share = torch.rsqrt(1 + torch.exp(2 * noise.float())) * live  # alpha / hypot
            clock = waves(noise.float().amax(1), LevelEmbedding.LONGEST, LevelEmbedding.SHORTEST, FREQUENCIES)
            parts = [values * share, share.expand(values.shape), clock]
            if self.slopes is not None:
                moved = self.slopes(self.row[self.owner, x[:, self.owner]]) * parts[0][..., None].to(embedded.dtype)
                embedded = embedded.index_add(1, self.owner, moved)
        parts = [embedded.flatten(1), *(each.to(embedded.dtype) for each in parts)]
        h = self.enter(torch.cat(parts, 1))
        for block in self.blocks:
            h = block(h)
        with no_autocast(h):
            h = h.to(self.logits.weight.dtype)
            if only is not None:
                zeros = {} if self.values is None else {"values": h.new_zeros(1, 1).expand(len(x), len(self.owner))}
                return {"states": self._some(h, only), **zeros}
            answer = {"states": self._logits(h, x)}
            if self.values is not None:
                answer["values"] = self._answers(self.values(h), x[:, self.owner])
        return answer

    def _logits(self, h: Tensor, x: Tensor) -> Tensor:
        """Of every state, (B, C, V). In sampling on a CPU, where looking costs nothing, zeros where no state is masked: what is
        known is not asked for."""
        if not torch.is_grad_enabled() and x.device.type == "cpu" and not bool((x == self.most).any()):
            return h.new_zeros(1, 1, 1).expand(len(x), self.columns, self.most + 1)
        flat = self.logits(h)
        logits = flat.new_full((len(x), self.columns * (self.most + 1)), BARRED).index_copy_(1, self.place, flat)
        return logits.unflatten(1, (self.columns, self.most + 1))

    def _some(self, h: Tensor, only: Tensor) -> Tensor:
        """Logits of the states of some cells, (n, V)."""
        flat = F.pad(self.logits(h), (0, 1), value=BARRED)
        rows, columns = only.nonzero(as_tuple=True)
        return flat[rows[:, None], self.slots[columns]]

    def _answers(self, answers: Tensor, states: Tensor) -> Tensor:
        """Those of the states (B, N) that the columns are in: (B, N)."""
        if self.slopes is None:
            return answers
        counts = torch.tensor(self.answers, device=answers.device)
        bins = states - self.bins[self.owner]
        own = torch.where((bins >= 0) & (bins < counts - 1) & (states < self.most), bins, counts - 1)
        return answers.gather(1, self.firsts + own)

    def _values(self, values: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """Values and their levels, both checked: (B, N), and (B, N) or (B, 1)."""
        if values.ndim != 2 or values.shape[1] != len(self.owner):
            raise ValueError(f"values have shape {tuple(values.shape)}, expected (batch, {len(self.owner)})")
        level = level[:, None] if level.ndim == 1 else level
        if level.shape[0] not in (1, len(values)) or level.shape[1] not in (1, values.shape[1]):
            raise ValueError(f"the level of the values has shape {tuple(level.shape)}, expected {tuple(values.shape)}")
        return values, level.expand(len(values), -1)


class TableSet(nn.Module):
    """A network for each of several tables; which of them is called says the batch.

    Args:
        names: of the tables. sizes, first_bins, valued: of each as for :class:`TableMLP`; width, depth: of all.
    """

    options: dict[str, Any]

    def __init__(
        self, *, names: Sequence[str], sizes: Sequence[Sequence[int]], first_bins: Sequence[Sequence[int]],
        valued: Sequence[Sequence[int]], width: Sequence[int], depth: int = 3,
    ) -> None:  # fmt: skip
        super().__init__()
        if not len(names) == len(sizes) == len(first_bins) == len(valued) == len(width):
            raise ValueError(f"{len(names)} tables have {len(sizes)} lists of sizes")
        self.options = {
            "kind": "tables", "names": list(names), "sizes": [list(each) for each in sizes],
            "first_bins": [list(each) for each in first_bins], "valued": [list(each) for each in valued],
            "width": list(width), "depth": depth,
        }  # fmt: skip
        self.names = tuple(names)
        self.tables = nn.ModuleList(
            TableMLP(sizes=own, first_bins=first, valued=valued_, width=wide, depth=depth, by_bin=True)
            for own, first, valued_, wide in zip(sizes, first_bins, valued, width)
        )

    def of(self, name: str) -> nn.Module:
        """The network of a table."""
        return self.tables[self.names.index(name)]

    def forward(self, shown: Mapping[str, Any], level: Mapping[str, Any]) -> dict[str, dict[str, Tensor]]:
        """{table: what its network is shown} -> {table: its answer}, of the tables that are there."""
        return {name: self.of(name)(rows, level[name]) for name, rows in shown.items()}
