"""The peers' half of :mod:`benchmarks.solvers`, run in their environment: every sampler of theirs on exact denoisers.

Every sampler is given the noise level at which it calls, in its own scaling, and no rounded time step: a network would
see time steps that some of them round. A sampler starts on the flow of the common noises at the level that it starts at.
"""

from __future__ import annotations

import json
import math
import sys
import time
import warnings
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.peers import k_diffusion_sampling
from benchmarks.worlds import F64, SCHEDULES, VP_START, World, kept, noises, rms, slug, state_at, steps_within, world

Walk = Callable[["Bench", int], Tensor]
"""A sampler: the data and the number of steps -> samples."""


class Bench:
    """The data on one schedule, and the states on its flow."""

    def __init__(self, exact: World, z: Tensor) -> None:
        self.exact, self.z = exact, z
        self._states: dict[float, Tensor] = {}

    def state(self, ratio: float) -> Tensor:
        """x + ratio z on the flow, (B, D)."""
        if (key := round(ratio, 9)) not in self._states:
            calls = self.exact.calls[0]
            self._states[key] = state_at(self.exact, self.z, ratio)
            self.exact.calls[0] = calls
        return self._states[key].clone()

    def denoise(self, y: Tensor, ratio: Any) -> Tensor:
        return self.exact.denoise(y, ratio)


# ---- diffusers --------------------------------------------------------------------------------------------------------


def vp(name: str, **options: Any) -> Walk:
    """A scheduler whose state is variance preserving."""

    def walk(bench: Bench, steps: int) -> Tensor:
        import diffusers

        scheduler = getattr(diffusers, name)(prediction_type="sample", **options)
        scheduler.set_timesteps(steps)
        by_table = not hasattr(scheduler, "sigmas")  # DDIM knows cumulative products only
        x = None
        for i, t in enumerate(scheduler.timesteps):
            if by_table:
                kept = scheduler.alphas_cumprod[t].to(F64)
                ratio = ((1 - kept) / kept).sqrt()
            else:
                ratio = scheduler.sigmas[i].to(F64)
            hypot = (1 + ratio**2).sqrt()
            if x is None:
                x = bench.state(float(ratio)) / hypot
            x = scheduler.step(bench.denoise(x.to(F64) * hypot, ratio), t, x).prev_sample
        assert x is not None
        return x

    return walk


def ve(name: str, **options: Any) -> Walk:
    """A scheduler whose state is x + sigma z, asked for noise."""

    def walk(bench: Bench, steps: int) -> Tensor:
        import diffusers

        options.setdefault("beta_start", 0.0001)
        options.setdefault("beta_end", 0.02)
        scheduler = getattr(diffusers, name)(prediction_type="epsilon", **options)
        scheduler.set_timesteps(steps)
        x = bench.state(float(scheduler.sigmas[0]))
        for i, t in enumerate(scheduler.timesteps):
            scheduler.scale_model_input(x, t)
            sigma = scheduler.sigmas[i].to(F64)
            if hasattr(scheduler, "sigmas_interpol") and not scheduler.state_in_first_order:
                sigma = scheduler.sigmas_interpol[i].to(F64)  # its middle of a step
            x = scheduler.step((x.to(F64) - bench.denoise(x, sigma)) / sigma, t, x).prev_sample
        return x

    return walk


def edm(name: str, **options: Any) -> Walk:
    """EDM's preconditioning: the scheduler undoes it."""

    def walk(bench: Bench, steps: int) -> Tensor:
        import diffusers

        scheduler = getattr(diffusers, name)(sigma_data=1.0, **options)
        scheduler.set_timesteps(steps)
        x = bench.state(float(scheduler.sigmas[0]))
        for i, t in enumerate(scheduler.timesteps):
            scheduler.scale_model_input(x, t)
            sigma = scheduler.sigmas[i].to(F64)
            skip, out = 1 / (sigma**2 + 1), sigma / (sigma**2 + 1).sqrt()
            x = scheduler.step((bench.denoise(x, sigma) - skip * x.to(F64)) / out, t, x).prev_sample
        return x

    return walk


