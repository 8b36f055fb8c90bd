"""Wrong tokens that are not seen as tokens: what was put in the place of another was cut anew, or together with its neighbours.

    meant  re|turn| result      there  re|tur|N result      read again as, say,  re|t|ur|N| |result

Whatever a line is cut into, some piece of the vocabulary that stands in it may have been put in the place of another token. So
each such piece is masked with what is before it and after it cut by itself, and the token that is most believed in there is
weighed against what stands there, from left to right and a few tokens on.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from sfumato.fields.text.believing import CANDIDATES, LONGEST, Edit, Page, laws, log_runs
from sfumato.fields.text.echo import known_around

if TYPE_CHECKING:
    from sfumato.data.vocabulary import Vocabulary

LENGTH = 16
"""Bytes of a piece, at most, that is looked for."""
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


def recut(page: Page, tokens: np.ndarray, free: np.ndarray, doubt: float) -> list[Edit]:
    """Stretches of tokens (N,) that may change (``free``), weighed against what was meant if one token of them became another
    and they were cut anew (`recutting`)."""
    found = []
    edges = np.flatnonzero(np.diff(np.concatenate([[0], free.astype(np.int8), [0]])))
    for begin, stop in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        line = tokens[begin:stop]
        every = list(cuts(line, page.vocabulary))
        wholes = [np.concatenate([tokens[:begin], a, [piece], b, tokens[stop:]]) for a, piece, b in every]
        rows = [(whole, np.array([begin + len(a)])) for whole, (a, _, _) in zip(wholes, every, strict=True)]
        echo, near = page.echo(tokens), []
        for (a, piece, b), whole, law in zip(every, wholes, laws(page, rows), strict=True):
            place = begin + len(a)
            sides = known_around(whole, place, np.zeros(len(whole), dtype=bool))
            own = echo.mixed(law[0], *sides, skip=(begin, stop))
            own[piece] = 0.0
            near.append((float(own.max() * page.comes(np.array([piece]))[0]), int(own.argmax()), piece, a, b))
        for _, best, piece, a, b in sorted(near, key=lambda each: -each[0])[:CANDIDATES]:
            first, last, now = span(line, np.concatenate([a, [best], b]))
            if max(last - first, len(now)) > LONGEST:
                continue
            until = min(begin + last + BEYOND, len(tokens) - 1)
            after = tokens[
                begin + last : until
            ]  # the same in both: else texts of more tokens would be compared with fewer
            both = [np.concatenate([run, after]) for run in (line[first:last], now)]
            there, meant = log_runs(page, tokens, begin + first, until, both)
            odds = meant - there + float(np.log(doubt * page.comes(np.array([piece]))[0] / (1 - doubt)))
            share = 1 / (1 + np.exp(-odds))
            found.append(Edit(begin + first, begin + last, now, float(1 - share), float(share)))
    return found
