"""The campaign: from plain runs to failures, level by level of robustness, a round each.

A round takes those of the population that passed to its level, draws them again to a population, moves it by pCN and by proposals
of the network, and trains the network, from the weights of the round before, on every state of these moves: their law is the
prior, cut off at the level, so rows need no weights. Its place is a folder rounds/NUMBER, a run of its own, and a line in
rounds.jsonl; a campaign that was killed goes on at its last whole round, and asks no call again (`data`).
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sfumato.errors import DataError, decoding
from sfumato.fields.failure.chain import Chain, answering, even, normals, unknown
from sfumato.fields.failure.data import Calls, Spent
from sfumato.fields.failure.metric import Metric, fitted
from sfumato.fields.failure.moves import Population, begun, drawn_again, guided, pcn, tuned
from sfumato.fields.failure.options import CampaignOptions
from sfumato.training.run import Run, write_text

if TYPE_CHECKING:
    from torch import nn

    from sfumato.fields.failure.facts import FailureFacts
    from sfumato.training.objective import Task
    from sfumato.training.options import TrainOptions

Say = Callable[[str], None]
MOST_ROUNDS = 60
STALLED = 3
"""Rounds in which the level does not fall after which a campaign stops."""
OLDER = 0.25
"""Rows of earlier levels that are trained on beside those of the newest, as a share of these."""


@dataclass(frozen=True)
class Round:
    """A whole round, as a line of rounds.jsonl.

    level: of robustness. share: of the population before that passed to it. b: size of pCN's moves, for the round after; begin:
    step at which the network's begin, likewise. next: the number of the next call. pcn, network: shares of moves taken. nll: mean
    of |x|^2 / 2. rows: trained on.
    """

    number: int
    level: float
    share: float
    b: float
    begin: int
    next: int
    pcn: float
    network: float
    nll: float
    rows: int
    by: Mapping[str, int]

    def line(self) -> str:
        """In words."""
        taken = f", {self.network:.0%} of the network's from step {self.begin}" if not math.isnan(self.network) else ""
        return (
            f"round {self.number}: level {self.level:.4g} (passed by {self.share:.3g}), {self.next:,} "
            "calls; moves taken: "
            f"{self.pcn:.0%} of pCN's{taken}; nll {self.nll:.2f}"
        )


@dataclass(frozen=True)
class Setting:
    """All that a campaign is made of besides the calls and its rounds."""

    run: Run
    facts: FailureFacts
    options: CampaignOptions
    training: TrainOptions
    seed: int
    task: Callable[[Any, nn.Module], Task]
    build: Callable[[], nn.Module]

    @property
    def chains(self) -> int:
        """Rows of a population."""
        return max(10, round(self.options.states * self.facts.calls / (2 * self.options.pairs)))

    @property
    def reserved(self) -> int:
        """Calls that are kept for the probability and the samples at the end."""
        o = self.options
        return math.ceil((o.islands + o.weighing) * self.facts.calls) + self.ending

    @property
    def ending(self) -> int:
        """Calls for the last moves of the samples."""
        return min(4 * self.options.samples, self.facts.calls // 8)

    def folder(self, number: int) -> Run:
        """The run of a round."""
        return self.run.sub(f"rounds/{number:02d}")

    def chain(self, number: int, level: float) -> Chain:
        """The weighed walk of the network of a round, aimed at a level."""
        network = trained(self.folder(number), self.build)
        return Chain(
            answering(network, self.facts.told(level)), even(self.options.walk), _unknown(self.folder(number).path)
        )


# ---- rounds that lie there -----------------------------------------------------------------------------------------------


def rounds(run: Run) -> list[Round]:
    """The whole rounds of a run. Raises DataError."""
    path = run.path / "rounds.jsonl"
    if not path.is_file():
        return []
    with decoding(path, "delete its last line, and that round is made again"):
        return [Round(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines() if line]


def _note(run: Run, done: list[Round]) -> None:
    write_text(run.path / "rounds.jsonl", "".join(json.dumps(dataclasses.asdict(each)) + "\n" for each in done))


def population(run: Run, number: int) -> Population:
    """The states of a round. Raises DataError."""
    path = run.path / "rounds" / f"{number:02d}" / "population.npz"
    remedy = "delete the rounds from this one on, also in rounds.jsonl, and they are made again"
    with decoding(path, remedy), np.load(path, allow_pickle=False) as file:
        return Population(file["x"], file["robustness"])


def _keep(folder: Path, name: str, **arrays: np.ndarray) -> None:
    temporary = folder / f".{name}"
    with temporary.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    temporary.replace(folder / name)


def measured(setting: Setting, number: int, calls: Calls, at: np.ndarray, level: float) -> Metric:
    """The metric of a round, fitted before its moves to all calls until then, and kept."""
    folder = setting.folder(number)
    if not (folder.path / "metric.npz").is_file():
        folder.create()
        x, r, numbers = calls.every()
        known = numbers < calls.next
        found = fitted(x[known], r[known], at, level, (setting.seed, number))
        _keep(folder.path, "metric.npz", axes=found.axes, care=found.care)
    return metric_of(folder)


def metric_of(folder: Run) -> Metric:
    """The metric that a round moved by. Raises DataError."""
    path = folder.path / "metric.npz"
    with decoding(path, "delete the round, and it is made again"), np.load(path, allow_pickle=False) as file:
        return Metric(np.asarray(file["axes"]), np.asarray(file["care"]))


def _unknown(folder: Path) -> np.ndarray:
    path = folder / "unknown.npz"
    with decoding(path, "delete the round, and it is made again"), np.load(path, allow_pickle=False) as file:
        return np.asarray(file["unknown"])


def trained(folder: Run, build: Callable[[], nn.Module]) -> nn.Module:
    """The averaged network of a round, ready to be asked."""
    from sfumato.training import checkpoint

    network = build()
    weights, _ = checkpoint.read_weights(folder.model)
    network.load_state_dict(weights)
    return network.eval().requires_grad_(False)


# ---- the campaign --------------------------------------------------------------------------------------------------------


def campaign(setting: Setting, calls: Calls, say: Say) -> list[Round]:
    """All rounds, from those that lie there on. The last level is 0 where failure was reached.

    Raises DataError where there is no way to climb, and what simulators and training raise.
    """
    done = rounds(setting.run)
    pool = _plain(setting, calls)
    if setting.options.start:
        pool = _warmed(setting, calls, pool)
    last, stalled = math.inf, 0
    if done:
        calls.next, calls.by = done[-1].next, dict(done[-1].by)
        last, pool = done[-1].level, population(setting.run, done[-1].number)
        say(f"going on after round {done[-1].number}, {calls.next:,} calls")
    while len(done) < MOST_ROUNDS and sum(each.level <= 0 for each in done) < setting.options.last:
        level = max(0.0, _level(pool, setting.options.passing, last, setting.facts.simulator))
        stalled = stalled + 1 if level >= last > 0 else 0
        if stalled >= STALLED:
            say(f"stopped: the level did not fall below {last:.4g} in {STALLED} rounds")
            break
        try:
            made, pool = _round(setting, calls, pool, level, done)
        except Spent:
            say("stopped: the calls of the campaign are spent")
            break
        done.append(made)
        _note(setting.run, done)
        last = level
        say(made.line())
    return done


def _plain(setting: Setting, calls: Calls) -> Population:
    """Plain runs, the first look's among them."""
    facts = setting.facts
    count = max(facts.first, round(setting.options.prior * facts.calls))
    from sfumato.fields.failure.simulators import nominal_first

    first = nominal_first(facts.first, facts.n)
    looked = calls.ask(first, "plain").robustness
    calls.ask(first[-AGAIN:], "again")
    x = normals(("plain", setting.seed), count - facts.first, facts.n)
    r = calls.ask(x, "plain").robustness
    return Population(np.concatenate([first[1:], x]), np.concatenate([looked[1:], r]))


