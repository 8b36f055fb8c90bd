"""A text with holes, filled by a run: as many holes at a time as a window holds, the rest kept to the byte.

Holes far apart are filled one group after the other, from the top; what was written into the earlier ones is in sight of
the later. A draw that is no text in the file's encoding (half a character, or one that it has not) is drawn again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sfumato.errors import DataError
from sfumato.fields.text.grammar import Accepts, everything
from sfumato.fields.text.originals import Hole, Original
from sfumato.fields.text.queries import TextQueries
from sfumato.fields.text.writing import Layout, in_window

if TYPE_CHECKING:
    from sfumato.data.vocabulary import Vocabulary
    from sfumato.jobs.model import Model

TRIES = 50
"""Draws of a hole, at most, until one is text in the encoding of the file."""

Look = Callable[[bytes, bytes, bytes], None]
"""Before, being written, after: of the first draw."""


@dataclass(frozen=True, eq=False)
class Draft:
    """A text as tokens: `tokens` (N,) int64 with an end before and after; `hole` (N,) says which of its `count` holes a token
    is of, -1 for what is known."""

    tokens: np.ndarray
    hole: np.ndarray
    count: int

    @classmethod
    def of(cls, text: bytes, holes: Sequence[Hole], vocabulary: Vocabulary, usual: int | None) -> Draft:
        """Of a text with holes, in order. A hole that does not say how long it is has `usual` tokens; None: as many as stand
        there."""
        parts, number, place = [np.array([vocabulary.end])], [np.array([-1])], 0
        for i, hole in enumerate(holes):
            known = vocabulary.encode(text[place : hole.start])
            there = usual or max(1, len(vocabulary.encode(text[hole.start : hole.stop])))
            count = there if hole.tokens is None else hole.tokens
            parts += [known, np.full(count, vocabulary.end)]
            number += [np.full(len(known), -1), np.full(count, i)]
            place = hole.stop
        rest = np.concatenate([vocabulary.encode(text[place:]), [vocabulary.end]])
        parts, number = [*parts, rest], [*number, np.full(len(rest), -1)]
        return cls(np.concatenate(parts).astype(np.int64), np.concatenate(number).astype(np.int64), len(holes))

    def rounds(self, window: int) -> list[tuple[int, int, int, int]]:
        """(first hole, last hole, start, stop): which holes are filled together, and the tokens that are in sight then.

        Neighbours go together as long as they and what is between them take up to half a window. Raises DataError for a hole
        of no tokens, or longer than a window.
        """
        found: list[tuple[int, int, int, int]] = []
        spans = []
        for i in range(self.count):
            where = np.flatnonzero(self.hole == i)
            if not 1 <= len(where) <= window:
                raise DataError(
                    f"hole {i + 1} is {len(where)} tokens long: must be from 1 to {window}, the window of this run"
                )
            spans.append((int(where[0]), int(where[-1]) + 1))
        i = 0
        while i < len(spans):
            last = i
            while last + 1 < len(spans) and spans[last + 1][1] - spans[i][0] <= window // 2:
                last += 1
            start, stop = in_window(spans[i][0], spans[last][1], len(self.tokens), window)
            found.append((i, last, start, stop))
            i = last + 1
        return found


def fill(
    model: Model,
    original: Original,
    holes: Sequence[Hole],
    draws: int = 1,
    *,
    usual: int | None = None,
    temperature: float = 0.7,
    tries: int = 1,
    accepts: Accepts = everything,
    look: Look | None = None,
) -> list[bytes]:
    """The text with its holes filled, ``draws`` times, as UTF-8; what is known of it is the same to the byte.

    Args:
        usual: tokens of a hole that does not say how long it is; None: as many as stand there.
        tries, accepts: holes that are filled together are drawn up to so many times until what stands in all holes up to them
            is accepted; where none is, the first stays.
        look: told what stands in the holes of the first draw as far as it is guessed, each time that it changes.

    Draw i depends on the seed and i alone. Raises DataError for holes that do not fit into a window, or into which nothing is
    written that is text in the file's encoding.
    """
    recipe: Any = model.recipe
    vocabulary = recipe.vocabulary(model.run)
    draft = Draft.of(original.text, holes, vocabulary, usual)
    rounds = draft.rounds(model.facts.window)
    walk = replace(model.walk, batch=model.given.batch or min(draws, 16))  # one draw need not wait for sixteen
    rows = np.repeat(draft.tokens[None], draws, 0)
    done = draft.hole < 0
    for turn, (first, last, start, stop) in enumerate(rounds):
        mine = (draft.hole >= first) & (draft.hole <= last)
        layout = Layout(draft.tokens[start:stop], done[start:stop], ends=False)
        see = _Seeing(look, rows[0], mine, slice(start, stop), vocabulary)
        waiting, first_of = list(range(draws)), _Firsts(original, accepts)
        for attempt in range(max(TRIES, tries)):
            tails = {number: torch.from_numpy(rows[number, start:stop]) for number in waiting}
            queries = TextQueries(vocabulary, layout, draws, temperature, tails=tails)
            for number, x in _rows(model.draw(queries, waiting, walk=walk, stream=("fill", turn, attempt), look=see)):
                rows[number, mine] = x[mine[start:stop]]
            written = {n: [vocabulary.decode(rows[n, draft.hole == i]) for i in range(last + 1)] for n in waiting}
            waiting = first_of.left(rows, written, first, attempt + 1 >= tries)
            if not waiting:
                break
        else:
            raise DataError(
                f"hole {first + 1}: none of {TRIES} draws is text in {original.encoding}; make it longer, or write it as UTF-8"
            )
        see.tell(rows[0])
        done = done | mine
    return [_joined(original.text, holes, row, draft, vocabulary) for row in rows]


class _Firsts:
    """What was written first in each row that is text in the file's encoding."""

    def __init__(self, original: Original, accepts: Accepts):
        self.original, self.accepts = original, accepts
        self.rows: dict[int, np.ndarray] = {}

    def left(self, rows: np.ndarray, written: Mapping[int, Sequence[bytes]], first: int, last_try: bool) -> list[int]:
        """Which rows are to be written again, of those in which this was written, into holes from the `first` on just now. After
        the last try those that were never accepted stay as they were first."""
        good = {n for n, texts in written.items() if all(map(self.original.can, texts[first:]))}
        self.rows |= {n: rows[n].copy() for n in good if n not in self.rows}
        waiting = [n for n in written if n not in good or not self.accepts(written[n])]
        if not last_try:
            return waiting
        for number in [n for n in waiting if n in self.rows]:
            rows[number] = self.rows[number]
        return [n for n in waiting if n not in self.rows]


