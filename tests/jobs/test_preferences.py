"""A run learns what is preferred, by pairs and by rewards, and draws by them, through the command line."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import sfumato as sfumato_package
from sfumato.errors import Wrong
from sfumato.jobs.config import read_config
from sfumato.jobs.judge import Judge
from sfumato.jobs.model import load
from sfumato.jobs.prefer import PAIRS
from sfumato.jobs.rewarded import rounds
from sfumato.jobs.steering import SteerOptions, steered
from sfumato.jobs.tune import BASE, LORA, read_items
from sfumato.networks import lora
from sfumato.training import checkpoint
from sfumato.training.run import Run, RunError

from .small import SMALL, sfumato, write_data

ROUNDS = ["--rounds", 3, "--draws", 24, "--steps", 9, "--batch", 8, "--threads", 1, "--lora", 2, "--optim.lr", 0.02]
MINE = """
import numpy as np
def redness(things, names):
    return [float(np.asarray(t, float)[..., 0].mean() - np.asarray(t, float)[..., 1:].mean()) for t in things]
def short(things, names):
    return [0.0]
def nan(things, names):
    return [float("nan")] * len(things)
def broken(things, names):
    raise KeyError("no")
number = 3
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    assert sfumato("train", *write_data("classes", folder), *SMALL, "--out", folder / "run") == 0
    return folder / "run"


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of the user's own, in the folder where the command runs."""
    name = f"mine_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def red(things: list[Any], names: list[str]) -> list[float]:
    return [float(np.asarray(t, float)[..., 0].mean() - np.asarray(t, float)[..., 1:].mean()) for t in things]


def tensors(path: Path) -> dict[str, torch.Tensor]:
    return checkpoint.read_weights(path)[0]


def test_a_reward_is_learned_round_by_round(base: Path, mine: str, tmp_path: Path, capfd) -> None:
    out = tmp_path / "out"
    assert sfumato("finetune", base, "--reward", f"{mine}:redness", "--diversity", 0, *ROUNDS, "--out", out) == 0
    done = rounds(Run(out))
    assert [each.number for each in done] == [0, 1, 2, 3]
    assert done[0].kept == 1.0
    assert [a < b for a, b in zip([e.calls for e in done], [e.calls for e in done[1:]])] == [True] * 3
    model = load(out)  # judged as it was drawn: the same stream of the last round gives the same reward
    again = [
        reward
        for part in dataclasses_walk(model).draw(model.usual_queries(24), range(24), stream=("reward", 3))
        for reward in red(model.recipe.things(model, model.usual_queries(24), part), [])
    ]
    assert float(np.mean(again)) == pytest.approx(done[-1].reward, abs=0.3)
    assert sfumato("sample", out, "-n", 2, "--out", tmp_path / "s") == 0
    assert sfumato("distill", out, "--steps", 2, "--previews", 0, "--out", tmp_path / "map") == 0
    # the change in its file is what lies between the weights
    change, about = checkpoint.read_weights(out / LORA)
    whole = lora.added(tensors(out / BASE), change, lora.scale_of(about))
    for name, value in tensors(out / "model.safetensors").items():
        torch.testing.assert_close(whole[name], value, rtol=1e-4, atol=1e-5)
    capfd.readouterr()


def dataclasses_walk(model: Any) -> Any:
    import dataclasses

    return dataclasses.replace(model, walk=dataclasses.replace(model.walk, w=1.0, batch=24))


def test_a_stopped_one_goes_on_as_if_it_had_not_been(base: Path, mine: str, tmp_path: Path, capfd) -> None:
    words = [base, "--reward", f"{mine}:redness", "--diversity", 0, *ROUNDS]
    assert sfumato("finetune", *words, "--out", tmp_path / "whole") == 0
    half, calls = tmp_path / "half", []

    def failing(things: list[Any], names: list[str]) -> list[float]:
        calls.append(len(things))
        if len(calls) == 3:
            raise OSError("the disk is full")
        return red(things, names)

    with pytest.raises(Wrong, match="the disk is full"):
        sfumato_package.finetune(
            base,
            out=half,
            reward=failing,
            rounds=3,
            draws=24,
            diversity=0,
            steps=9,
            batch=8,
            threads=1,
            lora=2,
            optim={"lr": 0.02},
        )
    assert len(rounds(Run(half))) == 2
    assert sfumato("resume", half) == 1
    assert "learns from a reward; name it again, `sfumato resume" in "".join(capfd.readouterr())
    assert sfumato("resume", half, "--reward", f"{mine}:redness") == 0
    one, two = (rounds(Run(path)) for path in (tmp_path / "whole", half))
    assert len(one) == len(two) == 4
    assert one[-1].reward == pytest.approx(two[-1].reward, abs=1e-2)
    for name, value in tensors(tmp_path / "whole" / "model.safetensors").items():
        torch.testing.assert_close(tensors(half / "model.safetensors")[name], value, rtol=1e-4, atol=1e-5)


