"""Preferences as an adaptation: a run learns which of its samples are better, from pairs or from a reward."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sfumato.errors import check, typed
from sfumato.jobs.adapt import Kinds, read_teacher
from sfumato.jobs.recipe import Say
from sfumato.jobs.tune import BASE, FinetuneOptions, read_items
from sfumato.training.options import TrainOptions
from sfumato.training.run import Run

if TYPE_CHECKING:
    from torch import Tensor, nn

    from sfumato.diffusion import Denoiser
    from sfumato.training.objective import Task

PAIRS = "pairs.safetensors"
"""In a run's cache: what was chosen, and what was rejected for it."""


@dataclass(frozen=True)
class PreferOptions:
    """How judgements are learned from."""

    beta: float | None = None
    """Of pairs: how sharply they are learned; the loss may part from that of before by about 1 / beta (default: 100). Of a
    reward: how far the judged guesses lie from the old one (default: 1)."""
    rounds: int = 20
    """Of a reward: how often the run draws, is judged and learns."""
    draws: int = 96
    """Of a reward: samples of a round."""
    extremes: float = 0.5
    """Of a reward: share of a round's samples that is learned from, half of it the best, half the worst of their query."""
    leash: float = 1e-4
    """Of a reward: weight of the distance from the run as it was."""
    diversity: float = 0.95
    """Of a reward: stop once samples differ from one another less than this share of what they did before."""

    def __post_init__(self) -> None:
        check(
            self,
            (self.beta is None or 0 < self.beta < math.inf, "beta", "above 0"),
            (1 <= self.rounds <= 10_000, "rounds", "from 1 to 10000"),
            (2 <= self.draws <= 100_000, "draws", "from 2 to 100000"),
            (0 < self.extremes <= 1, "extremes", "a share above 0, up to 1"),
            (0 <= self.leash < math.inf, "leash", "0 or more"),
            (0 <= self.diversity <= 1, "diversity", "a share from 0 to 1"),
        )


@dataclass(frozen=True)
class Preferring:
    """A run that learned from judgements: of pairs, or of a reward where ``reward`` says what that was called.

    The name is for people: code is imported where its user names it, never because a file does.
    """

    options: PreferOptions = field(default_factory=PreferOptions)
    tuned: FinetuneOptions = field(default_factory=FinetuneOptions)
    reward: str = ""

    def task(self, task: Task, run: Run, training: TrainOptions, kinds: Kinds) -> Task:
        """The task of learning from the pairs that lie in ``run``; of a reward, whose samples come round by round, what is the
        same in all of them."""
        from sfumato.adapting.preferences import Preference, Unaware

        network = self.tuned.network(run, training.seed, kinds)
        made = dataclasses.replace(
            task, network=network, written=self.weights, uncertainty=False, hidden={}, denoiser=Unaware
        )
        if self.reward:
            return made
        criterion = Preference(frozen(run, training, kinds, task.process), self.options.beta or 100.0)
        pairs = read_items(run.cache / PAIRS, "pairs")
        return dataclasses.replace(made, train=pairs, held_out=None, criterion=criterion)

    def weights(self, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Trained weights as those of a plain network."""
        return self.tuned.weights(found)

    def finished(self, run: Run, task: Task, training: TrainOptions, tell: Say) -> None:
        """Of pairs, as after any tuning: the average that judges held-out pairs best is taken."""
        if not self.reward:  # in the precision of what they are compared with, or rounding looks like learning
            before: Any = task.criterion
            self.tuned.finished(run, task, training, tell, before.before.network.bf16)

    def again(self, run: Run) -> str:
        """What to say of a run whose reward has to be named once more."""
        return (
            f"{run.path}: learns from a reward; name it again, `sfumato resume {typed(run.path)} --reward {self.reward}`, if you "
            "trust that code"
        )


def frozen(
    run: Run, training: TrainOptions, kinds: Kinds, process: Any, weights: Mapping[str, Tensor] | None = None
) -> Denoiser:
    """The denoiser that ``run`` began with (or of other ``weights`` of the same network), not to be trained."""
    from sfumato.diffusion import Denoiser
    from sfumato.training.objective import Precise, bf16_pays
    from sfumato.training.parallel import pick_device

    device, network = pick_device(), plain(run, kinds)
    if weights is not None:
        network.load_state_dict(dict(weights))
    network.to(device).eval().requires_grad_(False)
    bf16 = training.precision == "bf16" or (training.precision == "auto" and bf16_pays(device))
    return Denoiser(Precise(network, bf16), process)


def plain(run: Run, kinds: Kinds) -> nn.Module:
    """The network that ``run`` began with. Raises CheckpointError."""
    return read_teacher(run.path / BASE, kinds)[0]
