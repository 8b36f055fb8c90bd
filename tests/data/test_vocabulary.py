"""Bytes to tokens and back: nothing is lost, nothing is unknown, no text can speak of ends and masks."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("tokenizers", reason="needs the extra sfumato[text]")

from sfumato.data.errors import DataError
from sfumato.data.vocabulary import Vocabulary

TEXTS = [Path(__file__).read_bytes(), "Übergrößen, naïve façade — 日本語 😀\r\n\tx\n".encode() * 5]
AWKWARD = st.sampled_from(
    [b"\r\n", b"\t", b"\xef\xbb\xbf", "😀".encode(), b"\0", b"[end]", b"<|endoftext|>", b"  ", b"\xff"]
)


@cache
def fitted(size: int = 400) -> Vocabulary:
    return Vocabulary.fit(TEXTS, size)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.one_of(st.binary(max_size=12), st.text(max_size=12).map(str.encode), AWKWARD), max_size=8))
def test_any_bytes_come_back(parts: list[bytes]) -> None:
    vocabulary, text = fitted(), b"".join(parts)
    ids = vocabulary.encode(text)
    assert vocabulary.decode(ids) == text
    assert not len(ids) or 0 <= ids.min() <= ids.max() < len(vocabulary)  # never an end, never a mask
    assert int(vocabulary.lengths()[ids].sum()) == len(text)


def test_many_texts_are_encoded_as_one_by_one() -> None:
    texts = [b"", b"\xff", b"def f(x):\n    return x\n", "日本".encode()[1:], b"a" * 1000]
    for together, text in zip(fitted().encode_all(texts), texts, strict=True):
        np.testing.assert_array_equal(together, fitted().encode(text))


def test_pieces_that_occur_become_tokens() -> None:
    vocabulary = Vocabulary.fit([b"wonderland " * 50], 280)
    assert b"wonderland" in b"".join(vocabulary.pieces[256:])
    assert len(vocabulary.encode(b"wonderland wonderland")) < 8


def test_fitting_depends_on_the_texts_alone() -> None:
    assert fitted().tokenizer.to_str() == Vocabulary.fit(iter(TEXTS), 400).tokenizer.to_str()


def test_a_saved_vocabulary_is_the_same(tmp_path: Path) -> None:
    fitted().save(tmp_path / "tokenizer.json")
    again = Vocabulary.load(tmp_path / "tokenizer.json")
    assert again.pieces == fitted().pieces
    np.testing.assert_array_equal(again.encode(TEXTS[1]), fitted().encode(TEXTS[1]))


def test_end_and_mask_stand_for_no_bytes() -> None:
    vocabulary = fitted()
    assert vocabulary.decode([vocabulary.end, *vocabulary.encode(b"x"), vocabulary.mask]) == b"x"
    with pytest.raises(ValueError, match="ids go from"):
        vocabulary.decode([vocabulary.mask + 1])


@pytest.mark.parametrize("size", [255, 10**6])
def test_a_size_out_of_range(size: int) -> None:
    with pytest.raises(DataError, match=f"vocab = {size}: must be from 256"):
        Vocabulary.fit(TEXTS, size)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{}", "no vocabulary that can be read"),
        (b"\xff\xfe", "no vocabulary that can be read"),
        (b'{"version":"1.0","model":{"type":"BPE","vocab":{"a":0,"b":1},"merges":[]}}', "lacks 254 of the 256"),
        (
            b'{"version":"1.0","model":{"type":"BPE","vocab":{"\\u4e00":0},"merges":[]}}',
            "characters that stand for bytes",
        ),
    ],
)
def test_a_file_that_is_no_vocabulary(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=said):
        Vocabulary.load(path)


def test_a_vocabulary_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="file not found"):
        Vocabulary.load(tmp_path / "tokenizer.json")
