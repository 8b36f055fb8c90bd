"""A table through the whole command: looked at, trained, stopped and resumed, sampled, completed and measured."""

import dataclasses
import json
import shutil
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import sfumato
from sfumato.cli import main
from sfumato.errors import DataError, Wrong
from sfumato.fields.tables.data import Facts
from sfumato.fields.tables.reading import read_table
from sfumato.fields.tables.recipe import RECIPE, Tables, usual_steps
from sfumato.fields.tables.table import Column, Table
from sfumato.fields.tables.writing import write_table
from sfumato.jobs.recipe import say
from sfumato.training.options import TrainOptions
from sfumato.training.run import Run, RunError
from tests.fields.tables.tables import mixed

QUICK = {"steps": 150, "batch": 128, "previews": 1, "snapshots": 0, "threads": 1}
FLAGS = [f"--{name}={value}" for name, value in QUICK.items()]


def people(folder: Path, rows: int, seed: int = 0) -> Path:
    """A file with a number for each row, a constant, a date and a decimal comma."""
    made = mixed(rows, seed)
    days = [str(np.datetime64("2020-01-01") + i % 400) for i in range(rows)]
    income = Column.of("income", [(cell or "").replace(".", ",") for cell in made["income"].cells()])
    numbers, country = Column.of("no", map(str, range(1, rows + 1))), Column.of("country", ["Utopia"] * rows)
    columns = (numbers, made["sex"], made["smokes"], income, country, made["age"], Column.of("day", days))
    form = dataclasses.replace(made.format, separator=";", newline="\r\n")
    return write_table(Table(columns, form), folder / "people.csv")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return people(tmp_path_factory.mktemp("data"), 900)


@pytest.fixture(scope="module")
def run(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "people"
    assert main(["train", "tables", str(file), "--out", str(out), *FLAGS]) == 0
    return out


def test_inspect_says_what_each_column_is(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "tables", str(file), "--threads=1"]) == 0
    said = capsys.readouterr().out
    for wanted in (
        "900 rows of 7 columns",
        "semicolons",
        "made anew: 901",
        "always 'Utopia'",
        "gaps NA",
        "like 2020-01-01",
    ):
        assert wanted in said
    assert main(["inspect", "tables", str(file), "--kind", "age:colour"]) == 1
    assert "cannot be of kind 'colour'" in capsys.readouterr().err


def test_a_sample_is_a_table_of_the_same_form(run: Path, file: Path, tmp_path: Path) -> None:
    out = tmp_path / "rows.csv"
    assert main(["sample", str(run), "-n", "300", "--out", str(out)]) == 0
    real, made = read_table(file), read_table(out)
    assert made.format == real.format
    assert made.names == real.names
    assert len(made) == 300
    assert made["no"].cells() == [str(i) for i in range(901, 1201)]
    assert set(made["country"].cells()) == {"Utopia"}
    facts = Facts.of(made, np.arange(300))
    kinds = {states.kind.name: states.kind for states in facts.columns}
    assert kinds["income"].gaps == ("NA",)
    assert kinds["income"].numbers == RECIPE(file).facts(Run(run)).columns[3].kind.numbers  # decimals and comma
    assert kinds["day"].dates is not None
    assert json.loads((tmp_path / "rows.csv.json").read_text())["making"]["seed"] == 0


def test_states_learn_which_words_go_together(run: Path) -> None:
    """70 % of men smoke and 20 % of women, in 500 rows within 5 standard errors and the fault of a short training."""
    rows = sfumato.load(run).sample(500, seed=1)
    count = Counter((row["sex"], row["smokes"]) for row in rows)
    share = {sex: count[sex, "yes"] / (count[sex, "yes"] + count[sex, "no"]) for sex in ("man", "woman")}
    assert share["man"] == pytest.approx(0.7, abs=0.16)
    assert share["woman"] == pytest.approx(0.2, abs=0.16)
    zeros = Counter(row["smokes"] for row in rows if row["income"] == "0,00")
    assert zeros["yes"] > 20  # half of the smokers less the gaps; never of others
    assert zeros["no"] < 10


