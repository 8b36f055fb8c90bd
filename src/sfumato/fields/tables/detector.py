"""Boosted trees that try to tell made rows from real ones."""

from __future__ import annotations

import importlib
import math
from typing import Any

import numpy as np
import torch

from sfumato.errors import DataError, install

MOST = 5000  # rows of each kind that it is shown
FOLDS, ROUNDS, PATIENCE = 5, 200, 10


def detector() -> str:
    """The boosted trees at hand: "lightgbm", or "scikit-learn"."""
    for name, module in (("lightgbm", "lightgbm"), ("scikit-learn", "sklearn.ensemble")):
        try:
            importlib.import_module(module)
        except (ImportError, OSError):  # OSError: LightGBM without the system's libgomp
            continue
        return name
    raise DataError(f"the detector needs lightgbm: {install('tables')}")


def told_apart(real: np.ndarray, made: np.ndarray, words: np.ndarray, seed: int = 42) -> tuple[float, float, float]:
    """How far boosted trees fail to tell made rows from real ones: 1 - (2 max(AUC, 1/2) - 1), and its 90 % interval.

    Equal numbers of rows, five stratified folds, LightGBM of depth 5 with 31 leaves and up to 200 rounds, stopped when the
    mean AUC of the folds has not risen for 10 (the detector of TabCascade's and CDTD's tables). 1: cannot be told apart.
    The interval is Student's, over the folds. Where LightGBM is not installed, scikit-learn's histogram trees with the
    same settings.

    Args:
        real, made: float64 (n, C), NaN is a gap. words: bool (C,), which columns are categories.
    """
    rng = np.random.default_rng(seed)
    n = min(len(real), len(made), MOST)
    rows = [cells[np.sort(rng.permutation(len(cells))[:n])] for cells in (real, made)]
    x, y = np.concatenate(rows), np.repeat([0, 1], n)
    fold = np.concatenate([rng.permutation(np.arange(n) % FOLDS) for _ in rows])
    aucs = {"lightgbm": _lightgbm, "scikit-learn": _histogram}[detector()](x, y, fold, words, seed)
    mean, half = float(np.mean(aucs)), 2.1318 * float(np.std(aucs, ddof=1)) / math.sqrt(FOLDS)  # t of 4 degrees, 95 %
    value, low, high = (2 - 2 * min(max(auc, 0.5), 1.0) for auc in (mean, mean + half, mean - half))
    return value, low, high


def _lightgbm(x: np.ndarray, y: np.ndarray, fold: np.ndarray, words: np.ndarray, seed: int) -> list[float]:
    lgb: Any = importlib.import_module("lightgbm")
    settings = {
        "objective": "binary", "metric": "auc", "max_depth": 5, "num_leaves": 31, "seed": seed, "deterministic": True,
        "force_row_wise": True, "verbosity": -1, "num_threads": torch.get_num_threads(),
    }  # fmt: skip
    data = lgb.Dataset(x, y, categorical_feature=np.flatnonzero(words).tolist(), free_raw_data=False)
    folds = [(np.flatnonzero(fold != k), np.flatnonzero(fold == k)) for k in range(FOLDS)]
    stop = lgb.early_stopping(PATIENCE, verbose=False)
    found: Any = lgb.cv(settings, data, ROUNDS, folds=folds, callbacks=[stop], return_cvbooster=True)
    best = found["cvbooster"].best_iteration
    return [
        _auc(booster.predict(x[test], num_iteration=best), y[test])
        for booster, (_, test) in zip(found["cvbooster"].boosters, folds)
    ]


def _histogram(x: np.ndarray, y: np.ndarray, fold: np.ndarray, words: np.ndarray, seed: int) -> list[float]:
    ensemble: Any = importlib.import_module("sklearn.ensemble")
    few = words & (np.nanmax(np.where(np.isnan(x), -1, x), 0) < 255)  # more categories than it takes are numbers to it
    curves = []
    for k in range(FOLDS):
        train, test = fold != k, fold == k
        trees = ensemble.HistGradientBoostingClassifier(
            max_depth=5,
            max_leaf_nodes=31,
            max_iter=ROUNDS,
            early_stopping=False,
            categorical_features=few,
            random_state=seed,
        ).fit(x[train], y[train])
        curves.append([_auc(odds[:, 1], y[test]) for odds in trees.staged_predict_proba(x[test])])
    mean = np.mean(curves, 0)
    best = 0
    for i, auc in enumerate(mean):  # stopped as LightGBM is
        if auc > mean[best]:
            best = i
        elif i - best >= PATIENCE:
            break
    return [curve[best] for curve in curves]


def _auc(odds: np.ndarray, y: np.ndarray) -> float:
    """Share of pairs (made, real) of which the made one has the greater odds, half of the ties."""
    _, place, counts = np.unique(odds, return_inverse=True, return_counts=True)
    rank = (np.cumsum(counts) - (counts - 1) / 2)[place]
    ones = int(y.sum())
    return float((rank[y == 1].sum() - ones * (ones + 1) / 2) / (ones * (len(y) - ones)))
