"""Reading texts from disk: what is taken, what is left out, and the one line said about it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from sfumato.data.errors import DataError
from sfumato.fields.text.files import Limits, Wanted, pieces, read


def lay(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def names(folder: Path, said: list[str], **options: object) -> list[str]:
    return [document.name for document in read(folder, said.append, Wanted(**options))]  # type: ignore[arg-type]


def test_a_folder_is_read_in_order_without_what_is_not_its_own(tmp_path: Path) -> None:
    lay(
        tmp_path,
        {
            "b.py": b"b = 1\n",
            "a/z.py": b"z = 1\n",
            "a/y.txt": b"why\n",
            "photo.png": b"\x89PNG",
            ".git/config.py": b"hidden\n",
            "node_modules/m.js": b"vendored\n",
            "old/o.py": b"o = 1\n",
        },
    )
    said: list[str] = []
    assert names(tmp_path, said, skip=["old"]) == ["b.py", "a/y.txt", "a/z.py"]
    assert names(tmp_path, said, suffixes=["py"]) == ["b.py", "a/z.py", "old/o.py"]
    assert said == []


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"", "bad.py: empty; left out"),
        (b"MZ\0\1" * 9, "bad.py: binary (a zero byte at 2); left out"),
        (b"caf\xe9 au lait", "bad.py: not UTF-8 (byte 0xe9 at 3); left out, save it as UTF-8"),
        (b"x" * 101, "bad.py: more than 0.0 MB; left out (--document-mb allows more)"),
        (b"good = 1\n", "good.py: the same as bad.py; left out"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_line(tmp_path: Path, content: bytes, line: str) -> None:
    said: list[str] = []
    lay(tmp_path, {"good.py": b"good = 1\n", "other.py": b"other = 2\n", "bad.py": content})
    kept = names(tmp_path, said, limits=Limits(document=100))
    assert said == [line]
    assert len(kept) == 2


def test_many_bad_files_are_counted(tmp_path: Path) -> None:
    said: list[str] = []
    lay(tmp_path, {f"{i:02}.py": b"\0" for i in range(20)} | {"good.py": b"x\n", "more.py": b"y\n"})
    names(tmp_path, said)
    assert len(said) == 6
    assert said[-1] == "and 15 more were binary"


def test_no_file_is_read_beyond_its_limit(tmp_path: Path) -> None:
    """A sparse file of a terabyte takes no time and no memory."""
    with (tmp_path / "huge.txt").open("wb") as file:
        file.truncate(1 << 40)
    lay(tmp_path, {"a.txt": b"a\n", "b.txt": b"b\n"})
    said: list[str] = []
    assert names(tmp_path, said) == ["a.txt", "b.txt"]
    assert "huge.txt: more than 4.2 MB" in said[0]


def test_more_text_than_the_limit_is_refused(tmp_path: Path) -> None:
    lay(tmp_path, {f"{i}.txt": str(i).encode() * 60 for i in range(9)})
    with pytest.raises(DataError, match="more than 0 MB of text; choose a part"):
        read(tmp_path, lambda _: None, Wanted(limits=Limits(document=100, total=300)))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_a_pipe_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    lay(tmp_path, {"a.txt": b"a\n", "b.txt": b"b\n"})
    said: list[str] = []
    assert names(tmp_path, said) == ["a.txt", "b.txt"]
    assert said == ["pipe.txt: cannot be read (not a regular file); left out"]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "found no files. Choose with --suffixes"),
        ({"a.exe": b"x", "b.exe": b"x"}, r"found .exe \(2\). Choose"),
        ({"a.py": b"\n \n"}, "no text is left"),
    ],
)
def test_nothing_to_learn_from(tmp_path: Path, files: dict[str, bytes], said: str) -> None:
    with pytest.raises(DataError, match=said):
        read(lay(tmp_path, files), lambda _: None)


def test_a_path_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        read(tmp_path / "nowhere", lambda _: None)


def test_one_file_is_cut_at_ends_of_lines(tmp_path: Path) -> None:
    text = b"".join(b"line %d\n" % i for i in range(1000))
    said: list[str] = []
    found = read(lay(tmp_path, {"one.txt": text}) / "one.txt", said.append)
    assert b"".join(document.text for document in found) == text
    assert len(found) == 40
    assert all(document.text.endswith(b"\n") for document in found)
    assert said == ["one document: cut into 40 pieces at ends of lines, so that some can be held out"]
    assert len(pieces(found[0]._replace(text=b"no end of line"))) == 1


def test_rows_of_json_lines(tmp_path: Path) -> None:
    rows = [{"text": "first\0line", "n": 1}, {"text": "second"}, {"text": "third\ud800"}, {"text": "second"}]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n\n".join(map(json.dumps, rows)))
    said: list[str] = []
    assert [d.text for d in read(path, said.append)][-1].startswith(b"second")
    assert [line.split(":")[1] for line in said[:3]] == ["1", "5", "7"]  # binary, no UTF-8, a copy


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("{", r"rows.jsonl:2: is no line of JSON"),
        ('{"body": "x"}', r"rows.jsonl:2: has no text in 'text' \(it holds body\); choose with --column"),
        ("[1]", r"rows.jsonl:2: has no text in 'text' \(it holds list\)"),
        ("[" * 100_000, r"rows.jsonl:2: is no line of JSON"),
    ],
)
def test_a_row_that_is_none(tmp_path: Path, row: str, said: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "good"}\n' + row + "\n")
    with pytest.raises(DataError, match=said):
        read(path, lambda _: None)


def test_rows_of_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "rows.parquet"
    parquet.write_table(pyarrow.table({"text": ["one", "two", None], "n": [1, 2, 3]}), path)
    said: list[str] = []
    assert [d.text for d in read(path, said.append)] == [b"one", b"two"]
    assert said == ["rows.parquet[2]: empty; left out"]
    with pytest.raises(DataError, match=r"no column of text named 'n' \(it holds text \(string\), n \(int64\)\)"):
        read(path, said.append, Wanted(column="n"))
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(DataError, match="no parquet file that can be read"):
        read(path, said.append)


def test_rows_of_parquet_that_unpack_to_more_than_memory_are_refused(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "rows.parquet"
    parquet.write_table(pyarrow.table({"text": ["x" * 10_000_000]}), path, compression="zstd", use_dictionary=False)
    assert path.stat().st_size < 100_000
    with pytest.raises(
        DataError, match=r"rows.parquet: a group of its rows unpacks to 10 MB, more than 8 times --limit-mb 1;"
    ):
        read(path, lambda _: None, Wanted(limits=Limits(document=1 << 20, total=1_000_000)))
