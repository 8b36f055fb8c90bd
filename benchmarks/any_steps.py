"""One model, any number of steps: base model, flow maps of three losses, consistency, from 1 to 1000 steps.

    python -m benchmarks.any_steps board      2-D checkerboard, three seeds, about 15 minutes on 2 cores
    python -m benchmarks.any_steps pictures   the demo's pictures, three seeds, about 2 hours on 2 cores

Runs of pictures are kept in --folder and taken up again where they were. Results: benchmarks/results/any_steps_*.json,
plots in docs/. Every model of a seed starts from the same noises.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sfumato.adapting.flow_map import Conversion, FlowMap, Leap
from sfumato.adapting.tolerance import LeapWithin
from sfumato.diffusion import AdaptiveSolver, Denoiser, Gaussian, Linear, euler, loss, uniform
from sfumato.diffusion.sample import sample, trajectory, walk
from sfumato.jobs.config import read_config
from sfumato.jobs.distill import distill
from sfumato.jobs.model import load, task_of
from sfumato.jobs.train import resume, train
from sfumato.jobs.walk import Drawing, Walk
from sfumato.networks import MLP

STEPS = (1, 2, 4, 8, 16, 64, 256, 1000)
KINDS = ("lagrangian", "semigroup", "mean_flow", "consistency")
PASSES = {"lagrangian": 5.5, "semigroup": 6, "mean_flow": 6, "consistency": 6}
"""Network passes of a conversion step per sample, backward passes counted twice; a plain step has 3. Steps are chosen by
these, since a busy machine measures seconds badly; the seconds that they took are reported."""
RESULTS, DOCS = Path(__file__).parent / "results", Path(__file__).parents[1] / "docs"
TOLERANCES = (0.3, 0.1, 0.05, 0.02)


def walked(name: str) -> tuple[int, ...]:
    """Numbers of steps that are tried: all, but for the variant that renews all noise."""
    return STEPS[:5] if "gamma 1" in name else STEPS


# ---- checkerboard -----------------------------------------------------------------------------------------------------

SIDE, BINS, COUNT, MANY = 1.7, 24, 4000, 40_000


def board(count: int, generator: torch.Generator) -> Tensor:
    """Points (count, 2), uniform on the black squares of a 4 x 4 board over [-SIDE, SIDE]^2 (about unit variance)."""
    column = torch.randint(0, 4, (count,), generator=generator)
    row = 2 * torch.randint(0, 2, (count,), generator=generator) + column % 2
    corner = torch.stack([column, row], 1)
    return ((corner + torch.rand(count, 2, generator=generator)) / 4 * 2 - 1) * SIDE


def divergence(x: Tensor) -> float:
    """KL divergence, nats, of the board from a histogram of x over it, one more count in each bin."""
    edges = torch.linspace(-SIDE, SIDE, BINS + 1)
    histogram = torch.histogramdd(x.double().clamp(-SIDE, SIDE), [edges.double()] * 2).hist + 1
    found = histogram / histogram.sum()
    cell = torch.arange(BINS) * 4 // BINS
    black = (cell[:, None] + cell[None]) % 2 == 0
    true = black / black.sum()
    return float((true[black] * (true[black] / found[black]).log()).sum())


def fit(
    network: MLP, losses: Callable[[MLP, Tensor, Tensor], Tensor], steps: int, lr: float, seed: int
) -> tuple[MLP, float]:
    """Train and return the averaged network, and the CPU seconds it took. losses(network, x, uniform numbers) -> (B,)."""
    begin, generator = time.process_time(), torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    average = copy.deepcopy(network)
    optimizer = torch.optim.AdamW(network.parameters(), lr=lr, weight_decay=0.0, fused=True)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1, (step + 1) / 100, (steps - step) / (0.4 * steps))
        value = losses(network, board(256, generator), torch.rand(256, generator=generator)).mean()
        optimizer.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():  # the power-function average of width 0.05
            for mean, now in zip(average.parameters(), network.parameters(), strict=True):
                mean.lerp_(now, 1 - (1 - 1 / (step + 1)) ** 17)
    return average.eval().requires_grad_(False), time.process_time() - begin


@torch.no_grad()
def checkerboard(seed: int, teacher_steps: int, steps: int) -> dict[str, Any]:
    """Curves (name -> divergence at each of STEPS), CPU seconds, and what each tolerance gives."""
    process = Gaussian(Linear(), "velocity")
    torch.manual_seed(seed)
    with torch.enable_grad():
        base, seconds = fit(
            MLP(dim=2, width=128, depth=4), lambda n, x, u: loss(Denoiser(n, process), x, u), teacher_steps, 1e-3, seed
        )
    teacher = Denoiser(base, process)
    found: dict[str, Any] = {"seconds": {"base": seconds}, "curves": {}, "tolerance": {}}
    z = torch.randn(COUNT, 2, generator=torch.Generator().manual_seed(1000 + seed))

    def curve(name: str, denoiser: Any, solver: Any) -> None:
        rng = torch.Generator().manual_seed(seed)
        found["curves"][name] = [
            divergence(sample(denoiser, z, uniform(Linear(), n), solver, rng)) for n in walked(name)
        ]
        print(f"seed {seed}  {name:22s}", " ".join(f"{value:.3f}" for value in found["curves"][name]), flush=True)

    def by_tolerance(denoiser: Any, solver: Callable[[float], Any], fixed: Any) -> list[dict[str, float]]:
        # of a map, differences of a hundredth of a nat, which are noise with 4000 points
        count = MANY if isinstance(denoiser, FlowMap) else COUNT
        rows, many = [], torch.randn(count, 2, generator=torch.Generator().manual_seed(3000 + seed))
        for tol in TOLERANCES:
            *_, (x, calls) = walk(denoiser, many, uniform(Linear(), 1), solver(tol))
            mean = float(calls.double().mean())
            same = sample(denoiser, many, uniform(Linear(), max(1, round(mean))), fixed)
            rows.append({"tol": tol, "calls": mean, "kl": divergence(x), "kl_fixed": divergence(same)})
        return rows

    curve("base, Euler", teacher, euler())
    found["tolerance"]["base, adaptive"] = by_tolerance(teacher, lambda tol: AdaptiveSolver(tol, tol), euler())
    for kind in KINDS:
        conversion = Conversion(teacher, kind)  # type: ignore[arg-type]
        with torch.enable_grad():
            network, took = fit(
                copy.deepcopy(base).train().requires_grad_(True),
                lambda n, x, u, c=conversion: c(FlowMap(n, process), x, u),
                steps, 1e-3, seed,
            )  # fmt: skip
        flow_map = FlowMap(network, process)
        found["seconds"][kind] = took
        gamma = 1.0 if kind == "consistency" else 0.0
        curve(kind, flow_map, Leap(gamma))
        if kind == "lagrangian":
            curve("lagrangian, gamma 1", flow_map, Leap(1.0))
            found["tolerance"]["lagrangian"] = by_tolerance(flow_map, LeapWithin, Leap())
            found["paths"] = paths(teacher, flow_map, z[:12])
    found["floor"] = divergence(board(COUNT, torch.Generator().manual_seed(2000 + seed)))
    return found


def paths(teacher: Any, flow_map: Any, z: Tensor) -> dict[str, Any]:
    """States on the way of a few samples: the base model's fine walk, and the map's stops in 1, 2 and 4 steps."""
    states = {f"map, {n}": list(trajectory(flow_map, z, uniform(Linear(), n), Leap())) for n in (1, 2, 4)}
    states["base, 256"] = list(trajectory(teacher, z, uniform(Linear(), 256), euler()))[::4]
    return {name: torch.stack(walked).tolist() for name, walked in states.items()}


# ---- pictures ---------------------------------------------------------------------------------------------------------


def pictures(
    seed: int, folder: Path, count: int, few: int, teacher_steps: int, cost: float, kinds: tuple[str, ...], old: Any
) -> dict[str, Any]:
    """The same for the demo's pictures: kernel distance to the training pictures at w = 1. Of kinds not asked for, and of
    the base model where not all are, the figures are those of ``old``, an earlier result."""
    from sfumato.fields.captions.openmoji import draw
    from sfumato.fields.images.measure import features_for
    from sfumato.fields.images.recipe import Images
    from sfumato.jobs.adapt import DistillOptions
    from sfumato.jobs.evaluate import stacked
    from sfumato.metrics.table import interval, kernel_distances
    from sfumato.training.options import TrainOptions
    from sfumato.training.run import Run

    data = folder / "pictures"
    if not data.is_dir():
        draw(data, 64)
    options = TrainOptions(
        steps=teacher_steps, batch=16, seed=seed, previews=1, snapshots=0, threads=torch.get_num_threads()
    )

    def finished(out: Path, start: Callable[[], object]) -> float:
        """Train, or go on with, a run; CPU seconds of its training."""
        if not (out / "model.safetensors").is_file():
            begin = time.process_time()
            if (out / "config.yaml").is_file():
                resume(out)
            else:
                start()
            with (out / "cpu_seconds").open("a") as file:
                file.write(f"{time.process_time() - begin}\n")
        stored = out / "cpu_seconds"
        return sum(map(float, stored.read_text().split())) if stored.is_file() else float("nan")

    teacher = folder / f"teacher-{seed}"
    found: dict[str, Any] = {"curves": {}, "intervals": {}, "sampling": {}, "worse": {}, "tolerance": {}}
    found["seconds"] = {
        "base": finished(teacher, lambda: train(Images(data, side=32, labels=True, held_out=0.2), options, teacher))
    }
    for kind in kinds:
        out = folder / f"{kind}-{seed}"
        chosen = DistillOptions(kind=kind, cost=cost, w=(1.0, 1.0))  # type: ignore[arg-type]
        steps = int(teacher_steps * cost * 3 / PASSES[kind]) // 10 * 10
        new = dataclasses.replace(options, steps=steps, batch=None)
        found["seconds"][kind] = finished(out, lambda c=chosen, o=out, n=new: distill(teacher, c, n, o))

    found["cost"] = {kind: step_cost(folder / f"{kind}-{seed}", teacher_steps) for kind in kinds}
    run = Run(teacher)
    data_of = read_config(run).recipe.open(run)
    real = stacked(data_of.train)
    features = features_for(real)
    known = features(real)
    held_out = stacked(data_of.held_out)
    found["floor"] = float(kernel_distances([features(held_out)], known)[0])

    def drawn(out: Path, n: int, **asked: Any) -> tuple[Tensor, float, list[int]]:
        """Features of n samples, CPU seconds a sample, and the calls of each where they are counted."""
        begin = time.process_time()
        model = load(out, Walk(w=1.0, batch=min(52, n), **asked), Drawing(seed=7))
        parts = list(model.draw(model.recipe.queries(model, model.recipe.Ask(), n), range(n)))
        calls = [count for part in parts if "calls" in part.scores for count in part.scores["calls"].tolist()]
        return features(torch.cat([part.x for part in parts])), (time.process_time() - begin) / n, calls

    plain = {"solver": "euler", "eta": 0.0}
    curves: dict[str, tuple[Path, dict[str, Any]]] = {"base, Euler": (teacher, plain)} if old is None else {}
    for kind in kinds:
        curves[kind] = (folder / f"{kind}-{seed}", {"solver": "leap:gamma=1" if kind == "consistency" else "leap"})
    if "lagrangian" in kinds:
        curves["lagrangian, gamma 1"] = (folder / f"lagrangian-{seed}", {"solver": "leap:gamma=1"})
    for name, (out, how) in curves.items():
        most = walked(name)
        made = [drawn(out, count if n <= 64 else few, steps=n, **how) for n in most]
        found["sampling"][name] = [seconds for _, seconds, _ in made]
        values, ends = [], []
        for n, (x, _, _) in zip(most, made, strict=True):
            whole, parts = kernel_distances([x], known)
            values.append(float(whole))
            ends.append(interval(float(whole), parts[:, 0], len(x)))
            print(
                f"seed {seed}  {name:22s} {n:5d} steps  {values[-1]:.3f} [{ends[-1][0]:.3f}, {ends[-1][1]:.3f}]",
                flush=True,
            )
        found["curves"][name], found["intervals"][name] = values, ends
        # how much worse than the best so far, from 4 steps up, on the same noises: value and 90 % interval
        worse = []
        for i in range(3, len(most)):
            n = min(len(x) for x, _, _ in made[2 : i + 1])
            whole, parts = kernel_distances([x[:n] for x, _, _ in made[2 : i + 1]], known)
            best = int(whole[:-1].argmin())
            gap = float(whole[-1] - whole[best])
            worse.append((most[i], gap, *interval(gap, parts[:, -1] - parts[:, best], n)))
        found["worse"][name] = worse
    for part in () if old is None else ("curves", "intervals", "sampling", "worse", "seconds", "cost"):
        found[part] = {name: found[part].get(name, value) for name, value in old[part].items()}
    if "lagrangian" not in kinds:
        return {
            **old,
            **{part: found[part] for part in ("curves", "intervals", "sampling", "worse", "seconds", "cost")},
        }
    # the default map against the teacher's 50 steps on the same noises: ratio, difference and its 90 % interval
    reference, took, _ = drawn(teacher, 2 * count, steps=50, **plain)
    whole, parts = kernel_distances([reference], known)
    found["teacher 50"] = {
        "value": float(whole), "interval": interval(float(whole), parts[:, 0], len(reference)), "seconds": took,
    }  # fmt: skip
    found["against teacher"] = {}
    for n in STEPS[:5]:
        x, _, _ = drawn(folder / f"lagrangian-{seed}", 2 * count, steps=n)
        both, parts = kernel_distances([x, reference], known)
        gap = float(both[0] - both[1])
        found["against teacher"][n] = (
            float(both[0]), float(both[0] / both[1]), gap, *interval(gap, parts[:, 0] - parts[:, 1], len(x)),
        )  # fmt: skip
    rows = []
    for tol in TOLERANCES[:3]:
        x, _, calls = drawn(folder / f"lagrangian-{seed}", count, tol=tol)
        same, _, _ = drawn(folder / f"lagrangian-{seed}", count, steps=max(1, round(statistics.mean(calls))))
        both, parts = kernel_distances([x, same], known)
        gap = interval(float(both[0] - both[1]), parts[:, 0] - parts[:, 1], count)
        rows.append({
            "tol": tol, "calls": statistics.mean(calls), "kd": float(both[0]), "kd_fixed": float(both[1]), "gap": gap,
        })  # fmt: skip
    found["tolerance"]["lagrangian"] = rows
    return found


def step_cost(out: Path, teacher_steps: int, rounds: int = 5) -> float:
    """CPU seconds of a conversion over those of its teacher's training: their steps taken in turn, times their numbers. The
    seconds of two trainings hours apart tell more of what else the machine did."""
    from sfumato.training.measure import measure
    from sfumato.training.run import Run

    config = read_config(Run(out))
    assert config.distill is not None
    plain, conversion = (task_of(each, Run(out)) for each in (dataclasses.replace(config, distill=None), config))
    batch, ratios = config.training.batch or 1, []
    for _ in range(rounds):
        seconds = []
        for task in (conversion, plain):
            begin = time.process_time()
            measure(task, config.training, batch, repeats=7)
            seconds.append(time.process_time() - begin)
        ratios.append(seconds[0] / seconds[1])
    return statistics.median(ratios) * (config.training.steps or 0) / teacher_steps


# ---- tables and plots -------------------------------------------------------------------------------------------------


def draw_curves(rows: list[dict[str, Any]], quantity: str, path: Path) -> None:
    """Quality against steps: medians over the seeds, and their range."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.6), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    names = list(rows[0]["curves"])
    colours = ("#718096", "#2b6cb0", "#38a169", "#805ad5", "#dd6b20", "#e53e3e")
    for name, colour in zip(names, colours, strict=True):
        lines = [row["curves"][name] for row in rows]
        columns = [[line[i] for line in lines if len(line) > i] for i in range(max(map(len, lines)))]
        steps, dashed = STEPS[: len(columns)], "--" if "gamma 1" in name or name == "consistency" else "-"
        middle = [statistics.median(column) for column in columns]
        axes.plot(steps, middle, marker="o", ms=4, color=colour, ls=dashed, label=name)
        axes.fill_between(steps, *([f(column) for column in columns] for f in (min, max)), color=colour, alpha=0.12)
    axes.axhline(statistics.median(row["floor"] for row in rows), color="black", lw=0.8, ls=":", label="real data")
    axes.set_xscale("log")
    axes.set_yscale("symlog" if min(row["floor"] for row in rows) <= 0 else "log", **(
        {"linthresh": 0.1} if min(row["floor"] for row in rows) <= 0 else {}))  # fmt: skip
    axes.set_xticks(STEPS, [str(n) for n in STEPS])
    axes.minorticks_off()
    axes.set_xlabel("steps")
    axes.set_ylabel(quantity)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)


