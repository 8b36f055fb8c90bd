"""Captions from every kind of place, clean or broken: what is there is found, and what is not is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from sfumato.data.wording import LONGEST, Heard, cleaned, decoded, of_file, of_name
from sfumato.errors import DataError
from sfumato.fields.captions.reading import Asked, Listing, listed
from tests.fields.captions.squares import folder, square


def pictures(path: Path, *names: str) -> Path:
    """Pictures of these names in a folder."""
    for number, name in enumerate(names):
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(square(number)[0]).save(file)
    return path


def by_name(listing: Listing) -> dict[str, tuple[str, ...]]:
    return {path.name: texts for path, texts in zip(listing.files, listing.captions)}


def read(data: Path, room: Path, **asked: object) -> Listing:
    return listed(data, Asked(**asked), room)  # type: ignore[arg-type]


# ---- words -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "text", "said"),
    [
        (b"a red hat", "a red hat", ""),
        ("ein hübscher Hut".encode(), "ein hübscher Hut", ""),
        (b"\xef\xbb\xbf" + "Füße".encode(), "Füße", ""),
        ("Füße".encode("latin-1"), "Füße", "Windows-1252"),
        ("Füße".encode("utf-16"), "Füße", "UTF-16"),
        ("帽子".encode(), "帽子", ""),
    ],
)
def test_every_encoding_is_read_and_the_odd_ones_are_said(raw: bytes, text: str, said: str) -> None:
    heard = Heard()
    assert decoded(raw, "a.txt", heard) == text
    assert said in " ".join(heard.lines())
    assert bool(heard.lines()) == bool(said)


def test_bytes_that_are_no_text_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"x\.txt: neither UTF-8 nor Windows-1252 text \(byte 0x81 at 2\)"):
        decoded(b"ab\x81", "x.txt", Heard())
    file = tmp_path / "zero.txt"
    file.write_bytes(b"a\0b")
    with pytest.raises(DataError, match=r"zero\.txt: holds a zero byte at 1"):
        of_file(file, Heard())
    file.write_bytes(b"a " * (1 << 20))
    with pytest.raises(DataError, match="has more than 1 MB; a caption is a text file"):
        of_file(file, Heard())


def test_a_caption_is_one_clean_line() -> None:
    heard = Heard()
    assert cleaned("\ufeff  two\twords\r\n and\x00more ", "x", heard) == "two words and more"
    assert cleaned("e\u0301", "x", heard) == "\u00e9"
    assert heard.lines() == []
    long = "word " * 4000  # 20 kB
    cut = cleaned(long, "long.txt", heard)
    assert len(cut) <= LONGEST
    assert cut.endswith("word")
    assert heard.lines() == ["1 captions longer than 4,000 characters, cut at a word (the first: long.txt)"]


@pytest.mark.parametrize(
    ("name", "words"),
    [("red_shoe_03", "red shoe"), ("IMG_0012", "IMG"), ("0012", ""), ("blackCat-2", "black Cat"), ("a 3 b", "a 3 b")],
)
def test_what_a_name_says(name: str, words: str) -> None:
    assert of_name(name) == words


# ---- beside the pictures -------------------------------------------------------------------------------------------------


def test_captions_beside_pictures_and_orphans_of_either_kind(tmp_path: Path) -> None:
    data = pictures(tmp_path / "data", "a.png", "b.png", "deep/c.jpg", "bare.png", "empty.png")
    (data / "a.txt").write_bytes(b"\xef\xbb\xbfone\n\ntwo\none\n")
    (data / "b.caption").write_text("three")
    (data / "deep" / "c.txt").write_bytes("fünf".encode("latin-1"))
    (data / "empty.txt").write_text(" \n")
    (data / "lonely.txt").write_text("nobody")
    found = read(data, tmp_path)
    assert by_name(found) == {"a.png": ("one", "two"), "b.png": ("three",), "c.jpg": ("fünf",), "empty.png": ("",)}
    said = "\n".join(found.said)
    assert "1 pictures without a caption file, left out: bare.png" in said
    assert "1 caption files without a picture, left out: lonely.txt" in said
    assert "1 captions that are empty" in said
    assert "Windows-1252" in said


def test_a_folder_without_captions_says_where_they_could_stand(tmp_path: Path) -> None:
    data = pictures(tmp_path / "data", "red_hat_1.png", "blue_hat_2.png")
    with pytest.raises(DataError, match=r"2 pictures and no captions; expected NAME\.txt .*--captions names"):
        read(data, tmp_path)
    assert by_name(read(data, tmp_path, kind="names")) == {
        "red_hat_1.png": ("red hat",),
        "blue_hat_2.png": ("blue hat",),
    }
    shelves = pictures(tmp_path / "shelves", "green_hats/1.png", "tall boots/2.png")
    assert by_name(read(shelves, tmp_path, kind="folders")) == {"1.png": ("green hats",), "2.png": ("tall boots",)}
    with pytest.raises(DataError, match="no such folder or table"):
        read(tmp_path / "nowhere", tmp_path)


# ---- tables --------------------------------------------------------------------------------------------------------------

ROWS = [("a.png", "one, with a comma"), ("b.png", "zwei 'ö'"), ("a.png", "one again"), ("gone.png", "x"), ("c.png", "")]
WANTED = {"a.png": ("one, with a comma", "one again"), "b.png": ("zwei 'ö'",), "c.png": ("",)}


def write(path: Path, encoding: str = "utf-8") -> Path:
    """The rows as a table of the kind of its suffix."""
    if path.suffix == ".parquet":
        names, texts = zip(*ROWS)
        table = pytest.importorskip("pyarrow").table({"file_name": names, "n": range(5), "text": texts})
        pytest.importorskip("pyarrow.parquet").write_table(table, path)
    elif path.suffix == ".jsonl":
        lines = [json.dumps({"file_name": name, "n": 1, "text": text}, ensure_ascii=False) for name, text in ROWS]
        path.write_bytes("\n".join([*lines, ""]).encode(encoding))
    else:
        sign = "\t" if path.suffix == ".tsv" else ","
        lines = [f'{name}{sign}7{sign}"{text}"' for name, text in ROWS]
        path.write_bytes("\r\n".join([sign.join(("file_name", "n", "text")), *lines, ""]).encode(encoding))
    return path


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("alone", [True, False], ids=["the table", "its folder"])
def test_tables_of_every_kind_say_the_same(suffix: str, alone: bool, tmp_path: Path) -> None:
    data = pictures(tmp_path / "data", "a.png", "b.png", "c.png", "other.png")
    table = write(data / f"metadata{suffix}")
    found = read(table if alone else data, tmp_path)
    assert by_name(found) == WANTED
    said = "\n".join(found.said)
    assert f"1 pictures that {table.name} names are not there, left out: gone.png" in said
    assert "1 rows name a picture again; its captions are alternatives" in said
    assert "1 rows whose caption is empty" in said
    assert ("other.png" in said) == (not alone)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "latin-1", "utf-16"])
@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_tables_in_other_encodings(suffix: str, encoding: str, tmp_path: Path) -> None:
    data = pictures(tmp_path / "data", "a.png", "b.png", "c.png")
    assert by_name(read(write(data / f"x{suffix}", encoding), tmp_path)) == WANTED


def test_pictures_inside_a_table(tmp_path: Path) -> None:
    data, room = pictures(tmp_path / "data", "a.png", "b.png"), tmp_path / "room"
    room.mkdir()
    packed = [{"bytes": (data / name).read_bytes(), "path": name} for name in ("a.png", "b.png")]
    table = pytest.importorskip("pyarrow").table({"image": packed, "prompt": ["one", "two"]})
    pytest.importorskip("pyarrow.parquet").write_table(table, tmp_path / "x.parquet")
    found = read(tmp_path / "x.parquet", room)
    assert found.captions == (("one",), ("two",))
    assert [path.read_bytes() for path in found.files] == [one["bytes"] for one in packed]


def test_columns_are_chosen_and_misspelt_ones_listed(tmp_path: Path) -> None:
    data = pictures(tmp_path / "data", "a.png")
    table = data / "x.csv"
    table.write_text("what,short,long\na.png,a hat,a hat that is red\n")
    with pytest.raises(
        DataError, match=r"has no column 'file_name' \(it has what, short, long\); choose with --picture-column"
    ):
        read(table, tmp_path)
    with pytest.raises(DataError, match=r"no column 'lang' .*did you mean 'long'\?"):
        read(table, tmp_path, picture="what", caption=("lang",))
    with pytest.raises(DataError, match=r"no column 'text'.*--caption-column"):
        read(table, tmp_path, picture="what")
    found = read(table, tmp_path, picture="what", caption=("short", "long"))
    assert found.captions == (("a hat", "a hat that is red"),)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("x.csv", "file_name,text\na.png,one,two\n", "line 2: 3 cells where 2 columns are named"),
        ("x.csv", "just words\n", "its first line must name two columns or more"),
        ("x.csv", 'file_name,text\na.png,"one\n', "line 2: unexpected end of data"),
        ("x.csv", "file_name,text\n", "none of its 0 rows names a picture"),
        ("x.jsonl", '{"file_name": "a.png", "text": 3}\n', "'text' holds int, expected text"),
        ("x.jsonl", '{"file_name": "a.png"\n', "line 1: is no JSON"),
        ("x.jsonl", "[1]\n", "line 1: must be names and values"),
        ("x.jsonl", '{"file_name": 7, "text": "a"}\n', "names no picture"),
        ("x.jsonl", "", "is empty"),
        ("x.parquet", "no parquet", "cannot be read (Parquet magic bytes not found"),
    ],
)
def test_a_broken_table_is_one_line(name: str, text: str, said: str, tmp_path: Path) -> None:
    data = pictures(tmp_path / "data", "a.png")
    (data / name).write_text(text)
    if name.endswith(".parquet"):
        pytest.importorskip("pyarrow")
    with pytest.raises(DataError, match=r"x\.") as error:
        read(data / name, tmp_path)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_plain_folder_of_squares(tmp_path: Path) -> None:
    found = read(folder(tmp_path / "data", 9), tmp_path)
    assert [texts[0] for texts in found.captions] == [square(i)[1] for i in range(9)]
    assert found.said == ()
