"""Backbones of heavy chains: the table of docs/protein.md, two training seeds, beside the nearest known chain in the same run.

    python -m benchmarks.protein --data ../shared/data/antibodies/vh_backbones.npz --minutes 18
    python -m benchmarks.protein --data ... --steps 2300 --seeds 0 --stages train rank table steps

Stages: train; rank (the ranking head, from the held-out chains); table (5 samples of each of the 150 test chains: errors and
local geometry of the mean, the chosen, the medoid and the best sample, and of the template); curve (best of N, to --most);
steps (40, 20, 10 and 4 calls by solver, on the chains held out). benchmarks/results/protein.json is written after every stage,
and what is in it is not done again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import RESULTS, store

NAME = "protein"
SOLVERS = {
    "overstep": "overstep", "overstep, whole steps": "overstep:step_scale=1,noise=1", "heun": "heun", "dpmpp_2m": "dpmpp_2m",
    "euler": "euler",
}  # fmt: skip
STEPS = (40, 20, 10, 4)
SHOWN = ("FR", "H1", "H2", "H3", "H3_own", "lddt", "peptide", "bonds", "angles", "phi_left", "left_run", "clashes")


def kept() -> dict[str, Any]:
    """What was measured already."""
    path = RESULTS / f"{NAME}.json"
    return dict(json.loads(path.read_text()).get("seeds", {})) if path.is_file() else {}


def train(
    data: Path, folder: Path, seed: int, steps: int | None, minutes: float | None, threads: int
) -> dict[str, Any]:
    """A run, trained."""
    import sfumato

    start, cpu = time.perf_counter(), time.process_time()
    length: dict[str, Any] = {"steps": steps} if steps is not None else {"minutes": minutes}
    sfumato.train(data, field="protein", out=folder, seed=seed, threads=threads, previews=2, **length)
    return {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - cpu,
        "steps": steps,
        "minutes": minutes,
    }


def rank(folder: Path, n: int) -> dict[str, Any]:
    """Its ranking head."""
    from sfumato.fields.protein.ranker import taught
    from sfumato.jobs.model import load

    cpu = time.process_time()
    words = taught(load(folder), n, None, 1500)
    return {"words": words, "cpu_seconds": time.process_time() - cpu}


def measured(folder: Path, n: int, on: str = "test", chains: int | None = None, **walk: Any) -> dict[str, Any]:
    """Figures of samples of chains: by group of chains and kind of sample, mean and 90 % interval of each."""
    import numpy as np

    from sfumato.fields.protein import measure
    from sfumato.fields.protein.options import ProteinMeasure
    from sfumato.jobs.model import load
    from sfumato.jobs.walk import Walk

    cpu = time.process_time()
    model = load(folder, Walk(**walk))
    own = measure.chains(model, ProteinMeasure(n=n, on=on, chains=chains))  # type: ignore[arg-type]
    found = measure.cases(model, own, n)
    known, bare = ([one for one in found if (one.template is not None) == there] for there in (True, False))
    groups = {"with a template": known, "without": bare, "all": found}
    table: dict[str, Any] = {}
    for group, those in groups.items():
        for kind in ("mean", "chosen", "tidied", "medoid", "best", "template"):
            if not those or (kind == "template" and group != "with a template"):
                continue
            values = {name: np.array([one.of(kind, name) for one in those]) for name in SHOWN}
            cells = {name: measure.interval(each) for name, each in values.items()}
            table.setdefault(group, {"chains": len(those)})[kind] = {
                name: [round(float(value), 4) for value in cell] for name, cell in cells.items()
            }
    off, bins = measure.calibration(found)
    third = np.concatenate([one.third for one in found])
    true = np.concatenate([[sample["H3"] for sample in one.samples] for one in found])
    there = ~np.isnan(third)
    return {
        "table": table, "curve": measure.kept_order(found, n), "calibration_error": off, "calibration": bins,
        "correlation": float(-np.corrcoef(third[there], true[there])[0, 1]) if there.sum() > 2 else None,
        "ranker": model.companions.ranker is not None, "cpu_seconds": time.process_time() - cpu,
        "walk": dataclasses.asdict(model.walk),
    }  # fmt: skip


def by_steps(folder: Path, chains: int) -> dict[str, Any]:
    """H3, lDDT and bonds of two samples of some held-out chains, by solver and number of steps."""
    found: dict[str, Any] = {}
    for name, solver in SOLVERS.items():
        for steps in STEPS:
            one = measured(folder, 2, "val", chains, solver=solver, steps=steps // 2 if name == "heun" else steps)
            cells = one["table"]["all"]["mean"]
            found[f"{name}, {steps} calls"] = {
                key: cells[key][0] for key in ("FR", "H3", "lddt", "peptide", "bonds", "angles")
            }
    return found


def said(found: Mapping[str, Any]) -> str:
    """The table of one seed in Markdown."""
    lines = ["| chains | | " + " | ".join(SHOWN) + " |", "|---|---|" + "---|" * len(SHOWN)]
    for group, kinds in found["table"]["table"].items():
        for kind, cells in kinds.items():
            if kind != "chains":
                values = " | ".join(f"{cells[name][0]:.3f}" for name in SHOWN)
                lines.append(f"| {group} ({kinds['chains']}) | {kind} | {values} |")
    return "\n".join(lines)


def main() -> None:
    """All stages of all seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--folder", type=Path, default=Path("runs/protein"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--steps", type=int)
    parser.add_argument("--minutes", type=float, default=18.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--most", type=int, default=20)
    parser.add_argument("--rank-samples", type=int, default=10)
    parser.add_argument("--chains", type=int, default=12, help="of the stage steps")
    parser.add_argument("--stages", nargs="+", default=["train", "rank", "table", "curve", "steps"])
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    every = kept()
    for seed in given.seeds:
        folder, own = given.folder / f"seed{seed}", every.setdefault(str(seed), {})
        work: dict[str, Callable[[], Any]] = {
            "train": lambda: train(given.data, folder, seed, given.steps, given.minutes, given.threads),  # noqa: B023
            "rank": lambda: rank(folder, given.rank_samples),  # noqa: B023
            "table": lambda: measured(folder, 5),  # noqa: B023
            "curve": lambda: measured(folder, given.most),  # noqa: B023
            "steps": lambda: by_steps(folder, given.chains),  # noqa: B023
        }
        for stage in given.stages:
            if stage not in own:
                own[stage] = work[stage]()
                store(NAME, {"seeds": every})
        if "table" in own:
            print(f"seed {seed}\n{said(own)}")


if __name__ == "__main__":
    main()