def draw_paths(walked: dict[str, Any], path: Path) -> None:
    """A few samples on their way: the base model's path, and where the map's steps land on it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    base = torch.tensor(walked["base, 256"])
    for place, n in enumerate((1, 2, 4)):
        axes = figure.add_subplot(1, 3, place + 1)
        axes.set_aspect("equal")
        axes.set_title(f"{n} step{'s' * (n > 1)}", fontsize=10)
        stops = torch.tensor(walked[f"map, {n}"])
        for i in range(base.shape[1]):
            axes.plot(*base[:, i].T, color="#a0aec0", lw=1)
            axes.plot(*stops[:, i].T, color="#2b6cb0", lw=0.7, ls=":", marker="o", ms=3)
        axes.plot([], [], color="#a0aec0", label="base model, 256 steps")
        axes.plot([], [], color="#2b6cb0", ls=":", marker="o", ms=3, label="flow map")
        if place == 0:
            axes.legend(frameon=False, fontsize=7)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Run one of the two parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("board", "pictures"))
    parser.add_argument("--report", action="store_true", help="tables and plots of the results that are there")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, default=Path("runs/any_steps"))
    parser.add_argument("--teacher-steps", type=int, default=None)
    parser.add_argument(
        "--cost", type=float, default=0.58, help="of a conversion of pictures, as a share of the teacher's, by PASSES"
    )
    parser.add_argument(
        "--kinds", nargs="+", default=list(KINDS), choices=KINDS, help="conversions of pictures to measure again"
    )
    parser.add_argument("--count", type=int, default=208, help="samples of pictures up to 64 steps")
    parser.add_argument("--few", type=int, default=26, help="samples of pictures beyond")
    given = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    rows = []
    for seed in () if given.report else given.seeds:
        if given.part == "board":
            teacher_steps = given.teacher_steps or 4000
            rows.append(checkerboard(seed, teacher_steps, teacher_steps // 4))
        else:
            given.folder.mkdir(parents=True, exist_ok=True)
            stored = RESULTS / f"any_steps_pictures_{seed}.json"
            again = None if len(given.kinds) == len(KINDS) else json.loads(stored.read_text())
            sizes = (given.count, given.few, given.teacher_steps or 2500, given.cost)
            rows.append(pictures(seed, given.folder, *sizes, tuple(given.kinds), again))
        (RESULTS / f"any_steps_{given.part}_{seed}.json").write_text(json.dumps(rows[-1], indent=1) + "\n")
    report(given.part)


def report(part: str) -> None:
    """Tables and plots of all seeds there are results of."""
    from rich.console import Console
    from rich.table import Table

    rows = [json.loads(path.read_text()) for path in sorted(RESULTS.glob(f"any_steps_{part}_*.json"))]
    quantity = "KL divergence of the board, nats" if part == "board" else "kernel distance to training pictures"
    table = Table("model", *(str(n) for n in STEPS), "CPU s", title=f"{quantity}: median of {len(rows)} seeds")
    for name in rows[0]["curves"]:
        lines = [row["curves"][name] for row in rows]
        cells = [statistics.median(line[i] for line in lines if len(line) > i) for i in range(max(map(len, lines)))]
        kind = "base" if name.startswith("base") else name.split(",")[0]
        shown = [f"{c:.3f}" for c in cells] + [""] * (len(STEPS) - len(cells))
        table.add_row(name, *shown, f"{statistics.median(row['seconds'][kind] for row in rows):.0f}")
    console = Console(width=150)
    console.print(table)
    console.print("real data", [round(row["floor"], 3) for row in rows])
    for row in rows:
        console.print(
            {name: [tuple(round(v, 3) for v in w) for w in worse] for name, worse in row.get("worse", {}).items()}
        )
        console.print(row["tolerance"])
        console.print({k: v for k, v in row.items() if "teacher" in k})
    DOCS.mkdir(exist_ok=True)
    draw_curves(rows, quantity, DOCS / f"any_steps_{part}.png")
    if part == "board":
        draw_paths(rows[0]["paths"], DOCS / "any_steps_paths.png")


if __name__ == "__main__":
    main()
