"""Failure sampling: a simulator that must not fail -> how it fails, and how likely that is.

The first field without a data set: its data are calls of the simulator, and its training a campaign of rounds.
"""

from __future__ import annotations

import dataclasses
import math
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from sfumato.errors import check
from sfumato.fields.failure.facts import FailureFacts
from sfumato.fields.failure.options import (
    LEAST_CALLS,
    CampaignOptions,
    FailureAsk,
    FailureMeasure,
    FailureMethod,
    FailureNetwork,
)
from sfumato.jobs.flags import Positional
from sfumato.jobs.making import Making
from sfumato.jobs.recipe import Data, Look, Recipe, Say
from sfumato.jobs.walk import Walk
from sfumato.training.optim import OptimOptions
from sfumato.training.options import TrainOptions

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from sfumato.diffusion import Drawn, Gaussian
    from sfumato.diffusion.generate import Queries
    from sfumato.fields.failure.campaign import Setting
    from sfumato.fields.failure.simulators import Asked
    from sfumato.fields.failure.spec import Spec
    from sfumato.jobs.model import Model
    from sfumato.jobs.report import Report
    from sfumato.training.objective import Task
    from sfumato.training.run import Run

FIRST = 200
"""Calls of the first look."""


@dataclass(frozen=True)
class Failure(Recipe):
    """How a simulated system fails and how likely that is: a campaign of so many calls of the simulator."""

    Facts: ClassVar[type] = FailureFacts
    Ask: ClassVar[type] = FailureAsk
    Measure: ClassVar[type] = FailureMeasure
    verbs: ClassVar[Mapping[str, str]] = {
        "probability": "sfumato.fields.failure.verbs:Probability",
        "replay": "sfumato.fields.failure.verbs:Replay",
    }
    formats: ClassVar[tuple[str, ...]] = (".csv", ".npz")
    single: ClassVar[bool] = True
    lasting: ClassVar[tuple[str, ...]] = ("calls",)

    simulator: Positional[str]
    """System: toy2d, pendulum, halfspace or linear; gymnasium:ID with --controller; or module:function of your own, disturbances
    (B, *shape) -> robustness (B,), at or below 0 where it fails, or {"robustness", "trajectory"}."""
    calls: int = 40_000
    """Calls of the simulator in all, those for the probability included."""
    shape: tuple[int, ...] | None = None
    """Shape of one disturbance, n or STEPS CHANNELS (none: the system's own)."""
    law: tuple[str, ...] = ()
    """Law of its numbers, one for all, for each channel or for each number: normal(m,s), uniform(a,b), lognormal(m,s),
    triangular(a,c,b) (none: the system's own, else normal(0,1))."""
    symmetry: Literal["none", "negate"] = "none"
    """negate: -x fails as x does (of standard normal x); then both count as one."""
    alone: bool = False
    """Your function takes one disturbance (*shape) at a time: it runs in --processes."""
    processes: int | None = None
    """Processes for such simulators (none: as many as there are cores)."""
    controller: str | None = None
    """Of gymnasium environments: module:function, observation -> action (none: the environment's own heuristic)."""
    where: Literal["obs", "action"] = "obs"
    """Of gymnasium environments: what the disturbance is added to."""
    noise: float = 0.05
    """Of gymnasium environments: spread of the disturbance."""
    hold: int = 10
    """Of gymnasium environments: steps that each number of the disturbance is held for."""
    horizon: int = 400
    """Of gymnasium environments: steps of an episode at most."""
    campaign: CampaignOptions = field(default_factory=CampaignOptions)
    """How the calls are spent."""
    network: FailureNetwork = field(default_factory=FailureNetwork)
    """Network."""
    method: FailureMethod = field(default_factory=FailureMethod)
    """Diffusion method."""

    def __post_init__(self) -> None:
        check(
            self,
            (self.calls >= LEAST_CALLS, "calls", f"at least {LEAST_CALLS}: below that nothing can be said"),
            (self.shape is None or (1 <= len(self.shape) <= 2 and min(self.shape) >= 1), "shape", "n, or STEPS CHANNELS, each at "
             "least 1"),
            (self.processes is None or self.processes >= 1, "processes", "at least 1"),
            (0 < self.noise < math.inf, "noise", "above 0"),
            (self.hold >= 1, "hold", "at least 1"),
            (self.horizon >= 1, "horizon", "at least 1"),
        )  # fmt: skip
        from sfumato.fields.failure.law import One

        for text in self.law:
            One.spelt(text)

    def title(self) -> str:
        return re.sub(r"[^A-Za-z0-9.-]+", "-", self.simulator)

    def spec(self) -> Spec:
        """The part of the options that is about the simulator."""
        from sfumato.fields.failure.spec import Spec

        names = [f.name for f in dataclasses.fields(Spec) if f.name != "single"]
        return Spec(single=self.alone, **{name: getattr(self, name) for name in names})

    # ---- calls -------------------------------------------------------------------------------------------------------

    def asked(self) -> Asked:
        """The simulator itself: of `train`, `probability` and `replay` alone. Raises Wrong, DataError."""
        from sfumato.fields.failure.simulators import opened

        return opened(self.spec(), self.processes)

    def examine(self) -> Look:
        asked = self.asked()
        kind = "one at a time" if asked.system.single else "in batches"
        return Look((f"system    {self.simulator}, {kind}: its code runs here",), self)

    def prepare(self, run: Run, tell: Say, base: Any = None) -> Failure:
        """The first calls, and what they say of the rest."""
        from sfumato.fields.failure.campaign import AGAIN
        from sfumato.fields.failure.data import Calls
        from sfumato.fields.failure.simulators import looked, nominal_first

        asked = self.asked()
        system, law = asked.system, asked.law
        first = min(FIRST, self.calls // 5)
        calls = Calls.at(run.path / "calls", asked, self.calls)
        begun = time.perf_counter()
        x = nominal_first(first, law.n)
        answers = calls.ask(x, "plain")
        seconds = (time.perf_counter() - begun) / first
        again = calls.ask(x[-AGAIN:], "again").robustness
        found = looked(x, answers, again, seconds, system.name)
        FailureFacts(
            self.simulator, tuple(system.shape), tuple(system.law), system.symmetry, system.single, self.calls, found.calls,
            found.failing, found.middle, found.tenth, found.spread, found.least, found.seconds,
        ).write(run)  # fmt: skip
        return dataclasses.replace(
            self, shape=tuple(system.shape), law=tuple(system.law), symmetry=system.symmetry, alone=system.single
        )

    def open(self, run: Run) -> Data:
        """The states of all rounds, each told the level of its round; before the first round the first calls."""
        import numpy as np

        from sfumato.data import DataError, Items
        from sfumato.fields.failure.campaign import population, rounds
        from sfumato.fields.failure.data import stored

        facts = self.facts(run)
        shards = list(stored(run.path / "calls"))
        if not shards:
            raise DataError(f"{run.path / 'calls'}: no calls lie there; train again")
        x = np.concatenate([part for _, part, _ in shards])[: facts.first]
        first = Items({"x": x.astype(np.float32), "vector": np.full((len(x), 1), facts.told(math.inf), np.float32)})
        parts = [(population(run, each.number).x, facts.told(each.level)) for each in rounds(run)]
        if not parts:
            return Data(facts, first, first)
        told = np.concatenate([np.full((len(x), 1), level, np.float32) for x, level in parts])
        return Data(
            facts, Items({"x": np.concatenate([x for x, _ in parts]).astype(np.float32), "vector": told}), first
        )

    def fit(self, run: Run, task: Task, training: TrainOptions) -> None:
        from sfumato.fields.failure.campaign import campaign
        from sfumato.fields.failure.data import Calls
        from sfumato.fields.failure.ending import ended, resumable
        from sfumato.jobs.recipe import say
        from sfumato.training.leaving import at_once

        asked = self.asked()
        say(f"simulator {self.simulator}: its code runs here")
        with run.locked(), at_once(), resumable(run):
            calls = Calls.at(run.path / "calls", asked, self.calls)
            setting = self.setting(run, training)
            ended(setting, campaign(setting, calls, say), calls, say)

    def setting(self, run: Run, training: TrainOptions) -> Setting:
        """All that the campaign of a run is made of."""
        from sfumato.fields.failure.campaign import Setting
        from sfumato.jobs.model import built

        facts = self.facts(run)

        def task(items: Any, network: nn.Module) -> Task:
            from sfumato.training.objective import Task

            return Task(network, self.process(facts), items, times=self.method.distribution())

        return Setting(
            run, facts, self.campaign, training, training.seed, task, lambda: built(self, facts, training.seed)
        )

    # ---- network -----------------------------------------------------------------------------------------------------

    def process(self, facts: FailureFacts) -> Gaussian:
        return self.method.build()

    def kinds(self) -> Mapping[str, type[nn.Module]]:
        from sfumato.fields.failure.network import Along, Disturbances

        return {"along": Along, "flat": Disturbances}

    def build(self, facts: FailureFacts, device: str) -> nn.Module:
        from sfumato.fields.failure.network import built

        return built(self.network, facts)

    def training(self, data: Data, device: str) -> TrainOptions:
        """Of a round: so many steps, in one thread, which is as fast for small networks, and the same bits every time."""
        return TrainOptions(batch=256, steps=400, threads=1, optim=OptimOptions(lr=1e-3))

    # ---- samples -----------------------------------------------------------------------------------------------------

    def walk(self, name: str = "usual") -> Walk:
        super().walk(name)
        return Walk(steps=18, solver="heun", grid="karras:sigma_min=0.02,sigma_max=40", batch=1000)

    def queries(self, model: Model, ask: FailureAsk, n: int | None) -> Queries:
        import torch

        from sfumato.diffusion.generate import Blanks

        told = torch.tensor([[model.facts.told(ask.level)]], dtype=torch.float32)
        return Blanks(torch.zeros(model.facts.n), 64 if n is None else n, {"vector": told})

    def things(self, model: Model, queries: Queries, drawn: Drawn) -> list[np.ndarray]:
        """Disturbances (n,) float64, standard normal."""
        return list(drawn.x.double().cpu().numpy())

    def save(self, thing: np.ndarray, path: Path, making: Making) -> Path:
        """One disturbance as .npy, standard normal: samples of a run go into one file, by ``write``."""
        import numpy as np

        np.save(path, thing)
        return path

    def write(
        self, model: Model, queries: Queries, things: Iterable[tuple[int, Any]], out: Path, making: Making
    ) -> Iterator[Path]:
        """All of them in one file: number, log-likelihood and the physical numbers of each. The simulator is not asked."""
        from sfumato.fields.failure.writing import write

        yield write(model.facts, list(things), out)

    def picture(self, model: Model, things: Sequence[np.ndarray], columns: int | None = None) -> Any:
        return None

    def evaluate(self, model: Model, measure: FailureMeasure, ask: FailureAsk) -> Report:
        from sfumato.fields.failure.measure import evaluate

        return evaluate(model, measure, ask)

    def measurable(self, model: Model, measure: FailureMeasure, ask: FailureAsk) -> None:
        from sfumato.fields.failure.ending import stored

        stored(model.run)

    def usage(self) -> Iterable[str]:
        return (
            "Failures: `failures.csv`, the likeliest first; `sfumato failure replay RUN ID` runs one again.",
            "Their probability: `report.json`; more calls for it: `sfumato failure probability RUN --calls 10000`.",
            "Disturbances that may fail, without the simulator: `sfumato sample RUN -n 64 --out samples.csv`.",
        )


RECIPE = Failure