def _rows(drawn: Iterator[Any]) -> Iterator[tuple[int, np.ndarray]]:
    for part in drawn:
        yield from zip(part.numbers, part.x.cpu().numpy())


class _Seeing:
    """Tells `look` what stands in the holes of the first draw, `row` (N,), of which `mine` (N,) is written in `window`: the
    guess at it after each call, and at the end what was drawn."""

    def __init__(self, look: Look | None, row: np.ndarray, mine: np.ndarray, window: slice, vocabulary: Vocabulary):
        self.look, self.row, self.mine, self.window, self.vocabulary = look, row, mine, window, vocabulary
        self.last: np.ndarray | None = None

    def __call__(self, numbers: Sequence[int], step: int, steps: int, x: Any) -> None:
        if self.look is not None and 0 in numbers:
            tokens, here = self.row.copy(), self.mine[self.window]
            tokens[self.window][here] = x[list(numbers).index(0)].cpu().numpy()[here]
            self.tell(tokens)

    def tell(self, tokens: np.ndarray, most: int = 64) -> None:
        """Of tokens (N,), if they are others than before."""
        if self.look is None or (self.last is not None and np.array_equal(tokens, self.last)):
            return
        self.last = tokens.copy()
        places = np.flatnonzero(self.mine)
        first, last = int(places[0]), int(places[-1]) + 1
        parts = tokens[max(0, first - most) : first], tokens[first:last], tokens[last : last + most]
        before, written, after = map(self.vocabulary.decode, parts)
        self.look(before, written, after)


def _joined(text: bytes, holes: Sequence[Hole], row: np.ndarray, draft: Draft, vocabulary: Vocabulary) -> bytes:
    """The text's own bytes, with what was written in the place of its holes."""
    parts, place = [], 0
    for i, hole in enumerate(holes):
        parts += [text[place : hole.start], vocabulary.decode(row[draft.hole == i])]
        place = hole.stop
    return b"".join([*parts, text[place:]])