def flow(name: str, spread: str = "own", **options: Any) -> Walk:
    """A flow-matching scheduler: straight line, velocity. ``spread="even"`` gives it sigmas 1, 1 - 1/n, ..., 1/n, as the
    pipelines of Stable Diffusion 3 and Flux do."""

    def walk(bench: Bench, steps: int) -> Tensor:
        import diffusers
        import numpy as np

        scheduler = getattr(diffusers, name)(**options)
        if spread == "even":
            scheduler.set_timesteps(sigmas=np.linspace(1, 1 / steps, steps), **_both(scheduler, steps))
        else:
            scheduler.set_timesteps(steps)
        sigmas = scheduler.sigmas.to(F64)
        first = float(sigmas[0])
        x = bench.z.clone() if first > 1 - 1e-9 else bench.state(first / (1 - first)) * (1 - first)
        for i, t in enumerate(scheduler.timesteps):
            sigma = sigmas[i]
            if sigma >= 1 - 1e-9:
                data = bench.exact.mean_given(x.to(F64), torch.zeros((), dtype=F64), torch.ones((), dtype=F64))
            else:
                data = bench.denoise(x.to(F64) / (1 - sigma), sigma / (1 - sigma))
            x = scheduler.step((x.to(F64) - data) / sigma, t, x).prev_sample
        return x

    return walk


def _both(scheduler: Any, steps: int) -> dict[str, int]:
    return {"num_inference_steps": steps} if "UniPC" in type(scheduler).__name__ else {}


# ---- k-diffusion ------------------------------------------------------------------------------------------------------


def k(name: str, grid: str, low: float, high: float, **options: Any) -> Walk:
    """One of k-diffusion's samplers on one of its grids."""

    def walk(bench: Bench, steps: int) -> Tensor:
        sampling = k_diffusion_sampling()
        if grid == "vp":
            sigmas = sampling.get_sigmas_vp(steps)
        else:
            sigmas = getattr(sampling, f"get_sigmas_{grid}")(steps, low, high)
        model = lambda x, sigma: bench.denoise(x, sigma[0])  # noqa: E731
        return getattr(sampling, name)(model, bench.state(float(sigmas[0])), sigmas.to(F64), disable=True, **options)

    return walk


def k_fast(low: float, high: float) -> Walk:
    """DPM-Solver-fast: it is told the number of calls, stops at ``low``, and one more call takes it to the data."""

    def walk(bench: Bench, steps: int) -> Tensor:
        sampling = k_diffusion_sampling()
        model = lambda x, sigma: bench.denoise(x, sigma[0])  # noqa: E731
        x, solver = bench.state(high), sampling.DPMSolver(model, {})
        ends = (solver.t(torch.tensor(v, dtype=F64)) for v in (high, low))
        return bench.denoise(solver.dpm_solver_fast(x, *ends, steps - 1), low)

    return walk


# ---- azula ------------------------------------------------------------------------------------------------------------


def azula(name: str, schedule: str, low: float, final: bool, **options: Any) -> Walk:
    """One of azula's samplers. Its schedules stop at sigma = ``low``; with ``final`` the last call, of the data guessed
    there, takes it to the data."""

    def walk(bench: Bench, steps: int) -> Tensor:
        from azula import noise, sample
        from azula.denoise import Denoiser, DiracPosterior

        kinds = {
            "straight": lambda: noise.RectifiedSchedule(1e-3, low),
            "decay": lambda: noise.DecaySchedule(1e-3, low),
            "vp": lambda: noise.VPSchedule(1 / math.hypot(1, VP_START), low),
            "cosine": lambda: noise.CosineSchedule(1 / math.hypot(1, VP_START), low),
            "ve": lambda: noise.VESchedule(low, 80.0),
        }

        class Teacher(Denoiser):
            def __init__(self) -> None:
                super().__init__()
                self.schedule = kinds[schedule]()

            def forward(self, x_t: Tensor, t: Tensor, **kwargs: Any) -> DiracPosterior:
                alpha, sigma = self.schedule(t.to(F64))
                return DiracPosterior(bench.denoise(x_t / alpha, sigma / alpha))

        teacher = Teacher()
        sampler = getattr(sample, name)(teacher, steps=steps - final, silent=True, dtype=F64, **options)
        alpha, sigma = teacher.schedule(torch.ones((), dtype=F64))
        x = sampler(bench.state(float(sigma / alpha)) * alpha)
        return teacher(x, torch.zeros((), dtype=F64)).mean if final else x

    return walk


