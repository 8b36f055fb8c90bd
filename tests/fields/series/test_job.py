"""The whole job of series through the command: inspect, train, sample, forecast, fill, measure, and what is refused."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from sfumato.cli import main
from sfumato.fields.series.demo import shops
from sfumato.fields.series.recipe import Series
from sfumato.jobs.model import Model, load
from sfumato.jobs.walk import Walk
from tests.fields.series import worlds


def table(path: Path) -> tuple[list[str], list[list[str]]]:
    with path.open(encoding="utf-8", newline="") as file:
        heads, *rows = csv.reader(file)
    return heads, rows


def test_a_forecast_goes_on_in_the_names_and_calendar_of_the_data(run: Path, tmp_path: Path) -> None:
    out, paths = tmp_path / "f.csv", tmp_path / "p.csv"
    words = [
        "--series",
        "w3",
        "w7",
        "-n",
        "9",
        "--quantiles",
        "0.1",
        "0.5",
        "0.9",
        "--paths",
        str(paths),
        "--out",
        str(out),
    ]
    assert main(["series", "forecast", str(run), *words]) == 0
    heads, rows = table(out)
    assert heads == ["series", "date", "mean", "q0.1", "q0.5", "q0.9"]
    assert [row[:2] for row in rows[:2]] == [["w3", "2021-08-29"], ["w3", "2021-08-30"]]  # 240 days from 2021-01-01
    assert len(rows) == 16
    assert all(float(a) <= float(b) <= float(c) for _, _, _, a, b, c in rows)
    heads, drawn = table(paths)
    assert heads == ["date", "sample", "w3", "w7"]  # laid out as the data: a column a series
    assert len(drawn) == 9 * 8
    things = load(run).sample(9, series=("w3", "w7"))
    assert [float(row[2]) for row in drawn[:8]] == pytest.approx(things[0].values.tolist(), rel=1e-6)
    values = np.array([[float(row[2]) for row in drawn if row[1] == str(m)] for m in range(9)])
    assert [float(row[4]) for row in rows[:8]] == pytest.approx(np.quantile(values, 0.5, 0).tolist(), rel=1e-6)
    assert (tmp_path / "f.csv.fan.png").stat().st_size > 10_000
    making = json.loads((tmp_path / "f.csv.json").read_text())
    assert making["ask"]["series"] == ["w3", "w7"]


def test_sample_writes_paths_and_draws_one_again(run: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    out = tmp_path / "s.parquet"
    assert main(["sample", str(run), "--series", "w1", "-n", "4", "--out", str(out)]) == 0
    made = parquet.read_table(out)
    assert made.column_names == ["date", "sample", "w1"]
    assert b"sfumato" in made.schema.metadata
    assert made.num_rows == 4 * 8


def test_leads_beyond_the_horizon_go_on_from_the_path(model: Model) -> None:
    """Of walks, farther is wider; the first horizon is the same, and each path goes on from its own end."""
    short = model.sample(60, series=("w2",))
    things = model.sample(60, series=("w2",), leads=20)
    values = np.stack([thing.values for thing in things])
    assert values.shape == (60, 20)
    assert np.allclose(values[:, :8], np.stack([thing.values for thing in short]), rtol=1e-5)
    assert values[:, 19].std() > 1.2 * values[:, 7].std()
    seam = np.abs(values[:, 8] - values[:, 7]).mean()
    assert seam < 3 * np.abs(np.diff(values[:, :8])).mean()


def test_other_series_are_forecast_from_their_file(run: Path, tmp_path: Path) -> None:
    values = worlds.walks(2, 50, seed=9)
    after = worlds.wide(tmp_path / "new.csv", worlds.days(50, "2023-05-01"), {"x": values[0], "y": values[1]})
    out = tmp_path / "f.csv"
    assert main(["series", "forecast", str(run), "--after", str(after), "-n", "20", "--out", str(out)]) == 0
    _, rows = table(out)
    assert rows[0][:2] == ["x", "2023-06-20"]
    assert abs(float(rows[0][2]) - values[0, -1]) < 5
    hours = worlds.wide(tmp_path / "h.csv", worlds.days(50, "2023-05-01T00", "h"), {"x": values[0]})
    assert main(["series", "forecast", str(run), "--after", str(hours), "--out", str(out)]) != 0


def test_a_scenario_is_gone_through_and_what_is_around_it_follows(run: Path, tmp_path: Path) -> None:
    """Of a walk with its fourth value known, the paths go through it, and those around it stand nearer to it."""
    out, plain = tmp_path / "f.csv", tmp_path / "g.csv"
    words = ["series", "forecast", str(run), "--series", "w3", "-n", "200", "--no-fan", "--out"]
    assert main([*words, str(plain)]) == 0
    before = [float(row[2]) for row in table(plain)[1]]
    told = worlds.wide(tmp_path / "s.csv", ["2021-09-01"], {"w3": [before[3] + 6.0]})
    assert main([*words, str(out), "--given", str(told)]) == 0
    _, rows = table(out)
    after, wide = [float(row[2]) for row in rows], [float(row[11]) - float(row[3]) for row in rows]
    assert after[3] == pytest.approx(before[3] + 6.0)
    assert wide[3] == pytest.approx(0, abs=1e-6)
    assert after[2] > before[2] + 1.5
    assert after[4] > before[4] + 3
    late = worlds.wide(tmp_path / "l.csv", ["2022-09-01"], {"w3": [1.0]})
    assert main([*words, str(out), "--given", str(late)]) != 0


def test_gaps_are_filled_and_nothing_else_is_touched(run: Path, tmp_path: Path) -> None:
    values = worlds.walks(1, 60, seed=11)[0].round(3)
    gone = [20, 21, 40]
    cells = ["" if k in gone else value for k, value in enumerate(values)]
    gaps = worlds.wide(tmp_path / "g.csv", worlds.days(60), {"x": cells})
    out = tmp_path / "filled.csv"
    assert (
        main(["series", "fill", str(run), str(gaps), "-n", "30", "--out", str(out), "--paths", str(tmp_path / "p.csv")])
        == 0
    )
    heads, rows = table(out)
    assert heads == ["date", "x"]
    found = np.array([float(row[1]) for row in rows])
    assert np.allclose(np.delete(found, gone), np.delete(values, gone))
    assert np.abs(found[gone] - values[gone]).max() < 6
    heads, rows = table(tmp_path / "filled.gaps.csv")
    assert [row[1] for row in rows] == ["2021-01-21", "2021-01-22", "2021-02-10"]
    assert len(table(tmp_path / "p.csv")[1]) == 3 * 30


def test_an_evaluation_stands_beside_the_bars(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run), "-n", "20", "--most", "30"]) == 0
    said = capsys.readouterr().out
    for name in ("seasonal naive", "ridge, own scale", "ridge, own scale, copula", "sfumato, independent"):
        assert f"\n{name} " in said
    found = json.loads((run / "metrics.json").read_text())
    assert found["windows"] == 30
    model, ridge = (found["scores"][name] for name in ("sfumato", "ridge"))
    assert model["sp"] == pytest.approx(ridge["sp"], rel=0.12)  # a step of training later it is where it began
    assert found["scores"]["seasonal naive"]["sp"] > 1.05 * ridge["sp"]  # walks whose steps go on
    assert (run / "fan.png").stat().st_size > 10_000
    assert (run / "calibration.png").stat().st_size > 5_000


def test_nothing_kept_is_learned_from(run: Path) -> None:
    model = load(run)
    store, data = model.companions.store, model.recipe.open(model.run)
    past = data.train.base.outlook.past
    for part in (data.train, data.held_out):
        ends = np.isnan(part.values)
        for row in range(0, len(part.at), 97):
            rest = part.values[part.at[row] :]
            left = int(np.argmax(np.isnan(rest))) if ends[part.at[row] :].any() else len(rest)
            assert left >= 2 * model.facts.horizon  # its future ends a horizon before the series does
    assert all(store.tests(i).tolist() == [240 - 8] for i in range(len(store)))
    assert sum(len(store.held(i)) for i in range(len(store))) == model.facts.held
    assert past == 24


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        (["sample", "RUN", "--series", "nobody"], "series = 'nobody': must be one of w0, w1"),
        (["sample", "RUN", "--leads", "0"], "leads = 0"),
        (["sample", "RUN", "--out", "x.nc"], "must be a file that ends with one of .csv, .parquet"),
        (["series", "forecast", "RUN", "--quantiles", "0.9", "0.1"], "rising numbers"),
        (["series", "forecast", "RUN", "--out", "x.png"], "ends with .csv or .parquet"),
        (["series", "forecast", "RUN", "--after", "nowhere.csv"], "there is no such file"),
        (["evaluate", "RUN", "-n", "1"], "two paths"),
        (["train", "series", "nowhere.csv"], "there is no such file"),
        (["train", "series", "DATA", "--horizon", "0"], "horizon = 0"),
        (["train", "series", "DATA", "--horizon", "300"], "no window"),
        (["train", "series", "DATA", "--season", "30", "--past", "20"], "season = 30: must be at most --past"),
        (["train", "series", "DATA", "--freq", "soon"], "freq = 'soon'"),
        (["train", "series", "DATA", "--target", "profit"], "target = 'profit'"),
    ],
)
def test_what_makes_no_sense_is_said_in_a_line(
    run: Path,
    tmp_path: Path,
    words: list[str],
    wrong: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    named = {"RUN": str(run), "DATA": str(run.parent / "walks.csv")}
    assert main([named.get(word, word) for word in words]) != 0
    said = capsys.readouterr().err.strip().splitlines()
    assert wrong in said[-1], said
    assert not any("Traceback" in line for line in said)


def test_covariates_that_are_known_ahead_are_heeded(tmp_path: Path) -> None:
    """A series that is high on holidays: the forecast is, on the holidays to come, which nothing of its past tells."""
    chance = np.random.default_rng(0)
    holiday = (chance.uniform(size=408) < 0.2).astype(float)
    sales = 10 + 5 * holiday + 0.3 * chance.standard_normal(408)
    cells = [*sales[:400].tolist(), *[""] * 8]
    data = worlds.wide(tmp_path / "x.csv", worlds.days(408), {"sales": cells, "holiday": holiday})
    words = ["--known", "holiday", "--target", "sales", "--horizon", "8", "--past", "16", "--steps", "1"]
    assert main(["train", "series", str(data), *worlds.TRAIN, *words, "--out", str(tmp_path / "run")]) == 0
    mean = np.mean([thing.values for thing in load(tmp_path / "run").sample(50)], 0)
    assert np.corrcoef(mean, holiday[400:])[0, 1] > 0.9
    assert np.abs(mean - 10 - 5 * holiday[400:]).max() < 1.5


def test_a_walk_is_calibrated_by_itself(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The usual walk has its factor from training; another one has none until it is calibrated, and then its own."""
    own = tmp_path / "run"
    shutil.copytree(run, own)
    known = json.loads((own / "spread.json").read_text())
    assert len(known) == 1
    other = Walk(steps=4, solver="euler", eta=0.0)
    before = load(own, other)
    assert before.companions.spread.of(before.walk) == 1
    assert main(["series", "calibrate", str(own), "--steps", "4", "--solver", "euler", "--eta", "0"]) == 0
    after = load(own, other)
    factor = after.companions.spread.of(after.walk)
    assert f"{factor:.3f}" in capsys.readouterr().out
    assert json.loads((own / "spread.json").read_text()).items() >= known.items()
    one, two = (np.stack([thing.values for thing in each.sample(80, series=("w1",))]) for each in (before, after))
    assert two.std(0).mean() / one.std(0).mean() == pytest.approx(factor, rel=0.02)
    (own / "spread.json").write_text('{"x": 99}')
    assert main(["sample", str(own), "-n", "1", "--out", str(tmp_path / "s.csv")]) != 0
    assert "a factor of 99 cannot be" in capsys.readouterr().err