def test_a_row_is_the_same_alone(run: Path) -> None:
    model = sfumato.load(run)
    assert model.sample(3, seed=5) == model.sample(20, seed=5)[:3]
    assert model.sample(3, seed=6) != model.sample(3, seed=5)


def test_a_row_is_the_same_in_any_batch_and_shard(run: Path) -> None:
    """Words to the letter; a number may round the other way now and then, since other batches are summed in another order."""
    usual = sfumato.load(run).sample(60, seed=5)
    model = sfumato.load(run, batch=7, seed=5)
    recipe, queries = model.recipe, model.recipe.queries(model, model.recipe.Ask(), 60)
    parts = [recipe.rows(model, queries, some).rows() for some in recipe.draw(model, queries, range(25, 60))]
    shard = [dict(zip(usual[0], row, strict=True)) for part in parts for row in part]
    for name in ("no", "sex", "smokes", "country"):
        assert [row[name] for row in shard] == [row[name] for row in usual[25:]]
    same = [row == other for row, other in zip(shard, usual[25:], strict=True)]
    assert np.mean(same) > 0.9


def test_row_99999_is_the_same_alone_and_with_others(run: Path) -> None:
    """Of 100,000 rows that are asked for the last is drawn by itself, and as the last of ten."""
    model = sfumato.load(run, batch=16)
    recipe, found = model.recipe, []
    for numbers in (range(99_990, 100_000), [99_999]):
        queries = recipe.queries(model, recipe.Ask(), 100_000)
        (drawn,) = recipe.draw(model, queries, numbers)
        found.append(recipe.rows(model, queries, drawn).rows()[-1])
    assert found[0] == found[1]
    assert (
        found[0][0] != recipe.rows(model, queries, drawn._replace(numbers=[1])).rows()[0][0]
    )  # the key is its number's


def test_conditions_hold_and_known_cells_stay(run: Path, tmp_path: Path) -> None:
    model = sfumato.load(run)
    rows = model.sample(40, where="age >= 50 and sex = woman and income != NA")
    assert len(rows) == 40
    assert all(row["sex"] == "woman" and int(row["age"]) >= 50 and row["income"] != "NA" for row in rows)
    assert model.sample(3, where="age >= 50 and sex = woman and income != NA") == rows[:3]  # alone as in company
    (tmp_path / "known.csv").write_text("income;sex\n0,00;\n77,77;man\n")
    rows = model.sample(2, known=tmp_path / "known.csv")
    assert [row["income"] for row in rows] == ["0,00", "0,00", "77,77", "77,77"]
    assert [row["sex"] for row in rows[2:]] == ["man", "man"]
    with pytest.raises(DataError, match="0 of 1000 rows drawn met"):
        model.sample(1, where="age > 80 and age < 25")


