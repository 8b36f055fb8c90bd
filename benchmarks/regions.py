"""A table to a new region: how many of its rows, and how many seconds, a run of another region needs.

    python -m benchmarks.regions --out OUT [--tables FOLDER --seeds 0 1]        writes benchmarks/results/regions.json

Adult (UCI): a run of the people born in the United States, without that column, is given rows of people born in Mexico: tuned
on them (all weights, with rows of before), and trained anew on them alone, for the same steps and for four times as many. All are
judged beside 600 other rows of Mexico that nobody learned from: shape and trend of columns, and the detector of boosted trees
(1/2: rows like real ones). The run of before is judged beside them too. Options are fixed here, before anything is seen.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

import sfumato
from benchmarks.common import store
from sfumato.training.run import Run

COUNTS, STEPS, BASE = (100, 300), 300, 2000
HOME, AWAY, PLACE = "United-States", "Mexico", "native_country"


def rows(folder: Path, place: str) -> tuple[list[str], list[list[str]]]:
    """Header and rows of those born in a place, without that column."""
    found: list[list[str]] = []
    for name in ("adult_train.csv", "adult_test.csv"):
        with (folder / name).open(newline="", encoding="utf-8") as file:
            reader = csv.reader(file)
            header = next(reader)
            at = header.index(PLACE)
            found += [row[:at] + row[at + 1 :] for row in reader if row[at] == place]
    return header[:at] + header[at + 1 :], found


def write(path: Path, header: list[str], some: list[list[str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *some])
    return path


def scored(run: Run, real: Path, seed: int) -> dict[str, Any]:
    """What `sfumato evaluate` says of the run beside these rows."""
    sfumato.evaluate(run, real=real, seed=seed)
    found = json.loads((run.path / "metrics.json").read_text())["metrics"]
    return {name: {k: v for k, v in one.items() if isinstance(v, (int, float))} for name, one in found.items()}


def ways(out: Path, base: Path, few: Path, seed: int) -> Iterator[tuple[str, Callable[[], Run]]]:
    """Names and how the runs come about."""
    how: dict[str, Any] = {"batch": 64, "threads": 1, "seed": seed, "previews": 4}
    place = out / f"{few.stem}"
    yield (
        "tuned",
        lambda: sfumato.finetune(base, few, place.with_name(f"{few.stem}-tuned"), steps=STEPS, held_out=0.2, **how),
    )
    for times in (1, 4):
        yield f"anew x{times}", lambda times=times: sfumato.train(
            few, out=place.with_name(f"{few.stem}-anew{times}"), field="tables", steps=times * STEPS, held_out=0.2, **how
        )  # fmt: skip


def main() -> None:
    """Every count in every way."""
    data = Path(__file__).parents[2] / "shared" / "data" / "tables"
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tables", type=Path, default=data)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1])
    asked = parser.parse_args()
    torch.set_num_threads(1)
    asked.out.mkdir(parents=True, exist_ok=True)
    file = asked.out / "results.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    header, home = rows(asked.tables, HOME)
    _, away = rows(asked.tables, AWAY)

    def note(name: str, make: Callable[[], Run], real: Path, seed: int) -> None:
        if name in found:
            return
        began = time.process_time()
        run = make()
        spent = time.process_time() - began
        found[name] = {"cpu_seconds": spent, **scored(run, real, seed)}
        file.write_text(json.dumps(found, indent=1))
        print(
            name,
            f"{spent:.0f} s",
            {k: v.get("value") for k, v in found[name].items() if isinstance(v, dict)},
            flush=True,
        )

    base = asked.out / "base"
    if not (base / "model.safetensors").is_file():
        shutil.rmtree(base, ignore_errors=True)
        whole = write(asked.out / "home.csv", header, home)
        began = time.process_time()
        sfumato.train(whole, out=base, field="tables", steps=BASE, batch=256, threads=1, previews=1)
        found["base_cpu_seconds"] = time.process_time() - began
    for seed in asked.seeds:
        order = np.random.default_rng(seed).permutation(len(away))
        real = write(asked.out / f"real-{seed}.csv", header, [away[i] for i in order[:600]])
        note(f"before-{seed}", lambda: Run(base), real, seed)
        for count in COUNTS:
            few = write(asked.out / f"few-{count}-{seed}.csv", header, [away[i] for i in order[600 : 600 + count]])
            for name, make in ways(asked.out, base, few, seed):
                note(f"{name}-{count}-{seed}", make, real, seed)
    store("regions", {"rows_home": len(home), "rows_away": len(away), "found": found})


if __name__ == "__main__":
    main()
