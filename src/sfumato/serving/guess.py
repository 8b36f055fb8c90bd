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
from sfumato.serving.lookup import some


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


@dataclass(frozen=True)
class Who:
    """Which rows are in a call: ``strong`` on their strong side, then ``twins``, those who are guided, on their hidden one;
    both again as masks of all rows, and ``alone`` (None: nobody) where the hidden side is all there is.

    Args:
        both: strong and twins, one after the other. sides: what the denoiser made of their conditions. w: of the twins.
    """

    is_twin: Tensor
    is_plain: Tensor
    twins: Tensor
    strong: Tensor
    both: Tensor
    sides: Tree
    w: Tensor
    alone: Tensor | None


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
        self.always = bool(((low <= 0) & (high >= 1) | ~guided).all())
        self.mixed, self.weak_alone = guided & (w != 1), guided & (w == 0)
        self.who: Who | None = None
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
            return self._called(x_t, t, s, None)
        twins, whole, inside = (self.guided, self.guided, None) if self.always else self._inside(t)
        who = self._who(self.mixed & twins, ~(self.weak_alone & whole))
        if not len(who.twins):
            return self._called(x_t, t, s, None)
        ends = self._called(x_t, t, s, who)
        n = len(who.strong)
        strong, weak = (tree.take(ends, part) for part in (slice(n), slice(n, None)))
        if who.alone is not None:  # of strength 0 all the way the weak side is all there is
            base = tree.each(lambda value: value.new_zeros((len(self.all), *value.shape[1:])), weak)
            strong = _put(_put(base, who.strong, strong), self.all[who.alone], tree.take(weak, who.alone[who.twins]))
        mine = tree.take(strong, who.twins)
        said = Said(self.process, {"strong": mine, "weak": weak})
        mixed = self.around(said, who.w.to(tree.first(x_t).device))(
            tree.take(x_t, who.twins), some(t, who.twins), given=SIDES
        )
        if inside is not None and not bool(whole[who.twins].all()):
            within = tree.take(inside, who.twins)
            mixed = Endpoints(_pick(within, mixed.x, mine.x), _pick(within, mixed.z, mine.z))
        return mixed if len(who.twins) == len(self.all) else _put(strong, who.twins, mixed)

    def _who(self, twins: Tensor, plain: Tensor) -> Who:
        """Those of the last step, as long as they are the same."""
        who = self.who
        if who is None or not (torch.equal(who.is_twin, twins) and torch.equal(who.is_plain, plain)):
            own, strong = self.all[twins], self.all[plain]
            sides = tree.join(tree.take(self.strong, strong), tree.take(self.weak, self.place[own]))
            who = Who(twins, plain, own, strong, torch.cat([strong, own]), sides, self.w[own],
                      None if len(strong) == len(self.all) else ~plain)  # fmt: skip
            self.who = who
        return who

    def _inside(self, t: Tree) -> tuple[Tensor, Tensor, Tree]:
        """Of each row whether it is guided at any of its times, and at all of them, (B,); and where."""

        def within(u: Tensor) -> Tensor:
            low, high = (a.to(u).reshape(-1, *[1] * (u.ndim - 1)) for a in (self.low, self.high))
            return (u >= low) & (u <= high)

        inside = tree.each(within, t)
        flat = torch.cat([each.reshape(len(each), -1).cpu() for each in tree.leaves(inside)], 1)
        return flat.any(1), flat.all(1), inside

    def _called(self, x_t: Tree, t: Tree, s: Tree | None, who: Who | None) -> Endpoints:
        """One call: all rows on their strong side, or those of ``who`` on their sides."""
        self.count(len(self.all if who is None else who.both))
        if who is None:
            known = self.strong
            return self.base(x_t, t, s) if known is None else self.base(x_t, t, s, given=known)
        ends = None if s is None else some(s, who.both)
        return self.base(tree.take(x_t, who.both), some(t, who.both), ends, given=who.sides)


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
