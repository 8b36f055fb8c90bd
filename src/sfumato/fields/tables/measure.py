"""How good a made table is: shape, trend, a detector of boosted trees, gaps and atoms, copies.

Every score of a table of n rows stands beside two others: the **floor**, which is the same score of n other real rows,
and **shuffled**, the score of real rows whose columns were drawn independently of each other, which keeps every column and
loses everything between them. A score that does not lie between the two tells nothing: shape of shuffled rows is 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sfumato.data.errors import shown
from sfumato.errors import DataError
from sfumato.fields.tables.columns import States
from sfumato.fields.tables.data import Facts
from sfumato.fields.tables.detector import MOST, detector, told_apart
from sfumato.fields.tables.rules import broken
from sfumato.fields.tables.table import Column, Table

if TYPE_CHECKING:
    from sfumato.fields.tables.options import RowAsk, TableMeasure
    from sfumato.jobs.model import Model
    from sfumato.jobs.report import Report

NEAREST = 2000  # rows of each table between which distances are measured
FEWEST = 50  # real rows without which nothing is compared
NEAR = 0.55  # share of rows nearer to training from which it is called learned by heart
ALARM = (
    3 * 2**0.5 / 1.645
)  # half widths of a 90 % interval that are three deviations of a difference of two such scores
DECIMALS = 14  # to which numbers are rounded before they are compared, as SDMetrics does


@dataclass(frozen=True)
class Score:
    """One number about a made table.

    Args:
        low, high: 90 % interval of the value; None where it has none.
        floor: the same of other real rows. shuffled: of real rows with columns drawn independently.
        better: "higher", "lower" or "near 0.5".
        n: rows of each table.
    """

    name: str
    value: float
    low: float | None
    high: float | None
    floor: float | None
    shuffled: float | None
    better: str
    n: int


@dataclass(frozen=True, eq=False)
class Frame:
    """A table as numbers: float64 (n, C), NaN is a gap; categories are numbered alike in all frames made together.

    Args:
        words: bool (C,), which columns are categories.
        decimals: of each column of numbers.
    """

    cells: np.ndarray
    words: np.ndarray

    def __len__(self) -> int:
        return len(self.cells)

    def take(self, rows: np.ndarray) -> Frame:
        return Frame(self.cells[rows], self.words)


def frames(tables: Sequence[Table], facts: Facts) -> list[Frame]:
    """The columns of several tables but keys and constants."""
    known: list[dict[str, int]] = [{} for _ in facts.measured]
    words = np.array([column.kind.kind == "category" for column in facts.measured])
    found = []
    for table in tables:
        cells = [_numbers(table[states.kind.name], states, code) for states, code in zip(facts.measured, known)]
        found.append(Frame(np.stack(cells, 1), words))
    return found


def _numbers(column: Column, states: States, known: dict[str, int]) -> np.ndarray:
    kind = states.kind
    values = np.full(len(column.words), np.nan)
    for i, word in enumerate(column.words):
        if word not in kind.gaps and word is not None:
            values[i] = known.setdefault(word, len(known)) if kind.kind == "category" else kind.spelling.value(word)
    found: np.ndarray = values[column.codes]
    return found


# ---- shape and trend -------------------------------------------------------------------------------------------------


def shape(real: Frame, made: Frame) -> float:
    """Mean over columns of 1 - Kolmogorov-Smirnov distance (numbers) and 1 - total variation (categories), gaps left out:
    "column shapes" of SDMetrics' quality report."""
    scores = []
    for i, word in enumerate(real.words):
        a, b = (frame.cells[:, i] for frame in (real, made))
        a, b = (values[~np.isnan(values)] for values in (a, b))
        if len(a) and len(b):
            scores.append(1 - (_variation(a, b) if word else _kolmogorov(a, b)))
    return float(np.mean(scores))


def _kolmogorov(a: np.ndarray, b: np.ndarray) -> float:
    a, b = np.sort(a.round(DECIMALS)), np.sort(b.round(DECIMALS))
    at = np.concatenate([a, b])
    below = [np.searchsorted(x, at, "right") / len(x) for x in (a, b)]
    return float(np.abs(below[0] - below[1]).max())


def _variation(a: np.ndarray, b: np.ndarray) -> float:
    """Total variation of two lists of whole numbers from 0."""
    most = int(max(a.max(), b.max())) + 1
    shares = [np.bincount(x.astype(np.int64), minlength=most) / len(x) for x in (a, b)]
    return float(np.abs(shares[0] - shares[1]).sum() / 2)


