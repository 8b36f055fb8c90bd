"""What a known law would not write and knows better is put right; all else stays, to the byte."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tokenizers", reason="needs the extra sfumato[text]")

from sfumato.fields.text.originals import Original, of_lines
from sfumato.fields.text.repairing import APART, Change, apart, beliefs, repair
from sfumato.fields.text.reporting import changes
from sfumato.metrics.distances import MetricError
from tests.fields.text.markov import Chain, bytes_alone, chain, ids, told
from tests.fields.text.test_fill import Opinion
from tests.fields.text.test_score import cycle, written

LIMITS = {"doubt": 0.05, "sure": 0.9, "rounds": 6}


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
    found = beliefs(told(network).denoiser, tokens, groups, window=window, batch=5)
    law = posterior(network, text)
    np.testing.assert_allclose(found.own[1:-1], [p[network.letters.index(c)] for p, c in zip(law, text)], atol=1e-6)
    np.testing.assert_allclose(found.top[1:-1], law.max(1), atol=1e-6)
    assert [network.tokens.index(token) for token in found.best[1:-1]] == law.argmax(1).tolist()
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


def test_where_the_model_is_sure_or_knows_nothing_better_nothing_changes() -> None:
    """Of a chain's own text exactly the letters change that the law says, the first time it is looked through."""
    network = chain(b"abcdef", seed=3, sharp=1.5)
    text = written(network, 300, 1)
    law = posterior(network, text)
    own = np.array([p[network.letters.index(c)] for p, c in zip(law, text)])
    doubted = set(np.flatnonzero((own < 0.2) & (law.max(1) >= 0.7)).tolist())
    assert len(doubted) > 3
    assert ((own < 0.2) & (law.max(1) < 0.7)).sum() > 3  # doubted too, but nothing else is sure
    found, made = repair(told(network), of(text), doubt=0.2, sure=0.7, rounds=1)
    changed = {i for i, (a, b) in enumerate(zip(text, found)) if a != b}
    assert changed == {change.start for change in made}
    assert changed <= doubted
    best = max(doubted, key=lambda i: law[i].max())
    assert best in changed
    assert min(np.diff(sorted(changed))) >= APART > min(np.diff(sorted(doubted)))
    for place in doubted - changed:  # it waits for a surer one beside it
        assert any(abs(place - other) < APART for other in changed)
    for change in made:
        assert change.doubted == pytest.approx(own[change.start], abs=1e-6)
        assert change.now == network.letters[law[change.start].argmax() :][:1]
    assert repair(told(network), of(text), doubt=0.0, sure=0.7, rounds=3) == (text, [])


def test_lines_that_are_not_named_stay() -> None:
    broken = b"abc\nacc\nabc\naac\nabc\n"
    text, made = repair(told(cycle()), of(broken), of_lines(broken, ["4"]), **LIMITS)
    assert text == b"abc\nacc\nabc\nabc\nabc\n"
    assert len(made) == 1
    assert repair(told(cycle()), of(broken), of_lines(broken, ["1", "3"]), **LIMITS)[0] == broken


def test_what_the_model_does_not_know_stays_to_the_byte() -> None:
    """Other letters, both ends of lines, tabs: of them the chain says nothing, so it has nothing better."""
    odd = "abc\nZ\u00e9\t\r\n".encode()
    text, _ = repair(told(Opinion(b"abc")), of(odd), doubt=0.5, sure=0.9, rounds=2)
    assert text == odd


def test_no_change_leaves_half_a_character_or_one_the_encoding_has_not() -> None:
    """A model that believes in one byte alone would put it everywhere."""
    plain = b"xxxxxxxxxxxxxxxxxxxx"
    assert repair(told(Opinion(b"z")), of(plain), doubt=0.5, sure=0.9, rounds=20)[0] == b"z" * 20
    assert repair(told(Opinion(b"\xc3")), of(plain), doubt=0.5, sure=0.9, rounds=3) == (plain, [])
    accented = "x\u00e9".encode()
    text, _ = repair(told(Opinion(b"z")), of(accented), doubt=0.5, sure=0.9, rounds=20)
    assert text == "z\u00e9".encode()


def test_a_network_that_answers_nan_repairs_nothing() -> None:
    network = chain()
    broken = Chain(network.letters, network.moves * math.nan, [])
    with pytest.raises(MetricError, match="nothing is repaired"):
        repair(told(broken), of(b"abcabc"), **LIMITS)


def test_what_is_said_of_a_change_steers_no_terminal() -> None:
    (line,) = changes(b"a\nb\x9bc\n", [Change(2, b"\x1b", "\x9b".encode(), 0.001, 0.97)])
    assert line == 'line 2: "\\u001b" (0.001) is now "\ufffd" (0.97)'
