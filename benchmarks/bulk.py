"""Sets in bundles, measured: are they exact whoever draws them and whoever is killed, how much is drawn twice, how fast are two?

    python -m benchmarks.bulk listing            # a thousand to a million numbers listed, half of them drawn: memory
    python -m benchmarks.bulk kills              # 10,000 samples, processes killed at random: bits, batches drawn twice
    python -m benchmarks.bulk pace               # samples a second of one process and of two, in turn
    python -m benchmarks.bulk ray --python PY    # the same set by Ray Data, with the Python of an environment that has it

The run is made at the start: pictures of random blocks, a DiT with hardly any training, for bits and seconds know nothing of how
good it is. Processes are counted on by a line that each writes as it begins a batch (`BEGUN`), not by what the command says.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
BEGUN = "SFUMATO_BENCH_BEGUN"
COMMAND = '''
"""The command, in which every process that draws says so. A spawned process runs this file's top, too."""
import os, sys, time

def planted():
    from sfumato.jobs.recipe import Recipe
    draw = Recipe.draw

    def noted(self, model, queries, numbers):
        with open(os.environ["SFUMATO_BENCH_BEGUN"], "a") as file:
            file.write(f"{list(numbers)[0]} {os.getpid()} {time.monotonic():.4f} {time.process_time():.4f}\\n")
        return draw(self, model, queries, numbers)

    Recipe.draw = noted

planted()
if __name__ == "__main__":
    from sfumato.cli import command
    command()
