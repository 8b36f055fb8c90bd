"""Simulators behave as the recordings say: starts, steps and pictures of Push-T; goals and experts of Meta-World."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from sfumato.data import DataError
from sfumato.fields.policy.demonstrations.replay import open_replay
from sfumato.fields.policy.simulators.environments import MARK, Environment, make
from sfumato.fields.policy.simulators.world import META_WORLD, PUSH_T

pytest.importorskip("gymnasium")
pytest.importorskip("gym_pusht")
from tests.fields.policy.robots import LIMIT, POINT, SPEED

RECORDED = Path(__file__).parents[5] / "shared" / "data" / "pusht" / "pusht_cchi_v7_replay.zarr"
# Not imported here: how MuJoCo draws must be chosen before
metaworld = pytest.mark.skipif(find_spec("metaworld") is None, reason="metaworld is not installed")
recorded = pytest.mark.skipif(not RECORDED.exists(), reason=f"{RECORDED} is not here")


def apart(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Differences of Push-T states, the last one an angle."""
    found = np.abs(np.asarray(a, dtype=np.float64) - b)
    found[..., 4] = np.minimum(found[..., 4], 2 * np.pi - found[..., 4])
    return found


# Push-T against its recordings


@recorded
def test_episodes_start_where_the_recordings_of_their_seeds_start():
    known, world = open_replay(RECORDED, names=["state"]), make(PUSH_T)
    starts = np.array([world.reset(seed)["state"] for seed in range(known.episodes)])
    assert apart(starts, known.observations["state"][known.starts]).max() < 3e-5  # float32 of numbers up to 512


@recorded
def test_recorded_actions_lead_where_they_led():
    known, world = open_replay(RECORDED, names=["state"]), make(PUSH_T)
    states = known.observations["state"]
    for number in range(0, 206, 20):
        span = known.episode(number)
        seen = [world.reset(number)["state"]]
        seen += [world.step(action).observations["state"] for action in known.actions[span][:-1]]
        assert apart(np.array(seen), states[span]).max() < 1e-4


@recorded
def test_a_given_state_is_met_and_looks_as_recorded():
    known, world = open_replay(RECORDED), make(PUSH_T, picture=96)
    picks = np.arange(50, known.steps, 2500)
    for step in picks:
        state = known.observations["state"][step]
        seen = world.reset(0, state)
        assert apart(seen["state"], state).max() < 1e-9
        assert np.abs(seen["keypoint"] - known.observations["keypoint"][step]).max() < 0.5
        there = known.observations["img"][step : step + 1][0].astype(int)
        assert seen["img"].shape == there.shape
        assert (np.abs(seen["img"] - there).max(axis=2) > 20).mean() < 0.005  # edges that are smoothed another way


def test_the_reward_is_the_covered_share_and_0_95_of_it_is_success():
    world = make(PUSH_T)
    agent = np.array([60.0, 60.0])
    own = type(world._world.base)._get_coverage  # gym-pusht's, by another geometry

    def covered(pose: np.ndarray) -> tuple[float, bool | None, float]:
        world.reset(0, np.concatenate([agent, pose]))
        step = world.step(agent)
        assert step.done == step.success
        return step.reward, step.success, float(own(world._world.base))

    assert covered(MARK)[:2] == (1.0, True)
    assert covered(np.array([420.0, 420.0, 0.0]))[:2] == (0.0, False)
    found = [covered(MARK + np.array([shift, 0, shift / 200])) for shift in np.linspace(0, 12, 13)]
    for reward, success, share in found:
        assert reward == pytest.approx(min(1.0, share / 0.95), abs=1e-12)
        assert success == (share > 0.95)
    assert np.all(np.diff([share for *_, share in found]) < 0)
    assert {success for _, success, _ in found} == {True, False}


def test_an_action_beyond_the_bounds_is_the_one_on_them():
    worlds = [make(PUSH_T), make(PUSH_T)]
    for world in worlds:
        world.reset(3)
    for action in ([1e6, -1e6], [512.0, 600.0]):
        a, b = worlds[0].step(np.array(action)), worlds[1].step(np.clip(action, 0, 512))
        np.testing.assert_array_equal(a.observations["state"], b.observations["state"])


def test_places_of_actions():
    np.testing.assert_allclose(make(PUSH_T).place_of(np.array([[0, 512], [256, 128]])), [[0, 1], [0.5, 0.25]])
    with pytest.raises(DataError, match="no places in its picture"):
        make(POINT).place_of(np.zeros((1, 2)))


# Meta-World


def expert_episode(world: Environment, seed: int) -> tuple[list[np.ndarray], bool]:
    seen, success = [world.reset(seed)["state"]], False
    expert = world.expert()
    for _ in range(150):
        step = world.step(expert({"state": seen[-1]}))
        seen.append(step.observations["state"])
        success = success or bool(step.success)
        if success:
            break
    return seen, success


@metaworld
@pytest.mark.parametrize("task", ["push-v3", "reach-v3"])
def test_experts_succeed_and_episodes_are_functions_of_their_seeds(task: str):
    world, other = make(META_WORLD + task), make(META_WORLD + task)
    first, success = expert_episode(world, 5)
    assert success
    expert_episode(other, 9)  # what was played before leaves no trace
    again, _ = expert_episode(other, 5)
    np.testing.assert_array_equal(np.array(first), np.array(again))
    goals = np.array([world.reset(seed)["state"][-3:] for seed in range(55)])
    assert len(np.unique(goals, axis=0)) == 55  # and not one of 50 drawn beforehand
    assert goals.any(axis=1).all()
    assert (world.limit, world.fps, world.task) == (500, 80.0, task)
    with pytest.raises(DataError, match="can't begin in a given state"):
        world.reset(0, np.zeros(39))


