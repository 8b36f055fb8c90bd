"""Peers of tables, in their own environment: python -m benchmarks.tables_peers GIVEN.json FOUND.json

Adversarial random forests (Watson et al. 2023, arXiv 2205.09435, package arfpy, MIT) draw rows; miceforest (MIT) fills gaps
by chained equations of boosted trees. Both read and write CSV files whose numbers are plain floats.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd


def read(path: str, words: list[str]) -> Any:
    """A CSV as a data frame: words as categories, everything else as floats; empty cells are gaps."""
    frame = pd.read_csv(path, dtype=dict.fromkeys(words, "object"), keep_default_na=False, na_values={
        name: [""] for name in pd.read_csv(path, nrows=0).columns
    })  # fmt: skip
    for name in frame.columns:
        frame[name] = frame[name].astype("category") if name in words else frame[name].astype("float64")
    return frame


def arf(given: dict[str, Any]) -> dict[str, Any]:
    """30 trees; a gap of a category is a category, one of a number the median, since it takes none."""
    if not hasattr(np, "in1d"):  # it calls what numpy 2.4 no longer has
        setattr(np, "in1d", np.isin)  # noqa: B010
    from arfpy import arf as package

    frame = read(given["train"], given["words"])
    for name in frame.columns:
        if name in given["words"]:
            frame[name] = frame[name].astype("object").fillna("(empty)").astype("category")
        else:
            frame[name] = frame[name].fillna(frame[name].median())
    if len(frame) > given["most"]:
        frame = frame.sample(given["most"], random_state=given["seed"]).reset_index(drop=True)
    began = time.process_time()
    forest = package.arf(x=frame, num_trees=30, verbose=False, random_state=given["seed"])
    forest.forde()
    fitted = time.process_time()
    np.random.seed(given["seed"])  # noqa: NPY002 - it draws from this stream
    made = forest.forge(n=given["rows"])[list(frame.columns)]
    for name in given["words"]:
        made[name] = made[name].astype("object").where(made[name] != "(empty)", "")
    made.to_csv(given["out"], index=False)
    return {"fit": fitted - began, "draw": time.process_time() - fitted, "trained on": len(frame)}


def mice(given: dict[str, Any]) -> dict[str, Any]:
    """Chained equations by LightGBM, learned from the training rows, for the gaps of other rows; its draws, one after another.

    It has a model only for columns with gaps, so the training rows get gaps at random in the same share.
    """
    import miceforest

    began = time.process_time()
    frame = read(given["train"], given["words"])
    if len(frame) > given["most"]:
        frame = frame.sample(given["most"], random_state=given["seed"]).reset_index(drop=True)
    asked = read(given["gaps"], given["words"])
    for name in given["words"]:
        kinds = sorted({*frame[name].dropna(), *asked[name].dropna()})
        frame[name] = pd.Categorical(frame[name], categories=kinds)
        asked[name] = pd.Categorical(asked[name], categories=kinds)
    holes = np.random.default_rng(given["seed"]).random(frame.shape) < given["share"]
    frame = frame.mask(pd.DataFrame(holes, columns=frame.columns))
    # words by their probabilities: by neighbours in log-odds it stops at rare ones, whose probability it takes for 0
    how = {name: "fast" if name in given["words"] else "normal" for name in frame.columns}
    kernel = miceforest.ImputationKernel(
        frame, num_datasets=given["draws"], random_state=given["seed"], mean_match_strategy=how
    )
    kernel.mice(given["iterations"], num_threads=1)
    filled = kernel.impute_new_data(asked, random_state=given["seed"])
    for draw in range(given["draws"]):
        filled.complete_data(draw).to_csv(f"{given['out']}.{draw}.csv", index=False)
    return {"cpu": time.process_time() - began, "trained on": len(frame)}


if __name__ == "__main__":
    asked = json.loads(Path(sys.argv[1]).read_text())
    Path(sys.argv[2]).write_text(json.dumps({"arf": arf, "mice": mice}[asked["do"]](asked)))