AGAIN = 2
"""Disturbances of the first look that are asked twice."""


def _warmed(setting: Setting, calls: Calls, pool: Population) -> Population:
    """The plain runs of this system, and what the failures of an earlier version lead to in it."""
    assert setting.options.start is not None
    path = Path(setting.options.start) / "failures.npz"
    with decoding(path, "give a run of failure sampling that has ended"), np.load(path, allow_pickle=False) as file:
        x = np.asarray(file["x"], dtype=np.float64)
    if x.ndim != 2 or x.shape[1] != setting.facts.n:
        raise DataError(f"{path}: its disturbances have {x.shape[-1]} numbers, those of this system {setting.facts.n}")
    x = x[: setting.chains]
    return Population.joined([pool, Population(x, calls.ask(x, "start").robustness)])


def _level(pool: Population, passing: float, last: float, name: str) -> float:
    """The next level: so many of the population are at most that robust. Raises DataError where half of them tie there."""
    level = float(np.quantile(pool.r, passing, method="inverted_cdf"))
    if level > 0 and np.isfinite(level):
        ties = float((pool.r == level).mean())
        if ties > 0.5:
            raise DataError(
                f"{name}: robustness is {level:g} in {ties:.0%} of the runs of a level: there is no "
                "way to climb; give a number that "
                "falls towards failure"
            )
    return min(level, last)


