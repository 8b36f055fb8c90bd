"""The benchmark of tables measures what it says: splits, the copula, holes, coverage, canaries, and what a reader is shown."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import tables_canaries, tables_fill, tables_methods, tables_report
from benchmarks.tables_sets import SETS, Set, split
from sfumato.errors import DataError
from sfumato.fields.tables.data import Facts
from sfumato.fields.tables.frames import frames
from sfumato.fields.tables.likeness import pearson, shape
from sfumato.fields.tables.table import Column, Table
from sfumato.fields.tables.writing import write_table


def numbers(rows: int, seed: int = 0, gaps: float = 0.1) -> Table:
    """Two numbers of correlation .8, a word that depends on the first, and gaps in the second."""
    rng = np.random.default_rng(seed)
    x = rng.multivariate_normal([0, 0], [[1, 0.8], [0.8, 1]], rows)
    cells = (
        [f"{value:.3f}" for value in x[:, 0]],
        [f"{v:.3f}" if c > gaps else "" for v, c in zip(x[:, 1], rng.random(rows))],
    )
    words = np.where(x[:, 0] > 0, "up", "down").tolist()
    return Table((Column.of("a", cells[0]), Column.of("b", cells[1]), Column.of("word", words)))


def test_every_row_is_in_one_part_of_a_split(tmp_path: Path) -> None:
    table = Table(
        (
            Column.of("x", [str(i) for i in range(1000)]),
            Column.of("y", ["" if i % 4 == 0 else "1" for i in range(1000)]),
        )
    )
    write_table(table, tmp_path / "some.csv")
    parts = split(Set("some", "some.csv", "x", known=("y",)), tmp_path)
    cells = [part["x"].cells() for part in (parts.train, parts.validation, parts.test)]
    assert sorted(map(int, [cell for part in cells for cell in part])) == [
        i for i in range(1000) if i % 4
    ]  # rows without y are left out
    assert [len(each) for each in cells] == [607, 68, 75]
    assert parts.held["x"].cells() == cells[1] + cells[2]
    with pytest.raises(DataError, match="lacks column 'z'"):
        split(Set("some", "some.csv", "z"), tmp_path)


def test_the_sets_name_columns_that_their_files_have() -> None:
    folder = Path(__file__).parents[2].parent / "shared" / "data" / "tables"
    if not folder.is_dir():
        pytest.skip("the benchmark's tables are not here")
    for each in SETS:
        with (folder / each.train).open(encoding="utf-8") as file:
            names = file.readline().strip().split(",")
        wanted = {each.target, *each.leave_out, *each.known, *(kind.partition(":")[0] for kind in each.kinds)}
        assert wanted <= set(names), each.name


def test_a_copula_keeps_columns_and_correlation_and_independent_rows_the_columns_alone() -> None:
    table = numbers(4000, gaps=0.0)
    facts = Facts.of(table, np.arange(4000))
    made = [tables_methods.copula(table, facts, 4000, seed=1), tables_methods.independent(table, 4000, seed=1)]
    real, copula, loose = frames([table, *made], facts)
    for frame in (copula, loose):
        assert shape(real, frame) > 0.97
    assert pearson(copula.cells[:, 0], copula.cells[:, 1]) == pytest.approx(0.8, abs=0.04)
    assert pearson(loose.cells[:, 0], loose.cells[:, 1]) == pytest.approx(0, abs=0.06)
    holed = numbers(4000)
    (frame,) = frames([tables_methods.copula(holed, Facts.of(holed, np.arange(4000)), 4000)], facts)
    assert np.isnan(frame.cells[:, 1]).mean() == pytest.approx(0.1, abs=0.02)


def test_a_peers_file_comes_back_in_the_spelling_of_the_table(tmp_path: Path) -> None:
    table = numbers(300)
    facts = Facts.of(table, np.arange(300))
    tables_methods.as_numbers(table, facts, tmp_path / "plain.csv")
    again = tables_methods.of_numbers(tmp_path / "plain.csv", facts, table)
    assert again.rows() == table.rows()
    text = (tmp_path / "plain.csv").read_text().splitlines()
    text[1] = "0.12345,,up"
    (tmp_path / "plain.csv").write_text("\n".join(text))
    assert tables_methods.of_numbers(tmp_path / "plain.csv", facts, table).rows()[0] == ("0.123", "", "up")


@pytest.mark.parametrize("blocks", [False, True])
def test_holes_are_30_of_a_hundred_cells(blocks: bool) -> None:
    which = tables_fill.holes(4000, 10, blocks)
    assert which.mean() == pytest.approx(0.3, abs=0.01)
    assert which.mean(0) == pytest.approx(np.full(10, 0.3), abs=0.03)
    changes = (np.diff(which.astype(int), axis=1, append=which[:, :1].astype(int)) != 0).sum(1)
    assert (changes.max() == 2) == blocks


def test_draws_of_the_right_law_cover_as_often_as_they_should() -> None:
    rng = np.random.default_rng(0)
    drawn, x = rng.normal(size=(10, 40_000)), rng.normal(size=40_000)
    assert tables_fill._coverage(drawn, x) == pytest.approx(0.8, abs=0.01)
    assert tables_fill._coverage(0.5 * drawn, x) < 0.6
    # E|X - Y| - E|X - X'| / 2 = 1 / sqrt(pi) for independent standard normal numbers
    assert tables_fill._crps(drawn, x) == pytest.approx(1 / np.sqrt(np.pi), abs=0.01)


def test_fillings_are_judged_where_cells_were_hidden_and_known() -> None:
    truth = numbers(200)
    facts = Facts.of(truth, np.arange(200))
    which = tables_fill.holes(200, 3, False)
    gaps = tables_fill.hidden(truth, which)
    hidden = sum(cell == "" for row in gaps.rows() for cell in row)
    known = sum(cell == "" for row in truth.rows() for cell in row)
    assert which.sum() < hidden < which.sum() + known
    right = tables_fill.judged(truth, [truth] * 10, which, truth, facts)
    assert (right["rmse"], right["crps"], right["accuracy"]) == (0, 0, 1)
    medians = tables_fill.judged(truth, [gaps], which, truth, facts, usual=True)
    assert medians["rmse"] == pytest.approx(1, abs=0.2)
    assert 0.3 < medians["accuracy"] < 0.7


def test_canaries_are_planted_and_counted() -> None:
    train = numbers(500)
    once, often = tables_canaries.odd(train, 20, seed=1), tables_canaries.odd(train, 20, seed=2)
    whole = tables_canaries.planted(train, once, often)
    assert len(whole) == 500 + 20 + 200
    assert tables_canaries.returned(whole, once) == tables_canaries.returned(whole, often) == 20
    assert tables_canaries.returned(numbers(500, seed=4), once) == 0


def test_the_report_shows_what_was_measured_and_nothing_else() -> None:
    ours = {
        "detection": {"value": 0.9, "floor": 0.98, "n": 1000}, "shape": {"value": 0.98, "floor": 0.99},
        "trend": {"value": 0.97, "floor": 0.96},
        "useful_auc": {"value": 0.91, "floor": 0.92}, "copied": {"value": 0.0012, "floor": 0.001},
    }  # fmt: skip
    trial = {
        "rows": {"ours": ours}, "plain": {"copula": {"detection": {"value": 0.1, "n": 1000}}},
        "arf": {"detection": {"value": 0.2, "n": 1000}}, "training": {"steps": 90, "cpu": 7.0},
        "calls": {
            "full": {"calls": [15, 10], "rows a CPU second": 2000.0, "detection": 0.9},
            "few": {"calls": [7, 5], "rows a CPU second": 4000.0, "detection": 0.88},
        },
        "canaries": {
            "drawn": 500, "planted": 20, "once": {"back": 0, "told from others": 0.52},
            "10 times": {"back": 3, "told from others": 0.71},
        },
    }  # fmt: skip
    other = {
        "rows": {"ours": {**ours, "detection": {"value": 0.8, "floor": 1.0, "n": 1000}}},
        "training": {"steps": 90, "cpu": 9.0},
    }
    found = tables_report.tables({"sets": {"adult": {"seed 0": trial, "seed 1": other}}}).split("\n\n")
    methods, ours_alone, calls, canaries = found
    assert "| adult | 1000 | 0.990 [0.980, 1.000] | 0.850 [0.800, 0.900] | 0.200 | 0.100 |  |" in methods
    assert "0.910 [0.910, 0.910] (0.920 [0.920, 0.920])" in ours_alone
    assert "| 90, 8 |" in ours_alone
    assert "| adult | 15 + 10 | 50.0 | 0.900 | 7 + 5 | 25.0 | 0.880 |" in calls
    assert "| adult | 500 | 0 of 20 | 0.520 | 3 of 20 | 0.710 |" in canaries
    assert "magic" not in methods
