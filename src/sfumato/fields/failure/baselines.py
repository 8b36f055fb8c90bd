"""What a campaign is measured beside, at the same number of calls: plain Monte Carlo, cross-entropy, subset simulation, DiFS.

They are the published methods and nothing better: what they lack (a probability, likelihood, a mode) is theirs to lack.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sfumato.fields.failure.chain import normals, uniforms
from sfumato.fields.failure.data import Calls, Spent
from sfumato.fields.failure.metric import alike
from sfumato.fields.failure.moves import Population, drawn_again, pcn, tuned

ELITE = 0.1


@dataclass(frozen=True)
class Baseline:
    """What a plain method came to. samples: what it gives as failures, whether they fail or not; p: its probability, None where
    it has none; seconds: of the processor, the simulator's included."""

    name: str
    calls: int
    samples: Population
    p: float | None
    seconds: float


Method = Callable[[Calls, int, int, int], tuple[Population, float | None]]
"""calls, numbers of a disturbance, seed, samples wanted -> samples and p."""


def monte_carlo(calls: Calls, n: int, seed: int, count: int) -> tuple[Population, float | None]:
    """Plain runs until the calls are spent: the failures among them, and their share."""
    x = normals(("monte carlo", seed), calls.left, n)
    r = calls.ask(x, "plain").robustness
    return Population(x, r).of(r <= 0), float((r <= 0).mean())


def cross_entropy(calls: Calls, n: int, seed: int, count: int) -> tuple[Population, float | None]:
    """A normal with a mean and spread for each number, fitted to the elite tenth by likelihood ratio, ten rounds (Rubinstein and
    Kroese 2004); p by importance sampling with the last one."""
    mean, spread = np.zeros(n), np.ones(n)
    size = calls.left // 11
    for i in range(10):
        x, log_w = _normal_draws(mean, spread, size, ("cross entropy", seed, i))
        r = calls.ask(x, "cross entropy").robustness
        level = max(0.0, float(np.quantile(r, ELITE)))
        chosen = r <= level
        w = np.exp(log_w[chosen] - log_w[chosen].max())
        w /= w.sum()
        mean = w @ x[chosen]
        spread = np.sqrt(np.maximum(w @ (x[chosen] - mean) ** 2, 1e-4))
    x, log_w = _normal_draws(mean, spread, calls.left, ("cross entropy", seed, "last"))
    r = calls.ask(x, "cross entropy").robustness
    return Population(x, r).of(slice(0, count)), float((np.exp(np.minimum(log_w, 700)) * (r <= 0)).mean())


def _normal_draws(mean: np.ndarray, spread: np.ndarray, count: int, words: Any) -> tuple[np.ndarray, np.ndarray]:
    e = normals(words, count, len(mean))
    x = mean + spread * e
    return x, 0.5 * (e**2).sum(1) - 0.5 * (x**2).sum(1) + np.log(spread).sum()


def subset(calls: Calls, n: int, seed: int, count: int) -> tuple[Population, float | None]:
    """Levels of a tenth with pCN chains (Au and Beck 2001; Papaioannou et al. 2015), a seventh of the calls a level; what is left
    moves the failures on."""
    size = calls.left // 7
    rows = size // 10
    pool = Population(x := normals(("subset", seed), size, n), calls.ask(x, "subset").robustness)
    p, b, level, k, plain = 1.0, 0.8, math.inf, 0, alike(n)
    try:
        while level > 0 and k < 30:
            level = max(0.0, float(np.quantile(pool.r, ELITE, method="inverted_cdf")))
            passed = pool.of(pool.r <= level)
            p *= len(passed) / len(pool)
            now, kept, k = drawn_again(passed, rows, ("subset", seed, k, "again")), [], k + 1
            for move in range(10):
                now, taken = pcn(now, level, b, plain, calls, ("subset", seed, k, move), "subset")
                b = tuned(b, float(taken.mean()))
                kept.append(now)
            pool = Population.joined(kept)
        while level <= 0:
            now, taken = pcn(now, 0.0, b, plain, calls, ("subset", seed, "on", calls.next), "subset")
            pool = Population.joined([pool, now])
    except Spent:
        pass
    failing = pool.of(pool.r <= 0)
    thin = np.linspace(0, max(0, len(failing) - 1), min(count, len(failing))).astype(int)
    return failing.of(thin), p if level <= 0 else None


