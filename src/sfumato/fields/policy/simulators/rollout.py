"""The closed loop: a policy acts in simulators, and what came of it is counted with its uncertainty.

Success is a share with the bounds of its posterior (uniform prior); rewards are means with a bootstrap interval over
episodes. An episode is a function of its seed: it is the same in any company.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from sfumato.data.errors import DataError
from sfumato.fields.policy.simulators.crew import Crew, Job, Make, Played, crew
from sfumato.metrics.intervals import LEVEL, bootstrap, share_bounds
from sfumato.training.run import write_text

if TYPE_CHECKING:
    from sfumato.training.progress import Watch

FIELD_SEEDS = range(100_000, 100_050)  # the 50 test episodes of Push-T (Chi et al. 2023, arXiv 2303.04137)
_WARM = 3
Trace = list[list[dict[str, np.ndarray]]]


class Actor(Protocol):
    """A policy at work on R rows at once. Row i must depend on nothing but its own observations and its own seed."""

    def act(self, observations: Mapping[str, np.ndarray]) -> np.ndarray:
        """Observations (R, ...) by name -> the chunk of actions to carry out from now on, (R, S, A), in raw units."""

    def observe(self, observations: Mapping[str, np.ndarray]) -> None:
        """What was seen within a chunk, after each step but the last, which goes to `act`."""

    def reset(self, rows: Sequence[int] | None = None) -> None:
        """Forget what was seen, in some rows or in all."""


ActorOf = Callable[[Sequence[Job]], Actor]
"""What R rows are to play, each a `world` (the name of its environment, so what is to be done) and a `seed` -> an actor."""


@dataclass(frozen=True, eq=False)
class Episode:
    """One episode: `rewards` (T,), `actions` (T, A) as the policy asked for them, `success` where the world tells."""

    world: str
    seed: int
    rewards: np.ndarray
    actions: np.ndarray
    success: bool | None

    @property
    def length(self) -> int:
        return len(self.rewards)

    @property
    def maximum(self) -> float:
        """The greatest reward of a step."""
        return float(self.rewards.max())

    @property
    def total(self) -> float:
        """The sum of rewards."""
        return float(self.rewards.sum())

    def smoothness(self, scale: np.ndarray) -> float:
        """Mean squared second difference of the actions in units of `scale` (A,); 0 is straight on. NaN below 3 steps."""
        if self.length < 3:
            return math.nan
        return float((np.diff(self.actions / scale, 2, axis=0) ** 2).mean())


@dataclass(frozen=True, eq=False)
class Rollouts:
    """What came of a policy. `act` (calls,) are seconds of the calls for all rows at once, `alone` for one row.

    `scale` (A,) is half of what the environment's bounds allow each action, or the spread of the actions where they
    are not bounded.
    """

    episodes: tuple[Episode, ...]
    scale: np.ndarray
    rows: int
    limit: int
    act: np.ndarray
    alone: np.ndarray
    seconds: float

    def worlds(self) -> tuple[str, ...]:
        """The names of the environments, in order."""
        return tuple(dict.fromkeys(episode.world for episode in self.episodes))

    def of(self, world: str) -> tuple[Episode, ...]:
        """The episodes of one environment."""
        return tuple(episode for episode in self.episodes if episode.world == world)

    def summary(self, episodes: Sequence[Episode] | None = None) -> dict[str, Any]:
        """Numbers of some episodes, of all by default: intervals are [low, high] at 95 %."""
        chosen = self.episodes if episodes is None else episodes
        found: dict[str, Any] = {"episodes": len(chosen)}
        for name, values in (
            ("mean_maximum", [e.maximum for e in chosen]),
            ("mean_return", [e.total for e in chosen]),
        ):
            found[name] = float(np.mean(values))
            found[f"{name}_interval"] = list(bootstrap(values))
        told = [e.success for e in chosen if e.success is not None]
        if told:
            found |= {"successes": sum(told), "success": sum(told) / len(told)}
            found["success_interval"] = list(share_bounds(sum(told), len(told)))
        smooth = [x for x in (e.smoothness(self.scale) for e in chosen) if math.isfinite(x)]
        found["mean_length"] = float(np.mean([e.length for e in chosen]))
        found["smoothness"] = float(np.mean(smooth)) if smooth else None
        return found

    def latency(self) -> dict[str, float]:
        """Milliseconds of a call of `act`, medians and 99th percentiles: of one row, and of all at once."""
        found: dict[str, float] = {}
        for name, seconds in (("one_row", self.alone), (f"{self.rows}_rows", self.act)):
            if len(seconds):
                found |= {f"{name}_p50": 1e3 * float(np.median(seconds))}
                found |= {f"{name}_p99": 1e3 * float(np.quantile(seconds, 0.99))}
        return found

    def as_dict(self) -> dict[str, Any]:
        """Everything but the actions, as json writes it."""
        return {
            **self.summary(),
            "limit": self.limit,
            "rows": self.rows,
            "seconds": self.seconds,
            "latency_ms": self.latency(),
            "worlds": {world: self.summary(self.of(world)) for world in self.worlds()},
            "each": [
                {
                    "world": e.world,
                    "seed": e.seed,
                    "length": e.length,
                    "maximum": e.maximum,
                    "return": e.total,
                    "success": e.success,
                }
                for e in self.episodes
            ],
        }

    def save(self, path: Path) -> None:
        """Writes `as_dict` as JSON, whole or not at all."""
        write_text(path, json.dumps(self.as_dict(), indent=1))

    def table(self) -> str:
        """A line per environment, one for all of them, and what an action costs."""
        worlds = self.worlds()
        lines = [f"{'':28s} {'episodes':>8s} {'success':>24s} {'greatest reward':>24s} {'return':>10s} {'steps':>6s}"]
        for name in (*worlds, "all")[: len(worlds) + (len(worlds) > 1)]:
            row = self.summary(None if name == "all" else self.of(name))
            told = _interval(row["success"], row["success_interval"]) if "success" in row else "not told"
            lines.append(
                f"{name:28s} {row['episodes']:8d} {told:>24s} "
                f"{_interval(row['mean_maximum'], row['mean_maximum_interval']):>24s} "
                f"{row['mean_return']:10.4g} {row['mean_length']:6.0f}"
            )
        latency, smooth = self.latency(), self.summary()["smoothness"]
        lines.append(f"in brackets: {LEVEL:.0%} intervals; at most {self.limit} steps; {self.seconds:.0f} s in all")
        for rows in dict.fromkeys((1, self.rows)):
            name = "one_row" if rows == 1 else f"{rows}_rows"
            if f"{name}_p50" in latency:
                lines.append(
                    f"a chunk of actions for {rows} at once: p50 {latency[f'{name}_p50']:.1f} ms, "
                    f"p99 {latency[f'{name}_p99']:.1f} ms"
                )
        if smooth is not None:
            lines.append(f"mean squared second difference of actions (half their range is 1): {smooth:.3g}")
        return "\n".join(lines)


def _interval(value: float, bounds: Sequence[float]) -> str:
    return f"{value:.3f} ({bounds[0]:.3f}..{bounds[1]:.3f})"


def cores() -> int:
    """How many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass
