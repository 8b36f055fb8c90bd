"""The plan that `sfumato train` says before it begins, beside what the run then takes, for six kinds of runs.

    python -m benchmarks.plan

Each run is a process of its own, because the peak of a process's memory never falls. Ratios are planned / taken: of the peak
memory, of a step, of the whole training (saves, previews, snapshots and the end included), of the disk at its fullest.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.common import store

ROOT = Path(__file__).parents[1]


def pictures(folder: Path) -> Path:
    """Coloured squares, 32 pixels wide."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (600, 4, 4, 3))
    np.save(folder / "pictures.npy", np.kron(coarse, np.ones((1, 8, 8, 1))).astype(np.uint8))
    return folder / "pictures.npy"


def vectors(folder: Path) -> Path:
    np.save(folder / "vectors.npy", np.random.default_rng(0).normal(size=(4000, 8)).astype(np.float32))
    return folder / "vectors.npy"


def rows(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    columns = rng.normal(size=3000), rng.integers(0, 90, 3000), rng.choice(["x", "y", "z"], 3000)
    lines = [f"{a:.2f},{b},{c}" for a, b, c in zip(*columns, strict=True)]
    (folder / "rows.csv").write_text("\n".join(["height,age,kind", *lines]) + "\n")
    return folder / "rows.csv"


def texts(folder: Path) -> Path:
    """The library's own source."""
    return ROOT / "src" / "sfumato" / "diffusion"


def size(width: int, depth: int = 4) -> list[str]:
    return ["--network.width", str(width), "--network.depth", str(depth)]


TEXT = ["--vocab", "512", "--window", "64"]
KINDS: dict[str, tuple[str, Callable[[Path], Path], list[str], int]] = {
    "pictures": ("images", pictures, [*size(64), "--batch", "16"], 120),
    "pictures, in 4 pieces": ("images", pictures, [*size(96), "--batch", "64", "--accumulate", "4"], 30),
    "pictures, muon, wide": ("images", pictures, [*size(192), "--batch", "16", "--optim.kind", "muon"], 50),
    "vectors": ("images", vectors, ["--batch", "256"], 600),
    "table": ("tables", rows, ["--batch", "256"], 300),
    "text": ("text", texts, [*size(96, 3), *TEXT, "--batch", "16"], 120),
}
"""Name -> field, its data, options, steps."""


def disk(folder: Path) -> int:
    """Bytes of all files in a folder, while it is written to."""
    total = 0
    for file in folder.rglob("*"):
        try:
            total += file.stat().st_size if file.is_file() else 0
        except OSError:
            continue
    return total


def one(name: str) -> dict[str, float]:
    """What was planned and what was taken by a run of this kind."""
    field, data, options, steps = KINDS[name]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        out = folder / "run"
        words = [
            field,
            str(data(folder)),
            *options,
            "--steps",
            str(steps),
            "--threads",
            "1",
            "--previews",
            "2",
            "--out",
            str(out),
        ]
        process = subprocess.Popen(
            [sys.executable, "-m", "sfumato", "train", *words], stderr=subprocess.PIPE, text=True
        )
        most, said = [0], []
        assert process.stderr is not None
        reader = threading.Thread(target=lambda: said.append(process.stderr.read()), daemon=True)  # type: ignore[union-attr]
        reader.start()
        while (ended := os.wait4(process.pid, os.WNOHANG))[0] == 0:
            most[0] = max(most[0], disk(out))
            time.sleep(0.02)
        reader.join()
        _, status, usage = ended
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(said[0][-2000:])
        records = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
        began, ended_at = (out / "config.yaml").stat().st_mtime, (out / "model.safetensors").stat().st_mtime
    steps_of = [(record["step"], record["time"]) for record in records if "loss" in record]
    looks = {record["step"] for record in records if "held_out" in record}
    # windows of ten steps without a preview among them, which takes longer than a step and is counted in the total
    each = [(b - a) / (m - n) for (n, a), (m, b) in pairwise(steps_of) if not looks & set(range(n, m))]
    plan = re.search(r"^cost +([\d.e-]+) s a step, .*, ([\d.]+) GB of memory$", said[0], re.M)
    room = re.search(r"^disk .*?([\d.]+) (kB|MB|GB)(?: while it saves; .*|: (?!.*while).*) free$", said[0], re.M)
    assert plan is not None
    assert room is not None
    return {
        "planned step": float(plan[1]), "step": statistics.median(each),
        "planned memory": float(plan[2]), "memory": usage.ru_maxrss / 1e6,
        "planned total": float(plan[1]) * steps, "total": ended_at - began,
        "planned disk": float(room[1]) * {"kB": 1e-3, "MB": 1.0, "GB": 1e3}[room[2]], "disk": most[0] / 1e6,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    options = parser.parse_args()
    table = Table("run", "memory, GB", "ratio", "a step, s", "ratio", "total, s", "ratio", "disk, MB", "ratio")
    found = {}
    for name in options.kinds:
        found[name] = got = one(name)
        cells = []
        for what, spelt in (("memory", ".2f"), ("step", ".3g"), ("total", ".3g"), ("disk", ".0f")):
            planned, taken = got[f"planned {what}"], got[what]
            cells += [f"{planned:{spelt}} / {taken:{spelt}}", f"{planned / taken:.2f}"]
        table.add_row(name, *cells)
    Console(width=140).print(table)
    store("plan", {"runs": found})


if __name__ == "__main__":
    main()
