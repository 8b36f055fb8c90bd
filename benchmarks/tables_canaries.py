"""Odd rows planted among the training rows: how many come back?

A canary is a row of cells that real rows have, each from a row of its own, so every column is usual and the whole is not.
Twenty are planted once and twenty ten times; two hundred more are made alike and not planted. A canary is back if a made row
equals it to the letter, and the nearest made row tells the planted ones from the others where they were learned by heart.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import tables_methods
from benchmarks.tables_sets import Set
from sfumato.fields.tables.copies import copied
from sfumato.fields.tables.frames import frames, nearest, spread
from sfumato.fields.tables.table import Table
from sfumato.fields.tables.trees import auc
from sfumato.training.options import TrainOptions

PLANTED, TIMES, OTHERS = 20, 10, 200
DRAWN = 20_000


def odd(train: Table, n: int, seed: int = 0) -> Table:
    """Rows of cells from n different rows each."""
    return tables_methods.independent(train, n, seed)


def planted(train: Table, once: Table, often: Table) -> Table:
    """The training rows with canaries among them, in an order of its own."""
    whole = tables_methods.stacked([train, once, *[often] * TIMES])
    return whole.take(np.random.default_rng(0).permutation(len(whole)))


def returned(made: Table, canaries: Table) -> int:
    """How many of the canaries a made row equals to the letter."""
    return round(copied(canaries, made)[0] * len(canaries))


def canaries(each: Set, train: Table, out: Path, options: TrainOptions) -> dict[str, Any]:
    """Train with canaries, draw, and look for them."""
    groups = odd(train, 2 * PLANTED + OTHERS, seed=99)
    once, often, others = (
        groups.take(np.arange(*ends))
        for ends in ((0, PLANTED), (PLANTED, 2 * PLANTED), (2 * PLANTED, 2 * PLANTED + OTHERS))
    )
    model, taken = tables_methods.trained(each, planted(train, once, often), out, options)
    n = min(DRAWN, len(train))
    made, _ = tables_methods.drawn(model, n)
    frame, *kinds = frames([made, once, often, others], model.facts)
    scale = spread(frame)
    apart = [-nearest(kind, frame, scale) for kind in kinds]
    found: dict[str, Any] = {"training": taken["cpu"], "drawn": n, "planted": PLANTED}
    for name, kind, near in (("once", once, apart[0]), (f"{TIMES} times", often, apart[1])):
        scores, truth = np.concatenate([near, apart[2]]), np.repeat([1, 0], [PLANTED, OTHERS])
        found[name] = {"back": returned(made, kind), "told from others": auc(scores, truth)}
    return found
