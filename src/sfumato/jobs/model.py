"""A trained run ready to be sampled: its denoiser, rebuilt from the folder alone, and how samples are drawn from it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfumato.errors import Wrong, options_meet_the_core, typed
from sfumato.jobs.adapt import Walked
from sfumato.jobs.config import Configuration, belongs, read_config
from sfumato.jobs.finite import refused, smaller, unfinite, whence
from sfumato.jobs.fits import fitted
from sfumato.jobs.making import Making
from sfumato.jobs.recipe import Data, Recipe, say
from sfumato.jobs.resolve import resolved
from sfumato.jobs.seal import unchanged
from sfumato.jobs.strict import options, to_plain
from sfumato.jobs.taken import fingerprint, measured
from sfumato.jobs.tune import changed
from sfumato.jobs.walk import DESCENT, Drawing, Walk, grid_of, guidance_of, is_fit, solver_of
from sfumato.training.run import Run, RunError

if TYPE_CHECKING:
    from torch import nn

    from sfumato.diffusion import Drawn, Guess, Solver
    from sfumato.diffusion.generate import Queries
    from sfumato.diffusion.grids import Grid
    from sfumato.diffusion.tree import Tree
    from sfumato.training.objective import Savable, Task


@dataclass(frozen=True)
class Model:
    """A trained run ready to be sampled.

    Attributes:
        facts: what the field knows of its data.
        denoiser: the network and the process.
        walk: how samples are drawn unless told otherwise, resolved.
        measured: what the run measured of itself (walk.json).
        bring: gives the companions, the same ones each time.
        given, named: what ``walk`` was resolved from.
        fits: the solvers that were fitted to it, once they were asked for; see `fits.py`.
    """

    run: Run
    recipe: Recipe
    facts: Any
    denoiser: Any
    walk: Walk
    drawing: Drawing
    adaptations: tuple[Walked, ...]
    device: Any
    measured: Mapping[str, Any] = field(default_factory=dict)
    bring: Callable[[], Any] = field(default=lambda: None, repr=False)
    given: Walk = field(default_factory=Walk)
    named: str = "usual"
    fits: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def companions(self) -> Any:
        """What the field wants beside the network, loaded when first asked for. Raises DataError, RunError."""
        return self.bring()

    @property
    def process(self) -> Any:
        """The process of the denoiser."""
        return self.denoiser.process

    @property
    def settings(self) -> dict[str, Any]:
        """Those that the network was built with."""
        network = self.denoiser.network
        while not hasattr(network, "options") and hasattr(network, "network"):
            network = network.network
        found: dict[str, Any] = getattr(network, "options", {})
        return found

    # ---- how ---------------------------------------------------------------------------------------------------------

    def walked(self, asked: Walk, name: str = "usual") -> Walk:
        """A walk with what was left open chosen. Raises Wrong for a name that the field does not know."""
        return resolved(asked, name, self.recipe, self.process, self.adaptations)

    def solver(self, walk: Walk) -> Solver:
        """The solver of a resolved walk. Raises Wrong for one that this run cannot use."""
        from sfumato import diffusion as d

        if is_fit(walk):
            return self.recipe.around(fitted(self, walk))
        own: dict[str, Any] = {}
        if "residual" in self.measured:
            own["descent"] = d.Descent(tol=walk.tol or self.measured["residual"] or 0.2, most=walk.steps or DESCENT)
        for adaptation in self.adaptations:
            own |= adaptation.solvers(self.process)
        if walk.tol is None or walk.solver == "descent":
            made = solver_of(walk, self.process, {**self.recipe.solvers(), **own})
            return made if self.adaptations else self.recipe.around(made)
        finest: float = max(getattr(self.process, "finest", 0.0), 1e-3)
        within: dict[str, Any] = {"adaptive": d.AdaptiveSolver(walk.tol, walk.tol, finest)}
        within |= {name: each.within(walk.tol, self.process) for each in self.adaptations for name in own}
        if walk.solver not in within or self.process.states not in within[walk.solver].states:
            raise Wrong(f"tol chooses the steps itself, which solver = {walk.solver!r} cannot: leave one of them out")
        chosen: Solver = within[walk.solver]
        return chosen

    def grid(self, walk: Walk) -> Grid:
        """The grid of a resolved walk. Raises Wrong."""
        from sfumato.diffusion import Auto

        if is_fit(walk):
            return fitted(self, walk).grid
        known = self.measured.get("angles"), self.measured.get("progress")
        return grid_of(walk, Auto(tuple(known[0]), tuple(known[1])) if known[0] and known[1] else None)

    def guided(self, walk: Walk) -> Callable[[Guess, Mapping[str, Tree]], Guess]:
        """What goes around the denoiser for the queries of a batch: guidance, then what the field puts around that."""
        plain, guide = not all(adaptation.guides() for adaptation in self.adaptations), guidance_of(walk, self.process)
        if plain and walk.guide_by not in (None, "plain"):
            raise Wrong(f"guide_by = {walk.guide_by!r}: a flow map has learned its guidance; leave it out")

        def around(guess: Guess, query: Mapping[str, Tree]) -> Guess:
            names = [name for name in self.recipe.guided if name in query]
            return self.recipe.guide(guide(guess, names, query.get("weak")) if names and not plain else guess, query)

        return around

    def usual_queries(self, n: int) -> Queries:
        """n of the samples that are drawn where nothing is asked for."""
        found: Queries = self.recipe.queries(self, self.recipe.Ask(), n)
        return found

    # ---- samples -----------------------------------------------------------------------------------------------------

    def draw(
        self,
        queries: Queries,
        numbers: Sequence[int],
        *,
        walk: Walk | None = None,
        seed: int | None = None,
        stream: Sequence[str | int] = ("sample",),
        begin: Callable[[Any, Tree, Tree, Mapping[str, Tree]], tuple[Tree, Tree]] | None = None,
        look: Callable[[Sequence[int], int, int, Tree], None] | None = None,
        finite: bool = True,
        with_solver: Any = None,
    ) -> Iterator[Drawn]:
        """Yield samples of the given numbers in batches, in standard units; a field's ``draw`` draws through this alone.

        Args:
            walk: a resolved one, if other than the model's. seed: if other than its drawing's.
            stream: the purpose of the randomness, ("lead", k) for the k-th step of a rollout.
            begin: instead of the field's: process, z, times, query -> first state and times.
            look: as for :func:`~sfumato.diffusion.generate.generate`.
            finite: refuse samples that are not; False: the caller looks after them, row by row.
            with_solver: instead of the walk's: one that knows its own stops, as ``with_solver.grid``.

        Where memory runs out the batch is halved. Raises NonFiniteSample, which names the sample, the solver, step and t.
        """
        from sfumato.diffusion import generate

        walk = walk or self.walk
        recipe, own = self.recipe, with_solver
        solver, grid = (self.solver(walk), self.grid(walk)) if own is None else (recipe.around(own), own.grid)
        steps = 1 if solver.counts else walk.steps or 1
        first = begin or recipe.begin

        def start(process: Any, z: Tree, query: Mapping[str, Tree]) -> tuple[Tree, Tree]:
            return first(process, z, grid(process.schedule, steps), query)

        told = {
            name: value for each in self.adaptations for name, value in each.told(self.settings, walk).items()
        }  # fmt: skip
        batch, left = walk.batch or 16, list(numbers)
        while left:
            try:
                # some solvers see only on the way that they cannot walk this process
                with options_meet_the_core(f"drawing from {self.run.path}"):
                    for drawn in generate(
                        self.denoiser, Told(queries, told) if told else queries, left,
                        seed=self.drawing.seed if seed is None else seed, stream=stream, begin=start,
                        guide=self.guided(walk), solver=solver, batch=batch, device=self.device, look=look,
                    ):  # fmt: skip
                        gone = set(drawn.numbers)
                        left = [number for number in left if number not in gone]
                        if finite and (bad := unfinite(drawn.x)):
                            again = partial(
                                self.draw, queries, drawn.numbers, seed=seed, stream=stream, finite=False,
                                walk=dataclasses.replace(walk, batch=batch),
                            )  # fmt: skip
                            raise refused([drawn.numbers[row] for row in bad], whence(again, first), walk.solver)
                        yield drawn
                return
            except (RuntimeError, MemoryError) as error:
                batch = smaller(batch, error)

    def sample(self, n: int | None = None, *, seed: int | None = None, **asked: Any) -> list[Any]:
        """Samples as the field's things: pictures, texts, rows. Keywords are the options of `sfumato sample`: what a sample
        is asked for (``label="flags"``) and how it is drawn (``steps=50, w=2.0``).

        Raises Wrong for an unknown name or a value that makes no sense.
        """
        model, ask = self.asked(seed, asked)
        queries = model.recipe.queries(model, ask, n)
        drawn = model.recipe.draw(model, queries, range(len(queries)))
        things = [pair for part in drawn for pair in zip(part.numbers, self.recipe.things(model, queries, part))]
        return [thing for _, thing in sorted(things, key=lambda pair: pair[0])]

    def asked(self, seed: int | None, asked: Mapping[str, Any]) -> tuple[Model, Any]:
        """The model with the walk that keywords ask for, and what samples are asked for. Raises Wrong."""
        walks = {f.name for f in dataclasses.fields(Walk)}
        how = options(Walk, {name: value for name, value in asked.items() if name in walks})
        ask = options(self.recipe.Ask, {name: value for name, value in asked.items() if name not in walks}, walks)
        drawing = self.drawing if seed is None else dataclasses.replace(self.drawing, seed=seed)
        given = how.over(self.given)
        walk = self.walked(given, self.named) if how != Walk() else self.walk
        return dataclasses.replace(self, walk=walk, drawing=drawing, given=given), ask

    def making(self, ask: Any, suffix: str = "") -> Making:
        """What samples of this model are made by."""
        return Making(
            str(self.run.path), fingerprint(self.run), self.drawing.seed, to_plain(ask), to_plain(self.walk),
            to_plain(self.drawing), suffix=suffix,
        )  # fmt: skip


@dataclass(frozen=True)
class Told:
    """Queries of which every sample is told something more, (1, ...) each."""

    queries: Queries
    told: Mapping[str, Tree]

    @property
    def buckets(self) -> Sequence[int] | None:
        return self.queries.buckets

    def __len__(self) -> int:
        return len(self.queries)

    def name(self, number: int) -> tuple[str, int]:
        return self.queries.name(number)

    def batch(self, numbers: Sequence[int]) -> dict[str, Tree]:
        more = {name: value.expand(len(numbers), *value.shape[1:]) for name, value in self.told.items()}
        return {**self.queries.batch(numbers), **more}


def built(recipe: Recipe, facts: Any, seed: int) -> nn.Module:
    """The field's network for its data, whose first weights are a function of the seed."""
    import torch

    from sfumato.diffusion import key
    from sfumato.training.parallel import pick_device

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key("weights", seed))
        return recipe.build(facts, pick_device().type)


