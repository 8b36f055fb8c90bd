"""The command: which sections run, in which order and for how long, and the table that is printed last."""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.equality import equality
from benchmarks.gpu.learning import training
from benchmarks.gpu.record import ROOT, Facts, Record, errors
from benchmarks.gpu.speed import FULL, TINY, machine, overhead, streams
from benchmarks.gpu.stepping import step

LIMITS = {"machine": 30, "equality": 90, "overhead": 60, "streams": 25, "step": 150, "training": 200, "tests": 100}
"""Most seconds of each section."""
KEPT = 0.27
"""Share of the budget that the other sections leave to the training."""
ORDER = ("machine", "equality", "tests", "overhead", "streams", "step", "training")


class Child:
    """A process of its own, so that a fault that spoils the device spoils nothing else; it writes to ``log``."""

    def __init__(self, log: Path, *arguments: str):
        path = os.pathsep.join(filter(None, [str(ROOT / "src"), str(ROOT), os.environ.get("PYTHONPATH", "")]))
        self.log, self.began = log, time.monotonic()
        with log.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *arguments], cwd=ROOT, env={**os.environ, "PYTHONPATH": path},
                stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def finish(self, limit: float, facts: Facts) -> str:
        """Wait until ``limit`` seconds after its start, at least for one; its exit status goes into the facts, its output
        comes back."""
        try:
            facts["exit status"] = self.process.wait(max(1.0, limit - (time.monotonic() - self.began)))
        except subprocess.TimeoutExpired:
            facts["error"] = f"it took more than {limit:.0f} s"
        finally:
            self.stop()
        facts["process, seconds"] = round(time.monotonic() - self.began, 1)
        return self.log.read_text(errors="replace")

    def stop(self) -> None:
        """End it if it still runs, and what it started: compilers."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def checks(record: Record, small: bool, names: Sequence[str]) -> dict[str, Child]:
    """The processes of the sections that only check, at once: nothing is timed in them."""
    found = {}
    if "equality" in names:
        more = ["--small"] if small else []
        asked = ["--out", str((record.out / "equality").resolve()), "--sections", "equality", "--seconds", "80", *more]
        found["equality"] = Child(record.out / "equality.txt", "benchmarks.gpu", *asked)
    if "tests" in names:
        plain = ["-v", "--tb=short", "--override-ini", "addopts=", "-p", "no:cacheprovider"]
        found["tests"] = Child(record.out / "tests.txt", "pytest", "tests/gpu", *plain)
    return found


def equal(record: Record, child: Child, facts: Facts) -> None:
    """What the process of the section `equality` found."""
    text = child.finish(LIMITS["equality"], facts)
    stored = record.out / "equality" / "gpu.json"
    facts.update(json.loads(stored.read_text())["equality"] if stored.is_file() else {"error": text[-4000:]})


def tests(child: Child, facts: Facts) -> None:
    """`pytest tests/gpu`: its last line, exit status, and what failed."""
    text = child.finish(LIMITS["tests"], facts)
    found = re.findall(r"^(tests/gpu/\S.*?) (PASSED|FAILED|ERROR|SKIPPED)", text, re.MULTILINE)
    facts["passed"] = sum(result == "PASSED" for _, result in found)
    facts["skipped"] = sum(result == "SKIPPED" for _, result in found)
    facts["failed"] = [name for name, result in found if result in ("FAILED", "ERROR")]
    facts["summary"] = text.strip().splitlines()[-1:] or [""]
    if facts.get("exit status", 0) not in (0, 5):
        facts["output"] = text[-12_000:]
        facts.setdefault("error", f"pytest left with {facts['exit status']}: {facts['summary'][0]}")


def worst(tree: Any, *names: str) -> float:
    """The largest number below ``tree`` (under one of the names, if given); errors are not numbers."""
    if isinstance(tree, dict):
        parts = [v for n, v in tree.items() if isinstance(v, dict) or not names or n in names]
        return max((worst(part, *names) for part in parts), default=0.0)
    return float(tree) if isinstance(tree, float) else 0.0


def line(name: str, facts: Any, *texts: str) -> list[str]:
    """One row of the table: those of the texts whose numbers are there."""
    found = []
    for text in texts:
        try:
            found += [text.format(**facts)] * bool(text.format(**facts))
        except (KeyError, TypeError, ValueError, IndexError, AttributeError):
            continue
    return [f"{name[:42]:<44}" + "  ".join(found)] if found else []


def table(facts: Facts) -> list[str]:
    """The short table: a line for each thing one wants to know first."""
    equal, rows = facts.get("equality", {}), []
    machine_ = "{card}, torch {torch}", "{bf16 TFLOP/s:.0f} TFLOP/s", "{copy GB/s:.0f} GB/s"
    rows += line("machine", facts.get("machine"), *machine_)
    if equal:
        same = equal.get("one step, exact", {})
        rows += line(
            "one step's coefficients",
            {"n": sum(v is True for v in same.values()), "of": len(same)},
            "{n} of {of} exact",
        )
        cases = (("solvers, apart", ()), ("networks", ("answer", "gradient")), ("networks", ("bf16",)), ("walks", ()))
        for part, names in (*cases, ("worlds", ("loss", "gradient", "walk"))):
            rows += line(f"{part} {'/'.join(names)}", {"e": worst(equal.get(part), *names)}, "{e:.1e} apart at worst")
    rows += line("tests", facts.get("tests"), "{summary[0]}")
    over = facts.get("overhead", {})
    for size in ("small", "big"):
        for name, found in over.get(size, {}).items():
            rows += line(f"{size}, {name}", found, "ratio {ratio:.3f}", "{ms a call:.2f} ms a bare call")
    for name, found in over.get("syncs", {}).items():
        rows += line(name, found, "waits {count}")
    for name, found in facts.get("streams", {}).items():
        parts = found.items() if isinstance(found, dict) and "error" not in found else ()
        rows += line(f"streams, {name}", {"t": ", ".join(f"{k} {v['median'] * 1e3:.2f} ms" for k, v in parts)}, "{t}")
    for name, found in facts.get("step", {}).items():
        if isinstance(found, dict):
            for which in ("loop", "plain", "plain, average", "all"):
                rate = "{images per second:.0f} images/s", "{TFLOP/s:.0f} TFLOP/s", "{of_peak:.1%} of peak"
                rows += line(f"{name}: {which}", found.get(which), *rate)
            rows += line(f"{name}: gain", found, "{gain:.2f}", "{seconds to compile:.0f} s to compile")
            for which in ("forward", "walk"):
                rows += line(f"{name}: {which}", found.get(which), "CUDA graph gains {gain:.2f}")
    learned = (
        "{steps} steps, {images per second:.0f} images/s",
        "distance {distance[distance]:.4f}",
        "floor {distance[floor]:.4f}",
    )
    rows += line("training", facts.get("training"), *learned)
    faults = list(errors(facts))
    return [*rows, f"{len(faults)} error(s)", *(f"  {place}: {text[:200]}" for place, text in faults[:60])]


def kept_for(asked: argparse.Namespace) -> float:
    """Seconds that are left to the training, which comes last."""
    return KEPT * float(asked.seconds) if "training" in asked.sections else 0.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the sections; 0 if none of them met an error."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=(__doc__ or "").strip())
    parser.add_argument("--out", type=Path, required=True, help="folder for gpu.json, sheet.png, log.txt")
    parser.add_argument(
        "--seconds", type=float, default=420, help="budget of the whole; sections that come late are cut short"
    )
    parser.add_argument("--sections", nargs="+", choices=ORDER, default=ORDER, help="only these")
    parser.add_argument("--small", action="store_true", help="tiny sizes on the CPU, to try the script")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True, help="measure torch.compile")
    asked = parser.parse_args(arguments)
    if not asked.small and not torch.cuda.is_available():
        parser.error("there is no GPU here: use --small to try the script on the CPU")
    device, sizes = (torch.device("cpu"), TINY) if asked.small else (torch.device("cuda"), FULL)
    record = Record(asked.out, asked.seconds)

    def learn(facts: Facts) -> None:
        training(record, device, sizes, 1.5 if asked.small else min(100.0, record.left() - 40), facts)

    children: dict[str, Child] = {}
    works: dict[str, Callable[[Facts], None]] = {
        "machine": lambda facts: machine(record, device, sizes, facts),
        "equality": lambda facts: equal(record, children["equality"], facts),
        "tests": lambda facts: tests(children["tests"], facts),
        "overhead": lambda facts: overhead(record, device, sizes, facts),
        "streams": lambda facts: streams(record, device, sizes, facts),
        "step": lambda facts: step(record, device, sizes, asked.compile, facts),
        "training": learn,
    }
    alone = list(asked.sections) == ["equality"]
    if alone:
        works["equality"] = lambda facts: equality(record, device, facts)
    try:
        for name in [each for each in ORDER if each in asked.sections]:
            if name in ("equality", "tests") and not alone and not children:
                children.update(checks(record, asked.small, asked.sections))
            kept = 0.0 if name == "training" else kept_for(asked)
            record.section(name, works[name], min(LIMITS[name] + 5, record.left() - kept))
    finally:
        for child in children.values():
            child.stop()
    lines = table(record.facts)
    (asked.out / "table.txt").write_text("\n".join(lines) + "\n")
    print("\n".join(lines), flush=True)
    return 1 if any(errors(record.facts)) else 0


if __name__ == "__main__":
    sys.exit(main())
