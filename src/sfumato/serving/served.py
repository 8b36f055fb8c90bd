"""A run as it is served: its field draws as it does offline, and what it asks of ``model.draw`` is walked by the engine,
together with the rows of everybody else."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from sfumato.diffusion import Drawn, tree
from sfumato.diffusion.coefficients import numbers as no_nan
from sfumato.diffusion.generate import RESERVED, Queries, bunches, streams
from sfumato.diffusion.rng import widest
from sfumato.diffusion.sample import check_times, check_world
from sfumato.diffusion.tree import Tree
from sfumato.errors import Wrong, options_meet_the_core
from sfumato.jobs.finite import refused, unfinite
from sfumato.jobs.fits import STREAM as FITTING
from sfumato.jobs.model import Model, Told
from sfumato.jobs.walk import Plain as PlainPush
from sfumato.jobs.walk import Projected, Walk, spelt
from sfumato.serving.engine import Cancelled, Engine, Line
from sfumato.serving.lookup import Times
from sfumato.serving.rows import Row, calls
from sfumato.serving.team import Walker

AHEAD = 256
"""Rows of a request that are under way at once."""


@dataclass(eq=False)
class Asker:
    """Who asks: the class that pays, whether it still waits, whether it wants the bits of the offline sample, and whom to show
    rows on the way."""

    share: str = ""
    exact: bool = False
    gone: bool = False
    look: Callable[[int, int, int, Callable[[], Drawn]], None] | None = None
    """number, step, steps, and what gives the guess of it as drawn: called by the engine after each step."""
    end: Callable[[Row], None] | None = None
    """Told each row that has arrived, before anything is made of it."""


class Bunch:
    """Rows whose samples are given back together. The owner of its rows."""

    def __init__(self, asker: Asker, numbers: Sequence[int], query: Mapping[str, Tree]):
        self.asker, self.numbers, self.query = asker, list(numbers), query
        self.found: dict[int, Tree] = {}
        self.done, self.error = threading.Event(), None

    error: BaseException | None

    @property
    def gone(self) -> bool:
        return self.asker.gone or self.error is not None

    def stepped(self, row: Row, data: Callable[[], Tree]) -> None:
        if self.asker.look is not None:
            self.asker.look(row.number, row.place, row.steps, lambda: Drawn(data(), row.query, [row.number], {}))

    def arrived(self, row: Row) -> None:
        self.found[row.number] = row.x_t
        if self.asker.end is not None:
            self.asker.end(row)
        if len(self.found) == len(self.numbers):
            self.done.set()

    def failed(self, error: BaseException) -> None:
        self.error = self.error or error
        self.done.set()

    def drawn(self) -> Drawn:
        """The samples, once all are there. Raises what ended it."""
        self.done.wait()
        if self.error is not None:
            raise self.error
        x = tree.join(*(self.found[number] for number in self.numbers))
        return Drawn(x, self.query, self.numbers, {})


class Gated:
    """A network each of whose calls waits in the engine's line, but for those that the engine makes itself: so whatever a field
    does with its network beside ``model.draw`` takes its turn, and ends where nobody waits for it any more.

    Args:
        denoiser: whose network it is, as the engine knows it. cost: calls that will be made, about.
    """

    def __init__(self, denoiser: Any, engine: Engine, asker: Asker, cost: int = 20):
        self.denoiser, self.engine, self.asker, self.line = denoiser, engine, asker, Line(cost)

    def __call__(self, *arguments: Any, **known: Any) -> Any:
        work = torch.no_grad()(lambda: self.denoiser.network(*arguments, **known))
        if self.engine.here():
            return work()
        return self.engine.call(work, self.asker.share, tree.rows(arguments[0]), self.line, lambda: self.asker.gone)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.denoiser.network, name)


def gated(denoiser: Any, engine: Engine, asker: Asker, cost: int = 20) -> Any:
    """A denoiser whose network waits in line."""
    return replace(denoiser, network=Gated(denoiser, engine, asker, cost))


def bare(denoiser: Any) -> Any:
    """A denoiser as the engine walks it: of a gated one that which was gated, the same for everybody."""
    network = getattr(denoiser, "network", None)
    if not isinstance(network, Gated):
        return denoiser
    before = network.denoiser
    return before if before.process is denoiser.process else replace(before, process=denoiser.process)


@dataclass(frozen=True)
class Served(Model):
    """A model whose samples are drawn by an engine, for somebody."""

    engine: Any = None
    asker: Any = None

    @classmethod
    def of(cls, model: Model, engine: Engine, asker: Asker) -> Served:
        """The model, served."""
        own = {name: value for name, value in vars(model).items() if name not in ("engine", "asker")}
        return cls(**own, engine=engine, asker=asker)

    def draw(
        self, queries: Queries, numbers: Sequence[int], *, walk: Walk | None = None, seed: int | None = None,
        stream: Sequence[str | int] = ("sample",), begin: Any = None, look: Any = None, finite: bool = True,
        with_solver: Any = None,
    ) -> Iterator[Drawn]:  # fmt: skip
        """As offline: the same samples in the same portions, to rounding (in its bits where exact is asked).

        Raises Wrong where a solver would have to be fitted first: nobody else would be served meanwhile."""
        if with_solver is not None or tuple(stream) == FITTING:
            raise Wrong(
                "solver = 'fit': none is fitted to this run for so many steps yet; `sfumato sample RUN --solver fit --steps N` "
                "does that once, and the server takes it from there"
            )
        walk = walk or self.walk
        solver = self.solver(walk)
        if self.asker.exact or solver.counts or look is not None:
            cost = calls(solver, walk.steps or 20) * (3 if solver.counts else 1)
            if self.recipe.guided and walk.w not in (None, 0, 1):
                cost *= 2
            waiting = replace(self, denoiser=gated(bare(self.denoiser), self.engine, self.asker, cost))
            yield from Model.draw(
                waiting, queries, numbers, walk=walk, seed=seed, stream=stream, begin=begin, look=look, finite=finite
            )
            return
        with options_meet_the_core(f"drawing from {self.run.path.name}"):
            check_world(self.process, solver)
            no_nan(solver)
            told = {
                name: value for each in self.adaptations for name, value in each.told(self.settings, walk).items()
            }  # fmt: skip
            asked = Told(queries, told) if told else queries
            own = list(bunches(asked, numbers, walk.batch or 16))
            line: list[Bunch] = []
            while own or line:
                while own and (not line or sum(len(b.numbers) for b in line) + len(own[0]) <= AHEAD):
                    line.append(self._entered(asked, own.pop(0), walk, solver, seed, stream, begin))
                drawn = line.pop(0).drawn()
                if finite and (bad := unfinite(drawn.x)):
                    raise refused([drawn.numbers[row] for row in bad], "", walk.solver)
                yield drawn

    @torch.no_grad()
    def _entered(
        self, queries: Queries, numbers: list[int], walk: Walk, solver: Any, seed: int | None,
        stream: Sequence[str | int], begin: Any,
    ) -> Bunch:  # fmt: skip
        """These samples on their way."""
        if self.asker.gone:
            raise Cancelled
        query = tree.to(dict(queries.batch(numbers)), self.device)
        condition = {name: value for name, value in query.items() if name not in RESERVED}
        denoiser = bare(self.denoiser)
        strong = denoiser.given(**condition) if condition else None
        sides: dict[str, Tree] = {"strong": strong}
        names = [name for name in self.recipe.guided if name in query]
        w = 1.0 if walk.w is None else walk.w
        if names and all(each.guides() for each in self.adaptations) and w != 1:
            hidden = {**tree.hide(condition, names), **(query.get("weak") or {})}
            sides["weak"] = denoiser.given(**hidden)
        walker, bunch = self._walker(walk, solver), Bunch(self.asker, numbers, query)
        low, high = walk.guide_from or 0.0, 1.0 if walk.guide_to is None else walk.guide_to
        rows = []
        for i, number in enumerate(numbers):
            mine = {name: tree.take(value, slice(i, i + 1)) for name, value in query.items()}
            start = self._beginning(queries, number, mine, walk, solver, seed, stream, begin)
            own = {
                side: None if value is None else tree.take(value, slice(i, i + 1)) for side, value in sides.items()
            }  # fmt: skip
            rows.append(Row(number, bunch, walker, start, mine, own, w, low, high, self.asker.share))
        self.engine.enter(rows)
        return bunch

    def _walker(self, walk: Walk, solver: Any) -> Walker:
        how = spelt("guide_by", walk.guide_by or "plain", {"plain": PlainPush(), "apg": Projected()})
        plain = type(how) is PlainPush

        def around(said: Any, w: torch.Tensor) -> Any:
            return how.around(said, w if plain else float(w[0]), (), None)

        words = (repr(solver), "" if plain else (repr(how), walk.w))
        return Walker(bare(self.denoiser), solver, str(words), around, self.recipe.guide)

    def _beginning(
        self, queries: Queries, number: int, query: Mapping[str, Tree], walk: Walk, solver: Any, seed: int | None,
        stream: Sequence[str | int], begin: Any,
    ) -> Callable[[], Any]:  # fmt: skip
        process, grid, first = self.process, self.grid(walk), begin or self.recipe.begin
        steps, chosen = 1 if solver.counts else walk.steps or 1, self.drawing.seed if seed is None else seed

        def start() -> Any:
            rng = streams(queries, [number], chosen, stream, self.device)
            z = self.recipe.guide(self.denoiser, query).process.prior(query["x"], rng)
            x_t, times = first(process_of(self, query), z, grid(process.schedule, steps), query)
            check_times(times)
            return x_t, Times.of(times, widest(self.device), self.device), rng

        return start


def process_of(model: Model, query: Mapping[str, Tree]) -> Any:
    """The process as the field's own guess has it, which may hold what is known."""
    return model.recipe.guide(model.denoiser, query).process
