"""A trained run becomes a flow map, through the command line."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest
import torch

from sfumato.jobs.config import read_config
from sfumato.jobs.model import Model, load
from sfumato.training.run import Run

from .small import SMALL, sfumato, write_data
from .test_processes import run_to_end, started, weights

SHORT = ["--steps", "6", "--batch", "8", "--previews", "1", "--snapshots", "0"]


def drawn(model: Model, count: int = 3, first: int = 0, seed: int | None = None, **asked):
    """Samples ``first`` and on, asked for by keywords, as one batch."""
    model, ask = model.asked(seed, asked)
    (part,) = model.draw(model.recipe.queries(model, ask, first + count), range(first, first + count))
    return part


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory):
    """A trained run and the flow map made of it, for each kind of data."""
    found: dict[str, tuple[Path, Path]] = {}

    def make(kind: str) -> tuple[Path, Path]:
        if kind not in found:
            folder = tmp_path_factory.mktemp(kind)
            assert sfumato("train", *write_data(kind, folder), *SMALL, "--out", folder / "run") == 0
            assert sfumato("distill", folder / "run", *SHORT) == 0
            found[kind] = folder / "run", folder / "run-map"
        return found[kind]

    return make


@pytest.mark.parametrize("kind", ["pictures", "classes", "array"])
def test_a_flow_map_is_a_run_of_its_own(kind: str, made, tmp_path: Path):
    """It needs nothing of its teacher's folder: sampled, evaluated and resumed after that is gone."""
    teacher, out = made(kind)
    assert [type(each).__name__ for each in load(out).adaptations] == ["DistillOptions"]
    moved = tmp_path / "moved"
    shutil.copytree(out, moved)
    assert sfumato("sample", moved, "-n", 3, "--out", tmp_path / "s") == 0
    assert sfumato("evaluate", moved) == 0
    assert json.loads((moved / "metrics.json").read_text())["samples"]["walk"]["solver"] == "leap"
    assert sfumato("resume", moved) == 0
    assert load(teacher).adaptations == ()


def test_guidance_can_be_left_out(made, tmp_path: Path):
    teacher, _ = made("classes")
    (teacher / "cache" / "reference").mkdir(exist_ok=True)  # as a run has it that was evaluated before
    assert sfumato("distill", teacher, *SHORT, "--w", 1, 1, "--out", tmp_path / "m") == 0
    model = load(tmp_path / "m")
    assert (model.walk.w, model.walk.shift, model.walk.solver, model.walk.steps) == (1.0, 1.0, "leap", 4)
    assert drawn(model, 2).x.shape == (2, *model.facts.shape)


def test_every_kind_of_loss_trains(made, tmp_path: Path):
    teacher, _ = made("classes")
    for kind in ("semigroup", "mean_flow", "consistency"):
        assert sfumato("distill", teacher, *SHORT, "--kind", kind, "--out", tmp_path / kind) == 0
        assert read_config(Run(tmp_path / kind)).distill.kind == kind
        assert bool(torch.isfinite(drawn(load(tmp_path / kind), 4).x).all())


def test_the_network_starts_as_its_teacher(made, tmp_path: Path):
    """Before the first step the map is its teacher's Euler step, whatever the arrival and the guidance."""
    teacher, _ = made("classes")
    assert sfumato("distill", teacher, *SHORT[2:], "--steps", 1, "--optim.lr", 1e-12, "--out", tmp_path / "m") == 0
    base, made_map = load(teacher), load(tmp_path / "m")
    x_t, t, label = torch.randn(6, *base.facts.shape), torch.full((6,), 0.7), torch.arange(6) % 3
    taught = base.denoiser(x_t, t, label=label)
    for s in (0.0, 0.3, 0.7):
        guidance = torch.tensor([[2.0, 0.0, 1.0]]).expand(6, -1)
        found = made_map.denoiser(x_t, t, torch.full((6,), s), label=label, guidance=guidance)
        torch.testing.assert_close(found.x, taught.x, atol=1e-5, rtol=1e-5)