def task_of(config: Configuration, run: Run, data: Data | None = None) -> Task:
    """What a run trains, from its folder alone (or from data that was just prepared)."""
    recipe, seed = config.recipe, config.training.seed
    if data is None:
        unchanged(run)
        data = recipe.open(run)
    task = recipe.task(data, built(recipe, data.facts, seed))
    for adaptation in config.adaptations:
        task = adaptation.task(task, run, config.training, recipe.kinds())
    if task.preview is None:
        facts, adaptations, bring = data.facts, config.walked, companions(recipe, run)
        task = dataclasses.replace(
            task, preview=lambda guess: previewed(guess, run, recipe, facts, adaptations, seed, bring)
        )
    return task


def companions(recipe: Recipe, run: Run) -> Callable[[], Any]:
    """A function that gives the field's companions of a run: loaded when it is first called, and once."""
    from sfumato.training.parallel import pick_device

    return cache(partial(recipe.companions, run, pick_device()))


def previewed(
    guess: Any, run: Run, recipe: Recipe, facts: Any, adaptations: tuple[Walked, ...], seed: int,
    bring: Callable[[], Any], count: int = 16,
) -> Savable | None:  # fmt: skip
    """What a person sees of a run on the way: a few of the usual samples, from the same noise every time, unguided."""
    import torch

    usual = Walk(steps=12, grid="cosine", shift=1.0, w=1.0, batch=count)
    if guess.process.states == "vectors":
        usual = Walk(solver="ab2", eta=0.0).over(usual)
    if adaptations:
        usual = dataclasses.replace(Walk(batch=count), steps=4, grid="cosine", shift=1.0)
    walk = resolved(usual, "usual", recipe, guess.process, adaptations)
    device = next(guess.network.parameters()).device
    model = Model(run, recipe, facts, guess, walk, Drawing(seed), adaptations, device, bring=bring)
    with torch.no_grad():
        queries = recipe.queries(model, recipe.Ask(), count)
        things = [
            thing
            for part in recipe.draw(model, queries, range(len(queries)))
            for thing in recipe.things(model, queries, part)
        ]
        return recipe.picture(model, things)


