"""`sfumato tables compare`: any made table, from whatever model, measured beside the real one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfumato.errors import DataError, Wrong, check, naming
from sfumato.jobs.flags import Positional
from sfumato.jobs.recipe import say
from sfumato.training.telling import show

if TYPE_CHECKING:
    from sfumato.fields.tables.data import Facts
    from sfumato.fields.tables.scoring import Score
    from sfumato.fields.tables.table import Table

SUFFIXES = (".html", ".json")


@dataclass(frozen=True)
class Compare:
    """Measure made rows beside the real ones they were made from: can trees tell them apart, what models learn from them, what
    no real row has, and which real rows they give away. Needs no model."""

    real: Positional[Path]
    """The real table that the made one was learned from."""
    made: Positional[Path]
    """The made table, of the same columns."""
    held_out: Path | None = None
    """Real rows that the made table was not learned from; without them (half of REAL stands in) nothing is attacked."""
    target: str | None = None
    """A column that models trained on the rows are to predict."""
    rules: Path | None = None
    """A YAML file of rules that every row must meet (docs/tables.md)."""
    leave_out: tuple[str, ...] = ()
    """Columns that are not compared."""
    kind: tuple[str, ...] = ()
    """What columns are, where looking at them is not enough: AGE:category, or number, date, key, constant."""
    rows: int | None = None
    """Rows of each table to compare at most (default: 5000)."""
    seed: int = 0
    """Of the rows that are chosen, and of the halves of REAL."""
    out: Path | None = None
    """Write it there too: a page to look at (.html), or the numbers (.json)."""

    def __post_init__(self) -> None:
        check(
            self,
            (self.rows is None or self.rows >= 50, "rows", "at least 50"),
            (self.seed >= 0, "seed", "0 or more"),
            (all(all(pair) for pair in self._kinds()), "kind", "like AGE:category"),
        )
        if self.out is not None and self.out.suffix.lower() not in SUFFIXES:
            raise Wrong(f"out = {str(self.out)!r}: must end in .html (a page) or .json (numbers)")

    def _kinds(self) -> list[tuple[str, str]]:
        pairs = (each.rpartition(":" if ":" in each else "=") for each in self.kind)
        return [(name, kind) for name, _, kind in pairs]

    def __call__(self) -> int:
        from sfumato.fields.tables.looks import write_compared
        from sfumato.fields.tables.saying import as_text, remarks

        scores, made, real, facts = self.compared()
        who = f"rows of {self.held_out}" if self.held_out else f"half of the rows of {self.real}"
        show("\n".join([as_text(scores, len(real), who), *remarks(scores)]))
        if self.out is not None and self.out.suffix.lower() == ".json":
            from sfumato.fields.tables.measure import plain
            from sfumato.training.run import write_text

            write_text(
                self.out, json.dumps({**plain(scores, scores[0].n, len(real)), "remarks": remarks(scores)}, indent=1)
            )
            say(f"numbers   {self.out}")
        elif self.out is not None:
            write_compared(self.out, f"{self.made.name} beside {self.real.name}", scores, made, real, facts, who)
            say(f"page      {self.out}, in a browser")
        return 0

    def compared(self) -> tuple[list[Score], Table, Table, Facts]:
        """The scores, the made rows, the real rows that they were measured beside, and what is known of these.

        Raises DataError for a file that cannot be read, a column that one of them lacks, or too few rows.
        """
        import numpy as np

        from sfumato.fields.tables.data import Facts
        from sfumato.fields.tables.measure import FEWEST, MOST, known
        from sfumato.fields.tables.rules import Rules, read_rules
        from sfumato.fields.tables.scoring import scores
        from sfumato.fields.tables.trees import detector

        detector()
        real = self._read(self.real)
        made, held = self._read(self.made, real), self._read(self.held_out, real) if self.held_out else None
        rng = np.random.default_rng(self.seed)
        train = real
        if held is None:
            order = rng.permutation(len(real))
            train, held = real.take(order[: len(real) // 2]), real.take(order[len(real) // 2 :])
        for place, table in ((self.real, train), (self.made, made), (self.held_out or self.real, held)):
            if len(table) < FEWEST:
                raise DataError(f"{place}: {len(table)} rows to compare, at least {FEWEST} are needed")
        rules = read_rules(self.rules) if self.rules else Rules()
        with naming(self.real):
            facts = Facts.of(real, np.arange(len(real)), dict(self._kinds()), rules=rules)
        known(self.target, facts)
        most = self.rows or MOST
        made, held = (t.take(np.sort(rng.permutation(len(t))[:most])) for t in (made, held))
        found = scores(
            made, train, held, facts, say, self.seed, target=self.target, apart=self.held_out is not None, outside=True
        )
        return found, made, train, facts

    def _read(self, path: Path, like: Table | None = None) -> Table:
        """A table, of the columns of ``like`` in its order. Raises DataError."""
        from sfumato.fields.tables.reading import read_table
        from sfumato.fields.tables.table import Table, without

        table = read_table(path, say)
        if like is None:
            return without(table, self.leave_out)
        if missing := [name for name in like.names if name not in table.names]:
            raise DataError(f"{path}: lacks column {missing[0]!r}, which {self.real} has; mend it, or --leave-out it")
        more: Any = [name for name in table.names if name not in (*like.names, *self.leave_out)]
        if more:
            say(
                f"{path}: column {more[0]!r}{' and others are' if more[1:] else ' is'} not in {self.real}, and not compared"
            )
        return Table(tuple(table[name] for name in like.names), table.format)
