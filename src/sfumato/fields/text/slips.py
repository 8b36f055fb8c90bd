"""Slips of typing: the words that one wrong, missing, doubled or swapped letter may have made of another, and how likely."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

WORD = re.compile(rb"[A-Za-z_][A-Za-z0-9_]{2,39}")
LETTERS = 63
"""Signs that a slip may write: letters, digits, the underscore."""


def counted(texts: Iterable[bytes]) -> Counter[bytes]:
    """How often each word stands in texts."""
    found: Counter[bytes] = Counter()
    for text in texts:
        found.update(WORD.findall(text))
    return found


def without(word: bytes) -> set[bytes]:
    """The word without one of its letters, and itself."""
    return {word, *(word[:i] + word[i + 1 :] for i in range(len(word)))}


def likelihood(seen: bytes, meant: bytes) -> float:
    """Probability that one slip makes ``seen`` of ``meant``: left out, put in, swapped with the next or another one, as likely
    each, anywhere in the word; 0 where it takes more than one slip."""
    n, m = len(meant), len(seen)
    if seen == meant or abs(n - m) > 1:
        return 0.0
    if m == n - 1:
        return sum(meant[:i] + meant[i + 1 :] == seen for i in range(n)) / (4 * n)
    if m == n + 1:
        return sum(seen[:i] + seen[i + 1 :] == meant for i in range(m)) / (4 * m * LETTERS)
    apart = [i for i in range(n) if seen[i] != meant[i]]
    if len(apart) == 1:
        return 1 / (4 * n * (LETTERS - 1))
    if len(apart) == 2 and apart[1] == apart[0] + 1:
        i = apart[0]
        return (seen[i] == meant[i + 1] and seen[i + 1] == meant[i]) / (4 * max(1, n - 1))
    return 0.0


@dataclass(frozen=True, eq=False)
class Lexicon:
    """Words that may have been meant, and how often they stand somewhere."""

    counts: Mapping[bytes, int]

    @cached_property
    def _near(self) -> dict[bytes, list[bytes]]:
        found: defaultdict[bytes, list[bytes]] = defaultdict(list)
        for word in self.counts:
            for less in without(word):
                found[less].append(word)
        return dict(found)

    def meant(self, seen: bytes) -> dict[bytes, float]:
        """The words of which one slip makes ``seen``, and how likely it does."""
        near = {word for less in without(seen) for word in self._near.get(less, ())}
        return {word: p for word in near if (p := likelihood(seen, word)) > 0}


def words(text: bytes) -> Iterator[tuple[int, bytes]]:
    """Where each word of a text begins, and the word."""
    for match in WORD.finditer(text):
        yield match.start(), match.group()
