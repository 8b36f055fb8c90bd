"""A trained policy put to the test from its run: numbers, table, video; the same whatever the number of rows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("gymnasium")
from sfumato.data import DataError
from sfumato.fields.policy import measure
from sfumato.fields.policy.acting import Policy
from sfumato.fields.policy.measure import TrialOptions, session_of, worlds
from sfumato.fields.policy.simulators.recording import RecordOptions, record
from sfumato.fields.policy.simulators.rollout import rollout
from sfumato.jobs.evaluate import evaluate
from sfumato.jobs.model import load
from sfumato.jobs.walk import Drawing, Walk
from sfumato.training import careful
from sfumato.training.run import RunError
from tests.fields.policy.robots import LIMIT, POINT
from tests.jobs.small import sfumato

QUICK = ["--network.width", "32", "--network.depth", "1", "--batch", "16", "--steps", "6", "--previews", "1",
         "--snapshots", "2", "--held-out", "0.3", "--threads", "1"]  # fmt: skip
WALK = Walk(steps=2)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trials")
    record([POINT], folder / "point.npz", RecordOptions("tests.fields.policy.robots:walking", episodes=8))
    assert sfumato("train", "policy", folder / "point.npz", *QUICK, "--out", folder / "run") == 0
    return folder / "run"


def test_a_run_is_put_to_the_test(run: Path):
    options = TrialOptions((POINT,), episodes=3, rows=2, workers=1, film=2)
    text = evaluate(load(run, WALK, Drawing(seed=70)), options)
    stored = json.loads((run / "rollouts.json").read_text())
    assert [each["seed"] for each in stored["each"]] == [100_070, 100_071, 100_072]
    assert {each["world"] for each in stored["each"]} == {POINT}
    assert all(1 <= each["length"] <= LIMIT for each in stored["each"])
    assert f"{stored['mean_maximum']:.3f}" in text
    assert "2 steps of" in text
    assert f"{stored['mean_maximum']:.3f}" in (run / "README.md").read_text()
    metrics = json.loads((run / "metrics.json").read_text())["metrics"]
    for name, value in (("success", stored["success"]), ("mean_maximum", stored["mean_maximum"])):
        assert metrics[name]["value"] == pytest.approx(value)
        assert metrics[name]["low"] <= value <= metrics[name]["high"]
        assert metrics[name]["n"] == 3
    assert (run / "episodes.mp4").stat().st_size > 500
    assert not (run / "fan.png").exists()  # its actions are no places in its picture


@pytest.mark.parametrize("error", [DataError("no OpenGL here"), ImportError("libosmesa.so"), RuntimeError("codec")])
def test_a_film_that_fails_loses_no_episode(
    error: Exception, run: Path, monkeypatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(measure, "filmed", lambda *_: (_ for _ in ()).throw(error))
    (run / "episodes.mp4").unlink(missing_ok=True)
    text = evaluate(load(run, WALK, Drawing(seed=80)), TrialOptions((POINT,), episodes=2, rows=2, workers=1, film=1))
    stored = json.loads((run / "rollouts.json").read_text())
    assert [each["seed"] for each in stored["each"]] == [100_080, 100_081]
    assert f"{stored['mean_maximum']:.3f}" in text
    assert "mean_maximum" in (run / "metrics.json").read_text()
    assert "episodes.mp4" not in text.rpartition("look at")[2]
    assert f"warning: episodes.mp4 could not be made ({careful.reason(error)})" in capsys.readouterr().err


def test_an_evaluation_finds_at_its_start_what_it_lacks(run: Path, capsys: pytest.CaptureFixture[str], monkeypatch):
    monkeypatch.setattr(
        "sfumato.fields.policy.simulators.rollout.rollout", lambda *_, **__: pytest.fail("an episode was played")
    )
    for words, message in (
        ([], "give the environment to play in"),
        (["--environment", "nowhere/Nothing-v0"], "nowhere/Nothing-v0"),
    ):
        assert sfumato("evaluate", run, *words) == 1
        assert message in capsys.readouterr().err


def test_the_command_plays_a_policy_and_measures_pictures_each_with_its_own_options(
    run: Path, capsys: pytest.CaptureFixture[str]
):
    assert (
        sfumato(
            "evaluate", run, "--environment", POINT, "--episodes", "2", "--film", "0", "--workers", "1", "--steps", "2"
        )
        == 0
    )
    assert "2 steps of" in capsys.readouterr().out
    for words in (["--environment", POINT, "--quick"], ["--quick", "--environment", POINT]):
        with pytest.raises(SystemExit):  # which is an option of pictures
            sfumato("evaluate", run, *words)
        assert "--quick" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        sfumato("evaluate", "--help", run)
    assert "--episodes" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        sfumato("evaluate", "--help")
    out = capsys.readouterr().out  # of no run, what all fields share
    assert "--quick" not in out
    assert "evaluate RUN --help" in " ".join(out.split())


def test_a_policy_does_the_same_in_any_company(run: Path):
    policy, options = Policy.load(run, WALK), TrialOptions((POINT,))
    found = [
        rollout(worlds(policy, options), lambda jobs: session_of(policy, None, None, jobs), range(5), rows=rows,
                workers=1, timed=0, silent=True).episodes
        for rows in (1, 2, 5)
    ]  # fmt: skip
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            assert (a.seed, a.length, a.success) == (b.seed, b.length, b.success)
            np.testing.assert_allclose(a.actions, b.actions, atol=1e-4)  # another batch is rounded another way
    assert len({episode.actions.tobytes() for episode in found[0]}) == 5


def test_tasks_find_their_environments_and_their_rows(run: Path):
    policy = Policy.load(run, WALK)
    taught = replace(policy, facts=replace(policy.facts, tasks=("push-v3", "reach-v3")))
    assert list(worlds(taught, TrialOptions())) == ["push-v3", "reach-v3"]
    assert worlds(taught, TrialOptions(("metaworld/reach-v3",)))["reach-v3"].args == ("metaworld/reach-v3",)
    with pytest.raises(RunError, match="was not taught door-open-v3; its tasks are push-v3, reach-v3"):
        worlds(taught, TrialOptions(("metaworld/door-open-v3",)))
    assert list(worlds(taught, TrialOptions(), "reach-v3")) == ["reach-v3"]
    with pytest.raises(RunError, match=r"none of metaworld/push-v3 is of the task reach-v3"):
        worlds(taught, TrialOptions(("metaworld/push-v3",)), "reach-v3")
    with pytest.raises(ValueError, match="label = 'door': must be one of push-v3, reach-v3"):
        worlds(taught, TrialOptions(), "door")
    with pytest.raises(RunError, match="give the environment to play in, as --environment"):
        worlds(policy, TrialOptions())


@pytest.mark.parametrize("given", [{"episodes": 0}, {"rows": 0}, {"workers": 0}, {"film": -1}, {"warm": 1.5}])
def test_impossible_options_are_refused(given: dict):
    name, value = next(iter(given.items()))
    with pytest.raises(ValueError, match=f"{name} = {value}"):
        TrialOptions(**given)
