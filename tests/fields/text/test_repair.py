"""What a known law would not write and knows better is put right; all else stays, to the byte."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("tokenizers", reason="needs the extra sfumato[text]")

from sfumato.fields.text.believing import APART, apart, beliefs
from sfumato.fields.text.originals import Original, of_lines
from sfumato.fields.text.repairing import Change, page_of, repair
from sfumato.fields.text.reporting import changes
from sfumato.metrics.distances import MetricError
from tests.fields.text.markov import Chain, bytes_alone, chain, ids, told
from tests.fields.text.test_fill import Opinion
from tests.fields.text.test_score import cycle, written

LIMITS: dict[str, Any] = {"doubt": 0.99, "sure": 0.9, "rounds": 6, "alone": True}


def of(text: bytes, encoding: str = "utf-8") -> Original:
    return Original(Path("text.txt"), text, encoding)


def posterior(network: Chain, text: bytes) -> np.ndarray:
    """By enumeration: the law (n, letters) of each letter given its two neighbours, which is all that a chain needs."""
    states = [-1, *map(network.letters.index, text), -1]
    found = []
    for before, after in zip(states, states[2:]):
        weight = network.moves[before, :] * network.moves[:, after]
        found.append(weight[:-1] / weight.sum())
    return np.array(found)


@pytest.mark.parametrize("window", [200, 32])
def test_beliefs_are_the_law_of_each_token_given_all_others(window: int) -> None:
    """However many are masked together, far apart, and wherever windows begin and end."""
    network = chain()
    text = written(network, 100)
    tokens = np.array([bytes_alone().end, *ids(text), bytes_alone().end])
    groups = apart(np.arange(1, 101), window)
    found = beliefs(replace(page_of(told(network, window), alone=True), batch=5), tokens, groups, most=2)
    law, states = posterior(network, text), [network.letters.index(c) for c in text]
    np.testing.assert_allclose(found.own[1:-1], law[np.arange(100), states], atol=1e-6)
    law[np.arange(100), states] = -1  # the likeliest others
    np.testing.assert_allclose(found.top[1:-1], -np.sort(-law, 1)[:, :2], atol=1e-6)
    likely = [[network.tokens.index(token) for token in row] for row in found.best[1:-1]]
    np.testing.assert_allclose(np.take_along_axis(law, np.array(likely), 1), found.top[1:-1], atol=1e-6)
    assert np.isnan(found.own[[0, -1]]).all()


@pytest.mark.parametrize("window", [8, 32, 4096])
def test_places_are_dealt_out_once_and_apart(window: int) -> None:
    places = np.array([1, 2, 3, 9, 10, 17, 90, 97, 98, 300])
    groups = apart(places, window)
    assert sorted(np.concatenate(groups).tolist()) == places.tolist()
    for group in groups:
        assert (np.diff(group) >= APART).all()
        assert group[-1] - group[0] < window // 2


def test_wrong_letters_are_put_right_and_nothing_else() -> None:
    right = b"abc\n" * 60
    broken, places = bytearray(right), [5, 30, 77, 150, 180, 236]
    for place in places:
        broken[place] = b"abc"[(b"abc\n".index(right[place]) + 2) % 3]
    text, made = repair(told(cycle()), of(bytes(broken)), **LIMITS)
    assert text == right
    assert [(change.start, change.was, change.now) for change in made] == [
        (place, bytes(broken)[place : place + 1], right[place : place + 1]) for place in places
    ]
    assert all(change.doubted < 0.05 and change.sure >= 0.9 for change in made)
    assert changes(text, made)[0].startswith('line 2: "')
    assert repair(told(cycle()), of(text), **LIMITS) == (text, [])  # once more changes nothing
    assert "nothing is changed" in changes(text, [])[0]


def test_what_is_put_right_is_right_as_often_as_it_says() -> None:
    """A chain's text of which some letters were replaced by any of 256 signs: the posterior is calibrated, at any threshold."""
    network, rng = chain(b"abcdef", seed=3, sharp=2.5), np.random.default_rng(0)
    right = written(network, 1500, 1)
    broken = bytearray(right)
    for place in np.flatnonzero(rng.random(len(right)) < 0.03):
        broken[place] = rng.integers(1, 128)
    found, made = repair(told(network), of(bytes(broken)), doubt=0.03, sure=0.5, rounds=1, alone=True)
    assert len(found) == len(right)
    sure = np.array([change.sure for change in made])
    good = np.array([found[change.start] == right[change.start] for change in made])
    assert len(made) > 25
    assert (~good).any()
    spread = math.sqrt(float((sure * (1 - sure)).sum()))
    assert abs(float(good.sum() - sure.sum())) < 3 * spread
    few = repair(told(network), of(bytes(broken)), doubt=0.03, sure=0.9, rounds=1, alone=True)[1]
    assert 0 < len(few) < len(made)
    assert all(change.sure >= 0.9 for change in few)


def test_where_nothing_was_doubted_nothing_changes_and_neighbours_wait() -> None:
    network = chain(b"abcdef", seed=3, sharp=1.5)
    text = written(network, 300, 1)
    assert repair(told(network), of(text), doubt=0.0, sure=0.7, rounds=3, alone=True) == (text, [])
    found, made = repair(told(network), of(text), doubt=0.999, sure=0.7, rounds=1, alone=True)
    starts = [change.start for change in made]
    assert len(starts) > 5
    assert min(np.diff(starts)) >= APART
    assert {i for i, (a, b) in enumerate(zip(text, found)) if a != b} == set(starts)


