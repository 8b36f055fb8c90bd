"""What people complain of in other tools for tables, and what is wrong with tables: each is a test.

Named are the issues of public trackers (sdv-dev/SDV, sdv-dev/CTGAN) that a test answers.
"""

import datetime
import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

import sfumato
from sfumato.cli import main
from sfumato.errors import DataError
from sfumato.fields.tables.data import Facts
from sfumato.fields.tables.reading import read_table
from sfumato.fields.tables.sqlite import read_one, write_database
from sfumato.fields.tables.table import Column, Table
from sfumato.fields.tables.writing import write_table
from tests.fields.tables.tables import table

QUICK = {"steps": 200, "batch": 128, "previews": 0, "snapshots": 0, "threads": 1}


def stock(rows: int = 1200, seed: int = 0) -> Table:
    """Mostly gaps, codes that look like numbers, a rule that 2 % of the rows break, and a key of one pattern."""
    rng = np.random.default_rng(seed)
    price = rng.integers(1, 50, rows)
    low = np.where(rng.random(rows) < 0.02, price + 5, price - rng.integers(0, 3, rows))
    return table(
        id=[f"A{i:05d}" for i in range(1, rows + 1)],
        price=price.astype(str).tolist(),
        low=low.astype(str).tolist(),
        code=[("007", "011", "113")[i] for i in rng.integers(0, 3, rows)],
        seldom=[str(v) if hit else "" for v, hit in zip(rng.integers(0, 900, rows), rng.random(rows) < 0.1)],
        formula=[("=1+1", "=2+2", "plain")[i] for i in rng.integers(0, 3, rows)],
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stock")
    write_table(stock(), folder / "stock.csv")
    (folder / "rules.yaml").write_text("check: [low <= price]\n")
    sfumato.train(
        str(folder / "stock.csv"), field="tables", out=folder / "run", rules=folder / "rules.yaml", **QUICK
    )  # fmt: skip
    return folder / "run"


@pytest.fixture(scope="module")
def rows(run: Path) -> list[dict[str, str]]:
    return list(sfumato.load(run).sample(1000, seed=2))


# ---- what comes out --------------------------------------------------------------------------------------------------


def test_a_column_that_is_mostly_empty_stays_so(rows: list[dict[str, str]]) -> None:
    """SDV 551, 521, 2288: 90 % missing becomes none, or all. 1,000 rows: 5 standard errors are .05."""
    assert np.mean([row["seldom"] == "" for row in rows]) == pytest.approx(0.9, abs=0.05)


def test_no_word_comes_that_the_table_never_had(rows: list[dict[str, str]]) -> None:
    """SDV 1647, 1648: new categories, and codes that lose their zeros."""
    real = stock()
    for name in ("code", "formula"):
        assert {row[name] for row in rows} == set(real[name].words)


def test_a_rule_holds_though_real_rows_break_it(rows: list[dict[str, str]]) -> None:
    """CTGAN 61, SDV 1893, 2645."""
    real = stock()
    assert any(int(low) > int(price) for price, low in zip(real["price"].cells(), real["low"].cells()))
    assert all(int(row["low"]) <= int(row["price"]) for row in rows)


def test_keys_go_on_where_the_data_stop_and_where_a_file_stops(
    run: Path, rows: list[dict[str, str]], tmp_path: Path
) -> None:
    """SDV 1109, 2116, 1945, 246, 686: keys twice, placeholders, no pattern, keys that collide when rows are added."""
    keys = [row["id"] for row in rows]
    assert keys[:2] == ["A01201", "A01202"]
    assert len(set(keys)) == 1000
    first, both = tmp_path / "first.csv", tmp_path / "both.csv"
    assert main(["sample", str(run), "-n", "20", "--out", str(first)]) == 0
    first.write_bytes(first.read_bytes().rstrip(b"\n"))  # as an editor may leave it
    assert main(["sample", str(run), "-n", "20", "--append", str(first), "--out", str(both)]) == 0
    assert both.read_bytes().startswith(first.read_bytes() + b"\n")
    assert read_table(both)["id"].cells() == [f"A{i:05d}" for i in range(1201, 1241)]
    flags = ["--append", str(both), "--out", str(tmp_path / "all.jsonl")]
    assert main(["sample", str(run), "-n", "5", *flags]) == 0
    assert read_table(tmp_path / "all.jsonl")["id"].cells() == [f"A{i:05d}" for i in range(1201, 1246)]


def test_rows_of_other_columns_are_not_added_to(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "other.csv").write_text("id,price\nA1,2\n")
    assert main(["sample", str(run), "--append", str(tmp_path / "other.csv"), "--out", str(tmp_path / "x.csv")]) == 1
    assert "its columns are not those of the run: 'low' is in one of them alone" in capsys.readouterr().err


def test_a_cell_that_a_spreadsheet_would_work_out_is_quoted(run: Path, tmp_path: Path) -> None:
    assert main(["sample", str(run), "-n", "50", "--out", str(tmp_path / "rows.csv")]) == 0
    lines = (tmp_path / "rows.csv").read_text().splitlines()[1:]
    assert sum(',"=1+1"' in line or ',"=2+2"' in line for line in lines) > 10
    assert not any(",=" in line for line in lines)
    told: list[str] = []
    made = read_table(tmp_path / "rows.csv", told.append)
    assert set(made["formula"].words) == {"=1+1", "=2+2", "plain"}
    assert "which a spreadsheet would work out" in told[0]


# ---- types -----------------------------------------------------------------------------------------------------------


def test_a_parquet_file_keeps_its_types_through_the_model(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    rng = np.random.default_rng(0)
    n = 400
    start = datetime.datetime(2020, 1, 2, tzinfo=datetime.UTC)
    before = pa.table(
        {
            "money": pa.array([Decimal(int(v)) / 100 for v in rng.integers(0, 9999, n)], pa.decimal128(10, 2)),
            "when": pa.array([start + datetime.timedelta(hours=int(h)) for h in rng.integers(0, 900, n)],
                             pa.timestamp("ms", tz="Europe/Berlin")),
            "word": pa.array([("a", "b", None)[i] for i in rng.integers(0, 3, n)]).dictionary_encode(),
            "yes": pa.array([(True, False, None)[i] for i in rng.integers(0, 3, n)]),
            "small": pa.array([None if v > 90 else int(v) for v in rng.integers(0, 99, n)], pa.int8()),
            "real": pa.array(rng.normal(size=n), pa.float32()),
            "day": pa.array([start.date() + datetime.timedelta(days=int(d)) for d in rng.integers(0, 300, n)]),
        }
    )  # fmt: skip
    pq.write_table(before, tmp_path / "a.parquet")
    options = {**QUICK, "steps": 3}
    found = sfumato.train(str(tmp_path / "a.parquet"), field="tables", out=tmp_path / "run", **options)
    assert main(["sample", str(found.path), "-n", "60", "--out", str(tmp_path / "rows.parquet")]) == 0
    after = pq.read_table(tmp_path / "rows.parquet")
    assert after.schema.equals(before.schema)
    assert after.num_rows == 60
    assert 0 < after["yes"].null_count < 60  # a null is a null, and none becomes a word
    assert set(after["word"].to_pylist()) <= {"a", "b", None}
    assert json.loads(after.schema.metadata[b"sfumato"])["seed"] == 0


def test_one_table_of_a_database(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    typed = {"n": "sql INTEGER", "x": "sql REAL", "w": "sql VARCHAR(9)"}
    cells = {
        "n": [None if v > 40 else str(v) for v in rng.integers(0, 50, 300)],
        "x": [repr(float(v)) for v in rng.integers(0, 9, 300) / 2],
        "w": [("1", "02", "x")[i] for i in rng.integers(0, 3, 300)],
    }
    made = Table(tuple(Column.of(name, cells[name], typed[name]) for name in cells))
    file = write_database(tmp_path / "a.sqlite", {"things": made, "others": table(a=["1", "2"])})
    back = read_one(file, "things")
    assert back.rows() == made.rows()
    assert [column.type for column in back.columns] == list(typed.values())
    flags = ["--table", "things", "--steps=3", "--batch=32", "--previews=0", "--threads=1"]
    assert main(["train", "tables", str(file), "--out", str(tmp_path / "run"), *flags]) == 0
    assert main(["sample", str(tmp_path / "run"), "-n", "300", "--out", str(tmp_path / "b.sqlite")]) == 0
    out = read_one(tmp_path / "b.sqlite", None)
    assert set(out["w"].words) <= {"1", "02", "x"}  # text stays text
    assert None in out["n"].words
    capsys.readouterr()
    assert main(["train", "tables", str(file), "--table", "thing", "--out", str(tmp_path / "c")]) == 1
    assert "holds no table 'thing'; its tables are others, things" in capsys.readouterr().err


# ---- what is wrong with a table, in one line -------------------------------------------------------------------------

NUMBERS = [str(i) for i in range(300)]


def filled(rows: int, cell: Callable[[int], object]) -> str:
    """A file of two columns, the second of which says what ``cell`` does."""
    return "a,b\n" + "".join(f"{i % 5},{cell(i)}\n" for i in range(rows))


WRONG = {
    "two headers": (
        "a,b\nkg,cm\n" + filled(90, lambda i: i % 7)[4:],
        "the row below the names holds 'kg' in the column 'a'",
    ),
    "few rows": (filled(40, lambda i: "x"), "32 rows to train on, at least 50 are needed"),
    "names twice": ("a,b,a\n1,2,3\n", "columns 1 and 3, two columns are called 'a'"),
    "ragged": ("a,b\n1,2\n1\n", "line 3: 1 cells where 2 columns"),
    "a key": (
        filled(3000, lambda i: f"w{i * 37 % 4001}z"),
        "another word in each of 3000 rows: it is a key or text; say --kind b:key",
    ),
    "a foreign key": (
        filled(3000, lambda i: f"w{i * 37 % 1000}z"),
        "it looks like text, or like the key of another table",
    ),
    "mixed": (filled(3000, lambda i: "oops" if i == 1234 else i * 2), "mixes numbers and words: row 1235 holds 'oops'"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_said_with_its_place(tmp_path: Path, what: str, capsys: pytest.CaptureFixture[str]) -> None:
    text, wanted = WRONG[what]
    (tmp_path / "a.csv").write_text(text)
    assert main(["inspect", "tables", str(tmp_path / "a.csv"), "--threads=1"]) == 1
    said = capsys.readouterr().err
    assert wanted in said
    assert said.count("\n") == 1


def test_a_few_words_among_numbers_are_said() -> None:
    told: list[str] = []
    made = table(a=[*NUMBERS[:60], "oops", *NUMBERS[:60]], b=["x", "y", "1"] * 40 + ["x"])
    Facts.of(made, np.arange(100), tell=told.append)
    assert told == ["column 'a' mixes numbers and words (row 61 holds 'oops'); all are read as words"]


def test_columns_of_one_word_and_of_none_are_kept(tmp_path: Path) -> None:
    made = table(a=["x"] * 80, b=[""] * 80, c=[str(i % 7) for i in range(80)])
    facts = Facts.of(made, np.arange(80))
    assert [kind.kind for kind in facts.kinds] == ["constant", "constant", "number"]
    with pytest.raises(DataError, match="cannot be of kind 'kee'"):
        Facts.of(made, np.arange(80), {"c": "kee"})
    with pytest.raises(DataError, match="is no key: its cells must all differ"):
        Facts.of(made, np.arange(80), {"c": "key"})
