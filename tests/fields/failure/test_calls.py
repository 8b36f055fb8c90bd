"""Calls are never lost and never repeated, whatever ends the work and whoever does it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from sfumato.errors import DataError, Wrong
from sfumato.fields.failure.answers import checked
from sfumato.fields.failure.chain import normals
from sfumato.fields.failure.data import Answers, Calls, Spent
from sfumato.fields.failure.law import Law
from sfumato.fields.failure.simulators import Asked, looked, nominal_first, opened, system
from sfumato.fields.failure.spec import Spec
from sfumato.fields.failure.systems import System
from sfumato.training.run import RunError
from tests.fields.failure import simulated


def counted(run, seen: list[np.ndarray], die_after: int = 10**9, order: str = "forth"):
    """A simulator that notes what it was asked, answers in parts of three, and is interrupted after so many rows."""

    def simulate(x: np.ndarray):
        parts = np.array_split(np.arange(len(x)), max(1, len(x) // 3))
        for rows in parts if order == "forth" else parts[::-1]:
            if sum(map(len, seen)) + len(rows) > die_after:
                raise KeyboardInterrupt
            seen.append(x[rows].copy())
            yield rows, Answers(run(x[rows]), np.repeat(x[rows][:, None], 2, 1))

    return simulate


def asked_in_turn(calls: Calls, n: int = 2) -> np.ndarray:
    return np.concatenate([calls.ask(normals(("test", i), 20, n), f"part {i}").robustness for i in range(5)])


@pytest.mark.parametrize("order", ["forth", "back"])
def test_a_campaign_that_is_killed_anywhere_asks_nothing_again(tmp_path: Path, order: str) -> None:
    run = lambda x: x[:, 0]  # noqa: E731
    whole = asked_in_turn(Calls.at(tmp_path / "whole", counted(run, []), 1000))
    for place in range(0, 100, 5):
        seen: list[np.ndarray] = []
        folder = tmp_path / str(place)
        with pytest.raises(KeyboardInterrupt):
            asked_in_turn(Calls.at(folder, counted(run, seen, place, order), 1000))
        again = Calls.at(folder, counted(run, seen, order=order), 1000)
        assert np.array_equal(asked_in_turn(again), whole)
        every = np.concatenate(seen)
        assert len(every) == 100
        assert len(np.unique(every, axis=0)) == 100
        assert again.by == {f"part {i}": 20 for i in range(5)}


def test_trajectories_of_failures_are_kept_with_the_numbers_of_their_calls(tmp_path: Path) -> None:
    run = lambda x: x[:, 0]  # noqa: E731
    asked_in_turn(Calls.at(tmp_path / "a", counted(run, []), 1000))
    again = Calls.at(tmp_path / "a", counted(run, []), 1000)
    asked_in_turn(again)
    x, r, numbers = again.every()
    assert np.array_equal(numbers, np.arange(100))
    failing = np.flatnonzero(r <= 0)[[3, 1, 3]]
    found, path = again.found(x[failing])
    assert np.array_equal(found, failing)
    assert path is not None
    assert np.array_equal(path, np.repeat(x[failing][:, None], 2, 1))


def test_a_log_of_another_campaign_and_a_spent_budget_are_refused(tmp_path: Path) -> None:
    run = lambda x: x[:, 0]  # noqa: E731
    Calls.at(tmp_path, counted(run, []), 30).ask(normals(("a",), 20, 2), "a")
    other = Calls.at(tmp_path, counted(run, []), 30)
    with pytest.raises(RunError, match="call 0 was made with another disturbance"):
        other.ask(normals(("b",), 20, 2), "b")
    full = Calls.at(tmp_path, counted(run, []), 30)
    full.ask(normals(("a",), 20, 2), "a")
    with pytest.raises(Spent, match="20 calls are wanted and 10 are left of 30"):
        full.ask(normals(("c",), 20, 2), "c")


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    run = lambda x: x[:, 0]  # noqa: E731
    Calls.at(tmp_path, counted(run, []), 30).ask(normals(("a",), 20, 2), "a")
    (shard,) = tmp_path.glob("*.npz")
    shard.write_bytes(shard.read_bytes()[:200])
    with pytest.raises(DataError, match=rf"{shard.name}.*delete it, and its calls are made again"):
        Calls.at(tmp_path, counted(run, []), 30)


def test_answers_that_are_no_numbers_are_errors_and_stop_above_one_percent(tmp_path: Path) -> None:
    def run(x: np.ndarray) -> np.ndarray:
        return np.where(x[:, 0] > 3, np.nan, x[:, 0] - 100)

    calls = Calls.at(tmp_path / "few", counted(run, []), 10_000)
    answers = calls.ask(normals(("many",), 5000, 1), "a")
    assert 0 < calls.errors < 50
    assert (answers.robustness[np.isinf(answers.robustness)] > 0).all()  # an error never counts as a failure
    assert np.isinf(answers.robustness).sum() == calls.errors
    bad = Calls.at(tmp_path / "many", counted(lambda x: np.full(len(x), np.nan), []), 10_000)
    with pytest.raises(DataError, match=r"200 of 200 calls gave no number.*call 0"):
        bad.ask(normals(("many",), 200, 1), "a")


# ---- simulators of the user's own ----------------------------------------------------------------------------------------


def own(name: str, **more) -> Asked:
    return opened(Spec(f"tests.fields.failure.simulated:{name}", **{"shape": (3,), **more}), more.pop("workers", None))


def test_one_at_a_time_is_the_same_in_1_2_and_4_processes() -> None:
    x = normals(("pool",), 24, 3)
    spec = Spec("tests.fields.failure.simulated:one", shape=(3,), single=True)
    found = [opened(spec, workers).whole(x) for workers in (1, 2, 4)]
    assert np.array_equal(found[0].robustness, simulated.batch(x))
    for each in found[1:]:
        assert np.array_equal(each.robustness, found[0].robustness)
        assert np.array_equal(each.trajectory, found[0].trajectory)


def test_a_process_that_dies_costs_one_more_call_and_then_an_error_row(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("DYING", str(tmp_path))
    x = normals(("pool",), 12, 3)
    x[5, 0], x[7, 0] = 1000.0, 2000.0  # dies once; dies always
    found = opened(Spec("tests.fields.failure.simulated:dying", shape=(3,), single=True), 2).whole(x).robustness
    assert np.isnan(found[7])
    rest = np.arange(12) != 7
    assert np.array_equal(found[rest], simulated.batch(x)[rest])
    assert len(os.listdir(tmp_path)) == 3  # once for row 5, twice for row 7


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("wrong_shape", r"robustness of shape \(5, 1\).*\(5,\), is expected"),
        ("words", "returned str, not numbers"),
        ("no_robustness", 'without "robustness"; it has path'),
        ("short_path", r"trajectory of shape \(2, 3, 1\) for 5 disturbances"),
        ("changing", "changes the disturbances that it is given"),
        ("raising", "raised ZeroDivisionError: no way"),
    ],
)
def test_what_a_simulator_must_not_do_is_said_in_a_line(name: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        own(name).whole(normals(("bad",), 5, 3))


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (Spec("nowhere:f"), "cannot be imported"),
        (Spec("tests.fields.failure.simulated:nothing", shape=(2,)), "has no 'nothing'"),
        (Spec("tests.fields.failure.simulated:NUMBER", shape=(2,)), "must be a function, it is int"),
        (Spec("tests.fields.failure.simulated:batch"), "shape: must be given"),
        (Spec("tests.fields.failure.simulated:batch", shape=(0,)), "each at least 1"),
        (Spec("pendulumm"), "must be one of toy2d, pendulum"),
        (Spec("toy2d", law=("normal(0,-1)",)), "a spread above 0"),
    ],
)
def test_names_that_lead_nowhere_are_refused(spec: Spec, said: str) -> None:
    def law() -> Law:
        found = system(spec)
        return Law.of(found.shape, found.law)

    with pytest.raises(Wrong, match=said):
        law()


def test_a_torch_function_and_a_dict_are_taken() -> None:
    import torch

    found = checked({"robustness": torch.ones(4), "trajectory": np.zeros((4, 7))}, 4, "it")
    assert found.robustness.dtype == np.float64
    assert found.trajectory is not None
    assert found.trajectory.shape == (4, 7, 1)


@pytest.mark.parametrize(
    ("run", "said"),
    [
        (lambda x: np.full(len(x), np.nan), "robustness of the nominal run"),
        (lambda x: -5.0 + 0 * x[:, 0], "the nominal run, a disturbance of 0, fails.*sign of the robustness turned"),
        (
            lambda x: np.where((x == 0).all(1), -1.0, 1 + x[:, 0] ** 2),
            r"the nominal run, a disturbance of 0, fails \(robustness -1",
        ),
        (lambda x: 2.0 + 0 * x[:, 0], "robustness is 2 whatever the disturbance"),
        (lambda x: np.where(x[:, 0] < 1.5, 7.0, x[:, 0]), "robustness is 7 in .* no way to climb"),
        (lambda x: 0.5 - x[:, 0], "plain runs fail already, p = 0.3.*plain Monte Carlo is enough"),
    ],
)
def test_the_first_look_stops_what_makes_no_sense(run, said: str) -> None:
    x = nominal_first(200, 3)
    r = run(x)
    with pytest.raises(DataError, match=said):
        looked(x, Answers(r), r[-2:], 0.0, "it")


def test_noise_of_the_simulators_own_is_refused() -> None:
    x = nominal_first(200, 3)
    r = 5 + x[:, 0]
    with pytest.raises(DataError, match=r"for the same disturbance.*put the noise into the disturbance"):
        looked(x, Answers(r), r[-2:] + 1e-9, 0.0, "it")


def test_a_built_in_system_is_a_system() -> None:
    found = system(Spec("pendulum"))
    assert isinstance(found, System)
    assert found.shape == (84,)
