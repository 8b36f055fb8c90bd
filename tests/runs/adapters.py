"""How runs are made, sampled and measured by the code as it is now: the one file to change when rooms and names move.

Everything that `make.py` and `test_runs.py` need of the package goes through these few functions.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from sfumato.cli import main
from sfumato.jobs.config import read_config
from sfumato.jobs.model import load, task_of
from sfumato.jobs.walk import Drawing
from sfumato.training.loader import bunched
from sfumato.training.run import Run
from sfumato.training.watch import held_out_loss


def command(*words: object) -> int:
    """The `sfumato` command in this process; returns its exit status."""
    return main([str(word) for word in words])


def command_stopped(step: int, *words: object) -> int:
    """The same, in which SIGTERM comes while it logs ``step``, so that the step after it is the last."""
    log = Run.log

    def logged(run: Run, record: Mapping[str, Any]) -> None:
        log(run, record)
        if record["step"] == step and "loss" in record:
            os.kill(os.getpid(), signal.SIGTERM)

    Run.log = logged  # type: ignore[method-assign]
    try:
        return command(*words)
    finally:
        Run.log = log  # type: ignore[method-assign]


def samples(run: Path, options: Mapping[str, Any], count: int = 4) -> np.ndarray:
    """Samples 0, 1, ... of seed 0 as the network knows them, (count, ...), in float32 arithmetic."""
    drawing = Drawing(precision="fp32", ema=options.get("ema"))
    model, ask = load(run, drawing=drawing).asked(0, {name: value for name, value in options.items() if name != "ema"})
    parts = list(model.recipe.draw(model, model.recipe.queries(model, ask, count), range(count)))
    assert [number for part in parts for number in part.numbers] == list(range(count))
    return np.concatenate([part.x.cpu().numpy() for part in parts])


def held_out(run: Path, most: int = 32) -> float:
    """The loss of the averaged weights on what was held out, as training looks at it."""
    task = task_of(read_config(Run(run)), Run(run))
    denoiser = load(run, drawing=Drawing(precision="fp32")).denoiser
    return held_out_loss(task, denoiser, [batch.to(torch.device("cpu")) for batch in bunched(task.held_out, most)])


def logged_held_out(run: Path) -> float:
    """The last held-out loss that training wrote down."""
    return [record["held_out"] for record in Run(run).records() if "held_out" in record][-1]


def acts(run: Path, seen: Sequence[Mapping[str, np.ndarray]], **options: Any) -> np.ndarray:
    """What a policy does when it sees this, step after step: (steps, dim) in the units of the demonstrations."""
    import sfumato.policy

    controller = sfumato.policy.load(run, **options)
    return np.stack([controller.act(dict(each)) for each in seen])


def evaluated(run: Path, count: int) -> dict[str, float]:
    """The metrics of a run by name, measured quickly on so many samples."""
    assert command("evaluate", run, "--quick", "-n", count, "--precision", "fp32") == 0
    found = json.loads((run / "metrics.json").read_text())
    return {name: row["value"] for name, row in found["metrics"].items()}


def played(run: Path, environment: str, episodes: int) -> list[int]:
    """The lengths of a policy's episodes in a simulator."""
    words = ["--environment", environment, "--episodes", episodes, "--film", 0, "--workers", 1, "--steps", 2]
    assert command("evaluate", run, *words) == 0
    return [each["length"] for each in json.loads((run / "rollouts.json").read_text())["each"]]


def weights(run: Path) -> dict[str, np.ndarray]:
    """The averaged weights that a finished run leaves, by name."""
    return {name: value.numpy() for name, value in load_file(run / "model.safetensors").items()}


def write_demonstrations(
    path: Path, actions: np.ndarray, ends: np.ndarray, seen: Mapping[str, np.ndarray], **more: Any
) -> None:
    """Episodes as a file to learn a policy from."""
    from sfumato.fields.policy.demonstrations.episodes import Demonstrations
    from sfumato.fields.policy.demonstrations.replay import save_episodes

    save_episodes(Demonstrations(actions, ends, dict(seen), **more), path)
