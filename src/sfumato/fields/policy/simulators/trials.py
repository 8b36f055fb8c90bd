"""`sfumato evaluate` of a policy: the closed loop in simulators, in numbers, a video and a fan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sfumato.errors import check
from sfumato.jobs.walk import SampleOptions

if TYPE_CHECKING:
    from sfumato.fields.policy.acting import Policy, Session
    from sfumato.fields.policy.simulators.crew import Job
    from sfumato.fields.policy.simulators.environments import Environment


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


def session_of(policy: Policy, options: SampleOptions, warm: float | None, jobs: Sequence[Job]) -> Session:
    """A session of a trained policy for the episodes of some rows."""
    known = policy.facts.tasks
    tasks = [known.index(job.world) for job in jobs] if known else None
    return policy.session(len(jobs), [job.seed for job in jobs], options, warm=warm, tasks=tasks)


def worlds(policy: Policy, options: TrialOptions) -> dict[str, partial[Environment]]:
    """The environments to play in, by the names of their tasks.

    Raises RunError when none is named, or one that the policy was not taught, or when it wants other pictures.
    """
    from sfumato.fields.policy.simulators.environments import make
    from sfumato.fields.policy.simulators.world import META_WORLD, PICTURE
    from sfumato.training.run import RunError

    path, facts = policy.model.run.path, policy.facts
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
        found[task] = partial(make, id, limit=options.limit, picture=side, camera=options.camera)
    return found


def trial(out: Path, options: TrialOptions, sampling: SampleOptions = SampleOptions()) -> str:
    """Plays a trained policy's episodes; returns the table, and where to look.

    In the run: rollouts.json (every episode and the summary), episodes.mp4, fan.png, and the table in README.md.
    Raises RunError for a folder that is no policy's run or an environment that does not fit it, DataError when an
    environment fails.
    """
    from sfumato.fields.policy.acting import Policy
    from sfumato.fields.policy.simulators.filming import AMBIGUOUS, fan, film, futures
    from sfumato.fields.policy.simulators.rollout import FIELD_SEEDS, rollout
    from sfumato.fields.policy.simulators.world import PUSH_T
    from sfumato.jobs.card import card
    from sfumato.training.progress import Watch

    policy = Policy.load(out, sampling)
    makes = worlds(policy, options)
    chosen = policy.model.chosen(sampling)
    sessions = partial(session_of, policy, sampling, options.warm)
    first = FIELD_SEEDS[0] + sampling.seed
    seeds = range(first, first + options.episodes)
    found = rollout(makes, sessions, seeds, rows=options.rows, workers=options.workers)
    found.save(out / "rollouts.json")
    card(policy.model.run, found.table())
    lines = [found.table(), f"{chosen.steps} steps of {chosen.solver}"]
    if options.film:
        shown = [found.of(world)[i] for i in range(options.episodes) for world in found.worlds()][: options.film]
        path = out / "episodes.mp4"
        with Watch("film", max(episode.length for episode in shown)) as watch:
            film(makes, shown, path, show=lambda done, total: watch.show(done))
        lines.append(f"{len(shown)} episodes: {path}")
    if options.fan and options.environment == (PUSH_T,):
        world = makes[PUSH_T]
        paths = futures(world, sessions, options.fan, state=AMBIGUOUS, seed=first, chunks=4)
        fan(partial(world, side=512), {"policy": paths}, state=AMBIGUOUS).save(out / "fan.png")
        lines.append(f"{options.fan} futures from one state: {out / 'fan.png'}")
    return "\n".join(lines)