def _round(
    setting: Setting, calls: Calls, pool: Population, level: float, done: list[Round]
) -> tuple[Round, Population]:
    number, words, o = len(done) + 1, ("round", setting.seed, len(done) + 1), setting.options
    passed = pool.r <= level
    now = drawn_again(pool.of(passed), setting.chains, words)
    b, begin = (done[-1].b, done[-1].begin) if done else (0.5, o.walk // 2)
    shares: list[float] = []
    asked: list[float] = []
    chain = setting.chain(number - 1, level) if done else None
    metric = measured(setting, number, calls, now.x, level)
    states = []
    for move in range(o.pairs * (2 if level <= 0 else 1)):
        _afford(setting, calls)
        if chain is not None:
            now, taken, _ = guided(now, level, chain, begin, calls, (*words, move), "network")
            asked.append(float(taken.mean()))
            begin = begun(begin, asked[-1], o.walk)
            states.append(now)
            _afford(setting, calls)
        now, taken = pcn(now, level, b, metric, calls, (*words, move), "pcn")
        states.append(now)
        shares.append(float(taken.mean()))
        b = tuned(b, shares[-1])
    whole = Population.joined(states)
    if level <= 0 and done and done[-1].level <= 0:
        whole = Population.joined([population(setting.run, done[-1].number), whole])
    learn(setting, number, whole, level, done)
    nll = float((whole.x**2).sum(1).mean() / 2)
    network = float(np.mean(asked)) if asked else math.nan
    made = Round(
        number,
        level,
        float(passed.mean()),
        b,
        begin,
        calls.next,
        float(np.mean(shares)),
        network,
        nll,
        len(whole),
        dict(calls.by),
    )
    return made, whole


def _afford(setting: Setting, calls: Calls) -> None:
    if calls.left - setting.chains < setting.reserved:
        raise Spent("the calls of the campaign are spent")


def learn(setting: Setting, number: int, whole: Population, level: float, done: list[Round]) -> None:
    """Train the network of a round on the states of its level, and some of earlier ones, from the weights of the round before."""
    from sfumato.data import Items
    from sfumato.training import checkpoint, loop

    facts, folder = setting.facts, setting.folder(number)
    _keep(folder.path, "population.npz", x=whole.x, robustness=whole.r)
    parts, told = [whole.x], [np.full(len(whole), facts.told(level))]
    earlier = [each for each in done if each.level > max(level, 0.0)]
    for each in earlier:
        rows = max(1, round(OLDER * len(whole) / len(earlier)))
        old = population(setting.run, each.number).x
        parts.append(old[np.linspace(0, len(old) - 1, min(rows, len(old))).astype(int)])
        told.append(np.full(len(parts[-1]), facts.told(each.level)))
    x = np.concatenate(parts)
    if facts.symmetry == "negate":
        x, told = np.concatenate([x, -x]), [*told, *told]
    items = Items({"x": x.astype(np.float32), "vector": np.concatenate(told)[:, None].astype(np.float32)})
    network = setting.build()
    if number > 1:
        network.load_state_dict(checkpoint.read_weights(setting.folder(number - 1).model)[0])
    precise = (
        "fp32" if setting.training.precision == "auto" else setting.training.precision
    )  # small layers gain nothing by bf16
    quiet = dataclasses.replace(setting.training, previews=0, snapshots=0, keep=1, precision=precise)
    loop.train(setting.task(items, network), folder, quiet)
    network = trained(folder, setting.build)
    rows = whole.x[np.linspace(0, len(whole) - 1, min(len(whole), 4000)).astype(int)]
    found = unknown(
        answering(network, facts.told(level)), even(setting.options.walk), rows, ("unknown", setting.seed, number)
    )
    _keep(folder.path, "unknown.npz", unknown=found.clip(0.05, 4.0))
