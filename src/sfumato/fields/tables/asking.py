"""What rows are asked for: columns that are known, and conditions that every row must meet.

    age >= 40 and sex = 'woman' and city in ('Rome', 'Paris')

An equality is a known column: it stands from the start, and the others are drawn for it. Any other comparison is met by
drawing again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sfumato.data.errors import shown
from sfumato.diffusion import tree
from sfumato.diffusion.generate import Drawn
from sfumato.errors import DataError
from sfumato.fields.tables.columns import States
from sfumato.fields.tables.data import Facts
from sfumato.fields.tables.reading import read_table
from sfumato.fields.tables.rows import rows_of
from sfumato.fields.tables.rules import fits
from sfumato.fields.tables.table import Column, Table
from sfumato.fields.tables.where import Condition, checked, given_by, meets, parse

TOGETHER = 8
"""Batches whose rows are drawn before any of them is drawn again."""
MOST_DRAWS = 1000
"""Times that a row which does not meet a condition is drawn."""


# ---- queries ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Asked:
    """Rows to draw, ``each`` for every row of ``known``, or ``each`` in all where nothing is known. Queries of the core.

    Args:
        known: rows of which cells that are not empty are known; missing columns are not.
        clauses: what every row must meet besides.
        stated: columns of ``known`` whose empty cells are known to be empty.
        places: the number of each row of ``known`` in its file, from 0, where it is another.
        above: the file that the rows go below.
    """

    facts: Facts
    each: int
    known: Table | None = None
    clauses: tuple[Condition, ...] = ()
    named: bool = False
    stated: frozenset[str] = frozenset()
    places: Sequence[int] | None = None
    above: Path | None = None
    buckets: None = None
    _rows: dict[str, Any] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        if self.known is not None:
            self._rows.update(_encoded(self.known, self.facts, self.stated))

    def __len__(self) -> int:
        return self.each * (len(self.known) if self.known is not None and self.named else 1)

    def row(self, number: int) -> int:
        """The known row that sample ``number`` is drawn for."""
        return number // self.each if self.named else 0

    def name(self, number: int) -> tuple[str, int]:
        if not self.named:
            return "", number
        row = self.row(number)
        return f"row {(row if self.places is None else self.places[row]) + 1}", number % self.each

    def batch(self, numbers: Sequence[int]) -> dict[str, Any]:
        """x, blank; where anything is known, aside: x and known, bool, of each part."""
        facts = self.facts
        x = {"states": torch.zeros(len(numbers), len(facts.sizes), dtype=torch.int64)}
        if facts.valued:
            x["values"] = torch.zeros(len(numbers), len(facts.valued))
        if self.known is None:
            return {"x": x}
        rows = torch.tensor([self.row(number) for number in numbers])
        return {"x": x, "aside": tree.take(self._rows, rows)}


def _encoded(table: Table, facts: Facts, stated: frozenset[str] = frozenset()) -> dict[str, Any]:
    """The known cells of a table as x, and which are known."""
    names = table.names
    if unknown := [name for name in names if name not in [states.kind.name for states in facts.columns]]:
        raise DataError(f"column {shown(unknown[0])!r} is not in the table that was learned")
    known = np.zeros((len(table), len(facts.learned)), dtype=bool)
    columns = []
    for i, states in enumerate(facts.learned):
        name, filler = states.kind.name, _any_word(states)
        if name not in names:
            columns.append(Column(name, (filler,), np.zeros(len(table), dtype=np.int32)))
            continue
        column = table[name]
        here = [name in stated or word not in ("", None) for word in column.words]
        known[:, i] = np.array(here, dtype=bool)[column.codes]
        words = tuple(word if there else filler for word, there in zip(column.words, here))
        columns.append(Column(name, words, column.codes))
    rows = rows_of(Table(tuple(columns), facts.format), facts)
    x = rows.batch(np.arange(len(rows)))["x"]
    which = {"states": torch.from_numpy(known), "values": torch.from_numpy(known[:, facts.valued])}
    return {"x": x, "known": {part: which[part] for part in x}}


def _any_word(states: States) -> str | None:
    """A cell that the column can have."""
    found = [*states.words, *states.kind.gaps, *(word for word, _ in states.rare)]
    return found[0] if found else states.kind.spelling.word(states.edges[0] if states.edges else 0.0)


def restored(table: Table, asked: Asked, numbers: Sequence[int]) -> Table:
    """Drawn rows with the known cells as they were given, to the letter."""
    if asked.known is None:
        return table
    rows = np.array([asked.row(number) for number in numbers], dtype=np.int64)
    columns = []
    for column in table.columns:
        if column.name in asked.known.names:
            known = asked.known[column.name]
            given = [known.words[code] for code in known.codes[rows].tolist()]
            if column.name not in asked.stated:
                given = [mine if cell in ("", None) else cell for cell, mine in zip(given, column.cells())]
            column = Column.of(column.name, given, column.type)
        columns.append(column)
    return Table(tuple(columns), table.format)


def begin(
    process: Any, z: Mapping[str, torch.Tensor], times: Any, query: Mapping[str, Any]
) -> tuple[dict[str, torch.Tensor], Any]:
    """The first state of a walk along ``times`` (n + 1 of them) in which what is known stands, and its times."""
    start, aside = process.start(z), query.get("aside")
    if aside is None:
        return start, times
    x, known = aside["x"], aside["known"]
    x_t = {part: torch.where(known[part], x[part], state) for part, state in start.items()}
    return x_t, [
        {part: torch.where(known[part], 0.0, _of(t, part).to(z[part].device)) for part in start} for t in times
    ]


def _of(t: Any, part: str) -> torch.Tensor:
    """The time of a part, where all have the same or each its own."""
    found: torch.Tensor = t if isinstance(t, torch.Tensor) else t[part]
    return found


# ---- for the recipe --------------------------------------------------------------------------------------------------


def asked(
    facts: Facts, where: str | None, known: Path | None, rows: int, each: int, append: Path | None = None
) -> Asked:
    """The rows that are asked for: so many in all, or ``each`` for every row of the file ``known``; ``append``: the file that
    they are to go below.

    Raises:
        DataError: what :func:`checked` refuses; a file of other columns; both kinds of known cells.
    """
    above = None if append is None else below(append, facts)
    facts = facts if above is None else facts.beyond(above)
    clauses = tuple(checked(parse(where), facts)) if where else ()
    given = given_by(clauses, facts)
    if known is None:
        stated = frozenset() if given is None else frozenset(given.names)
        return Asked(facts, rows, given, clauses, stated=stated, above=append)
    if given is not None:
        raise DataError(
            "--where with = (or is missing) and --known both say what is known: write the value into the file"
        )
    return Asked(facts, each, read_table(known), clauses, named=True, above=append)


def below(path: Path, facts: Facts) -> Table:
    """A table that rows are to go below. Raises DataError where its columns are others than the run's."""
    found = read_table(path)
    names = [kind.name for kind in facts.kinds]
    if found.names != names:
        odd = next((name for name in (*found.names, *names) if (name in names) != (name in found.names)), None)
        why = "they stand in another order" if odd is None else f"{shown(odd)!r} is in one of them alone"
        raise DataError(f"--append {shown(path)}: its columns are not those of the run: {why}")
    return found


