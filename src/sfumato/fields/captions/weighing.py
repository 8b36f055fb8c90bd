"""Captions of unlike weight: how often each of a picture's captions is its turn.

`--caption-column prompt=.5 long=.5` gives each column its share of the times that a picture is seen. A picture has at most
`ROUNDS` turns, so shares are as near as that many turns allow: .9 and .1 become seven turns of eight and one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from sfumato.errors import Wrong

ROUNDS = 8
"""Captions of one picture that are learned from, at most."""


def weighed(columns: Sequence[str]) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """Names of columns and their weights, of "long=.5"; of names alone no weights: all their captions are alike.

    Raises Wrong for a weight that is none, and where some have one and others not.
    """
    pairs = [column.rpartition("=") if "=" in column else (column, "", "") for column in columns]
    given = [sign for _, sign, _ in pairs]
    if any(given) and not all(given):
        bare = next(name for name, sign, _ in pairs if not sign)
        raise Wrong(f"caption_column = {bare!r}: has no weight, and others have; give each one, such as {bare}=.5")
    weights: list[float] = []
    for column, (name, sign, text) in zip(columns, pairs):
        try:
            weight = float(text) if sign else 1.0
        except ValueError:
            weight = math.nan
        if not name or not 0 < weight < math.inf:
            raise Wrong(
                f"caption_column = {column!r}: must be a column, or a column and a weight above 0, such as long=.5"
            )
        weights.append(weight)
    return tuple(name for name, _, _ in pairs), tuple(weights) if any(given) else ()


def turns(weights: Sequence[float], most: int = ROUNDS) -> list[int]:
    """Numbers of captions in the order in which they take turns, each as often as its weight says: the heaviest first, and the
    turns of each spread out. At most so many turns: of more captions the heaviest have one each."""
    order = sorted(range(len(weights)), key=lambda i: (-weights[i], i))[:most]
    kept = [weights[i] / sum(weights[j] for j in order) for i in order]

    def shared(total: int) -> list[int]:
        """So many turns: one each, and the others one by one to whom most is wanting."""
        counts = [1] * len(kept)
        for _ in range(total - len(kept)):
            short = max(range(len(kept)), key=lambda i: (kept[i] * total - counts[i], -i))
            counts[short] += 1
        return counts

    def far(counts: Sequence[int]) -> float:
        return max(abs(count / sum(counts) - share) for count, share in zip(counts, kept))

    counts = min(map(shared, range(len(kept), most + 1)), key=lambda counts: (round(far(counts), 9), sum(counts)))
    places = sorted(((turn + 0.5) / count, i) for i, count in enumerate(counts) for turn in range(count))
    return [order[i] for _, i in places]


def taking_turns(texts: Mapping[str, float]) -> tuple[str, ...]:
    """Captions of a picture, text -> weight, in turn: of equal weight each once, all of them."""
    if len(set(texts.values())) <= 1:
        return tuple(texts)
    every = list(texts)
    return tuple(every[i] for i in turns(list(texts.values())))
