"""What is recorded is what was played, and comes back as demonstrations."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("gymnasium")
from sfumato.data import DataError
from sfumato.fields.policy.demonstrations.lerobot import open_demonstrations
from sfumato.fields.policy.demonstrations.replay import open_replay, save_episodes
from sfumato.fields.policy.simulators.environments import make
from sfumato.fields.policy.simulators.recording import RecordOptions, record
from sfumato.fields.policy.simulators.world import META_WORLD, PUSH_T
from tests.fields.policy import robots
from tests.fields.policy.robots import POINT

RECORDED = Path(__file__).parents[5] / "shared" / "data" / "pusht" / "pusht_cchi_v7_replay.zarr"
WALKING = "tests.fields.policy.robots:walking"


@pytest.mark.parametrize("name", ["made.npz", "made"])
def test_recorded_episodes_are_the_ones_played(name: str, tmp_path: Path):
    text = record([POINT], tmp_path / name, RecordOptions(WALKING, episodes=4, after=2, picture=24))
    assert os.listdir(tmp_path) == [name]
    found = open_demonstrations(tmp_path / name)
    assert text.startswith(f"4 episodes, {found.steps} steps in")
    assert (found.episodes, found.fps, found.task) == (4, 10.0, None)
    assert found.actions.dtype == np.float32
    seeds = iter(range(100))
    for number in range(4):
        span, world = found.episode(number), make(POINT, picture=24)
        while (seen := world.reset(next(seeds)))["state"][2] < -0.5:
            pass  # those it can't reach were left out
        for step in range(span.start, span.stop):
            np.testing.assert_array_equal(found.observations["state"][step], seen["state"].astype(np.float32))
            picture = np.asarray(found.observations["img"][step : step + 1])[0]
            assert np.abs(picture.astype(int) - seen["img"]).mean() < (8 if name == "made" else 1e-9)
            seen, _, done, success = world.step(found.actions[step])
        assert success
        assert done


def test_failures_are_kept_only_if_asked(tmp_path: Path):
    goals = np.array([make(POINT).reset(seed)["state"][2] for seed in range(12)])
    assert (goals < -0.5).any()
    record([POINT], tmp_path / "all.npz", RecordOptions(WALKING, episodes=12, keep="all"))
    found = open_demonstrations(tmp_path / "all.npz")
    first = found.observations["state"][found.starts, 2]
    np.testing.assert_array_equal(first, goals.astype(np.float32))
    text = record([POINT], tmp_path / "good.npz", RecordOptions(WALKING, episodes=6))
    found = open_demonstrations(tmp_path / "good.npz")
    np.testing.assert_array_equal(found.observations["state"][found.starts, 2], first[goals >= -0.5][:6])
    tried = int(np.nonzero(np.cumsum(goals >= -0.5) == 6)[0][0]) + 1
    assert f"6 of {tried} kept" in text
    with pytest.raises(DataError, match=r"2 of 9 episodes ended in success; expected 3: keep all"):
        record([POINT], tmp_path / "few.npz", RecordOptions(WALKING, episodes=3, limit=2, seed=31))


@pytest.mark.skipif(find_spec("metaworld") is None, reason="metaworld is not installed")
def test_experts_of_several_tasks(tmp_path: Path):
    tasks = ["reach-v3", "drawer-close-v3"]
    record([META_WORLD + task for task in tasks], tmp_path / "two", RecordOptions(episodes=2, after=3))
    found = open_demonstrations(tmp_path / "two")
    assert found.tasks == tuple(tasks)
    assert found.task is not None
    assert [int(found.task[found.starts[i]]) for i in range(4)] == [0, 0, 1, 1]
    assert {name: x.shape[1:] for name, x in found.observations.items()} == {"state": (39,)}
    world, span = make(META_WORLD + tasks[1]), found.episode(3)
    world.reset(1)
    steps = [world.step(action) for action in found.actions[span]]
    assert [step.success for step in steps] == [False] * (len(steps) - 4) + [True] * 4


@pytest.mark.skipif(not RECORDED.exists(), reason=f"{RECORDED} is not here")
def test_recorded_actions_can_be_done_again(tmp_path: Path):
    pytest.importorskip("gym_pusht")
    options = RecordOptions(str(RECORDED), episodes=3, keep="all", picture=32)
    record([PUSH_T], tmp_path / "again.npz", options)
    found, known = open_demonstrations(tmp_path / "again.npz"), open_replay(RECORDED, names=["state"])
    np.testing.assert_array_equal(found.ends, known.ends[:3])
    np.testing.assert_array_equal(found.actions, known.actions[: found.steps])
    away = np.abs(found.observations["state"] - known.observations["state"][: found.steps])
    assert away.max() < 1e-3
    assert found.observations["img"].shape == (found.steps, 32, 32, 3)


def test_an_interrupt_keeps_what_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    plain, calls = robots.walking, []

    def walking(environment):
        calls.append(environment)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return plain(environment)

    monkeypatch.setattr(robots, "walking", walking)
    with pytest.raises(KeyboardInterrupt):
        record([POINT], tmp_path / "cut", RecordOptions(WALKING, episodes=9, keep="all"))
    assert open_demonstrations(tmp_path / "cut").episodes == 3
    assert "interrupted; 3 episodes" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["cut"]


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ("expert", "has no scripted expert"),
        ("nothing", "no such demonstrations; expected expert"),
        (
            "tests.fields.policy.robots:nobody",
            r"tests.fields.policy.robots:nobody: can't be imported \(module .* has no attribute 'nobody'\)",
        ),
        ("no_module:f", "can't be imported"),
        ("tests.fields.policy.robots:stumbling", r"seed 0, step 0: the policy failed \(out of ideas\)"),
    ],
)
def test_who_can_not_play_is_named(policy: str, words: str, tmp_path: Path):
    with pytest.raises(DataError, match=words) as caught:
        record([POINT], tmp_path / "none.npz", RecordOptions(policy))
    assert "\n" not in str(caught.value)
    assert not os.listdir(tmp_path)


def test_what_is_there_is_not_written_over(tmp_path: Path):
    (tmp_path / "there.npz").write_bytes(b"mine")
    with pytest.raises(DataError, match="exists already"):
        record([POINT], tmp_path / "there.npz", RecordOptions(WALKING))
    with pytest.raises(DataError, match="cannot be written"):
        record([POINT], tmp_path / "there.npz" / "below.npz", RecordOptions(WALKING))
    assert (tmp_path / "there.npz").read_bytes() == b"mine"


def test_demonstrations_of_another_robot_are_refused(tmp_path: Path):
    record([POINT], tmp_path / "point.npz", RecordOptions(WALKING, episodes=1))
    found = open_demonstrations(tmp_path / "point.npz")
    save_episodes(found, tmp_path / "copy.npz")
    with pytest.raises(DataError, match="can't begin in a given state"):
        record([POINT], tmp_path / "again.npz", RecordOptions(str(tmp_path / "copy.npz")))


@pytest.mark.parametrize("given", [{"episodes": 0}, {"seed": -1}, {"after": -1}, {"quality": 52}])
def test_impossible_options_are_refused(given: dict):
    name, value = next(iter(given.items()))
    with pytest.raises(ValueError, match=f"{name} = {value}"):
        RecordOptions(**given)
