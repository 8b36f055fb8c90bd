"""A campaign that is killed goes on as if it had not been, with any number of workers; and it says where it cannot work."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import sfumato
from sfumato.errors import DataError
from sfumato.fields.failure import simulators
from sfumato.fields.failure.campaign import rounds
from sfumato.fields.failure.data import Calls, stored
from sfumato.fields.failure.ending import read_report
from sfumato.fields.failure.facts import FailureFacts
from sfumato.fields.failure.options import CampaignOptions, FailureNetwork
from sfumato.training import loop
from sfumato.training.optim import OptimOptions
from sfumato.training.options import TrainOptions
from sfumato.training.run import Run

TRAINING = TrainOptions(steps=6, batch=32, threads=1, precision="fp32", optim=OptimOptions(lr=1e-3))
SMALL = {
    "campaign": CampaignOptions(walk=8, samples=30, last=1), "network": FailureNetwork(width=16, depth=1),
}  # fmt: skip


EASY = "tests.fields.failure.simulated:batch"
"""Two numbers, p = 0.004: a small campaign reaches its failures."""


def campaign(out: Path, name: str = EASY, calls: int = 1000, **more) -> Run:
    return sfumato.train(name, TRAINING, out, field="failure", calls=calls, **{**SMALL, "shape": (2,), **more})


def same(a: Path, b: Path) -> None:
    """Two runs made the same rounds, calls and probability, to the bit."""
    assert str(rounds(Run(a))) == str(rounds(Run(b)))  # as text: what is not known is nan
    one, other = read_report(Run(a)), read_report(Run(b))
    assert one["probability"] == other["probability"]
    assert one["by"] == other["by"]
    every = [Calls.at(place / "calls", lambda x: iter(()), 10**6).every() for place in (a, b)]
    for mine, yours in zip(*every, strict=True):
        assert np.array_equal(mine, yours)
    listed = [(place / "failures.csv").is_file() for place in (a, b)]  # not where nothing failed
    assert listed[0] == listed[1]
    assert not listed[0] or (a / "failures.csv").read_bytes() == (b / "failures.csv").read_bytes()


class Interrupted:
    """Counts the rows that a simulator is asked, and the steps of training; ends the process at one of them."""

    def __init__(self, monkeypatch, batches: int = 10**9, steps: int = 10**9):
        self.batches, self.steps, self.rows = batches, steps, 0
        self.ran, self.learned = simulators.ran, loop._learned
        monkeypatch.setattr(simulators, "ran", self.run)
        monkeypatch.setattr(loop, "_learned", self.learn)

    def run(self, system, physical):
        self.batches -= 1
        if self.batches < 0:
            raise KeyboardInterrupt
        self.rows += len(physical)
        return self.ran(system, physical)

    def learn(self, *given):
        self.steps -= 1
        if self.steps < 0:
            raise KeyboardInterrupt
        return self.learned(*given)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["batches", "steps"])
def test_killed_anywhere_it_goes_on_with_not_one_call_more(tmp_path: Path, monkeypatch, kind: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        counting = Interrupted(patch)
        campaign(tmp_path / "whole")
        total, batches, steps = counting.rows, 10**9 - counting.batches, 10**9 - counting.steps
    assert total == read_report(Run(tmp_path / "whole"))["calls"]
    assert steps == 6 * len(rounds(Run(tmp_path / "whole")))
    places = np.linspace(2, (batches if kind == "batches" else steps) - 1, 10).astype(int).tolist()
    for place in places:
        out = tmp_path / f"{place}"
        with pytest.MonkeyPatch.context() as patch:
            first = Interrupted(patch, **{kind: place})
            with pytest.raises(KeyboardInterrupt):
                campaign(out)
        with pytest.MonkeyPatch.context() as patch:
            second = Interrupted(patch)
            sfumato.resume(out)
        assert first.rows + second.rows == total
        same(tmp_path / "whole", out)


def test_killed_in_the_first_look_its_calls_stay(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        Interrupted(patch, batches=1)  # the calls that ask the same again
        with pytest.raises(KeyboardInterrupt):
            campaign(tmp_path / "run")
    assert sum(len(x) for _, x, _ in stored(tmp_path / "run" / "calls")) == 200
    with pytest.MonkeyPatch.context() as patch:
        counting = Interrupted(patch)
        campaign(tmp_path / "run")
        assert counting.rows == read_report(Run(tmp_path / "run"))["calls"] - 200


@pytest.mark.slow
def test_1_2_and_4_processes_make_the_same_campaign(tmp_path: Path) -> None:
    where = "tests.fields.failure.simulated:one"
    for workers in (1, 2, 4):
        campaign(tmp_path / str(workers), where, 600, shape=(3,), alone=True, processes=workers)
    same(tmp_path / "1", tmp_path / "2")
    same(tmp_path / "1", tmp_path / "4")


def test_a_level_that_does_not_fall_stops_the_campaign_with_a_bound(tmp_path: Path) -> None:
    run = campaign(tmp_path / "run", "tests.fields.failure.simulated:floor", 3000, shape=(2,))
    told = read_report(run)
    assert told["rounds"][-1]["level"] > 0
    assert not told["probability"]["established"]
    assert told["probability"]["p"] == 0
    assert 0 < told["probability"]["high"] <= 0.01
    assert told["note"].startswith("p < ")
    assert not (run.path / "failures.csv").exists()


def test_ties_at_a_level_are_refused_by_their_value(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"robustness is 1 in .* no way to climb"):
        campaign(tmp_path / "run", "tests.fields.failure.simulated:plateau", 3000, shape=(2,))


@pytest.mark.slow
def test_version_two_begins_from_the_failures_of_version_one(tmp_path: Path) -> None:
    first = campaign(tmp_path / "one", "toy2d", 4000)
    options = CampaignOptions(walk=8, samples=30, last=1, start=str(first.path))
    second = campaign(tmp_path / "two", "toy2d", 4000, campaign=options)
    reached = [next(each.next for each in rounds(run) if each.level <= 0) for run in (first, second)]
    assert reached[1] < 0.8 * reached[0]
    assert not read_report(second)["probability"]["established"]  # it has no levels for islands to go through


def test_advice_after_two_hundred_calls() -> None:
    facts = FailureFacts("it", (3,), calls=40_000, first=200, middle=1.0, tenth=0.6, spread=0.3, least=0.4, seconds=0.1)
    # from the tenth to the least 1.3 decades, so three times as far down 3.9 more
    (line,) = facts.advice()
    assert "1e-05" in line
    assert "40,000 calls is enough" in line
    short = FailureFacts("it", (3,), calls=1000, first=200, middle=1.0, tenth=0.6, spread=0.3, least=0.4)
    assert "is short" in short.advice()[0]
    far = FailureFacts("it", (3,), calls=1000, first=200, middle=1.0, tenth=0.9, spread=0.1, least=0.89)
    assert "failure is far off" in far.advice()[0]
    assert json.dumps(far.n) == "3"
