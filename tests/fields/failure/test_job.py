"""The whole job through the command: inspect, train, resume, sample, replay, probability, evaluate."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

import sfumato
from sfumato.cli import main
from sfumato.fields.failure.campaign import Round, rounds
from sfumato.fields.failure.data import Calls
from sfumato.fields.failure.ending import read_report, stored
from sfumato.fields.failure.law import Law
from sfumato.jobs.model import load
from sfumato.training.run import Run
from tests.fields.failure import simulated

P = 2 * stats.norm.sf(3) ** 2
QUICK = ["--steps", "120", "--batch", "128", "--campaign.walk", "20", "--campaign.samples", "100", "--network.width", "32",
         "--network.depth", "2"]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small campaign on toy2d."""
    out = tmp_path_factory.mktemp("failure") / "toy"
    assert main(["train", "failure", "toy2d", "--calls", "12000", *QUICK, "--out", str(out)]) == 0
    return out


def test_a_campaign_finds_both_modes_and_says_how_likely_they_are(run: Path) -> None:
    told = read_report(Run(run))
    assert told["calls"] <= 12_000
    found = told["probability"]
    assert abs(math.log(found["p"] / P)) < 0.5
    assert abs(math.log(found["weighing"]["p"] / P)) < 0.5
    assert found["low"] < found["p"] < found["high"] < 3 * P
    failures = stored(Run(run))
    assert (failures.robustness <= 0).all()
    assert (failures.x[:, 1] >= 3).all()
    right = (failures.x[:, 0] > 0).mean()
    assert 0.15 < right < 0.85
    assert len(told["modes"]) == 2
    # given failure both numbers are tails: mean of |x|^2 / 2 is 10.85
    assert abs((failures.x**2).sum(1).mean() / 2 - 10.849) < 0.8


def test_every_failure_has_a_line_and_a_file_that_replays(run: Path, tmp_path: Path, capsys) -> None:
    with (run / "failures.csv").open() as file:
        lines = list(csv.DictReader(file))
    failures = stored(Run(run))
    assert list(lines[0]) == ["id", "robustness", "log_likelihood", "mode", "round", "call", "seed"]
    assert len(lines) == len(failures.x) == 100
    told = np.array([float(line["log_likelihood"]) for line in lines])
    assert (np.diff(told) <= 0).all()  # the likeliest first
    assert np.allclose(told, stats.norm.logpdf(failures.x).sum(1))
    calls = Calls.at(run / "calls", lambda x: iter(()), 12_000)
    x, r, _ = calls.every()
    for i in (0, 37, 99):
        number = int(lines[i]["call"])
        assert np.array_equal(x[number], failures.x[i])
        assert r[number] == float(lines[i]["robustness"])
    assert main(["failure", "replay", str(run), "7", "--out", str(tmp_path / "again.npz")]) == 0
    assert "the same" in capsys.readouterr().out
    with np.load(tmp_path / "again.npz") as again, np.load(run / "failures" / "0007.npz") as kept:
        assert np.array_equal(again["physical"], kept["physical"])
        assert again["robustness"] == kept["robustness"]
    assert main(["failure", "replay", str(run), "1000"]) == 1
    assert "there is no such failure" in capsys.readouterr().err


def test_a_replay_that_is_another_says_so(run: Path, tmp_path: Path, capsys) -> None:
    path = run / "failures" / "0003.npz"
    before = path.read_bytes()
    with np.load(path) as file:
        told = dict(file)
    np.savez(path, **{**told, "robustness": told["robustness"] - 1e-12})
    try:
        assert main(["failure", "replay", str(run), "3"]) == 1
        assert "NOT the same" in capsys.readouterr().out
    finally:
        path.write_bytes(before)


def test_resume_of_a_whole_campaign_asks_nothing(run: Path, monkeypatch) -> None:
    before = read_report(Run(run))

    def never(self, *given):
        raise AssertionError("the simulator was asked again")

    monkeypatch.setattr("sfumato.fields.failure.simulators.ran", never)
    assert main(["resume", str(run)]) == 0
    after = read_report(Run(run))
    assert after["probability"] == before["probability"]
    assert after["by"] == before["by"]


