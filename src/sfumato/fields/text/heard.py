r"""Bits per byte where what was read before counts: a run and all that it has read.

What the network says of a hidden token is mixed with what stands between the same neighbours elsewhere (`echo`): in the text
that was learned from, and in the document itself, as far as it stands before the block that is scored. Four laws are asked,

    the network's,    + the learned text,    + the document,    + both,

each of the last three by Witten-Bell back-off to the network's, and what is scored is their mean, weighted by how well each has
said the blocks before (a Bayesian mixture, per document; for each of: known neighbours on the left, on the right, on both sides).
The weights depend on what was read before alone, so that the bound stays one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from sfumato.fields.text.bits import Asked, Scores, Span
from sfumato.fields.text.echo import REACH, Source, known_around


class Said(NamedTuple):
    """What each law said of a token that was hidden: the number of its span, 1 for neighbours on the left alone, 2 on the right,
    3 on both sides, 0 on none; the probabilities (LAWS,), and how many times its surprise counts."""

    span: int
    sides: int
    p: np.ndarray
    times: float


LAWS = 4


@dataclass(frozen=True, eq=False)
class Heard:
    """The text that was learned from, and the documents, an end before and after each."""

    learned: Source | None
    documents: Sequence[Source]

    @classmethod
    def of(cls, train: np.ndarray, documents: Sequence[np.ndarray], end: int) -> Heard:
        """Of tokens (n,) that were learned from, and of documents (n,)."""
        whole = [Source(np.concatenate([[end], ids, [end]]).astype(np.int64)) for ids in documents]
        return cls(Source(np.asarray(train).astype(np.int64)) if len(train) > 8 else None, whole)

    def laws(
        self, p: float, token: int, left: Sequence[int], right: Sequence[int], document: int, before: int
    ) -> np.ndarray:
        """The probability of a token by each law (LAWS,), where the network's is p: between known neighbours, of what stands
        before a place of the document."""
        learned = p if self.learned is None else _echoed(self.learned, p, token, left, right, None)
        own = self.documents[document]
        return np.array(
            [p, learned, _echoed(own, p, token, left, right, before), _echoed(own, learned, token, left, right, before)]
        )


def _echoed(
    source: Source, p: float, token: int, left: Sequence[int], right: Sequence[int], before: int | None
) -> float:
    """p of a token, backed off to from what stands between its neighbours in a source, longer contexts counting for more."""
    asked_: tuple[Sequence[int], Sequence[int]] | None = None
    for reach in range(1, REACH + 1):
        sides = left[-reach:], right[:reach]
        if sides == asked_:
            break
        asked_ = sides
        there = source.tokens[source.places(*sides, before)]
        if len(there):
            kinds = len(np.unique(there))
            p = (int((there == token).sum()) + kinds * p) / (len(there) + kinds)
    return p


def mixed(said: Iterable[Said], documents: Mapping[int, int], count: int) -> np.ndarray:
    """-log p of what was said, by the mean of the laws, summed by document: (count,) nats. ``documents`` says of which each span
    is; spans are numbered document after document, block after block."""
    nats = np.zeros(count)
    by_span: dict[int, list[Said]] = {}
    for each in said:
        by_span.setdefault(each.span, []).append(each)
    credit: dict[tuple[int, int], np.ndarray] = {}
    for number in sorted(by_span):
        document, new = documents[number], []
        for each in by_span[number]:
            place = document, each.sides
            weights = credit.get(place, np.ones(LAWS))
            shares = weights / weights.sum() * each.p
            total = float(shares.sum())
            nats[document] -= each.times * math.log(max(total, 1e-300))
            new.append((place, shares / max(total, 1e-300)))
        for place, share in new:  # only now: the other tokens of a block are not read yet
            credit[place] = credit.get(place, np.ones(LAWS)) + share
    return nats


class Hearing:
    """Sees what `bits.score` sees, of documents that are scored with these draws, and says what they cost a run that has heard
    the rest."""

    def __init__(self, heard: Heard, draws: int):
        self.heard, self.draws = heard, draws
        self.said: list[Said] = []
        self.documents: dict[int, int] = {}

    def see(self, numbers: Sequence[int], part: Sequence[Span], each: Sequence[Asked]) -> None:
        """One batch: the numbers of its spans, the spans, and its draws."""
        self.documents |= {number: span.document for number, span in zip(numbers, part, strict=True)}
        for one in each:
            open_, p = one.open_.cpu().numpy(), (-one.surprise).exp().cpu().numpy()
            for row, (number, span) in enumerate(zip(numbers, part, strict=True)):
                times, before = 1 / (float(one.share[row]) * self.draws), span.start + span.first
                for place in np.flatnonzero(open_[row]).tolist():
                    left, right = known_around(span.tokens, place, open_[row])
                    laws = self.heard.laws(
                        float(p[row, place]), int(span.tokens[place]), left, right, span.document, before
                    )  # fmt: skip
                    self.said.append(Said(number, bool(left) + 2 * bool(right), laws, times))

    def scores(self, alone: Scores) -> Scores:
        """Bits and bytes of the documents, of which those of the network alone are known."""
        return replace(alone, bits=mixed(self.said, self.documents, len(alone.bits)) / math.log(2))
