"""The probability of a rare event, 1e-4: Sequential Monte Carlo against plain Monte Carlo at equal network calls.

    python -m benchmarks.rare_event          about 20 seconds on one thread; writes benchmarks/results/rare_event.json

The data and its denoiser are exact, so the true probability is known; the sampler's steps move it by about 1 % (the
tests measure that without Monte Carlo). Both methods walk the same number of particles along the same times with the
same solver, so they call the network equally often. Errors are relative, root mean square over the seeds.

* line:   a linear score of a normal in 12 dimensions, 3.72 deviations out: the guess says all there is to know.
* circle: the distance from the origin of a normal in the plane: the guess knows the distance only roughly on the way.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from sfumato.diffusion import Gaussian, GaussianData, Linear, Renoised, cosine, sample
from sfumato.diffusion.particles import exceeds, guess_spread, pooled, steer

F64 = torch.float64
SCHEDULE, SOLVER, STEPS, PARTICLES, SEEDS = Linear(), Renoised(), 60, 2000, 20


@dataclass(frozen=True)
class Event:
    """An event score(x) > level of exactly known data, of probability ``true``."""

    name: str
    data: GaussianData
    score: Callable[[Tensor], Tensor]
    level: float
    true: float


def line() -> Event:
    variance = torch.logspace(-2, math.log10(4), 12, dtype=F64)
    mean = torch.linspace(-1, 1, 12, dtype=F64)
    direction = torch.linspace(1, 2, 12, dtype=F64)
    direction = direction / (direction**2 * variance).sum().sqrt()  # the score has deviation 1
    level = float(mean @ direction - torch.special.ndtri(torch.tensor(1e-4, dtype=F64)))
    return Event("line", GaussianData(mean, variance, process=process()), lambda x: x @ direction, level, 1e-4)


def circle() -> Event:
    data = GaussianData(torch.zeros(2, dtype=F64), torch.ones(2, dtype=F64), process=process())
    return Event("circle", data, lambda x: x.norm(dim=1), math.sqrt(2 * math.log(1e4)), 1e-4)


def process() -> Gaussian:
    return Gaussian(SCHEDULE, "data")


def calls(event: Event) -> int:
    """Network calls per particle, counted."""
    asked = 0

    class Counting:
        process = event.data.process

        def __call__(self, x_t: Tensor, t: Tensor, s: Any = None) -> Any:
            nonlocal asked
            asked += 1
            return event.data(x_t, t, s)

    reward = exceeds(event.score, event.level, guess_spread(SCHEDULE))
    steer(Counting(), noise(event, 2, torch.Generator()), cosine(SCHEDULE, STEPS), reward, SOLVER, torch.Generator())
    steered, asked = asked, 0
    sample(Counting(), noise(event, 2, torch.Generator()), cosine(SCHEDULE, STEPS), SOLVER, torch.Generator())
    assert steered == asked, "steering must cost no further calls"
    return asked


def noise(event: Event, rows: int, rng: torch.Generator) -> Tensor:
    return torch.randn(rows, len(event.data.mean), dtype=F64, generator=rng)


def measure(event: Event) -> dict[str, float | int | str]:
    times, reward = cosine(SCHEDULE, STEPS), exceeds(event.score, event.level, guess_spread(SCHEDULE))
    runs, counts = [], []
    for seed in range(SEEDS):
        rng = torch.Generator().manual_seed(seed)
        runs.append(steer(event.data, noise(event, PARTICLES, rng), times, reward, SOLVER, rng))
        rng = torch.Generator().manual_seed(1000 + seed)
        plain = sample(event.data, noise(event, PARTICLES, rng), times, SOLVER, rng)
        counts.append(float((event.score(plain) > event.level).double().mean()))
    mean, error = pooled([run.log_normalizer for run in runs])
    estimates = torch.stack([run.log_normalizer for run in runs]).exp()
    smc = float((estimates / event.true - 1).pow(2).mean().sqrt())
    theory = math.sqrt((1 - event.true) / (event.true * PARTICLES))
    return {
        "event": event.name,
        "true_probability": event.true,
        "particles": PARTICLES,
        "network_calls_per_particle": calls(event),
        "seeds": SEEDS,
        "smc_mean": float(mean.exp()),
        "smc_mean_standard_error": float(mean.exp() * error),
        "smc_relative_error_of_one_run": smc,
        "smc_relative_error_reported_by_a_run": float(torch.stack([run.error for run in runs]).mean()),
        "plain_mean": sum(counts) / SEEDS,
        "plain_relative_error_of_one_run": math.sqrt(sum((c / event.true - 1) ** 2 for c in counts) / SEEDS),
        "plain_relative_error_in_theory": theory,
        "ratio_of_relative_errors": theory / smc,
        "plain_particles_for_the_same_error": round((1 - event.true) / (event.true * smc**2)),
    }


def main() -> None:
    torch.set_num_threads(1)
    begin = time.perf_counter()
    found = [measure(event()) for event in (line, circle)]
    table = Table("", *(str(each["event"]) for each in found))
    for row in found[0]:
        if row != "event":
            table.add_row(row.replace("_", " "), *(f"{each[row]:.4g}" for each in found))
    Console().print(table)
    out = Path(__file__).parent / "results" / "rare_event.json"
    out.write_text(json.dumps({"events": found, "seconds": round(time.perf_counter() - begin, 1)}, indent=2) + "\n")


if __name__ == "__main__":
    main()