@dataclass(frozen=True)
class Tries:
    """More draws of samples: try k of a sample has randomness of its own, the same in whatever company."""

    asked: Asked
    tries: Sequence[tuple[int, int]]
    buckets: None = None

    def __len__(self) -> int:
        return len(self.tries)

    def name(self, number: int) -> tuple[str, int]:
        sample, k = self.tries[number]
        name, place = self.asked.name(sample)
        return f"{name} again {k}", place

    def batch(self, numbers: Sequence[int]) -> dict[str, Any]:
        return self.asked.batch([self.tries[number][0] for number in numbers])


Rows = Callable[[Any, "Asked", Drawn], Table]
"""Model, queries, samples -> their table."""


def drawn_to_meet(
    model: Any, queries: Asked, numbers: Sequence[int], rows: Rows, stream: Sequence[str | int] = ("sample",)
) -> Iterator[Drawn]:
    """Samples that meet the conditions and the rules of the table: each is drawn again until it does.

    Args:
        stream: the purpose of the randomness.

    Raises:
        DataError: a row that has not met them after :data:`MOST_DRAWS` draws, with the share that did.
    """
    if not queries.clauses and not queries.facts.rules:
        yield from model.draw(queries, numbers, stream=stream)
        return
    facts = queries.facts

    def good(made: Table, of: Sequence[int]) -> np.ndarray:
        return meets(made, queries.clauses, facts) & fits(made, facts.rules, facts.kinds)

    yield from drawn_until(model, queries, numbers, rows, good, stream)


def drawn_until(
    model: Any, queries: Asked, numbers: Sequence[int], rows: Rows, good: Callable[[Table, Sequence[int]], np.ndarray],
    stream: Sequence[str | int] = ("sample",), most: int = MOST_DRAWS, resigned: bool = False,
) -> Iterator[Drawn]:  # fmt: skip
    """Samples of which each is drawn again until it is good.

    Args:
        good: their table and numbers -> which are, bool (n,).
        most: draws of a sample. resigned: the first draw is taken where none of them was good.

    Raises:
        DataError: a sample that is not good after so many draws, with the share that were.
    """
    batch, tried, met = model.walk.batch or 16, 0, 0
    # a few batches together: those that are drawn again share theirs
    for start in range(0, len(numbers), TOGETHER * batch):
        wanted, k = list(numbers[start : start + TOGETHER * batch]), 0
        taken: dict[int, dict[str, torch.Tensor]] = {}
        first: dict[int, dict[str, torch.Tensor]] = {}
        while left := [number for number in wanted if number not in taken]:
            if k >= most and resigned:
                taken |= {number: first[number] for number in left}
                break
            if k >= most:
                raise DataError(
                    f"{met} of {tried} rows drawn met what every row must (--where, and the rules of the table), too few to go "
                    "on; ask for what is less rare"
                )
            more = 1 if k == 0 else max(1, min(batch // len(left), most - k))
            tries = [(number, k + i) for number in left for i in range(more)]
            source = Tries(queries, tries) if k else queries
            for drawn in model.draw(source, range(len(tries)) if k else left, stream=stream):
                mine = drawn._replace(numbers=[tries[i][0] for i in drawn.numbers] if k else drawn.numbers)
                good_ones = good(rows(model, queries, mine), mine.numbers)
                tried, met = tried + len(good_ones), met + int(good_ones.sum())
                for i, number in enumerate(mine.numbers):  # the first try that is good counts
                    x = {part: value[i] for part, value in drawn.x.items()}
                    first.setdefault(number, x)
                    if good_ones[i]:
                        taken.setdefault(number, x)
            k += more
        for at in range(0, len(wanted), batch):
            own = wanted[at : at + batch]
            x = {part: torch.stack([taken[number][part] for number in own]) for part in taken[own[0]]}
            yield Drawn(x, queries.batch(own), own, {})
