"""Small tables that tests are made of."""

from collections.abc import Sequence

import numpy as np

from sfumato.fields.tables.table import Column, Table


def table(**columns: Sequence[str | None]) -> Table:
    """A CSV's table from its cells, column by column."""
    return Table(tuple(Column.of(name, cells) for name, cells in columns.items()))


def mixed(rows: int, seed: int = 0) -> Table:
    """Sex and smoking depend on each other, income on both: mostly 0, else log-normal to the cent, now and then unknown."""
    rng = np.random.default_rng(seed)
    sex = rng.integers(0, 2, rows)
    smokes = rng.random(rows) < np.where(sex == 1, 0.7, 0.2)
    amount = np.exp(rng.normal(5 + sex, 0.5, rows))
    chance = rng.random(rows)
    income = [
        "NA" if c < 0.1 else "0.00" if c < 0.1 + 0.5 * s else f"{a:.2f}"
        for c, s, a in zip(chance, smokes, amount, strict=True)
    ]
    age = np.clip(rng.normal(40 + 10 * smokes, 12, rows), 18, 90).astype(int)
    return table(
        sex=np.array(["woman", "man"])[sex].tolist(),
        smokes=np.where(smokes, "yes", "no").tolist(),
        income=income,
        age=age.astype(str).tolist(),
    )
