"""Environments side by side play the same in one process and in several, and say which of them failed."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

pytest.importorskip("gymnasium")
from sfumato.data import DataError
from sfumato.fields.policy.simulators.crew import Job, crew
from sfumato.fields.policy.simulators.environments import make
from tests.fields.policy.robots import LIMIT, POINT

POINTS = {"near": partial(make, POINT), "far": partial(make, POINT, limit=7)}
JOBS = [Job("near", 3), Job("far", 4), Job("near", 5), Job("far", 3), Job("near", 6)]


def played(workers: int, jobs: list[Job], stop: bool = True):
    team = crew(POINTS, workers)
    try:
        first = team.begin(jobs)
        actions = np.random.default_rng(0).uniform(-1, 1, (len(jobs), 5, 2))
        return [first, *(team.act(actions, stop) for _ in range(2))]
    finally:
        team.close()


def test_several_processes_play_as_one_does():
    for a, b in zip(played(1, JOBS), played(3, JOBS), strict=True):
        for x, y in zip(
            a.values() if isinstance(a, dict) else a, b.values() if isinstance(b, dict) else b, strict=True
        ):
            for u, v in zip(x.values(), y.values(), strict=True) if isinstance(x, dict) else [(x, y)]:
                np.testing.assert_array_equal(u, v)


def test_a_row_that_is_over_repeats_what_it_saw_last():
    _, first, second = played(1, JOBS)
    over = [1, 3]  # after 7 of 10 steps
    assert second.done.tolist() == [row in over for row in range(5)]
    assert not first.done.any()
    assert np.isnan(second.rewards).tolist() == [[row in over and k >= 2 for k in range(5)] for row in range(5)]
    np.testing.assert_array_equal(np.isnan(second.rewards), np.isnan(second.success))
    seen = second.observations["state"]
    for k in (2, 3, 4):
        np.testing.assert_array_equal(seen[over, k], seen[over, 1])
        assert (seen[0, k] != seen[0, 1]).any()


def test_the_first_success_ends_a_row_only_if_asked():
    for stop in (True, False):
        team = crew({"push": partial(make, POINT)})
        seen = team.begin([Job("push", 1)])["state"][0]
        straight = np.tile((seen[2:] - seen[:2]) / 0.1 / 20, (1, 20, 1))
        out = team.act(straight, stop)
        assert out.success[0, np.isfinite(out.success[0])][-1] == 1
        assert out.done[0]
    team.close()


def test_a_new_beginning_leaves_nothing_of_the_old():
    team = crew(POINTS)
    team.begin(JOBS)
    team.act(np.ones((5, 3, 2)))
    again = team.begin(JOBS[:2])
    fresh = crew(POINTS).begin(JOBS[:2])
    np.testing.assert_array_equal(again["state"], fresh["state"])
    assert not team.act(np.zeros((2, 1, 2))).done.any()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_failure_is_named(workers: int):
    team = crew({"bad": partial(make, "tests.fields.policy.robots:sfumato_tests/raises-v0")}, workers)
    team.begin([Job("bad", 11), Job("bad", 12)])
    try:
        with pytest.raises(DataError, match=r"raises-v0, seed 11, step 3: the simulator failed \(the spring broke\)"):
            team.act(np.zeros((2, LIMIT, 2)))
    finally:
        team.close()


def test_a_process_that_dies_is_named():
    team = crew({"bad": partial(make, "tests.fields.policy.robots:sfumato_tests/dies-v0")}, 2)
    team.begin([Job("bad", 11), Job("bad", 12)])
    try:
        with pytest.raises(DataError, match=r"bad, seed 11 .*ended by itself \(exit code 7\)"):
            team.act(np.zeros((2, LIMIT, 2)))
    finally:
        team.close()


def test_what_can_not_be_done_is_said():
    with pytest.raises(ValueError, match="workers = 0"):
        crew(POINTS, 0)
    with pytest.raises(ValueError, match="can be pickled"):
        crew({"local": lambda: make(POINT)}, 2)
    mixed = {"point": partial(make, POINT), "named": partial(make, "tests.fields.policy.robots:sfumato_tests/Named-v0")}
    with pytest.raises(DataError, match=r"named, seed 0: observes .*expected the same"):
        crew(mixed).begin([Job("point", 0), Job("named", 0)])
