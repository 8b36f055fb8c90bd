"""A trained policy for a control loop: ``policy = sfumato.policy.load("runs/pusht")``, then at every step of the loop
``robot.move(policy.act(robot.look()))``, and ``policy.reset()`` when an episode begins."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sfumato.fields.policy.acting import Controller


def load(
    run: str | os.PathLike[str],
    *,
    steps: int | None = None,
    solver: str | None = None,
    seed: int = 0,
    warm: float | None = None,
    task: int | str | None = None,
) -> Controller:
    """The policy of a run, ready to act: `act(observation, within=None)` gives one action, `reset()` begins an episode.

    Args:
        run: the folder that `sfumato train policy` or `sfumato distill` made.
        steps, solver: of the sampler, as in `sfumato sample`.
        seed: what the policy does depends on it and on what it sees alone.
        warm: start each chunk from what is left of the one before, noised to this time (0 to 1).
        task: number or name of the task, where the policy knows several.

    Raises RunError for a folder that holds no policy, ValueError for options that make no sense.
    """
    from sfumato.fields.policy.acting import Controller, Policy
    from sfumato.jobs.walk import SampleOptions

    options = SampleOptions(steps=steps, solver=solver)
    policy = Policy.load(Path(run), options)
    if isinstance(task, str):
        if task not in policy.facts.tasks:
            raise ValueError(f"task = {task!r}: must be one of {', '.join(policy.facts.tasks) or '(no tasks)'}")
        task = policy.facts.tasks.index(task)
    return Controller(policy, options, seed, warm, task)
