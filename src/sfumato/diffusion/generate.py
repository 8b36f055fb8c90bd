"""Drawing samples for queries: sample i of a query depends on the seed, the query and i alone.

    for drawn in generate(denoiser, Blanks(torch.zeros(3, 32, 32), 64), range(64), seed=0):
        show(drawn.x)

A *query* is what samples are drawn for and the shape they have: a label, a caption, a first frame, a pocket, a start date.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from sfumato.diffusion import tree
from sfumato.diffusion.denoiser import Guess
from sfumato.diffusion.grids import Grid, cosine
from sfumato.diffusion.paths import Endpoints
from sfumato.diffusion.rng import Streams, key
from sfumato.diffusion.sample import Euler, Solver, walk
from sfumato.diffusion.tree import Tree

RESERVED = ("x", "weak", "aside")
"""Names of a query's batch that are not conditions."""


class Queries(Protocol):
    """The samples asked for, numbered: like a data set, but of blanks."""

    @property
    def buckets(self) -> Sequence[int] | None:
        """Which samples can stand in one batch, (len,); None: all."""

    def __len__(self) -> int: ...

    def name(self, number: int) -> tuple[str, int]:
        """What it is drawn for, and which of its samples it is; ("", number) where nothing but the number tells them
        apart. Its randomness is a function of these and the seed."""

    def batch(self, numbers: Sequence[int]) -> Mapping[str, Tree]:
        """Of samples of one bucket: "x", a blank, of which shapes and types count, and the values of parts that stay clean;
        "weak", conditions of guidance's weak side, if other than hidden ones; "aside", trees that the network does not see,
        for ``begin``, ``guide`` and the field's things; every other name is a condition. Rows first."""


@dataclass(frozen=True)
class Blanks:
    """n samples shaped like ``x`` (one item, without an axis of rows), with the conditions of ``condition``: rows 0, 1, ...,
    in turn. Nothing but the number tells them apart.

    Args:
        x: a tree: zeros of the item's shape and type.
        count: how many.
        condition: name -> tree (k, ...): sample i is drawn for row i mod k.

    Raises:
        ValueError: a condition with one of the names "x", "weak" or "aside".
    """

    x: Tree
    count: int
    condition: Mapping[str, Tree] = field(default_factory=dict)
    buckets: None = None

    def __post_init__(self) -> None:
        if taken := [name for name in self.condition if name in RESERVED]:
            raise ValueError(f"a condition cannot be called {taken[0]!r}: choose another name")

    def __len__(self) -> int:
        return self.count

    def name(self, number: int) -> tuple[str, int]:
        return "", number

    def batch(self, numbers: Sequence[int]) -> dict[str, Tree]:
        which = torch.as_tensor(list(numbers), dtype=torch.int64)
        x = tree.each(lambda value: value.expand(len(which), *value.shape), self.x)
        turns = {name: tree.take(value, which % tree.rows(value)) for name, value in self.condition.items()}
        return {"x": x, **turns}


class Drawn(NamedTuple):
    """Samples of one batch: x (b, ...) in standard units, the query's batch, their numbers, and what is known about each,
    name -> (b, ...): the calls of the network ("calls") of solvers that choose their own steps, confidences, ..."""

    x: Tree
    query: Mapping[str, Tree]
    numbers: Sequence[int]
    scores: Mapping[str, Tree]


Guiding = Callable[[Guess, Mapping[str, Tree]], Guess]
"""Goes around the guess, by the query's batch: infill, inpaint, potentials."""
Begin = Callable[[Any, Tree, Mapping[str, Tree]], tuple[Tree, Tree]]
"""process, noise z (B, ...), the query's batch -> the first state and the times to walk through."""
Look = Callable[[Sequence[int], int, int, Tree], None]
"""numbers, step, steps, the guess as data (b, ...): called after each step, for bars, films and text as it is written."""


