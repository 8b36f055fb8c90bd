"""Scores are what a law that is known says they are, whatever else is scored beside; and the odd line is found."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("tokenizers", reason="needs the extra sfumato[text]")

from sfumato.errors import DataError
from sfumato.fields.text.files import Document, every
from sfumato.fields.text.reporting import json_lines, table
from sfumato.fields.text.scoring import Surprise, by_line, dealt, least_likely, scored, surprises
from sfumato.metrics.distances import MetricError
from tests.fields.text.markov import Chain, bytes_alone, chain, ids, told


def written(network: Chain, length: int, seed: int = 0) -> bytes:
    """A text that the chain wrote, without its end."""
    rng, state, out = np.random.default_rng(seed), len(network.letters), []
    while len(out) < length:
        p = network.moves[state, :-1] / network.moves[state, :-1].sum()
        state = int(rng.choice(len(p), p=p))
        out.append(network.letters[state])
    return bytes(out)


def truth(network: Chain, text: bytes) -> np.ndarray:
    """-log2 of each move from the end before the text to the end after it."""
    states = [-1, *map(network.letters.index, text), -1]
    return -np.log2([network.moves[a, b] for a, b in pairwise(states)])


def surprise(network: Chain, *texts: bytes, block: int, draws: int, batch: int = 64) -> list[Surprise]:
    model = told(network)
    tokens = [np.array(ids(text)) for text in texts]
    end = bytes_alone().end
    return surprises(model.denoiser, tokens, end, context=8, block=block, draws=draws, batch=batch)


def test_one_token_at_a_time_the_bits_are_those_of_the_chain() -> None:
    network = chain()
    text = written(network, 60)
    for draws in (1, 3):
        (found,) = surprise(network, text, block=1, draws=draws)
        np.testing.assert_allclose(found.bound, truth(network, text), atol=1e-6)
        np.testing.assert_allclose(found.doubt, truth(network, text), atol=1e-6)


def test_what_stands_alone_is_doubted_as_it_is_rare_however_often_it_was_hidden() -> None:
    """Of a law that knows no neighbours: all is told by the token itself, and nothing by how many draws hid it."""
    network = chain()
    network.moves[:] = [0.2, 0.3, 0.5 - 1e-6, 1e-6]
    text = written(network, 39)
    (found,) = surprise(network, text, block=5, draws=7)
    np.testing.assert_allclose(found.doubt, truth(network, text), atol=1e-6)


@pytest.mark.parametrize("draws", [1, 4, 6])
def test_law_11_the_mean_of_the_bound_is_the_probability(draws: int) -> None:
    """Over 500 blocks of 4 and as many masks: how they are dealt leaves no bias, of one draw or of several."""
    network = chain()
    text = written(network, 1999)
    (found,) = surprise(network, text, block=4, draws=draws)
    away = (found.bound - truth(network, text)).reshape(-1, 4).sum(1)
    assert abs(away.mean()) < 4 * away.std() / math.sqrt(len(away))
    assert away.std() > 0.1  # masks do differ


@settings(max_examples=50, deadline=None, derandomize=True)
@given(counts=st.lists(st.integers(1, 40), min_size=1, max_size=5), draws=st.integers(1, 9))
def test_masks_are_dealt_in_turn(counts: list[int], draws: int) -> None:
    """Each draw hides as many as its stratum says, of the scored alone; all are hidden alike often, none never from 4 on."""
    place = torch.arange(42)
    scored_ = (place >= 2) & (place < 2 + torch.tensor(counts)[:, None])
    masks, hidden = dealt(scored_, draws, range(len(counts)))
    assert bool((masks.sum(2) == hidden).all())
    assert not bool((masks & ~scored_).any())
    for draw, numbers in enumerate(hidden.tolist()):
        for k, count in zip(numbers, counts):
            assert 1 <= k <= count
            assert draw * count / draws < k <= (draw + 1) * count / draws + 1
    for row, scores in zip(masks.sum(0), scored_):
        times = row[scores]
        assert int(times.max() - times.min()) <= 1
        assert draws < 4 or int(times.min()) >= 1
    assert torch.equal(dealt(scored_, draws, range(len(counts)))[0], masks)


def test_each_token_is_hidden_as_often_as_any_other_in_each_draw() -> None:
    """2,000 blocks: whatever hides it, place 0 to 4 alike (the share of 3 of 5 in the mean)."""
    masks, hidden = dealt(torch.ones(2000, 5, dtype=torch.bool), 3, range(2000))
    for draw in range(3):
        share = masks[draw].double().mean(0)
        wanted = float(hidden[draw].double().mean() / 5)
        assert float((share - wanted).abs().max()) < 4 * math.sqrt(wanted * (1 - wanted) / 2000) + 1e-9


def test_a_document_has_the_same_score_alone_and_among_others() -> None:
    network = chain()
    texts = [written(network, length, seed) for seed, length in enumerate((30, 7, 55))]
    among = surprise(network, *texts, block=5, draws=4, batch=7)
    for text, same in zip(texts, among):
        (alone,) = surprise(network, text, block=5, draws=4)
        np.testing.assert_allclose(alone.bound, same.bound, atol=1e-9)
        np.testing.assert_allclose(alone.doubt, same.doubt, atol=1e-9)


def test_no_number_of_a_network_that_answers_nan() -> None:
    network = chain()
    broken = Chain(network.letters, network.moves * math.nan, [])
    with pytest.raises(MetricError, match="not finite"):
        surprise(broken, b"abc", block=2, draws=1)
    with pytest.raises(ValueError, match="draws must be at least 1"):
        surprise(network, b"abc", block=2, draws=0)


LETTERS = b"abc\n"


def cycle() -> Chain:
    """Next to always a, b, c, end of line."""
    moves = np.full((5, 5), 0.02)
    moves[[0, 1, 2, 3, 4], [1, 2, 3, 0, 0]] = 1
    return Chain(LETTERS, moves / moves.sum(1, keepdims=True), [])


def test_the_odd_line_is_found() -> None:
    lines = [b"abc"] * 40
    lines[17], lines[30] = b"acb", b"\t"
    document = Document("odd.txt", b"\n".join(lines) + b"\n")
    found = scored(told(cycle()), [Document("even.txt", b"abc\n" * 20), document], 8, 4)
    assert least_likely(found, 1) == [(1, 17)]
    assert (1, 30) not in least_likely(found, 100)  # blanks alone
    assert found[0].bits / found[0].size < 0.5 < found[1].bits / found[1].size
    text = table(found, 2)
    assert text.index("odd.txt") < text.index("even.txt")  # the least usual first
    assert "  odd.txt:18  acb" in text
    assert "least likely" not in table(found, 0)
    rows = [json.loads(line) for line in json_lines(found).splitlines()]
    assert [row["file"] for row in rows] == ["even.txt", "odd.txt"]
    assert max(range(40), key=lambda i: rows[1]["lines"][i]) in (17, 30)
    assert rows[1]["bits"] == pytest.approx(found[1].bits, abs=1e-3)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    text=st.text("ab\r\n\t\u00e9", min_size=1, max_size=40), cuts=st.lists(st.integers(1, 7), min_size=40, max_size=40)
)
def test_lines_share_out_the_bits_of_all_tokens(text: str, cuts: list[int]) -> None:
    """Whatever the tokens are, also such as end one line and begin the next."""
    raw = text.encode()
    lengths, left = [], len(raw)
    for cut in [*cuts, len(raw)]:
        if left:
            lengths.append(min(cut, left))
            left -= lengths[-1]
    doubt = np.random.default_rng(0).exponential(size=len(lengths))
    bits, sizes = by_line(raw, doubt, np.array(lengths))
    assert bits.sum() == pytest.approx(doubt.sum())
    assert sizes.tolist() == [len(line) for line in raw.splitlines(keepends=True)] or b"\r" in raw
    assert sizes.sum() == len(raw)
    assert len(sizes) == raw.count(b"\n") + (not raw.endswith(b"\n"))


def test_a_token_across_two_lines_is_shared_by_bytes() -> None:
    bits, sizes = by_line(b"a\n  b", np.array([1.0, 6.0, 2.0]), np.array([1, 3, 1]))
    assert bits.tolist() == [1 + 2, 4 + 2]
    assert sizes.tolist() == [2, 3]


def test_a_single_file_is_one_document_and_what_cannot_be_scored_is_said(tmp_path: Path) -> None:
    said: list[str] = []
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfabc\r\n" * 50)
    assert [len(document.text) for document in every(tmp_path / "a.txt", said.append)] == [50 * 8 - 3]
    (tmp_path / "b.txt").write_bytes(b"\0")
    (tmp_path / "c.txt").write_bytes(b"caf\xe9")
    (tmp_path / "d.txt").write_bytes(b"")
    assert len(every(tmp_path, said.append)) == 1
    assert [line.split(":")[1].split()[0] for line in said] == ["binary", "not", "empty;"]
    with pytest.raises(DataError, match=r"b.txt: no text is left; every file found was left out, see above"):
        every(tmp_path / "b.txt", said.append)
