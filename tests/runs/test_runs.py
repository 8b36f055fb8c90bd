"""Runs of earlier revisions load, sample, act, evaluate and resume as they did on the day they were made.

Each folder beside this file is one revision's, made by `make.py`. The numbers in its `expected.npz` are outcomes, not
derived: they hold the promise that a finished run never changes what it gives. Between the vector units of one processor
(SSE4.1, AVX2, AVX-512) and 1 or 2 threads they differed by at most 2e-6, hence a tolerance of 1e-4 for other processors.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from . import adapters, make

RUNS = sorted((path.parent.parent.name, path.parent.name) for path in make.HERE.glob("*/*/config.yaml"))
FINISHED = [(of, name) for of, name in RUNS if (make.HERE / of / name / "model.safetensors").is_file()]
STOPPED = [run for run in RUNS if run not in FINISHED]
NEEDS = {"labelled": ("data/labelled.npz",), "vectors": ("data/vectors.npy",), "equilibrium": ("data/vectors.npy",)}
PLAYS = ("policy", "cloning", "policy_map")
"""Policies whose observations the simulator in `tests.fields.policy.robots` gives."""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working directory is an empty one, in which `taken` puts a run with its data."""
    monkeypatch.chdir(tmp_path)


def taken(revision: str, name: str) -> Path:
    """A copy of a run and of the data that it opens by path, in the working directory."""
    for file in NEEDS.get(name, ()):
        Path(file).parent.mkdir(exist_ok=True)
        Path(file).write_bytes((make.HERE / revision / file).read_bytes())
    return make.copied(make.HERE / revision / name, Path(name))


def expected(revision: str, name: str) -> dict[str, np.ndarray]:
    """What the run gave when it was made, by what was asked."""
    with np.load(make.HERE / revision / "expected.npz", allow_pickle=False) as stored:
        return {key.removeprefix(f"{name}/"): stored[key] for key in stored if key.startswith(f"{name}/")}


def assert_as_then(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray], **within: float) -> None:
    """The same names, and numbers within 1e-4 of their size, or of 1 where they are smaller; or within what is given."""
    assert found.keys() == wanted.keys()
    for what, value in wanted.items():
        close = within.get(what, 1e-4)
        np.testing.assert_allclose(found[what], value, rtol=close, atol=close, err_msg=what)


def test_no_run_is_missing():
    assert {name for of, name in RUNS if of == "a3fdda3"} == make.MADE.keys()
    assert {name for _, name in STOPPED} == {"stopped", "stopped_policy"}


@pytest.mark.parametrize(("revision", "name"), FINISHED)
def test_a_finished_run_gives_what_it_gave(revision: str, name: str):
    """Samples by its own and another solver, guided, of another average; what a policy does; the held-out loss."""
    run, wanted = taken(revision, name), expected(revision, name)
    assert_as_then(make.measured(Path(), name), wanted)
    if "held_out" in wanted:
        assert wanted["held_out"] == pytest.approx(adapters.logged_held_out(run), rel=1e-4)


@pytest.mark.parametrize(("revision", "name"), FINISHED)
def test_what_a_run_gives_depends_on_what_was_asked(revision: str, name: str):
    """Else the numbers would be no witness: every option moved what came out further than the tolerance, by far."""
    for asked in (make.DRAWN[name], make.ACTED.get(name, {})):
        found = [expected(revision, name)[what] for what in asked]
        for i, one in enumerate(found):
            assert all(np.abs(one - other).max() > 5e-3 for other in found[:i]), list(asked)[i]


@pytest.mark.parametrize(("revision", "name"), STOPPED)
def test_an_unfinished_run_resumes_to_the_same_end(revision: str, name: str):
    # the grid of a policy is measured on 16 held-out windows now, and was on two: its samples move by 5e-4, not its weights
    within = {"default": 2e-3} if name == "stopped_policy" else {}
    assert_as_then(make.resumed(taken(revision, name)), expected(revision, name), **within)


@pytest.mark.parametrize(("revision", "name"), [run for run in FINISHED if run[1] not in make.ACTED])
def test_a_finished_run_is_evaluated(revision: str, name: str):
    found = adapters.evaluated(taken(revision, name), 12)
    assert {"kernel_distance", "frechet_distance"} <= found.keys()
    assert all(np.isfinite(value) for value in found.values()), found


@pytest.mark.parametrize(("revision", "name"), [run for run in FINISHED if run[1] in PLAYS])
def test_a_finished_policy_is_put_to_the_test(revision: str, name: str):
    pytest.importorskip("gymnasium")
    assert [length > 0 for length in adapters.played(taken(revision, name), make.POINT, 2)] == [True, True]
