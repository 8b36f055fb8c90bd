"""Every parameter of the solvers of flow maps away from its default, as `tests/laws/test_parameters.py` for those of the core."""

from __future__ import annotations

import importlib
import inspect
import math
import pkgutil
from dataclasses import fields, is_dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

import sfumato
from sfumato.adapting.flow_map import Leap
from sfumato.adapting.tolerance import LeapWithin
from sfumato.diffusion import Gaussian, Linear, uniform, walk
from sfumato.diffusion.exact import GaussianData
from sfumato.diffusion.sample import Solver
from sfumato.fields.tables.turns import InTurn, Turns
from tests.laws.test_parameters import LAWS_HERE
from tests.laws.worlds import F64

LAWS: dict[type, set[str]] = {
    Leap: {
        "gamma",
        "mean",
    },  # tests/adapting/test_flow_map.py: a fully renewed step keeps the law; the last may go to the mean
    LeapWithin: {"tol", "split", "finest", "most"},  # the first two there as well
    Turns: set(),  # there too: it reveals what random order reveals
    InTurn: {"solvers", "eta"},  # tests/fields/tables/test_turns.py: as Parts of the two would walk
}


class Noted:
    """A denoiser that notes, for each row, the times it is asked from."""

    def __init__(self, base: Any) -> None:
        self.base, self.process, self.asked = base, base.process, []

    def __call__(self, x_t: Tensor, t: Tensor, s: Tensor | None = None, **condition: Any) -> Any:
        self.asked.append(t.clone())
        return self.base(x_t, t)

    def given(self, **condition: Any) -> dict[str, Any]:
        return {}


def walked(solver: LeapWithin, rows: int = 6) -> tuple[list[Tensor], Tensor]:
    """The times asked from, and the calls of each row, of Euler steps taken for a map, which they are not."""
    data = GaussianData(torch.zeros(2, dtype=F64), torch.tensor([0.05, 0.05], dtype=F64), process=Gaussian(Linear()))
    noted = Noted(data)
    z = torch.randn(rows, 2, dtype=F64, generator=torch.Generator().manual_seed(0))
    *_, (x, calls) = walk(noted, z, uniform(Linear(), 1), solver)
    assert bool(torch.isfinite(x).all())
    return noted.asked, calls


@pytest.mark.parametrize("finest", [0.004, 0.05, 0.2])
def test_no_step_starts_below_the_finest_share_of_noise(finest: float) -> None:
    """However small the tolerance: the last step goes from there to the end (on the straight schedule the share is the time)."""
    asked, _ = walked(LeapWithin(1e-3, finest=finest, most=10**6))
    times = torch.cat(asked)
    assert float(times[times > 0].min()) == pytest.approx(finest, rel=1e-6)  # rows that have arrived wait at 0


@pytest.mark.parametrize("most", [3, 15, 90])
def test_after_so_many_calls_every_step_is_taken_as_it_comes(most: int) -> None:
    """A try costs three calls at most, the one that goes all the way another three."""
    _, calls = walked(LeapWithin(1e-9, most=most))
    assert int(calls.min()) >= most
    assert int(calls.max()) <= most + 5


@pytest.mark.parametrize("finest", [0.0, 1.0, -0.1, math.nan])
def test_a_finest_that_is_none_is_named(finest: float) -> None:
    with pytest.raises(ValueError, match="finest = "):
        LeapWithin(finest=finest)


def test_no_solver_of_the_package_is_without_its_laws() -> None:
    found: set[type] = set()
    for module in pkgutil.walk_packages(sfumato.__path__, "sfumato."):
        if module.name != "sfumato.__main__" and ".simulators" not in module.name:
            for kind in vars(importlib.import_module(module.name)).values():
                if inspect.isclass(kind) and Solver in kind.__mro__ and kind is not Solver and is_dataclass(kind):
                    found.add(kind)
    assert found == {*LAWS_HERE, *LAWS}
    for kind, named in LAWS.items():
        assert {field.name for field in fields(kind)} - {"order"} == named
