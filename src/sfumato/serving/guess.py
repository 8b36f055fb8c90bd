"""The guess of rows that are guided each in its own way: one call of the network for all, with a hidden twin for those rows
alone that are guided at their time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sfumato.diffusion import Guess, tree
from sfumato.diffusion.paths import Endpoints
from sfumato.diffusion.tree import Tree, own


@dataclass(frozen=True)
class Said:
    """Both sides as they were answered already, for guidance to mix."""

    process: Any
    answers: Mapping[str, Endpoints]

    def given(self, **condition: Tree) -> Tree:
        """Nothing is worked out any more."""
        return condition

    def __call__(self, x_t: Tree, t: Tree, s: Tree | None = None, *, given: Any = None, **beside: Any) -> Endpoints:
        return self.answers[given]


SIDES = {"strong": "strong", "weak": "weak"}


class ByRow:
    """A guess of rows that are guided with a strength, and between times, of their own.

    Args:
        base: the denoiser. strong: what it makes of the conditions, of all rows; None where there are none.
        weak: the same of the hidden ones, of the rows that ``guided`` (B,) says, in order.
        w, low, high: (B,); of rows that are not guided they count nothing.
        around: guidance around what was said, of so many strengths.
        count: told the rows of each call of the network. last: the guess of all rows that was made last.
    """

    def __init__(
        self, base: Guess, strong: Tree, weak: Tree | None, guided: Tensor, w: Tensor, low: Tensor, high: Tensor,
        around: Callable[[Any, Tensor], Any], count: Callable[[int], None],
    ):  # fmt: skip
        self.base, self.strong, self.weak, self.around, self.count = base, strong, weak, around, count
        self.guided, self.w, self.low, self.high = guided, w, low, high
        self.place = guided.long().cumsum(0) - 1  # of a row among the guided ones
        self.all = torch.arange(len(w))
        self.last: Endpoints | None = None

    @property
    def process(self) -> Any:
        return self.base.process

    def given(self, **condition: Tree) -> Tree:
        """What is filled in already."""
        return self.strong

    def __call__(
        self, x_t: Tree, t: Tree, s: Tree | None = None, *, given: Tree | None = None, **beside: Any
    ) -> Endpoints:
        self.last = self._guess(x_t, t, s)
        return self.last

    def _guess(self, x_t: Tree, t: Tree, s: Tree | None) -> Endpoints:
        if self.weak is None:
            return self._called(x_t, t, s, self.all, self.all[:0])
        some, whole, inside = self._inside(t)
        twins = self.all[self.guided & some & (self.w != 1)]
        if not len(twins):
            return self._called(x_t, t, s, self.all, twins)
        plain = ~(self.guided & whole & (self.w == 0))  # of strength 0 all the way the weak side is all there is
        strong_rows = self.all[plain]
        ends = self._called(x_t, t, s, strong_rows, twins)
        n = len(strong_rows)
        strong, weak = (tree.take(ends, part) for part in (slice(n), slice(n, None)))
        if n < len(self.all):
            base = tree.each(lambda value: value.new_zeros((len(self.all), *value.shape[1:])), weak)
            strong = _put(_put(base, strong_rows, strong), self.all[~plain], tree.take(weak, ~plain[twins]))
        mine = tree.take(strong, twins)
        here = tree.take(x_t, twins), tree.take(t, twins)
        w = self.w[twins].to(tree.first(x_t).device)
        mixed = self.around(Said(self.process, {"strong": mine, "weak": weak}), w)(*here, given=SIDES)
        if not bool(whole[twins].all()):
            within = tree.take(inside, twins)
            mixed = Endpoints(_pick(within, mixed.x, mine.x), _pick(within, mixed.z, mine.z))
        return mixed if len(twins) == len(self.all) else _put(strong, twins, mixed)

    def _inside(self, t: Tree) -> tuple[Tensor, Tensor, Tree]:
        """Of each row whether it is guided at any of its times, and at all of them, (B,); and where."""

        def within(u: Tensor) -> Tensor:
            low, high = (a.to(u).reshape(-1, *[1] * (u.ndim - 1)) for a in (self.low, self.high))
            return (u >= low) & (u <= high)

        inside = tree.each(within, t)
        flat = torch.cat([each.reshape(len(each), -1).cpu() for each in tree.leaves(inside)], 1)
        return flat.any(1), flat.all(1), inside

    def _called(self, x_t: Tree, t: Tree, s: Tree | None, rows: Tensor, twins: Tensor) -> Endpoints:
        """One call: these rows on their strong side, and those on their weak one."""
        self.count(len(rows) + len(twins))
        if not len(twins) and len(rows) == len(self.all):
            known = self.strong
            return self.base(x_t, t, s) if known is None else self.base(x_t, t, s, given=known)
        both = torch.cat([rows, twins])
        sides = tree.join(tree.take(self.strong, rows), tree.take(self.weak, self.place[twins]))
        ends = None if s is None else tree.take(s, both)
        return self.base(tree.take(x_t, both), tree.take(t, both), ends, given=sides)


def _put(all_rows: Any, where: Tensor, some: Any) -> Any:
    """All rows, with some of them replaced."""

    def put(value: Tensor, new: Tensor) -> Tensor:
        return value.index_copy(0, where.to(value.device), new.to(value.dtype))

    return tree.each(put, all_rows, some)


def _pick(inside: Tree, yes: Tree, no: Tree) -> Tree:
    """``yes`` where inside, else ``no``: by row, by frame or token, or by part."""
    if isinstance(yes, Mapping):
        return {
            name: value if (here := own(inside, name)) is None else _pick(here, value, no[name])
            for name, value in yes.items()
        }
    return torch.where(inside.to(yes.device).reshape(inside.shape + (1,) * (yes.ndim - inside.ndim)), yes, no)
