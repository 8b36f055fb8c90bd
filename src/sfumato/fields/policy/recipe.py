"""Robot control: what was seen -> what to do next, learned from demonstrations.

A policy in the sense of Diffusion Policy (Chi et al. 2023, arXiv 2303.04137): from the last `observed` observations it
samples a chunk of `horizon` actions, of which `acted` are carried out before it looks again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from sfumato.errors import check
from sfumato.fields.policy import measure
from sfumato.fields.policy.data import PolicyFacts, facts_of, going_on, held_out_of, opened, store, task_number
from sfumato.fields.policy.method import ChunkMethod, Levels
from sfumato.fields.policy.senses import chosen
from sfumato.jobs.flags import Positional
from sfumato.jobs.making import Making
from sfumato.jobs.methods import MethodOptions
from sfumato.jobs.recipe import Data, Look, Recipe, Say, usual_batch
from sfumato.jobs.walk import Walk
from sfumato.training.options import TrainOptions

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from PIL.Image import Image
    from torch import nn

    from sfumato.diffusion import Drawn, Equilibrium, Gaussian
    from sfumato.fields.policy.acting import Policy
    from sfumato.fields.policy.data import Chunks
    from sfumato.fields.policy.samples import Chunk, Seen
    from sfumato.jobs.model import Model
    from sfumato.jobs.report import Report
    from sfumato.training.run import Run


@dataclass(frozen=True)
class ChunkNetworkOptions:
    """The network. None means: chosen from the machine."""

    body: Literal["auto", "mlp", "transformer", "unet"] = "auto"
    """MLP on the chunk laid flat (CPU), transformer with a token per action, U-Net along time (GPU)."""
    width: int | None = None
    """Channels."""
    depth: int | None = None
    """Blocks (U-Net: levels)."""


@dataclass(frozen=True)
class ChunkAsk:
    """What chunks of actions are asked for."""

    label: str | None = None
    """Task to draw for, or to be put to the test in (default: all of them)."""


@dataclass(frozen=True)
class PolicyRecipe(Recipe):
    """Chunks of actions from demonstrations: a zarr replay buffer, a LeRobot dataset (v3.0, local), or .npz."""

    Facts: ClassVar[type] = PolicyFacts
    Ask: ClassVar[type] = ChunkAsk
    Measure: ClassVar[type] = measure.TrialOptions
    verbs: ClassVar[Mapping[str, str]] = {"record": "sfumato.fields.policy.simulators.recording:Record"}
    tunable: ClassVar[bool] = True
    formats: ClassVar[tuple[str, ...]] = (".npy",)

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
    levels: Levels = "one"
    """Noise levels of a chunk: one, or each action its own, for chunks that are carried on from the one before."""
    cloning: bool = False
    """Behaviour cloning instead of diffusion: the mean of what was demonstrated, the baseline."""
    network: ChunkNetworkOptions = field(default_factory=ChunkNetworkOptions)
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

    def examine(self) -> Look:
        from sfumato.fields.policy.demonstrations.lerobot import open_demonstrations

        there = open_demonstrations(self.data)
        lengths = there.lengths
        rate = f", {there.fps:g} a second" if there.fps else ""
        lines = (
            f"{there.episodes} episodes in {self.data}, {there.steps} steps{rate}",
            f"lengths   {lengths.min()} to {lengths.max()} steps, {lengths.mean():.0f} on average",
            f"actions   {there.actions.shape[1]} numbers",
            *(f"there is  {name}, {tuple(x.shape[1:])} {x.dtype}" for name, x in there.observations.items()),
            *(f"task      {task}" for task in there.tasks),
        )
        return Look(lines, self)

    def prepare(self, run: Run, tell: Say, base: Any = None) -> PolicyRecipe:
        from sfumato.data import DataError, shown
        from sfumato.fields.policy.demonstrations.episodes import split_episodes

        seen, left = chosen(self.data, self.observations)
        if left:
            tell(f"not seen  {', '.join(left)}: book-keeping and no sense; --observations NAME ... chooses")
        train, held_out = split_episodes(seen, self.held_out)
        if not len(held_out):
            raise DataError(f"{shown(self.data)}: {seen.episodes} episode(s), all the same; at least two are needed")
        facts = facts_of(
            seen, train, held_out, observed=self.observed, horizon=self.horizon, acted=self.acted, angles=self.angles
        )
        if base is not None:
            facts = going_on(facts, base)
        store(seen, train, held_out, run)
        facts.write(run)
        return dataclasses.replace(self, observations=tuple(seen.observations) or None)

    def open(self, run: Run) -> Data:
        facts = PolicyFacts.read(run)
        return Data(facts, *opened(run, self.data, facts))

    def companions(self, run: Run, device: Any) -> Chunks:
        """The windows held out: what chunks are drawn for."""
        return held_out_of(run, self.data, PolicyFacts.read(run))

    # ---- network -----------------------------------------------------------------------------------------------------

    def learning(self) -> ChunkMethod:
        return ChunkMethod(self.method, self.levels, self.cloning)

    def process(self, facts: PolicyFacts) -> Gaussian | Equilibrium:
        return self.learning().build()

    def build(self, facts: PolicyFacts, device: str) -> nn.Module:
        from sfumato.fields.policy.network import choose_network

        return choose_network(
            dim=facts.dim, horizon=facts.horizon, observed=facts.observed, state=facts.state, picture=facts.picture,
            cameras=max(1, len(facts.pictures)), tasks=len(facts.tasks), device=device,
            **dataclasses.asdict(self.network),
        )  # fmt: skip

    def kinds(self) -> Mapping[str, type[nn.Module]]:
        from sfumato.fields.policy.network import ChunkNetwork

        return {"policy": ChunkNetwork}

    def training(self, data: Data, device: str) -> TrainOptions:
        """Batches of 256, and less for few windows: the networks are small."""
        return TrainOptions(batch=usual_batch(len(data.train), 256))

    # ---- samples -----------------------------------------------------------------------------------------------------

    def walk(self, name: str = "usual") -> Walk:
        """With fresh noise, which mends what a network gets wrong. The steps are moved to little noise, and a flow map ends
        at the mean there: both win episodes where steps are few (docs/policy.md)."""
        super().walk(name)  # which refuses other names
        if self.cloning:
            return Walk() if name == "few" else Walk(steps=1, solver="euler", eta=0.0)
        if name == "few":
            return Walk(solver="leap:mean=true", shift=0.5)
        return Walk(steps=8, solver="dpmpp_2m", eta=1.0, shift=0.5)

    def queries(self, model: Model, ask: ChunkAsk, n: int | None) -> Seen:
        from sfumato.fields.policy.samples import Seen

        return Seen(model.companions, 16 if n is None else n, task_number(model.facts, ask.label, model.run))

    def choices(self, model: Model) -> Mapping[str, Sequence[str]]:
        return {"label": model.facts.tasks}

    def things(self, model: Model, queries: Any, drawn: Drawn) -> list[Chunk]:
        from sfumato.fields.policy.samples import chunks

        return chunks(model.facts, queries, drawn)

    def save(self, thing: Chunk, path: Path, making: Making) -> Path:
        """The actions (horizon, dim), in the units of the robot."""
        import numpy as np

        np.save(path, thing.actions)
        return path

    def picture(self, model: Model, things: Sequence[Chunk], columns: int | None = None) -> Image | None:
        """Chunks in the panels of their windows, over what was demonstrated there; in columns each in one of its own."""
        from sfumato.fields.policy.samples import panels, sheet

        return panels(things) if columns is None else sheet(things, columns)

    def measurable(self, model: Model, measure: measure.TrialOptions, ask: ChunkAsk) -> None:
        """The environments fit the policy, and the first of them can be made with the packages and the camera at hand."""
        from sfumato.fields.policy.measure import worlds

        make = next(iter(worlds(self.ready(model), measure, ask.label).values()))
        make().close()

    def evaluate(self, model: Model, measure: measure.TrialOptions, ask: ChunkAsk) -> Report:
        from sfumato.fields.policy.measure import evaluate

        return evaluate(self.ready(model), measure, ask.label)

    # ---- use ---------------------------------------------------------------------------------------------------------

    def usage(self) -> Iterable[str]:
        return (
            'Control: `sfumato.policy.load("RUN")`, then `act(observation)` at every step and `reset()` between episodes.',
            "In a simulator: `sfumato evaluate RUN --environment gym_pusht/PushT-v0 --episodes 50`.",
            "Samples: `sfumato sample RUN -n 64 --out samples`, chunks for held-out observations.",
        )

    def ready(self, model: Model) -> Policy:
        """A policy, which acts: ``controller()`` for one robot, ``session(...)`` for many."""
        from sfumato.fields.policy.acting import Policy

        # a flow map was taught with one time for a whole chunk, whatever its teacher knew
        return Policy.of(model, ramps=self.levels == "each" and not model.adaptations)


RECIPE = PolicyRecipe
