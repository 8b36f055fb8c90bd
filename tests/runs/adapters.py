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
from safetensors.torch import load_file

import sfumato.policy
from sfumato.cli import main
from sfumato.data.demonstrations import Demonstrations
from sfumato.data.replay import save_episodes
from sfumato.recipes.job import SampleOptions, load, read_config, task_of
from sfumato.training.loader import stack
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
    chosen = SampleOptions(precision="fp32", **options)
    parts = load(run, chosen).samples(range(count), chosen)
    return np.concatenate([part.cpu().numpy() for part in parts])


def held_out(run: Path, most: int = 32) -> float:
    """The loss of the averaged weights on what was held out, as training looks at it."""
    task = task_of(read_config(Run(run)), Run(run))
    items = stack([task.held_out[i] for i in range(min(most, len(task.held_out)))])
    return held_out_loss(task, load(run, SampleOptions(precision="fp32")).denoiser, items.pop("x"), items)


def logged_held_out(run: Path) -> float:
    """The last held-out loss that training wrote down."""
    return [record["held_out"] for record in Run(run).records() if "held_out" in record][-1]


def acts(run: Path, seen: Sequence[Mapping[str, np.ndarray]], **options: Any) -> np.ndarray:
    """What a policy does when it sees this, step after step: (steps, dim) in the units of the demonstrations."""
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
    save_episodes(Demonstrations(actions, ends, dict(seen), **more), path)
