"""Shards: .tar files with pictures and captions of one key side by side, whole, odd, hostile or damaged."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from sfumato.errors import DataError
from sfumato.fields.captions import shards
from sfumato.fields.captions.reading import Asked, Listing, listed
from tests.fields.captions.squares import square


def png(number: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(square(number)[0]).save(stream, "PNG")
    return stream.getvalue()


def shard(path: Path, members: dict[str, bytes], kind: bytes = tarfile.REGTYPE) -> Path:
    """A .tar file of these members."""
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            about = tarfile.TarInfo(name)
            about.size, about.type = len(content), kind
            tar.addfile(about, io.BytesIO(content))
    return path


def read(data: Path, tmp_path: Path, *captions: str) -> Listing:
    room = tmp_path / "room"
    room.mkdir(exist_ok=True)
    return listed(data, Asked(caption=captions), room)


def test_pictures_and_words_of_one_key_belong_together_wherever_they_stand(tmp_path: Path) -> None:
    path = shard(tmp_path / "0.tar", {
        "a.png": png(0), "b.txt": b"two\nzwei\n", "a.txt": "f\u00fcnf".encode("latin-1"), "b.PNG": png(1), "deep/a.png": png(2),
        "deep/a.json": json.dumps({"caption": "three", "n": 7}).encode(), "c.x.png": png(3), "c.txt": b"no", "a.cls": b"1",
    })  # fmt: skip
    found = read(path, tmp_path)
    shown = {text: file.read_bytes() for file, text in zip(found.files, found.captions)}
    assert shown == {("f\u00fcnf",): png(0), ("two", "zwei"): png(1), ("three",): png(2)}
    said = "\n".join(found.said)
    assert "1 captions without a picture, left out: c" in said
    assert (
        "2 members of .tar files that are neither pictures nor captions, left out (the first: 0.tar: c.x.png)" in said
    )
    assert "Windows-1252" in said


def test_a_folder_of_shards_is_read_in_order_and_its_columns_have_weights(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for number in (1, 0):
        shard(data / f"{number}.tar", {
            "a.jpg": png(number), "a.json": json.dumps({"long": f"long {number}", "tags": ["x", "y"]}).encode(),
            "a.txt": f"short {number}".encode(),
        })  # fmt: skip
    found = read(data, tmp_path)
    assert found.captions == (("short 0",), ("short 1",))
    found = listed(data, Asked(caption=("txt=1", "long=3")), fresh(tmp_path))
    assert sorted(found.captions[0]) == ["long 0", "long 0", "long 0", "short 0"]
    found = listed(data, Asked(caption=("tags=.5", "long=.5")), fresh(tmp_path))
    assert sorted(found.captions[1]) == ["long 1", "long 1", "x", "y"]
    with pytest.raises(DataError, match=r"has no column 'lang' \(it has long, tags, txt\).*did you mean 'long'"):
        listed(data, Asked(caption=("lang",)), fresh(tmp_path))


def fresh(tmp_path: Path) -> Path:
    """Another room."""
    room = tmp_path / f"room{len(list(tmp_path.iterdir()))}"
    room.mkdir()
    return room


@pytest.mark.parametrize("name", ["../../out.png", "/etc/out.png", "a/../../../out.png"])
def test_no_member_is_unpacked_under_its_own_name(name: str, tmp_path: Path) -> None:
    path = shard(tmp_path / "x.tar", {name: png(0), name.replace(".png", ".txt"): b"one"})
    before = set(tmp_path.parent.rglob("*"))
    found = read(path, tmp_path)
    new = set(tmp_path.parent.rglob("*")) - before
    assert found.captions == (("one",),)
    assert all((tmp_path / "room") in (file, *file.parents) for file in new)
    assert not Path("/etc/out.png").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_are_left_out(kind: bytes, tmp_path: Path) -> None:
    path = shard(tmp_path / "x.tar", {"a.png": b""}, kind)
    with pytest.raises(
        DataError, match=r"0 pictures and 0 captions, and none of them together; expected KEY\.jpg with KEY\.txt"
    ):
        read(path, tmp_path)


def test_what_is_no_plain_tar_file_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = shard(
        tmp_path / "good.tar", {"a.png": png(0), "a.txt": b"one", "b.png": png(1), "b.txt": b"two"}
    ).read_bytes()
    for content, said in (
        (b"no tar at all" * 99, "cannot be read as a plain .tar file, behind 0 keys"), (good[:700], "cannot be read as a plain"),
        (good[:2300], "behind 1 keys (a damaged header)"), (b"", "cannot be read as a plain .tar file"),
        (b"\x1f\x8b" + good, "unpack it, or write it anew, not compressed"),
    ):  # fmt: skip
        (tmp_path / "bad.tar").write_bytes(content)
        with pytest.raises(DataError, match=r"bad\.tar: ") as error:
            listed(tmp_path / "bad.tar", Asked(), fresh(tmp_path))
        assert said in str(error.value)
        assert "\n" not in str(error.value)
    (tmp_path / "cut.tar").write_bytes(good[:2048])
    found = listed(tmp_path / "cut.tar", Asked(), fresh(tmp_path))
    assert found.captions == (("one",),)
    assert "1 .tar files without an end, which may be cut off (the first: cut.tar)" in found.said
    monkeypatch.setattr(shards, "PACKED", 50)
    with pytest.raises(DataError, match=r"good\.tar: a\.png: \d+ bytes, at most 50 are read"):
        listed(tmp_path / "good.tar", Asked(), fresh(tmp_path))


def test_headers_that_lie_about_sizes_are_refused_at_once(tmp_path: Path) -> None:
    long = tarfile.TarInfo("x")
    long.type, long.size = tarfile.XHDTYPE, 8 << 30
    back = tarfile.TarInfo("a.png")
    back.size = -1024
    for about, said in ((long, "a header of 8,589,934,592 bytes"), (back, "a member of negative size")):
        (tmp_path / "bad.tar").write_bytes(about.tobuf(tarfile.GNU_FORMAT) + bytes(10240))
        with pytest.raises(DataError, match=said):
            listed(tmp_path / "bad.tar", Asked(), fresh(tmp_path))


@pytest.mark.parametrize(("content", "said"), [
    (b"[1]", "must be names and values"), (b"{", "is no JSON"), (b'{"text": 3}', "'text' holds int, expected text"),
    (b'{"what": "a hat"}', r"has no column 'text' \(it has what\); choose with --caption-column"),
    (b"\x81" * 9, "neither UTF-8 nor Windows-1252 text"),
])  # fmt: skip
def test_json_that_says_nothing_is_one_line(content: bytes, said: str, tmp_path: Path) -> None:
    path = shard(tmp_path / "x.tar", {"a.png": png(0), "a.json": content})
    with pytest.raises(DataError, match=said):
        read(path, tmp_path)


def test_options_of_other_places_are_refused(tmp_path: Path) -> None:
    path = shard(tmp_path / "x.tar", {"a.png": png(0), "a.txt": b"one"})
    for asked in (Asked("names"), Asked(picture="image")):
        with pytest.raises(DataError, match=r"in \.tar files captions stand beside the pictures"):
            listed(path, asked, fresh(tmp_path))
