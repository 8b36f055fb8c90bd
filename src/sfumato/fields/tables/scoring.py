"""How good a made table is: shape, trend, a detector of boosted trees, gaps and atoms, uses, copies and attacks.

Every score of a table of n rows stands beside two others: the **floor**, which is the same score of n other real rows,
and **shuffled**, the score of real rows whose columns were drawn independently of each other, which keeps every column and
loses everything between them. A score that does not lie between the two tells nothing: shape of shuffled rows is 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from sfumato.fields.tables.attack import FALSE, attacks
from sfumato.fields.tables.copies import copied, nearest_share
from sfumato.fields.tables.data import Facts
from sfumato.fields.tables.detector import MOST, told_apart
from sfumato.fields.tables.frames import Frame, frames
from sfumato.fields.tables.likeness import patterns, shape, shares, trend
from sfumato.fields.tables.rules import broken
from sfumato.fields.tables.table import Table
from sfumato.fields.tables.trees import detector
from sfumato.fields.tables.useful import everywhere, useful
from sfumato.fields.tables.validity import flaws


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


# ---- all of it -------------------------------------------------------------------------------------------------------


Say = Callable[[str], Any]


@dataclass(frozen=True, eq=False)
class Four:
    """The tables of an evaluation, n rows each, as numbers: made ones, real ones that nothing was trained on, others that
    were, and those with their columns drawn independently."""

    made: Frame
    real: Frame
    other: Frame
    loose: Frame


def scores(
    made: Table,
    train: Table,
    real: Table,
    facts: Facts,
    tell: Say = lambda line: None,
    seed: int = 0,
    *,
    target: str | None = None,
    apart: bool = True,
    outside: bool = False,
) -> list[Score]:
    """Every score of ``made`` against the rows ``real`` that nothing was trained on, with floor and shuffled columns.

    Args:
        made: made rows. train: the training rows. real: other real rows; at best as many as ``made``.
        target: a column that models are to predict.
        apart: whether it is known that ``made`` was not learned from ``real``; otherwise nothing is said of learning by
            heart but copies.
        outside: whether a row of ``real`` may equal a training row, as in a file of its own; ours are parted so that none
            does.
    """
    rng = np.random.default_rng(seed)
    n = min(len(made), len(train), len(real))
    made, real = (_some(table, n, rng) for table in (made, real))
    other = _some(train, n, rng)  # the real table that plays the made one's part
    loose = Table(tuple(column.take(rng.permutation(len(train))[:n]) for column in train.columns), train.format)
    a, b, c, d, whole = frames([made, real, other, loose, train], facts)
    rows = _alike(Four(a, b, c, d), n, rng)
    tell(f"telling {min(n, MOST)} rows from {min(n, MOST)} by trees of {detector()}")
    rows += _told(Four(a, b, c, d), apart)
    off = [shares(real, table, facts) for table in (made, other, loose)]
    if len(off[0]):
        worst = [float(each.max()) for each in off]
        rows.append(Score("gaps_and_atoms", worst[0], None, None, worst[1], worst[2], "lower", n))
    if np.isnan(b.cells).any():
        empty = [patterns(b, each) for each in (a, c, d)]
        rows.append(Score("gap_patterns", empty[0], None, None, empty[1], empty[2], "lower", n))
    tell("training models on the rows to see what they are good for")
    rows += _used(Four(a, b, c, d), facts, target)
    share, usual, loosely = (flaws(train, table, facts)[1] for table in (made, real, loose))
    rows.append(Score("invalid", share, *_wilson(share, n), usual, loosely, "lower", n))
    if facts.rules:
        share, usual, loosely = (broken(table, facts.rules, facts.kinds)[""] for table in (made, other, loose))
        rows.append(Score("rules_broken", share, *_wilson(share, n), usual, loosely, "lower", n))
    learned = [states.kind.name for states in facts.learned]
    plain = [Table(tuple(table[name] for name in learned), table.format) for table in (made, train, real)]
    share, own = copied(*plain[:2])
    own = copied(plain[2], plain[1])[0] if outside else own
    rows.append(Score("copied", share, *_wilson(share, n), own, None, "lower", n))
    if apart:
        near, count = nearest_share(a, whole, b, seed)
        rows.append(Score("nearer_to_training", near, *_wilson(near, count), 0.5, None, "near 0.5", count))
        tell("attacking: which rows was it trained on?")
        for each in attacks(a, whole, b, seed):
            ends = (each.auc - each.half, each.auc + each.half)
            rows.append(Score(f"attack_by_{each.name}", each.auc, *ends, 0.5, None, "near 0.5", each.n))
            caught = (each.caught, *_wilson(each.caught, each.n))
            rows.append(Score(f"caught_by_{each.name}", *caught, FALSE, None, "lower", each.n))
    return rows


def _alike(four: Four, n: int, rng: np.random.Generator) -> list[Score]:
    """Shape and trend; one column has no trend."""
    rows = []
    for name, score in (("shape", shape), ("trend", trend))[: len(four.real.words)]:
        value = score(four.real, four.made)
        ends = _spread(lambda part, score=score: score(four.real, four.made.take(part)), n, value, rng)  # type: ignore[misc]
        rows.append(Score(name, value, *ends, score(four.real, four.other), score(four.real, four.loose), "higher", n))
    return rows


def detection(real: Frame, made: Frame) -> tuple[float, float, float]:
    """How far boosted trees fail to tell made rows from real ones, and its interval: :func:`~detector.told_apart`."""
    return told_apart(real.cells, made.cells, real.words)


def _told(four: Four, apart: bool) -> list[Score]:
    """The detector, against rows that nothing was trained on and against training rows."""
    m, made, real, other, loose = min(len(four.made), MOST), four.made, four.real, four.other, four.loose
    floor = detection(real, other)[0]
    rows = [Score("detection", *detection(real, made), floor, detection(real, loose)[0], "higher", m)]
    if apart:
        rows.append(Score("detection_train", *detection(other, made), floor, detection(other, loose)[0], "higher", m))
    return rows


def _used(four: Four, facts: Facts, target: str | None) -> list[Score]:
    """What models trained on the rows know of real ones."""
    n, rows = len(four.made), []
    if target is not None:
        place = [states.kind.name for states in facts.measured].index(target)
        found = [useful(each, four.real, place) for each in (four.made, four.other, four.loose)]
        if found[1] is not None:
            bad = None if found[1].name == "rmse" else 0.5
            values = [bad if each is None else each.value for each in found]
            if values[0] is not None:
                rows.append(
                    Score(f"useful_{found[1].name}", values[0], None, None, values[1], values[2], found[1].better, n)
                )
    whole = everywhere(four.other, four.real, four.made, four.loose)
    if not math.isnan(whole[0]):
        rows.append(Score("useful_everywhere", whole[0], None, None, 1.0, whole[1], "higher", n))
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
    return max(0.0, (middle - half) / (1 + z * z / n)), min(1.0, (middle + half) / (1 + z * z / n))
