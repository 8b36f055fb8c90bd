"""Rules that a table seems to keep, found by looking; nothing of it is applied unasked.

Sought: columns that follow from one or two others, parts of dates, sums, differences and products, columns that are empty
together, and columns of which one is never below another. A rule may be broken by one row in a thousand; it is found only where
shuffled columns would break it often, for what holds of itself is no rule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations

import numpy as np

from sfumato.fields.tables.formula import FUNCTIONS, parse
from sfumato.fields.tables.kinds import Kind
from sfumato.fields.tables.rules import column_values, kinds_of
from sfumato.fields.tables.table import Table

BROKEN = 1e-3  # share of the rows that may break a rule
TELLING = 0.05  # share of shuffled rows that must break it
MOST_ROWS = 50_000  # that are looked at
MOST_COLUMNS = 40  # of which pairs make a third: with more, single columns and pairs alone are tried
REPEATED = 10  # rows that share a combination, in the mean, from which a lookup is no list of rows


@dataclass(frozen=True)
class Proposal:
    """A rule, as a file of rules has it, and the share of rows that break it.

    Args:
        column: the column it derives; "" for a check.
    """

    column: str
    text: str
    broken: float

    def line(self) -> str:
        """As YAML, with what was found behind it."""
        head = f"  {_quoted(self.column)}: " if self.column else "  - "
        line = f"{head}{self.text}"
        return f"{line:<64}  # broken by {self.broken:.3%} of the rows" if self.broken else line


def propose(table: Table, kinds: Sequence[Kind], seed: int = 0) -> list[Proposal]:
    """The rules that were found, derived columns first; no column is derived from one that is derived itself."""
    rng = np.random.default_rng(seed)
    if len(table) > MOST_ROWS:
        table = table.take(np.sort(rng.permutation(len(table))[:MOST_ROWS]))
    use = [kind for kind in kinds if kind.kind not in ("key", "constant")]
    values = column_values(table, use)
    found: list[Proposal] = []
    for proposal, needs in (*_computed(values, use, rng), *_lookups(table, use)):
        derived = {each.column for each in found}
        needed = {name for each in found for name in _columns(each.text, use)}
        if proposal.column not in derived | needed and not needs & derived:
            found.append(proposal)
    known = [
        frozenset([each.column]) | _columns(each.text, use) for each in found
    ]  # what follows from a rule needs none
    ordered = [
        each for each in _ordered(values, use, rng) if not any(_columns(each.text, use) <= part for part in known)
    ]
    return [*found, *_together(table, use), *ordered]


def as_yaml(found: Sequence[Proposal]) -> list[str]:
    """A file of rules, line by line."""
    lines: list[str] = []
    for title, part in (("derive:", [p for p in found if p.column]), ("check:", [p for p in found if not p.column])):
        lines += [title, *(each.line() for each in part)] if part else []
    return lines


def _quoted(name: str) -> str:
    import json

    return name if name.replace("_", "").isalnum() and not name.isdigit() else json.dumps(name, ensure_ascii=False)


def _name(name: str) -> str:
    """As a formula has it."""
    return name if name.replace("_", "a").replace(".", "a").isalnum() and not name[0].isdigit() else f"`{name}`"


def _columns(text: str, kinds: Sequence[Kind]) -> frozenset[str]:
    """The columns in a rule."""
    inner = text.removeprefix("lookup(").removesuffix(")")
    if inner != text:
        return frozenset(name.strip().strip("`") for name in inner.split(","))
    return parse(text, kinds_of(kinds)).columns


# ---- computed ------------------------------------------------------------------------------------------------------------


def _computed(
    values: dict[str, np.ndarray], kinds: Sequence[Kind], rng: np.random.Generator
) -> Iterator[tuple[Proposal, frozenset[str]]]:
    """Parts of dates; a + b, a - b, a * b and, where one follows from one, the same number under two names."""
    numbers = [kind.name for kind in kinds if kind.kind == "number"]
    dates = [kind.name for kind in kinds if kind.kind == "date"]
    known = kinds_of(kinds)
    parts = [name for name, (wanted, kind, _) in FUNCTIONS.items() if wanted == ("date",) and kind == "number"]
    texts = [(f"{part}({_name(date)})", frozenset([date])) for date in dates for part in parts]
    if len(numbers) <= MOST_COLUMNS:
        for a, b in combinations(numbers, 2):
            signs = (
                f"{_name(a)} + {_name(b)}",
                f"{_name(a)} - {_name(b)}",
                f"{_name(b)} - {_name(a)}",
                f"{_name(a)} * {_name(b)}",
            )
            texts += [(text, frozenset([a, b])) for text in signs]
    few = rng.permutation(len(next(iter(values.values()))))[:500]
    sketch = {name: column[few] for name, column in values.items()}
    for text, needs in texts:
        formula = parse(text, known)
        rough = formula.of(sketch)
        for name in numbers:
            if name in needs or not _close(sketch[name], rough, 5 * BROKEN):
                continue
            exact = formula.of(values)
            share = _off(values[name], exact)
            if share <= BROKEN and _off(values[name], exact[rng.permutation(len(exact))]) >= TELLING:
                yield Proposal(name, text, share), needs


def _off(a: np.ndarray, b: np.ndarray) -> float:
    """Share of rows where a is not b: where both are there, or only one is."""
    with np.errstate(invalid="ignore"):
        same = np.isclose(a, b, rtol=1e-9, atol=1e-9, equal_nan=True)
    return float(1 - same.mean())


def _close(a: np.ndarray, b: np.ndarray, most: float) -> bool:
    return bool(np.isfinite(a).any()) and _off(a, b) <= most


# ---- looked up -----------------------------------------------------------------------------------------------------------


def _lookups(table: Table, kinds: Sequence[Kind]) -> Iterator[tuple[Proposal, frozenset[str]]]:
    """Columns of which nearly every row holds the most frequent cell beside one other column, or two."""
    names, n = [kind.name for kind in kinds], len(table)
    codes = {name: table[name].codes.astype(np.int64) for name in names}
    sizes = {name: len(table[name].words) for name in names}
    coarse = [name for name in names if sizes[name] <= n / REPEATED]
    single: set[tuple[str, str]] = set()
    for column, a in permutations(names, 2):
        if a in coarse and sizes[a] >= sizes[column]:
            share = _unknown(codes[a], codes[column])
            if share <= BROKEN and share < TELLING * _unknown(np.zeros(n, np.int64), codes[column]):
                single.add((column, a))
                yield Proposal(column, f"lookup({_name(a)})", share), frozenset([a])
    if len(names) > MOST_COLUMNS:
        return
    for a, b in combinations(coarse, 2):
        both = np.unique(codes[a] * sizes[b] + codes[b], return_inverse=True)[1].reshape(-1)
        if both.max() + 1 > n / REPEATED:
            continue
        for column in names:
            if column in (a, b) or {(column, a), (column, b)} & single:
                continue
            share = _unknown(both, codes[column])
            alone = min(_unknown(codes[each], codes[column]) for each in (a, b))
            if share <= BROKEN and share < TELLING * alone:
                yield Proposal(column, f"lookup({_name(a)}, {_name(b)})", share), frozenset([a, b])


def _unknown(groups: np.ndarray, codes: np.ndarray) -> float:
    """Share of rows whose cell is not the most frequent one of their group."""
    pairs, counts = np.unique(groups * (codes.max() + 1) + codes, return_counts=True)
    of = pairs // (codes.max() + 1)
    best = np.maximum.reduceat(counts, np.flatnonzero(np.diff(of, prepend=-1)))
    return float(1 - best.sum() / len(codes))


# ---- checks --------------------------------------------------------------------------------------------------------------


def _together(table: Table, kinds: Sequence[Kind]) -> Iterator[Proposal]:
    """Columns that are empty in the same rows; each with the first of its kind."""
    first: dict[bytes, str] = {}
    for kind in kinds:
        column = table[kind.name]
        empty = np.array([word in kind.gaps or word is None for word in column.words])[column.codes]
        if not kind.gaps or not BROKEN < empty.mean() < 1 - BROKEN:
            continue
        mask = np.packbits(empty).tobytes()
        if mask in first:
            yield Proposal("", f"{_name(first[mask])} is missing = {_name(kind.name)} is missing", 0.0)
        first.setdefault(mask, kind.name)


def _ordered(values: dict[str, np.ndarray], kinds: Sequence[Kind], rng: np.random.Generator) -> Iterator[Proposal]:
    """Columns of one kind of which one is never below the other, though their ranges overlap."""
    signs: tuple[tuple[str, Callable[..., np.ndarray]], ...] = (("<=", np.greater), (">=", np.less))
    for kind in ("number", "date"):
        for a, b in combinations([each.name for each in kinds if each.kind == kind][:MOST_COLUMNS], 2):
            x, y = values[a], values[b]
            both = np.isfinite(x) & np.isfinite(y)
            if both.sum() < len(x) / REPEATED:
                continue
            x, y = x[both], y[both]
            for sign, breaks in signs:
                if not breaks(x, y).any() and breaks(x, y[rng.permutation(len(y))]).mean() >= TELLING:
                    yield Proposal("", f"{_name(a)} {sign} {_name(b)}", 0.0)