def test_samples_need_no_simulator(run: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("sfumato.fields.failure.recipe.Failure.asked", None)
    assert main(["sample", str(run), "-n", "200", "--out", str(tmp_path / "x.csv")]) == 0
    with (tmp_path / "x.csv").open() as file:
        lines = list(csv.DictReader(file))
    x = np.array([[float(line["d0"]), float(line["d1"])] for line in lines])
    assert len(x) == 200
    assert np.allclose([float(line["log_likelihood"]) for line in lines], stats.norm.logpdf(x).sum(1))
    assert (x[:, 1] > 2).mean() > 0.7  # nearly failing at least, which of the prior 2 % are
    assert main(["sample", str(run), "-n", "5", "--out", str(tmp_path / "x.npz")]) == 0
    with np.load(tmp_path / "x.npz") as file:
        assert file["physical"].shape == (5, 2)
    assert len(load(run).sample(3)) == 3


def test_fresh_calls_for_the_probability(run: Path, capsys) -> None:
    assert main(["failure", "probability", str(run)]) == 0
    assert json.loads(capsys.readouterr().out)["p"] == read_report(Run(run))["probability"]["p"]
    assert main(["failure", "probability", str(run), "--calls", "2000"]) == 0
    first = capsys.readouterr().out
    assert main(["failure", "probability", str(run), "--calls", "2000"]) == 0
    assert capsys.readouterr().out == first
    (folder,) = (run / "probability").iterdir()
    found = json.loads((folder / "probability.json").read_text())
    assert abs(math.log(found["p"] / P)) < 0.8


def test_evaluate_beside_true_failures(run: Path, tmp_path: Path, capsys) -> None:
    u = np.random.default_rng(0).uniform(stats.norm.cdf(3), 1, (400, 2))
    truth = stats.norm.ppf(u) * np.where(np.random.default_rng(1).random((400, 1)) < 0.5, [[-1.0, 1.0]], [[1.0, 1.0]])
    np.savez(tmp_path / "truth.npz", x=truth)
    assert main(["evaluate", str(run), "--truth", str(tmp_path / "truth.npz"), "-n", "100"]) == 0
    found = json.loads((run / "metrics.json").read_text())
    assert "x_coverage" in capsys.readouterr().out
    rows = found.get("metrics", found)
    assert rows["nll"]["floor"] == pytest.approx((truth[np.linspace(0, 399, 100).astype(int)] ** 2).sum(1).mean() / 2)
    np.savez(tmp_path / "wrong.npz", x=truth[:, :1])
    assert main(["evaluate", str(run), "--truth", str(tmp_path / "wrong.npz")]) == 1
    assert "true failures of shape (400, 1)" in capsys.readouterr().err


def test_pages_stand_alone(run: Path) -> None:
    page = (run / "failures.html").read_text()
    assert "p = " in page
    assert page.count("data:image/png;base64,") == 2
    assert "http" not in page.replace("http-equiv", "")


def test_inspect_makes_two_hundred_calls_and_gives_advice(capsys) -> None:
    assert main(["inspect", "failure", "toy2d", "--steps", "10"]) == 0
    out = capsys.readouterr().out
    assert "200 first calls" in out
    assert "advice" in out


def test_a_campaign_of_ones_own_simulator_and_law(tmp_path: Path) -> None:
    where = "tests.fields.failure.simulated:batch"
    run = sfumato.train(
        where,
        field="failure",
        calls=2000,
        shape=(3,),
        law=("uniform(-3.2,3.2)",),
        steps=30,
        out=tmp_path / "own",
        threads=1,
    )
    failures = stored(run)
    physical = Law.of((3,), ("uniform(-3.2,3.2)",)).physical(failures.x)
    assert np.array_equal(simulated.batch(physical), failures.robustness)
    assert (failures.robustness <= 0).all()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "must be one of toy2d"),
        (["toy2d", "--calls", "499"], "calls = 499: must be at least 500"),
        (["toy2d", "--shape", "0"], "shape = (0,)"),
        (["toy2d", "--law", "normal(0,-1)"], "law = 'normal(0,-1)'"),
        (["tests.fields.failure.simulated:batch"], "shape: must be given"),
        (["tests.fields.failure.simulated:raising", "--shape", "2"], "raised ZeroDivisionError"),
        (["gymnasium:CartPole-v1"], "controller: must be given"),
    ],
)
def test_what_makes_no_sense_is_said_in_a_line(words: list[str], said: str, tmp_path: Path, capsys) -> None:
    assert main(["train", "failure", *words, "--out", str(tmp_path / "run")]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("sfumato: ")]
    assert said in line
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_a_verb_of_another_fields_run_is_refused(tmp_path: Path, capsys) -> None:
    (tmp_path / "config.yaml").write_text("images:\n  data: x\n")
    assert main(["failure", "probability", str(tmp_path)]) == 1
    assert "must be a run of failure, this is one of images" in capsys.readouterr().err


def test_rounds_are_lines(run: Path) -> None:
    done = rounds(Run(run))
    assert all(isinstance(each, Round) for each in done)
    assert [each.number for each in done] == list(range(1, len(done) + 1))
    levels = [each.level for each in done]
    assert levels == sorted(levels, reverse=True)
    assert math.isnan(done[0].network)
    assert "round 1" in done[0].line()