def load(
    out: Path | str, walk: Walk = Walk(), drawing: Drawing = Drawing(), name: str = "usual", field: str | None = None
) -> Model:
    """A run's denoiser, from its folder alone and without running anybody's code.

    Args:
        walk: how samples are to be drawn; name: a walk that the field knows by name, for what that leaves open.
        drawing: which average, which precision.
        field: the field that the run must be of (None: any).

    Raises RunError, CheckpointError, and Wrong for options that make no sense here and for a run of another field.
    """
    from sfumato.diffusion import Denoiser
    from sfumato.networks.loops import Looped
    from sfumato.training import checkpoint
    from sfumato.training.ema import read_snapshots, reconstruct
    from sfumato.training.objective import Precise, bf16_pays
    from sfumato.training.parallel import pick_device

    run = Run(Path(out))
    if field is not None:
        belongs(run.path, field)
    config = read_config(run)
    recipe, device = config.recipe, pick_device()
    unchanged(run, "data.json")
    facts = recipe.facts(run)
    network, weights = _weights(config, run)
    if drawing.ema is not None and drawing.ema != config.training.ema[0]:
        found: Any = reconstruct(read_snapshots(run.snapshots), drawing.ema)
        for adaptation in config.adaptations if run.model.is_file() else ():
            found = adaptation.weights(found)
        weights = {**weights, **found}
    for text in drawing.lora:
        weights = changed(weights, text)
    checkpoint.fits(weights, network.state_dict(), str(run.path))
    network.load_state_dict(weights)
    network.to(device).eval().requires_grad_(False)
    if drawing.loops is not None:
        if getattr(network, "loops", None) is None:
            raise Wrong(f"loops = {drawing.loops}: {out} was trained without (train --network.loops LEAST MOST)")
        network = Looped(network, drawing.loops)
    bf16 = drawing.precision == "bf16" or (
        drawing.precision == "auto"
        and device.type != "cpu"
        and bf16_pays(device)
        and config.training.precision != "fp32"
    )
    process, precise = recipe.process(facts), Precise(network, bf16)
    made = [adaptation.denoiser(precise, process) for adaptation in config.walked]
    denoiser = made[-1] if made else Denoiser(precise, process)
    chosen = resolved(walk, name, recipe, process, config.walked)
    model = Model(
        run, recipe, facts, denoiser, chosen, drawing, config.walked, device, measured(run), companions(recipe, run),
        walk, name,
    )  # fmt: skip
    model.solver(chosen), model.grid(chosen), model.guided(chosen)  # what cannot be used is said now
    return model