def test_as_many_steps_as_needed_and_said_how_many(made, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for out, name in zip(made("classes"), ("base", "map"), strict=True):
        assert sfumato("sample", out, "-n", 5, "--tol", 0.2, "--out", tmp_path / name) == 0
        calls = json.loads((tmp_path / name / "calls.json").read_text())
        assert len(calls) == 5
        assert min(calls) >= 3
        assert f"{min(calls)} to {max(calls)}" in capsys.readouterr().err
        assert drawn(load(out), 1, first=2, tol=0.2).scores["calls"].tolist() == calls[2:3]


def test_guidance_stays_adjustable(made):
    _, out = made("classes")
    model = load(out)
    same = {"seed": 1, "steps": 2}
    weak, strong = (drawn(model, w=w, **same).x for w in (1.0, 2.0))
    again = drawn(model, w=2.0, guide_from=0.0, guide_to=1.0, **same).x
    assert torch.equal(strong, again)
    assert weak.shape == strong.shape
    with pytest.raises(ValueError, match=r"w = 4: this flow map learned strengths from 1 to 2"):
        drawn(model, w=4.0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--solver", "leap"], "leap is for flow maps"),
        (["--steps", "4", "--tol", "0.1"], "tol"),
        (["--tol", "0.1", "--solver", "heun"], "tol chooses the steps itself"),
        (["--solver", "leap:gamma=1"], "leap is for flow maps"),
    ],
)
def test_a_bad_wish_is_one_line(
    words: list[str], message: str, made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    teacher, _ = made("classes")
    capsys.readouterr()
    try:
        code = sfumato("sample", teacher, "-n", 1, *words, "--out", tmp_path)
    except SystemExit as error:  # the parser's own way
        code = error.code
    assert code != 0
    assert message in capsys.readouterr().err


def test_what_cannot_be_converted_says_why(made, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    teacher, out = made("pictures")
    for words, message in (
        ([out], "is a flow map already"),
        ([tmp_path / "none"], "not a run"),
        ([teacher, "--out", out], "there is a run here already"),
    ):
        capsys.readouterr()
        assert sfumato("distill", *words, *SHORT) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line
    half = tmp_path / "half"
    shutil.copytree(teacher, half)
    (half / "model.safetensors").unlink()
    assert sfumato("distill", half, *SHORT) == 1
    assert f"sfumato resume {half}" in capsys.readouterr().err


def test_the_cost_is_a_share_of_the_teachers(made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A step of the conversion that costs three times as much is taken a sixth as often for half the cost."""
    from sfumato.training import measure

    teacher, _ = made("array")
    seconds = iter([0.3, 0.1])
    fake = lambda *_, **__: measure.Cost(next(seconds), 0.1, 1)  # noqa: E731
    monkeypatch.setattr(measure, "measure", fake)
    monkeypatch.setattr(measure, "measure_threads", fake)
    assert sfumato("distill", teacher, "--previews", 0, "--snapshots", 0, "--cost", 0.9, "--out", tmp_path / "m") == 0
    assert read_config(Run(tmp_path / "m")).training.steps == int(0.9 * 10 * 0.1 / 0.3)


@pytest.mark.slow
def test_killed_and_resumed_is_bit_equal(tmp_path: Path):
    assert sfumato("train", *write_data("classes", tmp_path), *SMALL, "--out", tmp_path / "run") == 0
    steps = [
        "--steps",
        "30",
        "--batch",
        "8",
        "--save-seconds",
        "1e-9",
        "--previews",
        "0",
        "--snapshots",
        "0",
        "--keep",
        "99",
    ]
    run_to_end("distill", tmp_path / "run", *steps, "--out", tmp_path / "straight")
    out = tmp_path / "m"
    process = started("distill", tmp_path / "run", *steps, "--out", out, until=out / "checkpoints" / "step-00000002")
    process.kill()
    process.communicate()
    shutil.rmtree(tmp_path / "run")  # resuming needs the flow map's folder alone
    process = started("resume", out, until=out / "checkpoints" / f"step-{weights(out)[0] + 2:08d}")
    process.send_signal(signal.SIGTERM)
    process.communicate()
    run_to_end("resume", out)
    (a, mine), (b, straight) = weights(out), weights(tmp_path / "straight")
    assert a == b == 30
    assert [name for name in straight if not torch.equal(mine[name], straight[name])] == []
    assert bool(torch.isfinite(drawn(load(out), 1).x).all())