def trend(real: Frame, made: Frame) -> float:
    """Mean over pairs of columns of 1 - |r - r'| / 2 (two numbers; r is Pearson's) and 1 - total variation of their joint
    table (otherwise; numbers in 10 equal steps of each table's own range, a gap is a word): "column pair trends" of
    SDMetrics' quality report. NaN where a table has one column."""
    steps = [[_steps(frame.cells[:, i], word) for i, word in enumerate(frame.words)] for frame in (real, made)]
    scores = []
    for i, j in combinations(range(len(real.words)), 2):
        if real.words[i] or real.words[j]:
            most = 1 + max(int(step[j].max()) for step in steps)
            joint = [step[i] * most + step[j] for step in steps]
            scores.append(1 - _joint(*joint))
        else:
            r = [_pearson(frame.cells[:, i], frame.cells[:, j]) for frame in (real, made)]
            if not any(map(math.isnan, r)):
                scores.append(1 - abs(r[0] - r[1]) / 2)
    return float(np.mean(scores)) if scores else math.nan


def _joint(a: np.ndarray, b: np.ndarray) -> float:
    """Total variation of two lists of codes, however large."""
    codes = np.unique(np.concatenate([a, b]), return_inverse=True)[1]
    return _variation(codes[: len(a)], codes[len(a) :])


def _steps(values: np.ndarray, word: bool) -> np.ndarray:
    if not word:
        known = values[~np.isnan(values)]
        edges = np.histogram_bin_edges(known) if len(known) else np.zeros(2)
        return np.digitize(values, edges)
    return np.where(np.isnan(values), 0, values + 1).astype(np.int64)


def _pearson(a: np.ndarray, b: np.ndarray) -> float:
    both = ~(np.isnan(a) | np.isnan(b))
    a, b = a[both], b[both]
    if len(a) < 2 or a.min() == a.max() or b.min() == b.max():
        return math.nan
    a, b = a - a.mean(), b - b.mean()
    return float((a / np.linalg.norm(a)) @ (b / np.linalg.norm(b)))


# ---- gaps and atoms --------------------------------------------------------------------------------------------------


def shares(real: Table, made: Table, facts: Facts) -> np.ndarray:
    """|share - real share| of each gap and each atom of a number or date: what is no smooth value, (k,)."""
    found = []
    for states in facts.learned:
        kind = states.kind
        single = () if kind.kind == "category" else states.words
        columns = [table[kind.name] for table in (real, made)]
        counts = [dict(zip(column.words, column.counts() / len(column.codes))) for column in columns]
        found += [abs(counts[0].get(word, 0.0) - counts[1].get(word, 0.0)) for word in (*kind.gaps, *single)]
    return np.array(found)


def detection(real: Frame, made: Frame) -> tuple[float, float, float]:
    """How far boosted trees fail to tell made rows from real ones, and its interval: :func:`~detector.told_apart`."""
    return told_apart(real.cells, made.cells, real.words)


# ---- copies ----------------------------------------------------------------------------------------------------------


def copied(made: Table, train: Table) -> tuple[float, float]:
    """Share of made rows that are a training row to the letter, and the share of training rows that another training row
    repeats: what a real row's chance to be a copy is. Keys and constants should be left out of both tables."""
    known, counts = np.unique(train.hashes(), return_counts=True)
    own = float((counts[counts > 1]).sum() / counts.sum())
    return float(np.isin(made.hashes(), known).mean()), own


def nearest_share(made: Frame, train: Frame, held_out: Frame, seed: int = 0) -> tuple[float, int]:
    """Share of made rows that lie nearer to a training row than to a held-out row, of equally many of both; ties count
    half. 0.5 where nothing was learned by heart. Distance: Gower's (1971), the mean over columns of |difference| / range
    (numbers) and of whether they differ (categories, gaps)."""
    rng = np.random.default_rng(seed)
    n = min(len(train), len(held_out), NEAREST)
    train, held_out = (frame.take(rng.permutation(len(frame))[:n]) for frame in (train, held_out))
    made = made.take(rng.permutation(len(made))[:NEAREST])
    both = np.concatenate([train.cells, held_out.cells])
    with np.errstate(invalid="ignore"):
        spread = np.nanmax(both, 0, initial=-np.inf, where=~np.isnan(both)) - np.nanmin(
            both, 0, initial=np.inf, where=~np.isnan(both)
        )
    spread = np.where(np.isfinite(spread) & (spread > 0), spread, 1.0)
    here, there = (_nearest(made, frame, spread) for frame in (train, held_out))
    return float(((here < there) + 0.5 * (here == there)).mean()), len(made)