def difs(
    calls: Calls, n: int, seed: int, count: int, steps: int = 500, rounds: int = 10
) -> tuple[Population, float | None]:
    """DiFS as published (arXiv 2406.14761): a quarter of the calls plain, then ten rounds that draw for a robustness from 0 to
    rho, rho their median, and train on every row below it, unweighted; at the end draws for a robustness of 0. Its network is
    ours, told the robustness of each row, and it walks 18 steps of Heun. It gives no probability."""
    import torch

    from sfumato.data import Items
    from sfumato.diffusion import EDM, Gaussian, LogNormal, Streams, key, sample
    from sfumato.diffusion.denoiser import Denoiser
    from sfumato.diffusion.grids import karras
    from sfumato.diffusion.solvers import Heun
    from sfumato.fields.failure.campaign import trained
    from sfumato.networks import MLP
    from sfumato.training import loop
    from sfumato.training.objective import Task
    from sfumato.training.optim import OptimOptions
    from sfumato.training.options import TrainOptions
    from sfumato.training.run import Run

    process = Gaussian(EDM(0.02, 40.0, rho=7.0), predicts="v")
    torch.manual_seed(key("difs", seed))
    network: Any = MLP(dim=n, width=64 if n <= 8 else 256, depth=3, vectors=1)
    settings = {name: value for name, value in network.options.items() if name != "kind"}
    last = min(count, calls.left // 10)
    first, size = calls.left // 4, (calls.left - calls.left // 4 - last) // rounds
    every = Population(x := normals(("difs", seed), first, n), calls.ask(x, "difs").robustness)
    unit = max(float(np.median(every.r)), 1e-9)
    rho = float(np.median(every.r))
    options = TrainOptions(
        steps=steps, batch=256, threads=1, previews=0, snapshots=0, optim=OptimOptions(lr=1e-3), seed=seed
    )

    def drawn(level: np.ndarray, words: str) -> np.ndarray:
        told = torch.from_numpy(level[:, None].astype(np.float32))
        rng = Streams(key("difs", words, seed), range(len(level)), counted=True)
        z = rng.normal((len(level), n), torch.float32)
        times = karras(process.schedule, 18, 0.02, 40.0)
        return sample(Denoiser(network, process), z, times, Heun(), vector=told).double().numpy()

    with tempfile.TemporaryDirectory() as folder:
        for i in range(rounds):
            chosen = every.of(every.r <= rho)
            rows = Items(
                {
                    "x": chosen.x.astype(np.float32),
                    "vector": (np.maximum(chosen.r, 0) / unit)[:, None].astype(np.float32),
                }
            )
            run = Run(Path(folder) / str(i))
            run.create()
            network.train().requires_grad_(True)
            loop.train(Task(network, process, rows, times=LogNormal(-0.6, 1.4)), run, options)
            network = trained(run, lambda: MLP(**settings))
            u = uniforms(("difs", seed, "level", i), size)
            x = drawn(np.maximum(-0.1 * unit + u * (rho + 0.1 * unit), 0) / unit, str(i))
            r = calls.ask(x, "difs").robustness
            every = Population.joined([every, Population(x, r)])
            rho = max(0.0, min(rho, float(np.median(r))))
    x = drawn(np.zeros(last), "last")
    return Population(x, calls.ask(x, "difs").robustness), None


METHODS: dict[str, Method] = {
    "monte carlo": monte_carlo, "cross entropy": cross_entropy, "subset simulation": subset, "difs": difs,
}  # fmt: skip


def run_baseline(name: str, simulate: Any, n: int, calls: int, seed: int, count: int) -> Baseline:
    """A plain method on so many calls."""
    begun = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        log = Calls.at(Path(folder), simulate, calls)
        samples, p = METHODS[name](log, n, seed, count)
        return Baseline(name, log.next, samples, p, time.process_time() - begun)