def samplers(schedule: str) -> dict[str, Walk]:
    """All samplers compared on a schedule, by a name that says whose and which. Combinations of a sampler and a grid that
    a first look at 5, 10, 20, 50 and 100 calls found far behind the same sampler on another grid are not walked."""
    return {"straight": straight_samplers, "vp": vp_samplers, "edm": edm_samplers}[schedule]()


def straight_samplers() -> dict[str, Walk]:
    found: dict[str, Walk] = {
        "diffusers FlowMatchEuler": flow("FlowMatchEulerDiscreteScheduler", "even"),
        "diffusers FlowMatchHeun": flow("FlowMatchHeunDiscreteScheduler"),
    }
    options: dict[str, Any] = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
    for shift in (1.0, 3.0):
        tail = f", shift {shift:g}" if shift != 1 else ""
        for order in (2, 3):
            named = {**options, "flow_shift": shift, "solver_order": order}
            found[f"diffusers DPM++{order}M flow{tail}"] = flow("DPMSolverMultistepScheduler", **named)
            found[f"diffusers UniPC{order} flow{tail}"] = flow("UniPCMultistepScheduler", "even", **named)
    for name, order in (("Euler", 0), ("Heun", 0), ("zAB", 3), ("vAB", 2), ("vAB", 3), ("zEAB", 3), ("xEAB", 3)):
        found[f"azula {name}{order or ''} straight"] = azula_one(name, order, "straight", 1e-3)
    for name, order in (("vAB", 2), ("vAB", 3), ("xEAB", 3)):
        found[f"azula {name}{order} decay"] = azula_one(name, order, "decay", 1e-3)
    for kind in ("straight", "decay"):  # in its coordinate the data is at a finite place and can be walked to
        found[f"azula vAB3 {kind}, to the end"] = azula("vABSampler", kind, 1e-7, False, order=3)
    return found


def azula_one(name: str, order: int, kind: str, least: float) -> Walk:
    return azula(f"{name}Sampler", kind, least, True, **({"order": order} if order else {}))


def vp_samplers() -> dict[str, Walk]:
    found = {"diffusers DDIM": vp("DDIMScheduler", clip_sample=False, timestep_spacing="trailing")}
    grids: dict[str, dict[str, Any]] = {"linspace": {}, "karras": {"use_karras_sigmas": True}}
    for grid, options in grids.items():
        for order in (2, 3):
            named = {**options, "solver_order": order, "final_sigmas_type": "zero"}
            found[f"diffusers DPM++{order}M {grid}"] = vp("DPMSolverMultistepScheduler", **named)
            found[f"diffusers UniPC{order} {grid}"] = vp("UniPCMultistepScheduler", **named)
    found["diffusers DPM++3M lu"] = vp("DPMSolverMultistepScheduler", solver_order=3, use_lu_lambdas=True)
    found["diffusers DEIS3 karras"] = vp("DEISMultistepScheduler", solver_order=3, use_karras_sigmas=True)
    found["diffusers DPM++2S karras"] = vp(
        "DPMSolverSinglestepScheduler", solver_order=2, use_karras_sigmas=True, final_sigmas_type="zero",
        lower_order_final=True,
    )  # fmt: skip
    for name in ("Heun", "LMS"):
        found[f"diffusers {name} karras"] = ve(f"{name}DiscreteScheduler", use_karras_sigmas=True)
    pairs = {
        "euler": ("karras",), "heun": ("karras", "exponential", "vp"), "dpm_2": ("exponential",),
        "lms": ("karras", "exponential", "vp"), "dpmpp_2m": ("karras", "exponential"),
    }  # fmt: skip
    found |= k_samplers(pairs, ("exponential",), 0.01, VP_START)
    for name, order in (("Euler", 0), ("vAB", 3), ("xEAB", 3)):
        found[f"azula {name}{order or ''} vp"] = azula_one(name, order, "vp", 1e-3)
    for name, order in (("vAB", 2), ("vAB", 3), ("zEAB", 3)):
        found[f"azula {name}{order} cosine"] = azula_one(name, order, "cosine", 1e-3)
    for name, kind in (("zAB", "vp"), ("vAB", "vp"), ("zAB", "cosine"), ("vAB", "cosine")):
        found[f"azula {name}3 {kind}, to the end"] = azula(f"{name}Sampler", kind, 1e-7, False, order=3)
    return found