def test_diversity_that_is_lost_stops_it_at_the_round_before(base: Path, tmp_path: Path) -> None:
    calls: list[int] = []

    def bright(things: list[Any], names: list[str]) -> list[float]:
        calls.append(len(things))
        return [float(np.asarray(t, float).mean()) for t in things]

    # samples far brighter than any are all white, and white is like white
    run = sfumato_package.finetune(
        base, out=tmp_path / "out", reward=bright, rounds=12, draws=24, diversity=0.97, steps=120, batch=8, threads=1,
        leash=0.0, optim={"lr": 0.02},
    )  # fmt: skip
    done = rounds(run)
    assert done[-1].kept < 0.97 <= done[-2].kept
    assert len(calls) >= len(done)
    assert len(done) < 13
    model = dataclasses_walk(load(run.path))
    assert model.run.records()[-1]["step"] == len(done) - 1
    queries = model.usual_queries(24)
    parts = list(model.draw(queries, range(24), stream=("reward", done[-2].number)))
    again = [reward for part in parts for reward in bright(model.recipe.things(model, queries, part), [])]
    assert float(np.mean(again)) == pytest.approx(done[-2].reward, abs=0.5)


def test_no_file_makes_anybody_run_code(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    """A run that says which reward it learned from is loaded, sampled, measured and resumed without importing that."""
    sign = tmp_path / "it_ran"
    (tmp_path / "evil.py").write_text(
        f"open({str(sign)!r}, 'w').close()\ndef reward(things, names):\n    return [0.0] * len(things)\n"
    )
    monkeypatch.chdir(tmp_path)
    run = sfumato_package.finetune(
        base, out=tmp_path / "out", reward=red, rounds=1, draws=8, steps=1, batch=8, threads=1, diversity=0
    )
    text = run.config.read_text()
    assert "test_preferences:red" in text
    run.config.write_text(text.replace(Judge.of(red).name, "evil:reward"))
    assert read_config(run).prefer.reward == "evil:reward"
    assert sfumato("sample", run.path, "-n", 2, "--out", tmp_path / "s") == 0
    assert sfumato("resume", run.path) == 1
    with pytest.raises(RunError, match="evil:reward"):
        sfumato_package.resume(run)
    assert not sign.exists()
    capfd.readouterr()


def test_a_reward_that_gives_no_numbers_says_so(base: Path, mine: str, tmp_path: Path, capfd) -> None:
    for name, said in (
        ("short", "gave shape (1,) for 24 samples; one number each"), ("nan", "gave nan for sample 0; must be finite"),
        ("broken", "raised KeyError: 'no' for 24 samples"), ("number", "must be a function, it is int"),
        ("nothing", "has no 'nothing'"),
    ):  # fmt: skip
        out = tmp_path / name
        assert sfumato("finetune", base, "--reward", f"{mine}:{name}", *ROUNDS, "--out", out) == 1
        assert said in "".join(capfd.readouterr())
    assert sfumato("finetune", base, "--out", tmp_path / "none") == 1
    assert "--data DATA, --prefer PAIRS or --reward module:function" in "".join(capfd.readouterr())
    assert sfumato("finetune", base, "--data", "x", "--reward", "m:f", "--out", tmp_path / "two") == 1
    assert "data and reward: give one of them" in "".join(capfd.readouterr())


# ---- pairs -------------------------------------------------------------------------------------------------------------


def write_pairs(folder: Path, count: int = 30, labels: tuple[str, ...] = ("red", "green")) -> Path:
    """Bright ones chosen, dark ones rejected."""
    rng = np.random.default_rng(0)
    for side, low in (("chosen", 150), ("rejected", 0)):
        for i in range(count):
            place = folder / side / labels[i % len(labels)]
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(low, low + 100, (12, 12, 3), dtype=np.uint8)).save(place / f"{i}.png")
    return folder


