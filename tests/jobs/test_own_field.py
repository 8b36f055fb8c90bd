"""A field that nobody planned for: one folder, at most sixty lines, outside the package, and the whole command serves it."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import sfumato.fields
from sfumato.jobs import find
from sfumato.training.run import Run

from .small import sfumato as command

FIELD = Path(__file__).parent / "weaving"
SHORT = ["--steps", "6", "--batch", "8", "--previews", "1", "--snapshots", "0", "--threads", "1"]
PROJECT = {
    "METADATA": "Metadata-Version: 2.1\nName: loom\nVersion: 1.0\nSummary: Cloth of a loom\n",
    "entry_points.txt": "[sfumato.fields]\nloom = loomworks.recipe:RECIPE\n",
}


def forget() -> None:
    """What was found is looked for again."""
    for known in (find._folders, find._installed, find.names):
        known.cache_clear()


@pytest.fixture(params=["a folder", "a package"])
def field(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The field's name: as a folder beside ours, or as an installed package with an entry point."""
    home = tmp_path / "home"
    if request.param == "a folder":
        shutil.copytree(FIELD, home / "weaving", ignore=shutil.ignore_patterns("__pycache__"))
        monkeypatch.setattr(sfumato.fields, "__path__", [*sfumato.fields.__path__, str(home)])
        name, modules = "weaving", "sfumato.fields.weaving"
    else:
        shutil.copytree(FIELD, home / "loomworks", ignore=shutil.ignore_patterns("__pycache__"))
        (home / "loom-1.0.dist-info").mkdir()
        for file, text in PROJECT.items():
            (home / "loom-1.0.dist-info" / file).write_text(text)
        monkeypatch.syspath_prepend(home)
        name, modules = "loom", "loomworks"
    forget()
    yield name
    for module in [module for module in sys.modules if module.startswith(modules)]:
        del sys.modules[module]
    monkeypatch.undo()
    forget()


def cloth(folder: Path) -> Path:
    """120 cloths of 3 threads in two patterns, which lie two units to either side of nothing."""
    rng = np.random.default_rng(0)
    rows = [(name, rng.normal(side, 0.3, 3)) for _ in range(60) for name, side in (("plain", -2), ("twill", 2))]
    file = folder / "cloth.csv"
    file.write_text("\n".join(f"{name},{','.join(f'{value:.4f}' for value in threads)}" for name, threads in rows))
    return file


def woven(folder: Path) -> np.ndarray:
    """The samples in a folder, (n, 3)."""
    return np.array([[float(word) for word in path.read_text().split()] for path in sorted(folder.glob("0*.txt"))])


def test_sixty_lines_are_a_field():
    lines = [line for path in FIELD.glob("*.py") for line in path.read_text().splitlines() if line.strip()]
    assert len(lines) <= 60


def test_a_field_of_ones_own_goes_through_every_verb(field: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    data, run = cloth(tmp_path), tmp_path / "run"
    with pytest.raises(SystemExit):
        command("--help")
    assert field in capsys.readouterr().out
    with pytest.raises(SystemExit):
        command("train", field, "--help-all")
    assert "--method.predicts" in capsys.readouterr().out

    assert command("inspect", field, data, *SHORT) == 0
    assert "threads 3, patterns ['plain', 'twill']" in capsys.readouterr().out
    assert command("train", field, data, *SHORT, "--out", run) == 0
    assert (run / "config.yaml").read_text().startswith(f"{field}:\n")
    assert command("resume", run) == 0
    assert "finished: all 6 steps are done" in capsys.readouterr().err

    with pytest.raises(SystemExit):
        command("sample", run, "--help")
    said = capsys.readouterr().out
    assert "--pattern" in said
    assert "--label" not in said  # that of pictures
    assert command("sample", run, "-n", 6, "--pattern", "twill", "--out", tmp_path / "s") == 0
    assert woven(tmp_path / "s").shape == (6, 3)
    assert command("sample", run, "--pattern", "velvet", "--out", tmp_path / "t") == 1
    assert "pattern = 'velvet': must be one of plain, twill" in capsys.readouterr().err
    assert command("sample", run, "--like", tmp_path / "s" / "0003.txt", "--out", tmp_path / "again") == 0
    assert (tmp_path / "again" / "0003.txt").read_bytes() == (tmp_path / "s" / "0003.txt").read_bytes()

    assert command("evaluate", run, "--pattern", "plain") == 0
    assert "kernel_distance" in json.loads((run / "metrics.json").read_text())["metrics"]
    assert command("distill", run, *SHORT) == 0
    assert command("sample", tmp_path / "run-map", "-n", 2, "--steps", 1, "--out", tmp_path / "m") == 0
    assert np.isfinite(woven(tmp_path / "m")).all()
    assert sfumato.load(run).sample(3, pattern="plain", steps=2)[0].shape == (3,)


def test_it_learns_what_is_asked_for(field: str, tmp_path: Path):
    """Not only that nothing breaks: a twill is drawn where a twill is asked for."""
    run = sfumato.train(cloth(tmp_path), out=tmp_path / "run", field=field, steps=300, batch=32, optim={"lr": 0.01},
                        previews=0, snapshots=0, threads=1)  # fmt: skip
    assert isinstance(run, Run)
    for pattern, side in (("plain", -2.0), ("twill", 2.0)):
        drawn = np.array(sfumato.load(run).sample(24, pattern=pattern, w=1.0))
        assert abs(drawn.mean() - side) < 0.5
