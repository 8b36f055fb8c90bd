"""The README's code runs as printed (and that of docs/worlds.md), its commands exist, and so does what it points to."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

README = (Path(__file__).parent.parent / "README.md").read_text()
WORLDS = (Path(__file__).parent.parent / "docs" / "worlds.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", README + WORLDS, re.DOTALL)


def example(word: str) -> str:
    """The one piece of code that has this word."""
    (code,) = [code for code in EXAMPLES if word in code]
    return code


def test_the_python_example_learns_the_data():
    code = example("optimizer")
    torch.manual_seed(0)
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)
    samples, data = names["samples"], names["data"]
    assert samples.shape == (500, 2)
    # correlated data of unit variance: a model that ignored one coordinate would miss the covariance of 0.8
    learned, real = torch.cov(samples.T), torch.cov(data.T)
    assert float((learned - real).abs().max()) < 0.25


def test_ten_lines_train_a_network_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    code = example("sfumato.fit")
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)
    samples, data = names["drawn"].x, names["x"]
    assert samples.shape == (500, 2)
    learned, real = torch.cov(samples.T), torch.cov(data.T)
    assert float((learned - real).abs().max()) < 0.25
    assert (tmp_path / "runs" / "mine" / "model.safetensors").is_file()
    names["sfumato"].fit(names["task"], "runs/mine", steps=600)  # called again it goes on: here there is nothing left


def test_the_functions_do_what_the_readme_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    from tests.jobs.small import write_pictures

    write_pictures(tmp_path / "photos", 60, classes=2, side=10)
    (tmp_path / "photos" / "red").rename(tmp_path / "photos" / "flags")
    monkeypatch.chdir(tmp_path)
    code = example("sfumato.train")
    quick = "steps=3, previews=0, snapshots=0, held_out=0.4, network={'width': 16, 'depth': 1}"
    names: dict = {}
    changed = code.replace("steps=2000", quick).replace(
        "distill(run)", "distill(run, steps=2, previews=0, snapshots=0)"
    )
    exec(compile(changed, "README.md", "exec"), names)
    assert [picture.shape for picture in names["pictures"]] == [(8, 8, 3)] * 8
    assert "kernel_distance" in capsys.readouterr().out
    assert names["faster"].path.name == "photos-map"


def test_the_example_of_a_product_prints_a_loss_for_each_sample(capsys):
    exec(compile(example("SO3"), "README.md", "exec"), {})
    assert len(re.findall(r"\d+\.\d+", capsys.readouterr().out)) == 8


def test_what_the_readme_points_to_is_there():
    root = Path(__file__).parent.parent
    for page in [root / "README.md", *sorted((root / "docs").glob("*.md"))]:
        places = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
        assert [place for place in places if not (page.parent / place).exists()] == [], page.name


def test_the_first_screen_has_a_picture_two_commands_and_what_comes_out():
    first = "\n".join(README.splitlines()[:24])
    assert len(re.findall(r"^!\[.+\]\(docs/\S+\.png\)$", first, re.MULTILINE)) == 1
    assert [line.split()[1] for line in first.splitlines() if line.startswith("sfumato ")] == ["train", "sample"]
    assert "What comes out" in first
    assert len(README.splitlines()) < 200


@pytest.mark.parametrize("command", sorted(set(re.findall(r"^sfumato (\w+)", README, re.MULTILINE))))
def test_the_commands_exist(command, capsys):
    from sfumato.cli import main

    with pytest.raises(SystemExit) as left:
        main([command, "--help"])
    assert left.value.code == 0
    assert "usage: sfumato " + command in capsys.readouterr().out


def test_the_flow_map_example_runs():
    text = (Path(__file__).parent.parent / "docs" / "any_steps.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names: dict = {}
    exec(compile(code, "any_steps.md", "exec"), names)
    assert names["samples"].shape == (8, 2)
    assert bool(torch.isfinite(names["samples"]).all())
