"""The regions of an antibody's heavy chain: seven runs, framework and loops in turn (FR1, H1, FR2, H2, FR3, H3, FR4).

They come as a string of digits, one a residue: 0 framework, 1 to 3 the loops. Where a sequence brings none, they are those of
the known chain that it is most like, carried over by an alignment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from sfumato.errors import DataError

RUNS = ("FR1", "H1", "FR2", "H2", "FR3", "H3", "FR4")
ORDER = (0, 1, 0, 2, 0, 3, 0)
NONE = 7
"""The run of a residue of a chain without regions."""
FARTHEST = 63
"""Places within a run are counted up to this one."""
ALIKE = 0.45
"""Share of the framework that must equal that of a known chain: of 125 heavy chains that were held out none had less than 0.59,
and a protein of another kind 0.04. So carried over, 99.99 % of the regions of these chains are right."""
TAIL = 3
"""Residues that may follow the framework's end."""


def digits(text: str, length: int, place: str) -> np.ndarray:
    """Regions (L,) int8 of a string of 0-3. Raises DataError for another length, other digits, or loops out of order."""
    if len(text) != length:
        raise DataError(f"{place}: cdr has {len(text)} digits for {length} residues; give one digit, 0 to 3, a residue")
    if wrong := sorted(set(text) - set("0123")):
        raise DataError(f"{place}: cdr has {wrong[0]!r}; give 0 for framework, 1, 2, 3 for the loops")
    found = np.array([int(letter) for letter in text], dtype=np.int8)
    if tuple(found[starts(found)]) != ORDER:
        raise DataError(
            f"{place}: cdr must be framework, loop 1, framework, loop 2, framework, loop 3, framework (0 1 0 2 0 3 0), not "
            f"{' '.join(str(value) for value in found[starts(found)][:12])}"
        )
    return found


def starts(cdr: np.ndarray) -> np.ndarray:
    """Where the runs of equal numbers begin."""
    return np.flatnonzero(np.r_[True, cdr[1:] != cdr[:-1]])


def is_whole(cdr: np.ndarray | None) -> bool:
    """Whether there are all seven runs, in order."""
    return cdr is not None and tuple(cdr[starts(cdr)]) == ORDER


def runs(cdr: np.ndarray | None, length: int) -> np.ndarray:
    """The run of each residue, (L,) int64: 0 to 6, or 7 throughout where there are no regions."""
    if cdr is None:
        return np.full(length, NONE, dtype=np.int64)
    run = np.zeros(length, dtype=np.int64)
    run[starts(cdr)[1:]] = 1
    return run.cumsum()


def lengths(cdr: np.ndarray) -> np.ndarray:
    """Of the seven runs, (7,) int64."""
    return np.diff(np.r_[starts(cdr), len(cdr)])


def places(run: np.ndarray) -> np.ndarray:
    """How far each residue is from the beginning and from the end of its run, (L, 2) int64, at most 63."""
    first = starts(run)
    size = np.diff(np.r_[first, len(run)])
    ahead = np.arange(len(run)) - np.repeat(first, size)
    return np.stack((ahead, np.repeat(size, size) - 1 - ahead), 1).clip(max=FARTHEST)


# ---- carried over from a known chain ------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Known:
    """Chains whose regions are known: codes (L,) and regions (L,) of each."""

    codes: Sequence[np.ndarray]
    cdr: Sequence[np.ndarray]

    def nearest(self, codes: np.ndarray, count: int = 8) -> list[int]:
        """The chains that share most triples of letters with a sequence."""
        own = set(triples(codes).tolist())
        shared = [len(own & set(triples(each).tolist())) for each in self.codes]
        return [int(i) for i in np.argsort(shared, kind="stable")[::-1][:count]]


def triples(codes: np.ndarray) -> np.ndarray:
    """Three letters in a row as one number, (L - 2,)."""
    return codes[:-2] * 441 + codes[1:-1] * 21 + codes[2:]


def aligned(a: np.ndarray, b: np.ndarray, gap: int = 12) -> np.ndarray:
    """For each residue of ``b`` the residue of ``a`` that it stands against, -1 for none: (len(b),) int64.

    Global alignment by identity (Needleman and Wunsch 1970): 20 for equal letters, -10 for others, -gap a residue left out;
    gaps at the ends of either cost nothing. In whole numbers, so that the way back is exact.
    """
    n, m = len(a), len(b)
    score = np.zeros((n + 1, m + 1), dtype=np.int64)
    equal = np.where(a[:, None] == b[None], 20, -10)
    offset = gap * np.arange(m + 1)
    for i in range(1, n + 1):
        best = np.maximum(score[i - 1, 1:] - gap, score[i - 1, :-1] + equal[i - 1])
        row = np.r_[0, best] + offset  # gaps along b: a running maximum
        score[i] = np.maximum.accumulate(row) - offset
    i, j = n, int(score[n].argmax())
    if score[:, m].max() > score[n].max():
        i, j = int(score[:, m].argmax()), m
    found = np.full(m, -1, dtype=np.int64)
    while i > 0 and j > 0:
        if score[i, j] == score[i - 1, j - 1] + equal[i - 1, j - 1]:
            found[j - 1] = i - 1
            i, j = i - 1, j - 1
        elif score[i, j] == score[i - 1, j] - gap:
            i -= 1
        else:
            j -= 1
    return found


def carried(codes: np.ndarray, known: Known, place: str) -> np.ndarray:
    """The regions (L,) int8 of a sequence, from the known chain whose framework it shares most. Raises DataError for one that
    is like none, or that goes on where the domain ends."""
    best, found = 0.0, None
    for at in known.nearest(codes):
        alike, regions = _carried(codes, known.codes[at], known.cdr[at])
        if alike > best:
            best, found = alike, regions
    if found is None or best < ALIKE:
        raise DataError(
            f"{place}: no regions of a heavy chain are found in it: at most {100 * best:.0f} % of the framework of a training "
            f"chain are its own ({100 * ALIKE:.0f} % are needed); give the variable domain of a heavy chain, or its regions (cdr)"
        )
    return found


def _halves(length: int) -> tuple[slice, slice]:
    return slice(0, (length + 1) // 2), slice(length // 2, length)


def _carried(codes: np.ndarray, other: np.ndarray, cdr: np.ndarray) -> tuple[float, np.ndarray | None]:
    """The share of the framework that two chains have in common, and the regions of the first; None where a run would be
    empty."""
    against, run = aligned(codes, other), runs(cdr, len(cdr))
    frame = run % 2 == 0
    alike = float((frame & (against >= 0) & (codes[against.clip(min=0)] == other)).sum() / frame.sum())
    edges = []
    for block in (0, 2, 4, 6):
        own = np.flatnonzero(run == block)
        shift = against[own] - own  # a gap may as well stand a little beside the edge: each half says where its edge is
        halves = [shift[half][against[own][half] >= 0] for half in _halves(len(own))]
        if not all(len(half) for half in halves):
            return alike, None
        first, last = (int(np.median(half)) for half in halves)
        edges.append((max(0, int(own[0]) + first), min(len(codes), int(own[-1]) + 1 + last)))
    edges[0], edges[3] = (0, edges[0][1]), (edges[3][0], len(codes))
    found = np.full(len(codes), -1, dtype=np.int8)
    for loop, ((_, before), (after, _)) in enumerate(pairwise(edges)):
        found[before:after] = loop + 1
    for first, last in edges:
        found[first:last] = 0
    if (found < 0).any():
        return alike, None
    if len(codes) - edges[3][0] > (run == 6).sum() + TAIL:
        return alike, None
    return alike, found if is_whole(found) else None
