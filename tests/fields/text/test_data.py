"""From documents to windows: the split is by content, every token is of a document or its end, nothing is padding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("tokenizers", reason="needs the extra sfumato[text]")

from sfumato.data.errors import DataError
from sfumato.fields.text.data import Corpus, Windows, most_common_suffix
from sfumato.fields.text.files import Document

DOCUMENTS = [Document(f"{i}.py", b"value_%d = %d\n" % (i, i * i) * (1 + i % 5)) for i in range(60)]


def corpus(documents: list[Document] = DOCUMENTS, **options: object) -> Corpus:
    usual = {"vocab": 300, "window": 16, "held_out": 0.2, "tell": lambda _: None}
    return Corpus.of(documents, **{**usual, **options})  # type: ignore[arg-type]


def test_documents_come_back_from_the_streams() -> None:
    of = corpus()
    texts = {name: of.vocabulary.decode(ids) for part in ("train", "held_out") for name, ids in of.texts(part)}
    assert texts == {document.name: document.text for document in DOCUMENTS}
    assert of.facts.train.documents + of.facts.held_out.documents == 60
    assert of.facts.held_out.documents > 3
    for part, tokens in ((of.facts.train, of.train), (of.facts.held_out, of.held_out)):
        assert part.tokens == (tokens != of.facts.end).sum()
        assert part.documents + 1 == (tokens == of.facts.end).sum()


def test_adding_documents_moves_none_to_the_other_side() -> None:
    before, after = corpus(DOCUMENTS[:40]), corpus(DOCUMENTS)
    assert set(before.names["held_out"]) <= set(after.names["held_out"])
    assert set(before.names["train"]) <= set(after.names["train"])


def test_a_file_s_name_does_not_choose_its_side() -> None:
    """The split is by content, so a copied or renamed file cannot cross over."""
    renamed = corpus([document._replace(name=f"other/{document.name}") for document in DOCUMENTS])
    assert renamed.names["held_out"] == [f"other/{name}" for name in corpus().names["held_out"]]


def test_the_vocabulary_knows_nothing_of_what_is_held_out() -> None:
    """It is the same when those documents do not exist, and another when they are learned from."""
    of = corpus()
    kept = [document for document in DOCUMENTS if document.name in of.names["train"]]
    assert corpus(kept, held_out=0.0).vocabulary.pieces == of.vocabulary.pieces
    assert corpus(held_out=0.0).vocabulary.pieces != of.vocabulary.pieces


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    of = corpus()
    of.save(tmp_path / "cache", tmp_path)
    again = Corpus.load(of.facts, tmp_path / "cache", tmp_path)
    np.testing.assert_array_equal(again.train, of.train)
    np.testing.assert_array_equal(again.held_out, of.held_out)
    assert (again.names, again.vocabulary.pieces) == (of.names, of.vocabulary.pieces)
    corpus(vocab=280).vocabulary.save(tmp_path / "tokenizer.json")
    with pytest.raises(DataError, match=r"tokenizer.json: holds 280 pieces, data.json says 300"):
        Corpus.load(of.facts, tmp_path / "cache", tmp_path)
    of.vocabulary.save(tmp_path / "tokenizer.json")
    (tmp_path / "cache" / "train.npy").write_bytes(b"no array")
    with pytest.raises(DataError, match="prepare the data again"):
        Corpus.load(of.facts, tmp_path / "cache", tmp_path)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(count=st.integers(1, 200), window=st.integers(1, 50), stride=st.integers(1, 60))
def test_windows_cover_every_token_of_the_stream(count: int, window: int, stride: int) -> None:
    tokens = np.arange(count, dtype=np.uint16)
    items = Windows(tokens, window, stride=stride)
    x = items.batch(np.arange(len(items)))["x"]
    assert x.dtype == np.int64
    assert x.shape == (len(items), min(window, count))
    assert set(x.ravel().tolist()) == set(range(count))
    assert (np.diff(x, axis=1) == 1).all()
    steps = np.diff(x[:, 0])
    assert (steps[:-1] == min(stride, x.shape[1])).all()
    assert (steps[-1:] > 0).all()  # the last one ends with the stream, and is another than the one before
    assert (x[0, 0], x[-1, -1]) == (0, count - 1)
    with pytest.raises(IndexError):
        items.batch([len(items)])


def test_text_shorter_than_a_window_makes_the_window_shorter() -> None:
    said: list[str] = []
    of = corpus(DOCUMENTS[:3], window=4096, tell=said.append)
    assert of.facts.window == len(of.train)
    assert (
        said[-1] == f"the training text is {len(of.train)} tokens long: windows have {len(of.train)} tokens, not 4096"
    )


def test_a_small_window_is_refused() -> None:
    with pytest.raises(DataError, match="window = 4: must be at least 8 tokens"):
        corpus(window=4)


def test_the_suffix_of_most_of_the_text() -> None:
    assert most_common_suffix([Document("a.py", b"x"), Document("b.md", b"xx"), Document("c.md", b"x")]) == ".md"
    assert most_common_suffix([Document("a.py", b"xxxxx"), Document("b.md", b"x"), Document("c.md", b"x")]) == ".py"
    assert most_common_suffix([Document("rows.jsonl:1", b"x"), Document("rows.parquet[7]", b"x")]) == ".txt"