def _nearest(a: Frame, b: Frame, spread: np.ndarray) -> np.ndarray:
    """Gower's distance of each row of a to the nearest row of b, times the number of columns."""
    found = []
    for start in range(0, len(a), 256):
        part = a.cells[start : start + 256]
        total = np.zeros((len(part), len(b)), dtype=np.float32)
        for i, word in enumerate(a.words):
            x, y = part[:, i, None], b.cells[None, :, i]
            apart = (x != y) if word else np.minimum(np.abs(x - y) / spread[i], 1)
            gaps = np.isnan(x).astype(int) + np.isnan(y)
            total += np.where(gaps == 0, np.nan_to_num(apart), gaps == 1).astype(np.float32)
        found.append(total.min(1))
    return np.concatenate(found)


# ---- all of it -------------------------------------------------------------------------------------------------------


def scores(
    made: Table, train: Table, real: Table, facts: Facts, tell: Callable[[str], Any] = lambda line: None, seed: int = 0
) -> list[Score]:
    """Every score of ``made`` against the rows ``real`` that nothing was trained on, with floor and shuffled columns.

    Args:
        made: made rows. train: the training rows. real: other real rows; at best as many as ``made``.
    """
    rng = np.random.default_rng(seed)
    n = min(len(made), len(train), len(real))
    made, real = (_some(table, n, rng) for table in (made, real))
    other = _some(train, n, rng)  # the real table that plays the made one's part
    loose = Table(tuple(column.take(rng.permutation(len(train))[:n]) for column in train.columns), train.format)
    a, b, c, d, whole = frames([made, real, other, loose, train], facts)
    rows = []
    for name, score in (("shape", shape), ("trend", trend))[: len(facts.measured)]:  # one column has no trend
        value = score(b, a)
        ends = _spread(lambda part, score=score: score(b, a.take(part)), n, value, rng)  # type: ignore[misc]
        rows.append(Score(name, value, *ends, score(b, c), score(b, d), "higher", n))
    m = min(n, MOST)
    tell(f"telling {m} rows from {m} by trees of {detector()}")
    rows.append(Score("detection", *detection(b, a), detection(b, c)[0], detection(b, d)[0], "higher", m))
    rows.append(Score("detection_train", *detection(c, a), detection(c, b)[0], detection(c, d)[0], "higher", m))
    off = [shares(real, table, facts) for table in (made, other, loose)]
    if len(off[0]):
        worst = [float(each.max()) for each in off]
        rows.append(Score("gaps_and_atoms", worst[0], None, None, worst[1], worst[2], "lower", n))
    if facts.rules:
        share, usual = (broken(table, facts.rules, facts.kinds)[""] for table in (made, other))
        loosely = broken(loose, facts.rules, facts.kinds)[""]
        rows.append(Score("rules_broken", share, *_wilson(share, n), usual, loosely, "lower", n))
    learned = [states.kind.name for states in facts.learned]
    plain = [Table(tuple(table[name] for name in learned), table.format) for table in (made, train)]
    share, own = copied(*plain)
    rows.append(Score("copied", share, *_wilson(share, n), own, None, "lower", n))
    near, count = nearest_share(a, whole, b, seed)
    rows.append(Score("nearer_to_training", near, *_wilson(near, count), 0.5, None, "near 0.5", count))
    return rows


def _some(table: Table, n: int, rng: np.random.Generator) -> Table:
    return table.take(np.sort(rng.permutation(len(table))[:n]))