def test_lines_that_are_not_named_stay() -> None:
    broken = b"abc\nacc\nabc\naac\nabc\n"
    text, made = repair(told(cycle()), of(broken), of_lines(broken, ["4"]), **LIMITS)
    assert text == b"abc\nacc\nabc\nabc\nabc\n"
    assert len(made) == 1
    assert repair(told(cycle()), of(broken), of_lines(broken, ["1", "3"]), **LIMITS)[0] == broken


def test_what_the_model_does_not_know_stays_to_the_byte() -> None:
    """Other letters, both ends of lines, tabs: of them the chain says nothing, so it has nothing better."""
    odd = "abc\nZ\u00e9\t\r\n".encode()
    text, _ = repair(told(Opinion(b"abc")), of(odd), doubt=0.5, sure=0.9, rounds=2, alone=True)
    assert text == odd


def test_no_change_leaves_half_a_character_or_one_the_encoding_has_not() -> None:
    """A model that believes in one byte alone would put it everywhere."""
    plain = b"xxxxxxxxxxxxxxxxxxxx"
    assert repair(told(Opinion(b"z")), of(plain), doubt=0.5, sure=0.9, rounds=20, alone=True)[0] == b"z" * 20
    assert repair(told(Opinion(b"\xc3")), of(plain), doubt=0.5, sure=0.9, rounds=3, alone=True) == (plain, [])
    accented = "x\u00e9".encode()
    text, _ = repair(told(Opinion(b"z")), of(accented), doubt=0.5, sure=0.9, rounds=20, alone=True)
    assert text == "z\u00e9".encode()


def test_a_network_that_answers_nan_repairs_nothing() -> None:
    network = chain()
    broken = Chain(network.letters, network.moves * math.nan, [])
    with pytest.raises(MetricError, match="nothing is repaired"):
        repair(told(broken), of(b"abcabc"), **LIMITS)


def test_what_is_said_of_a_change_steers_no_terminal() -> None:
    (line,) = changes(b"a\nb\x9bc\n", [Change(2, b"\x1b", "\x9b".encode(), 0.001, 0.97)])
    assert line == 'line 2: "\\u001b" (0.001) is now "\ufffd" (0.97)'


# ---- what the text itself says ---------------------------------------------------------------------------------------


def flat(x: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
    """A network to which all tokens are alike."""
    return torch.zeros(*x.shape, bytes_alone().end + 1)


def test_a_slip_is_put_right_by_the_words_of_the_text() -> None:
    """The model itself knows nothing: all signs are alike to it. The right word has another number of tokens."""
    lines = [f"take value {i} of value\n".encode() for i in range(10, 40)]
    broken = [*lines[:20], lines[20].replace(b"take value", b"take vaue"), *lines[21:]]
    text, made = repair(told(flat), of(b"".join(broken)), doubt=0.01, sure=0.9, rounds=2)
    assert text == b"".join(lines)
    assert [(change.was, change.now) for change in made] == [(b"vaue", b"value")]
    twice = [*broken[:5], broken[20], *broken[5:]]  # who writes it twice means it
    assert b"vaue" in repair(told(flat), of(b"".join(twice)), doubt=0.01, sure=0.9, rounds=2)[0]


def test_a_token_is_put_right_by_what_stands_between_its_neighbours_elsewhere() -> None:
    text = b"(12) and [34]; " * 20
    broken = bytearray(text)
    broken[150 + 4 - 1] = ord("]")  # "(12]"
    assert bytes(broken) != text
    found, made = repair(told(flat), of(bytes(broken)), doubt=0.01, sure=0.8, rounds=2)
    assert found == text
    assert len(made) == 1
    assert repair(told(flat), of(text), doubt=0.01, sure=0.8, rounds=2) == (text, [])


def test_below_one_half_what_is_likelier_still_wins() -> None:
    """Of three signs that the model knows the likeliest is put where none of them stands, if so little is enough; where one of
    them stands it stays as long as it is likelier that it was meant."""
    network = Opinion(b"bcd")
    network.answer[ids(b"bcd")] = torch.tensor([0.4, 0.3, 0.3], dtype=torch.float64).log()
    for sure, right in ((0.5, b"xx"), (0.3, b"bb")):
        found, made = repair(told(network), of(b"xx"), doubt=0.5, sure=sure, rounds=3, alone=True)
        assert found == right
        assert all(change.sure == pytest.approx(0.4, abs=0.01) for change in made)
    stood = repair(told(network), of(b"cc"), doubt=0.99, sure=0.2, rounds=1, alone=True)
    assert stood == (b"cc", [])  # .53 that it was meant, .27 that the likeliest was
    both = of(b"c\nc")
    found, made = repair(
        told(network), both, of_lines(both.text, ["1", "2"]), doubt=0.999, sure=0.2, rounds=3, alone=True
    )
    assert (found, len(made)) == (b"b\nb", 2)
    once = repair(told(network), of(b"cc"), doubt=0.999, sure=0.2, rounds=3, alone=True)
    assert once[0] == b"bc"  # the rest of a line in which something was put right is doubted less
    far = of(b"c" + b"b" * 10 + b"c")
    assert len(repair(told(network), far, doubt=0.999, sure=0.2, rounds=3, alone=True)[1]) == 1
