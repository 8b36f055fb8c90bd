"""Holes of unknown length: text and length have the exact posterior of a Markov chain, and all else stays to the byte."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("tokenizers", reason="needs the extra sfumato[text]")

from sfumato.diffusion.gaps import Gaps
from sfumato.errors import DataError, Wrong
from sfumato.fields.text.opening import Tries, fill_open, likeliest, opened
from sfumato.fields.text.originals import Original, marked, of_lines
from sfumato.fields.text.recipe import gaps_of
from sfumato.jobs.model import Model
from sfumato.jobs.walk import Walk
from tests.fields.text.markov import Chain, bytes_alone, chain, ids, told

END = bytes_alone().end
GAPS = Gaps(END + 2, END + 3, END + 5, END + 4)
LETTERS = b"abc"


def of(text: bytes, encoding: str = "utf-8") -> Original:
    return Original(Path("open.txt"), text, encoding)


class Stretching(Chain):
    """The chain that also says what gaps become: W, the law of a gap, solves W = d + p moves + q W W."""

    def __call__(self, x: torch.Tensor, level: torch.Tensor, **condition: object) -> torch.Tensor:
        self.seen.append(x.clone())
        x, whose = torch.unique(x, dim=0, return_inverse=True)
        moves, size = torch.from_numpy(self.moves), len(self.moves)
        gap = torch.zeros_like(moves)
        for _ in range(300):
            gap = GAPS.d * torch.eye(size, dtype=torch.float64) + GAPS.p * moves + GAPS.q * gap @ gap
        states = {token: k for k, token in enumerate(self.tokens)}
        answer = torch.full((*x.shape, END + 5), -700.0, dtype=torch.float64)
        for row, tokens in enumerate(x.tolist()):
            steps = []
            for token in tokens:
                if token in states:
                    steps.append(torch.outer(torch.eye(size, dtype=torch.float64)[states[token]], moves[states[token]]))
                else:
                    steps.append({GAPS.gap: gap, GAPS.nothing: torch.eye(size, dtype=torch.float64)}.get(token, moves))
            forth, back = [torch.from_numpy(self.stationary)], [torch.ones(size, dtype=torch.float64)]
            for step in steps:
                forth.append(forth[-1] @ step)
                forth[-1] = forth[-1] / forth[-1].sum()
            for step in reversed(steps):
                back.append(step @ back[-1])
                back[-1] = back[-1] / back[-1].sum()
            back = back[::-1]
            for i, token in enumerate(tokens):
                if token == GAPS.gap:
                    answer[row, i, self.tokens] = (GAPS.p * forth[i] * (moves @ back[i + 1])).log()
                    answer[row, i, GAPS.expand] = (GAPS.q * forth[i] @ gap @ gap @ back[i + 1]).log()
                    answer[row, i, GAPS.delete] = (GAPS.d * forth[i] @ back[i + 1]).log()
                elif token not in states and token != GAPS.nothing:
                    answer[row, i, self.tokens] = (forth[i] * (moves @ back[i + 1])).log()
        return answer[whose]


def model(window: int = 32) -> Model:
    made = chain()
    found = told(Stretching(made.letters, made.moves, made.seen), window)
    return replace(found, facts=replace(found.facts, gaps=True))


def test_the_grammar_of_a_run_is_that_of_its_facts() -> None:
    assert gaps_of(model().facts) == GAPS
    with pytest.raises(Wrong, match="this run has learned no gaps of unknown length"):
        gaps_of(told(chain()).facts)


def test_a_hole_of_unknown_length_has_the_posterior_of_the_chain() -> None:
    """By enumeration of all runs of up to 3 letters between b and c, 500 draws, chi-square; and as short as the law says."""
    draws, moves = 500, chain().moves
    tries = Tries.of(np.array(ids(b"ab")), np.array(ids(b"ca")), GAPS, 16, draws)
    whole = replace(model(16), given=Walk(batch=500))
    written = opened(whole, tries, range(draws), temperature=1.0, stream=("law",))
    found = Counter(bytes_alone().decode(each.tokens) for each in written)
    weights = GAPS.weights.tolist()

    def p(run: tuple[int, ...]) -> float:
        return weights[len(run)] * math.prod(moves[a, b] for a, b in pairwise([1, *run, 2]))

    size = len(moves)
    gap = np.zeros((size, size))
    for _ in range(500):
        gap = GAPS.d * np.eye(size) + GAPS.p * moves + GAPS.q * gap @ gap
    total = float(moves[1] @ gap[:, 2])
    law = {bytes(LETTERS[k] for k in run): p(run) / total for n in range(4) for run in product(range(3), repeat=n)}
    law = {run: share for run, share in law.items() if share * draws >= 5}
    error = sum((found[run] - draws * share) ** 2 / (draws * share) for run, share in law.items())
    rest = draws * (1 - sum(law.values()))
    error += (sum(n for run, n in found.items() if run not in law) - rest) ** 2 / rest
    assert len(law) > 6
    assert error < len(law) * (1 - 2 / (9 * len(law)) + 3.5 * math.sqrt(2 / (9 * len(law)))) ** 3


def test_the_likeliest_text_is_found_among_those_of_all_lengths() -> None:
    tries = Tries.of(np.array(ids(b"ab")), np.array(ids(b"ca")), GAPS, 24, 64)
    found = opened(replace(model(24), given=Walk(batch=64)), tries, range(64), temperature=1.0, stream=("x",))
    moves = chain().moves
    best = likeliest(found, lambda tokens: True)
    assert best is not None

    def log_p(tokens: np.ndarray) -> float:
        run = [1, *(LETTERS.index(bytes_alone().decode([int(t)])) for t in tokens), 2]
        return float(sum(np.log(moves[a, b]) for a, b in pairwise(run)))

    assert log_p(best.tokens) == max(log_p(each.tokens) for each in found)
    assert len({len(each.tokens) for each in found}) > 3
    assert likeliest(found, lambda tokens: False) is None


def test_a_walk_with_a_budget_opens_several_gaps_in_a_call() -> None:
    """The budget is that of the walk that is asked for; without one, one gap is opened in a call."""
    tries = Tries.of(np.array(ids(b"ab")), np.array(ids(b"ca")), GAPS, 24, 40)
    calls = []
    for solver in ("confidence", "entropy_bound:budget=0.1", "entropy_bound:budget=50"):
        asked = model(24)
        asked = replace(asked, walk=replace(asked.walk, solver=solver), given=Walk(batch=40))
        texts = opened(asked, tries, range(40), temperature=1.0, stream=("few",))
        assert len({len(each.tokens) for each in texts}) > 3
        network: Any = asked.denoiser.network
        calls.append(len(network.seen))
    assert calls[0] > calls[1] > calls[2]


def test_all_but_the_holes_is_kept_to_the_byte() -> None:
    text = b"\taab<fill>\r\nbca<fill:2>b\xc3\xa9<fill>"
    (written,) = fill_open(model(24), of(text), marked(text), 1, tries=2)
    known = [b"\taab", b"\r\nbca", b"b\xc3\xa9", b""]
    assert written.startswith(known[0])
    place = 0
    for part in known:
        place = written.index(part, place) + len(part)
    rest = written
    for part in known:
        rest = rest.replace(part, b"", 1)
    assert set(rest) <= set(LETTERS)
    assert fill_open(model(24), of(text), marked(text), 2, tries=2)[0] == written  # a draw depends on its number alone


def test_lines_and_edges() -> None:
    text = b"abc\nabc\nabc"
    for lines in ("1", "2", "3", "1:3"):
        (written,) = fill_open(model(24), of(text), of_lines(text, [lines]), 1, tries=1)
        kept = [line for n, line in enumerate(text.split(b"\n"), 1) if not (lines == "1:3" or str(n) == lines)]
        assert all(line in written for line in kept)


def test_a_long_text_is_seen_as_far_as_a_row_of_training_is_long() -> None:
    before, after = np.arange(100), np.arange(100, 200)
    row = Tries.of(before, after, GAPS, 32, 1)
    assert (len(row.before), len(row.after)) == (12, 11)
    assert row.before.tolist() == list(range(88, 100))
    assert row.after.tolist() == list(range(100, 111))
    assert row.most == 9
    short = Tries.of(before[:3], after, GAPS, 32, 1)
    assert (len(short.before), len(short.after)) == (3, 20)
    assert Tries.of(before, after[:2], GAPS, 32, 1).before.tolist() == list(range(79, 100))


def test_a_hole_longer_than_a_window() -> None:
    with pytest.raises(DataError, match="hole 2 is 40 tokens long: must be from 1 to 32"):
        fill_open(model(), of(b"a<fill>b<fill:40>"), marked(b"a<fill>b<fill:40>"), 1, tries=1)
