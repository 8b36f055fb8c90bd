"""Every solver in every world: it walks there and arrives within it, or says by name that it cannot."""

from __future__ import annotations

import re
from itertools import product
from typing import Any

import pytest
import torch

from sfumato.adapting.flow_map import FlowMap, Leap
from sfumato.diffusion import (
    SOLVERS,
    Confidence,
    Denoiser,
    Descent,
    EntropyBound,
    Parts,
    Product,
    Remask,
    Renoised,
    Streams,
    ab,
    dpmpp_2m,
    heun,
    key,
    remember,
    sample,
    tree,
    uniform,
    walk,
)
from sfumato.diffusion.sample import Euler
from tests.laws.eight import POINTS, ROWS, TOKENS, VECTORS, WORLDS
from tests.laws.worlds import F64

ALL: dict[str, Any] = {
    **SOLVERS,
    "renoised": Renoised(),
    "confidence": Confidence(),
    "entropy_bound": EntropyBound(),
    "remask": Remask(),
    "descent": Descent(most=20),
    "parts": Parts({"place": ab(2), "inner": Parts({"turn": Euler(1.0)})}),
    "leap": Leap(),
    "remembering euler": remember(Euler()),
    "remembering ab2": remember(ab(2)),
}
EVERYWHERE = set(WORLDS)
OF_VECTORS = {
    "heun",
    "dpmpp_2m",
    "dpmpp_2s",
    "ab2",
    "ab3",
    "ab4",
    "unipc",
    "churn",
    "predictor_corrector",
    "adaptive",
    "renoised",
}
WALKS: dict[str, set[str]] = {
    **{name: set(VECTORS) for name in OF_VECTORS | {"remembering ab2"}},
    "euler": EVERYWHERE,
    "remembering euler": EVERYWHERE,
    "ancestral": EVERYWHERE - {name for name in POINTS if "geodesic" in name} - {"equilibrium"},
    "euler_maruyama": {"gaussian"},  # the others begin at pure noise
    "confidence": {"masked"},
    "entropy_bound": {"masked"},
    "remask": {"masked"},
    "descent": {"equilibrium"},
    "parts": {"product"},
    "leap": EVERYWHERE - set(TOKENS),
}
REFUSALS = {"ancestral": r"eta = 1\.0: .* carr(y|ies) no fresh noise"}


def test_every_solver_is_here() -> None:
    assert set(ALL) == set(WALKS)


@pytest.mark.parametrize(("solver", "name"), product(ALL, WORLDS))
def test_a_solver_walks_a_world_or_refuses_it_by_name(solver: str, name: str) -> None:
    world, rng = WORLDS[name], Streams(key("walk"), range(ROWS))
    process = world.process
    if solver == "leap" and not hasattr(Leap, "states"):
        pytest.skip("flow maps do not yet name their worlds")
    denoiser = FlowMap(world.denoiser.network, process) if solver == "leap" else world.denoiser
    z = process.prior(world.x, rng)
    times = uniform(process.schedule, 1 if solver == "descent" else 20)
    if name not in WALKS[solver]:
        says = REFUSALS.get(solver, type(ALL[solver]).__name__)
        with pytest.raises(ValueError, match=says) as refused:
            sample(denoiser, z, times, ALL[solver], rng)
        assert solver == "ancestral" or re.search(f"{type(process).__name__}|Linear|Cosine", str(refused.value))
        return
    end = sample(denoiser, z, times, ALL[solver], rng)
    assert world.lies(end)
    wanted = process.interpolate(world.x, z, torch.tensor(0.0))
    assert tree.each(lambda a, b: a.shape == b.shape, end, wanted) == tree.each(lambda a: True, wanted)
    begin = process.start(z)  # it did walk
    assert all(not torch.equal(a, b) for a, b in zip(moving(begin), moving(end), strict=True))


def moving(x: Any) -> list[torch.Tensor]:
    return tree.leaves({name: part for name, part in x.items() if name != "label"} if isinstance(x, dict) else x)


@pytest.mark.parametrize("name", WORLDS)
def test_a_walk_from_the_middle_is_the_tail_of_the_whole(name: str) -> None:
    world = WORLDS[name]
    times, rng = uniform(world.process.schedule, 7), torch.Generator().manual_seed(0)
    z = world.process.prior(world.x, rng)
    state = rng.get_state()
    whole = [x for x, _ in walk(world.denoiser, z, times, Euler(), rng)]
    rng.set_state(state)
    head = [x for x, _ in walk(world.denoiser, z, times[:4], Euler(), rng)]
    tail = [x for x, _ in walk(world.denoiser, z, times[3:], Euler(), rng, x_t=head[-1])]
    assert len(tail) == 5
    for one, two in zip(tail, whole[3:], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(tree.leaves(one), tree.leaves(two), strict=True))


