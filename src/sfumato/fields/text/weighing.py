"""What may have been meant at several places of a text, weighed against each other by what is around.

A wrong token is doubted, and so are its neighbours; of what may have been meant at them, and of several tokens at one, that
was meant which makes the others likelier. By a consistent law p(v | rest) would say all there is to say; what a network and
echoes say of a token and of its neighbours are different guesses, and together they are better.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from sfumato.fields.text.believing import APART, Page, laws
from sfumato.fields.text.echo import known_around

BESIDE = 3
"""Tokens on each side of a change that are asked whether it makes them likelier."""
NEAR = 64
"""Tokens, at most, that are in sight of them."""
LEAN = 0.5
"""How much their answer counts beside that of what is looked at."""
MANY = 6
"""Changes, at most, that are compared with each other."""
CLOSE = 6.0
"""Nats within which two are so close that the neighbours are asked: they rarely say more."""


@dataclass(frozen=True, eq=False)
class Edit:
    """Tokens [first, last) of a text and what was meant in their place; the probability that they were meant, that it was, and
    that something was of which no edit is; how much is to be said for it, in nats, beside others."""

    first: int
    last: int
    tokens: np.ndarray
    doubted: float
    sure: float
    gain: float = 0.0
    rest: float = 0.0

    @property
    def odds(self) -> float:
        """log of how much likelier it is that it was meant than that what stands there was."""
        return math.log(max(self.sure, 1e-30) / max(self.doubted, 1e-30))

    def touches(self, other: Edit, apart: int = 0) -> bool:
        """Whether they change the same token, or lie closer together than `apart`."""
        return self.first < other.last + apart and other.first < self.last + apart


def weighed(page: Page, tokens: np.ndarray, edits: Sequence[Edit]) -> list[Edit]:
    """The edits with their gains, how much likelier they make what is around and what they change, where there is a choice
    between neighbours."""
    ordered = sorted(edits, key=lambda each: each.first)
    if not any(a.touches(b, APART - 1) for a, b in pairwise(ordered)):
        return ordered
    return [replace(edit, gain=gain) for edit, gain in zip(ordered, around(page, tokens, ordered, True), strict=True)]


def compared(page: Page, tokens: np.ndarray, edits: Sequence[Edit]) -> list[Edit]:
    """The most promising edits, with the probabilities that they have when their neighbours are asked too, and when only one of
    those that change the same token was meant."""
    if not edits:
        return []
    best = sorted(edits, key=lambda each: -each.odds)[:MANY]
    open_ = [edit for edit in best if edit.odds > max(-CLOSE, best[0].odds - CLOSE)]
    if len(open_) == 1 and open_[0].odds > CLOSE:
        open_ = []
    gains = [*around(page, tokens, open_, False), *[0.0] * (len(best) - len(open_))]
    odds = [edit.odds + LEAN * gain for edit, gain in zip(best, gains, strict=True)]
    found = []
    for edit, own in zip(best, odds, strict=True):
        rivals = [(other, value) for other, value in zip(best, odds, strict=True) if other.touches(edit)]
        rest = max(other.rest / max(other.doubted, 1e-30) for other, _ in rivals)
        whole = 1 + rest + sum(math.exp(min(value, 300.0)) for _, value in rivals)
        found.append(replace(edit, doubted=1 / whole, sure=math.exp(min(own, 300.0)) / whole, gain=own))
    return found


def around(page: Page, tokens: np.ndarray, edits: Sequence[Edit], own: bool) -> list[float]:
    """How much likelier each edit makes the tokens up to BESIDE places from it, each given all others, in nats; its own ones
    too, or not."""
    asked: dict[tuple[int, int], int] = {}  # (number of the text, 0 what stands there; place) -> number of the row
    rows: list[tuple[np.ndarray, np.ndarray]] = []
    echoes, sums = [], []
    for number, edit in enumerate(edits, 1):
        after = np.concatenate([tokens[: edit.first], edit.tokens, tokens[edit.last :]])
        for which, text, last in ((0, tokens, edit.last), (number, after, edit.first + len(edit.tokens))):
            echo, none = page.echo(text), np.zeros(len(text), dtype=bool)
            every = range(max(1, edit.first - BESIDE), min(len(text) - 1, last + BESIDE))
            places = [place for place in every if own or not edit.first <= place < last]
            for place in places:
                if (which, place) not in asked:
                    asked[which, place] = len(rows)
                    rows.append((text, np.array([place])))
                    echoes.append((echo, known_around(text, place, none), (place, place + 1)))
            sums.append([asked[which, place] for place in places])
    log_p = np.zeros(len(rows))
    for row, (law, (echo, sides, skip)) in enumerate(
        zip(laws(replace(page, window=min(page.window, NEAR)), rows), echoes, strict=True)
    ):
        text, (place,) = rows[row]
        if text[place] < page.end:
            log_p[row] = math.log(max(float(echo.between(law[0], *sides, skip=skip)[text[place]]), 1e-30))
    said = [float(log_p[part].sum()) for part in sums]
    return [after - before for before, after in zip(said[::2], said[1::2], strict=True)]


def spaced(edits: Sequence[Edit]) -> list[Edit]:
    """Those for which most is to be said first, of equal ones the surest, none closer than APART to one before: the others wait
    until that stands."""
    chosen: list[Edit] = []
    for edit in sorted(edits, key=lambda each: (-each.gain, -each.sure, each.first)):
        if not any(edit.touches(other, APART - 1) for other in chosen):
            chosen.append(edit)
    return chosen