def test_evaluation_puts_every_score_beside_floor_and_shuffled_columns(
    run: Path, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("lightgbm")
    assert main(["evaluate", str(run)]) == 0
    said = capsys.readouterr().out
    assert "shuffled" in said
    assert "real rows" in said
    assert "detection" in (run / "README.md").read_text()
    assert main(["evaluate", str(run), "--real", str(people(tmp_path, 800, seed=8))]) == 0
    found = json.loads((run / "metrics.json").read_text())
    assert found["n"] == 800
    for name in ("trend", "detection"):
        assert found["metrics"][name]["shuffled"] < found["metrics"][name]["floor"]
    assert 0.8 < found["metrics"]["shape"]["value"] <= 1


def test_an_evaluation_finds_at_its_start_what_it_lacks(
    run: Path, file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sfumato.diffusion.generate", lambda *_, **__: pytest.fail("the network was called"))

    words = [(["--known", str(file)], "completed rows are not drawn like the table"),
             (["--where", "agee > 3"], "agee"), (["--rows", "9"], "9 real rows to compare with"),
             (["--target", "no"], "'no', which is always the same, or a key")]  # fmt: skip
    for asked, message in words:
        assert main(["evaluate", str(run), *asked]) == 1
        assert message in capsys.readouterr().err
    for package in ("lightgbm", "sklearn.ensemble"):
        monkeypatch.setitem(sys.modules, package, None)
    assert main(["evaluate", str(run)]) == 1
    assert "the detector needs lightgbm" in capsys.readouterr().err


def test_stopping_and_going_on_is_the_same_run(file: Path, tmp_path: Path) -> None:
    """Ten steps are bit-equal to five, a stop, and five."""
    options = TrainOptions(
        steps=10, batch=32, previews=0, snapshots=0, threads=1, precision="fp32", save_seconds=1e-9, keep=20
    )
    whole = sfumato.train(Tables(file), options, tmp_path / "whole")
    shutil.copytree(whole.path, tmp_path / "half")
    half = Run(tmp_path / "half")
    for path in half.checkpoints.iterdir():
        if int(path.name.rpartition("-")[2]) > 5:
            shutil.rmtree(path)
    half.model.unlink()
    sfumato.resume(half)
    a, b = load_file(whole.model), load_file(half.model)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_run_further_trained_keeps_the_columns(run: Path, file: Path, tmp_path: Path) -> None:
    """Facts of a run fit another table of the same columns, and refuse what they do not know by name."""
    facts = RECIPE(file).facts(Run(run))
    other = tmp_path / "other.csv"
    table = read_table(file).take(np.arange(100, 800))
    write_table(table, other)
    new = Run(tmp_path / "new")
    new.create()
    kept = RECIPE(other, calls=(4, 4)).prepare(new, say, facts)
    assert kept.calls == (4, 4)
    assert kept.open(new).facts.columns == facts.columns
    strange = Column.of("sex", ["robot"] * 700)
    write_table(dataclasses.replace(table, columns=(strange, *(c for c in table.columns if c.name != "sex"))), other)
    with pytest.raises(DataError, match="'robot' never occurs"):
        RECIPE(other).prepare(new, say, facts)


def test_a_run_of_old_is_gone_on_with_as_it_was(run: Path) -> None:
    """Begun before each bin had an answer of its own, data.json says nothing of that."""
    from sfumato.fields.tables.data import Facts

    facts = Facts.read(Run(run))
    assert facts.network(None, 1).options["by_bin"]
    old = {name: value for name, value in facts.plain().items() if name != "by_bin"}
    assert not Facts.of_plain(old, facts.arrays()).network(None, 1).options["by_bin"]
    assert Facts.of_plain(facts.plain(), facts.arrays()).by_bin


def test_a_changed_cache_is_noticed(file: Path, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    run.create()
    recipe = RECIPE(file).prepare(run, say)
    codes = np.load(run.cache / "table" / "codes.npy")
    codes[1, :10] = 1 - codes[1, :10]
    np.save(run.cache / "table" / "codes.npy", codes)
    with pytest.raises(RunError, match="not the table that the run began with"):
        recipe.open(run)


def test_small_tables_are_seen_more_often_than_large_ones() -> None:
    """300 passes, within 10,000 steps; where a hundred passes take more, no number of tables' own."""
    assert usual_steps(20_480, 1024) == 6000
    assert usual_steps(60_000, 1024) == 10_000
    assert usual_steps(200_000, 1024) is None
    assert usual_steps(64, 8) == 2400
    assert usual_steps(5, 4) == 375


def test_options_that_make_no_sense_are_refused(file: Path) -> None:
    for wrong in ({"held_out": 1.0}, {"kind": ("age",)}, {"bins": 0}, {"calls": (0, 3)}):
        with pytest.raises(Wrong):
            RECIPE(file, **wrong)
    with pytest.raises(DataError, match="--leave-out names 'agee'"):
        RECIPE(file, leave_out=("agee",)).examine()
    with pytest.raises(DataError, match="nothing to learn"):
        RECIPE(file, leave_out=("sex", "smokes", "income", "age", "day")).examine()
