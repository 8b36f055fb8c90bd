"""Tables: made rows of six real tables, ours beside independent columns, a Gaussian copula and adversarial random forests.

    python -m benchmarks.tables --data FOLDER [--sets adult magic] [--seeds 0] [--parts rows plain arf calls shares fill canaries]
    python -m benchmarks.tables --report

FOLDER holds adult_train.csv, adult_test.csv, online_shoppers.csv, magic_gamma.csv, credit_default.csv, beijing_pm25.csv and
communities_crime.csv (UCI, CC BY 4.0), with headers. One configuration for all: the defaults of `sfumato train tables`, with at
most --most steps. Nothing is chosen by the rows that are measured with: of what is not test rows a tenth is there to choose by
(--on validation), and --on held, the usual, measures with these and the test rows together, at most 5,000.

    rows      every score of `sfumato evaluate` at n rows, floor and shuffled columns beside it; detection against 5,000 training
              rows and against as many as there are, at most 20,000
    plain     detection, shape, trend and use of independent columns and of a Gaussian copula
    arf       the same of the peer, trained on at most 5,000 rows
    calls     rows a second, with all calls of the network and with half of those for states and 5 for values; detection of both
    shares    errors of the shares of single values and gaps at 100,000 rows
    fill      30 % of the cells of held-out rows hidden, at random and in blocks: draws of ours, miceforest, column medians
    canaries  another training, with 20 odd rows planted once and 20 planted ten times: how many come back, and how near made
              rows come to them beside odd rows that were not planted

results/tables.json is written anew after each part. `--report` writes the table of docs/tables.md from it.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import common, tables_methods, tables_report
from benchmarks.tables_canaries import canaries
from benchmarks.tables_fill import fill
from benchmarks.tables_sets import HELD, SETS, Set, Split, split
from sfumato.data.dataset import MAX_HELD_OUT
from sfumato.fields.tables.data import Facts
from sfumato.fields.tables.detector import told_apart
from sfumato.fields.tables.frames import frames
from sfumato.fields.tables.likeness import shape, shares, trend
from sfumato.fields.tables.recipe import BATCH, STEPS, usual_steps
from sfumato.fields.tables.scoring import scores
from sfumato.fields.tables.table import Table
from sfumato.fields.tables.useful import useful
from sfumato.jobs.model import Model
from sfumato.jobs.recipe import usual_batch
from sfumato.training.options import TrainOptions

PARTS = ("rows", "plain", "arf", "calls", "shares", "fill", "canaries")
ROWS, MOST, MANY = 5000, 20_000, 100_000
NAME = "tables"


@dataclasses.dataclass
class Trial:
    """One table, split, and a model trained on it."""

    each: Set
    parts: Split
    held: Table
    facts: Facts
    model: Model
    seed: int

    def some(self, table: Table, n: int, salt: int = 0) -> Table:
        """At most n of its rows, by chance."""
        rng = np.random.default_rng((self.seed, salt))
        return table.take(np.sort(rng.permutation(len(table))[:n]))

    def measured(self, made: Table, name: str) -> dict[str, Any]:
        """Every score of made rows, and detection against training rows."""
        held = self.some(self.held, ROWS)
        found = scores(
            made.take(np.arange(min(len(made), len(held)))), self.parts.train, held, self.facts, print, self.seed,
            target=self.each.target, outside=True,
        )  # fmt: skip
        kept = {score.name: {**dataclasses.asdict(score), "name": name} for score in found}
        n = min(len(made), len(held), len(self.parts.train))
        real, mine, other = frames([held, made.take(np.arange(n)), self.some(self.parts.train, n)], self.facts)
        kept["trend_in_one_range"] = {
            "value": trend(real, mine, one_range=True), "floor": trend(real, other, one_range=True), "n": n,
        }  # fmt: skip
        for key, n in (("training_5000", ROWS), ("training_full", min(MOST, len(made), len(self.parts.train)))):
            if n <= min(len(made), len(self.parts.train)):
                kept[key] = {"value": self.detection(made.take(np.arange(n)), self.some(self.parts.train, n)), "n": n}
        return kept

    def compared(self, made: Table) -> dict[str, Any]:
        """What the rows of another method are compared by: detection, shape, trend, and use."""
        held = self.some(self.held, ROWS)
        n = min(len(made), len(held))
        real, mine = frames([held.take(np.arange(n)), made.take(np.arange(n))], self.facts)
        found = {
            "detection": told_apart(real.cells, mine.cells, real.words)[0], "shape": shape(real, mine),
            "trend": trend(real, mine),
        }  # fmt: skip
        place = [states.kind.name for states in self.facts.measured].index(self.each.target)
        use = useful(mine, real, place)
        found |= {} if use is None or use.value is None else {f"useful_{use.name}": use.value}
        return {name: {"value": value, "n": n} for name, value in found.items()}

    def detection(self, made: Table, real: Table) -> float:
        """Of equally many rows."""
        a, b = frames([real, made], self.facts)
        return told_apart(a.cells, b.cells, a.words, most=MOST)[0]


def rows(trial: Trial) -> dict[str, Any]:
    """Ours."""
    n = min(MOST, len(trial.parts.train))
    made, taken = tables_methods.drawn(trial.model, n, trial.seed)
    return {"ours": {**trial.measured(made, "ours"), "cpu": taken, "drawn": n}}


def plain(trial: Trial) -> dict[str, Any]:
    """Independent columns and the copula."""
    train, n = trial.parts.train, min(ROWS, len(trial.parts.train))
    return {
        "independent": trial.compared(tables_methods.independent(train, n, trial.seed)),
        "copula": trial.compared(tables_methods.copula(train, trial.facts, n, trial.seed)),
    }


def arf(trial: Trial) -> dict[str, Any]:
    """The peer; it is no good for rows beyond the held-out ones in the time of the others, so those alone are drawn."""
    made, told = tables_methods.arf(trial.parts.train, trial.facts, ROWS, ROWS, trial.seed)
    return {**trial.compared(made), **told}


def calls(trial: Trial) -> dict[str, Any]:
    """Speed and detection by calls of the network."""
    recipe: Any = trial.model.recipe
    full = recipe.calls or (len(trial.facts.sizes), 10)
    few = (max(1, full[0] // 2), min(5, full[1]))
    held, found = trial.some(trial.held, ROWS), {}
    for name, chosen in (("full", full), ("few", few)):
        made, taken = tables_methods.drawn(trial.model, ROWS, trial.seed, chosen)
        n = min(ROWS, len(held))
        found[name] = {
            "calls": list(chosen), "rows a CPU second": ROWS / taken,
            "detection": trial.detection(made.take(np.arange(n)), held),
            "detection_train": trial.detection(made, trial.some(trial.parts.train, ROWS)), "n": n,
        }  # fmt: skip
    return found


def many(trial: Trial) -> dict[str, Any]:
    """Shares of single values and gaps of 100,000 rows, against all training rows; in points of a hundred."""
    made, taken = tables_methods.drawn(trial.model, MANY, trial.seed)
    off = 100 * shares(trial.parts.train, made, trial.facts)
    found = {"max": float(off.max()), "mean": float(off.mean())} if len(off) else {}
    return {**found, "cpu": taken}


WORK: dict[str, Callable[[Trial], dict[str, Any]]] = {
    "rows": rows,
    "plain": plain,
    "arf": arf,
    "calls": calls,
    "shares": many,
    "fill": fill,
}


def one(each: Set, seed: int, asked: argparse.Namespace, note: Callable[[str, Any], None]) -> None:
    """A set and a seed: trained once, every part measured and noted."""
    parts = split(each, asked.data)
    held = {"validation": parts.validation, "test": parts.test, "held": parts.held}[asked.on]
    size = len(parts.train) - min(MAX_HELD_OUT, round(HELD * len(parts.train)))  # about
    usual = usual_steps(size, usual_batch(size, BATCH)) or STEPS
    options = TrainOptions(seed=seed, steps=min(usual, asked.most), threads=1, previews=4, snapshots=0)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder = folder if asked.runs is None else asked.runs / f"{each.name}-{seed}"
        if {*asked.parts} - {"canaries"}:
            model, taken = tables_methods.trained(each, parts.train, folder, options)
            note("training", taken)
            trial = Trial(each, parts, held, model.facts, model, seed)
            for name in (part for part in asked.parts if part in WORK):
                _part(name, note, lambda name=name: WORK[name](trial))  # type: ignore[misc]
        if "canaries" in asked.parts:
            _part("canaries", note, lambda: canaries(each, parts.train, folder / "planted", options))


def _part(name: str, note: Callable[[str, Any], None], work: Callable[[], Any]) -> None:
    """Do a part; one that fails is noted and does not end the rest."""
    began = time.process_time()
    try:
        found = work()
    except Exception:
        found = {"error": traceback.format_exc()}
        print(found["error"], flush=True)
    note(name, {**found, "cpu of the part": time.process_time() - began})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/tables"))
    parser.add_argument("--sets", nargs="+", default=[each.name for each in SETS], choices=[each.name for each in SETS])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--on", choices=("validation", "test", "held"), default="held")
    parser.add_argument(
        "--most", type=int, default=STEPS, help="steps of training at most (default: as the field chooses)"
    )
    parser.add_argument("--name", default=NAME, help="of the file in results/")
    parser.add_argument("--runs", type=Path, help="folder in which runs are kept, and found again")
    parser.add_argument("--report", action="store_true")
    asked = parser.parse_args()
    if asked.report:
        tables_report.write(asked.name)
        return
    torch.set_num_threads(1)
    found = common.read(asked.name) or {"sets": {}}
    for each in SETS:
        if each.name in asked.sets:
            for seed in asked.seeds:
                place = found["sets"].setdefault(each.name, {}).setdefault(f"seed {seed}", {"on": asked.on})

                def note(name: str, value: Any, place: dict[str, Any] = place) -> None:
                    place[name] = value
                    common.store(asked.name, found)
                    said = json.dumps(value)
                    print(f"{each.name}  {name}  {said[:300]}", flush=True)  # noqa: B023

                one(each, seed, asked, note)


if __name__ == "__main__":
    main()
