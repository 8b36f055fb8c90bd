"""What the library costs beside the bare network: sampling, a training step, start-up.

    python -m benchmarks.overhead

Every figure is a median over repeats of what is timed in turn in one run, because machines are noisy.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from sfumato import networks
from sfumato.data import ArrayDataset, Statistics
from sfumato.diffusion import Denoiser, Gaussian, Linear, LogitNormal, Streams, cosine, key
from sfumato.diffusion.sample import trajectory
from sfumato.training import loop
from sfumato.training.objective import Task
from sfumato.training.optim import OptimOptions
from sfumato.training.options import TrainOptions
from sfumato.training.run import Run

STEPS = 50


def sampling(solver_name: str, eta: float = 0.0, repeats: int = 15) -> dict[str, float | str]:
    """50 steps of `sample` against 50 calls of the same network on the same input. With ``eta`` above 0 (dpmpp_2m only)
    the noise of every step is drawn too, each row's from its own stream.

    Steps and bare calls are taken in turn, one by one: the speed of a call drifts by a factor of two within a minute on a
    shared machine, and whole walks taken in turn gave ratios between 0.92 and 1.12 for one and the same solver.
    """
    from sfumato.diffusion import SOLVERS, dpmpp_2m

    solver = dpmpp_2m(eta) if eta else SOLVERS[solver_name]
    torch.manual_seed(0)
    network = networks.DiT(channels=3, width=128, depth=4, patch=4).eval().requires_grad_(False)
    denoiser = Denoiser(network, Gaussian(Linear(), "data", "velocity"))
    z, level = torch.randn(4, 3, 32, 32), torch.zeros(4)
    times = cosine(Linear(), STEPS)

    rng = Streams(key("overhead"), range(len(z)))
    ratios, calls = [], []
    with torch.no_grad():
        for repeat in range(repeats + 1):
            ours = plain = 0.0
            begin = time.perf_counter()
            walk = trajectory(denoiser, z, times, solver, rng)
            next(walk)  # the noise it starts from
            ours += time.perf_counter() - begin
            for _ in range(STEPS):
                begin = time.perf_counter()
                next(walk)
                middle = time.perf_counter()
                network(z, level)
                end = time.perf_counter()
                ours, plain = ours + middle - begin, plain + end - middle
            if repeat:  # the first round warms up
                ratios.append(ours / plain)
                calls.append(plain / STEPS)
    return {
        "what": f"sample(), {STEPS} steps, {solver_name}" + (f", eta {eta:g}, noise drawn by streams" if eta else ""),
        "against": f"{STEPS} bare calls of {statistics.median(calls) * 1e3:.1f} ms",
        "ratio": statistics.median(ratios),
        "least": min(ratios),
        "most": max(ratios),
    }


def training(repeats: int = 25) -> dict[str, float | str]:
    """A step of the loop against a hand-written forward, backward and optimiser step, taken in turn."""
    shape, batch = (3, 32, 32), 32
    data = np.random.default_rng(0).integers(0, 256, (512, *shape), dtype=np.uint8)
    statistics_ = Statistics.of(data)
    dataset = ArrayDataset(data, statistics_)
    build = lambda: networks.DiT(channels=3, width=192, depth=6, patch=4)  # noqa: E731
    network = build()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, fused=True)
    x, z = torch.randn(batch, *shape), torch.randn(batch, *shape)
    t = torch.rand(batch)

    def by_hand() -> None:
        x_t = (1 - t)[:, None, None, None] * x + t[:, None, None, None] * z
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            answer = network(x_t, torch.log(t / (1 - t)))
        ((answer.float() - (z - x)) ** 2).mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    from sfumato.training.objective import bf16_pays

    bf16 = bf16_pays(torch.device("cpu"))
    ours: list[float] = []
    plain: list[float] = []
    original = loop._steps

    def interleaving(*arguments):  # type: ignore[no-untyped-def]
        """The loop's own source of steps, with a hand-written step in front of each; both are timed."""
        for item in original(*arguments):
            if ours_begin[0]:
                ours.append(time.perf_counter() - ours_begin[0])
            begin = time.perf_counter()
            by_hand()
            plain.append(time.perf_counter() - begin)
            ours_begin[0] = time.perf_counter()
            yield item

    ours_begin = [0.0]
    loop._steps = interleaving  # type: ignore[assignment]
    try:
        with tempfile.TemporaryDirectory() as folder:
            run = Run(Path(folder))
            run.create()
            task = Task(build(), Gaussian(Linear(), "velocity"), dataset, dataset, LogitNormal())
            options = TrainOptions(
                steps=repeats + 3, batch=batch, previews=0, snapshots=0, save_seconds=1e6, optim=OptimOptions(lr=1e-3)
            )
            loop.train(task, run, options)
    finally:
        loop._steps = original  # type: ignore[assignment]
    mine, hand = statistics.median(ours[2:]), statistics.median(plain[2:])
    return {
        "what": "a training step of the loop (data, noise, clipping, two averages, checks)",
        "against": f"hand-written step of {hand * 1e3:.0f} ms",
        "ratio": mine / hand,
    }


def cpu_seconds(code: str, repeats: int = 5) -> float:
    """Least CPU time of a fresh interpreter that runs ``code``."""
    best = float("inf")
    for _ in range(repeats):
        before = os.times()
        subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        after = os.times()
        best = min(best, after.children_user + after.children_system - before.children_user - before.children_system)
    return best


def start_up() -> list[dict[str, float | str]]:
    """`sfumato --help`, and importing the library against importing torch."""
    helps = (
        "import sys\ntry:\n  from sfumato.cli import main; main(['--help'])\nexcept SystemExit: pass\n"
        "assert 'torch' not in sys.modules"
    )
    everything = "from sfumato import Gaussian, Denoiser, sample, networks"
    torch_alone, ours = cpu_seconds("import torch"), cpu_seconds(everything)
    return [
        {"what": "sfumato --help, torch not imported", "against": "CPU seconds", "ratio": cpu_seconds(helps)},
        {
            "what": f"import of the library ({everything})",
            "against": f"import torch, {torch_alone:.2f} s",
            "ratio": ours / torch_alone,
        },
    ]


def main() -> None:
    """Run all and print; results as JSON in benchmarks/results."""
    rows = [*map(sampling, ("euler", "ab2", "ab3", "unipc", "dpmpp_2m")), sampling("dpmpp_2m", 0.5)]
    rows += [training(), *start_up()]
    table = Table("what", "against", "ratio")
    for row in rows:
        table.add_row(str(row["what"]), str(row["against"]), f"{row['ratio']:.3f}")
    Console(width=150).print(table)
    folder = Path(__file__).parent / "results"
    folder.mkdir(exist_ok=True)
    facts = {"threads": torch.get_num_threads(), "torch": torch.__version__, "rows": rows}
    (folder / "overhead.json").write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
