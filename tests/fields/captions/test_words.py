"""Words as tokens: nothing is unknown, and what says nothing is exactly what is hidden."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("tokenizers", reason="needs the extra sfumato[captions]")

from sfumato.diffusion import hide
from sfumato.errors import DataError
from sfumato.fields.captions.words import Words, chosen

TEXTS = ["a red hat", "a blue hat on a table", "two red boots", "hats, hats, hats"]


@pytest.fixture(scope="module")
def words() -> Words:
    return Words.fit(TEXTS, 300, 77)


def test_a_caption_comes_back_from_its_tokens(words: Words) -> None:
    told = words.encode([*TEXTS, "Ünïcode 帽子 \U0001f3a9"])
    for text, row, mask in zip([*TEXTS, "Ünïcode 帽子 \U0001f3a9"], told["caption"], told["caption_mask"]):
        assert (row >= 0).tolist() == mask.tolist()
        said = words.vocabulary.decode(row[mask]).decode()
        assert said.strip() == text.lower() or len(row) == mask.sum()
    assert told["caption"].shape == (5, words.length)


def test_capitals_and_places_change_no_word(words: Words) -> None:
    """The first word of a caption is the word that it is elsewhere."""
    one, two = words.encode(["Hat red", "red HAT"])["caption"]
    assert sorted(one.tolist()) == sorted(two.tolist())


def test_nothing_said_is_what_hiding_leaves(words: Words) -> None:
    """Law 15: an empty caption, one dropped in training, and the weak side of guidance are the same to the bit."""
    told = {name: torch.from_numpy(value) for name, value in words.encode(["", "a red hat"]).items()}
    hidden = hide(told)
    for name, value in told.items():
        assert torch.equal(value[0], hidden[name][1])
    assert not bool(told["caption_mask"][0].any())
    assert words.encode(["  "[:0]])["caption"].max() == -1


def test_long_captions_are_cut_at_a_word() -> None:
    words = Words.fit([" ".join(TEXTS)], 300, 5)
    assert words.length == 5
    (row,), lengths = words.tokens(["a blue hat on a table of boots"])
    said = words.vocabulary.decode(row[row >= 0]).decode()
    assert lengths[0] > 5
    assert "a blue hat on a table of boots".startswith(said.strip())
    assert " a blue hat on a table of boots"[len(said)] == " "
    unbroken, _ = words.tokens(["h" * 500])
    assert (unbroken >= 0).all()


def test_the_choice_is_refused_where_there_is_nothing_to_read() -> None:
    with pytest.raises(DataError, match="all captions are empty"):
        chosen("auto", ["", ""], 300, 77)
    with pytest.raises(DataError, match="encoder = 'elmo'"):
        chosen("elmo", TEXTS, 300, 77)


def test_what_is_kept_is_what_is_encoded(words: Words, tmp_path) -> None:
    longest, cut = words.write(TEXTS, tmp_path)
    told = Words.read(tmp_path, len(TEXTS)).batch(np.array([2, 0]))
    wanted = words.encode([TEXTS[2], TEXTS[0]])
    assert all(np.array_equal(told[name], wanted[name]) for name in wanted)
    assert longest == words.length
    assert cut == 0
    with pytest.raises(ValueError, match="rows for 5 captions"):
        Words.read(tmp_path, 5)
    words.save(tmp_path)
    assert np.array_equal(Words.load(tmp_path, words.length).encode(TEXTS)["caption"], words.encode(TEXTS)["caption"])