class _Group:
    """Rows that are played together, and what has come of them so far."""

    jobs: Sequence[Job]
    actions: list[np.ndarray] = field(default_factory=list)
    played: list[Played] = field(default_factory=list)

    def episodes(self) -> list[Episode]:
        rewards, success, actions = (
            np.concatenate([part.rewards for part in self.played], axis=1),
            np.concatenate([part.success for part in self.played], axis=1),
            np.concatenate(self.actions, axis=1),
        )
        out = []
        for job, r, s, a in zip(self.jobs, rewards, success, actions, strict=True):
            length = int(np.isfinite(r).sum())
            told = s[:length][np.isfinite(s[:length])]
            out.append(Episode(job.world, job.seed, r[:length], a[:length], bool(told.any()) if len(told) else None))
        return out


def chunk_of(actor: Actor, observations: Mapping[str, np.ndarray], jobs: Sequence[Job]) -> np.ndarray:
    """The actor's next chunk, checked. Raises DataError naming the episode whose actions are not what they must be."""
    actions = np.asarray(actor.act(observations), dtype=np.float64)
    if actions.ndim != 3 or len(actions) != len(jobs) or 0 in actions.shape:
        raise DataError(
            f"{jobs[0]}: the policy gives actions of shape {actions.shape}; expected ({len(jobs)}, chunk, action)"
        )
    good = np.isfinite(actions).all(axis=(1, 2))
    if not good.all():
        raise DataError(f"{jobs[int(np.argmin(good))]}: the policy gives NaN or infinity as actions; train it again")
    return actions


