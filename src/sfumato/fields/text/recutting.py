"""Wrong tokens that are not seen as tokens: what was put in the place of another was cut anew, or together with its neighbours.

    meant  re|turn| result      there  re|tur|N result      read again as, say,  re|t|ur|N| |result

Whatever a line is cut into, some piece of the vocabulary that stands in it may have been put in the place of another token. So
each such piece is masked with what is before it and after it cut by itself, and the token that is most believed in there is
weighed against what stands there, from left to right and a few tokens on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sfumato.fields.text.believing import CANDIDATES, LONGEST, Edit, Page, laws, log_runs
from sfumato.fields.text.echo import Echo, known_around

if TYPE_CHECKING:
    from sfumato.data.vocabulary import Vocabulary

LENGTH = 16
"""Bytes of a piece, at most, that is looked for."""
ASKED = 16
"""Ways to cut a line that the network is asked about, at most."""
BEYOND = 3
"""Tokens after what differs that are asked, too, how likely they are."""


def cuts(line: np.ndarray, vocabulary: Vocabulary) -> Iterator[tuple[np.ndarray, int, np.ndarray]]:
    """Every way to see a piece in a line, tokens (n,), other than as one of them: the tokens before it, it, those after."""
    text, known = vocabulary.decode(line), {piece: i for i, piece in enumerate(vocabulary.pieces)}
    before = [vocabulary.encode(text[:i]) for i in range(len(text) + 1)]
    after = [vocabulary.encode(text[i:]) for i in range(len(text) + 1)]
    for start in range(len(text)):
        for stop in range(start + 1, min(start + LENGTH, len(text)) + 1):
            piece = known.get(text[start:stop])
            if piece is not None:
                cut = np.concatenate([before[start], [piece], after[stop]])
                if not np.array_equal(cut, line):
                    yield before[start].astype(np.int64), piece, after[stop].astype(np.int64)


def span(was: np.ndarray, now: np.ndarray) -> tuple[int, int, np.ndarray]:
    """[first, last) of the tokens that differ, (n,) and (m,), and what is there now: neither side of it is shared."""
    most = min(len(was), len(now))
    first = next((i for i in range(most) if was[i] != now[i]), most)
    end = next((i for i in range(most - first) if was[-1 - i] != now[-1 - i]), most - first)
    return first, len(was) - end, now[first : len(now) - end]


@dataclass(frozen=True, eq=False)
class Cut:
    """A line of a text with a piece in it: the tokens of the line before it and after it, the tokens of the text so, where the
    piece is among them, how often it comes."""

    before: np.ndarray
    piece: int
    after: np.ndarray
    whole: np.ndarray
    place: int
    comes: float

    def believed(self, echo: Echo, law: np.ndarray, line: tuple[int, int]) -> tuple[float, int]:
        """How likely it is that the piece came in the place of another token, the likeliest, and that token; by a law (V,) and
        what echoes but for the ``line`` itself, [first, last)."""
        none = np.zeros(len(self.whole), dtype=bool)
        own = echo.mixed(law, *known_around(self.whole, self.place, none), skip=line)
        own[self.piece] = 0.0
        return float(own.max() * self.comes), int(own.argmax())


def recut(page: Page, tokens: np.ndarray, free: np.ndarray, doubt: float) -> list[Edit]:
    """Stretches of tokens (N,) that may change (``free``), weighed against what was meant if one token of them became another
    and they were cut anew."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], free.astype(np.int8), [0]])))
    lines = zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
    return [edit for line in lines for edit in _of_line(page, tokens, line, doubt)]


def _of_line(page: Page, tokens: np.ndarray, line: tuple[int, int], doubt: float) -> list[Edit]:
    begin, stop = line
    every = [
        Cut(
            a, piece, b, np.concatenate([tokens[:begin], a, [piece], b, tokens[stop:]]), begin + len(a),
            float(page.comes(np.array([piece]))[0]),
        )
        for a, piece, b in cuts(tokens[begin:stop], page.vocabulary)
    ]  # fmt: skip
    echo, flat = page.echo(tokens), np.full(page.end, 1 / page.end)
    # what echoes alone is soon asked, the network is not
    few = sorted(every, key=lambda cut: -cut.believed(echo, flat, line)[0])[:ASKED]
    told = laws(page, [(cut.whole, np.array([cut.place])) for cut in few])
    near = [(*cut.believed(echo, law[0], line), cut) for cut, law in zip(few, told, strict=True)]
    found = []
    for _, best, cut in sorted(near, key=lambda each: -each[0])[:CANDIDATES]:
        first, last, now = span(tokens[begin:stop], np.concatenate([cut.before, [best], cut.after]))
        if max(last - first, len(now)) > LONGEST:
            continue
        until = min(begin + last + BEYOND, len(tokens) - 1)
        after = tokens[begin + last : until]  # the same in both: else texts of more tokens would be compared with fewer
        both = [np.concatenate([run, after]) for run in (tokens[begin + first : begin + last], now)]
        there, meant = log_runs(page, tokens, begin + first, until, both)
        odds = meant - there + float(np.log(doubt * cut.comes / (1 - doubt)))
        share = float(1 / (1 + np.exp(-odds)))
        found.append(Edit(begin + first, begin + last, now, 1 - share, share))
    return found
