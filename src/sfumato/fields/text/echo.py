"""What stands between the same neighbours elsewhere: in the text itself, and in the text that was learned from.

A small network knows its language and not this file; a file repeats itself. So to the network's law of a token are added the
tokens that stand elsewhere between the same one, two and three tokens on both sides, longer contexts counting for more, as in
n-grams with Witten-Bell back-off (Witten and Bell 1991; a cache: Kuhn and De Mori 1990):

    p_k(w | context_k) = (c(context_k w) + T p_(k-1)(w)) / (c(context_k) + T),        p_0 the network's,

T the number of different tokens seen there. What is asked about is never among what is counted.

Between two known neighbours each side says something alone, too, and over a longer way than both together. Were they
independent given the token, p(w | left, right) would be p(w | left) p(w | right) / p(w); they are not, and what stands
between both is known besides, so that the three are pooled with powers (logarithmic opinion pool; Genest and Zidek 1986):

    p(w)  ~  p_both(w)^0.5  (p(w | left) p(w | right))^0.3  p(w)^-0.5.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sfumato.diffusion import Endpoints, Guess
from sfumato.diffusion.guidance import Wrapped
from sfumato.errors import DataError
from sfumato.fields.text.reading import reader
from sfumato.training.run import RunError

if TYPE_CHECKING:
    from sfumato.jobs.model import Model

REACH, FAR = 3, 5
"""Neighbours on each side that are looked at: on both sides together, and on one alone."""
BOTH, ONE, ANY = 0.5, 0.3, 0.5
"""The powers of the pool, as they make single tokens of held-out documents most likely (to .05)."""
MOST = 4096
"""Places that are counted for one context."""
LONGEST = 24
"""Tokens, at most, of a run of unknown length that is looked up."""


@dataclass(frozen=True, eq=False)
class Source:
    """A text (n,) of tokens in which to look up what stands between others."""

    tokens: np.ndarray

    @cached_property
    def base(self) -> int:
        """More than any token."""
        return int(self.tokens.max(initial=0)) + 1

    @cached_property
    def counts(self) -> np.ndarray:
        """How often each token stands there."""
        return np.bincount(self.tokens, minlength=1)

    def _sorted(self, first: int, second: int) -> tuple[np.ndarray, np.ndarray]:
        """Places in the order of the pair of tokens that stands at these distances from them, and the pairs in that order."""
        place = np.arange(2, len(self.tokens) - 2)
        pairs = self.tokens[place + first].astype(np.int64) * self.base + self.tokens[place + second]
        order = np.argsort(pairs, kind="stable")
        return place[order].astype(np.int32), pairs[order]

    @cached_property
    def _around(self) -> tuple[np.ndarray, np.ndarray]:
        return self._sorted(-1, 1)

    @cached_property
    def _after(self) -> tuple[np.ndarray, np.ndarray]:
        return self._sorted(-2, -1)

    @cached_property
    def _before(self) -> tuple[np.ndarray, np.ndarray]:
        return self._sorted(1, 2)

    def places(self, left: Sequence[int], right: Sequence[int], before: int | None = None) -> np.ndarray:
        """Where these tokens stand on the left and on the right, at most MOST places: of one side alone two at least. Nothing
        from the place ``before`` on is looked at."""
        if left and right:
            pair, index = (left[-1], right[0]), self._around
        elif len(left) > 1:
            pair, index = (left[-2], left[-1]), self._after
        elif len(right) > 1:
            pair, index = (right[0], right[1]), self._before
        else:
            return np.zeros(0, dtype=np.int64)
        if max(pair) >= self.base:
            return np.zeros(0, dtype=np.int64)
        order, pairs = index
        first, last = np.searchsorted(pairs, pair[0] * self.base + pair[1] + np.array([0, 1]))
        if before is not None:  # of one pair the places are in order
            last = first + np.searchsorted(order[first:last], before - len(right))
        found = order[first : last : 1 + (last - first) // MOST].astype(np.int64)
        for distance, token in [(-i, t) for i, t in enumerate(reversed(left), 1)] + list(enumerate(right, 1)):
            at = found + distance
            inside = (at >= 0) & (at < len(self.tokens))
            found = found[inside & (self.tokens[at.clip(0, len(self.tokens) - 1)] == token)]
        return found


@dataclass(frozen=True, eq=False)
class Echo:
    """The sources, the nearer later, and the first token that is no text."""

    sources: tuple[Source, ...]
    end: int

    def runs(
        self, left: Sequence[int], right: Sequence[int], known: Mapping[tuple[int, ...], float]
    ) -> dict[tuple[int, ...], float]:
        """The law of what stands between known neighbours, of whatever length, where the network's of some runs is `known`:
        by the back-off of `mixed`, from two neighbours on each side on."""
        law = dict(known)
        for source in self.sources:
            for reach in range(2, REACH + 1):
                there = runs(source, left[-reach:], right[:reach], LONGEST)
                there = Counter({run: n for run, n in there.items() if all(token < self.end for token in run)})
                if there:
                    total = there.total() + len(there)
                    law = {run: (there[run] + len(there) * law.get(run, 0.0)) / total for run in {**law, **there}}
        return law

    @cached_property
    def common(self) -> np.ndarray:
        """How often each token comes in all sources, (V,)."""
        counts = np.ones(self.end)
        for source in self.sources:
            there = source.counts[: self.end]
            counts[: len(there)] += there
        return counts / counts.sum()

    def mixed(
        self, law: np.ndarray, left: Sequence[int], right: Sequence[int], skip: tuple[int, int] = (-1, -1)
    ) -> np.ndarray:
        """A law (V,) of the token between known neighbours, the nearest ones next to it, and what stands there elsewhere.

        skip: places [first, last) of the last source that are not counted: what is asked about stands there.
        """
        sides = [(left[-reach:], right[:reach]) for reach in range(1, REACH + 1)]
        return self._backed_off(law, [each for each, before in zip(sides, [None, *sides]) if each != before], skip)

    def between(
        self, law: np.ndarray, left: Sequence[int], right: Sequence[int], skip: tuple[int, int] = (-1, -1)
    ) -> np.ndarray:
        """As `mixed`, and where both neighbours are known with what each side says alone: the pool above."""
        both = self.mixed(law, left, right, skip)
        if not (left and right):
            return both
        before = self._backed_off(self.common, [(left[-n:], []) for n in range(2, min(FAR, len(left)) + 1)], skip)
        after = self._backed_off(self.common, [([], right[:n]) for n in range(2, min(FAR, len(right)) + 1)], skip)
        if np.array_equal(before, self.common) and np.array_equal(after, self.common):
            return both  # neither was ever seen
        log_p = BOTH * np.log(both.clip(1e-30)) + ONE * np.log(before * after) - ANY * np.log(self.common)
        pooled: np.ndarray = np.exp(log_p - log_p.max())
        return pooled / pooled.sum()

    def _backed_off(
        self, law: np.ndarray, contexts: Sequence[tuple[Sequence[int], Sequence[int]]], skip: tuple[int, int]
    ) -> np.ndarray:
        """A law (V,) and what stands between neighbours in each source, the later of the contexts counting for more."""
        law = law.copy()
        for number, source in enumerate(self.sources):
            for left, right in contexts:
                places = source.places(left, right)
                if number == len(self.sources) - 1:
                    places = places[(places < skip[0]) | (places >= skip[1])]
                there = source.tokens[places]
                counts = np.bincount(there[there < self.end], minlength=self.end)
                if kinds := np.count_nonzero(counts):
                    law = (counts + kinds * law) / (counts.sum() + kinds)
        return law


def runs(source: Source, left: Sequence[int], right: Sequence[int], most: int) -> Counter[tuple[int, ...]]:
    """The runs of up to ``most`` tokens that stand in a source between these neighbours, two on the left at least, and how often
    each does."""
    first = source.places(left, [])
    inside = first[first + most + len(right) <= len(source.tokens)] if len(left) > 1 and right else first[:0]
    found: Counter[tuple[int, ...]] = Counter()
    ended = np.zeros(len(inside), dtype=bool)
    for n in range(most + 1):
        here = ~ended
        for distance, token in enumerate(right):
            here = here & (source.tokens[inside + n + distance] == token)
        for place in inside[here].tolist():
            found[tuple(source.tokens[place : place + n].tolist())] += 1
        ended |= here  # the nearest end of a run is its end
    return found


def known_around(tokens: np.ndarray, place: int, open_: np.ndarray) -> tuple[list[int], list[int]]:
    """The known tokens next to a place of tokens (n,), up to FAR on each side and none beyond an open one (n,)."""
    left, right = [], []
    for at in range(place - 1, max(-1, place - 1 - FAR), -1):
        if open_[at]:
            break
        left.append(int(tokens[at]))
    for at in range(place + 1, min(len(tokens), place + 1 + FAR)):
        if open_[at]:
            break
        right.append(int(tokens[at]))
    return left[::-1], right


# ---- in fillings -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Echoing(Wrapped):
    """A guess of masked tokens in which echoes count. Of a gap it is the law of its token, if it is one, that they change, and
    not whether it is one."""

    base: Guess
    echo: Echo

    def __call__(self, x_t: Tensor, t: Tensor, s: Tensor | None = None, **condition: Any) -> Endpoints:
        ends = self.base(x_t, t, s, **condition)
        tokens, x, text = x_t.cpu().numpy(), ends.x.clone(), self.echo.end
        open_ = tokens > text  # the end of a document is known, too
        for row, place in zip(*(tokens == self.process.mask_id).nonzero(), strict=True):
            around = known_around(tokens[row], int(place), open_[row])
            law = x[row, place, :text].double().exp().cpu().numpy()
            mass = law.sum()
            if mass > 0 and any(around):
                mixed = mass * self.echo.between(law / mass, *around)
                x[row, place, :text] = torch.from_numpy(np.log(mixed.clip(1e-30))).to(x)
        return Endpoints(x, ends.z)


def echoing(model: Model, tokens: np.ndarray) -> Model:
    """The model, told what echoes in a text of tokens (N,), in which an end stands for what is not known."""
    sources = (*learned(model), Source(tokens))
    return replace(model, denoiser=Echoing(reader(model.denoiser), Echo(sources, model.facts.end)))


def echo_of(guess: Any) -> Echo | None:
    """What echoes in a guess, however much is around it; None: nothing does."""
    while guess is not None:
        if isinstance(guess, Echoing):
            return guess.echo
        guess = getattr(guess, "base", None)
    return None


def learned(model: Model) -> tuple[Source, ...]:
    """The text that a run learned from, where it still has it."""
    recipe: Any = model.recipe
    try:
        train = np.asarray(recipe.corpus(model.run).train)
    except (DataError, RunError):  # a run that was moved without its data
        return ()
    return (Source(train.astype(np.int64)),) if len(train) > 8 else ()
