"""Cells and rows that no real row has: new categories, numbers out of range or too fine, other gaps, keys that come twice."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sfumato.fields.tables.columns import States
from sfumato.fields.tables.data import Facts
from sfumato.fields.tables.frames import number
from sfumato.fields.tables.rules import broken
from sfumato.fields.tables.spelling import places
from sfumato.fields.tables.table import NUMBER, Column, Table


@dataclass(frozen=True)
class Flaw:
    """What some made rows have and no real row has.

    Args:
        column: the name; "" for what concerns whole rows.
        what: in words. example: a cell of that kind. share: of the rows.
    """

    column: str
    what: str
    example: str
    share: float


def flaws(real: Table, made: Table, facts: Facts) -> tuple[list[Flaw], float]:
    """Every flaw of ``made``, the most frequent first, and the share of its rows that have any.

    Real tables too have rows that other real rows would not allow (a new greatest number, a rare word): read the share
    beside that of other real rows.
    """
    found, bad = [], np.zeros(len(made), dtype=bool)
    for states in facts.columns:
        column = made[states.kind.name]
        if states.kind.kind == "key":
            rows = column.counts()[column.codes] > 1
            kinds = {"a key that comes twice": rows} if rows.any() else {}
        else:
            kinds = {what: which[column.codes] for what, which in _odd(real[column.name], column, states).items()}
        for what, rows in kinds.items():
            if rows.any():
                example = column.words[int(column.codes[int(np.argmax(rows))])]
                found.append(Flaw(column.name, what, "" if example is None else example, float(rows.mean())))
                bad |= rows
    rows = _new_patterns(real, made, facts)
    if rows.any():
        empty = [s.kind.name for s in facts.columns if _gap(made[s.kind.name], s)[int(np.argmax(rows))]]
        found.append(
            Flaw("", "gaps in columns that are never empty together", ", ".join(empty) or "none", float(rows.mean()))
        )
        bad |= rows
    if facts.rules:
        for text, share in broken(made, facts.rules, facts.kinds).items():
            if text and share:
                found.append(Flaw("", "a rule that is broken", text, share))
    return sorted(found, key=lambda flaw: -flaw.share), float(bad.mean())


def _odd(real: Column, made: Column, states: States) -> dict[str, np.ndarray]:
    """Flaw -> which of the distinct words of a column have it."""
    kind = states.kind
    words, known = made.words, set(real.words)
    new = np.array([word not in known for word in words], dtype=bool)
    if kind.kind == "constant":
        return {"no constant": new}
    gap = np.array([word in ("", None) for word in words], dtype=bool)
    if kind.kind == "category":
        return {"another gap": new & gap, "a new word": new & ~gap}
    values = np.array([np.nan if word is None or word in kind.gaps else number(states, word) for word in words])
    own = [number(states, word) for word in real.words if word is not None and word not in kind.gaps]
    low, high = min(own, default=0.0), max(own, default=0.0)
    unread = np.isnan(values) & np.array([word not in kind.gaps for word in words], dtype=bool)
    found = {
        "another gap": unread & gap,
        f"no {kind.kind}": unread & ~gap,
        "out of range": (values < low) | (values > high),
    }
    if kind.kind == "number":
        most = max((_decimals(word) for word in real.words), default=0)
        found["too many decimals"] = np.array([_decimals(word) > most for word in words], dtype=bool)
    return found


def _decimals(word: str | None) -> int:
    plain = (word or "").strip().replace(",", ".")
    return places(plain) if NUMBER.fullmatch(plain) else 0


def _gap(column: Column, states: States) -> np.ndarray:
    """Which rows are empty, bool (n,)."""
    empty = np.array([word in ("", None) or word in states.kind.gaps for word in column.words], dtype=bool)
    return empty[column.codes]


def _new_patterns(real: Table, made: Table, facts: Facts) -> np.ndarray:
    """The made rows with gaps in a set of columns in which no real row has them all, and no others."""
    gaps = [np.stack([_gap(table[s.kind.name], s) for s in facts.measured], 1) for table in (real, made)]
    known = {row.tobytes() for row in np.packbits(gaps[0], axis=1)}
    return np.array([row.tobytes() not in known for row in np.packbits(gaps[1], axis=1)], dtype=bool)