@pytest.mark.parametrize(("says", "times", "error"), [
    ("between 0 and 1", torch.tensor([1.5, 0.0]), ValueError),
    ("between 0 and 1", torch.tensor([1.0, -0.1]), ValueError),
    ("between 0 and 1", torch.tensor([1.0, torch.nan, 0.0]), ValueError),
    ("must fall", torch.tensor([0.0, 1.0]), ValueError),
    ("must fall", torch.tensor([[1.0, 0.5], [0.5, 0.6], [0.0, 0.0]]), ValueError),
    ("of part 'place' must fall", [{"place": torch.tensor(0.5)}, {"place": torch.tensor(0.7)}], ValueError),
    ("of part 'place' go from 2", [{"place": torch.tensor(2.0)}, {"place": torch.tensor(0.7)}], ValueError),
    ("must fall", [torch.tensor(0.5), torch.tensor(0.7)], ValueError),
    ("two at least", torch.tensor([1.0]), ValueError),
    ("two at least", torch.tensor(1.0), ValueError),
    ("two at least", [{"place": torch.tensor(1.0)}], ValueError),
    ("must be a tensor", [1.0, 0.0], TypeError),
    ("must be a tensor", 10, TypeError),
])  # fmt: skip
def test_times_that_are_none(says: str, times: Any, error: type[Exception]) -> None:
    world = WORLDS["product" if isinstance(times, list) and isinstance(times[0], dict) else "gaussian"]
    with pytest.raises(error, match=says):
        sample(world.denoiser, world.process.prior(world.x), times)


# ---- products, each part by its own solver -----------------------------------------------------------------------------


def test_parts_are_walked_as_each_alone() -> None:
    """Where the parts know nothing of each other, the walk of a product is that of its parts."""
    process = tree_of_two()
    solvers = {"a": ab(2), "b": Euler(1.0)}
    x = {"a": WORLDS["gaussian"].x, "b": WORLDS["heat_so3"].x}
    z = process.prior(x, Streams(key("both"), range(ROWS)))
    times = torch.linspace(1, 0, 9, dtype=F64) ** 1.5
    paces = [{"a": t, "b": t**0.5} for t in times]
    for plan in (times, paces):
        whole = list(walk(two(process), z, plan, Parts(solvers), Streams(key("fresh"), range(ROWS))))
        for name, world in (("a", "gaussian"), ("b", "heat_so3")):
            own = torch.stack([t[name] if isinstance(t, dict) else t for t in plan])
            alone = walk(WORLDS[world].denoiser, z[name], own, solvers[name], Streams(key("fresh"), range(ROWS)))
            for (state, _), (wanted, _) in zip(whole, alone, strict=True):
                assert (state[name] - wanted).abs().max() < 1e-12
    left_out = sample(two(process), z, times, Parts({"a": ab(2)}), None)  # Euler, for want of another
    assert (left_out["b"] - sample(WORLDS["heat_so3"].denoiser, z["b"], times)).abs().max() < 1e-12


def tree_of_two() -> Any:
    return Product(a=WORLDS["gaussian"].process, b=WORLDS["heat_so3"].process)


def two(process: Any) -> Any:
    def network(shown: Any, level: Any) -> Any:
        return {
            name: WORLDS[world].answer(shown[name], level[name])
            for name, world in (("a", "gaussian"), ("b", "heat_so3"))
        }

    return Denoiser(network, process)


def test_one_call_of_the_network_serves_all_parts() -> None:
    calls = []

    def network(shown: Any, level: Any) -> Any:
        calls.append(level["a"])
        return two(None).network(shown, level)

    process = tree_of_two()
    z = process.prior({"a": WORLDS["gaussian"].x, "b": WORLDS["heat_so3"].x})
    sample(Denoiser(network, process), z, uniform(process.schedule, 6), Parts({"a": dpmpp_2m(), "b": Euler()}))
    assert len(calls) == 6


def test_parts_say_what_they_cannot_do() -> None:
    process = tree_of_two()
    z, times = process.prior({"a": WORLDS["gaussian"].x, "b": WORLDS["heat_so3"].x}), uniform(process.schedule, 4)
    for solvers, says in (
        ({"a": heun()}, "Heun asks for a second guess"),
        ({"a": ab(3)}, "Multistep asks for a second guess"),
        ({"b": ab(2)}, "part 'b': Multistep walks vectors, not points"),
        ({"c": ab(2)}, "a solver for 'c': the parts that move are a, b"),
    ):
        with pytest.raises(ValueError, match=says):
            sample(two(process), z, times, Parts(solvers))
    with pytest.raises(ValueError, match="Parts walks parts, and the states of Gaussian are vectors"):
        sample(WORLDS["gaussian"].denoiser, z["a"], times, Parts({"a": ab(2)}))
    with pytest.raises(ValueError, match=r"Heun walks vectors, .* Product are parts: .* or Parts"):
        sample(two(process), z, times, heun())
    assert Parts({"a": ab(2), "b": Euler()}).order == 1