def edm_samplers() -> dict[str, Walk]:
    found = {"diffusers EDMEuler karras": edm("EDMEulerScheduler", sigma_schedule="karras")}
    for grid in ("karras", "exponential"):
        for order in (2, 3):
            named = {"sigma_schedule": grid, "solver_order": order}
            found[f"diffusers EDMDPM++{order}M {grid}"] = edm("EDMDPMSolverMultistepScheduler", **named)
    both = ("karras", "exponential")
    pairs = {"euler": ("karras",), "heun": both, "dpm_2": both, "lms": both, "dpmpp_2m": both}
    found |= k_samplers(pairs, ("karras",), 0.002, 80.0)
    for name, order in (("Euler", 0), ("zAB", 3), ("vAB", 2), ("vAB", 3), ("zEAB", 3), ("xEAB", 2), ("xEAB", 3)):
        found[f"azula {name}{order or ''} ve"] = azula_one(name, order, "ve", 0.002)
    return found


def k_samplers(pairs: dict[str, tuple[str, ...]], for_2s: tuple[str, ...], low: float, high: float) -> dict[str, Walk]:
    found = {
        f"k-diffusion {name} {grid}": k(f"sample_{name}", grid, low, high) for name, of in pairs.items() for grid in of
    }
    for grid in for_2s:
        found[f"k-diffusion dpmpp_2s {grid}"] = k("sample_dpmpp_2s_ancestral", grid, low, high, eta=0.0)
    found["k-diffusion dpm_fast"] = k_fast(low, high)
    return found


def curve(walk: Walk, bench: Bench, end: Tensor, counts: list[int]) -> dict[str, list[float | None]]:
    """Error by data set at every number of calls in ``counts``, of the walk with the most steps that needs no more. NaN
    is None, and so is a number of steps that a sampler refuses because it is too small for it."""

    @cache
    def walked(steps: int) -> tuple[int, dict[str, float]]:
        bench.exact.calls[0] = 0
        x = walk(bench, steps)
        return bench.exact.calls[0], rms(x.to(F64) - end, bench.exact.places)

    rows: dict[str, list[float | None]] = {name: [] for name in bench.exact.places}
    for calls in counts:
        steps = steps_within(calls, lambda n: walked(n)[0])
        try:
            used, errors = walked(steps)
        except (IndexError, ValueError, ZeroDivisionError):
            if steps > 5:
                raise
            used, errors = 0, dict.fromkeys(rows, math.nan)
        while used > calls:  # diffusers' "trailing" spacing rounds 1000 / 61 so that 61 steps become 62
            steps -= 1
            used, errors = walked(steps)
        for name, row in rows.items():
            row.append(errors[name] if math.isfinite(errors[name]) else None)
    return rows


def main(given_file: Path, found_file: Path) -> None:
    """Errors of all samplers: {schedule: {sampler: {data: [error at every number of calls]}}}."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    given = json.loads(given_file.read_text())
    folder = Path(given["folder"])
    arrays = torch.load(folder / "arrays.pt", weights_only=True)
    exact = world(arrays["digits"])
    z = noises(given["rows"], sum(place.stop - place.start for place in exact.places.values()))
    found: dict[str, Any] = {}
    for schedule in given["schedules"]:
        bench = Bench(exact.on(SCHEDULES[schedule]), z)
        every = samplers(schedule)
        found[schedule] = {}
        for number, (name, walk) in enumerate(every.items()):
            begin = time.perf_counter()
            compute = partial(curve, walk, bench, arrays[schedule], given["counts"])
            found[schedule][name] = kept(folder / slug(schedule, name), compute)
            seconds = time.perf_counter() - begin
            print(f"{schedule} {number + 1}/{len(every)}  {name}  {seconds:.0f} s", flush=True)
    found_file.write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
