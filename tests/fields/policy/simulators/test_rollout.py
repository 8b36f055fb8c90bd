"""The closed loop: the same episodes in any company, intervals that are right, failures that are named."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("gymnasium")
from scipy.stats import beta

from sfumato.data import DataError
from sfumato.fields.policy.demonstrations.replay import open_replay
from sfumato.fields.policy.simulators.crew import Job
from sfumato.fields.policy.simulators.environments import make
from sfumato.fields.policy.simulators.rollout import Episode, Rollouts, rollout
from sfumato.fields.policy.simulators.world import PUSH_T
from sfumato.metrics.intervals import bootstrap, share_bounds
from tests.fields.policy.robots import LIMIT, POINT, Walker

RECORDED = Path(__file__).parents[5] / "shared" / "data" / "pusht" / "pusht_cchi_v7_replay.zarr"
POINTS = {"point": partial(make, POINT)}
SEEDS = range(40, 51)


def play(rows: int = 50, workers: int = 1, seeds: Sequence[int] = SEEDS, **given) -> Rollouts:
    makes = given.pop("makes", POINTS)
    return rollout(
        makes, given.pop("session", Walker), seeds, rows=rows, workers=workers, timed=0, silent=True, **given
    )


def same(a: Sequence[Episode], b: Sequence[Episode]) -> None:
    assert [(e.world, e.seed, e.success) for e in a] == [(e.world, e.seed, e.success) for e in b]
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x.rewards, y.rewards)
        np.testing.assert_array_equal(x.actions, y.actions)


@pytest.mark.parametrize(("rows", "workers"), [(1, 1), (3, 1), (11, 1), (4, 2)])
def test_episodes_are_the_same_in_any_company(rows: int, workers: int):
    same(play().episodes, play(rows, workers).episodes)


def test_each_episode_is_a_function_of_its_seed():
    every = play(4)
    same(every.episodes[3:6], play(50, seeds=SEEDS[3:6]).episodes)
    assert len({e.actions.tobytes() for e in every.episodes}) == len(SEEDS)


def test_the_walk_reaches_its_goal_and_ends_there():
    calm = play(session=partial(Walker, wild=0.0))
    assert all(e.success for e in calm.episodes)
    assert all(e.length < LIMIT for e in calm.episodes)
    for e in calm.episodes:
        assert e.maximum == e.rewards[-1] > -0.06  # the reward is minus the distance, success is within 0.06
        assert e.total == pytest.approx(sum(e.rewards))
    lost = play(session=partial(Walker, wild=30.0))
    assert not any(e.success for e in lost.episodes)
    assert {e.length for e in lost.episodes} == {LIMIT}


@pytest.mark.parametrize(("stop", "length"), [(True, 3), (False, LIMIT)])
def test_an_episode_that_was_won_once_is_won(stop: bool, length: int):
    makes = {"fleeting": partial(make, "tests.fields.policy.robots:sfumato_tests/Fleeting-v0")}
    found = play(seeds=range(3), makes=makes, session=partial(Walker, wild=30.0), stop=stop)
    assert [(e.success, e.length) for e in found.episodes] == [(True, length)] * 3


def test_several_environments_are_played_side_by_side():
    makes = {"long": partial(make, POINT), "short": partial(make, POINT, limit=3)}
    for rows, workers in ((5, 1), (50, 2)):
        found = play(rows, workers, seeds=range(6), makes=makes, session=partial(Walker, wild=30.0))
        assert found.worlds() == ("long", "short")
        assert [e.seed for e in found.of("short")] == list(range(6))
        assert {e.length for e in found.of("short")} == {3}
        same(
            found.of("long"),
            play(seeds=range(6), makes={"long": makes["long"]}, session=partial(Walker, wild=30.0)).episodes,
        )
        assert found.summary()["episodes"] == 12
        assert "short" in found.table()


@pytest.mark.skipif(not RECORDED.exists(), reason=f"{RECORDED} is not here")
@pytest.mark.parametrize("chunk", [8, 5])
def test_recorded_people_score_in_the_loop_what_they_scored(chunk: int):
    pytest.importorskip("gym_pusht")
    known, seeds = open_replay(RECORDED, names=["state"]), range(6)

    class People:
        """Does what was done, and checks that it sees what was seen."""

        def __init__(self, jobs: Sequence[Job]) -> None:
            self.spans = [known.episode(job.seed) for job in jobs]
            self.reset()

        def reset(self, rows: Sequence[int] | None = None) -> None:
            self.step = 0

        def observe(self, observations: Mapping[str, np.ndarray]) -> None:
            for row, span in enumerate(self.spans):
                if self.step < span.stop - span.start:
                    there = known.observations["state"][span][self.step]
                    assert np.abs(observations["state"][row] - there)[:4].max() < 1e-4
            self.step += 1

        def act(self, observations: Mapping[str, np.ndarray]) -> np.ndarray:
            now = self.step + np.arange(chunk)
            self.observe(observations)
            return np.array([known.actions[np.minimum(span.start + now, span.stop - 1)] for span in self.spans])

    found = rollout({"push-t": partial(make, PUSH_T)}, People, seeds, rows=6, workers=1, timed=0, silent=True)
    assert all(e.maximum > 0.9 for e in found.episodes)  # they stopped when 0.86 and more were covered: 0.86 / 0.95


# counting


@pytest.mark.parametrize(
    ("successes", "trials"), [(0, 1), (1, 1), (0, 50), (50, 50), (18, 50), (1, 200), (180, 200), (3, 5000)]
)
@pytest.mark.parametrize("level", [0.95, 0.5])
def test_bounds_of_a_share_are_those_of_the_beta_law(successes: int, trials: int, level: float):
    law = beta(1 + successes, 1 + trials - successes)
    found = share_bounds(successes, trials, level)
    np.testing.assert_allclose(found, law.ppf([(1 - level) / 2, (1 + level) / 2]), rtol=1e-9)


def test_bounds_of_a_share_of_nothing_are_refused():
    for successes, trials in ((-1, 3), (4, 3)):
        with pytest.raises(ValueError, match=f"{successes} successes of {trials}"):
            share_bounds(successes, trials)


def test_the_bootstrap_interval_covers_the_mean_as_often_as_it_says():
    chance, covered = np.random.default_rng(1), 0
    for _ in range(300):
        low, high = bootstrap(chance.exponential(size=60), draws=500)
        covered += low <= 1 <= high
    assert 0.88 < covered / 300 < 0.98  # 0.95 but for the skew of 60 values and the chance of 300
    assert bootstrap([2.5] * 4) == (2.5, 2.5)
    values = chance.normal(size=400)
    low, high = bootstrap(values)
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.05)


def episode(actions: np.ndarray) -> Episode:
    return Episode("w", 0, np.zeros(len(actions)), actions, None)


def test_smoothness_knows_straight_lines_and_units():
    time = np.arange(9.0)[:, None]
    assert episode(3 + 2 * np.hstack([time, -time])).smoothness(np.ones(2)) == 0
    assert episode(0.5 * time**2).smoothness(np.ones(1)) == pytest.approx(1)  # its second difference is 1
    rough = episode(np.random.default_rng(0).normal(size=(20, 2)))
    scaled = Episode("w", 0, rough.rewards, rough.actions * [5, 7], None)
    assert scaled.smoothness(np.array([5.0, 7.0])) == pytest.approx(rough.smoothness(np.ones(2)))
    assert np.isnan(episode(np.zeros((2, 1))).smoothness(np.ones(1)))


def test_what_is_saved_is_what_was_measured(tmp_path: Path):
    found = rollout(POINTS, Walker, SEEDS, rows=4, workers=1, timed=12, silent=True)
    found.save(tmp_path / "rollouts.json")
    stored = json.loads((tmp_path / "rollouts.json").read_text())
    assert stored == json.loads(json.dumps(found.as_dict()))
    won = sum(bool(e.success) for e in found.episodes)
    assert stored["success"] == won / len(SEEDS)
    assert stored["success_interval"] == list(share_bounds(won, len(SEEDS)))
    assert [e["seed"] for e in stored["each"]] == list(SEEDS)
    low, high = stored["mean_maximum_interval"]
    assert low < stored["mean_maximum"] < high
    assert len(found.alone) == 12
    assert set(stored["latency_ms"]) == {"one_row_p50", "one_row_p99", "4_rows_p50", "4_rows_p99"}
    assert found.scale.tolist() == [1, 1]  # half of what the bounds allow
    text = found.table()
    assert f"{stored['success']:.3f}" in text
    assert f"{stored['mean_maximum']:.3f}" in text


# failures


class Broken(Walker):
    def act(self, observations: Mapping[str, np.ndarray]) -> np.ndarray:
        actions = super().act(observations)
        actions[2] = np.nan
        return actions


class Short(Walker):
    def act(self, observations: Mapping[str, np.ndarray]) -> np.ndarray:
        return super().act(observations)[1:]


@pytest.mark.parametrize(
    ("session", "words"),
    [(Broken, "point, seed 42: the policy gives NaN"), (Short, r"shape \(4, 4, 2\); expected \(5, chunk, action\)")],
)
def test_a_failing_policy_is_named(session: type, words: str):
    with pytest.raises(DataError, match=words):
        play(5, session=session)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_failing_environment_is_named(workers: int):
    makes = {"bad": partial(make, "tests.fields.policy.robots:sfumato_tests/raises-v0")}
    with pytest.raises(DataError, match=r"raises-v0, seed 40, step 3: the simulator failed \(the spring broke\)"):
        play(5, workers, makes=makes)


@pytest.mark.parametrize("given", [{"seeds": []}, {"seeds": [1, 1]}, {"rows": 0}, {"makes": {}}])
def test_impossible_plans_are_refused(given: dict):
    with pytest.raises(ValueError, match="expected different seeds"):
        play(**given)
