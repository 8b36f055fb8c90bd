"""Columns drawn together are those that have least to do with each other."""

import numpy as np
import pytest
import torch

from sfumato.diffusion import Denoiser, walk
from sfumato.fields.tables.apart import SIZES, groups, information, parted
from sfumato.fields.tables.process import process_of, walked
from sfumato.fields.tables.turns import InTurn
from tests.fields.tables.test_truths import streams


def pairs(n: int, seed: int = 0) -> np.ndarray:
    """Six columns: 0 and 1 are nearly the same, so are 2 and 3, and 4 and 5."""
    rng = np.random.default_rng(seed)
    first = rng.integers(0, 3, (n, 3))
    second = np.where(rng.random((n, 3)) < 0.95, first, rng.integers(0, 3, (n, 3)))
    return np.stack([first, second], 2).reshape(n, 6)


def test_information_is_that_of_the_joint_table() -> None:
    """Two equal columns of three even words have ln 3 in common, and what is drawn apart nothing, but for chance."""
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 3, (2, 50_000))
    shared = information(np.stack([a, a, b], 1), [3, 3, 3])
    assert shared[0, 1] == pytest.approx(np.log(3), abs=0.01)
    assert abs(shared[0, 2]) < 2e-4
    assert (np.diag(shared) == 0).all()
    few = [information(rng.integers(0, 8, (100, 2)), [8, 8])[0, 1] for _ in range(300)]
    assert abs(np.mean(few)) < 0.1  # most of what chance alone makes of 100 rows, .24, is taken off


def test_groups_keep_columns_apart_that_hang_together() -> None:
    found = groups(pairs(4000), [3] * 6)
    assert len(found) == len(SIZES)
    two = np.array(found[0])
    for a in (0, 2, 4):
        assert two[a] != two[a + 1]
    assert sorted(np.bincount(two)[np.bincount(two) > 0]) == [2, 2, 2]
    three = np.array(found[SIZES.index(3)])
    assert all(three[a] != three[a + 1] for a in (0, 2, 4))
    assert (two[two] == two).all()  # a group goes by one of its own columns
    # columns that are always given are drawn with nobody
    given = np.array(groups(pairs(4000), [3] * 6, context=(0, 5))[0])
    assert given[0] == 0
    assert (given[1:5] != 0).all()
    assert given[5] == 5
    assert groups(pairs(4000)[:, :1], [3]) == ()


@pytest.mark.parametrize("seed", range(4))
def test_no_exchange_of_two_columns_would_be_better(seed: int) -> None:
    shared = np.random.default_rng(seed).random((11, 11))
    shared = np.triu(shared, 1) + np.triu(shared, 1).T

    def within(group: np.ndarray) -> float:
        return float(shared[group[:, None] == group[None]].sum())

    found = parted(shared, 3)
    assert sorted(np.bincount(found)) == [2, 3, 3, 3]
    for i in range(11):
        for j in range(i):
            other = found.copy()
            other[[i, j]] = other[[j, i]]
            assert within(other) >= within(found) - 1e-6


class Copies(torch.nn.Module):
    """What a perfect network says of six columns of which each pair is equal: the partner where it is shown, else anything."""

    def forward(self, shown, level):
        states = shown["states"]
        partner = states.unflatten(1, (3, 2)).flip(2).flatten(1)
        logits = torch.zeros(*states.shape, 3)
        known = partner != 3
        return {
            "states": torch.where(
                known[..., None], torch.nn.functional.one_hot(partner.clamp_max(2), 3) * 60.0 - 30.0, logits
            )
        }


@pytest.mark.parametrize("apart", [True, False])
def test_half_the_calls_are_exact_where_what_is_drawn_together_is_independent(apart: bool) -> None:
    """Three calls for three equal pairs: by groups every pair comes out equal, in any order many do not. With columns given
    the rest still goes by groups."""
    found = groups(pairs(4000), [3] * 6) if apart else ()
    guess, n = Denoiser(Copies(), process_of([3] * 6, 0, found)), 1500
    z = guess.process.prior({"states": torch.zeros(n, 6, dtype=torch.int64)}, streams(n))
    times = walked(torch.linspace(1, 0, 4), (3, 0))
    visited = [x["states"] for x, _ in walk(guess, z, times, InTurn(), streams(n))]
    assert ((visited[1] != 3).sum(1) == 2).all()
    equal = (visited[-1][:, ::2] == visited[-1][:, 1::2]).all(1).float().mean()
    if apart:
        assert equal == 1
        first = (visited[1] != 3).float().mean(0)
        assert ((first - 1 / 3).abs() < 0.06).all()  # every group is the first one as often
    else:
        assert equal < 0.8
