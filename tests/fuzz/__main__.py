"""`python -m tests.fuzz --number 20000 --seed 0`: one thread; ends with status 1 where anything is wrong."""

from __future__ import annotations

import argparse
import time
from collections import Counter
from pathlib import Path

from tests.fuzz.watch import watched, work


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--number", type=int, default=20000, help="damaged files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first file: go on from there")
    parser.add_argument("--only", type=int, nargs="+", help="these files alone, with what they raise")
    parser.add_argument("--kind", default="", help="kinds whose name holds this (numbers then mean other files)")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work is not None:
        work(given.seed, given.work, given.kind)
        return 0
    numbers = given.only or range(given.first, given.first + given.number)
    faults: Counter[str] = Counter()
    done: Counter[str] = Counter()
    read, slowest, largest, began, kinds = 0, (0.0, 0), (0.0, 0), time.monotonic(), {}
    for found in watched(numbers, given.seed, given.kind):
        done[found["kind"]] += 1
        slowest, largest = max(slowest, (found["cpu"], found["number"])), max(largest, (found["mb"], found["number"]))
        kinds[found["kind"]] = kinds.get(found["kind"], 0.0) + found["cpu"]
        read += not found["said"]
        if found["fault"] or given.only:
            again = f"--seed {given.seed} --only {found['number']}" + (f" --kind '{given.kind}'" if given.kind else "")
            told = found["fault"] or "as it should"
            print(f"{found['kind']} {found['file']}: {told}: {found['said'][:300]}  [{again}]", flush=True)
            if given.only:
                print(found["trace"])
        if found["fault"]:
            last = (found["trace"].strip().splitlines() or [""])[-1][:100]
            faults[f"{found['kind']}: {found['fault']}: {last}"] += 1
        if sum(done.values()) % 1000 == 0:
            spent = time.monotonic() - began
            print(f"-- {sum(done.values())} files, {sum(faults.values())} faults, {spent:.0f} s", flush=True)
    for words, count in faults.most_common():
        print(f"{count:5d}  {words}")
    total = sum(done.values())
    print(
        f"{total} files of {len(done)} kinds: {read} read, {total - read - sum(faults.values())} refused in a line, "
        f"{sum(faults.values())} faults; slowest {slowest[0]:.1f} s CPU (number {slowest[1]}), "
        f"most memory {largest[0]:.0f} MB (number {largest[1]})"
    )
    most = sorted(kinds.items(), key=lambda pair: -pair[1])[:12]
    print("CPU seconds: " + ", ".join(f"{name} {seconds:.0f} ({done[name]})" for name, seconds in most))
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
