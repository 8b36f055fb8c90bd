"""Statistics, the held-out part and the data order: what must hold for any data, seed and batch size."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sfumato.data import (
    ArrayDataset,
    Buckets,
    DataError,
    Dataset,
    Items,
    Part,
    Statistics,
    batch_indices,
    bucket_indices,
    split,
)
from sfumato.data import dataset as module
from sfumato.data import statistics as measuring

keys = st.lists(st.binary(min_size=1, max_size=2), max_size=60)
shares = st.floats(0.01, 0.99)
seeds = st.integers(-(2**70), 2**70)


@given(keys, shares, seeds)
def test_split_is_a_partition_that_keeps_copies_together(keys: list[bytes], share: float, seed: int) -> None:
    train, held = split(keys, share, seed)
    assert sorted([*train, *held]) == list(range(len(keys)))
    assert not {keys[i] for i in train} & {keys[i] for i in held}
    assert list(train) == sorted(train)
    if len(set(keys)) > 1:
        assert len(train) >= 1
        assert len(held) >= 1
    else:
        assert len(held) == 0


@given(st.sets(st.binary(min_size=1, max_size=3), min_size=20, max_size=60), st.integers(0, 10**6))
def test_adding_items_moves_no_other(names: set[bytes], seed: int) -> None:
    after = sorted(names)
    before = after[::2]
    held_before = {before[i] for i in split(before, 0.5, seed)[1]}
    held_after = {after[i] for i in split(after, 0.5, seed)[1]}
    assume(1 < len(held_before) < len(before) - 1)  # away from the rule that each side has at least one
    assert held_after & set(before) == held_before


def test_split_holds_out_the_share_asked_for_and_the_seed_matters() -> None:
    keys = [i.to_bytes(4, "big") for i in range(10_000)]
    for share in (0.02, 0.1, 0.19):
        held = split(keys, share, 0)[1]
        assert abs(len(held) - 10_000 * share) < 5 * np.sqrt(10_000 * share * (1 - share))
    first, second = (set(split(keys, 0.1, seed)[1].tolist()) for seed in (0, 1))
    assert len(first & second) < 200  # 100 by chance; 1000 if the seed were ignored
    assert set(split(keys, 0.05)[1].tolist()) < first  # a larger share keeps what a smaller one held out


def test_split_never_holds_out_more_than_the_cap() -> None:
    keys = [i.to_bytes(4, "big") for i in range(10_000)]
    held = split(keys, 0.5)[1]
    assert len(held) == 2000
    assert np.array_equal(held, split(keys, 0.3)[1])  # those of the smallest hash, not of the smallest key
    copies = [b"a"] * 3000 + [b"b"] * 3
    for seed in range(8):
        assert split(copies, 0.9, seed)[1].tolist() == [3000, 3001, 3002]


def test_split_of_nothing_held_out_and_of_bad_shares() -> None:
    assert len(split([b"a", b"b"], 0.0)[1]) == 0
    for share in (-0.1, 1.0, float("nan")):
        with pytest.raises(DataError, match="held-out share"):
            split([b"a", b"b"], share)


def stream(count: int, seed: int, length: int) -> np.ndarray:
    return batch_indices(count, length, 0, seed)


@settings(max_examples=50)
@given(st.integers(1, 40), st.integers(1, 100), st.integers(0, 5), seeds)
def test_the_order_does_not_depend_on_how_it_is_cut(count: int, batch: int, start: int, seed: int) -> None:
    steps = [batch_indices(count, batch, start + i, seed) for i in range(3)]
    assert all(step.shape == (batch,) and step.dtype == np.int64 for step in steps)
    assert np.array_equal(np.concatenate(steps), stream(count, seed, (start + 3) * batch)[start * batch :])


@given(st.integers(1, 40), seeds)
def test_every_epoch_visits_each_item_once(count: int, seed: int) -> None:
    epochs = stream(count, seed, 4 * count).reshape(4, count)
    assert (np.sort(epochs, axis=1) == np.arange(count)).all()


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    epochs = stream(1000, 0, 3000).reshape(3, 1000)
    for one, two in ((epochs[0], epochs[1]), (epochs[1], epochs[2]), (epochs[0], stream(1000, 1, 1000))):
        assert (one == two).sum() < 10  # one by chance
    # every item is as likely to come first as any other
    first = np.bincount([batch_indices(10, 1, 0, seed)[0] for seed in range(4000)], minlength=10)
    assert abs(first - 400).max() < 5 * np.sqrt(400)


def test_the_order_can_be_asked_for_out_of_turn_and_cannot_be_spoilt() -> None:
    late = batch_indices(50, 8, 10_000, 3).copy()
    batch_indices(50, 8, 0, 3)[:] = 0
    batch_indices(50, 50, 1, 3)[:] = 0
    assert np.array_equal(np.sort(batch_indices(50, 50, 1, 3)), np.arange(50))
    module._short_order.cache_clear()
    assert np.array_equal(batch_indices(50, 8, 10_000, 3), late)


@pytest.mark.parametrize("kinds", [1, 16])
def test_an_epoch_is_put_in_order_once(kinds: int) -> None:
    buckets = Buckets.of(np.arange(100_000) % kinds)
    module._short_order.cache_clear()
    for step in range(1000):  # less than an epoch
        batch_indices(100_000, 64, step, 0)
        buckets.indices(64, step, 0)
    assert module._short_order.cache_info().misses == 1 + 1 + kinds  # and the order of a round of batches


@pytest.mark.parametrize("wrong", [(0, 1, 0), (1, 0, 0), (1, 1, -1)])
def test_impossible_batches_are_refused(wrong: tuple[int, int, int]) -> None:
    count, *rest = wrong
    with pytest.raises(ValueError):
        batch_indices(*wrong, 0)
    with pytest.raises(ValueError):
        bucket_indices(np.zeros(count, dtype=np.int64), *rest, 0)


# ---- buckets -----------------------------------------------------------------------------------------------------------

sizes = st.lists(st.integers(1, 30), min_size=1, max_size=5)


def bucketed(counts: list[int], seed: int = 0) -> np.ndarray:
    """Numbers of the buckets of items, so many in each, mixed, and not from 0 up."""
    kinds = np.repeat(10 * np.arange(len(counts)) - 7, counts)
    return np.random.default_rng(seed).permutation(kinds)


@settings(max_examples=60, deadline=None)
@given(sizes, st.integers(1, 12), st.integers(0, 2**40))
def test_batches_are_of_one_bucket_and_every_item_comes_as_often(counts: list[int], batch: int, seed: int) -> None:
    kinds = bucketed(counts)
    names, size = np.unique(kinds, return_counts=True)
    seen, drawn, step = np.zeros(len(kinds), dtype=int), np.zeros(len(names), dtype=int), 0
    for rounds in range(1, 9):
        for _ in range(int((rounds * size // batch - drawn).sum())):
            items = bucket_indices(kinds, batch, step, seed)
            assert items.shape == (batch,)
            assert items.dtype == np.int64
            assert len(set(kinds[items])) == 1
            which = int(np.flatnonzero(names == kinds[items[0]])[0])
            np.add.at(seen, items, 1)
            drawn[which] += 1
            # the items of a bucket take turns: none is two ahead of another
            mine = seen[kinds == names[which]]
            assert mine.max() - mine.min() <= 1
            step += 1
        # after each round every bucket has had its share of the batches, to less than a batch
        assert drawn.tolist() == (rounds * size // batch).tolist()
        assert seen.max() <= rounds
        assert all(seen[kinds == name].sum() > rounds * n - batch for name, n in zip(names, size, strict=True))


def test_the_order_of_batches_is_a_function_of_seed_and_step_and_another_in_each_round() -> None:
    kinds = bucketed([40, 40, 20])
    inside = [bucket_indices(kinds, 5, step, 3) for step in range(60)]  # three rounds of 8 + 8 + 4
    for step in (59, 0, 31, 20, 58):
        module._short_order.cache_clear()
        assert np.array_equal(bucket_indices(kinds, 5, step, 3), inside[step])
    rounds = [[int(kinds[items[0]]) for items in inside[20 * i : 20 * i + 20]] for i in range(3)]
    other = [int(kinds[bucket_indices(kinds, 5, step, 4)[0]]) for step in range(20)]
    assert len({tuple(order) for order in (*rounds, other)}) == 4
    assert all(sorted(order) == sorted(other) for order in rounds)
    assert not np.array_equal(np.sort(inside[0]), np.sort(bucket_indices(kinds, 5, 0, 4)))


def test_one_bucket_is_no_bucket() -> None:
    """With a single bucket each item comes once an epoch, as where there are none."""
    found = np.concatenate([bucket_indices(np.zeros(12, dtype=np.int64), 5, step, 0) for step in range(12)])
    assert (np.sort(found.reshape(5, 12)) == np.arange(12)).all()


def test_a_bucket_smaller_than_a_batch_waits_for_its_turn() -> None:
    """2 items of 42: a batch of 8 of them comes every fourth round, and shows each of them four times."""
    kinds = bucketed([40, 2])
    rare = kinds == 3
    turns = [
        bool(rare[bucket_indices(kinds, 8, step, 0)].all()) for step in range(84)
    ]  # sixteen rounds of 5, and 4 more
    assert sum(turns) == 4
    items = np.concatenate([bucket_indices(kinds, 8, step, 0) for step in range(84) if turns[step]])
    assert np.bincount(items, minlength=42)[rare].tolist() == [16, 16]


# ---- data in memory, and parts of data ---------------------------------------------------------------------------------


def test_items_are_arrays_and_trees_of_them_row_by_row() -> None:
    x = {"place": np.arange(12.0).reshape(4, 3), "kinds": {"inner": np.arange(4)}}
    items = Items({"x": x, "label": np.arange(4) % 2}, "ships", np.array([0, 1, 0, 1]))
    assert len(items) == 4
    assert items.name(2) == "ships[2]"
    rows = items.batch(np.array([3, 0, 3]))
    assert rows["x"]["place"].tolist() == [[9, 10, 11], [0, 1, 2], [9, 10, 11]]
    assert rows["x"]["kinds"]["inner"].tolist() == [3, 0, 3]
    assert rows["label"].tolist() == [1, 0, 1]
    part = Part(items, np.array([3, 1]))
    assert len(part) == 2
    assert part.name(0) == "ships[3]"
    assert part.batch(np.array([1, 0]))["x"]["kinds"]["inner"].tolist() == [1, 3]
    assert part.buckets is not None
    assert part.buckets.tolist() == [1, 1]
    assert Part(Items({"x": np.zeros(3)}), np.array([0])).buckets is None


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({}, r'ships: have no "x", the data themselves; there is nothing'),
        ({"label": np.arange(3)}, r'ships: have no "x".* there is label'),
        ({"x": np.zeros(3), "label": np.zeros(4)}, r"ships: the arrays differ in length \(x 3, label 4\)"),
        ({"x": {"a": np.zeros(3), "b": np.zeros(2)}}, r"ships: the arrays differ in length \(x 2/3\)"),
    ],
)
def test_items_that_do_not_fit_are_refused(arrays: dict, words: str) -> None:
    with pytest.raises(DataError, match=words):
        Items(arrays, "ships")
    with pytest.raises(DataError, match="ships: 2 buckets for 3 items"):
        Items({"x": np.zeros(3)}, "ships", np.array([0, 1]))


@given(st.integers(0, 10**6), st.floats(-1e4, 1e4), st.floats(1e-2, 1e4))
def test_restore_undoes_standardise(seed: int, offset: float, scale: float) -> None:
    raw = np.random.default_rng(seed).normal(offset, scale, (20, 3))
    statistics = Statistics.of(raw)
    x = statistics.standardise(raw)
    assert x.dtype == np.float32
    assert abs(float(x.mean(dtype=np.float64))) < 1e-6
    assert float(x.std(dtype=np.float64)) == pytest.approx(1, abs=1e-6)
    assert np.abs(statistics.restore(x) - raw).max() <= 1e-6 * np.abs(raw).max()


def test_statistics_are_those_of_everything_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 256, (300, 5), dtype=np.uint8), 1e6 + rng.normal(size=(300, 5)),
              rng.integers(-9, 9, (300, 5)), rng.normal(size=(300, 5)).astype(np.float16)]  # fmt: skip
    for block in (1 << 24, 8 * 5 * 7):  # one block, and many blocks of seven items
        monkeypatch.setattr(measuring, "_BLOCK_BYTES", block)
        for array in arrays:
            numbers = array.astype(float) / 127.5 - 1 if array.dtype == np.uint8 else array.astype(float)
            for indices in (None, np.array([299, 4, 4, 17, 0])):
                part = numbers if indices is None else numbers[indices]
                statistics = Statistics.of(array, indices)
                assert statistics.mean == pytest.approx(part.mean(), rel=1e-12, abs=1e-12)
                assert statistics.spread == pytest.approx(part.std(), rel=1e-9)
                assert (statistics.count, statistics.shape) == (len(part), (5,))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_the_first_item_that_is_not_a_number_is_named(bad: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "_BLOCK_BYTES", 8 * 4 * 3)
    x = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    x[11, 2] = x[17, 0] = bad
    with pytest.raises(DataError, match=r"^runs\[11\]: contains NaN or infinity"):
        Statistics.of(x, name="runs")
    with pytest.raises(DataError, match=r"^array\[17\]"):
        Statistics.of(x, np.array([0, 17, 3]))


@pytest.mark.parametrize("same", [0.1, 1e9 + 0.3, 0])
def test_constant_data_are_refused(same: float) -> None:
    with pytest.raises(DataError, match="spread 0"):
        Statistics.of(np.full((1000, 7), same))
    for mean, spread in ((same, 0.0), (np.nan, 1.0), (0.0, np.inf)):
        with pytest.raises(DataError, match="nothing to learn"):
            Statistics(mean, spread, 2, (1,))
    with pytest.raises(DataError, match="no numbers"):
        Statistics.of(np.zeros((0, 3)))


def test_an_array_becomes_standard_items_with_labels_and_names() -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (6, 3, 2, 2), dtype=np.uint8)
    some = np.array([4, 1])
    statistics = Statistics.of(pictures, some)
    dataset: Dataset = ArrayDataset(pictures, statistics, labels=np.arange(6, dtype=np.int8), indices=some)
    assert len(dataset) == 2
    item = dataset[0]
    assert item["x"].dtype == np.float32
    assert np.allclose(item["x"] * statistics.spread + statistics.mean, pictures[4] / 127.5 - 1, atol=1e-6)
    assert item["label"].shape == ()
    assert item["label"].dtype == np.int64
    assert item["label"] == 4
    assert dataset.name(1) == "array[1]"
    names = [f"{letter}.png" for letter in "abcdef"]
    assert ArrayDataset(pictures, statistics, names=names, indices=some).name(0) == "e.png"
    assert ArrayDataset(pictures, statistics, names="all.npy").name(3) == "all.npy[3]"
    assert set(ArrayDataset(pictures, statistics)[5]) == {"x"}
    assert len([ArrayDataset(pictures, statistics)[i] for i in range(6)]) == 6
    for index in (-1, 2):
        with pytest.raises(IndexError):
            dataset[index]


def test_kinds_of_numbers_give_the_same_items() -> None:
    numbers = np.arange(12).reshape(4, 3)
    expected = (numbers - numbers.mean()) / numbers.std()
    for kind in (np.int16, np.int64, np.float16, np.float32, np.float64, ">f4", ">i2"):
        array = numbers.astype(kind)
        x = ArrayDataset(array, Statistics.of(array))[2]["x"]
        assert x.dtype == np.float32
        assert np.allclose(x, expected[2], atol=1e-6)


@pytest.mark.parametrize(
    "wrong",
    [
        {"labels": np.arange(3)},
        {"labels": np.zeros(4)},
        {"labels": np.zeros((4, 1), int)},
        {"names": ["a", "b"]},
        {"indices": np.array([0, 4])},
        {"indices": np.array([-1])},
        {"statistics": Statistics(0.0, 1.0, 4, (5,))},
    ],
)
def test_parts_that_do_not_fit_are_refused(wrong: dict) -> None:
    x = np.arange(12.0).reshape(4, 3)
    with pytest.raises(DataError):
        ArrayDataset(**({"x": x, "statistics": Statistics.of(x)} | wrong))