def _spread(
    score: Callable[[np.ndarray], float], n: int, value: float, rng: np.random.Generator, draws: int = 20
) -> tuple[float, float]:
    """90 % interval by halves of the rows: a half's deviation from the whole is that of the whole from the truth."""
    parts = np.array([score(rng.permutation(n)[: n // 2]) for _ in range(draws)])
    half = 1.645 * float(np.std(parts, ddof=1))
    return max(0.0, value - half), min(1.0, value + half)


def _wilson(share: float, n: int) -> tuple[float, float]:
    """90 % interval of a share of n (Wilson 1927)."""
    z = 1.6449
    middle, half = share + z * z / (2 * n), z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)


# ---- the command -----------------------------------------------------------------------------------------------------


def measurable(model: Model, asked: TableMeasure, ask: RowAsk) -> None:
    """What would be missing at the end: a question that can be measured, real rows to compare with, and the detector. Raises
    DataError."""
    if ask.known is not None:
        raise DataError("--known cannot be evaluated: completed rows are not drawn like the table")
    detector()
    compared(model, asked, ask)


def compared(model: Model, asked: TableMeasure, ask: RowAsk) -> tuple[Table, Table, int]:
    """The rows that were trained on and the real ones to compare with, and how many of each. Raises DataError."""
    from sfumato.fields.tables import asking, data
    from sfumato.fields.tables.reading import read_table

    recipe: Any = model.recipe
    whole = recipe.table(model.run)
    train, held = (whole.take(part) for part in data.parts(whole, recipe.held_out))
    real = held if asked.real is None else data.without(read_table(asked.real), recipe.leave_out)
    if missing := [name for name in whole.names if name not in real.names]:
        raise DataError(f"{shown(str(asked.real))}: lacks column {shown(missing[0])!r}")
    real = Table(tuple(real[name] for name in whole.names), whole.format)
    if ask.where:
        clauses = asking.checked(asking.parse(ask.where), model.facts)
        train, real = (part.take(np.flatnonzero(asking.meets(part, clauses, model.facts))) for part in (train, real))
    n = min(len(real), len(train), asked.rows or MOST)
    if n < FEWEST:
        raise DataError(f"{n} real rows to compare with, at least {FEWEST} are needed: give more with --real FILE")
    return train, real, n


def evaluate(model: Model, asked: TableMeasure, ask: RowAsk) -> Report:
    """As many rows drawn as there are real ones, and all their scores; what `sfumato evaluate` shows of a table."""
    from sfumato.jobs.report import Report
    from sfumato.training.progress import Watch

    recipe: Any = model.recipe
    train, real, n = compared(model, asked, ask)
    queries, parts = recipe.queries(model, ask, n), []
    with Watch("sample", n, unit="rows") as watch:
        for drawn in recipe.draw(model, queries, range(n)):
            parts += recipe.rows(model, queries, drawn).rows()
            watch.show(len(parts))
    made = Table(tuple(Column.of(c.name, cells, c.type) for c, cells in zip(train.columns, zip(*parts))), train.format)
    found = scores(made, train, real, model.facts)
    about = {"n": n, "reference": len(train), "metrics": {row.name: _plain(row, len(train)) for row in found}}
    return Report(notes=remarks(found), about=about, table=as_text(found, len(train), asked.real))


def _plain(row: Score, reference: int) -> dict[str, Any]:
    return {**{key: value for key, value in asdict(row).items() if key != "name"}, "reference": reference}


def as_text(rows: Sequence[Score], reference: int, real: Path | None) -> str:
    """The scores as aligned plain text, each beside its floor and beside shuffled columns."""
    lines = [("metric", "value", "90% interval", "floor", "shuffled", "better", "n")]
    for row in rows:
        ends = "" if row.low is None or row.high is None else f"[{row.low:.3f}, {row.high:.3f}]"
        others = ("" if value is None else f"{value:.3f}" for value in (row.floor, row.shuffled))
        floor, shuffled = others
        lines.append((row.name, f"{row.value:.3f}", ends, floor, shuffled, row.better, str(row.n)))
    widths = [max(map(len, column)) for column in zip(*lines)]
    who = "held-out rows" if real is None else f"rows of {real}"
    head = f"made rows against {who}; {reference} training rows; floor = other real rows, shuffled = columns drawn independently"
    body = ("  ".join((line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:]))).rstrip() for line in lines)
    return "\n".join((head, *body))


def too_good(row: Score) -> bool:
    """Whether a score is better than that of other real rows far beyond chance, which no honest table is."""
    if row.name not in ("shape", "trend") or row.low is None or row.floor is None:
        return False
    return row.value - ALARM * (row.value - row.low) > row.floor


def remarks(rows: Sequence[Score]) -> tuple[str, ...]:
    """What the scores say in words, and the alarm where rows are copies."""
    found = {row.name: row for row in rows}
    told = found["detection"]
    notes = [
        f"Boosted trees ({detector()}) tell made rows from real ones with a score of {told.value:.2f} for {told.n} rows; real "
        f"rows from real ones {told.floor:.2f}, independent columns {told.shuffled:.2f} (1: not at all)."
    ]
    notes += [
        f"ALARM: {row.name} is {row.value:.3f} where other real rows reach {row.floor:.3f}, far beyond chance: real rows of the "
        "same kind are farther away; these are the very rows it is measured by, or were chosen by this score"
        for row in rows
        if too_good(row)
    ]
    copies, near = found["copied"], found["nearer_to_training"]
    if copies.low is not None and copies.floor is not None and copies.low > copies.floor:
        notes.append(
            f"ALARM: {copies.value:.1%} of the made rows are training rows to the letter, where {copies.floor:.1%} of the "
            "training rows repeat another: the model knows rows by heart. Train it for fewer steps."
        )
    if near.low is not None and near.low > NEAR:
        notes.append(
            f"ALARM: {near.value:.1%} of the made rows lie nearer to a training row than to an equally large set of others "
            "(50% would be right): the model knows rows by heart. Train it for fewer steps."
        )
    notes.append("Neither number is a promise of privacy: nothing here was attacked.")
    return tuple(notes)
