"""Files become columns of words whatever their spelling, and what is no table is refused in one line."""

import json
from pathlib import Path

import pytest

from sfumato.errors import DataError
from sfumato.fields.tables.reading import read_table
from sfumato.fields.tables.spelling import Numbers

pa = pytest.importorskip("pyarrow")
import pyarrow.parquet as pq  # noqa: E402


def written(folder: Path, text: str | bytes, name: str = "a.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    ("text", "separator", "rows"),
    [
        ("a,b\n1,x\n2,y\n", ",", [("1", "x"), ("2", "y")]),
        ("a;b\r\n1,5;x\r\n2,5;y\r\n", ";", [("1,5", "x"), ("2,5", "y")]),
        ('a\tb\n1\t"x\ty"\n', "\t", [("1", "x\ty")]),
        ('a,b\n1,"x, ""y"""\n2,"two\nlines"\n', ",", [("1", 'x, "y"'), ("2", "two\nlines")]),
        ("a|b\n1|\n|y\n", "|", [("1", ""), ("", "y")]),
        ("a, b\n1, x\n2, y\n", ",", [("1", "x"), ("2", "y")]),
        ("a;b\n1;'x;y'\n2;'z'\n", ";", [("1", "x;y"), ("2", "z")]),
    ],
)
def test_separators_and_quotes_are_found(
    tmp_path: Path, text: str, separator: str, rows: list[tuple[str, str]]
) -> None:
    found = read_table(written(tmp_path, text))
    assert (found.format.separator, found.names, found.rows()) == (separator, ["a", "b"], rows)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_encodings_are_found(tmp_path: Path, encoding: str) -> None:
    told: list[str] = []
    path = written(tmp_path, "name,n\nZoë,1\nÅsa,2\n".encode(encoding))
    found = read_table(path, told.append)
    assert found["name"].cells() == ["Zoë", "Åsa"]
    assert found.format.encoding == encoding
    assert bool(told) == (encoding == "cp1252")  # a guess is said


def test_a_file_without_names_gets_some_and_says_so(tmp_path: Path) -> None:
    told: list[str] = []
    found = read_table(written(tmp_path, "39, State-gov\n50, Private\n"), told.append)
    assert found.names == ["column_1", "column_2"]
    assert found.rows() == [("39", "State-gov"), ("50", "Private")]
    assert not found.format.header
    assert "first row" in told[0]


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        ("a.csv", "a,b\n1,2\n1,2,3\n", "line 3: 3 cells where 2 columns"),
        ("a.csv", "a,a\n1,2\n", "two columns are called 'a'"),
        ("a.jsonl", b'{"a": 1, "b\xed\xa0\x80": 2}\n', "line 1: is no text"),
        ("a.csv", "a,b\n", "has no rows"),
        ("a.csv", "", "is empty"),
        ("a.csv", 'a,b\n1,"x\n', "line 2"),
        ("a.csv", b"a,b\n1,\x81\n", "line 2: neither UTF-8 nor"),
        ("a.xlsx", "a", "a table is a file that ends in"),
        ("a.jsonl", '{"a": [1]}\n', "line 1: 'a' is nested"),
        ("a.jsonl", '{"a": 1}\n{"a": "x"}\n', "line 2: 'a' is a string here and a number above"),
        ("a.jsonl", '{"a": 1}\n[\n', "line 2: not JSON"),
        ("a.jsonl", "3\n", "line 1: must be an object"),
        ("a.parquet", "not parquet", "cannot be read"),
    ],
)
def test_what_is_no_table_is_refused_by_place(tmp_path: Path, name: str, text: str | bytes, wanted: str) -> None:
    with pytest.raises(DataError, match=wanted) as error:
        read_table(written(tmp_path, text, name))
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_table(tmp_path / "none.csv")


def test_parquet_keeps_types_and_nulls(tmp_path: Path) -> None:
    import datetime

    made = pa.table(
        {
            "n": pa.array([1, None, 3], pa.int32()),
            "x": pa.array([0.5, float("nan"), None], pa.float32()),
            "w": pa.array(["a", "b", "a"]).dictionary_encode(),
            "yes": pa.array([True, False, None]),
            "when": pa.array([datetime.datetime(2020, 1, 2, 3)] * 3, pa.timestamp("ns", tz="Europe/Berlin")),
        }
    )
    pq.write_table(made, tmp_path / "a.parquet")
    found = read_table(tmp_path / "a.parquet")
    assert found["n"].cells() == ["1", None, "3"]
    assert found["x"].cells() == ["0.5", "nan", None]
    assert found["w"].cells() == ["a", "b", "a"]
    assert found["yes"].cells() == ["true", "false", None]
    assert found["n"].type == "int32"
    assert found["when"].words == ("2020-01-02 03:00:00.000000",)
    pq.write_table(pa.table({"l": [[1], [2]]}), tmp_path / "b.parquet")
    with pytest.raises(DataError, match="column 'l' holds list"):
        read_table(tmp_path / "b.parquet")


def test_json_lines_keep_numbers_as_they_are_spelt(tmp_path: Path) -> None:
    lines = [{"a": 1, "b": "x"}, {"a": 2.50, "b": None}, {"b": "y", "c": True}]
    text = "\n".join(map(json.dumps, lines)).replace("2.5", "2.50") + "\n\n"
    found = read_table(written(tmp_path, text, "a.jsonl"))
    assert found.rows() == [("1", "x", None), ("2.50", None, None), (None, "y", "true")]
    assert [column.type for column in found.columns] == ["number", "string", "boolean"]


def test_equal_rows_have_equal_keys_in_any_order_of_columns(tmp_path: Path) -> None:
    a = read_table(written(tmp_path, "a,b\n1,x\n2,x\n1,x\n1,\n"))
    b = read_table(written(tmp_path, "b,a\nx,1\nx,2\nx,1\n,1\n"))
    keys = a.keys()
    assert keys == b.keys()
    assert keys[0] == keys[2]
    assert len(set(keys)) == 3


def test_half_a_character_and_odd_blanks(tmp_path: Path) -> None:
    """JSON can spell what is no text; a number may stand among blanks that are none to a number's reader."""
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": "x"}\n{"a": "\\ud800"}\n')
    with pytest.raises(DataError, match=r"a\.jsonl, line 2: is no text"):
        read_table(path)
    assert Numbers().value("62\x1c") == 62.0
    assert Numbers(comma=True).value("6,2\x1c") == 6.2
