"""`sfumato evaluate` of a policy: the closed loop in simulators, in numbers, a video and a fan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sfumato.errors import check
from sfumato.fields.policy.data import task_number
from sfumato.jobs.report import Report, Saves
from sfumato.jobs.walk import Walk

if TYPE_CHECKING:
    from sfumato.fields.policy.acting import Policy, Session
    from sfumato.fields.policy.simulators.crew import Job
    from sfumato.fields.policy.simulators.environments import Environment
    from sfumato.fields.policy.simulators.rollout import Episode, Rollouts
    from sfumato.metrics.table import Row


@dataclass(frozen=True)
class TrialOptions:
    """Where a policy is put to the test, and how often."""

    environment: tuple[str, ...] = ()
    """Ids, as gym_pusht/PushT-v0 or metaworld/push-v3 (none: Meta-World's of the tasks that the policy was taught)."""
    episodes: int = 50
    """Episodes in each environment: those of its seeds 100000 + --seed and after, for Push-T the field's own 50."""
    limit: int | None = None
    """Steps of an episode at most (none: the environment's own)."""
    rows: int = 50
    """Episodes played at once; the network is called once for all of them."""
    workers: int | None = None
    """Processes for the simulators (none: as many as there are cores)."""
    camera: str = "corner2"
    """Camera of Meta-World's pictures."""
    film: int = 4
    """Episodes in the video (0: no video)."""
    fan: int = 32
    """Futures drawn from one ambiguous state, where actions are places in the picture: Push-T (0: none)."""
    warm: float | None = None
    """Each chunk starts from what is left of the one before, noised to this time (0 to 1), instead of from noise."""

    def __post_init__(self) -> None:
        check(
            self,
            (self.episodes >= 1, "episodes", "1 or more"),
            (self.rows >= 1, "rows", "1 or more"),
            (self.workers is None or self.workers >= 1, "workers", "1 or more"),
            (self.film >= 0, "film", "0 or more"),
            (self.fan >= 0, "fan", "0 or more"),
            (self.warm is None or 0 < self.warm <= 1, "warm", "above 0 and at most 1"),
        )


def session_of(policy: Policy, walk: Walk | None, warm: float | None, jobs: Sequence[Job]) -> Session:
    """A session of a trained policy for the episodes of some rows."""
    known = policy.facts.tasks
    tasks = [known.index(job.world) for job in jobs] if known else None
    return policy.session(len(jobs), [job.seed for job in jobs], walk, warm=warm, tasks=tasks)


def worlds(policy: Policy, options: TrialOptions, label: str | None = None) -> dict[str, partial[Environment]]:
    """The environments to play in, by the names of their tasks; of the task ``label`` alone if given.

    Raises RunError when none is named, or one that the policy was not taught, or when it wants other pictures; Wrong for a
    task that it does not know.
    """
    from sfumato.fields.policy.simulators.environments import make
    from sfumato.fields.policy.simulators.world import META_WORLD, PICTURE
    from sfumato.training.run import RunError

    path, facts = policy.model.run.path, policy.facts
    task_number(facts, label, policy.model.run)
    ids = options.environment or tuple(META_WORLD + task for task in facts.tasks)
    if not ids:
        raise RunError(f"{path}: give the environment to play in, as --environment gym_pusht/PushT-v0")
    side = None
    if facts.pictures:
        height, width = facts.shapes[facts.pictures[0]][1:]
        if facts.pictures != (PICTURE,) or height != width:
            raise RunError(
                f"{path}: sees {', '.join(facts.pictures)} of {width}x{height}; environments give {PICTURE} with equal sides"
            )
        side = height
    found: dict[str, partial[Environment]] = {}
    for id in ids:
        task = id.removeprefix(META_WORLD)
        if facts.tasks and task not in facts.tasks:
            raise RunError(f"{path}: was not taught {task}; its tasks are {', '.join(facts.tasks)}")
        if label in (None, task):
            found[task] = partial(make, id, limit=options.limit, picture=side, camera=options.camera)
    if not found:
        raise RunError(f"{path}: none of {', '.join(ids)} is of the task {label}")
    return found


def evaluate(policy: Policy, options: TrialOptions, label: str | None = None) -> Report:
    """A trained policy's episodes, played: numbers with their intervals, rollouts.json (every episode and the summary),
    episodes.mp4 and, where actions are places in the picture, fan.png.

    Raises RunError for an environment that does not fit the policy, DataError when an environment fails.
    """
    from sfumato.fields.policy.simulators.rollout import FIELD_SEEDS, rollout
    from sfumato.fields.policy.simulators.world import PUSH_T

    model, makes = policy.model, worlds(policy, options, label)
    sessions = partial(session_of, policy, None, options.warm)
    first = FIELD_SEEDS[0] + model.drawing.seed
    seeds = range(first, first + options.episodes)
    played = rollout(makes, sessions, seeds, rows=options.rows, workers=options.workers)
    walk, notes = model.walk, []
    notes.append(f"{f'{walk.steps} steps' if walk.tol is None else f'tolerance {walk.tol:g}'} of {walk.solver}")
    pictures = {"rollouts.json": Saves(played.save)}
    if options.film:
        shown = [played.of(world)[i] for i in range(options.episodes) for world in played.worlds()][: options.film]
        pictures["episodes.mp4"] = Saves(partial(filmed, makes, shown))
        notes.append(f"episodes filmed: {len(shown)}")
    if options.fan and list(makes) == [PUSH_T]:
        pictures["fan.png"] = Saves(partial(fanned, makes[PUSH_T], sessions, options.fan, first))
        notes.append(f"futures drawn from one state: {options.fan}")
    return Report(rows(played), tuple(notes), pictures, {"environments": list(makes)}, played.table())


def rows(played: Rollouts) -> tuple[Row, ...]:
    """Success, greatest reward and return of all episodes, with 90% intervals, as metrics.json has them."""
    from sfumato.metrics.intervals import bootstrap, share_interval
    from sfumato.metrics.table import Row

    every = played.episodes
    told = [episode.success for episode in every if episode.success is not None]
    found = []
    if told:
        share = sum(told) / len(told)
        found.append(Row("success", share, *share_interval(share, len(told)), None, "higher", len(told), 0))
    for name, values in (("mean_maximum", [e.maximum for e in every]), ("mean_return", [e.total for e in every])):
        found.append(Row(name, sum(values) / len(values), *bootstrap(values, 0.9), None, "higher", len(values), 0))
    return tuple(found)


def filmed(makes: dict[str, partial[Environment]], episodes: Sequence[Episode], path: Path) -> None:
    """Episodes side by side, with a progress bar."""
    from sfumato.fields.policy.simulators.filming import film
    from sfumato.training.progress import Watch

    with Watch("film", max(episode.length for episode in episodes)) as watch:
        film(makes, episodes, path, show=lambda done, total: watch.show(done))


def fanned(world: partial[Environment], sessions: partial[Session], count: int, seed: int, path: Path) -> None:
    """Futures of four chunks from a state of Push-T near which people went two ways."""
    from sfumato.fields.policy.simulators.filming import AMBIGUOUS, fan, futures

    paths = futures(world, sessions, count, state=AMBIGUOUS, seed=seed, chunks=4)
    fan(partial(world, side=512), {"policy": paths}, state=AMBIGUOUS).save(path)
