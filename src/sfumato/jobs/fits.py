"""`--solver fit`: a solver fitted to this run, for one number of steps and one way of guiding, made when it is first asked for.

What was fitted is kept in fits.json of the run, and taken from there as long as the weights are the same.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from sfumato.errors import Wrong, check, typed
from sfumato.jobs.taken import fingerprint
from sfumato.jobs.walk import Walk, spelt
from sfumato.training.run import Run, RunError, sealed, unsealed, write_text
from sfumato.training.telling import tell

if TYPE_CHECKING:
    from torch import Tensor

    from sfumato.diffusion.fitted import Fit, Fitted
    from sfumato.diffusion.generate import Drawn, Queries
    from sfumato.diffusion.grids import Grid
    from sfumato.jobs.walk import Drawing

NAME = "fits.json"
STREAM = ("fit",)
"""Of the noises that solvers are fitted to."""


DEPENDS = ("steps", "w", "guide_from", "guide_to", "guide_by")
"""Of a walk: what a fitted solver depends on, beside the noise."""


@dataclass(frozen=True)
class Fitting:
    """How a solver is fitted."""

    seconds: float = 30.0
    """By the clock, the fine walk included; more where this is not enough for 48 noises."""
    noises: int = 64
    """It is fitted to so many, and checked on half as many others."""

    def __post_init__(self) -> None:
        check(self, (self.seconds > 0, "seconds", "above 0"), (4 <= self.noises <= 4096, "noises", "from 4 to 4096"))


class Sampled(Protocol):
    """What is wanted of a `Model`."""

    @property
    def run(self) -> Run: ...

    @property
    def drawing(self) -> Drawing: ...

    @property
    def adaptations(self) -> Sequence[Any]: ...

    @property
    def fits(self) -> dict[str, Any]: ...

    @property
    def process(self) -> Any: ...

    def grid(self, walk: Walk) -> Grid: ...

    def usual_queries(self, n: int) -> Queries: ...

    def draw(
        self,
        queries: Queries,
        numbers: Sequence[int],
        *,
        walk: Walk,
        seed: int,
        stream: Sequence[str | int],
        with_solver: Any,
    ) -> Iterator[Drawn]: ...


def fitted(model: Sampled, walk: Walk) -> Fitted:
    """The solver of a resolved walk whose solver is "fit": as the run keeps it, or fitted now.

    Raises:
        Wrong: a run that has none (flow maps, tokens), or one for which fitting found nothing better than its start.
        RunError: a damaged file of the run.
    """
    key = json.dumps({name: getattr(walk, name) for name in ("solver", *DEPENDS)})
    if key not in model.fits:  # a policy asks for it at every step
        model.fits[key] = _found(model, walk)
    solver: Fitted = model.fits[key]
    return solver


def _found(model: Sampled, walk: Walk) -> Fitted:
    """What the run keeps for this walk and these weights, or what is fitted now, and then kept."""
    how: Fitting = spelt("solver", walk.solver or "", {"fit": Fitting()})
    if model.adaptations:
        raise Wrong("solver = 'fit': this run is a flow map, whose steps are exact as they are; leave it out")
    if model.process.states != "vectors" or not hasattr(model.process, "schedule"):
        raise Wrong(
            f"solver = 'fit': is fitted to flows of vectors, and the states of this run are {model.process.states}"
        )
    drawing = {name: getattr(model.drawing, name) for name in ("ema", "loops", "precision", "lora")}
    walked = {name: getattr(walk, name) for name in DEPENDS}
    key = json.dumps({**walked, **drawing, "weights": fingerprint(model.run)}, sort_keys=True)
    kept = _kept(model)
    if kept.get(key, {}).get("noises", 0) < how.noises:  # none, or one that was fitted to fewer
        found = _fit(model, walk, how)
        if not found.better:
            solver, grid = found.start.split(", ")
            raise Wrong(
                f"solver = 'fit': {walk.steps} steps fitted in {found.walks} walks are no better than --solver {solver} --grid "
                f"{grid}: use that, or give it more, as --solver fit:seconds={4 * how.seconds:g},noises={4 * how.noises}"
            )
        told = {"noises": how.noises, "start": found.start, "error": found.error, "before": found.before}
        kept[key] = {**dataclasses.asdict(found.solver), **told}
        file = model.run.path / NAME
        try:
            write_text(file, sealed(kept))
        except OSError as error:
            tell(f"warning: {typed(file)} was not written ({error.strerror}): the fit is for this time alone")
    return _read(model, kept[key])


def _kept(model: Sampled) -> dict[str, Any]:
    file = model.run.path / NAME
    if not file.is_file():
        return {}
    try:
        return unsealed(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{file}: cannot be read ({error}); delete it, and solvers are fitted anew") from error


def _read(model: Sampled, found: Any) -> Fitted:
    from sfumato.diffusion.fitted import Fitted

    try:
        factors = tuple(tuple((float(a), float(b)) for a, b in step) for step in found["factors"])
        return Fitted(tuple(map(float, found["angles"])), factors)
    except (KeyError, ValueError, TypeError) as error:
        raise RunError(f"{model.run.path / NAME}: holds no solver ({error}); delete it") from error


def _fit(model: Sampled, walk: Walk, how: Fitting) -> Fit:
    """Fit the steps of this walk to the usual queries of the run, within the seconds."""
    from sfumato.diffusion.fitted import GRIDS, Noises, fit_solver, starts

    assert walk.steps is not None
    if walk.steps < 2:
        raise Wrong(
            "solver = 'fit': in a single step there is nothing to fit; a flow map (`sfumato distill`) takes one"
        )
    begun = time.monotonic()
    plain = dataclasses.replace(walk, solver="ab3", grid="auto", shift=1.0)
    queries, numbers = _asked(model, how.noises + how.noises // 2)
    batch = walk.batch or 16
    each = _seconds_each(walk.steps, batch, lambda some: _drawn(model, queries, some, plain), len(numbers))
    affordable = max(int(how.seconds / each) // batch * batch, LEAST)
    numbers = numbers[:affordable]
    seconds = max(how.seconds, each * len(numbers))
    tell(f"fit       {walk.steps} steps to this run, once, in about {seconds:.0f} s")
    many = -(-len(numbers) * 2 // 3)
    many = many // batch * batch or many
    fine = dataclasses.replace(plain, grid="cosine", steps=FINE)

    def noises(own: Sequence[int]) -> Noises:
        return Noises(lambda solver: _drawn(model, queries, own, walk, solver), _drawn(model, queries, own, fine))

    known = starts(model.process.schedule, walk.steps, {"auto": model.grid(plain), **GRIDS})
    checking = noises(numbers[many:])
    found = fit_solver(noises(numbers[:many]), checking, known, enough=lambda: time.monotonic() - begun > seconds)
    tell(
        f"fitted    {time.monotonic() - begun:.0f} s, to {many} noises; on {len(numbers) - many} others {found.error:.3g} from "
        f"{FINE} fine steps, where {found.start} is {found.before:.3g} from them"
    )
    return found


LEAST = 48
"""Noises for fitting and checking, however long that takes: of fewer, what was found is as often worse as better."""
FINE = 48
"""Steps of ab3 on the cosine grid: the walk that is imitated. Of a trained network half as many are as far from its flow as six
fitted steps."""


def _seconds_each(steps: int, batch: int, draw: Callable[[Sequence[int]], Any], most: int) -> float:
    """What one noise more takes, for fitting and checking. A network sees whole batches alone."""
    few = range(min(most, batch))
    draw(few)
    begun = time.monotonic()
    draw(few)
    call = (time.monotonic() - begun) / steps / batch
    numbers = 5 * steps - 6  # widths, and factors of two guesses
    return call * (FINE + steps * (20 + 2 * (numbers + 15)) / 3)  # a third checks; slopes and tries on the rest


def _asked(model: Sampled, count: int) -> tuple[Any, list[int]]:
    """The run's usual queries, and at most so many of them that can stand in one batch. Raises Wrong where they are too few."""
    queries = model.usual_queries(count)
    kinds, every = queries.buckets, range(len(queries))
    numbers = [number for number in every if kinds is None or int(kinds[number]) == int(kinds[0])][:count]
    if len(numbers) < 6:
        raise Wrong(f"solver = 'fit': this run asks for {len(numbers)} samples of one shape, too few to fit to")
    return queries, numbers


def _drawn(model: Sampled, queries: Any, numbers: Sequence[int], walk: Walk, solver: Fitted | None = None) -> Tensor:
    """Where a walk brings the noises of these numbers, in their order."""
    import torch

    parts = list(model.draw(queries, numbers, walk=walk, stream=STREAM, seed=0, with_solver=solver))
    x = torch.cat([part.x for part in parts])
    order = torch.tensor([number for part in parts for number in part.numbers]).argsort()
    return x[order.to(x.device)]
