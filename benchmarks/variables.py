"""A forecast to a new variable: how many of its days, and how many seconds, a run of other variables needs.

    python -m benchmarks.variables --out OUT [--series FILE --seeds 0 1]        writes benchmarks/results/variables.json

ETTh1: a run of the six loads of a transformer is given its oil temperature, of the days before the last ten: tuned on them, and
trained anew on them alone. All forecast the same last ten days, each from the day before: CRPS as `sfumato evaluate` gives it,
beside that of the run of before, which has never seen this variable. Options are fixed here, before anything is seen.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

import sfumato
from benchmarks.common import store
from sfumato.training.run import Run

DAYS, TESTS, HORIZON, PAST = (15, 60, 240), 10, 24, 168
NEW = "OT"


def table(path: Path, header: list[str], rows: list[list[str]], columns: list[str]) -> Path:
    """Some columns beside the dates."""
    at = [0, *(header.index(name) for name in columns)]
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([[row[i] for i in at] for row in [header, *rows]])
    return path


def scored(run: Run, seed: int) -> dict[str, Any]:
    """What `sfumato evaluate` says of it."""
    sfumato.evaluate(run, seed=seed)
    found: dict[str, Any] = json.loads((run.path / "metrics.json").read_text())
    return found


def main() -> None:
    """Every number of days in both ways."""
    data = Path(__file__).parents[2] / "shared" / "data" / "series" / "ETTh1.csv"
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--series", type=Path, default=data)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1])
    asked = parser.parse_args()
    torch.set_num_threads(1)
    asked.out.mkdir(parents=True, exist_ok=True)
    file = asked.out / "results.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    with asked.series.open(newline="", encoding="utf-8") as opened:
        header, *rows = list(csv.reader(opened))
    loads = [name for name in header[1:] if name != NEW]
    how: dict[str, Any] = {"threads": 1, "previews": 1}
    own: dict[str, Any] = {"field": "series", "horizon": HORIZON, "past": PAST, "season": 24, "test": TESTS}
    base = asked.out / "base"
    if not (base / "model.safetensors").is_file():
        shutil.rmtree(base, ignore_errors=True)
        began = time.process_time()
        sfumato.train(table(asked.out / "loads.csv", header, rows, loads), out=base, **own, **how)
        found["base_cpu_seconds"] = time.process_time() - began

    def note(name: str, make: Callable[[], Run], seed: int) -> None:
        if name in found:
            return
        began = time.process_time()
        run = make()
        found[name] = {"cpu_seconds": time.process_time() - began, **scored(run, seed)}
        file.write_text(json.dumps(found, indent=1))
        print(name, found[name]["cpu_seconds"], str(found[name].get("metrics", found[name]))[:300], flush=True)

    for seed, days in itertools.product(asked.seeds, DAYS):
        few = table(asked.out / f"new-{days}.csv", header, rows[-24 * (days + TESTS) :], [NEW])
        tuning = {**how, "seed": seed, "held_out": 0.1, "kept": 100}
        places = {way: asked.out / f"{way}-{days}-{seed}" for way in ("unseen", "tuned", "anew")}
        still = partial(sfumato.finetune, base, few, places["unseen"], steps=1, optim={"lr": 1e-12}, **tuning)
        tuned = partial(sfumato.finetune, base, few, places["tuned"], steps=300, **tuning)
        anew = partial(sfumato.train, few, out=places["anew"], seed=seed, **own, **how)
        for way, make in (("unseen", still), ("tuned", tuned), ("anew", anew)):
            note(f"{way}-{days}-{seed}", make, seed)
    store("variables", {"found": found})


if __name__ == "__main__":
    main()
