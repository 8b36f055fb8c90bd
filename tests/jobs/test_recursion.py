"""Recursion through the command line: fields without time sampled by descent, and networks with loops."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from sfumato.jobs.model import Model, load
from sfumato.jobs.walk import Drawing, Walk

from .small import SMALL, sfumato, write_data


def drawn(model: Model, **asked) -> torch.Tensor:
    """The first two samples as the network knows them, (2, ...)."""
    model, ask = model.asked(None, asked)
    (part,) = model.draw(model.recipe.queries(model, ask, 2), range(2))
    return part.x


def test_a_field_without_time_is_trained_and_descended(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words, out = write_data("classes", tmp_path), tmp_path / "run"
    assert sfumato("train", *words, *SMALL, "--method.process", "equilibrium", "--out", out) == 0
    assert json.loads((out / "walk.json").read_text())["residual"] > 0
    assert sfumato("sample", out, "-n", 3, "--steps", 7, "--out", tmp_path / "s") == 0
    assert max(json.loads((tmp_path / "s" / "calls.json").read_text())) <= 7
    assert (load(out).walk.solver, load(out).walk.steps) == ("descent", 250)  # a bound: it stops where it has arrived
    assert load(out, Walk(steps=7)).walk.steps == 7
    easy = drawn(load(out), tol=1e6)  # satisfied with the start
    z = drawn(load(out), steps=1)
    assert torch.equal(easy, z)
    assert sfumato("evaluate", out, "--steps", 3) == 0
    capsys.readouterr()
    assert sfumato("distill", out) == 1
    assert "Equilibrium has no paths with a velocity" in capsys.readouterr().err


def test_a_field_without_time_can_still_be_walked(tmp_path: Path):
    words, out = write_data("array", tmp_path), tmp_path / "run"
    assert sfumato("train", *words, *SMALL, "--method.process", "equilibrium", "--out", out) == 0
    walked = drawn(load(out), steps=5, solver="euler", eta=0.0)
    assert bool(torch.isfinite(walked).all())


def test_any_number_of_loops_is_sampled(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words, out = write_data("classes", tmp_path), tmp_path / "run"
    small = [*SMALL, "--network.depth", "3"]
    assert sfumato("train", *words, *small, "--network.loops", 1, 3, "--out", out) == 0
    assert sfumato("resume", out) == 0
    default, most, more = (drawn(load(out, drawing=Drawing(loops=n))) for n in (None, 3, 9))
    assert torch.equal(default, most)
    assert not torch.equal(most, more)
    plain = tmp_path / "plain"
    assert sfumato("train", *words, *SMALL, "--out", plain) == 0
    capsys.readouterr()
    assert sfumato("sample", plain, "-n", 1, "--loops", 2, "--out", tmp_path / "s") == 1
    assert "was trained without" in capsys.readouterr().err
    assert (
        sfumato("train", *words, *SMALL, "--network.kind", "unet", "--network.loops", 1, 3, "--out", tmp_path / "u")
        == 1
    )
