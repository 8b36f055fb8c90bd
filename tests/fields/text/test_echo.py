"""What stands between the same neighbours elsewhere, by brute force; slips of typing, by enumeration."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato.fields.text.echo import REACH, Echo, Source, known_around
from sfumato.fields.text.slips import LETTERS, Lexicon, counted, likelihood, without, words

SIGNS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_"


def naive(tokens: np.ndarray, left: list[int], right: list[int]) -> list[int]:
    places = []
    for i in range(2, len(tokens) - 2):
        if i - len(left) < 0 or i + len(right) >= len(tokens):
            continue
        if tokens[i - len(left) : i].tolist() == left and tokens[i + 1 : i + 1 + len(right)].tolist() == right:
            places.append(i)
    return places


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 2), min_size=6, max_size=40), st.data())
def test_places_are_those_with_the_same_neighbours(tokens: list[int], data: st.DataObject) -> None:
    text = np.array(tokens)
    left = data.draw(st.lists(st.integers(0, 3), max_size=REACH))
    right = data.draw(st.lists(st.integers(0, 3), max_size=REACH))
    found = sorted(Source(text).places(left, right).tolist())
    if (left and right) or max(len(left), len(right)) > 1:
        assert found == naive(text, left, right)
    else:
        assert found == []


def test_what_echoes_is_a_law_and_leaves_out_what_is_asked_about() -> None:
    text = np.array([0, 1, 2, 3, 4, 1, 2, 3, 5, 1, 6, 3, 0, 0, 0])
    echo, flat = Echo((Source(text),), 7), np.full(7, 1 / 7)
    law = echo.mixed(flat, [1], [3])
    assert law.sum() == pytest.approx(1)
    assert law[2] > law[6] > law[0]
    assert law[2] == pytest.approx((2 + 2 / 7) / 5)  # 2, 2, 6 between 1 and 3: two kinds
    own = echo.mixed(flat, [1], [3], skip=(2, 3))
    assert own[2] == pytest.approx(own[6])
    assert echo.mixed(flat, [4], [0]).tolist() == flat.tolist()  # never seen
    nearer = Echo((Source(np.array([0, 0, 1, 5, 3, 0, 0])), Source(text)), 7).mixed(flat, [1], [3])
    assert nearer[2] > nearer[5] > nearer[0]
    assert Echo((Source(text),), 2).mixed(flat, [1], [3]).tolist() == flat.tolist()  # no text there


def test_longer_contexts_count_for_more() -> None:
    text = np.array([0, 0, 9, 1, 2, 3, 9, 0, 8, 1, 4, 3, 8, 0, 7, 1, 4, 3, 7, 0, 0])
    law = Echo((Source(text),), 10).mixed(np.full(10, 0.1), [9, 1], [3, 9])
    assert law[2] > law[4]
    assert Echo((Source(text),), 10).mixed(np.full(10, 0.1), [1], [3])[4] > law[4]


def walked(count: int, seed: int) -> np.ndarray:
    """A text over six tokens in which each depends on the two before it: half of the time on one of them, half on the other."""
    rng, found = np.random.default_rng(seed), [0, 1]
    for _ in range(count):
        found.append(int((found[-1 - rng.integers(2)] * 2 + 1 + (rng.random() < 0.2)) % 7))
    return np.array(found)


def test_what_each_side_says_alone_makes_tokens_likelier() -> None:
    """Of a text that no law was fitted to: a short one is full of pairs of contexts that were never seen together."""
    text, other = walked(400, 0), walked(300, 1)
    echo, flat = Echo((Source(text), Source(other[:0])), 7), np.full(7, 1 / 7)
    said = []
    for place in range(5, 290):
        around = known_around(other, place, np.zeros(len(other), dtype=bool))
        said.append([law(flat, *around)[other[place]] for law in (echo.mixed, echo.between)])
    gain = np.diff(np.log(said))[:, 0]
    assert gain.mean() > 3 * gain.std() / np.sqrt(len(gain))


def test_what_is_rare_is_believed_where_both_sides_speak_for_it() -> None:
    """Token 0 stands everywhere; 9 stands half of the time after (1, 2), and half of the time before (3, 4), and nowhere else."""
    rare = [1, 2, 9, 5, 6, 1, 2, 0, 6, 5, 7, 7, 9, 3, 4, 8, 8, 0, 3, 4]
    text = np.array([0] * 300 + rare * 6 + [0] * 300)
    law = Echo((Source(text),), 10).between(np.full(10, 0.1), [1, 2], [3, 4])
    assert law[9] > 3 * law[0]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=12, max_size=60), st.data())
def test_the_pool_is_a_law_and_knows_no_direction(tokens: list[int], data: st.DataObject) -> None:
    """Read backwards, the left is the right; with one side open, nothing is pooled."""
    text = np.array(tokens)
    left, right = (data.draw(st.lists(st.integers(0, 4), max_size=6)) for _ in range(2))
    law = np.array(data.draw(st.lists(st.floats(0.01, 1), min_size=4, max_size=4)))
    law /= law.sum()
    forth = Echo((Source(text),), 4).between(law, left, right)
    back = Echo((Source(text[::-1].copy()),), 4).between(law, right[::-1], left[::-1])
    assert forth.sum() == pytest.approx(1)
    np.testing.assert_allclose(forth, back, rtol=1e-9)
    if not (left and right):
        np.testing.assert_array_equal(forth, Echo((Source(text),), 4).mixed(law, left, right))


def test_a_side_that_goes_far_tells_what_both_together_do_not() -> None:
    """Five tokens stood before a 9, with another one after it; two stood there twice before an 8. What is asked about tells
    nothing of itself, on no side."""
    text = np.array([0, 0, 1, 2, 3, 4, 5, 9, 6, 0, 4, 5, 8, 0, 0, 4, 5, 8, 0, 0, 1, 2, 3, 4, 5, 9, 7, 0, 0])
    echo, flat = Echo((Source(text),), 10), np.full(10, 0.1)
    law = echo.between(flat, [1, 2, 3, 4, 5], [3, 3])
    assert law[9] > law[8] > law[1]
    assert echo.between(flat, [4, 5], [3, 3])[8] > law[8]
    alone = Echo((Source(text[:20]),), 10)
    assert alone.between(flat, [1, 2, 3, 4, 5], [6, 1], skip=(7, 8))[8] > alone.between(flat, [3, 4, 5], [6, 1])[8]
    assert alone.between(flat, [1, 2, 3, 4, 5], [6, 1], skip=(7, 8))[9] < 0.1
    assert echo.between(flat, [7, 9], [9, 9]).tolist() == flat.tolist()  # never seen
    assert Echo((), 10).between(flat, [1], [3]).tolist() == flat.tolist()


def test_neighbours_end_where_something_is_open() -> None:
    tokens, open_ = np.arange(20), np.zeros(20, dtype=bool)
    assert known_around(tokens, 10, open_) == ([5, 6, 7, 8, 9], [11, 12, 13, 14, 15])
    assert known_around(tokens, 1, open_) == ([0], [2, 3, 4, 5, 6])
    open_[[8, 11]] = True
    assert known_around(tokens, 10, open_) == ([9], [])


@pytest.mark.parametrize("meant", [b"abcd", b"aab", b"aaa"])
def test_all_slips_of_a_word_are_all_there_is(meant: bytes) -> None:
    """By enumeration: what one slip may make sums to 1, but for swaps that change nothing."""
    made = {meant[:i] + meant[i + 1 :] for i in range(len(meant))}
    made |= {meant[:i] + bytes([c]) + meant[i:] for i in range(len(meant) + 1) for c in SIGNS}
    made |= {meant[:i] + bytes([c]) + meant[i + 1 :] for i in range(len(meant)) for c in SIGNS}
    made |= {meant[:i] + meant[i + 1 : i + 2] + meant[i : i + 1] + meant[i + 2 :] for i in range(len(meant) - 1)}
    alike = sum(a == b for a, b in pairwise(meant)) / (len(meant) - 1)
    assert len(SIGNS) == LETTERS
    assert sum(likelihood(seen, meant) for seen in made) == pytest.approx(1 - alike / 4)
    assert likelihood(meant, meant) == likelihood(b"abxyz", meant) == likelihood(b"", meant) == 0


def test_words_that_may_have_been_meant() -> None:
    lexicon = Lexicon(counted([b"return value; return values of value, valve"]))
    assert set(lexicon.meant(b"vaue")) == {b"value"}
    assert set(lexicon.meant(b"retrun")) == {b"return"}
    assert set(lexicon.meant(b"valu")) == {b"value"}
    assert set(lexicon.meant(b"value")) == {b"values", b"valve"}
    assert lexicon.meant(b"nothing") == {}
    assert without(b"ab") == {b"ab", b"a", b"b"}
    assert list(words(b"a = value1 + _x_")) == [(4, b"value1"), (13, b"_x_")]
