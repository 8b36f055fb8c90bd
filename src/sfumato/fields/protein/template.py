"""What needs no model: the backbone of the nearest known chain, copied.

The template of a chain is the training chain with the same lengths of H1, FR2, H2, FR3 and H3 (FR1 and the end count from the
C end) and the largest score: residues equal outside H3, and five times those equal in it; of equal scores the first. Residues
of FR1 that it lacks are left out of every figure, for every method that is compared with it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sfumato.fields.protein.data import Store
from sfumato.fields.protein.regions import lengths

THIRD = 5
"""How much an equal residue of the third loop counts."""


@dataclass(frozen=True)
class Template:
    """A known chain and how many residues at the C end are compared."""

    chain: int
    common: int


def template(store: Store, chain: int, learned: np.ndarray) -> Template | None:
    """The template of a chain among those to learn from; None where none has the same lengths."""
    codes, cdr = store.codes[store.rows(chain)], store.cdr[store.rows(chain)]
    own = lengths(cdr)[1:]
    best, found = -1, None
    for other in learned:
        rows = store.rows(int(other))
        if not np.array_equal(lengths(store.cdr[rows])[1:], own):
            continue
        common = min(len(codes), rows.stop - rows.start)
        equal, third = codes[-common:] == store.codes[rows][-common:], cdr[-common:] == 3
        score = int(equal[~third].sum() + THIRD * equal[third].sum())
        if score > best:
            best, found = score, Template(int(other), common)
    return found
