"""A line stays one line, what parses comes first, and a network that is asked seldom says what it would have said."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("tokenizers", reason="needs the extra sfumato[text]")

from sfumato.diffusion import Endpoints
from sfumato.errors import DataError
from sfumato.fields.text.echo import echo_of, echoing
from sfumato.fields.text.filling import Draft, fill
from sfumato.fields.text.grammar import Grammar, everything, grammar
from sfumato.fields.text.opening import Filled, Opened, fill_open, likeliest
from sfumato.fields.text.originals import Hole, Original, marked, of_lines
from sfumato.fields.text.steering import OneLine, Seldom, breaks_of, one_line, seldom
from sfumato.jobs.walk import Walk
from tests.fields.text.markov import bytes_alone, chain, ids, told
from tests.fields.text.test_fill import Opinion
from tests.fields.text.test_opening import model as opening

MASK = bytes_alone().mask


def of(text: bytes, name: str = "open.py") -> Original:
    return Original(Path(name), text)


# ---- one line --------------------------------------------------------------------------------------------------------


def test_tokens_that_hold_the_end_of_a_line_are_those() -> None:
    assert {i for i, broken in enumerate(breaks_of(bytes_alone()).tolist()) if broken} == set(ids(b"\n\r"))


def test_a_line_stays_one_line_and_lines_may_become_more() -> None:
    """A network that believes most in ends of lines, and less in a letter."""
    network = Opinion(b"\nz")
    network.answer[ids(b"\n")] = 3.0
    text = b"ab\nccc\nab\n"
    model, line, lines = told(network), of_lines(text, ["2"]), of_lines(text, ["2:3"])
    assert fill(one_line(model, line), of(text), line, 5) == [b"ab\nzzz\nab\n"] * 5
    assert one_line(model, lines) is model
    assert one_line(model, [*line, Hole(7, 9)]) is model
    assert b"\n\n" in fill(model, of(text), lines, 1, temperature=0.01)[0]


def test_a_line_leaves_the_law_of_what_it_may_hold() -> None:
    """Conditioned on no end of a line: the law of the rest, divided by what is left of it; what is known is as it was."""
    network = Opinion(b"abc\n")
    x_t = torch.tensor([[*ids(b"a\n"), MASK]])
    plain = told(network).denoiser
    held = OneLine(plain, breaks_of(bytes_alone()))
    law, own = (torch.softmax(guess(x_t, torch.tensor(1.0)).x[0, 2], -1) for guess in (held, plain))
    kept = torch.ones(len(own), dtype=torch.bool)
    kept[ids(b"\n")] = False
    assert torch.allclose(law[kept], own[kept] / own[kept].sum())
    assert law[~kept].sum() == 0
    known = [guess(x_t, torch.tensor(1.0)).x[0, :2] for guess in (held, plain)]
    assert torch.equal(*known)


def test_a_gap_in_a_line_becomes_no_end_of_it() -> None:
    text = b"abc\nabc\nabc"
    holes, asked = of_lines(text, ["2"]), opening(24)
    seen = fill_open(one_line(asked, holes), of(text, "open.txt"), holes, 4, tries=2)
    assert all(len(written.split(b"\n")) == 3 for written in seen)
    for line in (True, False):  # what stands elsewhere is not the network's
        one = Filled(asked, of(text), np.zeros(1), np.zeros(1), 0, line, 0, 1.0, None, lambda tokens: True)
        assert [one.fits(np.array(ids(there))) for there in (b"ab", b"a\nb", b"a\r")] == [True, not line, not line]
    kept = Opened(np.array([1, 2]), 0.0), Opened(np.array([1]), -5.0), Opened(np.array([2]), -4.0)
    assert likeliest(kept, lambda tokens: 1 in tokens, lambda tokens: 2 not in tokens) is kept[1]
    assert likeliest(kept, lambda tokens: 1 in tokens, lambda tokens: False) is kept[0]


# ---- grammar ---------------------------------------------------------------------------------------------------------


def test_what_parses_comes_first_and_what_nothing_parses_with_stays_as_it_came() -> None:
    network, text = Opinion(b")]"), b"x = (1<fill:1>\n"
    model, holes = told(network), marked(text)
    plain = fill(model, of(text), holes, 40)
    assert Counter(text[6:7] for text in plain).keys() == {b")", b"]"}
    chosen = fill(model, of(text), holes, 40, tries=20, accepts=grammar(of(text), holes))
    assert chosen == [b"x = (1)\n"] * 40
    assert all(was == now for was, now in zip(plain, chosen) if was == b"x = (1)\n")  # the first that does
    hopeless = b"x = ((1<fill:1>\n"
    first = fill(model, of(hopeless), marked(hopeless), 10)
    assert fill(model, of(hopeless), marked(hopeless), 10, tries=3, accepts=lambda written: False) == first
    other = of(text, "open.txt")
    assert grammar(other, holes) is everything
    assert grammar(of(b"x" * (1 << 18) + b"y"), holes) is everything


def test_half_a_character_is_no_first_try() -> None:
    """It is drawn again until it is text, however few tries there are; then what parses is looked for."""
    text = b"x = 1 #<fill:1>\n"
    found = fill(told(Opinion(b"\xc3z")), of(text), marked(text), 20, tries=3, accepts=lambda written: False)
    assert found == [b"x = 1 #z\n"] * 20
    with pytest.raises(DataError, match="none of 50 draws is text"):
        fill(told(Opinion(b"\xc3"), walk=Walk(solver="confidence", steps=1)), of(text), marked(text), tries=60 - 10)


def test_later_holes_are_blanks_and_lines_that_stand_until_they_are_filled() -> None:
    text = b"def f(<fill:1>):\n    return <fill:1>\n"
    asked = Grammar(of(text), marked(text))
    assert asked.accepts([b"a"])
    assert asked.accepts([b"a", b"b"])
    assert not asked.accepts([b"("])
    assert not asked.accepts([b"a", b"("])
    assert not asked.accepts([b"\xc3"])
    lines = b"if a:\n    b\nelse:\n    c\n"
    asked = Grammar(of(lines), of_lines(lines, ["1", "3"]))
    assert asked.accepts([b"while a:"])  # `else:` stands there
    assert not asked.accepts([b"while a:", b"except:"])


def test_of_gaps_the_likeliest_that_parses_is_kept() -> None:
    """Of texts of a chain with an exact network; the file parses with names of an odd number of letters alone."""
    text = b"ab<fill>ca"
    odd = lambda written: len(written[0]) % 2 == 1  # noqa: E731
    model, draws = opening(24), 6
    plain = fill_open(model, of(text, "open.txt"), marked(text), draws, temperature=1.0, tries=4)
    chosen = fill_open(model, of(text, "open.txt"), marked(text), draws, temperature=1.0, tries=4, accepts=odd)
    assert {len(made) % 2 for made in plain} == {0, 1}
    assert sum(len(made) % 2 for made in chosen) > sum(len(made) % 2 for made in plain)
    assert all(now == was for was, now in zip(plain, chosen) if len(was) % 2)
    sized = b"ab<fill:1>c<fill>a"
    (made,) = fill_open(
        model, of(sized, "open.txt"), marked(sized), 1, temperature=1.0, tries=9, accepts=lambda w: w[0] == b"b"
    )
    assert made.startswith(b"abbc")


# ---- few calls -------------------------------------------------------------------------------------------------------


def alike(x: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
    """A network to which all tokens are alike."""
    return torch.zeros(*x.shape, bytes_alone().end + 1)


@pytest.mark.parametrize(("calls", "at"), [(1, [5]), (2, [5, 2]), (3, [5, 3, 1])])
def test_echoes_hear_each_token_of_a_network_that_is_asked_seldom(calls: int, at: list[int]) -> None:
    """What is written is right; the network is asked when so many tokens are open: all of them surprise it alike."""
    text = b"(12) and [34]; " * 20
    broken = text[:150] + b"<fill:5>" + text[155:]
    holes, seen = marked(broken), []

    def network(x: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        seen.append(int((x == MASK).sum()))
        return alike(x, level)

    draft = Draft.of(broken, holes, bytes_alone(), 1)
    model = seldom(echoing(told(network, walk=Walk(solver="confidence", steps=32)), draft.tokens), calls)
    assert fill(model, of(broken, "open.txt"), holes, 1, temperature=0.001) == [text]
    assert seen == at
    assert echo_of(model.denoiser) is not None


def test_a_network_that_is_asked_for_every_token_is_asked_as_if_nobody_counted() -> None:
    text = b"abca<fill:5>bcab"
    model = told(chain(), walk=Walk(solver="confidence", steps=8, batch=3))
    slow = replace(model, denoiser=Seldom(model.denoiser, 5))
    assert fill(slow, of(text, "open.txt"), marked(text), 6) == fill(model, of(text, "open.txt"), marked(text), 6)
    few = replace(model, denoiser=Seldom(model.denoiser, 1))
    assert fill(few, of(text, "open.txt"), marked(text), 6) != fill(model, of(text, "open.txt"), marked(text), 6)


def test_another_filling_is_asked_about_anew() -> None:
    """Whatever else was shown before: tokens that changed, more open ones, other places."""
    asked: list[int] = []

    class Asked:
        process = told(chain()).denoiser.process

        def given(self, **condition: Any) -> dict[str, Any]:
            return {}

        def __call__(self, x_t: torch.Tensor, t: torch.Tensor, s: Any = None, **condition: Any) -> Endpoints:
            asked.append(1)
            return Endpoints(torch.zeros(*x_t.shape, 4) + len(asked), None)

    rare = Seldom(Asked(), 1)
    t = torch.tensor(0.5)
    rows = [[0, MASK, MASK, 3], [0, 1, MASK, 3], [0, 1, MASK, 4], [0, MASK, MASK, 4], [MASK, MASK, MASK, 4]]
    said = [float(rare(torch.tensor([row]), t).x[0, 0, 0]) for row in rows]
    assert said == [1, 1, 2, 3, 4]