def _weights(config: Configuration, run: Run) -> tuple[nn.Module, dict[str, Any]]:
    """The network of a run, and the averaged weights to load into it. Raises RunError where there are none yet."""
    from sfumato import networks
    from sfumato.training import checkpoint

    if run.model.is_file():
        weights, about = checkpoint.read_weights(run.model)
        try:
            settings = dict(json.loads(about["network"]))
        except (KeyError, ValueError, TypeError, RecursionError) as error:
            raise RunError(
                f"{run.model}: does not say of which network it is; `sfumato resume {typed(run.path)}` writes it anew"
            ) from error
        return networks.rebuilt(settings, weights, str(run.model), config.recipe.kinds()), weights
    path, complaints = checkpoint.newest(run.checkpoints)  # not finished: the average in the newest checkpoint
    if path is None:
        raise RunError(f"{run.path}: nothing to sample from yet" + (f" ({complaints[0]})" if complaints else ""))
    found = checkpoint.load(path)
    say(f"{run.path} is not finished; taking its average at step {found.step}")
    prefix = f"{config.training.ema[0]}/"
    averages = {
        name.removeprefix(prefix): value for name, value in found.tensors["ema"].items() if name.startswith(prefix)
    }
    return task_of(config, run).network, {**found.tensors["network"], **averages}
