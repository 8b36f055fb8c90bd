"""A trained policy in a control loop: many robots at once (`Policy.session`), or one (`load`, `Controller`)."""

from __future__ import annotations

import dataclasses
import os
import time
import warnings
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfumato.errors import Wrong
from sfumato.fields.policy.data import PolicyFacts
from sfumato.jobs.model import Model
from sfumato.jobs.model import load as load_model
from sfumato.jobs.walk import Drawing, Walk
from sfumato.training.run import RunError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


@dataclass(frozen=True)
class Policy:
    """A trained policy: what it sees, and the model of its chunks. Holds no state; sessions do.

    ``ramps``: whether it knows chunks whose noise rises from one action to the next.
    """

    model: Model
    facts: PolicyFacts
    ramps: bool = False

    @classmethod
    def load(cls, out: Path, walk: Walk = Walk(), drawing: Drawing = Drawing()) -> Policy:
        """The policy of a run, from its config.yaml, data.json and weights alone.

        Raises RunError for a run of another field, and where the ranges of actions or states are missing.
        """
        model = load_model(Path(out), walk, drawing)
        made = model.recipe.ready(model)
        if not isinstance(made, Policy):
            raise RunError(f"{out}: is not a policy; train one with `sfumato train policy DEMONSTRATIONS`")
        return made

    @classmethod
    def of(cls, model: Model, ramps: bool = False) -> Policy:
        """The policy of a model of chunks. Its precision is fp32 unless asked otherwise: at a few rows that is faster on a
        CPU."""
        from sfumato.training.objective import Precise

        if model.drawing.precision == "auto":
            whole = Precise(model.denoiser.network.network, bf16=False)
            denoiser = dataclasses.replace(model.denoiser, network=whole)
            drawing = dataclasses.replace(model.drawing, precision="fp32")
            model = dataclasses.replace(model, denoiser=denoiser, drawing=drawing)
        return cls(model, model.facts, ramps)

    def session(
        self,
        rows: int,
        seeds: Sequence[int],
        walk: Walk | None = None,
        *,
        warm: float | None = None,
        tasks: Sequence[int] | None = None,
    ) -> Session:
        """A session with ``rows`` robots (or environments) that act together.

        Args:
            seeds: one per row; what a row does depends on its seed and what it sees alone.
            walk: steps, solver and grid, as in `sfumato sample`; what it leaves open is as the policy was loaded with.
            warm: start each chunk from what is left of the one before, noised to this time (0 to 1), instead of from
                noise; fewer steps then do, and chunks follow on smoothly.
            tasks: the number of each row's task, where the policy knows several.

        Raises ValueError for a number of seeds or tasks other than ``rows``, or a time outside 0 to 1.
        """
        return Session(self, rows, seeds, walk, warm, tasks)

    def controller(
        self, seed: int = 0, walk: Walk | None = None, *, warm: float | None = None, task: int | str | None = None
    ) -> Controller:
        """One robot: `act(observation)` gives its action, `reset()` begins an episode. Arguments as for a session; a task by
        number or by name. Raises Wrong for a task that was not learned, ValueError where one is needed."""
        if isinstance(task, str):
            if task not in self.facts.tasks:
                raise Wrong(f"task = {task!r}: must be one of {', '.join(self.facts.tasks) or '(no tasks)'}")
            task = self.facts.tasks.index(task)
        return Controller(self, walk, seed, warm, task)

    def sample(self, n: int | None = None, *, seed: int | None = None, **asked: Any) -> list[Any]:
        """Chunks for held-out observations, as :meth:`~sfumato.jobs.model.Model.sample` gives them."""
        return self.model.sample(n, seed=seed, **asked)


