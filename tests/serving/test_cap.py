"""How many rows pay: found on devices whose times are known, by a clock that is told them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sfumato.serving.cap import Cap, measure


class Device:
    """A device on which a call of so many rows takes so long; it is full at ``memory`` rows. slow: the calls that something
    else held up, by their place, and how many times as long they took."""

    def __init__(self, takes: Callable[[int], float], memory: int = 1 << 30, slow: dict[int, float] | None = None):
        self.takes, self.memory, self.slow = takes, memory, slow or {}
        self.now, self.sizes = 0.0, list[int]()

    def call(self, rows: int) -> None:
        if rows > self.memory:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        self.now += self.takes(rows) * self.slow.get(len(self.sizes), 1.0)
        self.sizes.append(rows)

    def cap(self, most: int = 1024) -> Cap:
        return measure(self.call, most, clock=lambda: self.now)


DEVICES = {
    "rows one after the other": lambda rows: 0.01 * rows,
    "a start that is shared": lambda rows: 0.02 + 0.001 * rows,
    "sixteen at once": lambda rows: 0.01 * -(-rows // 16),
    "slower when its cache is full": lambda rows: 0.001 * rows * (1 if rows <= 8 else 1.3) + 0.002,
    "one row fills it": lambda rows: 0.3 * rows**1.02,
}  # fmt: skip


@pytest.mark.parametrize("name", DEVICES)
def test_the_cap_is_within_a_few_percent_of_the_best_in_hindsight(name: str):
    takes = DEVICES[name]
    found = Device(takes).cap()
    best = min(takes(rows) / rows for rows in range(1, 1025))
    assert (
        takes(found.rows) / found.rows <= 1.12 * best
    )  # doublings that save less than 5 % each are not followed for ever


def test_room_that_costs_nothing_is_given():
    assert Device(DEVICES["rows one after the other"]).cap().rows == 4
    assert Device(DEVICES["sixteen at once"]).cap().rows == 64
    assert Device(DEVICES["slower when its cache is full"]).cap().rows == 8
    assert Device(DEVICES["sixteen at once"]).cap(32).rows == 32  # never more than is allowed


def test_memory_and_patience_are_bounds():
    full = Device(DEVICES["a start that is shared"], memory=8)
    assert full.cap().rows == 8
    slow = Device(lambda rows: 0.9 + 0.1 * rows)
    assert slow.cap().rows == 16  # the first whose call takes more than two seconds is the last
    with pytest.raises(RuntimeError, match="a bug"):
        measure(_broken, 8)


def _broken(rows: int) -> None:
    raise RuntimeError("a bug")


def test_one_call_that_was_held_up_changes_nothing():
    quiet = Device(DEVICES["sixteen at once"]).cap()
    for place in range(40):
        assert Device(DEVICES["sixteen at once"], slow={place: 50.0}).cap().rows == quiet.rows
    for size in range(5):  # nor all of one size: six calls each
        slow = {6 * size + i: 50.0 for i in range(6)}
        assert Device(DEVICES["sixteen at once"], slow=slow).cap().rows >= quiet.rows


def test_the_ceiling_is_what_the_cap_gains_over_one():
    found = Device(DEVICES["sixteen at once"]).cap()
    assert found.ceiling == pytest.approx(16)
    assert Cap(1, ()).ceiling == 1.0
