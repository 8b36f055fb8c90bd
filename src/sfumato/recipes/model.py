"""A trained run ready to be sampled: its denoiser, rebuilt from the folder alone, and how samples are drawn from it."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sfumato.recipes.base import DistillOptions, read_facts, say
from sfumato.recipes.configuration import Configuration, read_config
from sfumato.training.run import Run, RunError

if TYPE_CHECKING:
    from torch import Tensor

    from sfumato.diffusion import Auto, Denoiser, Equilibrium, Gaussian
    from sfumato.recipes.base import Recipe
    from sfumato.training.objective import Task


@dataclass(frozen=True)
class SampleOptions:
    """How samples are drawn from a run."""

    steps: int | None = None
    """Steps from noise to data (for all solvers but heun and predictor_corrector, calls of the network); default 20, fewer
    for actions, and 4 for a flow map."""
    tol: float | None = None
    """Instead of steps: as many as each sample needs to keep its error below this, in units of the data's spread."""
    solver: str | None = None
    """euler, ancestral, heun, dpmpp_2m, ab2, ab3, ab4, unipc, churn, euler_maruyama, predictor_corrector, adaptive; leap for
    flow maps and descent for equilibrium matching, each of which is the default there."""
    gamma: float = 0.0
    """Of leap: 0 walks the flow, 1 makes all noise anew at every step, as consistency models do."""
    last: Literal["flow", "mean"] | None = None
    """Of leap: where the last of several steps goes, to the end of the flow or to the mean of the data there; default flow,
    and mean for actions, which are smoother for it."""
    eta: float | None = None
    """Fresh noise of euler and dpmpp_2m: 0 none (deterministic), 1 as much as DDPM. Some mends a network's errors; default
    0.5, and 1 for actions."""
    grid: str = "auto"
    """Where the steps are: auto (equal error, measured), cosine, uniform, karras, logsnr."""
    shift: float | None = None
    """Above 1 the steps move to more noise, below 1 to less: on the straight schedule the stops have this many times the
    noise for the signal; default 1, and 0.5 for actions."""
    seed: int = 0
    """Sample i depends on the seed and i alone."""
    batch: int = 16
    """Samples computed at once."""
    w: float | None = None
    """Guidance strength where there are classes: 0 unconditional, 1 conditional, above 1 guided; default 1.5, or the
    nearest that a flow map learned."""
    guide_from: float = 0.0
    """Guide only at times from this one ..."""
    guide_to: float = 1.0
    """... to this one (0 is data, 1 is noise); plainly conditional outside."""
    label: str | None = None
    """Class (task of a robot) to draw from (default: all in turn)."""
    loops: int | None = None
    """Rounds of the middle blocks of a network trained with loops (default: the most of its training)."""
    ema: float | None = None
    """Width of the average to use (default: the run's first; any other is rebuilt from the snapshots)."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Of the network's arithmetic."""

    def __post_init__(self) -> None:
        for good, name, right in (
            (self.steps is None or self.steps >= 1, "steps", "at least 1"),
            (self.tol is None or self.tol > 0, "tol", "above 0"),
            (self.steps is None or self.tol is None, "tol", "given without steps: it chooses them"),
            (0 <= self.gamma <= 1, "gamma", "from 0 to 1"),
            (self.eta is None or self.eta >= 0, "eta", "0 or more"),
            (self.shift is None or 0 < self.shift < math.inf, "shift", "above 0"),
            (self.batch >= 1, "batch", "at least 1"),
            (0 <= self.guide_from <= self.guide_to <= 1, "guide_from", "at most guide_to, both from 0 to 1"),
            (self.ema is None or 0 < self.ema < 0.28, "ema", "a width between 0 and 0.28"),
        ):
            if not good:
                raise ValueError(f"{name} = {getattr(self, name)!r}: must be {right}")


