"""Robot control: what was seen -> what to do next, learned from demonstrations.

A policy in the sense of Diffusion Policy (Chi et al. 2023, arXiv 2303.04137): from the last `observed` observations it
samples a chunk of `horizon` actions, of which `acted` are carried out before it looks again.
"""

from __future__ import annotations

import dataclasses
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from tyro.conf import Positional

from sfumato.errors import Wrong, check
from sfumato.fields.policy.simulators.trials import TrialOptions, trial
from sfumato.jobs.methods import MethodOptions
from sfumato.jobs.recipe import Prepared, Say
from sfumato.jobs.walk import Habits
from sfumato.networks.options import settle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import numpy as np
    from PIL.Image import Image
    from torch import Tensor, nn

    from sfumato.diffusion import Equilibrium, Gaussian
    from sfumato.fields.policy.chunks import Chunks, Facts
    from sfumato.fields.policy.demonstrations.episodes import Demonstrations
    from sfumato.jobs.walk import SampleOptions
    from sfumato.training.objective import Task
    from sfumato.training.run import Run

FAN = 8
"""Samples drawn for one held-out window, before the next one's turn."""


@dataclass(frozen=True)
class PolicyNetwork:
    """The network. None means: chosen from the machine."""

    body: Literal["auto", "mlp", "transformer", "unet"] = "auto"
    """MLP on the chunk laid flat (CPU), transformer with a token per action, U-Net along time (GPU)."""
    width: int | None = None
    """Channels."""
    depth: int | None = None
    """Blocks (U-Net: levels)."""


