"""Who walks next, in a simulated clock: shares by weight, short ones first, nobody for ever last."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from sfumato.serving.fair import PATIENCE, Shares, chosen


@dataclass(eq=False)
class Dummy:
    """A row of a clock that is simulated."""

    share: str
    cost: int
    order: int
    kind: str = "one"
    done: int = 0
    waited: int = 0
    worst: int = 0

    @property
    def left(self) -> float:
        return self.cost - self.done

    @property
    def key(self) -> str:
        return self.kind


def turn(rows: list[Dummy], shares: Shares, cap: int) -> list[Dummy]:
    """One step of those that are chosen."""
    walking = chosen(rows, shares, lambda key: cap)
    for each in rows:
        if each in walking:
            each.done += 1
            shares.charge(each.share, 1)
        else:
            each.waited += 1
            each.worst = max(each.worst, each.waited)
    return walking


@pytest.mark.parametrize("weights", [{"a": 1.0, "b": 1.0}, {"a": 3.0, "b": 1.0}, {"a": 1.0, "b": 2.0, "c": 5.0}])
@pytest.mark.parametrize("cap", [1, 4, 7])
def test_each_class_gets_what_it_weighs(weights: dict[str, float], cap: int):
    shares, had = Shares(dict(weights)), dict.fromkeys(weights, 0)
    rows = [Dummy(name, 10**9, i) for i in range(20) for name in weights]
    for _ in range(2000):
        walking = chosen(rows, shares, lambda key: cap)
        assert len(walking) == cap
        for each in walking:
            shares.charge(each.share, 1)
            had[each.share] += 1
    total, every = sum(weights.values()), sum(had.values())
    for name, weight in weights.items():
        assert abs(had[name] - every * weight / total) <= cap + 1


def test_one_that_was_away_has_saved_nothing_up():
    shares = Shares()
    busy = [Dummy("a", 1000, i) for i in range(4)]
    for _ in range(500):
        for each in chosen(busy, shares, lambda key: 2):
            shares.charge(each.share, 1)
    both = [*busy, *(Dummy("b", 1000, 10 + i) for i in range(4))]
    had = {"a": 0, "b": 0}
    for _ in range(100):
        for each in chosen(both, shares, lambda key: 2):
            shares.charge(each.share, 1)
            had[each.share] += 1
    assert abs(had["a"] - had["b"]) <= 4


def test_the_shortest_comes_first():
    rows = [Dummy("a", cost, i) for i, cost in enumerate((200, 4, 50, 20))]
    assert [each.cost for each in chosen(rows, Shares(), lambda key: 2)] == [4, 20]


def test_nobody_waits_longer_than_so_many_times_its_own_length():
    """Short rows come without end; the long one is served all the same."""
    shares, rows, order = Shares(), [Dummy("a", 40, 0), Dummy("a", 25, 1, "other")], 2
    old = list(rows)
    for _ in range(3000):
        while len(rows) < 8:
            rows.append(Dummy("a", 3, order := order + 1))
        turn(rows, shares, 2)
        rows = [each for each in rows if each.left > 0]
        if not any(each in rows for each in old):
            break
    assert not any(each in rows for each in old)
    assert all(each.worst <= PATIENCE * each.cost + 1 for each in old)


def test_what_walks_together_is_of_one_kind():
    rows = [Dummy("a", 5, i, ("one", "other")[i % 2]) for i in range(10)]
    assert len({each.kind for each in chosen(rows, Shares(), lambda key: 8)}) == 1


def test_nobody_there_nobody_chosen():
    assert chosen([], Shares(), lambda key: 4) == []
