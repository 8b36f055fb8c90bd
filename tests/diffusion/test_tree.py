"""Trees: what holds of a tensor holds of every leaf, and what is hidden is hidden in one way."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sfumato.diffusion.tree import each, first, hide, join, leaves, own, rows, take, to, where

ROWS = 5
NAMES = st.sampled_from(["centre", "turn", "text", "inner", "label"])
TYPES = (torch.float32, torch.float64, torch.int64, torch.bool)


@st.composite
def tensors(draw: Any, count: int = ROWS) -> Tensor:
    """Any type, 1 to 3 axes, every number another one (but for masks)."""
    shape = (count, *draw(st.lists(st.integers(1, 3), max_size=2)))
    seed = draw(st.integers(0, 99))
    numbers = torch.randperm(torch.Size(shape).numel(), generator=torch.Generator().manual_seed(seed)) + 1
    kind = draw(st.sampled_from(TYPES))
    return (numbers % 2 == 0 if kind is torch.bool else numbers.to(kind)).reshape(shape)


def trees(leaf: Any = None) -> Any:
    return st.recursive(
        tensors() if leaf is None else leaf,
        lambda inner: st.dictionaries(NAMES, inner, min_size=1, max_size=3),
        max_leaves=5,
    )


quickly = settings(max_examples=60, deadline=None, derandomize=True)


def paths(tree: Any, at: tuple[str, ...] = ()) -> dict[tuple[str, ...], Tensor]:
    """Where each leaf stands, by a walk that shares nothing with the one that is tested."""
    if isinstance(tree, Tensor):
        return {at: tree}
    return {path: leaf for name in tree for path, leaf in paths(tree[name], (*at, name)).items()}


def same(one: Any, two: Any) -> bool:
    a, b = paths(one), paths(two)
    return list(a) == list(b) and all(a[p].dtype == b[p].dtype and torch.equal(a[p], b[p]) for p in a)


@quickly
@given(trees())
def test_each_keeps_the_shape_and_sees_every_leaf_once(tree: Any) -> None:
    seen: list[Tensor] = []
    kept = each(lambda leaf: (seen.append(leaf), leaf)[1], tree)
    assert same(kept, tree)
    assert all(a is b for a, b in zip(seen, paths(tree).values(), strict=True))
    assert all(a is b for a, b in zip(leaves(tree), seen, strict=True))
    assert first(tree) is seen[0]
    assert rows(tree) == ROWS


@quickly
@given(trees())
def test_each_brings_the_leaves_of_one_place_together(tree: Any) -> None:
    backwards = take(tree, torch.arange(ROWS - 1, -1, -1))
    pairs: list[tuple[Tensor, Tensor, Tensor]] = []
    each(lambda *three: pairs.append(three), tree, backwards, tree)
    wanted = zip(*(paths(t).values() for t in (tree, backwards, tree)), strict=True)
    assert all(a is b for three in zip(pairs, wanted, strict=True) for a, b in zip(*three, strict=True))
    both = each(lambda a, b: b, (tree, tree), (backwards, tree))  # the places of a tuple are names, too
    assert isinstance(both, tuple)
    assert same(both[0], backwards)
    assert same(both[1], tree)


@quickly
@given(trees(), st.lists(st.integers(0, ROWS - 1), max_size=8))
def test_rows_are_taken_from_every_leaf_alike(tree: Any, which: list[int]) -> None:
    found = take(tree, torch.tensor(which, dtype=torch.int64))
    for path, leaf in paths(found).items():
        assert len(leaf) == len(which)
        assert all(torch.equal(row, paths(tree)[path][i]) for row, i in zip(leaf, which, strict=True))
    chosen = torch.tensor([i in which for i in range(ROWS)])
    assert same(take(tree, chosen), take(tree, chosen.nonzero()[:, 0]))
    assert same(take(tree, slice(1, 3)), take(tree, torch.tensor([1, 2])))


@quickly
@given(trees(), st.integers(0, ROWS), st.integers(0, ROWS))
def test_what_is_cut_is_joined_again(tree: Any, a: int, b: int) -> None:
    a, b = sorted((a, b))
    assert same(join(take(tree, slice(0, a)), take(tree, slice(a, b)), take(tree, slice(b, ROWS))), tree)


@quickly
@given(trees(), st.lists(st.booleans(), min_size=ROWS, max_size=ROWS))
def test_where_takes_whole_rows(tree: Any, which: list[bool]) -> None:
    chosen, other = torch.tensor(which), take(tree, torch.arange(ROWS - 1, -1, -1))
    for path, leaf in paths(where(chosen, tree, other)).items():
        for i in range(ROWS):
            assert torch.equal(leaf[i], paths(tree if which[i] else other)[path][i])
    assert same(where(chosen, tree, other), where(~chosen, other, tree))


def test_where_keeps_the_type_of_the_first() -> None:
    one, two = torch.zeros(3, 2), torch.full((3, 2), 0.5, dtype=torch.float64)
    found = where(torch.tensor([True, False, True]), one, two)
    assert found.dtype == torch.float32
    assert found.tolist() == [[0, 0], [0.5, 0.5], [0, 0]]


# ---- hidden ----------------------------------------------------------------------------------------------------------


@quickly
@given(
    st.dictionaries(NAMES, trees(), min_size=1, max_size=4),
    st.data(),
    st.one_of(st.none(), st.lists(st.booleans(), min_size=ROWS, max_size=ROWS)),
)
def test_what_is_hidden_is_blank_and_the_rest_is_not_touched(condition: Any, data: Any, which: Any) -> None:
    names = data.draw(st.one_of(st.none(), st.lists(st.sampled_from(sorted(condition)), unique=True)))
    found = hide(condition, names, None if which is None else torch.tensor(which))
    assert list(found) == list(condition)
    for name in condition:
        for path, leaf in paths(found[name]).items():
            before = paths(condition[name])[path]
            assert leaf.dtype == before.dtype
            for i in range(ROWS):
                gone = (names is None or name in names) and (which is None or which[i])
                blank = 0 if leaf.is_floating_point() or leaf.dtype == torch.bool else -1
                assert torch.equal(leaf[i], torch.full_like(leaf[i], blank) if gone else before[i])


@quickly
@given(st.dictionaries(NAMES, trees(), min_size=1, max_size=4))
def test_hiding_twice_is_hiding_once_and_rows_can_be_hidden_in_turn(condition: Any) -> None:
    whole = hide(condition)
    assert same(hide(whole), whole)
    half = torch.tensor([True, False, True, False, False])
    assert same(hide(hide(condition, None, half), None, ~half), whole)


def test_what_is_no_number_is_hidden_too() -> None:
    """An embedding with an infinity in it must not shine through: no multiplication by 0."""
    assert hide({"text": torch.tensor([[torch.inf, torch.nan]])})["text"].tolist() == [[0, 0]]


def test_hidden_already() -> None:
    assert hide({"label": None, "style": torch.ones(2)}, ["label"])["label"] is None


# ---- what is said of a tree that is none -------------------------------------------------------------------------------


class Pair(NamedTuple):
    a: Any
    b: Any


def test_named_tuples_stay_what_they_are() -> None:
    found = each(lambda v: v + 1, Pair(torch.zeros(2), {"c": torch.ones(2)}))
    assert type(found) is Pair
    assert found.b["c"].tolist() == [2, 2]
    assert first(found).tolist() == [1, 1]


def test_times_of_parts() -> None:
    t = torch.tensor(0.5)
    assert own(t, "a") is t
    assert own({"a": t}, "a") is t
    assert own({"a": t}, "label") is None


def test_to_moves_every_leaf() -> None:
    tree = {"a": torch.zeros(2), "b": {"c": torch.ones(2)}}
    assert {leaf.device.type for leaf in leaves(to(tree, "meta"))} == {"meta"}


def test_what_is_wrong_is_named() -> None:
    with pytest.raises(TypeError, match="dicts of tensors, got list"):
        each(len, {"a": [1, 2]})
    for other in ({"a": torch.zeros(2), "b": torch.zeros(2)}, {"c": torch.zeros(2)}, torch.zeros(2)):
        with pytest.raises(ValueError, match="different parts: a and"):  # else a part would be lost in silence
            join({"a": torch.zeros(2)}, other)
    with pytest.raises(ValueError, match=r"same number of rows, got \[2, 3\]"):
        rows({"a": torch.zeros(2), "b": torch.zeros(3)})
    with pytest.raises(ValueError, match="empty"):
        first({"a": {}})
    with pytest.raises(ValueError, match="colour cannot be hidden: not among the conditions label"):
        hide({"label": torch.zeros(2)}, ["colour"])
    with pytest.raises(ValueError, match=r"\(none\)"):
        hide({}, ["colour"])
    with pytest.raises(ValueError, match=r"shape \(2, 3\) and of shape \(2, 4\)"):
        where(torch.tensor([True, False]), torch.zeros(2, 3), torch.zeros(2, 4))