@dataclass(frozen=True)
class FromNoise:
    """The plain way to begin: at pure noise, with so many steps along a grid."""

    steps: int = 20
    grid: Grid = cosine

    def __call__(self, process: Any, z: Tree, query: Mapping[str, Tree]) -> tuple[Tree, Tensor]:
        return process.start(z), self.grid(process.schedule, self.steps)


class _Noting:
    """A guess that keeps what it said last, to be looked at."""

    def __init__(self, guess: Guess):
        self.guess = guess
        self.last: Endpoints | None = None

    @property
    def process(self) -> Any:
        return self.guess.process

    def given(self, **condition: Tree) -> Tree:
        return self.guess.given(**condition)

    def __call__(self, x_t: Tree, t: Tree, s: Tree | None = None, **condition: Any) -> Endpoints:
        self.last = self.guess(x_t, t, s, **condition)
        return self.last


def _plainly(guess: Guess, query: Mapping[str, Tree]) -> Guess:
    return guess


def bunches(queries: Queries, numbers: Sequence[int], batch: int) -> Iterator[list[int]]:
    """The numbers, at most ``batch`` at a time, of one bucket each, in order within a bucket."""
    kinds = queries.buckets
    groups: dict[int, list[int]] = {}
    for number in numbers:
        groups.setdefault(0 if kinds is None else int(kinds[number]), []).append(int(number))
    for group in groups.values():
        for start in range(0, len(group), batch):
            yield group[start : start + batch]


def streams(
    queries: Queries, numbers: Sequence[int], seed: int, stream: Sequence[str | int], device: torch.device | str = "cpu"
) -> Streams:
    """The rows' own streams: of the number, or of the query's name and the sample's place in it."""
    names = [queries.name(number) for number in numbers]
    plain = key(*stream, seed)
    bases = [key(*stream, seed, name) if name else plain for name, _ in names]
    return Streams(bases, [place for _, place in names], device)


@torch.no_grad()
def generate(
    guess: Guess,
    queries: Queries,
    numbers: Sequence[int],
    *,
    seed: int = 0,
    stream: Sequence[str | int] = ("sample",),
    begin: Begin = FromNoise(),
    guide: Guiding = _plainly,
    solver: Solver = Euler(),
    batch: int = 16,
    device: torch.device | str = "cpu",
    look: Look | None = None,
) -> Iterator[Drawn]:
    """Yield the samples of the given numbers, a batch at a time (bucket by bucket, in order within one).

    Each stream of randomness belongs to one sample: (seed, number), or (seed, name of its query, place in it), so a member
    of an ensemble is the same alone, in any list, and for any number of members. The network always sees full batches of
    ``batch``, the last one filled up with copies, because matrix products of another size round differently: so a sample is
    the same bit for bit alone and in any order as long as ``batch`` is (with another one, to about 1e-5).
    """
    for own in bunches(queries, numbers, batch):
        filled = [*own, *[own[-1]] * (batch - len(own))]
        rng = streams(queries, filled, seed, stream, device)
        rows = torch.tensor([*range(len(own)), *[len(own) - 1] * (batch - len(own))])
        query = tree.to(tree.take(dict(queries.batch(own)), rows), device)
        condition = {name: value for name, value in query.items() if name not in RESERVED}
        guided = guide(guess, query)
        asked = guided if look is None else _Noting(guided)
        z = guided.process.prior(query["x"], rng)
        x_t, times = begin(guided.process, z, query)
        for step, state in enumerate(walk(asked, z, times, solver, rng, x_t=x_t, **condition)):  # noqa: B007
            if look is not None and step and isinstance(asked, _Noting) and asked.last is not None:
                data = asked.process.interpolate(*asked.last, torch.zeros((), dtype=torch.float64))
                look(own, step, len(times) - 1, tree.take(data, slice(len(own))))
        mine = slice(len(own))
        scores = tree.take(solver.scores(state[1]), mine)
        yield Drawn(tree.take(state[0], mine), tree.take(query, mine), own, scores)