@metaworld
def test_names_of_tasks_and_cameras_are_suggested():
    with pytest.raises(DataError, match="did you mean push-v3"):
        make(META_WORLD + "pusch-v3")
    with pytest.raises(DataError, match="has no camera front; it has topview, corner"):
        make(META_WORLD + "push-v3", camera="front")


@metaworld
@pytest.mark.slow
def test_several_cameras_in_one_process_do_not_disturb_each_other():
    worlds = [make(META_WORLD + task, side=48) for task in ("push-v3", "door-open-v3", "push-v3")]
    for world in worlds:
        world.reset(0)
    try:
        first = [world.render() for world in worlds]
    except DataError as error:
        pytest.skip(f"no drawing here: {error}")
    assert first[0].shape == (48, 48, 3)
    assert first[0].std() > 10
    np.testing.assert_array_equal(first[0], first[2])
    assert (first[0] != first[1]).any()
    np.testing.assert_array_equal(worlds[0].render(), first[0])
    worlds[1].close()
    for world, picture in ((worlds[0], first[0]), (worlds[2], first[2])):
        np.testing.assert_array_equal(world.render(), picture)
    seen = make(META_WORLD + "push-v3", picture=48).reset(0)
    np.testing.assert_array_equal(seen["img"], first[0])


# any environment


def test_observations_get_names():
    point = make(POINT)
    seen = point.reset(4)
    assert {name: x.shape for name, x in seen.items()} == {"state": (4,)}
    assert (point.limit, point.fps, point.low.tolist(), point.high.tolist()) == (LIMIT, 10.0, [-1, -1], [1, 1])
    named = make("tests.fields.policy.robots:sfumato_tests/Named-v0", picture=12).reset(4)
    assert {name: (x.shape, x.dtype.kind) for name, x in named.items()} == {
        "arm.place": ((2,), "f"), "goal": ((2,), "f"), "eye": ((48, 48, 3), "u"), "img": ((12, 12, 3), "u"),
    }  # fmt: skip
    np.testing.assert_array_equal(named["goal"], seen["state"][2:])


def test_the_limit_ends_an_episode():
    for limit in (None, 3):
        world = make(POINT, limit=limit)
        world.reset(0)
        steps = [world.step(np.zeros(2)) for _ in range(limit or LIMIT)]
        assert [step.done for step in steps] == [False] * (len(steps) - 1) + [True]
    with pytest.raises(DataError, match="has no limit of steps"):
        make("tests.fields.policy.robots:sfumato_tests/Endless-v0")
    with pytest.raises(ValueError, match="limit = 0"):
        make(POINT, limit=0)
    with pytest.raises(ValueError, match="picture = 5000"):
        make(POINT, picture=5000)


def test_what_comes_back_is_not_written_over():
    world = make(POINT)
    first = world.reset(1)["state"]
    copy = first.copy()
    moved = world.step(np.ones(2)).observations["state"]
    np.testing.assert_array_equal(first, copy)
    np.testing.assert_allclose(moved[:2] - first[:2], SPEED)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("raises", r"seed 8, step 3: the simulator failed \(the spring broke\)"),
        ("infinite", "seed 8, step 3: observes"),
    ],
)
def test_a_failing_simulator_is_named(fault: str, words: str):
    world = make(f"tests.fields.policy.robots:sfumato_tests/{fault}-v0")
    world.reset(8)
    for _ in range(3):
        world.step(np.ones(2))
    with pytest.raises(DataError, match=words) as caught:
        world.step(np.ones(2))
    assert fault in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("action", "words"),
    [([0.0, np.nan], "seed 2, step 0: has an action with NaN"), ([0.0], r"shape \(1,\); expected \(2,\)")],
)
def test_a_wrong_action_is_named(action: list[float], words: str):
    world = make(PUSH_T)
    world.reset(2)
    with pytest.raises(DataError, match=words):
        world.step(np.array(action))


@pytest.mark.parametrize(
    ("id", "words"),
    [
        ("Nothing-v0", "no such environment"),
        ("no.such.module:Nothing-v0", "no such environment .*no.such.module|no such environment .*named 'no'"),
        ("CartPole-v1", "has actions Discrete"),
    ],
)
def test_an_unknown_environment_is_named(id: str, words: str):
    with pytest.raises(DataError, match=words) as caught:
        make(id)
    assert id in str(caught.value)


@pytest.mark.parametrize(
    ("module", "id"), [("gym_pusht", PUSH_T), ("gymnasium", POINT), ("metaworld", "metaworld/push-v3")]
)
def test_a_missing_package_is_named(module: str, id: str, monkeypatch: pytest.MonkeyPatch):
    for name in [name for name in sys.modules if name.split(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(DataError, match=rf"{module} is not installed; pip install -e '\.\[policy\]'"):
        make(id)


@pytest.mark.parametrize("state", [[1.0, 2.0], [np.nan] * 5])
def test_a_state_that_is_none_is_refused(state: list[float]):
    with pytest.raises(DataError, match="expected 5 finite numbers"):
        make(PUSH_T).reset(0, state)
