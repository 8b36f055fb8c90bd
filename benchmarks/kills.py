"""A training of several processes under `torchrun`, killed at random places: does it end with the weights of an unbroken one?

    python -m benchmarks.kills                  # 20 kills of one of two processes, in steps and in saves
    python -m benchmarks.kills --shrink         # of two launchers one is killed for good: the other goes on alone

Where a rank is killed is drawn from ``--seed``: in which step, and there before the gradient, before the update, after it, or at
one of the points that a save passes. torchrun starts all ranks again each time; they go on from the newest whole checkpoint.
Afterwards every tensor of the newest checkpoint (weights, averages, optimiser) is compared to the bit with that of a run that
was left alone in the same number of processes; with another number of them sums are rounded otherwise, and the largest
difference is told.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.common import store

ROOT = Path(__file__).parents[1]
STEP = ("before the gradient", "before the update", "after the update")
SAVE = ("after_file:network", "after_file:ema", "after_file:meta", "before_rename", "after_rename", "before_delete")
"""Points of a save, which the first rank makes."""


def places(count: int, steps: int, seed: int) -> list[dict[str, Any]]:
    """Where the k-th start dies: each in a later step than the one before, so that all are reached."""
    drawn = random.Random(seed)
    chosen = sorted(drawn.sample(range(2, steps - 1), count))
    found = []
    for step in chosen:
        point = drawn.choice([*STEP, *SAVE])
        found.append({"step": step, "rank": 0 if point in SAVE else drawn.randrange(2), "point": point})
    return found


# ---- a rank --------------------------------------------------------------------------------------------------------------


def rank(folder: Path, steps: int, deaths: list[dict[str, Any]]) -> None:
    """One process of a training, which kills itself where it is told to."""
    sys.path.insert(0, str(ROOT))
    import torch

    from sfumato.training import loop, whole
    from tests.training.small import made, options, small_task

    torch.set_num_threads(1)
    start, own = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")), int(os.environ["RANK"])
    death = deaths[start] if start < len(deaths) else None
    now = [0]

    def at(point: str) -> None:
        # a save is of the step before; it may be made beside the next one
        if death and death["rank"] == own and death["point"] == point and now[0] >= death["step"]:
            with (folder.parent / f"{folder.name}.jsonl").open("a") as file:
                file.write(
                    json.dumps({"start": start, "step": now[0], **{k: death[k] for k in ("rank", "point")}}) + "\n"
                )
            os.kill(os.getpid(), signal.SIGKILL)

    pieces, update = loop._pieces, loop._update

    def worked_out(state: Any, module: Any, step: int, *rest: Any) -> Any:
        now[0] = step
        at(STEP[0])
        found = pieces(state, module, step, *rest)
        at(STEP[1])
        return found

    def updated(*rest: Any) -> None:
        update(*rest)
        at(STEP[2])

    loop._pieces, loop._update, whole.reached = worked_out, updated, at
    loop.train(small_task(), made(folder), options(steps=steps))
    sys.stderr.flush()
    os._exit(0)  # as the command does, whatever threads of others still do


def words(folder: Path, steps: int, deaths: list[dict[str, Any]]) -> list[str]:
    return ["-m", "benchmarks.kills", "--rank", str(folder), "--steps", str(steps), "--deaths", json.dumps(deaths)]


def launched(extra: list[str], rest: list[str], log: Path) -> subprocess.Popen[bytes]:
    """torchrun with these words of its own, before those of the training."""
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "TORCHELASTIC_ERROR_FILE": ""}
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", *extra, *rest], stderr=file, stdout=file, env=environment,
            cwd=ROOT, start_new_session=True,
        )  # fmt: skip


# ---- what comes of it ----------------------------------------------------------------------------------------------------


def tensors(folder: Path) -> dict[str, Any]:
    """All of the newest checkpoint, and its step."""
    import torch

    from sfumato.training import checkpoint

    path, _ = checkpoint.newest(folder / "checkpoints")
    assert path is not None, f"{folder}: no checkpoint"
    found = checkpoint.load(path)
    every = {f"{group}/{name}": value for group, named in found.tensors.items() for name, value in named.items()}
    return {**every, "step": torch.tensor(found.step)}


def apart(a: Path, b: Path) -> dict[str, Any]:
    """Tensors that differ in a bit, and the largest difference relative to the tensor's largest number."""
    import torch

    one, two = tensors(a), tensors(b)
    assert one.keys() == two.keys()
    differ = [name for name in one if not torch.equal(one[name], two[name])]
    most = 0.0
    for name in differ:
        size = float(one[name].double().abs().max())
        most = max(most, float((one[name].double() - two[name].double()).abs().max()) / max(size, 1e-30))
    return {"tensors": len(one), "differ": len(differ), "most": most, "steps": [int(one["step"]), int(two["step"])]}


