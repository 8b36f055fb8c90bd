"""The verbs of failure sampling alone: `sfumato failure probability` and `replay`. Needs no torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfumato.errors import Wrong, check, decoding, typed
from sfumato.jobs.flags import Positional
from sfumato.jobs.recipe import say
from sfumato.training.telling import show

if TYPE_CHECKING:
    from sfumato.jobs.config import Configuration
    from sfumato.training.run import Run


def of_run(path: Path) -> tuple[Run, Configuration]:
    """A run of failure sampling and its configuration. Raises RunError, and Wrong for a run of another field."""
    from sfumato.jobs.config import belongs, read_config
    from sfumato.training.run import Run

    belongs(path, "failure")
    return Run(path), read_config(Run(path))


@dataclass(frozen=True)
class Probability:
    """Say how likely failure is, by a run that has ended; with --calls, from fresh calls of the simulator, which runs here."""

    run: Positional[Path]
    """Run directory."""
    calls: int = 0
    """Fresh calls for both estimators (0: say what the campaign found)."""
    seed: int = 1
    """Of the fresh calls: each seed and number of calls once, later the same is said again."""

    def __post_init__(self) -> None:
        check(self, (self.calls == 0 or self.calls >= 500, "calls", "0, or at least 500"))

    def __call__(self) -> int:
        from sfumato.fields.failure.ending import read_report

        run, config = of_run(self.run)
        told = read_report(run)
        say(f"campaign  {told['note']}")
        if not self.calls:
            show(json.dumps(told["probability"], indent=1))
            return 0
        found = fresh(run, config, self.calls, self.seed)
        show(found.line())
        for name, each in (("islands", found.islands), ("weighing", found.weighing)):
            if each is not None:
                say(f"{name:<9} {each.p:.4g} +- {each.error:.2g}")
        return 0


def fresh(run: Run, config: Configuration, count: int, seed: int) -> Any:
    """A verdict from fresh calls, kept in probability/SEED-CALLS: asked for again it is said again."""
    from sfumato.fields.failure.campaign import rounds
    from sfumato.fields.failure.data import Calls
    from sfumato.fields.failure.ending import estimated
    from sfumato.training.leaving import at_once
    from sfumato.training.run import write_text

    recipe = config.recipe
    say(f"simulator {recipe.simulator}: its code runs here")
    with run.locked(), at_once():
        folder = run.path / "probability" / f"{seed}-{count}"
        setting = recipe.setting(run, config.training)
        calls = Calls.at(folder, recipe.asked(), 2 * count)
        shares = setting.options.islands + setting.options.weighing
        if shares <= 0:
            raise Wrong("campaign.islands and campaign.weighing are 0 in this run: there is nothing to estimate by")
        found, _ = estimated(setting, rounds(run), calls, ("fresh", seed, count), round(count / shares))
    write_text(folder / "probability.json", json.dumps(found.plain(), indent=1, default=float))
    return found


@dataclass(frozen=True)
class Replay:
    """Run a stored failure again: the simulator, which runs here, is given its physical numbers and must give its robustness."""

    run: Positional[Path]
    """Run directory."""
    id: Positional[int]
    """Number of the failure, the first column of failures.csv."""
    out: Path | None = None
    """Write what happened there too, as .npz: physical, robustness, trajectory."""

    def __call__(self) -> int:
        import numpy as np

        from sfumato.fields.failure.ending import place
        from sfumato.fields.failure.pool import alone
        from sfumato.fields.failure.simulators import ran

        run, config = of_run(self.run)
        if self.out is not None and self.out.suffix.lower() != ".npz":
            raise Wrong(f"out = {str(self.out)!r}: must end with .npz")
        path = place(run, self.id)
        with decoding(path, "resume the run, and it is written again"), np.load(path, allow_pickle=False) as file:
            physical, known = np.asarray(file["physical"]), float(file["robustness"])
        system = config.recipe.asked().system
        say(f"simulator {system.name}: its code runs here")
        answers = alone(system, physical) if system.single else ran(system, physical[None])
        now = float(answers.robustness[0])
        same = now == known
        say(
            f"failure   {self.id}: robustness {now!r}, stored {known!r}"
            + ("" if same else f", {abs(now - known):.2g} apart")
        )
        if self.out is not None:
            more = {} if answers.trajectory is None else {"trajectory": answers.trajectory[0]}
            with self.out.open("wb") as file:
                np.savez(file, physical=physical, robustness=now, **more)
        if answers.trajectory is not None:
            for step, state in enumerate(answers.trajectory[0]):
                show(f"{step:4d}  " + "  ".join(f"{value:.6g}" for value in state))
        show(f"{'the same' if same else 'NOT the same'}: {typed(path)}")
        return 0 if same else 1