def test_pairs_are_learned_from(base: Path, tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "pairs")
    out = tmp_path / "out"
    words = ["--steps", 30, "--batch", 8, "--previews", 1, "--snapshots", 3, "--optim.lr", 0.01, "--lora", 4]
    assert sfumato("finetune", base, "--prefer", pairs, *words, "--out", out) == 0
    record = next(each for each in Run(out).records() if "held_out_best" in each)
    assert record["held_out_before"] == pytest.approx(math.log(2.0), rel=1e-3)
    assert record["held_out_best"] < 0.8 * math.log(2.0)
    kept = read_items(out / "cache" / PAIRS, "pairs")
    assert len(kept) == 30
    item = kept.batch(np.arange(30))
    assert bool((item["x"].mean((1, 2, 3)) > item["rejected"].mean((1, 2, 3))).all())  # each beside its own
    assert set(item["label"].tolist()) == {read_facts(base).index("red"), read_facts(base).index("green")}
    brightness = [float(np.mean([t.mean() for t in load(path).sample(16, seed=3)])) for path in (base, out)]
    assert brightness[1] > brightness[0]
    assert sfumato("resume", out, "--steps", 32) == 0


def read_facts(base: Path) -> tuple[str, ...]:
    return tuple(load(base).facts.classes)


def test_pairs_as_lines_are_the_same(base: Path, tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "pairs")
    lines = [
        {"chosen": f"pairs/chosen/{label}/{i}.png", "rejected": f"pairs/rejected/{label}/{i}.png", "label": label}
        for i, label in ((i, ("red", "green")[i % 2]) for i in range(30))
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    short = ["--steps", 2, "--batch", 8, "--previews", 0, "--snapshots", 1]
    assert sfumato("finetune", base, "--prefer", tmp_path / "pairs.jsonl", *short, "--out", tmp_path / "lines") == 0
    assert sfumato("finetune", base, "--prefer", pairs, *short, "--out", tmp_path / "folders") == 0
    one, two = (
        read_items(tmp_path / name / "cache" / PAIRS, "pairs").batch(np.arange(30)) for name in ("lines", "folders")
    )
    order = [np.lexsort(each["x"].reshape(30, -1).T) for each in (one, two)]
    for name in ("x", "rejected", "label"):
        np.testing.assert_array_equal(one[name][order[0]], two[name][order[1]])
    assert not (tmp_path / "lines" / "cache" / "sides").exists()


def test_pairs_that_do_not_fit_say_so(base: Path, tmp_path: Path, capfd) -> None:
    def refused(pairs: Path) -> str:
        assert sfumato("finetune", base, "--prefer", pairs, "--steps", 2, "--out", tmp_path / "out") == 1
        assert not (tmp_path / "out").exists()
        return "".join(capfd.readouterr())

    pairs = write_pairs(tmp_path / "pairs")
    assert "no such folder; pairs are in FOLDER/chosen and FOLDER/rejected" in refused(tmp_path / "nothing")
    (pairs / "rejected").rename(tmp_path / "away")
    write_pairs(tmp_path / "other", labels=("green", "red"))
    (tmp_path / "other" / "rejected").rename(pairs / "rejected")
    assert "30 chosen and 30 rejected, 0 of the same name" in refused(pairs)
    lines = tmp_path / "p.jsonl"
    lines.write_text('{"chosen": "a.png", "rejected": "b.png"}\n')
    assert "line 1: a.png is no file beside it" in refused(lines)
    lines.write_text('{"chosen": "a.png"}\n')
    assert "line 1: cannot be read" in refused(lines)
    lines.write_bytes(b"\xff\xfe{}\n")
    assert "cannot be read" in refused(lines)


# ---- steering ----------------------------------------------------------------------------------------------------------


def test_samples_are_steered_by_a_reward(base: Path, mine: str, tmp_path: Path, capfd) -> None:
    model = load(base)
    judge = Judge.of(red)
    pulled = [
        np.mean(red(steered(model, judge, SteerOptions(8, strength)).sample(24, steps=8), []))
        for strength in (2.0, -2.0)
    ]
    assert pulled[0] > pulled[1] + 3.0  # 5.4 to 5.8 of 48 samples, three seeds
    one, other = (steered(model, judge, SteerOptions(8, 0.5)).sample(n, steps=8) for n in (5, 3))
    np.testing.assert_array_equal(one[2], other[2])  # each has a population of its own
    words = ["--reward", f"{mine}:redness", "--particles", 3, "--steps", 5]
    assert sfumato("sample", base, "-n", 2, *words, "--out", tmp_path / "s") == 0
    assert sfumato("sample", base, "--like", tmp_path / "s" / "0001.png", "--out", tmp_path / "t") == 1
    assert "and a reward, and those of" in "".join(capfd.readouterr())
    with pytest.raises(Wrong, match="particles = 1"):
        SteerOptions(1)