@dataclass(frozen=True)
class PolicyRecipe:
    """Chunks of actions from demonstrations: a zarr replay buffer, a LeRobot dataset (v3.0, local), or .npz."""

    Measure: ClassVar[type] = TrialOptions
    verbs: ClassVar[Mapping[str, str]] = {"record": "sfumato.fields.policy.simulators.recording:Record"}

    data: Positional[Path]
    """Zarr store (folder or .zip), LeRobot folder, or .npz with action, episode_ends and observations."""
    observations: tuple[str, ...] | None = None
    """Names of what the policy sees (none: "state" if there is one, or else all numbers, or else all pictures)."""
    angles: tuple[str, ...] = ()
    """Numbers of states that are angles in radians, as NAME.PLACE (state.4): shown as sine and cosine, since a whole turn
    is no distance."""
    observed: int = 2
    """Steps seen, the last of them is now."""
    horizon: int = 16
    """Actions predicted at once, from the first step seen on."""
    acted: int = 8
    """Actions carried out, from now on, before the policy looks again."""
    held_out: float = 0.02
    """Share of the episodes kept out of training, to measure with."""
    levels: Literal["one", "each"] = "one"
    """Noise levels of a chunk: one, or each action its own, for chunks that are carried on from the one before."""
    cloning: bool = False
    """Behaviour cloning instead of diffusion: the mean of what was demonstrated, the baseline."""
    network: PolicyNetwork = field(default_factory=PolicyNetwork)
    """Network."""
    method: MethodOptions = field(
        default_factory=lambda: MethodOptions(predicts="velocity", loss_in=None, times_mean=-1.0)
    )
    """Diffusion method. Times lean to little noise: actions from -1 to 1 spread less than the noise, and what must be told
    apart of them, given an observation, is smaller still."""

    def __post_init__(self) -> None:
        check(
            self,
            (self.observed >= 1, "observed", "at least 1"),
            (self.acted >= 1, "acted", "at least 1"),
            (self.horizon >= self.observed - 1 + self.acted, "horizon", "at least observed - 1 + acted, "
             f"{self.observed - 1 + self.acted}"),
            (0 < self.held_out < 1, "held_out", "a share between 0 and 1"),
            (self.observations is None or len(self.observations) > 0, "observations", "one name or more"),
            (not (self.cloning and self.levels == "each"), "levels", "'one' with cloning, which has no noise"),
            (self.method.process == "gaussian", "method.process", "'gaussian': a policy takes few steps"),
        )  # fmt: skip

    # ---- data --------------------------------------------------------------------------------------------------------

    def opened(self) -> tuple[Demonstrations, tuple[str, ...]]:
        """The demonstrations, and the names of what the policy sees of them. Raises DataError."""
        from sfumato.data import DataError, shown
        from sfumato.fields.policy.demonstrations.episodes import is_picture
        from sfumato.fields.policy.demonstrations.lerobot import open_demonstrations

        found = open_demonstrations(self.data, names=self.observations)
        names = tuple(found.observations)
        if self.observations is None:
            numbers = tuple(name for name in names if not is_picture(found.observations[name]))
            names = ("state",) if "state" in numbers else numbers or names
        if not names and (found.task is None or len(found.tasks) < 2):
            raise DataError(f"{shown(self.data)}: has actions but no observations; a policy must see something")
        seen = {name: found.observations[name] for name in names}
        return dataclasses.replace(found, observations=seen), names

    def examine(self) -> tuple[list[str], PolicyRecipe, bool]:
        from sfumato.fields.policy.demonstrations.lerobot import open_demonstrations

        found = open_demonstrations(self.data)
        lengths = found.lengths
        rate = f", {found.fps:g} a second" if found.fps else ""
        lines = [
            f"{found.episodes} episodes in {self.data}, {found.steps} steps{rate}",
            f"lengths   {lengths.min()} to {lengths.max()} steps, {lengths.mean():.0f} on average",
            f"actions   {found.actions.shape[1]} numbers",
            *(f"there is  {name}, {tuple(x.shape[1:])} {x.dtype}" for name, x in found.observations.items()),
            *(f"task      {task}" for task in found.tasks),
        ]
        return lines, self, True

    def prepare(self, run: Run, say: Say) -> tuple[PolicyRecipe, Prepared]:
        import numpy as np

        from sfumato.data import DataError, shown
        from sfumato.fields.policy.demonstrations.episodes import Ranges, split_episodes
        from sfumato.fields.policy.demonstrations.replay import save_episodes, store_pictures
        from sfumato.training.progress import Watch

        found, names = self.opened()
        train, held_out = split_episodes(found, self.held_out)
        if not len(held_out):
            raise DataError(f"{shown(self.data)}: {found.episodes} episode(s), all the same; at least two are needed")
        lazy = [name for name in names if not isinstance(found.observations[name], np.ndarray)]
        if lazy:
            count = sum(len(found.observations[name]) for name in lazy)
            with Watch("unpack pictures", count, unit="pictures") as watch:
                found = store_pictures(found, run.cache, progress=lambda done, total: watch.show(done))
        rest = {name: x for name, x in found.observations.items() if name not in lazy}
        save_episodes(dataclasses.replace(found, observations=rest), run.cache / "episodes.npz")
        np.savez(run.cache / "split.npz", train=train, held_out=held_out)
        prepared = self._assemble(found, names, train, held_out, Ranges.of(found, train))
        prepared.train.facts.write(run)  # type: ignore[attr-defined]
        return dataclasses.replace(self, observations=names or None), prepared

    def reload(self, run: Run) -> Prepared:
        from sfumato.fields.policy.chunks import Facts

        facts = Facts.read(run)
        found, train, held_out = self._stored(run, facts)
        return self._assemble(found, (*facts.states, *facts.pictures), train, held_out, facts.ranges)

    def held(self, run: Run) -> Chunks:
        """The windows that a run held out. Raises DataError, RunError."""
        from sfumato.fields.policy.chunks import Chunks, Facts
        from sfumato.fields.policy.demonstrations.episodes import Windows

        facts = Facts.read(run)
        found, _, part = self._stored(run, facts)
        names = (*facts.states, *facts.pictures)
        windows = Windows(found, facts.observed, facts.horizon, facts.acted, facts.ranges, names, part)
        return Chunks.of(windows, facts, spread=True)

    def _stored(self, run: Run, facts: Facts) -> tuple[Demonstrations, np.ndarray, np.ndarray]:
        """The demonstrations as they were prepared, and the numbers of the episodes trained on and held out."""
        import numpy as np

        from sfumato.data import DataError
        from sfumato.fields.policy.demonstrations.replay import open_episodes

        try:
            found = open_episodes(run.cache / "episodes.npz")
            stored = np.load(run.cache / "split.npz", allow_pickle=False)
            train, held_out = stored["train"], stored["held_out"]
            lazy = [name for name in facts.pictures if name not in found.observations]
            pictures = {name: np.load(run.cache / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in lazy}
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
            raise DataError(
                f"{run.cache}: the prepared data cannot be read ({error}); train again from {self.data}"
            ) from error
        found = dataclasses.replace(found, observations={**found.observations, **pictures}, source=str(self.data))
        return found, train, held_out

    def _assemble(
        self, found: Demonstrations, names: tuple[str, ...], train: np.ndarray, held_out: np.ndarray, ranges: Any
    ) -> Prepared:
        from sfumato.fields.policy.chunks import Chunks, facts_of
        from sfumato.fields.policy.demonstrations.episodes import Windows

        windows = [
            Windows(found, self.observed, self.horizon, self.acted, ranges, names, part) for part in (train, held_out)
        ]
        facts = facts_of(found, ranges, names, windows[0], self.angles)
        return Prepared(None, Chunks.of(windows[0], facts), Chunks.of(windows[1], facts, spread=True), ranges)

    def learned_from(self, prepared: Prepared) -> str:
        train: Any = prepared.train
        held: Any = prepared.held_out
        facts: Facts = train.facts
        seen = ", ".join(f"{name} {facts.shapes[name]}" for name in (*facts.states, *facts.pictures)) or "the task"
        tasks = f", {len(facts.tasks)} tasks" if facts.tasks else ""
        angles = f" ({', '.join(facts.angles)} as sine and cosine)" if facts.angles else ""
        return (
            f"{len(train)} windows of {len(train.windows.episodes)} episodes to learn from{tasks}, "
            f"{len(held.windows.episodes)} episodes held out; sees {seen}{angles} of {facts.observed} step(s), "
            f"predicts {facts.horizon} actions of {facts.dim} numbers, acts on {facts.acted}"
        )

    def values(self, prepared: Prepared) -> list[str]:
        import numpy as np

        ranges = prepared.statistics
        with np.printoptions(precision=4, suppress=True, threshold=12):
            return [f"range     {name}: {ranges.low[name]} to {ranges.high[name]}" for name in ranges.low]

    # ---- network -----------------------------------------------------------------------------------------------------

    def process(self) -> Gaussian | Equilibrium:
        if self.cloning:
            from sfumato.fields.policy.cloning import Regression

            return Regression()
        return self.method.build()

    def learned_how(self) -> str:
        if self.cloning:
            return "behaviour cloning: the mean of what was demonstrated"
        return self.method.words() + (", each action with its own noise level" if self.levels == "each" else "")

    def batch(self, count: int, device: str) -> int:
        """256, and less for few windows: the networks are small."""
        most = 256
        while most > 8 and most * 4 > count:
            most //= 2
        return max(1, min(most, count))

    def settled(self, network: nn.Module) -> PolicyRecipe:
        return dataclasses.replace(self, network=settle(self.network, network))

    def kinds(self) -> Mapping[str, type[nn.Module]]:
        from sfumato.fields.policy.network import Policy

        return {"policy": Policy}

    def task(self, prepared: Prepared, seed: int) -> Task:
        import torch

        from sfumato.diffusion import Blanks, Covered, Ramp, independent, key, optimal_transport
        from sfumato.fields.policy.network import choose_policy
        from sfumato.jobs.model import previewed
        from sfumato.training.objective import Task
        from sfumato.training.parallel import pick_device

        train: Any = prepared.train
        held: Any = prepared.held_out
        facts: Facts = train.facts
        times = self.method.distribution()
        own = times if self.method.times == "adaptive" else Covered(times)  # adaptive ones learn where to look
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(key("weights", seed))
            network = choose_policy(
                dim=facts.dim, horizon=facts.horizon, observed=facts.observed, state=facts.state, picture=facts.picture,
                cameras=max(1, len(facts.pictures)), tasks=len(facts.tasks), device=pick_device().type,
                **dataclasses.asdict(self.network),
            )  # fmt: skip
        return Task(
            network=network,
            process=self.process(),
            train=train,
            held_out=held,
            times=Ramp(own) if self.levels == "each" else own,
            coupling=independent if self.method.coupling == "independent" else optimal_transport,
            uncertainty=self.method.uncertainty,
            preview=partial(
                previewed,
                draw=partial(drawn, held=held),
                queries=Blanks(torch.zeros(facts.horizon, facts.dim), 16, conditions(held, range(16))),
                seed=seed,
            ),
        )

    def usage(self) -> Iterable[str]:
        return (
            'Control: `sfumato.policy.load("RUN")`, then `act(observation)` at every step and `reset()` between episodes.',
            "In a simulator: `sfumato evaluate RUN --environment gym_pusht/PushT-v0 --episodes 50`.",
            "Samples: `sfumato sample RUN -n 64 --out samples`, chunks for held-out observations.",
        )

    def evaluate(self, out: Path, asked: TrialOptions, options: SampleOptions) -> str:
        return trial(out, asked, options)

    # ---- samples -----------------------------------------------------------------------------------------------------

    def habits(self) -> Habits:
        """With fresh noise, which mends what a network gets wrong. The steps are moved to little noise, and a flow map ends
        at the mean there: both win episodes where steps are few (docs/policy.md)."""
        return Habits("euler", 1, 0.0) if self.cloning else Habits("dpmpp_2m", 8, eta=1.0, shift=0.5, last="mean")

    def condition(self, run: Run, options: SampleOptions) -> Callable[[range], dict[str, Tensor]] | None:
        """Samples 0 to 7 are for one held-out window, 8 to 15 for the next, and so on; all of the task ``label`` if given."""
        held = self.held(run)
        tasks = held.facts.tasks
        if options.label is not None and options.label not in tasks:
            known = f"must be one of {', '.join(tasks)}" if tasks else f"{run.path} was trained without tasks"
            raise Wrong(f"label = {options.label!r}: {known}")

        def condition(own: range) -> dict[str, Tensor]:
            found = conditions(held, own)
            if options.label is not None:
                found["task"] = found["task"] * 0 + tasks.index(options.label)
            return found

        return condition

    def draw(self, samples: Tensor, run: Run, columns: int | None = None) -> Image | None:
        from sfumato.fields.policy.chunks import fans

        if columns is not None:
            return fans([chunk[None] for chunk in samples.float().cpu().numpy()], columns=columns, side=90)
        held = self.held(run)
        return drawn(samples, held)

    def write(self, samples: Tensor, numbers: range, folder: Path, run: Run) -> None:
        """0000.npy, 0001.npy, ...: chunks (horizon, dim) in the units of the robot."""
        import numpy as np

        from sfumato.fields.policy.chunks import Facts

        facts = Facts.read(run)
        for number, item in zip(numbers, samples, strict=True):
            np.save(folder / f"{number:04d}.npy", facts.actions(item[None])[0])


def conditions(held: Chunks, numbers: Iterable[int]) -> dict[str, Tensor]:
    """What the samples of these numbers are drawn for: held-out windows, FAN samples each."""
    import numpy as np
    import torch

    found = held.batch(np.array([number // FAN % len(held) for number in numbers], dtype=np.int64))
    return {name: torch.from_numpy(value) for name, value in found.items() if name != "x"}


def drawn(samples: Tensor, held: Chunks) -> Image:
    """Samples 0, 1, ... in the panels of their windows, over what was demonstrated there."""
    import numpy as np

    from sfumato.fields.policy.chunks import fans

    every = samples.float().cpu().numpy()
    panels = [every[i : i + FAN] for i in range(0, len(every), FAN)]
    truth = held.batch(np.arange(len(panels)) % len(held))["x"]
    return fans(panels, list(truth))


RECIPE = PolicyRecipe