def test_inspect_says_what_is_there(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = run.parent / "walks.csv"
    assert main(["inspect", "series", str(data), "--threads", "1", "--batch", "32"]) == 0
    said = capsys.readouterr().out
    assert "a column a series (time date)" in said
    assert "w0: 240 steps from 2021-01-01 to 2021-08-28" in said
    assert "14 steps are forecast from 49, season 7" in said  # the usual of days


def test_the_rival_answers_in_one_call(run: Path, tmp_path: Path) -> None:
    words = [
        "--horizon",
        "8",
        "--past",
        "24",
        "--season",
        "1",
        "--steps",
        "3",
        "--method.learn",
        "crps",
        "--out",
        str(tmp_path / "r"),
    ]
    assert main(["train", "series", str(run.parent / "walks.csv"), *worlds.TRAIN, *words]) == 0
    model = load(tmp_path / "r")
    calls: list[int] = []
    model.denoiser.network.network.head.register_forward_pre_hook(lambda *_: calls.append(1))
    first, second = model.sample(2, series=("w1",))
    assert len(calls) == 1
    assert not np.array_equal(first.values, second.values)


def test_made_up_shops_are_positive_and_depend_on_the_days_before() -> None:
    values = shops(5, 0, 400)
    assert values.shape == (400, 5)
    assert (values > 0).all()
    assert np.array_equal(shops(5, 0, 400), values)
    logs = np.log(values) - np.log(values).mean(0)
    assert np.mean([np.corrcoef(x[:-7], x[7:])[0, 1] for x in logs.T]) > 0.35  # a week later


@pytest.mark.slow
def test_the_demo_learns_and_measures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["series", "demo", "--out", str(tmp_path / "demo"), "--minutes", "0.3", "--count", "45"]) == 0
    assert "sp to seasonal naive" in capsys.readouterr().out
    assert json.loads((tmp_path / "demo" / "metrics.json").read_text())["ratios"]["sp to seasonal naive"][2] < 1


def test_the_recipe_is_a_minute_of_a_core_by_itself(run: Path) -> None:
    model = load(run)
    recipe = Series(run.parent / "walks.csv")
    chosen = recipe.training(model.recipe.open(model.run), "cpu")
    assert chosen.steps is not None
    assert chosen.steps <= 5000
    assert recipe.walk().steps == 16
