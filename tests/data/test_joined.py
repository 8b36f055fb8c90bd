"""Two data sets as one: every item of both, in the ratio that was asked for."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sfumato.data import DataError, Items
from sfumato.data.joined import Joined
from sfumato.diffusion import hide


def numbered(count: int, first: int = 0, shape: tuple[int, ...] = (2,), of: str = "mine") -> Items:
    numbers = np.arange(first, first + count, dtype=np.float32)
    x = np.broadcast_to(numbers.reshape(-1, *[1] * len(shape)), (count, *shape)).copy()
    return Items({"x": x, "label": numbers.astype(np.int64)}, of)


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([0.25, 0.5, 1.0, 3.0]))
def test_every_item_is_there_and_the_ratio_is_about_the_one_asked_for(n: int, k: int, share: float) -> None:
    joined = Joined(numbered(n), numbered(k, 100), share)
    found = joined.batch(np.arange(len(joined)))["label"]
    counts = Counter((found >= 100).tolist())
    assert set(found.tolist()) == {*range(n), *range(100, 100 + k)}
    ratio = counts[True] / counts[False] / share
    assert 0.6 < ratio < 1.7  # whole repetitions of the smaller side


def test_a_batch_of_both_keeps_the_order_and_the_names() -> None:
    joined = Joined(numbered(3), numbered(2, 100, of="others"), 1.0)
    every = [joined.batch(np.array([i])) for i in range(len(joined))]
    order = np.array([len(joined) - 1, 0, 3, 1, 2])
    found = joined.batch(order)
    for row, i in enumerate(order):
        assert found["label"][row] == every[i]["label"][0]
        assert (found["x"][row] == every[i]["x"][0]).all()
        number = int(found["label"][row])
        assert joined.name(int(i)) == (f"others[{number - 100}]" if number >= 100 else f"mine[{number}]")


def test_parts_of_a_product_are_joined_part_by_part() -> None:
    def product(count: int, first: int) -> Items:
        a = np.arange(first, first + count)
        return Items({"x": {"states": a, "values": a[:, None] / 2}})

    joined = Joined(product(4, 0), product(4, 100), 1.0)
    found = joined.batch(np.array([5, 1, 0, 7]))["x"]
    assert found["states"].tolist() == [101, 1, 0, 103]
    assert (found["values"][:, 0] * 2).tolist() == [101, 1, 0, 103]


def test_items_of_one_shape_share_a_bucket_and_others_have_their_own() -> None:
    class Sizes:
        """Two items of each of two shapes."""

        buckets = np.array([0, 0, 1, 1])

        def __len__(self) -> int:
            return 4

        def batch(self, indices: np.ndarray) -> dict[str, np.ndarray]:
            side = 2 if indices[0] < 2 else 3
            return {"x": np.zeros((len(indices), side), np.float32), "label": np.asarray(indices)}

        def name(self, index: int) -> str:
            return str(index)

    joined = Joined(Sizes(), numbered(4, 100, (3,)), 1.0)
    assert joined.buckets is not None
    assert joined.buckets.tolist() == [0, 0, 1, 1, 1, 1, 1, 1]
    other = Joined(Sizes(), numbered(4, 100, (5,)), 1.0)
    assert other.buckets is not None
    assert len(set(other.buckets[4:].tolist()) & {0, 1}) == 0


def test_shorter_conditions_end_as_hidden_ones_do() -> None:
    def captioned(count: int, length: int) -> Items:
        return Items({
            "x": np.zeros((count, 2), np.float32), "caption": np.ones((count, length), np.int64),
            "mask": np.ones((count, length), bool), "state": np.ones((count, length, 2), np.float32),
        })  # fmt: skip

    joined = Joined(captioned(2, 3), captioned(2, 5), 1.0)
    for order in ([0, 1], [2, 3], [3, 0]):  # of one, of the other, of both: always of one shape
        found = joined.batch(np.array(order))
        hidden = hide({name: torch.as_tensor(found[name]) for name in ("caption", "mask", "state")})
        for row, i in enumerate(order):
            length = 3 if i < 2 else 5
            for name in hidden:
                value = torch.as_tensor(found[name][row])
                assert value.shape[0] == 5
                assert (value[:length] == 1).all()
                assert torch.equal(value[length:], hidden[name][row, length:])


def test_what_does_not_go_together_is_refused() -> None:
    with pytest.raises(DataError, match=r"x: is float32 \(2,\) of the one and float32 \(3,\) of the other"):
        Joined(numbered(2), numbered(2, shape=(3,)), 1.0)
    with pytest.raises(DataError, match=r"label: is int64 .* and nothing of the other"):
        Joined(numbered(2), Items({"x": np.zeros((2, 2), np.float32)}), 1.0)
    with pytest.raises(DataError, match="share = 0"):
        Joined(numbered(2), numbered(2), 0.0)