@dataclass(frozen=True)
class Model:
    """A trained run ready to be sampled."""

    run: Run
    recipe: Recipe
    denoiser: Denoiser
    process: Gaussian | Equilibrium
    shape: tuple[int, ...]
    classes: tuple[str, ...]
    grid: Auto | None
    device: Any
    map: DistillOptions | None = None
    residual: float | None = None
    """Of equilibrium matching: how much of the field is left on real data."""

    def chosen(self, options: SampleOptions) -> SampleOptions:
        """The options with the defaults of this model filled in."""
        if options.w is None:
            low, high = self.map.w if self.map else (0.0, 2.0)
            options = dataclasses.replace(options, w=min(max(1.5, low), high))
        habits = self.recipe.habits()
        options = dataclasses.replace(
            options,
            eta=habits.eta if options.eta is None else options.eta,
            shift=habits.shift if options.shift is None else options.shift,
            last=options.last or habits.last,
        )
        if self.residual is not None and options.solver in (None, "descent"):
            return dataclasses.replace(options, solver="descent", steps=None if options.tol else options.steps or 250)
        solver, steps = ("leap", 4) if self.map else (habits.solver, habits.steps)
        if options.tol is not None:
            alone = "leap" if self.map else "adaptive"
            return dataclasses.replace(options, solver=options.solver or alone, steps=None)
        return dataclasses.replace(options, solver=options.solver or solver, steps=options.steps or steps)

    def solver(self, options: SampleOptions) -> Any:
        """The solver that the options ask for. Raises ValueError for one that this model cannot use."""
        from sfumato import diffusion as d
        from sfumato.adapting.flow_map import Leap
        from sfumato.adapting.tolerance import LeapWithin
        from sfumato.recipes.distillation import finest_share

        eta = options.eta or 0.0
        own: dict[str, Any] = {"leap": Leap(options.gamma, options.last == "mean")} if self.map else {}
        own = own if self.residual is None else {"descent": None}
        solvers = {**d.SOLVERS, **own, "euler": d.euler(eta), "dpmpp_2m": d.dpmpp_2m(eta)}
        if options.solver not in solvers:
            hint = "; leap is for flow maps, see sfumato distill" if options.solver == "leap" else ""
            raise ValueError(f"solver = {options.solver!r}: must be one of {', '.join(solvers)}{hint}")
        if options.solver == "descent":
            return d.Descent(tol=options.tol or self.residual or 0.2, most=options.steps or 250)
        if options.tol is None:
            return solvers[options.solver]
        within: dict[str, Any] = {
            "adaptive": d.AdaptiveSolver(options.tol, options.tol, max(self.process.finest, 1e-3)),
            "leap": LeapWithin(options.tol, finest=finest_share(self.process)),
        }
        if options.solver not in within:
            raise ValueError(
                f"tol chooses the steps itself, which solver = {options.solver!r} cannot: leave one of them out"
            )
        return within[options.solver]

    def samples(
        self, numbers: range, options: SampleOptions = SampleOptions(), calls: Callable[[Tensor], None] | None = None
    ) -> Iterator[Tensor]:
        """Yield samples of the given numbers in batches, standardised, (b, *shape); ``calls`` as in ``generate``."""
        from sfumato.diffusion import FromNoise, generate

        options = self.chosen(options)
        solver = self.solver(options)
        begin = FromNoise(1 if solver.counts else options.steps or 1, self.stops(options))
        for drawn in generate(
            self.guess(options), Asked(self.shape, self.condition(options)), numbers, seed=options.seed, begin=begin,
            solver=solver, batch=options.batch, device=self.device,
        ):  # fmt: skip
            if calls is not None and "calls" in drawn.scores:
                calls(drawn.scores["calls"])
            yield drawn.x

    def stops(self, options: SampleOptions) -> Any:
        """The grid that the options ask for. Raises ValueError for one that is not known."""
        from sfumato import diffusion as d

        grids: dict[str, Any] = {
            "auto": self.grid or d.cosine, "cosine": d.cosine, "uniform": d.uniform, "karras": d.karras, "logsnr": d.logsnr,
        }  # fmt: skip
        if options.grid not in grids:
            raise ValueError(f"grid = {options.grid!r}: must be one of {', '.join(grids)}")
        return d.ShiftedGrid(grids[options.grid], options.shift or 1.0)

    def guess(self, options: SampleOptions) -> Any:
        """The denoiser, guided as asked."""
        from sfumato import diffusion as d

        if not self.classes or self.map:  # a flow map takes the strength as an input
            return self.denoiser
        assert options.w is not None
        guided = d.guide(self.denoiser, options.w)
        everywhere = options.guide_from <= 0 and options.guide_to >= 1
        return guided if everywhere else d.during(guided, options.guide_from, options.guide_to)

    def condition(self, options: SampleOptions) -> Any:
        """Numbers of samples -> their condition, name -> (b, ...); None where there is none. Raises ValueError for options
        that this model cannot follow."""
        import torch

        found = self.recipe.condition(self.run, options)
        if found is None or self.map is None or not self.classes:
            return found
        assert options.w is not None
        low, high = self.map.w
        if not low <= options.w <= high:
            raise ValueError(f"w = {options.w:g}: this flow map learned strengths from {low:g} to {high:g}")
        if not self.map.guided:
            return found
        inputs = torch.tensor([options.w, options.guide_from, options.guide_to])

        def guided(own: range) -> dict[str, Tensor]:
            return {**found(own), "guidance": inputs.expand(len(own), -1)}

        return guided


