"""The door to a trained policy: one call, then an action at every step."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import sfumato.policy
from sfumato.fields.policy.demonstrations.replay import save_episodes
from sfumato.training.run import RunError
from tests.fields.policy.reach import QUICK, reaching
from tests.jobs.small import sfumato as command


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    save_episodes(reaching(), folder / "reach.npz")
    save_episodes(reaching(tasks=True), folder / "tasks.npz")
    for name in ("reach", "tasks"):
        assert command("train", "policy", folder / f"{name}.npz", *QUICK, "--out", folder / name) == 0
    return folder


def walk(policy: sfumato.policy.Controller, steps: int = 20, within: float | None = None) -> np.ndarray:
    """Where a point gets that goes where the policy says, (steps, 2)."""
    place, goal, path = np.array([20.0, 30.0]), np.array([80.0, 70.0]), []
    for _ in range(steps):
        place = policy.act(np.concatenate([place, goal]), within)
        path.append(place)
    return np.array(path)


def test_a_policy_acts_and_can_be_asked_again(runs: Path):
    policy = sfumato.policy.load(runs / "reach")
    first = walk(policy)
    assert first.shape == (20, 2)
    assert np.isfinite(first).all()
    assert not np.array_equal(walk(policy), first)  # goes on, with what it saw last
    policy.reset()
    np.testing.assert_array_equal(walk(policy), first)
    np.testing.assert_array_equal(walk(sfumato.policy.load(str(runs / "reach"))), first)
    assert not np.array_equal(walk(sfumato.policy.load(runs / "reach", seed=1)), first)
    policy.reset(seed=1)
    np.testing.assert_array_equal(walk(policy), walk(sfumato.policy.load(runs / "reach", seed=1)))


def test_steps_a_warm_start_and_a_deadline_can_be_chosen(runs: Path):
    policy = sfumato.policy.load(runs / "reach", steps=3, warm=0.5)
    assert policy.steps == 3
    assert walk(policy, within=30.0).shape == (20, 2)
    assert walk(policy, within=1e-6).shape == (20, 2)  # one step at least
    with pytest.raises(ValueError, match="solver = 'eul': must be one of euler"):
        sfumato.policy.load(runs / "reach", solver="eul")


def test_a_task_is_named_or_numbered(runs: Path):
    named, numbered = (sfumato.policy.load(runs / "tasks", task=task) for task in ("blue", 1))
    np.testing.assert_array_equal(walk(named), walk(numbered))
    assert not np.array_equal(walk(named), walk(sfumato.policy.load(runs / "tasks", task="red")))
    with pytest.raises(ValueError, match="task = 'green': must be one of red, blue"):
        sfumato.policy.load(runs / "tasks", task="green")
    with pytest.raises(ValueError, match="this policy knows several"):
        sfumato.policy.load(runs / "tasks")


def test_what_is_no_run_is_refused(tmp_path: Path):
    with pytest.raises(RunError, match="not a run"):
        sfumato.policy.load(tmp_path)


def test_the_door_opens_without_torch():
    code = "import sys, sfumato.policy; print({'torch', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "set()", done.stderr
