"""Windows against an enumeration by hand, ranges that restore what they were given, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sfumato.data import DataError
from sfumato.fields.policy.demonstrations.episodes import Demonstrations, Ranges, Windows, is_picture, split_episodes

NUMBERS = st.floats(-1e6, 1e6).map(lambda value: value if abs(value) > 1e-200 else 0.0)
LENGTHS = st.lists(st.integers(1, 12), min_size=1, max_size=5)


def counted(lengths: list[int], **options: Any) -> Demonstrations:
    """Episodes whose actions, states and pictures all tell the number of their step."""
    steps = np.arange(sum(lengths))
    return Demonstrations(
        actions=np.stack([steps, -steps], axis=1).astype(np.float64),
        ends=np.cumsum(lengths),
        observations={
            "state": np.stack([steps, 2 * steps, 0 * steps], axis=1).astype(np.float32),
            "camera": np.broadcast_to(steps[:, None, None, None], (len(steps), 2, 4, 3)).astype(np.uint8),
        },
        **options,
    )


@st.composite
def plans(draw: st.DrawFn) -> tuple[int, int, int]:
    horizon = draw(st.integers(1, 10))
    observed = draw(st.integers(1, horizon))
    return observed, horizon, draw(st.integers(1, horizon - observed + 1))


def steps_of(windows: Windows, item: dict[str, np.ndarray]) -> tuple[list[int], list[int]]:
    """The step numbers of the actions and of the pictures of a window."""
    assert windows.ranges is not None
    actions = windows.ranges.restore("action", item["x"])
    seen = (item["observation.camera"][:, 0, 0, 0].astype(np.float64) + 1) * 127.5
    return np.rint(actions[:, 0]).astype(int).tolist(), np.rint(seen).astype(int).tolist()


@given(LENGTHS, plans())
@settings(max_examples=150, deadline=None)
def test_windows_are_those_that_an_enumeration_finds(lengths: list[int], plan: tuple[int, int, int]) -> None:
    observed, horizon, acted = plan
    demonstrations = counted(lengths)
    expected: list[tuple[list[int], list[int]]] = []
    start = 0
    for length in lengths:
        # The episode with its first and last step repeated as often as asked; windows slide over that
        padded = [start] * (observed - 1) + list(range(start, start + length)) + [start + length - 1] * (acted - 1)
        slid = [padded[i : i + horizon] for i in range(len(padded) - horizon + 1)]
        slid = slid or [padded + padded[-1:] * (horizon - len(padded))]
        expected += [(window, window[:observed]) for window in slid]
        start += length
    windows = Windows(demonstrations, observed, horizon, acted)
    assert len(windows) == len(expected)
    assert [steps_of(windows, windows[i]) for i in range(len(windows))] == expected


def test_the_task_of_a_window_is_that_of_the_step_that_is_now() -> None:
    task = np.array([0, 0, 1, 1, 0, 1, 1, 0, 1])
    windows = Windows(counted([5, 4], tasks=("a", "b"), task=task), 2, 4, 2)
    now = [steps_of(windows, windows[i])[1][-1] for i in range(len(windows))]
    assert [int(windows[i]["task"]) for i in range(len(windows))] == task[now].tolist()
    assert windows.batch(np.arange(len(windows)))["task"].tolist() == task[now].tolist()


@given(LENGTHS, plans(), st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
def test_a_pick_of_episodes_gives_the_windows_of_these_and_no_others(
    lengths: list[int], plan: tuple[int, int, int], chance: Any
) -> None:
    demonstrations = counted(lengths)
    chosen = sorted(chance.sample(range(len(lengths)), chance.randint(1, len(lengths))))
    ranges = Ranges.of(demonstrations)
    windows = Windows(demonstrations, *plan, ranges=ranges, episodes=chosen)
    whole = Windows(demonstrations, *plan, ranges=ranges)
    inside = [
        i for i in range(len(whole)) if np.searchsorted(demonstrations.ends, step_now(whole, i), "right") in chosen
    ]
    assert [windows.name(i) for i in range(len(windows))] == [whole.name(i) for i in inside]
    for ours, theirs in zip(range(len(windows)), inside):
        for key, value in windows[ours].items():
            np.testing.assert_array_equal(value, whole[theirs][key])


def step_now(windows: Windows, index: int) -> int:
    return steps_of(windows, windows[index])[1][-1]


def test_a_batch_is_its_windows_one_by_one_and_items_are_float32() -> None:
    demonstrations = counted([5, 9, 1], tasks=("a", "b"), task=np.repeat([1, 0, 1], [5, 9, 1]))
    windows = Windows(demonstrations, 2, 4, 2)
    order = np.array([7, 0, 3, 3, len(windows) - 1])
    batch = windows.batch(order)
    assert {key: (value.shape[1:], value.dtype) for key, value in batch.items()} == {
        "x": ((4, 2), np.float32),
        "observation.state": ((2, 3), np.float32),
        "observation.camera": ((2, 3, 2, 4), np.float32),
        "task": ((), np.int64),
    }
    for row, index in enumerate(order):
        for key, value in windows[int(index)].items():
            np.testing.assert_array_equal(batch[key][row], value)
    assert windows.name(0).endswith("episode 0, step 0")
    assert windows[0]["task"] == 1
    assert set(Windows(demonstrations, names=["state"])[0]) == {"x", "observation.state", "task"}
    assert np.abs(windows.batch(np.arange(len(windows)))["x"]).max() == 1
    with pytest.raises(IndexError, match=f"window {len(windows)} of {len(windows)}"):
        windows[len(windows)]


def test_pictures_go_from_black_to_white_in_either_order_of_axes() -> None:
    pixels = np.zeros((3, 4, 5, 3), dtype=np.uint8)
    pixels[1] = 255
    for pictures in (pixels, np.moveaxis(pixels, -1, 1)):
        demonstrations = Demonstrations(np.eye(3), np.array([3]), {"eye": pictures})
        assert is_picture(pictures)
        item = Windows(demonstrations, 2, 3, 1)[1]["observation.eye"]
        assert item.shape == (2, 3, 4, 5)
        assert (item[0] == -1).all()
        assert (item[1] == 1).all()
        assert set(Ranges.of(demonstrations).low) == {"action"}


@given(hnp.arrays(np.float64, hnp.array_shapes(min_dims=2, max_dims=2, max_side=6), elements=NUMBERS))
@settings(max_examples=150, deadline=None)
def test_ranges_fill_minus_one_to_one_and_restore(actions: np.ndarray) -> None:
    ranges = Ranges.of(Demonstrations(actions, np.array([len(actions)])))
    x = ranges.normalise("action", actions)
    assert np.abs(x).max() <= 1
    size = np.abs(actions).max(axis=0)
    moving = np.ptp(actions, axis=0) > 1e-6 * size
    np.testing.assert_array_equal(x[:, ~moving], 0)
    np.testing.assert_array_equal(x[:, moving].min(axis=0), -1)
    np.testing.assert_array_equal(x[:, moving].max(axis=0), 1)
    # float32 holds 24 bits of the range, and a coordinate at rest is off by up to a millionth of its size
    assert (np.abs(ranges.restore("action", x) - actions) <= 1e-6 * size + 1e-7 * np.ptp(actions, axis=0)).all()
    again = Ranges.from_json(json.loads(json.dumps(ranges.to_json())))
    np.testing.assert_array_equal(again.low["action"], ranges.low["action"])
    np.testing.assert_array_equal(again.high["action"], ranges.high["action"])


def test_a_coordinate_at_rest_is_zero_whatever_it_meets_and_is_restored_to_its_value() -> None:
    ranges = Ranges.of(Demonstrations(np.array([[3.0, 0.1], [5.0, 0.1]]), np.array([2])))
    np.testing.assert_array_equal(ranges.normalise("action", np.array([[4.0, 0.1], [7.0, 99.0]])), [[0, 0], [3, 0]])
    np.testing.assert_array_equal(ranges.restore("action", np.array([[-2.0, 0.7]])), [[2, 0.1]])


def test_ranges_are_of_the_episodes_given() -> None:
    demonstrations = counted([3, 4, 2])
    ranges = Ranges.of(demonstrations, [1])
    np.testing.assert_array_equal(ranges.low["action"], [3, -6])
    np.testing.assert_array_equal(ranges.high["state"], [6, 12, 0])
    with pytest.raises(DataError, match="no episode to measure"):
        Ranges.of(demonstrations, [])
    with pytest.raises(ValueError, match="training episodes"):
        Windows(demonstrations, episodes=[0])


@pytest.mark.parametrize(
    "stored", [None, [], {"action": 3}, {"action": {"low": [0]}}, {"a": {"low": "x", "high": "y"}}]
)
def test_ranges_that_were_not_stored_by_us_are_refused(stored: Any) -> None:
    with pytest.raises(DataError, match="train again"):
        Ranges.from_json(stored)


@pytest.mark.parametrize(("low", "high"), [([0.0], [np.nan]), ([2.0], [1.0]), ([0.0], [0.0, 1.0]), ([-np.inf], [1.0])])
def test_ranges_must_be_finite_and_in_order(low: list[float], high: list[float]) -> None:
    with pytest.raises(DataError, match="range of action"):
        Ranges({"action": np.array(low)}, {"action": np.array(high)})


def test_numbers_of_another_name_or_shape_are_refused() -> None:
    ranges = Ranges.of(counted([4]))
    for call in (ranges.normalise, ranges.restore):
        with pytest.raises(DataError, match="no range of speed is known, only of action, state"):
            call("speed", np.zeros(2))
        with pytest.raises(DataError, match=r"action has shape \(4, 3\)"):
            call("action", np.zeros((4, 3)))


def test_the_split_is_by_content_and_keeps_copies_together() -> None:
    chance = np.random.default_rng(0)
    episodes = [chance.normal(size=(5, 2)) for _ in range(40)]
    episodes += episodes[:20]
    demonstrations = Demonstrations(np.concatenate(episodes), np.arange(5, 301, 5))
    train, out = split_episodes(demonstrations, 0.2, seed=3)
    assert sorted([*train, *out]) == list(range(60))
    assert {i for i in out if i < 20} == {i - 40 for i in out if i >= 40}
    assert len(out) > 2
    again = split_episodes(demonstrations, 0.2, seed=3)
    np.testing.assert_array_equal(again[1], out)
    assert not np.array_equal(split_episodes(demonstrations, 0.2, seed=4)[1], out)


def broken(**changes: Any) -> Callable[[], Demonstrations]:
    good: dict[str, Any] = {"actions": np.zeros((6, 2)), "ends": np.array([2, 6]), "source": "robot.npz"}
    return lambda: Demonstrations(**(good | changes))


def holed(value: float) -> np.ndarray:
    array = np.zeros((6, 2))
    array[4, 1] = value
    return array


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (broken(actions=holed(np.nan)), r"robot.npz\[action\]: episode 1, step 2 has NaN or infinity"),
        (broken(actions=holed(np.inf)), r"episode 1, step 2 has NaN"),
        (broken(observations={"s": holed(-np.inf)}), r"robot.npz\[s\]: episode 1, step 2 has NaN"),
        (broken(observations={"s": np.zeros((5, 2))}), r"\[s\]: has 5 rows but there are 6 actions"),
        (broken(observations={"s": np.zeros((6, 0))}), r"\[s\]: has shape \(6, 0\), which holds no numbers"),
        (broken(observations={"s": np.array([None] * 6)}), r"\[s\]: holds object; expected .* numbers"),
        (broken(observations={"s": np.zeros((6, 1), complex)}), r"\[s\]: holds complex128"),
        (broken(actions=np.zeros(6)), r"\[action\]: has shape \(6,\); expected \(steps, coordinates\)"),
        (broken(actions=np.zeros((0, 2))), r"\[action\]: has shape \(0, 2\)"),
        (broken(ends=np.array([2, 2, 6])), r"\[episode_ends\]: episode 1 ends at step 2, after one that ends at 2"),
        (broken(ends=np.array([4, 2, 6])), r"episode 1 ends at step 2, after one that ends at 4"),
        (broken(ends=np.array([0, 6])), r"episode 0 ends at step 0"),
        (broken(ends=np.array([-1, 6])), r"episode 0 ends at step -1"),
        (broken(ends=np.array([2, 9])), r"last episode ends at step 9 but there are 6 steps"),
        (broken(ends=np.array([2, 5])), r"last episode ends at step 5 but there are 6 steps"),
        (broken(ends=np.array([], dtype=int)), r"\[episode_ends\]: has shape \(0,\)"),
        (broken(ends=np.array([2.0, 6.0])), r"\[episode_ends\]: .* type float64"),
        (broken(fps=0.0), "0 steps per second"),
        (broken(fps=np.nan), "nan steps per second"),
        (broken(task=np.zeros(5, int), tasks=("a",)), r"\[task\]: has shape \(5,\)"),
        (
            broken(task=np.array([0, 0, 0, 1, 0, 0]), tasks=("a",)),
            r"\[task\]: episode 1, step 1 has task 1; expected 0 to 0",
        ),
    ],
)
def test_wrong_data_are_named_in_one_line(make: Callable[[], Demonstrations], match: str) -> None:
    with pytest.raises(DataError, match=match) as caught:
        make()
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("robot.npz")


@pytest.mark.parametrize("plan", [(0, 4, 1), (1, 4, 0), (2, 4, 4), (5, 4, 1), (1, 0, 1)])
def test_an_impossible_number_of_steps_is_refused(plan: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="do not fit a horizon"):
        Windows(counted([4]), *plan)


def test_an_unknown_observation_or_episode_is_refused() -> None:
    with pytest.raises(DataError, match="has no observation touch; it has state, camera"):
        Windows(counted([4]), names=["touch"])
    with pytest.raises(DataError, match="list of numbers below 1"):
        Windows(counted([4]), ranges=Ranges.of(counted([4])), episodes=[1])
    with pytest.raises(IndexError, match="episode 1 of 1"):
        counted([4]).episode(1)
