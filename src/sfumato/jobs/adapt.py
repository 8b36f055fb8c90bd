"""Adaptations: what makes of a trained run another one. Each is a frozen dataclass of options, kept in the new run's
config.yaml, that says what is trained, which denoiser comes of it, and how that is walked."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from sfumato.errors import Wrong, check, decoding
from sfumato.jobs.walk import Walk
from sfumato.training.options import TrainOptions
from sfumato.training.run import Run

if TYPE_CHECKING:
    from torch import Tensor, nn

    from sfumato.diffusion import Denoiser
    from sfumato.diffusion.process import Process
    from sfumato.jobs.recipe import Say
    from sfumato.training.objective import Task

TEACHER = "teacher.safetensors"
"""The teacher's averaged weights, in the new run: it needs nothing of the old one."""

Kinds = Mapping[str, "type[nn.Module]"]


class Adaptation(Protocol):
    """What is trained in a run that was made of another one."""

    def task(self, task: Task, run: Run, training: TrainOptions, kinds: Kinds) -> Task:
        """What is trained, from the field's own task; what it needs of the first run lies in ``run``."""

    def weights(self, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights as they were trained, as those of the network that samples are drawn from."""

    def finished(self, run: Run, task: Task, training: TrainOptions, tell: Say) -> None:
        """After the last step: what it leaves besides."""


class Walked(Adaptation, Protocol):
    """One whose samples are drawn in a way of its own."""

    def denoiser(self, network: Any, process: Process) -> Denoiser:
        """What the network is, once trained."""

    def walk(self) -> Walk:
        """How samples are drawn of it unless asked or said otherwise."""

    def solvers(self, process: Any) -> Mapping[str, Any]:
        """Solvers that only it can use, by name."""

    def within(self, tol: float, process: Any) -> Any:
        """The solver that keeps the error below ``tol``."""

    def told(self, settings: Mapping[str, Any], walk: Walk) -> dict[str, Tensor]:
        """What the network is told besides the query, (1, ...) each; ``settings`` are those of the network. Raises Wrong."""

    def guides(self) -> bool:
        """Whether the denoiser is guided from outside, as a plain one is."""


@dataclass(frozen=True)
class DistillOptions:
    """How a trained run becomes a flow map: one network for any number of steps."""

    kind: Literal["lagrangian", "semigroup", "mean_flow", "consistency"] = "lagrangian"
    """Which truth about the map is learned: its end follows the flow, two steps are one, or its end stays put;
    consistency is the last with the data as the only end."""
    cost: float = 0.6
    """Cost of the conversion as a share of the teacher's training, unless --steps or --minutes is given."""
    w: tuple[float, float] = (1.0, 2.0)
    """Strengths of guidance that the map takes as an input, where there are classes; 1 1 leaves guidance out."""

    def __post_init__(self) -> None:
        check(
            self,
            (0 < self.cost < math.inf, "cost", "above 0"),
            (0 <= self.w[0] <= self.w[1] < math.inf, "w", "two strengths, the smaller one first"),
        )

    @property
    def guided(self) -> bool:
        """Whether the strength is an input at all."""
        return self.w != (1.0, 1.0)

    def nearest(self, w: float) -> float:
        """The strength nearest to w that was learned."""
        return min(max(w, self.w[0]), self.w[1])

    def task(self, task: Task, run: Run, training: TrainOptions, kinds: Kinds) -> Task:
        """The task of converting the teacher that lies in ``run``; its data and conditions are those of ``task``."""
        import torch

        from sfumato import networks
        from sfumato.adapting.flow_map import Conversion, FlowMap, Guided
        from sfumato.adapting.habits import HABITS, finest_share
        from sfumato.diffusion import Denoiser, Uniform, key
        from sfumato.training.objective import Precise, bf16_pays
        from sfumato.training.parallel import pick_device

        device = pick_device()
        teacher, weights, settings = read_teacher(run.path / TEACHER, kinds)
        guided = any(settings.get(name, 0) for name in ("classes", "vectors", "context_dim")) and self.guided
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(key("weights", training.seed))
            student = networks.build({**settings, "guided": True} if guided else settings, kinds)
        student.load_state_dict({**student.state_dict(), **weights})
        teacher.to(device).eval().requires_grad_(False)
        bf16 = training.precision == "bf16" or (training.precision == "auto" and bf16_pays(device))
        criterion = Conversion(
            Denoiser(Precise(teacher, bf16), task.process),
            self.kind,
            Guided(*self.w) if guided else None,
            finest=finest_share(task.process),
            **HABITS[self.kind],
        )
        return dataclasses.replace(
            task, network=student, criterion=criterion, denoiser=FlowMap, times=Uniform(), uncertainty=False, hidden={},
            beside=self.told(getattr(student, "options", {}), Walk(w=1.5, guide_from=0.0, guide_to=1.0), bend=True),
        )  # fmt: skip

    def weights(self, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """As they are."""
        return dict(found)

    def finished(self, run: Run, task: Task, training: TrainOptions, tell: Say) -> None:
        """Nothing."""

    def denoiser(self, network: Any, process: Process) -> Denoiser:
        """A flow map."""
        from sfumato.adapting.flow_map import FlowMap

        return FlowMap(network, process)

    def walk(self) -> Walk:
        """Four leaps, at the usual strength or the nearest that was learned."""
        return Walk(steps=4, solver="leap", w=self.nearest(1.5))

    def solvers(self, process: Any) -> Mapping[str, Any]:
        """leap."""
        from sfumato.adapting.flow_map import Leap

        return {"leap": Leap()}

    def within(self, tol: float, process: Any) -> Any:
        """Leaps that are shortened until a long one and two short ones agree."""
        from sfumato.adapting.habits import finest_share
        from sfumato.adapting.tolerance import LeapWithin

        return LeapWithin(tol, finest=finest_share(process))

    def told(self, settings: Mapping[str, Any], walk: Walk, bend: bool = False) -> dict[str, Tensor]:
        """Strength and interval of guidance, for a network that takes them. With ``bend`` a strength that was not learned
        becomes the nearest one, else it raises Wrong."""
        import torch

        if not settings.get("guided"):
            return {}
        w, (low, high) = walk.w if walk.w is not None else 1.5, self.w
        if bend:
            w = self.nearest(w)
        if not low <= w <= high:
            raise Wrong(f"w = {w:g}: this flow map learned strengths from {low:g} to {high:g}")
        end = 1.0 if walk.guide_to is None else walk.guide_to
        return {"guidance": torch.tensor([[w, walk.guide_from or 0.0, end]])}

    def guides(self) -> bool:
        """No: a flow map takes the strength as an input."""
        return False


def read_teacher(file: Path, kinds: Kinds) -> tuple[nn.Module, dict[str, Any], dict[str, Any]]:
    """The teacher's network, its weights, and the settings it was built with. Raises CheckpointError."""
    from sfumato import networks
    from sfumato.training import checkpoint

    weights, about = checkpoint.read_weights(file)
    with decoding(file, "distill again"):
        settings = dict(json.loads(about["network"]))
    network = networks.rebuilt(settings, weights, str(file), kinds)
    network.load_state_dict(weights)
    return network, weights, settings
