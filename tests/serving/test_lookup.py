"""Coefficients that are looked up are those that would be worked out, for whichever rows; no grid is worked out twice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.diffusion import Denoiser, Gaussian
from sfumato.diffusion.rng import Streams
from sfumato.diffusion.schedule import VP, Cosine, Linear, Schedule
from sfumato.serving import lookup
from sfumato.serving.engine import Engine
from sfumato.serving.lookup import Lookups, Stops, Times, some
from tests.serving.small import Told, close, row, run_out, times_of, walker

F64 = torch.float64
CPU = torch.device("cpu")


def times(steps: int, shape: str = "cosine") -> Times:
    """Of one row."""
    return Times.of(times_of(steps, shape), F64, CPU)


def same(process: Gaussian, t: Tensor, s: Tensor) -> bool:
    """Whether times that are looked up give what the same numbers give that bear no lookup."""
    x_t, answer = torch.randn(2, len(t), 3, dtype=F64, generator=torch.Generator().manual_seed(0))
    found = []
    for here, there in ((t, s), (t.clone(), s.clone())):
        ends = process.endpoints(answer, x_t, here)
        shown = process.precondition(x_t, here)
        stepped = process.step(ends, x_t, here, there, 0.7, Streams(0, range(len(t))))
        found.append([*ends, shown[0], shown[1].to(F64), stepped])
    return close(*map(dict, ([(str(i), value) for i, value in enumerate(each)] for each in found)), 1e-9)


@pytest.mark.parametrize("schedule", [Linear(), VP(), Cosine()], ids=lambda each: type(each).__name__)
@pytest.mark.parametrize("predicts", ["velocity", "data", "v"])
def test_what_is_looked_up_is_what_would_be_worked_out(schedule: Schedule, predicts: Any):
    """At every step, for all rows and for some of them, also of grids that came when others were worked out already."""
    process, lookups = Gaussian(schedule, predicts), Lookups()
    first = [times(5), times(9, "late"), times(5, "uniform"), times(5)]
    which = torch.tensor([3, 0, 0])
    for walks in (first, [*first, times(7)]):
        places = [0, 3, 1, 0, 2][: len(walks)]
        stops = Stops(lookups, walks, places)
        for k in range(4):
            t, s = stops.at(k), stops.at(k + 1)
            wanted = [float(walk[place + k]) for walk, place in zip(walks, places, strict=True)]
            assert t.tolist() == wanted
            assert same(process, t, s)
            assert some(t, which).tolist() == t[which].tolist()
            assert same(process, some(t, which), some(s, which))
    assert len(lookups.last[CPU, F64].walks) == 4  # one of the five walks twice


def test_times_of_others_are_not_taken_for_those_of_the_same_rows():
    """A solver may hold a time of an earlier batch beside one of this: their places say nothing about each other."""
    process, lookups = Gaussian(VP()), Lookups()
    one, other = Stops(lookups, [times(4), times(9)], [0, 0]), Stops(lookups, [times(9), times(4)], [2, 1])
    assert same(process, one.at(0), other.at(0))
    which, back = torch.tensor([0, 1]), torch.tensor([1, 0])
    assert same(process, some(one.at(0), which), some(one.at(1), back))


def test_each_token_and_each_part_has_times_of_its_own():
    even = torch.linspace(1, 0, 4, dtype=F64)
    own = [Times.of([{"a": u, "b": (u * torch.tensor([1.0, 0.5], dtype=F64))[None]} for u in even**k], F64, CPU)
           for k in (1, 2)]  # fmt: skip
    stops = Stops(Lookups(), own, [0, 1])
    t = stops.at(1)
    assert t["a"].tolist() == [float(even[1]), float(even[2] ** 2)]
    assert t["b"].tolist() == [[float(even[1]), float(even[1]) / 2], [float(even[2] ** 2), float(even[2] ** 2) / 2]]
    assert len(own[0]) == 4
    assert [float(each["a"]) for each in own[0]] == even.tolist()
    with pytest.raises(IndexError):
        own[0][4]


_asked: list[int] = []


@dataclass(frozen=True)
class Counting(Linear):
    """Writes down how many times it was asked for the noise of."""

    def sigma(self, t: Tensor) -> Tensor:
        _asked.append(t.numel())
        return super().sigma(t)


def test_nobody_works_out_again_what_a_grid_was_worked_out_for():
    """The schedule is asked as often for 30 rows as for one, but for a walk's start."""

    @dataclass(frozen=True)
    class Network:
        def given(self, **condition: Any) -> dict[str, Any]:
            return condition

        def __call__(self, shown: Tensor, level: Tensor, **condition: Any) -> Tensor:
            return shown * torch.tanh(level)[:, None]

    model: Any = Denoiser(Network(), Gaussian(Counting()))
    engine, owner, of = Engine(lambda key: 4), Told(), walker(model)
    asked = []
    for numbers in (range(1), range(1, 31)):
        rows = [row(model, owner, number, steps=6, of=of, w=1.0 + number % 3) for number in numbers]
        _asked.clear()
        for each in rows:
            engine.enter([each])
        run_out(engine)
        asked.append(sum(_asked))
    assert owner.error is None
    assert asked[0] > 7
    assert asked[1] == 30  # each at its start


def test_what_was_worked_out_does_not_grow_for_ever(monkeypatch: pytest.MonkeyPatch):
    """Another one is begun, and nobody notices; the rules of processes that are gone are let go."""
    monkeypatch.setattr(lookup, "MOST", 40)
    monkeypatch.setattr(lookup, "RULES", 6)
    lookups = Lookups()
    for k in range(60):
        stops = Stops(lookups, [times(5), times(2 + k)], [0, 1])
        assert same(Gaussian(VP(1e-3 * (k + 1))), stops.at(0), stops.at(1))
        (worked,) = lookups.last.values()
        assert len(worked.times) <= 40 + 6 + 63
        assert len(worked.found) <= 6
