"""Solvers that learn (`--solver fit`) against the best fixed solver and grid, on exact denoisers and on trained runs.

    python -m benchmarks.fit                          exact denoisers: about 3 minutes of one core
    python -m benchmarks.fit RUN [RUN ...] [-n 416]   trained runs of pictures or vectors: error, quality, seconds to fit

Error: root mean square of a sample's distance to where the fine walk brings its noise, mean over noises that nothing was
fitted to. The fixed bar is the best of all solvers and grids *on these very noises*, chosen anew for each number of calls.
Quality: kernel distance to the training items in two feature spaces.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.common import store
from benchmarks.worlds import NAMES, digit_pictures, measured_grid, world
from sfumato.diffusion import SOLVERS, Linear, cosine, karras, sample, uniform
from sfumato.diffusion.fitted import fit_solver, noises, starts
from sfumato.jobs.fits import NAME
from sfumato.jobs.model import Model, load
from sfumato.jobs.walk import Drawing, Walk
from sfumato.metrics import spaces
from sfumato.metrics.distances import kernel_distance

CALLS = (3, 4, 5, 6)
FIXED = ("euler", "dpmpp_2m", "ab2", "ab3", "unipc")


def rows(away: Tensor) -> float:
    """Mean over rows of their root mean square."""
    return float(away.double().flatten(1).pow(2).mean(1).sqrt().mean())


def rms(away: Tensor) -> float:
    """Root mean square of all numbers."""
    return float(away.double().pow(2).mean().sqrt())


# ---- exact denoisers -------------------------------------------------------------------------------------------------


def exact(seeds: int, own: int = 512, fresh: int = 512) -> Iterator[dict[str, Any]]:
    """Errors on each of the exact worlds, for each number of calls."""
    every = world(digit_pictures()).on(Linear())
    for name in NAMES:
        one = every.only(name)
        width = one.places[name].stop
        grids = {"auto": measured_grid(every, name), "cosine": cosine, "uniform": uniform}

        def drawn(count: int, seed: int, width: int = width) -> Tensor:
            return torch.randn(count, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))

        test = noises(one, drawn(fresh, 1000), 200)
        for calls in CALLS:
            fixed: dict[str, list[float]] = {}
            for grid, places in {**grids, "karras": karras}.items():
                for solver in FIXED:
                    away = sample(one, drawn(fresh, 1000), places(Linear(), calls), SOLVERS[solver]) - test.truth
                    fixed[f"{solver}, {grid}"] = [rows(away), rms(away)]
            best = min(fixed, key=lambda key: fixed[key][0])
            found = []
            for seed in range(seeds):
                begun = time.process_time()
                known = starts(Linear(), calls, grids)
                made = fit_solver(
                    noises(one, drawn(own, seed), 64), noises(one, drawn(own // 2, 500 + seed), 64), known
                )
                away = test.away(made.solver)
                found.append([rows(away), rms(away), time.process_time() - begun, made.walks])
            yield {
                "data": name, "calls": calls, "best": best, "fixed": fixed[best][0], "fit": [each[0] for each in found],
                "fixed_rms": min(pair[1] for pair in fixed.values()), "fit_rms": [each[1] for each in found],
                "seconds": [each[2] for each in found], "walks": [each[3] for each in found],
            }  # fmt: skip


# ---- trained runs ----------------------------------------------------------------------------------------------------


def trained(path: Path, count: int, fresh: int = 48) -> Iterator[dict[str, Any]]:
    """Errors and kernel distances of a run, for each number of calls."""
    model = load(path, drawing=Drawing(seed=1))
    data = model.recipe.open(model.run)
    real = torch.as_tensor(data.train.batch(range(min(len(data.train), 2000)))["x"])
    judges = [spaces.choose(name, real, lambda x: x) for name in spaces.usual(tuple(real.shape[1:]))]
    known = [judge(real) for judge in judges]

    def drawn(many: int, **asked: Any) -> Tensor:
        walk = model.walked(Walk(**asked))
        parts = list(model.draw(model.usual_queries(many), range(many), walk=walk))
        numbers = torch.tensor([number for part in parts for number in part.numbers])
        return torch.cat([part.x for part in parts])[numbers.argsort()].cpu()

    def quality(x: Tensor) -> list[float]:
        return [kernel_distance(judge(x), own) for judge, own in zip(judges, known, strict=True)]

    truth, many = drawn(fresh, steps=64, solver="ab3", grid="cosine"), drawn(count, steps=50, solver="ab3", grid="auto")
    yield {"run": path.name, "calls": 50, "spaces": [judge.name for judge in judges], "quality": quality(many)}
    for calls in CALLS:
        ways = [{"solver": solver, "grid": grid} for solver in FIXED for grid in ("auto", "cosine", "uniform")]
        fixed = {" ".join(way.values()): rows(drawn(fresh, steps=calls, **way) - truth) for way in ways}
        best = min(fixed, key=fixed.__getitem__)
        seconds = _fit(model, calls)
        solver, grid = best.split()
        yield {
            "run": path.name, "calls": calls, "best": best, "fixed": fixed[best], "seconds": seconds,
            "fit": rows(drawn(fresh, steps=calls, solver="fit") - truth),
            "fixed_quality": quality(drawn(count, steps=calls, solver=solver, grid=grid)),
            "usual_quality": quality(drawn(count, steps=calls)),
            "fit_quality": quality(drawn(count, steps=calls, solver="fit")),
        }  # fmt: skip


def _fit(model: Model, calls: int) -> list[float]:
    """Fit anew, within the usual 30 seconds; seconds by the clock and of the processor."""
    (model.run.path / NAME).unlink(missing_ok=True)
    begun = time.monotonic(), time.process_time()
    dataclasses.replace(model).solver(model.walked(Walk(steps=calls, solver="fit")))
    return [time.monotonic() - begun[0], time.process_time() - begun[1]]


def main(words: Sequence[str] | None = None) -> None:
    """Measure, print a line for each number of calls, and store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path)
    parser.add_argument("-n", type=int, default=416, help="samples whose quality is measured")
    parser.add_argument("--seeds", type=int, default=3, help="of the noises that exact denoisers are fitted to")
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    found: list[dict[str, Any]] = []
    sources: list[Callable[[], Iterator[dict[str, Any]]]] = [lambda: exact(options.seeds)]
    if options.runs:
        sources = [lambda path=path: trained(path, options.n) for path in options.runs]  # type: ignore[misc]
    for source in sources:
        for row in source():
            found.append(row)
            print(json.dumps(row, default=float), flush=True)
    store("fit_runs" if options.runs else "fit_exact", {"rows": found})


if __name__ == "__main__":
    main()