'''


def run_of(folder: Path, width: int, depth: int, side: int) -> Path:
    """A run whose network has this size."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (64, 3, 4, 4))
    np.save(folder / "photos.npy", np.kron(coarse, np.ones((1, 1, side // 4, side // 4))).astype(np.uint8))
    words = ["train", folder / "photos.npy", "--network.kind", "dit", "--network.width", width, "--network.depth", depth,
             "--steps", 3, "--batch", 8, "--previews", 0, "--snapshots", 0, "--threads", 1, "--out", folder / "run"]  # fmt: skip
    called([sys.executable, "-m", "sfumato", *words])
    return folder / "run"


def environment(begun: Path | None = None) -> dict[str, str]:
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    own = {} if begun is None else {BEGUN: str(begun)}
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", **own}


def called(words: list[Any], begun: Path | None = None, codes: tuple[int, ...] = (0,)) -> str:
    done = subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, env=environment(begun), cwd=ROOT
    )
    assert done.returncode in codes, done.stderr[-3000:]
    return done.stderr


def sums(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a set."""
    every = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in every}


def begun_in(file: Path) -> list[tuple[int, int, float, float]]:
    """First number, process, time and CPU seconds of that process, of every batch that was begun."""
    found = []
    for line in file.read_text().splitlines():
        number, pid, at, spent = line.split()
        found.append((int(number), int(pid), float(at), float(spent)))
    return found


# ---- listing -------------------------------------------------------------------------------------------------------------


def listing(folder: Path, most: int) -> dict[str, Any]:
    """How much a process grows by listing, and its peak with all that it has loaded, MB."""
    rows = []
    for total in (1000, 100_000, most):
        words = [sys.executable, "-m", "benchmarks.bulk", "list", "--total", total, "--folder", folder / str(total)]
        done = subprocess.run(
            [str(word) for word in words], capture_output=True, text=True, env=environment(), cwd=ROOT
        )
        assert done.returncode == 0, done.stderr[-3000:]
        rows.append(json.loads(done.stdout))
    return {"listing": rows}


def listed(total: int, folder: Path) -> dict[str, Any]:
    """All rows, what is missing, and what is left of a set of which every second bundle is in the ledger."""
    import torch

    from sfumato.diffusion import Blanks
    from sfumato.jobs.bulk import LEDGER, Bulk, Share, summed
    from sfumato.jobs.making import Making
    from sfumato.jobs.walk import Drawing, Walk

    making = Making("run", "0" * 16, 0)
    of = Bulk(folder, Path("run"), Walk(), Drawing(), "usual", None, total, total, 1000, making, ".tar")
    (folder / LEDGER).mkdir(parents=True)
    for k in range(0, len(of), 2):
        bundle = of.bundle(k)
        of.file(bundle).write_bytes(b"of no matter here")
        told = {
            "first": bundle.first,
            "stop": bundle.stop,
            "file": of.file(bundle).name,
            "bytes": 17,
            "calls": [20] * len(bundle),
        }
        of.record(bundle).write_text(json.dumps({**told, "sha256": summed(of.file(bundle))}))
    queries = Blanks(torch.zeros(3, 32, 32), total)

    def walk() -> tuple[int, int, int]:
        return sum(1 for _ in of.rows(queries)), sum(1 for _ in of.missing()), len(list(of.left(Share())))

    list(zip(of.rows(queries), range(1000)))  # what is loaded at the first call is not what grows
    before, begin = resident(), time.process_time()
    counts = walk()
    grown, seconds = resident() - before, time.process_time() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return {
        "numbers": total,
        "rows, missing, bundles left": counts,
        "grown": grown,
        "peak": peak,
        "seconds": seconds,
    }


def resident() -> float:
    """MB that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6


# ---- kills ---------------------------------------------------------------------------------------------------------------


def kills(run: Path, folder: Path, n: int, size: int, steps: int, seed: int, every: float) -> dict[str, Any]:
    """A set drawn by two processes that are killed at random, and now and then with the one that began them; beside one by one
    process that nobody disturbs."""
    script = folder / "command.py"
    script.write_text(COMMAND)
    how = ["sample", run, "-n", n, "--steps", steps, "--precision", "fp32", "--bundle", size]
    begin = time.monotonic()
    called([sys.executable, script, *how, "--out", folder / "straight"], folder / "straight.txt")
    alone = time.monotonic() - begin
    drawn, told, met = random.Random(seed), Counter[str](), 0
    said = []
    while True:
        words = [sys.executable, script, *how, "--workers", 2, "--out", folder / "killed"]
        process = subprocess.Popen([str(word) for word in words], stderr=subprocess.PIPE, text=True,
                                   env=environment(folder / "killed.txt"), cwd=ROOT)  # fmt: skip
        while process.poll() is None:
            met += 1 + int(drawn.expovariate(1 / every))  # by batches, not by the clock: the machine may be slow
            while process.poll() is None and lines(folder / "killed.txt") < met:
                time.sleep(0.002)
            time.sleep(0.03 * drawn.random())
            if told["whole jobs"] < 3 and told["processes"] >= 4 * (told["whole jobs"] + 1) and drawn.random() < 0.5:
                process.kill()
                told["whole jobs"] += 1
            elif own := workers(process.pid):
                at_work = [
                    pid for _, pid, *_ in begun_in(folder / "killed.txt")[-1:] if pid in own
                ]  # not one that still loads
                os.kill((at_work or own)[0], signal.SIGKILL)
                told["processes"] += 1
        err = process.communicate()[1]
        said += [line for line in err.splitlines() if "died" in line]
        met = lines(folder / "killed.txt")
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, err[-3000:]
    counts = Counter(number for number, *_ in begun_in(folder / "killed.txt"))
    again = sum(count - 1 for count in counts.values())
    one, two = sums(folder / "straight"), sums(folder / "killed")
    ledger = (folder / "killed" / "ledger.csv").read_text().splitlines()[1:]
    return {
        "samples": n, "bundle": size, "steps": steps, "seed": seed, "kills of processes": told["processes"],
        "kills of the whole job": told["whole jobs"], "batches": len(counts), "batches begun again": again,
        "equal files": sum(one[name] == two.get(name) for name in one), "files": len(one),
        "more files": len(two.keys() - one.keys()),
        "numbers in the ledger": len({line.split(",")[0] for line in ledger}), "lines of the ledger": len(ledger),
        "said": said, "seconds alone": alone,
    }  # fmt: skip


def lines(file: Path) -> int:
    return file.read_bytes().count(b"\n") if file.is_file() else 0


def workers(pid: int) -> list[int]:
    """The processes that draw of a command."""
    try:
        every = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [int(each) for each in every if "spawn_main" in Path(f"/proc/{each}/cmdline").read_text()]
    except OSError:
        return []


# ---- pace ----------------------------------------------------------------------------------------------------------------


def pace(run: Path, folder: Path, n: int, steps: int, repeats: int) -> dict[str, Any]:
    """Samples a second, from when all processes are at work to when the first has nothing left to do; in turn. On a machine that
    is shared the same by CPU seconds: what each process draws in one, summed, is what it would draw with a core to itself."""
    script = folder / "command.py"
    script.write_text(COMMAND)
    rates: dict[str, list[float]] = {"one": [], "two": [], "one by CPU": [], "two by CPU": []}
    loads = []
    for turn in range(repeats):
        for count in (1, 2) if turn % 2 == 0 else (2, 1):
            out, noted = folder / f"{turn}-{count}", folder / f"{turn}-{count}.txt"
            words = [
                "sample",
                run,
                "-n",
                n,
                "--steps",
                steps,
                "--precision",
                "fp32",
                "--bundle",
                64,
                "--workers",
                count,
            ]
            loads.append(os.getloadavg()[0])
            called([sys.executable, script, *words, "--out", out], noted)
            name, begun = ("one", "two")[count - 1], begun_in(noted)
            own = {
                by: [(at, spent) for _, pid, at, spent in begun if pid == by] for by in {pid for _, pid, _, _ in begun}
            }
            first, last = max(sorted(each)[1][0] for each in own.values()), min(max(each)[0] for each in own.values())
            rates[name].append(16 * sum(first <= at < last for *_, at, _ in begun) / (last - first))
            by_cpu = (16 * (len(each) - 2) / (max(each)[1] - sorted(each)[1][1]) for each in own.values())
            rates[f"{name} by CPU"].append(sum(by_cpu))
    found: dict[str, Any] = {"samples": n, "steps": steps, "load before each": loads, **rates}
    for how in ("", " by CPU"):
        ratios = [two / one for one, two in zip(rates[f"one{how}"], rates[f"two{how}"], strict=True)]
        found[f"two over one{how}"] = {"median": statistics.median(ratios), "all": ratios}
    return found


# ---- Ray -----------------------------------------------------------------------------------------------------------------


def ray(run: Path, folder: Path, n: int, steps: int, python: str) -> dict[str, Any]:
    """The same set by Ray's actors, by one process of the same environment, and by one of this."""
    how = ["-m", "sfumato", "sample", run, "-n", n, "--steps", steps, "--precision", "fp32", "--bundle", 160]
    said = called([python, *how, "--ray", "--workers", 2, "--out", folder / "ray"])
    called([python, *how, "--out", folder / "there"])
    called([sys.executable, *how, "--out", folder / "here"])
    by, there, here = (sums(folder / name) for name in ("ray", "there", "here"))
    return {
        "samples": n, "files": len(by), "equal to one process": by == there,
        "equal to this environment": by == here, "said": said.splitlines()[-3:],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("listing", "kills", "pace", "ray", "list"))
    parser.add_argument("--n", type=int)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=float, default=40.0, help="mean batches between kills")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--total", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.what == "list":
        print(json.dumps(listed(options.total, options.folder)))
        return
    from benchmarks.common import store

    with tempfile.TemporaryDirectory() as room:
        folder = Path(room)
        if options.what == "listing":
            found = listing(folder, options.total)
        elif options.what == "kills":
            run = run_of(folder, 32, 2, 8)
            found = kills(run, folder, options.n or 10_000, 992, options.steps or 2, options.seed, options.every)
        elif options.what == "pace":
            run = run_of(folder, 192, 6, 32)
            found = pace(run, folder, options.n or 512, options.steps or 4, options.repeats)
        else:
            run = run_of(folder, 32, 2, 8)
            found = ray(run, folder, options.n or 1000, options.steps or 4, options.python)
    print(json.dumps(found, indent=1))
    store(f"bulk_{options.what}", found)


if __name__ == "__main__":
    main()
