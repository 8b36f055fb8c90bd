"""Trees: what states, times and conditions are made of. A tensor is a tree, and so is a dict of trees.

Products speak dicts, everything else plain tensors, and the loop, the walk and the files need not know which.
A tuple of trees (endpoints, named or not) is mapped over like a dict whose names are its places.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

Tree = Any
"""A tensor, or a dict of trees: {"centre": (B, 3), "torsions": (B, m)}. (Any, for a type checker cannot say it shortly.)"""


def each(f: Callable[..., Any], tree: Tree, *others: Tree) -> Tree:
    """f of every leaf, and of the leaves at the same places of ``others``, in the same shape of tree.

    Raises:
        TypeError: a leaf that is no tensor.
        ValueError: another tree with other names than the first.
    """
    if isinstance(tree, Tensor):
        return f(tree, *others)
    if isinstance(tree, Mapping):
        for other in others:
            if not isinstance(other, Mapping) or other.keys() != tree.keys():
                names = ", ".join(other) if isinstance(other, Mapping) else type(other).__name__
                raise ValueError(f"trees of different parts: {', '.join(tree)} and {names}")
        return {name: each(f, value, *(other[name] for other in others)) for name, value in tree.items()}
    if isinstance(tree, tuple):
        values = [each(f, value, *(other[i] for other in others)) for i, value in enumerate(tree)]
        return type(tree)(*values) if hasattr(tree, "_fields") else tuple(values)
    raise TypeError(f"states and conditions are tensors or dicts of tensors, got {type(tree).__name__}")


def leaves(tree: Tree) -> list[Tensor]:
    """The tensors of a tree, in the order of its names."""
    found: list[Tensor] = []
    each(found.append, tree)
    return found


def first(tree: Tree) -> Tensor:
    """The first tensor of a tree. Raises ValueError for an empty one."""
    while isinstance(tree, (Mapping, tuple)):
        if not tree:
            raise ValueError("an empty dict has no rows: there must be at least one tensor in it")
        tree = next(iter(tree.values())) if isinstance(tree, Mapping) else tree[0]
    found: Tensor = tree
    return found


def rows(tree: Tree) -> int:
    """The number of rows, the first axis of every leaf. Raises ValueError where leaves differ in it."""
    sizes = {len(value) for value in leaves(tree)}
    if len(sizes) != 1:
        raise ValueError(f"all parts must have the same number of rows, got {sorted(sizes)}")
    return sizes.pop()


def take(tree: Tree, which: Tensor | slice) -> Tree:
    """These rows of every leaf."""
    if isinstance(which, slice):
        return each(lambda value: value[which], tree)
    return each(lambda value: value[which.to(value.device)], tree)


def join(*trees: Tree) -> Tree:
    """The rows of trees of the same shape, one after the other."""
    return each(lambda *values: torch.cat(values), trees[0], *trees[1:])


def where(chosen: Tensor, yes: Tree, no: Tree) -> Tree:
    """Row by row: ``yes`` where ``chosen`` (B,) is True, else ``no``; in the types of ``yes``.

    Raises:
        ValueError: the shapes of the two differ.
    """

    def pick(a: Tensor, b: Tensor) -> Tensor:
        if a.shape != b.shape:
            raise ValueError(f"rows of shape {tuple(a.shape)} and of shape {tuple(b.shape)} cannot stand in one tensor")
        return torch.where(chosen.to(a.device).reshape(-1, *[1] * (a.ndim - 1)), a, b.to(a.dtype))

    return each(pick, yes, no)


def own(t: Tree, part: str) -> Tree:
    """The times of a part: its own where they are a dict, and None where that leaves it out, as it may a clean part."""
    return t.get(part) if isinstance(t, Mapping) else t


def to(tree: Tree, device: torch.device | str) -> Tree:
    """Every leaf on this device; from pinned memory without waiting."""
    return each(lambda value: value.to(device, non_blocking=True), tree)


def hide(
    condition: Mapping[str, Tree], names: Sequence[str] | None = None, which: Tensor | None = None
) -> dict[str, Tree]:
    """The condition with the values of ``names`` hidden in the rows ``which``: what "dropped" means, in training and in
    guidance alike (Ho & Salimans 2022). Floats become 0, integers -1, masks False.

    Args:
        condition: name -> tree of tensors (B, ...); what is None is hidden already.
        names: what is hidden together; None: all.
        which: bool (B,); None: every row.

    Raises:
        ValueError: a name that is not among the conditions.
    """
    names = tuple(condition) if names is None else tuple(names)
    if missing := [name for name in names if name not in condition]:
        raise ValueError(
            f"{', '.join(missing)} cannot be hidden: not among the conditions {', '.join(condition) or '(none)'}"
        )

    def hidden(value: Tensor) -> Tensor:
        blank = torch.full_like(value, 0.0 if value.is_floating_point() else 0 if value.dtype == torch.bool else -1)
        if which is None:
            return blank
        return torch.where(which.to(value.device).reshape(-1, *[1] * (value.ndim - 1)), blank, value)

    gone = {name: None if condition[name] is None else each(hidden, condition[name]) for name in names}
    return {**condition, **gone}
