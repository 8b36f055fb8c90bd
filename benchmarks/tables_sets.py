"""The six tables of the benchmark, and how each is split into rows to train on, to choose by and to measure with.

Five of the tables that papers on tabular diffusion compare on, and a wide one. They are UCI's (CC BY 4.0), expected as CSV
files in a folder; benchmarks/tables.py says which.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sfumato.errors import DataError
from sfumato.fields.tables.reading import read_table
from sfumato.fields.tables.table import Table

HELD = 0.1


@dataclass(frozen=True)
class Set:
    """One table.

    Args:
        train: its file. test: a file of test rows, where one is given.
        target: the column that models are judged by. task: "auc" (two classes) or "rmse".
        leave_out: columns that are a row's number. kinds: codes that are categories.
        known: columns without which a row is left out: a target that is missing cannot be predicted.
    """

    name: str
    train: str
    target: str
    task: str = "auc"
    test: str | None = None
    leave_out: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    known: tuple[str, ...] = ()


SETS = (
    Set("adult", "adult_train.csv", "income", test="adult_test.csv"),
    Set("shoppers", "online_shoppers.csv", "Revenue",
        kinds=("OperatingSystems:category", "Browser:category", "Region:category", "TrafficType:category")),
    Set("magic", "magic_gamma.csv", "class"),
    Set("default", "credit_default.csv", "default.payment.next.month", leave_out=("ID",),
        kinds=tuple(f"{name}:category" for name in (
            "SEX", "EDUCATION", "MARRIAGE", "PAY_0", "PAY_2", "PAY_3", "PAY_4", "PAY_5", "PAY_6",
            "default.payment.next.month"))),
    Set("beijing", "beijing_pm25.csv", "pm2.5", task="rmse", known=("pm2.5",)),
    Set("communities", "communities_crime.csv", "ViolentCrimesPerPop", task="rmse", leave_out=("communityName",)),
)  # fmt: skip
"""The sets. Names of towns are left out of the wide one, since hardly any comes twice."""


@dataclass(frozen=True, eq=False)
class Split:
    """Rows to train on, to choose by, and to measure with, once."""

    train: Table
    validation: Table
    test: Table

    @property
    def held(self) -> Table:
        """All rows that nothing was trained on."""
        return joined(self.validation, self.test)


def split(each: Set, folder: Path, seed: int = 0) -> Split:
    """The parts of a set: its own test file where it has one, else 10 % of the rows; then 10 % of the rest to choose by.

    Raises DataError for a file that is missing.
    """
    rng = np.random.default_rng(seed)
    whole = _table(each, folder / each.train)
    order = rng.permutation(len(whole))
    if each.test is not None:
        rest, test = order, _table(each, folder / each.test)
    else:
        tested = round(HELD * len(whole))
        rest, test = order[tested:], whole.take(order[:tested])
    chosen = round(HELD * len(rest))
    return Split(whole.take(rest[chosen:]), whole.take(rest[:chosen]), test)


def _table(each: Set, path: Path) -> Table:
    table = read_table(path)
    if missing := [name for name in (*each.leave_out, *each.known, each.target) if name not in table.names]:
        raise DataError(f"{path}: lacks column {missing[0]!r}")
    table = replace(table, columns=tuple(c for c in table.columns if c.name not in each.leave_out))
    for name in each.known:
        column = table[name]
        empty = np.array([word in ("", None) for word in column.words])
        table = table.take(np.flatnonzero(~empty[column.codes]))
    return table


def joined(a: Table, b: Table) -> Table:
    """The rows of two tables of the same columns, one below the other."""
    from sfumato.fields.tables.table import Column

    return replace(a, columns=tuple(Column.of(c.name, [*c.cells(), *b[c.name].cells()], c.type) for c in a.columns))
