"""What a made table is good for: models trained on it are tested on real rows that nothing was trained on.

"Train on synthetic, test on real" (Esteban et al. 2017, arXiv 1706.02633) for one column that somebody wants predicted, and
the same for every column from all the others, which no choice of a target can flatter ("global utility" of TabStruct).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sfumato.fields.tables.frames import Frame
from sfumato.fields.tables.trees import auc, boosted

COLUMNS, SHORT = 24, 60  # columns that are predicted at most, evenly chosen, and rounds of trees for each
CLASSES, CLASS_ROWS = 10, 20  # classes of a column told apart at most, and rows of one at least; the others are one
FEWEST = 20  # rows with a known target without which nothing is tested


@dataclass(frozen=True)
class Used:
    """What a model trained on one table scores on real rows. name: "auc" or "rmse"."""

    name: str
    value: float

    @property
    def better(self) -> str:
        return "higher" if self.name == "auc" else "lower"


def useful(train: Frame, test: Frame, target: int, seed: int = 42) -> Used | None:
    """Boosted trees that learn the column ``target`` from ``train``, tested on ``test``: the area under the curve of a
    column of categories, or of two numbers (of more than two the mean over classes of one against the rest), else the root
    of the mean square error. None where too few rows know it.
    """
    x, y = _known(train, target)
    u, v = _known(test, target)
    if min(len(y), len(v)) < FEWEST or x.shape[1] < 2:
        return None
    others = np.arange(x.shape[1]) != target
    x, u, words = x[:, others], u[:, others], train.words[others]
    values = np.unique(v)
    if not train.words[target] and len(values) > 2:
        errors = boosted(x, y, words, 0, seed=seed)(u) - v
        return Used("rmse", float(np.sqrt(np.mean(errors**2))))
    here = np.isin(y, values)  # what no real row is cannot be tested
    x, y, v = x[here], np.searchsorted(values, y[here]), np.searchsorted(values, v)
    if not len(y):
        return Used("auc", 0.5)
    odds = boosted(x, y, words, len(values), seed=seed)(u)
    counted = [k for k in range(len(values)) if (v == k).sum() >= (1 if len(values) == 2 else CLASS_ROWS)]
    return Used("auc", float(np.mean([auc(odds[:, k], (v == k).astype(int)) for k in counted])))


def _known(frame: Frame, column: int) -> tuple[np.ndarray, np.ndarray]:
    rows = ~np.isnan(frame.cells[:, column])
    return frame.cells[rows], frame.cells[rows, column]


def everywhere(real: Frame, test: Frame, *tables: Frame, seed: int = 42) -> list[float]:
    """How well every column is predicted from the others by trees trained on each of ``tables``, relative to trees trained
    on the rows ``real``, all tested on ``test``: the mean over columns of the ratio of balanced accuracies (categories)
    and of the inverse ratio of errors (numbers, by their rank among the real ones, so that no long tail decides). NaN
    where no column can be tested."""
    count = len(real.words)
    if count < 2:
        return [float("nan")] * len(tables)
    chosen = range(count) if count <= COLUMNS else [i * count // COLUMNS for i in range(COLUMNS)]
    ratios = [ratio for i in chosen if (ratio := _ratios(real, test, tables, i, seed)) is not None]
    return np.mean(ratios, 0).tolist() if ratios else [float("nan")] * len(tables)


def _ratios(real: Frame, test: Frame, tables: tuple[Frame, ...], i: int, seed: int) -> list[float] | None:
    """Of one column; None where it cannot be tested."""
    rows = [_known(frame, i) for frame in (real, test, *tables)]
    if min(len(y) for _, y in rows[:2]) < FEWEST or len(np.unique(rows[0][1])) < 2 or len(np.unique(rows[1][1])) < 2:
        return None
    others = np.arange(len(real.words)) != i
    words, classes = real.words[others], 0
    if real.words[i]:
        values, counts = np.unique(rows[0][1], return_counts=True)
        kept = values[np.argsort(-counts, kind="stable")][:CLASSES]
        kept = np.sort(kept[np.isin(kept, values[counts >= CLASS_ROWS])])
        classes = len(kept) + 1
        codes = [np.where(np.isin(y, kept), np.searchsorted(kept, y), len(kept)) for _, y in rows]
    else:
        ranked = np.sort(rows[0][1])
        codes = [
            (np.searchsorted(ranked, y, "left") + np.searchsorted(ranked, y, "right")) / 2 / len(ranked)
            for _, y in rows
        ]
    scores = []
    for (x, _), y in zip([rows[0], *rows[2:]], [codes[0], *codes[2:]]):
        if len(y) < FEWEST:
            scores.append(0.0)
            continue
        answer = boosted(x[:, others], y, words, classes, SHORT, seed)(rows[1][0][:, others])
        scores.append(_balanced(answer.argmax(1), codes[1]) if classes else 1 / _error(answer, codes[1]))
    return [score / scores[0] for score in scores[1:]] if scores[0] > 0 else None


def _error(answer: np.ndarray, y: np.ndarray) -> float:
    return max(float(np.sqrt(np.mean((answer - y) ** 2))), 1e-3)


def _balanced(answer: np.ndarray, y: np.ndarray) -> float:
    """Mean over the classes that are there of the share of each that is found."""
    return float(np.mean([(answer[y == k] == k).mean() for k in np.unique(y)]))
