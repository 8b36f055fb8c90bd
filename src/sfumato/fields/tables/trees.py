"""Boosted trees on frames of cells: LightGBM, or scikit-learn's histogram trees with the same settings where it is missing."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from sfumato.errors import DataError, install

DEPTH, LEAVES, ROUNDS = 5, 31, 200
MOST_WORDS = 255  # categories of a column that scikit-learn takes
Predict = Callable[[np.ndarray], np.ndarray]


def detector() -> str:
    """The boosted trees at hand: "lightgbm", or "scikit-learn". Raises DataError where there are none."""
    for name, module in (("lightgbm", "lightgbm"), ("scikit-learn", "sklearn.ensemble")):
        try:
            importlib.import_module(module)
        except (ImportError, OSError):  # OSError: LightGBM without the system's libgomp
            continue
        return name
    raise DataError(f"the detector needs lightgbm: {install('tables')}")


def boosted(
    x: np.ndarray, y: np.ndarray, words: np.ndarray, classes: int = 0, rounds: int = ROUNDS, seed: int = 42
) -> Predict:
    """Trees that predict y (n,) from cells x (n, C).

    Args:
        x: float64, NaN is a gap. words: bool (C,), which columns are categories.
        classes: y is one of so many whole numbers from 0; 0: y is a number.

    Returns:
        cells (m, C) -> the numbers (m,), or the odds of each class (m, classes), that of a class which y lacks 0.
    """
    if not classes:
        return {"lightgbm": _lightgbm, "scikit-learn": _histogram}[detector()](x, y, words, 0, rounds, seed)
    there = np.unique(y.astype(np.int64))
    if len(there) < 2:
        return lambda cells: np.tile(np.isin(np.arange(classes), there).astype(float), (len(cells), 1))
    fit = {"lightgbm": _lightgbm, "scikit-learn": _histogram}[detector()]
    predict = fit(x, np.searchsorted(there, y.astype(np.int64)), words, len(there), rounds, seed)

    def odds(cells: np.ndarray) -> np.ndarray:
        found = np.zeros((len(cells), classes))
        found[:, there] = predict(cells)
        return found

    return odds


def _lightgbm(x: np.ndarray, y: np.ndarray, words: np.ndarray, classes: int, rounds: int, seed: int) -> Predict:
    lgb: Any = importlib.import_module("lightgbm")
    objective = {0: "regression", 2: "binary"}.get(classes, "multiclass")
    settings = {**lightgbm_settings(seed), "objective": objective}
    if objective == "multiclass":
        settings["num_class"] = classes
    booster = lgb.train(settings, lgb.Dataset(x, y, categorical_feature=np.flatnonzero(words).tolist()), rounds)
    if classes == 2:
        return lambda cells: np.stack([1 - (p := booster.predict(cells)), p], 1)
    predict: Predict = booster.predict
    return predict


def lightgbm_settings(seed: int) -> dict[str, Any]:
    """What LightGBM is told whatever it is for; the same table gives the same trees."""
    return {
        "max_depth": DEPTH, "num_leaves": LEAVES, "seed": seed, "deterministic": True, "force_row_wise": True,
        "verbosity": -1, "num_threads": torch.get_num_threads(),
    }  # fmt: skip


def _histogram(x: np.ndarray, y: np.ndarray, words: np.ndarray, classes: int, rounds: int, seed: int) -> Predict:
    ensemble: Any = importlib.import_module("sklearn.ensemble")
    kind = ensemble.HistGradientBoostingClassifier if classes else ensemble.HistGradientBoostingRegressor
    trees = kind(
        max_depth=DEPTH, max_leaf_nodes=LEAVES, max_iter=rounds, early_stopping=False, random_state=seed,
        categorical_features=few_words(x, words),
    ).fit(x, y)  # fmt: skip
    predict: Predict = trees.predict_proba if classes else trees.predict
    return predict


def few_words(x: np.ndarray, words: np.ndarray) -> np.ndarray:
    """The columns of categories that scikit-learn takes as such; more categories than it takes are numbers to it."""
    few: np.ndarray = words & (np.where(np.isnan(x), -1, x).max(0) < MOST_WORDS)
    return few


def auc(odds: np.ndarray, y: np.ndarray) -> float:
    """Share of pairs (one, zero) of which the one has the greater odds, half of the ties; 0.5 where all are of one kind."""
    _, place, counts = np.unique(odds, return_inverse=True, return_counts=True)
    rank = (np.cumsum(counts) - (counts - 1) / 2)[place]
    ones = int((y == 1).sum())
    pairs = ones * (len(y) - ones)
    return float((rank[y == 1].sum() - ones * (ones + 1) / 2) / pairs) if pairs else 0.5
