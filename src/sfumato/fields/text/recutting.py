"""Pieces that came in the place of others where the text, as it stands now, is cut into other tokens.

A wrong piece may grow together with its neighbours when the text is cut, or fall apart; then no change of one token mends it. So
each run of bytes that is a piece of the vocabulary and no token of the text is taken as if it had been one, between what the
text before it and the text after it are cut into alone. What could stand there is first asked of the echoes, which costs little;
the few that are likelier than what stands there by most are weighed by the network.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sfumato.fields.text.believing import LONGEST, Page, log_runs
from sfumato.fields.text.echo import FAR, Echo
from sfumato.fields.text.weighing import Edit

DOUBTED = 0.05
"""A run of bytes is looked at where one of the tokens that it is of is no likelier than that."""
EACH, BEST = 3, 4
"""Pieces that are taken for one run of bytes, and runs with another piece that are weighed, at most."""
LEAST = -2.0
"""Nats by which it is likelier than what stands there, at least, to be weighed."""
SELDOM = 0.05
"""How often a wrong piece is cut otherwise, for once that it stays what it is."""
ASIDE = 20
"""Tokens before and after the places that are cut anew with what is before or after a run."""


@dataclass(frozen=True, eq=False)
class Cut:
    """Bytes [start, stop) of a text, of its tokens [first, last): the piece that they are, and one that may have been meant in
    their place, with its share of the echoes, and how much likelier that is than what stands there."""

    start: int
    stop: int
    first: int
    last: int
    piece: int
    meant: int
    share: float
    gain: float


@dataclass(frozen=True, eq=False)
class Cutting:
    """The places (k,) of tokens (N,), an end before and after, and the probability of each token of the text (N,), 1 where
    nobody asked."""

    page: Page
    tokens: np.ndarray
    places: np.ndarray
    own: np.ndarray

    @cached_property
    def starts(self) -> np.ndarray:
        """Where each token begins, and where the last one ends, (N + 1,) bytes."""
        return np.concatenate([[0], np.cumsum(self.page.vocabulary.lengths()[self.tokens])])

    @cached_property
    def text(self) -> bytes:
        return self.page.vocabulary.decode(self.tokens[1:-1])

    @cached_property
    def numbers(self) -> dict[bytes, int]:
        """The token that each piece is."""
        return {piece: token for token, piece in enumerate(self.page.vocabulary.pieces)}

    def runs(self) -> list[tuple[int, int, int, int]]:
        """(start, stop, first, last) of the runs of bytes that are pieces and no tokens here, within the places; one of their
        tokens is doubted."""
        starts, longest = self.starts, max(map(len, self.numbers))
        free, found = np.zeros(len(self.tokens), dtype=bool), []
        free[self.places] = True
        for start in range(int(starts[self.places[0]]), int(starts[self.places[-1] + 1])):
            first = int(np.searchsorted(starts, start, side="right")) - 1
            for stop in range(start + 1, min(len(self.text), start + longest) + 1):
                last = int(np.searchsorted(starts, stop))
                if last - first > LONGEST or not free[first:last].all():
                    break
                whole = last == first + 1 and (start, stop) == (starts[first], starts[last])
                if not whole and self.own[first:last].min() <= DOUBTED and self.text[start:stop] in self.numbers:
                    found.append((start, stop, first, last))
        return found

    def likely(self, echo: Echo) -> list[Cut]:
        """The most promising, by the echoes alone."""
        encode, common, found = self.page.vocabulary.encode, echo.common, []
        low = int(self.starts[max(1, self.places[0] - ASIDE)])
        high = int(self.starts[min(len(self.tokens) - 1, self.places[-1] + 1 + ASIDE)])
        before: dict[int, list[int]] = {}
        after: dict[int, list[int]] = {}
        for start, stop, first, last in self.runs():
            if start not in before:
                before[start] = encode(self.text[low:start]).tolist()[-FAR:]
            if stop not in after:
                after[stop] = encode(self.text[stop:high]).tolist()[:FAR]
            law = echo.between(common, before[start], after[stop], (first, last))
            piece = self.numbers[self.text[start:stop]]
            stands = np.log(self.own[first:last].clip(1e-9)).sum() - np.log(common[piece])
            for meant in np.argsort(-law, kind="stable")[:EACH].tolist():
                share = float(law[meant])
                gain = float(np.log(share) - stands)
                if meant != piece and gain > LEAST:
                    found.append(Cut(start, stop, first, last, piece, meant, share, gain))
        return sorted(found, key=lambda each: -each.gain)[:BEST]

    def edits(self, doubt: np.ndarray) -> list[Edit]:
        """What was meant with the probability that the network and the echoes give it, where each token was not with that of
        `doubt` (N,)."""
        echo, encode, found = self.page.echo(self.tokens), self.page.vocabulary.encode, []
        for cut in self.likely(echo):
            head = self.text[self.starts[cut.first] : cut.start] + self.page.vocabulary.pieces[cut.meant]
            run = encode(head + self.text[cut.stop : self.starts[cut.last]]).astype(np.int64)
            stood, now = log_runs(self.page, self.tokens, cut.first, cut.last, [self.tokens[cut.first : cut.last], run])
            wrong = float(doubt[cut.first] / (1 - doubt[cut.first]))
            odds = SELDOM * wrong * echo.common[cut.piece] * float(np.exp(min(now - stood, 300.0)))
            whole = 1 + odds / max(cut.share, 1e-9)
            found.append(Edit(cut.first, cut.last, run, 1 / whole, odds / whole, rest=1 - (1 + odds) / whole))
        return found
