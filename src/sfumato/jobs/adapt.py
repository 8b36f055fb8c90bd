"""Adaptations: what makes of a trained run another one. So far one, the flow map."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sfumato.errors import check
from sfumato.training.options import TrainOptions
from sfumato.training.run import Run

if TYPE_CHECKING:
    from torch import nn

    from sfumato.training.objective import Task

TEACHER = "teacher.safetensors"
"""The teacher's averaged weights, in the new run: it needs nothing of the old one."""


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
            (self.cost > 0, "cost", "above 0"),
            (0 <= self.w[0] <= self.w[1], "w", "two strengths, the smaller one first"),
        )

    @property
    def guided(self) -> bool:
        """Whether the strength is an input at all."""
        return self.w != (1.0, 1.0)


def converted(
    task: Task, run: Run, options: DistillOptions, training: TrainOptions, kinds: Mapping[str, type[nn.Module]]
) -> Task:
    """The task of converting the teacher that lies in ``run``; its data and condition are those of ``task``;
    ``kinds`` as of :func:`sfumato.networks.build`."""
    import torch

    from sfumato import networks
    from sfumato.adapting.flow_map import Conversion, FlowMap, Guided, Leap
    from sfumato.adapting.habits import HABITS, finest_share
    from sfumato.diffusion import Denoiser, Uniform, key
    from sfumato.training.objective import Precise, bf16_pays
    from sfumato.training.parallel import pick_device

    device = pick_device()
    teacher, weights, settings = read_teacher(run.path / TEACHER, kinds)
    guided = settings.get("classes", 0) > 0 and options.guided
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key("weights", training.seed))
        student = networks.build({**settings, "guided": True} if guided else settings, kinds)
    student.load_state_dict({**student.state_dict(), **weights})
    teacher.to(device).eval().requires_grad_(False)
    bf16 = training.precision == "bf16" or (training.precision == "auto" and bf16_pays(device))
    criterion = Conversion(
        Denoiser(Precise(teacher, bf16), task.process),
        options.kind,
        Guided(*options.w) if guided else None,
        finest=finest_share(task.process),
        **HABITS[options.kind],
    )
    middle = torch.tensor([[min(max(1.5, options.w[0]), options.w[1]), 0.0, 1.0]])
    beside = {"guidance": middle} if guided else {}
    preview: Any = task.preview
    if preview is not None:
        asked = preview.keywords["queries"]
        queries = dataclasses.replace(asked, condition={**asked.condition, **beside})
        preview = partial(preview.func, **{**preview.keywords, "queries": queries, "steps": 4, "solver": Leap()})
    return dataclasses.replace(
        task, network=student, criterion=criterion, denoiser=FlowMap, times=Uniform(), uncertainty=False, hidden={},
        beside=beside, preview=preview,
    )  # fmt: skip


def guidance_in(task: Task) -> bool:
    """Whether the network takes the strength of guidance as an input."""
    return bool(getattr(task.network, "options", {}).get("guided", False))


def read_teacher(file: Path, kinds: Mapping[str, type[nn.Module]]) -> tuple[nn.Module, dict[str, Any], dict[str, Any]]:
    """The teacher's network, its weights, and the settings it was built with. Raises CheckpointError."""
    from safetensors import safe_open

    from sfumato import networks
    from sfumato.training import checkpoint

    weights = checkpoint.read_tensors(file)
    with safe_open(file, "pt") as opened:
        settings = json.loads(opened.metadata()["network"])
    network = networks.build(settings, kinds)
    network.load_state_dict(weights)
    return network, weights, settings