class Session:
    """The state of some robots under one policy: their last observations, their chunks, the numbers of these.

    A loop calls `act` with the observations of now, carries out some of the actions, calls `observe` after every one of
    them, and then `act` again. The observation that ends a chunk may be given to both: `act` knows it by its equal values.
    """

    def __init__(
        self,
        policy: Policy,
        rows: int,
        seeds: Sequence[int],
        walk: Walk | None = None,
        warm: float | None = None,
        tasks: Sequence[int] | None = None,
    ) -> None:
        facts = policy.facts
        if rows < 1 or len(seeds) != rows:
            raise ValueError(f"{len(seeds)} seeds for {rows} rows: give one per row, and a row or more")
        if warm is not None and not 0 < warm <= 1:
            raise Wrong(f"warm = {warm}: must be above 0 and at most 1, the time a chunk starts from")
        if facts.tasks and (tasks is None or len(tasks) != rows or not all(0 <= t < len(facts.tasks) for t in tasks)):
            named = ", ".join(f"{i} {name}" for i, name in enumerate(facts.tasks))
            raise ValueError(
                f"tasks = {tasks}: this policy knows several, give the number of one for each row ({named})"
            )
        model = policy.model
        self.walk = model.walk if walk is None else model.walked(walk.over(model.given), model.named)
        self.solver, self.grid = model.solver(self.walk), model.grid(self.walk)
        self.policy, self.rows, self.warm, self.tasks = policy, rows, warm, tasks
        self.seeds = list(seeds)
        self.history: dict[str, np.ndarray] = {}  # name -> (rows, observed, ...)
        self.fresh = [True] * rows  # has seen nothing yet
        self.chunks = [0] * rows  # how many were drawn since the reset
        self.fed = 0  # observations since the last chunk
        self.last: Tensor | None = None  # (rows, horizon, dim), standard units
        self.alarms: list[str] = [""] * rows  # of the last step, what lay far outside the demonstrations
        self.warned = False

    def reset(self, rows: int | Iterable[int] | None = None, seeds: Sequence[int] | None = None) -> None:
        """Forget what these rows (all by default) saw and did: new episodes begin there, with new seeds if given."""
        chosen = list(range(self.rows)) if rows is None else [rows] if isinstance(rows, int) else list(rows)
        if seeds is not None and len(seeds) != len(chosen):
            raise ValueError(f"{len(seeds)} seeds for {len(chosen)} rows: give one per row")
        for place, row in enumerate(chosen):
            self.fresh[row], self.chunks[row] = True, 0
            if seeds is not None:
                self.seeds[row] = seeds[place]

    def observe(self, observations: Any) -> None:
        """Take in the observation after a step, without acting: name -> (rows, ...), or one array where there is one name."""
        self._take(self._seen(observations))
        self.fed += 1

    def act(self, observations: Any, steps: int | None = None) -> np.ndarray:
        """The actions to carry out from now on, (rows, acted, dim), in the units of the demonstrations.

        ``steps`` of the sampler, if other than the session's. Raises ValueError for observations that do not fit, and where
        the policy has a finite answer to none of them: it never acts NaN. A row that sees what lies far outside the
        demonstrations acts as at their edge, a row without an answer keeps its last action (the middle of the demonstrated
        ones where it has none), and `alarms` says so; other rows go on as if alone.
        """
        import numpy as np

        facts = self.policy.facts
        given = self._seen(observations)
        known = np.array([self.fed > 0 and not fresh for fresh in self.fresh])
        for name, value in given.items() if known.any() else ():
            known &= (self.history[name][:, -1] == value).reshape(self.rows, -1).all(1)
        self._take(given, known)
        self.fed = 0
        x = self._draw(steps)
        self.last = x
        self.chunks = [count + 1 for count in self.chunks]
        first = facts.observed - 1
        return facts.actions(x[:, first : first + facts.acted])

    def _seen(self, observations: Any) -> dict[str, np.ndarray]:
        """Observations of now, held within what can be trusted; a warning, the first time, where they were not."""
        from sfumato.fields.policy.senses import held

        given, beyond = held(self.policy.facts, self.policy.facts.observation(observations, self.rows))
        for row, what in enumerate(beyond):
            if what:
                self._alarm(row, f"{what}: it acts as at the edge of the demonstrations")
            else:
                self.alarms[row] = ""
        return given

    def _alarm(self, row: int, what: str) -> None:
        who = f"row {row}: " if self.rows > 1 else ""
        if not self.warned:
            self.warned = True
            warnings.warn(f"ALARM: {who}{what}; this is said once, `alarms` holds it for every step", RuntimeWarning, 4)
        self.alarms[row] = f"{who}{what}"

    def _take(self, given: Mapping[str, np.ndarray], known: np.ndarray | None = None) -> None:
        """Into the history of every row, but of those that know it."""
        import numpy as np

        observed = self.policy.facts.observed
        known = np.zeros(self.rows, bool) if known is None else known
        for name, value in given.items():
            # the first is repeated, as windows do at an episode's edge
            same = np.repeat(value[:, None], observed, axis=1)
            before = self.history.get(name, same)
            moved = np.concatenate([before[:, 1:], value[:, None]], axis=1)
            fresh, kept = (np.reshape(rows, (-1, *[1] * value.ndim)) for rows in (self.fresh, known))
            self.history[name] = np.where(fresh, same, np.where(kept, before, moved))
        self.fresh = [False] * self.rows

    def _draw(self, steps: int | None) -> Tensor:
        """A chunk per row, (rows, horizon, dim) in standard units."""
        import numpy as np
        import torch

        from sfumato.diffusion import Streams, key
        from sfumato.diffusion.sample import walk

        model = self.policy.model
        count = self.walk.steps or 1 if steps is None else steps
        if count < 1:
            raise Wrong(f"steps = {count}: must be at least 1")
        task = None if self.tasks is None else np.asarray(self.tasks)
        shown = self.policy.facts.shown(self.history, task)
        condition = {name: value.to(model.device) for name, value in shown.items()}
        numbers = [key(seed, number) for seed, number in zip(self.seeds, self.chunks, strict=True)]
        rng = Streams(key("act"), numbers, model.device)
        blank = torch.zeros(self.rows, self.policy.facts.horizon, self.policy.facts.dim, device=model.device)
        z, guess = model.process.prior(blank, rng), model.guided(self.walk)(model.denoiser, condition)
        times = self.grid(model.process.schedule, 1 if self.solver.counts else count)
        x_t = model.process.start(z)
        if self.warm is not None and self.last is not None:
            x_t, times = self._carried_on(z, times)
        with torch.no_grad():
            *_, (end, _) = walk(guess, z, times, self.solver, rng, x_t=x_t, **condition)
        finite = torch.isfinite(end).flatten(1).all(1)
        if not bool(finite.any()):
            known = "; ".join(line.removeprefix("range     ") for line in self.policy.facts.values())
            raise Wrong(
                f"the policy answers NaN or infinity to what it sees, so there is no action; give observations in the "
                f"units of the demonstrations ({known}), or train it again"
            )
        for row in (~finite).nonzero()[:, 0].tolist():
            self._alarm(row, "the policy answers NaN or infinity: it keeps its last action")
            end[row] = self._kept(row, end)
        return end

    def _kept(self, row: int, like: Tensor) -> Tensor:
        """The last action that a row was told to carry out, for as long as a chunk is; the middle of all where it has none."""
        if self.last is None or self.chunks[row] == 0:
            return like.new_zeros(like.shape[1:])
        return self.last[row, self.policy.facts.observed - 2 + self.policy.facts.acted].to(like).expand(like.shape[1:])

    def _carried_on(self, z: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
        """The state to start from and the times (n + 1, rows, horizon) to walk through, given the chunks before.

        What is left of a chunk starts at the time ``warm``, and what lies beyond it, or a row that has no chunk yet, from
        noise. A policy whose actions have noise levels of their own rises from ``warm`` at the action of now to noise at
        the first one beyond; any other must start a whole chunk at one time.
        """
        import torch

        from sfumato.diffusion.times import ramp

        facts, last, warm = self.policy.facts, self.last, self.warm
        assert last is not None
        assert warm is not None
        moved = torch.cat([last[:, facts.acted :], last[:, -1:].expand(-1, facts.acted, -1)], 1)
        left = facts.horizon - facts.acted
        one = torch.ones(self.rows, facts.horizon, dtype=torch.float64)
        if self.policy.ramps:
            start = ramp(warm * one[:, :1], max(1, left) * one[:, :1], facts.horizon)
        else:
            start = warm * one
        new = torch.tensor([count == 0 for count in self.chunks])[:, None]
        start = torch.where(new, one, start).to(z.device)
        if (start == start[:, :1]).all():
            start = start[:, 0]
        x_t = self.policy.model.process.interpolate(moved, z, start)
        return x_t, times.to(z.device).reshape(-1, *[1] * start.ndim) * start


class Controller:
    """One robot under a policy: an action at every step.

    Draws a chunk when the one before is used up, as a receding horizon, and in between only watches.
    """

    def __init__(
        self,
        policy: Policy,
        walk: Walk | None = None,
        seed: int = 0,
        warm: float | None = None,
        task: int | None = None,
    ):
        self.session = policy.session(1, [seed], walk, warm=warm, tasks=None if task is None else [task])
        self.policy = policy
        self.steps: int = self.session.walk.steps or 1
        self.left: deque[np.ndarray] = deque()
        self.calls: deque[float] = deque(maxlen=32)  # seconds per call of the network, the last ones
        self.around = 0.0  # seconds that a chunk takes besides
        self._measure()

    def act(self, observation: Any, within: float | None = None) -> np.ndarray:
        """The action for the observation of now, (dim,), in the units of the demonstrations.

        Args:
            observation: name -> array, without a leading axis; one array where the policy sees one thing.
            within: seconds until the action is needed. Where a new chunk is due, it is drawn in as many steps as are sure
                to fit by the calls timed so far, at most the number chosen, at least one.

        Raises ValueError for an observation that does not fit, or a time that is not above 0.
        """
        if within is not None and not within > 0:
            raise ValueError(f"within = {within}: must be above 0 seconds")
        named = isinstance(observation, Mapping)
        seen: Any = {name: _row(value) for name, value in observation.items()} if named else _row(observation)
        if self.left:
            self.session.observe(seen)
        else:
            begin = time.perf_counter()
            steps = self.steps_within(within)
            self.left.extend(self.session.act(seen, steps)[0])
            self.calls.append(max(0.0, time.perf_counter() - begin - self.around) / steps)
        return self.left.popleft()

    def steps_within(self, within: float | None) -> int:
        """The number of steps that fit, by nine tenths of the calls timed so far and a fifth to spare."""
        if within is None:
            return self.steps
        slow = sorted(self.calls)[int(0.9 * (len(self.calls) - 1))]
        return max(1, min(self.steps, int((0.8 * within - self.around) / max(slow, 1e-9))))

    def reset(self, seed: int | None = None) -> None:
        """A new episode begins: forget the old one; with a new seed if given."""
        self.left.clear()
        self.session.reset(seeds=None if seed is None else [seed])
        self.session.last = None

    def _measure(self) -> None:
        """Time chunks of one and of all steps on an observation of nothing, after one to wake up with."""
        import numpy as np

        facts, session = self.policy.facts, self.session
        blank: dict[str, Any] = {name: facts.ranges.low[name][None] for name in facts.states}
        blank |= {name: np.zeros((1, *facts.shapes[name]), np.uint8) for name in facts.pictures}
        seconds = []
        for steps in (1, 1, self.steps, self.steps):
            begin = time.perf_counter()
            session.act(blank, steps)
            seconds.append(time.perf_counter() - begin)
        one, whole = seconds[1], min(seconds[2:])
        call = (whole - one) / (self.steps - 1) if self.steps > 1 else one
        call = min(max(call, one / 20), one)
        self.around = max(0.0, one - call)
        self.calls.append(call)
        self.reset()


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

    Raises RunError for a folder that holds no policy, Wrong for options that make no sense.
    """
    return Policy.load(Path(run), Walk(steps=steps, solver=solver)).controller(seed, warm=warm, task=task)


def _row(value: Any) -> np.ndarray:
    import numpy as np

    return np.asarray(value)[None]
