"""Boosted trees that try to tell made rows from real ones, and the columns that give the made ones away."""

from __future__ import annotations

import importlib
import math
from typing import Any

import numpy as np

from sfumato.fields.tables.trees import DEPTH, LEAVES, ROUNDS, auc, boosted, detector, few_words, lightgbm_settings

MOST = 5000  # rows of each kind that it is shown
FOLDS, PATIENCE = 5, 10
SHUFFLES = 3


def told_apart(
    real: np.ndarray, made: np.ndarray, words: np.ndarray, seed: int = 42, most: int = MOST
) -> tuple[float, float, float]:
    """How far boosted trees fail to tell made rows from real ones: 1 - (2 max(AUC, 1/2) - 1), and its 90 % interval.

    Equal numbers of rows, five stratified folds, LightGBM of depth 5 with 31 leaves and up to 200 rounds, stopped when the
    mean AUC of the folds has not risen for 10 (the detector of TabCascade's and CDTD's tables). 1: cannot be told apart.
    The interval is Student's, over the folds. Where LightGBM is not installed, scikit-learn's histogram trees with the
    same settings.

    Args:
        real, made: float64 (n, C), NaN is a gap. words: bool (C,), which columns are categories.
        most: rows of each kind.
    """
    rng = np.random.default_rng(seed)
    x, y, n = _both(real, made, rng, most)
    fold = np.concatenate([rng.permutation(np.arange(n) % FOLDS) for _ in range(2)])
    aucs = {"lightgbm": _lightgbm, "scikit-learn": _histogram}[detector()](x, y, fold, words, seed)
    mean, half = float(np.mean(aucs)), 2.1318 * float(np.std(aucs, ddof=1)) / math.sqrt(FOLDS)  # t of 4 degrees, 95 %
    value, low, high = (2 - 2 * min(max(each, 0.5), 1.0) for each in (mean, mean + half, mean - half))
    return value, low, high


def giveaways(real: np.ndarray, made: np.ndarray, words: np.ndarray, seed: int = 42) -> np.ndarray:
    """How much each column helps to tell made rows from real ones, (C,): the AUC that trees lose on rows they were not
    trained on when that column is shuffled among them (Breiman 2001); 0 where it loses nothing."""
    rng = np.random.default_rng(seed)
    x, y, n = _both(real, made, rng, MOST)
    tested = np.concatenate([rng.permutation(n) % 3 == 0 for _ in range(2)])
    predict = boosted(x[~tested], y[~tested], words, 2, ROUNDS // 2, seed)
    x, y = x[tested], y[tested]
    whole = auc(predict(x)[:, 1], y)
    lost = np.zeros(x.shape[1])
    for i in range(x.shape[1]):
        for _ in range(SHUFFLES):
            other = x.copy()
            other[:, i] = rng.permutation(other[:, i])
            lost[i] += (whole - auc(predict(other)[:, 1], y)) / SHUFFLES
    return lost.clip(0)


def _both(
    real: np.ndarray, made: np.ndarray, rng: np.random.Generator, most: int
) -> tuple[np.ndarray, np.ndarray, int]:
    """Equally many of both, real ones first: cells (2n, C), which are made (2n,), and n."""
    n = min(len(real), len(made), most)
    rows = [cells[np.sort(rng.permutation(len(cells))[:n])] for cells in (real, made)]
    return np.concatenate(rows), np.repeat([0, 1], n), n


def _lightgbm(x: np.ndarray, y: np.ndarray, fold: np.ndarray, words: np.ndarray, seed: int) -> list[float]:
    lgb: Any = importlib.import_module("lightgbm")
    settings = {**lightgbm_settings(seed), "objective": "binary", "metric": "auc"}
    data = lgb.Dataset(x, y, categorical_feature=np.flatnonzero(words).tolist(), free_raw_data=False)
    folds = [(np.flatnonzero(fold != k), np.flatnonzero(fold == k)) for k in range(FOLDS)]
    stop = lgb.early_stopping(PATIENCE, verbose=False)
    found: Any = lgb.cv(settings, data, ROUNDS, folds=folds, callbacks=[stop], return_cvbooster=True)
    best = found["cvbooster"].best_iteration
    return [
        auc(booster.predict(x[test], num_iteration=best), y[test])
        for booster, (_, test) in zip(found["cvbooster"].boosters, folds)
    ]


def _histogram(x: np.ndarray, y: np.ndarray, fold: np.ndarray, words: np.ndarray, seed: int) -> list[float]:
    ensemble: Any = importlib.import_module("sklearn.ensemble")
    few = few_words(x, words)
    curves = []
    for k in range(FOLDS):
        train, test = fold != k, fold == k
        trees = ensemble.HistGradientBoostingClassifier(
            max_depth=DEPTH,
            max_leaf_nodes=LEAVES,
            max_iter=ROUNDS,
            early_stopping=False,
            categorical_features=few,
            random_state=seed,
        ).fit(x[train], y[train])
        curves.append([auc(odds[:, 1], y[test]) for odds in trees.staged_predict_proba(x[test])])
    mean = np.mean(curves, 0)
    best = 0
    for i, each in enumerate(mean):  # stopped as LightGBM is
        if each > mean[best]:
            best = i
        elif i - best >= PATIENCE:
            break
    return [curve[best] for curve in curves]
