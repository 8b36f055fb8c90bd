"""The command: which sections run, in which order and for how long, and the table that is printed last."""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.equality import equality
from benchmarks.gpu.learning import training
from benchmarks.gpu.record import ROOT, Facts, Record, errors
from benchmarks.gpu.speed import FULL, TINY, machine, overhead, streams
from benchmarks.gpu.stepping import step

LIMITS = {"machine": 30, "equality": 60, "overhead": 60, "streams": 25, "step": 150, "training": 200, "tests": 100}
"""Most seconds of each section."""
KEPT = 0.27
"""Share of the budget that the other sections leave to the training."""
ORDER = ("machine", "equality", "tests", "overhead", "streams", "step", "training")


def tests(record: Record, limit: float, facts: Facts) -> None:
    """`pytest tests/gpu` in a process of its own: its last lines, exit status, and each test with its result."""
    command = [sys.executable, "-m", "pytest", "tests/gpu", "-v", "--tb=short", "--override-ini", "addopts=", "-p", "no:cacheprovider"]
    path = os.pathsep.join(filter(None, [str(ROOT / "src"), str(ROOT), os.environ.get("PYTHONPATH", "")]))
    with (record.out / "tests.txt").open("w+") as file:
        child = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )  # fmt: skip
        try:
            facts["exit status"] = child.wait(limit)
        except subprocess.TimeoutExpired:
            facts["error"] = f"the tests took more than {limit:.0f} s"
        finally:
            if child.poll() is None:  # and what it started: compilers
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        file.seek(0)
        text = file.read()
    found = re.findall(r"^(tests/gpu/\S.*?) (PASSED|FAILED|ERROR|SKIPPED)", text, re.MULTILINE)
    facts["passed"] = sum(result == "PASSED" for _, result in found)
    facts["skipped"] = sum(result == "SKIPPED" for _, result in found)
    facts["failed"] = [name for name, result in found if result in ("FAILED", "ERROR")]
    facts["summary"] = text.strip().splitlines()[-1:] or [""]
    if facts.get("exit status", 0) not in (0, 5):
        facts["output"] = text[-12_000:]
        facts.setdefault("error", f"pytest left with {facts['exit status']}: {facts['summary'][0]}")


def worst(tree: Any, names: Sequence[str] = ()) -> float:
    """The largest number below ``tree`` (under one of the names, if given); errors are not numbers."""
    if isinstance(tree, dict):
        parts = [v for n, v in tree.items() if isinstance(v, dict) or not names or n in names]
        return max((worst(part, names) for part in parts), default=0.0)
    return float(tree) if isinstance(tree, float) else 0.0


