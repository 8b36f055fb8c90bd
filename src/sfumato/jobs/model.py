"""A trained run ready to be sampled: its denoiser, rebuilt from the folder alone, and how samples are drawn from it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfumato.errors import Wrong, options_meet_the_core
from sfumato.jobs.adapt import DistillOptions
from sfumato.jobs.config import Configuration, read_config
from sfumato.jobs.facts import read_facts
from sfumato.jobs.recipe import say
from sfumato.jobs.walk import SampleOptions
from sfumato.training.run import Run, RunError

if TYPE_CHECKING:
    from torch import Tensor

    from sfumato.diffusion import Auto, Denoiser, Equilibrium, Gaussian
    from sfumato.jobs.recipe import Recipe
    from sfumato.training.objective import Task


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

    @options_meet_the_core()
    def solver(self, options: SampleOptions) -> Any:
        """The solver that the options ask for. Raises Wrong for one that this model cannot use."""
        from sfumato import diffusion as d
        from sfumato.adapting.flow_map import Leap
        from sfumato.adapting.habits import finest_share
        from sfumato.adapting.tolerance import LeapWithin

        eta = options.eta or 0.0
        own: dict[str, Any] = {"leap": Leap(options.gamma, options.last == "mean")} if self.map else {}
        own = own if self.residual is None else {"descent": None}
        solvers = {**d.SOLVERS, **own, "euler": d.euler(eta), "dpmpp_2m": d.dpmpp_2m(eta)}
        if options.solver not in solvers:
            hint = "; leap is for flow maps, see sfumato distill" if options.solver == "leap" else ""
            raise Wrong(f"solver = {options.solver!r}: must be one of {', '.join(solvers)}{hint}")
        if options.solver == "descent":
            return d.Descent(tol=options.tol or self.residual or 0.2, most=options.steps or 250)
        if options.tol is None:
            return solvers[options.solver]
        within: dict[str, Any] = {
            "adaptive": d.AdaptiveSolver(options.tol, options.tol, max(self.process.finest, 1e-3)),
            "leap": LeapWithin(options.tol, finest=finest_share(self.process)),
        }
        if options.solver not in within:
            raise Wrong(
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
        with options_meet_the_core():  # some solvers see only on the way that they cannot walk this process
            for drawn in generate(
                self.guess(options), Asked(self.shape, self.condition(options)), numbers, seed=options.seed, begin=begin,
                solver=solver, batch=options.batch, device=self.device,
            ):  # fmt: skip
                if calls is not None and "calls" in drawn.scores:
                    calls(drawn.scores["calls"])
                yield drawn.x

    @options_meet_the_core()
    def stops(self, options: SampleOptions) -> Any:
        """The grid that the options ask for. Raises Wrong for one that is not known."""
        from sfumato import diffusion as d

        grids: dict[str, Any] = {
            "auto": self.grid or d.cosine, "cosine": d.cosine, "uniform": d.uniform, "karras": d.karras, "logsnr": d.logsnr,
        }  # fmt: skip
        if options.grid not in grids:
            raise Wrong(f"grid = {options.grid!r}: must be one of {', '.join(grids)}")
        return d.ShiftedGrid(grids[options.grid], options.shift or 1.0)

    @options_meet_the_core()
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
        """Numbers of samples -> their condition, name -> (b, ...); None where there is none. Raises Wrong for options
        that this model cannot follow."""
        import torch

        found = self.recipe.condition(self.run, options)
        if found is None or self.map is None or not self.classes:
            return found
        assert options.w is not None
        low, high = self.map.w
        if not low <= options.w <= high:
            raise Wrong(f"w = {options.w:g}: this flow map learned strengths from {low:g} to {high:g}")
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
    from sfumato.jobs.adapt import converted

    task = config.recipe.task(config.recipe.reload(run), config.training.seed)
    if config.distill is None:
        return task
    return converted(task, run, config.distill, config.training, config.recipe.kinds())


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
            built = networks.build(json.loads(file.metadata()["network"]), config.recipe.kinds())
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
            raise Wrong(f"loops = {options.loops}: {out} was trained without (train --network.loops LEAST MOST)")
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
