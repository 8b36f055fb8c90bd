"""What was meant where the text is cut otherwise, and what is around decides between what may have been meant."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("tokenizers", reason="needs the extra sfumato[text]")

from sfumato.data.vocabulary import Vocabulary
from sfumato.diffusion import Denoiser, Masked
from sfumato.fields.text.believing import Page, beliefs
from sfumato.fields.text.recutting import DOUBTED, Cutting
from sfumato.fields.text.repairing import singly
from sfumato.fields.text.weighing import Edit, compared, spaced

LINE = b"take value of name; values named value take name\n"
PIECES = Vocabulary.fit([LINE * 20], 300)
END = len(PIECES)


def page(network: Any = None) -> Page:
    def flat(x: torch.Tensor, level: torch.Tensor, **condition: Any) -> torch.Tensor:
        return torch.zeros(*x.shape, END + 1)

    return Page(Denoiser(network or flat, Masked(END + 1)), PIECES, 64, 32)


def tokens_of(text: bytes) -> np.ndarray:
    return np.concatenate([[END], PIECES.encode(text), [END]]).astype(np.int64)


CROSSED = Vocabulary.fit([b"ab bc ca abc bca\n" * 20], 300)
"""Whose pieces overlap: `abcab` can be cut in many ways, and is cut in one."""


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    text=st.text("abc \n", min_size=3, max_size=14).map(str.encode).filter(lambda text: len(CROSSED.encode(text)) > 1),
    data=st.data(),
)
def test_the_runs_are_all_the_pieces_that_the_text_is_not_cut_into(text: bytes, data: st.DataObject) -> None:
    """By brute force over all pairs of places of the text."""
    end = len(CROSSED)
    tokens = np.concatenate([[end], CROSSED.encode(text), [end]]).astype(np.int64)
    low = data.draw(st.integers(1, len(tokens) - 2))
    places = np.arange(low, data.draw(st.integers(low, len(tokens) - 2)) + 1)
    own = np.array(data.draw(st.lists(st.sampled_from([0.01, 0.5]), min_size=len(tokens), max_size=len(tokens))))
    cutting = Cutting(Page(page().denoiser, CROSSED, 64, 32), tokens, places, own)
    cuts = np.cumsum([0, *CROSSED.lengths()[tokens[1:-1]]])
    wanted = []
    for start in range(len(text)):
        for stop in range(start + 1, len(text) + 1):
            over = [1 + i for i in range(len(cuts) - 1) if cuts[i] < stop and cuts[i + 1] > start]
            whole = len(over) == 1 and (cuts[over[0] - 1], cuts[over[0]]) == (start, stop)
            if (
                set(over) <= set(places.tolist())
                and text[start:stop] in CROSSED.pieces
                and not whole
                and len(over) <= 10
            ):
                wanted += [(start, stop, over[0], over[-1] + 1)] if min(own[over]) <= DOUBTED else []
    assert sorted(cutting.runs()) == sorted(wanted)


def test_a_piece_that_grew_together_with_its_neighbour_is_found_by_cutting_anew() -> None:
    """' of' became 's', and ' value' 's' is one token, ' values': the network knows nothing, the lines around do."""
    right, broken = (
        b"take value of name; values named value take name\n",
        b"take values name; values named value take name\n",
    )
    tokens = tokens_of(LINE * 20 + broken + LINE * 19)
    first = 1 + len(PIECES.encode(LINE * 20))
    places = np.arange(first, first + len(PIECES.encode(broken)))
    doubt = np.full(len(tokens), 0.99)
    of = page()
    of = Page(of.denoiser, PIECES, 64, 32, learned=())
    edits, own = singly(of, tokens, places, doubt, None)
    assert len(PIECES.encode(broken)) < len(PIECES.encode(right))

    def after(edit: Edit) -> bytes:
        return PIECES.decode(np.concatenate([tokens[1 : edit.first], edit.tokens, tokens[edit.last : -1]]))

    wanted = LINE * 40
    assert not any(after(edit) == wanted for edit in edits)
    made = Cutting(of, tokens, places, own).edits(doubt)
    assert [after(edit) == wanted for edit in made] == [True, *[False] * (len(made) - 1)]
    assert made[0].sure > 0.5 > made[0].doubted
    assert all(edit.doubted + edit.sure + edit.rest == pytest.approx(1) for edit in made)
    assert all(edit.sure < 0.1 for edit in made[1:])


def test_of_a_network_whose_tokens_are_strangers_comparing_changes_nothing() -> None:
    """Nothing is around that could speak: the probabilities are those of the channel at each token."""
    law = torch.linspace(0, 3, END + 1).double()
    of = Page(page(lambda x, level, **condition: law.expand(*x.shape, -1)).denoiser, PIECES, 64, 32, learned=None)
    tokens = tokens_of(b"xyxyxyxyx")
    edits, _ = singly(of, tokens, np.array([4]), np.full(len(tokens), 0.5), None)
    found = compared(of, tokens, edits)
    assert len(found) == len(edits) > 1
    for before, now in zip(sorted(edits, key=lambda each: -each.sure), found, strict=True):
        assert (now.first, now.tokens.tolist()) == (before.first, before.tokens.tolist())
        assert now.sure == pytest.approx(before.sure, rel=1e-6)
        assert now.doubted == pytest.approx(before.doubted, rel=1e-6)


def test_of_two_tokens_that_fit_as_well_the_neighbours_choose() -> None:
    """At its place b and c are as likely, and a is not; what comes after is likelier after a c."""
    a, b, c, y = (int(PIECES.encode(letter)[0]) for letter in (b"A", b"B", b"C", b"Y"))

    def network(x: torch.Tensor, level: torch.Tensor, **condition: Any) -> torch.Tensor:
        answer = torch.full((*x.shape, END + 1), -20.0)
        answer[..., [b, c]] = 0.0
        after = torch.nn.functional.pad(x, (1, 0), value=END)[:, :-1]
        answer[..., y] = torch.where(after == c, 5.0, torch.where((after == a) | (after == b), -5.0, -20.0))
        return answer

    of, tokens = Page(page(network).denoiser, PIECES, 64, 32, learned=None), tokens_of(b"AY")
    edits, _ = singly(of, tokens, np.array([1]), np.full(len(tokens), 0.5), None)
    shares = {int(edit.tokens[0]): edit.sure for edit in edits}
    assert shares[b] == pytest.approx(shares[c], rel=1e-3)
    found = {int(edit.tokens[0]): edit for edit in compared(of, tokens, edits)}
    assert found[c].sure > 0.9 > 0.1 > found[b].sure
    assert spaced(list(found.values()))[0].tokens.tolist() == [c]
    belief = beliefs(of, tokens, [np.array([1])], most=2)
    assert set(belief.best[1].tolist()) == {b, c}