def table(facts: Facts) -> list[str]:
    """The short table: a line for each thing one wants to know first."""
    rows: list[str] = []

    def row(name: str, *parts: Callable[[], str]) -> None:
        found = []
        for part in parts:
            try:
                found.append(part())
            except (KeyError, TypeError, ValueError, IndexError, AttributeError):
                continue
        if found:
            rows.append(f"{name:<34}" + "  ".join(found))

    where, equal = facts.get("machine", {}), facts.get("equality", {})
    row("machine", lambda: f"{where['card']}, torch {where['torch']}, {where['bf16 TFLOP/s']:.0f} TFLOP/s, {where['copy GB/s']:.0f} GB/s")
    row("one step's coefficients exact", lambda: str(all(equal["one step, exact"].values())))
    row("solvers' coefficients, apart", lambda: f"{worst(equal['solvers, apart']):.1e}")
    row("networks in fp32 / bf16", lambda: f"{worst(equal['networks'], ('answer', 'gradient')):.1e} / {worst(equal['networks'], ('bf16',)):.1e}")
    row("walks", lambda: f"{worst(equal['walks']):.1e}")
    row("worlds", lambda: f"{worst(equal['worlds'], ('loss', 'gradient', 'walk')):.1e}")
    row("tests", lambda: str(facts["tests"]["summary"][0]))
    for size in ("small", "big"):
        for name, found in facts.get("overhead", {}).get(size, {}).items():
            row(f"{size}, {name}"[:33], lambda: f"ratio {found['ratio']:.3f}", lambda: f"{found['bare']['median'] / found['calls'] * 1e3:.2f} ms a call")  # noqa: B023
    for name, found in facts.get("overhead", {}).get("syncs", {}).items():
        row(name[:33], lambda: f"waits {found['count']}")  # noqa: B023
    for name, found in facts.get("streams", {}).items():
        row(f"streams, {name}", lambda: ", ".join(f"{k} {v['median'] * 1e3:.2f} ms" for k, v in found.items()))  # noqa: B023
    for name, found in facts.get("step", {}).items():
        for which in ("loop", "plain", "plain, average", "all"):
            row(f"{name}: {which}"[:33], lambda: f"{found[which]['images per second']:.0f} images/s {found[which]['TFLOP/s']:.0f} TFLOP/s", lambda: f"{found[which]['of_peak']:.1%} of peak")  # noqa: B023
        row(f"{name}: gain"[:33], lambda: f"{found['gain']:.2f}")  # noqa: B023
        for which in ("forward", "walk"):
            row(f"{name}: {which}"[:33], lambda: f"CUDA graph gains {found[which]['gain']:.2f}")  # noqa: B023
    learned = facts.get("training", {})
    row("training", lambda: f"{learned['steps']} steps, {learned['images per second']:.0f} images/s, loss {learned['loss'][-1][1]}",
        lambda: f"distance {learned['distance']['distance']:.4f}, floor {learned['distance']['floor']:.4f}")  # fmt: skip
    faults = list(errors(facts))
    rows.append(f"{len(faults)} error(s)")
    return rows + [f"  {place}: {text[:200]}" for place, text in faults[:60]]


def kept_for(asked: argparse.Namespace) -> float:
    """Seconds that are left to the training, which comes last."""
    return KEPT * float(asked.seconds) if "training" in asked.sections else 0.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the sections; 0 if none of them met an error."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=(__doc__ or "").strip())
    parser.add_argument("--out", type=Path, required=True, help="folder for gpu.json, sheet.png, log.txt")
    parser.add_argument("--seconds", type=float, default=420, help="budget of the whole; sections that come late are cut short")
    parser.add_argument("--sections", nargs="+", choices=ORDER, default=ORDER, help="only these")
    parser.add_argument("--small", action="store_true", help="tiny sizes on the CPU, to try the script")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True, help="measure torch.compile")
    asked = parser.parse_args(arguments)
    if not asked.small and not torch.cuda.is_available():
        parser.error("there is no GPU here: use --small to try the script on the CPU")
    device, sizes = (torch.device("cpu"), TINY) if asked.small else (torch.device("cuda"), FULL)
    record = Record(asked.out, asked.seconds)

    def learn(facts: Facts) -> None:
        training(record, device, sizes, 3.0 if asked.small else min(100.0, record.left() - 40), facts)

    works: dict[str, Callable[[Facts], None]] = {
        "machine": lambda facts: machine(record, device, sizes, facts),
        "equality": lambda facts: equality(record, device, facts),
        "tests": lambda facts: tests(record, min(LIMITS["tests"], record.left() - kept_for(asked)) - 5, facts),
        "overhead": lambda facts: overhead(record, device, sizes, facts),
        "streams": lambda facts: streams(record, device, sizes, facts),
        "step": lambda facts: step(record, device, sizes, asked.compile, facts),
        "training": learn,
    }
    for name in ORDER:
        if name in asked.sections:
            kept = 0.0 if name == "training" else kept_for(asked)
            record.section(name, works[name], min(LIMITS[name], record.left() - kept))
    lines = table(record.facts)
    (asked.out / "table.txt").write_text("\n".join(lines) + "\n")
    print("\n".join(lines), flush=True)
    return 1 if any(errors(record.facts)) else 0


if __name__ == "__main__":
    sys.exit(main())