def killed(count: int, steps: int, seed: int, folder: Path) -> dict[str, Any]:
    """``count`` kills in one training of two processes, beside one without."""
    deaths = places(count, steps, seed)
    seconds = []
    for name, own in (("straight", []), ("killed", deaths)):
        begin = time.monotonic()
        launcher = ["--standalone", "--nproc-per-node=2", f"--max-restarts={count}"]
        code = launched(launcher, words(folder / name, steps, own), folder / f"{name}.log").wait()
        assert code == 0, (folder / f"{name}.log").read_text()[-3000:]
        seconds.append(time.monotonic() - begin)
    lines = (folder / "killed.jsonl").read_text().splitlines()
    met = [json.loads(line) for line in lines]
    said = (folder / "killed.log").read_text(errors="replace")
    resumed = [
        int(line.split("going on after step ")[1].split()[0])
        for line in said.splitlines()
        if "going on after step " in line
    ]
    lost = [death["step"] - after for death, after in zip(met, resumed)]
    return {
        "kills": len(met), "asked": count, "of steps": steps, "seed": seed, "places": met, "steps lost": lost, "seconds": seconds,
        **apart(folder / "straight", folder / "killed"),
    }  # fmt: skip


def shrunk(steps: int, folder: Path) -> dict[str, Any]:
    """Two launchers of a process each; the second dies with its process, and the first goes on with the whole global batch."""
    for world, name in enumerate(("one", "two"), 1):
        launcher = ["--standalone", f"--nproc-per-node={world}"]
        code = launched(launcher, words(folder / name, steps, []), folder / f"{name}.log").wait()
        assert code == 0, (folder / f"{name}.log").read_text()[-3000:]
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    conf = "last_call_timeout=5,keep_alive_interval=2,keep_alive_max_attempt=3"
    launcher = [
        "--nnodes=1:2", "--nproc-per-node=1", "--max-restarts=5", "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}",
        f"--rdzv-conf={conf}", "--rdzv-id=shrink", "--local-addr=127.0.0.1",
    ]  # fmt: skip
    # slowly, so that there is something left to do when the second one is gone
    rest = [*words(folder / "shrunk", steps, []), "--wait", "0.2"]
    first = launched(launcher, rest, folder / "first.log")
    time.sleep(3)  # its store must be there
    second = launched(launcher, rest, folder / "second.log")
    mark = folder / "shrunk" / "checkpoints" / f"step-{steps // 4:08d}"
    give_up = time.monotonic() + 300
    while not mark.exists() and first.poll() is None:
        assert time.monotonic() < give_up, (folder / "first.log").read_text()[-3000:]
        time.sleep(0.02)
    own = children(second.pid)  # they have sessions of their own
    os.killpg(second.pid, signal.SIGKILL)
    for child in own:
        os.kill(child, signal.SIGKILL)
    second.wait()
    code = first.wait(timeout=600)
    said = (folder / "first.log").read_text(errors="replace")
    assert code == 0, said[-3000:]
    worlds = [line.split("world ")[1] for line in said.splitlines() if line.startswith("rank 0 of world ")]
    at = [line for line in said.splitlines() if "going on after step" in line]
    return {
        "worlds": worlds, "said": at, "shrunk from one": apart(folder / "one", folder / "shrunk"),
        "two from one": apart(folder / "one", folder / "two"),
    }  # fmt: skip


def children(pid: int) -> list[int]:
    """Processes whose parent was this one, in sessions of their own."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text()
        except OSError:
            continue
        if int(text.rpartition(")")[2].split()[1]) == pid:
            found.append(int(stat.parent.name))
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shrink", action="store_true")
    parser.add_argument("--rank", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--deaths", default="[]", help=argparse.SUPPRESS)
    parser.add_argument("--wait", type=float, default=0.0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank is not None:
        if options.wait:
            slowly(options.wait)
        rank(options.rank, options.steps, json.loads(options.deaths))
    with tempfile.TemporaryDirectory() as folder:
        if options.shrink:
            found, name = shrunk(options.steps, Path(folder)), "kills_shrink"
        else:
            found, name = killed(options.kills, options.steps, options.seed, Path(folder)), "kills"
    print(json.dumps(found, indent=1))
    store(name, found)


def slowly(seconds: float) -> None:
    """So long a wait in each step; and rank 0 says how many they are."""
    from sfumato.training import loop

    draw = loop._draw
    if os.environ["RANK"] == "0":
        print(f"rank 0 of world {os.environ['WORLD_SIZE']}", flush=True)

    def slow(*rest: Any) -> Any:
        time.sleep(seconds)
        return draw(*rest)

    loop._draw = slow


if __name__ == "__main__":
    main()