def rollout(
    makes: Mapping[str, Make],
    actor_of: ActorOf,
    seeds: Sequence[int],
    *,
    rows: int = 50,
    workers: int | None = None,
    stop: bool = True,
    timed: int = 60,
    silent: bool = False,
) -> Rollouts:
    """Plays every seed in every environment, `rows` episodes at once so that the network is called once for all.

    Args:
        makes: the environments by name, as `{"push-v3": partial(make, "metaworld/push-v3")}`.
        actor_of: gives the policy's actor for some rows; there are always `rows` of them, the last one repeated
            where there are fewer episodes, so that an episode does not depend on how many others there are.
        workers: processes for the simulators; None takes as many as there are cores, and 1 (this process) where the
            episodes are few. The episodes are the same for any number.
        stop: whether an episode is over at its first success.
        timed: calls of `act` with a single row to take the time of, besides.

    Raises DataError naming the environment, the seed and the step where something fails; ValueError for no seeds,
    the same seed twice, or no rows.
    """
    if rows < 1 or not len(seeds) or len(set(seeds)) < len(seeds) or not makes:
        raise ValueError(f"{len(seeds)} seeds in {rows} rows of {len(makes)} environments: expected different seeds, "
                         "and at least one of each")  # fmt: skip
    from sfumato.training.progress import Watch

    # Seeds outside, so that every group is of the same environments, which are then made once
    jobs = [Job(name, int(seed)) for seed in seeds for name in makes]
    begun, calls = time.monotonic(), []
    episodes: list[Episode] = []
    trace: Trace = []
    sample = next(iter(makes.values()))()
    limit, low, high = sample.limit, sample.low, sample.high
    sample.close()
    if workers is None:
        workers = min(cores(), rows) if len(jobs) >= 8 else 1
    team = crew(makes, workers)
    try:
        with Watch("episodes", len(jobs), silent=silent) as watch:
            for first in range(0, len(jobs), rows):
                group = jobs[first : first + rows]
                show = partial(_show, watch, tuple(episodes))
                known, seconds, seen = _play(team, actor_of, group, rows, stop, show)
                calls += seconds
                episodes += known
                trace = trace or seen
    finally:
        team.close()
    actions = np.concatenate([episode.actions for episode in episodes])
    spread = np.where(actions.std(axis=0) > 0, actions.std(axis=0), 1)
    half = high / 2 - low / 2
    alone = _alone(actor_of, jobs[:1], trace, timed) if timed else []
    return Rollouts(
        episodes=tuple(sorted(episodes, key=lambda episode: list(makes).index(episode.world))),
        scale=np.where(np.isfinite(half) & (half > 0), half, spread),
        rows=rows,
        limit=limit,
        act=np.array(calls),
        alone=np.array(alone),
        seconds=time.monotonic() - begun,
    )


def _show(watch: Watch, before: Sequence[Episode], done: int) -> None:
    told = [episode.success for episode in before if episode.success is not None]
    watch.show(len(before) + done, f"success so far {sum(told)}/{len(told)}" if told else "")


def _play(
    team: Crew,
    actor_of: ActorOf,
    jobs: Sequence[Job],
    rows: int,
    stop: bool,
    show: Callable[[int], None],
) -> tuple[list[Episode], list[float], Trace]:
    """One group of episodes to their ends: them, the seconds of each call, and what the first row saw, chunk by chunk."""
    filled = [*jobs, *[jobs[-1]] * (rows - len(jobs))]
    actor, group = actor_of(filled), _Group(jobs)
    seen, calls = team.begin(jobs), []
    trace: Trace = []
    done = np.zeros(len(jobs), dtype=bool)
    inside: list[dict[str, np.ndarray]] = []
    while not done.all():
        trace.append([{name: x[:1] for name, x in part.items()} for part in (*inside, seen)])
        given = _filled(seen, rows)
        start = time.perf_counter()
        actions = chunk_of(actor, given, filled)[: len(jobs)]
        calls.append(time.perf_counter() - start)
        played = team.act(actions, stop)
        group.actions.append(actions)
        group.played.append(played)
        steps = [{name: x[:, k] for name, x in played.observations.items()} for k in range(actions.shape[1])]
        inside, seen, done = steps[:-1], steps[-1], played.done
        for part in inside:
            actor.observe(_filled(part, rows))
        show(int(done.sum()))
    return group.episodes(), calls, trace


def _filled(observations: Mapping[str, np.ndarray], rows: int) -> dict[str, np.ndarray]:
    """Rows up to a number, the last one repeated."""
    return {
        name: x if len(x) == rows else np.concatenate([x, np.repeat(x[-1:], rows - len(x), axis=0)])
        for name, x in observations.items()
    }


def _alone(actor_of: ActorOf, jobs: Sequence[Job], trace: Trace, timed: int) -> list[float]:
    """Seconds of calls of `act` with one row, on what the first episode saw, after a few that warm up."""
    actor = actor_of(jobs)
    calls: list[float] = []
    while len(calls) < timed + _WARM:
        actor.reset()
        for *inside, seen in trace:
            for part in inside:
                actor.observe(part)
            start = time.perf_counter()
            chunk_of(actor, seen, jobs)
            calls.append(time.perf_counter() - start)
    return calls[_WARM:][:timed]
