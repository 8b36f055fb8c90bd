"""What is written reads back as the same table, spelt alike."""

import datetime
from decimal import Decimal
from pathlib import Path

import pytest

from sfumato.errors import DataError
from sfumato.fields.tables.reading import read_table
from sfumato.fields.tables.writing import write_table
from tests.fields.tables.tables import table

pa = pytest.importorskip("pyarrow")
import pyarrow.parquet as pq  # noqa: E402


@pytest.mark.parametrize(
    "text",
    [
        'a,b\n1,"x, ""y"""\n,"two\nlines"\n',
        "a;b\r\n1,5;x\r\n2,5;y\r\n",
        '"a","b"\n"1","x"\n"2","y"\n',
        '"a","b"\n1,"x"\n2.50,"y"\n',
        "39, State-gov, x\n50, Private, y\n",
        "\N{ZERO WIDTH NO-BREAK SPACE}a\tb\n1\tZoë\n",
        "a|b\n1|\n|y\n",
    ],
)
def test_a_csv_comes_back_to_the_byte(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.csv").write_bytes(text.encode())
    write_table(read_table(tmp_path / "a.csv"), tmp_path / "b.csv")
    assert (tmp_path / "b.csv").read_bytes() == (tmp_path / "a.csv").read_bytes()


def test_json_lines_come_back(tmp_path: Path) -> None:
    text = '{"a": 1.50, "b": "1.50", "c": true}\n{"a": null, "b": "é\\n", "c": null}\n'
    (tmp_path / "a.jsonl").write_text(text, encoding="utf-8")
    write_table(read_table(tmp_path / "a.jsonl"), tmp_path / "b.jsonl")
    assert (tmp_path / "b.jsonl").read_text(encoding="utf-8") == text


def test_a_parquet_file_comes_back_with_its_types(tmp_path: Path) -> None:
    moment = datetime.datetime(2020, 1, 2, 3, 4, 5)
    made = pa.table(
        {
            "n": pa.array([1, None, 3], pa.int16()),
            "x": pa.array([0.1, 1e300, None]),
            "f": pa.array([0.1, 2.5, None], pa.float32()),
            "w": pa.array(["a", None, "a"]).dictionary_encode(),
            "t": pa.array(["a", "", None]),
            "yes": pa.array([True, False, None]),
            "zoned": pa.array([moment, moment, None], pa.timestamp("ns", tz="Europe/Berlin")),
            "naive": pa.array([moment, moment, None], pa.timestamp("ms")),
            "day": pa.array([moment.date()] * 3),
            "money": pa.array([Decimal("1.50"), Decimal("-2.25"), None], pa.decimal128(10, 2)),
        }
    )
    pq.write_table(made, tmp_path / "a.parquet")
    write_table(read_table(tmp_path / "a.parquet"), tmp_path / "b.parquet")
    back = pq.read_table(tmp_path / "b.parquet")
    assert back.schema.equals(made.schema)
    assert back.to_pylist() == made.to_pylist()


def test_a_csv_can_be_written_as_another_kind(tmp_path: Path) -> None:
    made = table(a=["1", "2"], b=["x", ""])
    write_table(made, tmp_path / "a.jsonl")
    assert (tmp_path / "a.jsonl").read_text() == '{"a": 1, "b": "x"}\n{"a": 2, "b": null}\n'
    write_table(made, tmp_path / "a.parquet")
    assert pq.read_table(tmp_path / "a.parquet").to_pylist() == [{"a": "1", "b": "x"}, {"a": "2", "b": ""}]
    with pytest.raises(DataError, match="rows are written to files that end in"):
        write_table(made, tmp_path / "a.xlsx")
