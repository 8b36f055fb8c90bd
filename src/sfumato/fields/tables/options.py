"""What tables are asked for and told, apart from the file itself. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class RowAsk:
    """What rows are asked for."""

    where: str | None = None
    """What every row must meet: "age between 40 and 60 and (sex = 'woman' or not city in ('Rome', 'Paris'))"; also is missing."""
    known: Path | None = None
    """A table of which cells are known (those that are not empty): the others are drawn, -n times for each row."""
    append: Path | None = None
    """A table that the rows are to go below: it stands first in --out as it is, and none of its keys comes again."""


@dataclass(frozen=True)
class TableMeasure:
    """What a made table is compared with."""

    real: Path | None = None
    """Real rows that nothing was trained on (default: those held out)."""
    rows: int | None = None
    """Rows to compare (default: as many as are real, at most 5000)."""
    target: str | None = None
    """A column that models trained on the rows are to predict, to see what the rows are good for."""


@dataclass(frozen=True)
class RowMethod:
    """How rows are noised and learned: states under masks, values under normal noise."""

    known: float = 0.25
    """Share of the rows in training of which a random set of columns is given, so that rows can be completed."""

    def distribution(self) -> Any:
        """Times of states alone; those of a table need its columns (`Tables.task`)."""
        from sfumato.fields.tables.process import RowTimes

        return RowTimes((), known=self.known)

    def dealt(self) -> Any:
        """Every row keeps its noise."""
        from sfumato.diffusion import independent

        return independent

    def learns_weights(self) -> bool:
        """No."""
        return False

    def words(self) -> str:
        """One line about it."""
        return "masked states, then values by flow matching given the states; any columns may be known"