@dataclass(frozen=True)
class Asked:
    """The samples asked for, as queries: blanks of one shape, each with the condition of its number."""

    shape: tuple[int, ...]
    condition: Callable[[range], Any] | None
    buckets: None = None

    def __len__(self) -> int:
        return 2**31

    def name(self, number: int) -> tuple[str, int]:
        return "", number

    def batch(self, numbers: Any) -> dict[str, Tensor]:
        import torch

        given = {} if self.condition is None else dict(self.condition(numbers))
        return {"x": torch.zeros(len(numbers), *self.shape), **given}


def previewed(guess: Any, draw: Any, queries: Any, seed: int, steps: int = 12, solver: Any = None) -> Any:
    """What a person sees of a run on the way: a few samples, drawn from the same noise every time."""
    import torch

    from sfumato.diffusion import FromNoise, ab, generate
    from sfumato.diffusion.tree import first

    if draw is None:
        return None
    device = next(guess.network.parameters()).device
    begin = FromNoise(steps)
    parts = generate(
        guess, queries, range(len(queries)), seed=seed, begin=begin, solver=solver or ab(2), batch=len(queries), device=device
    )  # fmt: skip
    return draw(torch.cat([first(part.x).cpu() for part in parts]))


def task_of(config: Configuration, run: Run) -> Task:
    """What a run trains, from its folder alone."""
    from sfumato.recipes.distillation import converted

    task = config.recipe.task(config.recipe.reload(run), config.training.seed)
    return task if config.distill is None else converted(task, run, config.distill, config.training)


def load(out: Path | str, options: SampleOptions = SampleOptions()) -> Model:
    """A run's denoiser, from its folder alone and without running anybody's code."""
    from safetensors import safe_open

    from sfumato import networks
    from sfumato.adapting.flow_map import FlowMap
    from sfumato.diffusion import Auto, Denoiser
    from sfumato.networks.loops import Looped
    from sfumato.training import checkpoint
    from sfumato.training.ema import read_snapshots, reconstruct
    from sfumato.training.objective import Precise, bf16_pays
    from sfumato.training.parallel import pick_device

    out = Path(out)
    run = Run(out)
    config = read_config(run)
    facts = read_facts(run)
    device = pick_device()
    if run.model.is_file():
        weights = checkpoint.read_tensors(run.model)
        with safe_open(run.model, "pt") as file:
            built = networks.build(json.loads(file.metadata()["network"]))
    else:  # not finished: the average in the newest checkpoint
        path, complaints = checkpoint.newest(run.checkpoints)
        if path is None:
            raise RunError(f"{out}: nothing to sample from yet" + (f" ({complaints[0]})" if complaints else ""))
        found = checkpoint.load(path)
        say(f"{out} is not finished; taking its average at step {found.step}")
        prefix = f"{config.training.ema[0]}/"
        weights = {
            name.removeprefix(prefix): value for name, value in found.tensors["ema"].items() if name.startswith(prefix)
        }
        weights = {**found.tensors["network"], **weights}
        built = task_of(config, run).network
    if options.ema is not None and options.ema != config.training.ema[0]:
        rebuilt = reconstruct(read_snapshots(run.snapshots), options.ema)
        weights = {**weights, **rebuilt}
    built.load_state_dict(weights)
    built.to(device).eval().requires_grad_(False)
    if options.loops is not None:
        if getattr(built, "loops", None) is None:
            raise ValueError(f"loops = {options.loops}: {out} was trained without (train --network.loops LEAST MOST)")
        built = Looped(built, options.loops)
    bf16 = options.precision == "bf16" or (
        options.precision == "auto" and bf16_pays(device) and config.training.precision != "fp32"
    )
    grid, left = None, None
    measured = next(
        (path for path in (run.walk, out / "grid.json") if path.is_file()), None
    )  # the second of older runs
    if measured is not None:
        stored = json.loads(measured.read_text())
        grid = Auto(tuple(stored["angles"]), tuple(stored["progress"])) if "angles" in stored else None
        left = stored.get("residual")
    process = config.recipe.process()
    denoiser = (Denoiser if config.distill is None else FlowMap)(Precise(built, bf16), process)
    return Model(
        run, config.recipe, denoiser, process, tuple(facts["shape"]), tuple(facts["classes"]), grid, device, config.distill,
        left,
    )  # fmt: skip
