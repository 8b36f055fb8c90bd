"""How samples are drawn: layers that fill what others left open, and solvers and grids spelt with their own parameters."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato import diffusion as d
from sfumato.adapting.flow_map import Leap
from sfumato.diffusion.product import Product
from sfumato.diffusion.sample import Euler
from sfumato.diffusion.stochastic_solvers import Churn
from sfumato.diffusion.unmasking import TOKEN_SOLVERS
from sfumato.errors import Wrong
from sfumato.jobs.adapt import DistillOptions
from sfumato.jobs.recipe import Recipe
from sfumato.jobs.resolve import resolved
from sfumato.jobs.walk import USUAL, Walk, grid_of, guidance_of, solver_of, solvers_of, spelt

NAMES = [f.name for f in dataclasses.fields(Walk)]
share = st.none() | st.floats(0.01, 9)
lengths = st.one_of(
    st.just({}), st.integers(1, 99).map(lambda n: {"steps": n}), st.floats(0.01, 1).map(lambda x: {"tol": x})
)
walks = st.builds(
    lambda length, **rest: Walk(**length, **rest), lengths, solver=st.sampled_from([None, "euler", "ab2", "leap"]), eta=share,
    grid=st.sampled_from([None, "auto", "karras:rho=5"]), shift=share, batch=st.none() | st.integers(1, 64), w=share,
    guide_from=st.none() | st.floats(0, 0.5), guide_to=st.none() | st.floats(0.5, 1),
    guide_by=st.sampled_from([None, "plain", "apg:parallel=0.2"]),
)  # fmt: skip


# ---- layers --------------------------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(walks, walks, walks)
def test_layers_may_be_joined_in_any_order(a: Walk, b: Walk, c: Walk):
    assert a.over(b).over(c) == a.over(b.over(c))


@settings(max_examples=150, deadline=None)
@given(walks, walks)
def test_what_is_given_stands_and_what_is_open_is_the_bases(a: Walk, b: Walk):
    both = a.over(b)
    for name in NAMES:
        mine, below = getattr(a, name), getattr(b, name)
        if mine is not None:
            assert getattr(both, name) == mine
        elif name not in ("steps", "tol"):
            assert getattr(both, name) == below
    upper = a if (a.steps, a.tol) != (None, None) else b  # of steps and tol, the layer that says either says both
    assert (both.steps, both.tol) == (upper.steps, upper.tol)
    assert Walk().over(a) == a == a.over(Walk())


class _Habits(Recipe):
    def walk(self, name: str = "usual") -> Walk:
        return {"usual": Walk(steps=7, shift=2.0), "few": Walk(shift=0.5), "sharp": Walk(w=3.0)}[name]


@pytest.mark.parametrize(("asked", "name", "adaptations", "right"), [
    ({}, "usual", (), {"steps": 7, "shift": 2.0, "solver": "ab2", "eta": 0.0, "grid": "auto", "w": 1.5}),  # four layers
    ({"eta": 0.5}, "usual", (), {"solver": "dpmpp_2m", "eta": 0.5}),  # the usual one draws no noise
    ({"eta": 0.0}, "usual", (), {"solver": "ab2", "eta": 0.0}),
    ({"eta": 0.5, "solver": "euler"}, "usual", (), {"solver": "euler", "eta": 0.5}),
    ({"eta": 0.5}, "usual", (DistillOptions(),), {"solver": "leap"}),
    ({}, "sharp", (), {"steps": 20, "shift": 1.0, "w": 3.0}),
    ({"w": 2.0, "steps": 3}, "sharp", (), {"steps": 3, "w": 2.0}),
    ({}, "usual", (DistillOptions(),), {"solver": "leap", "steps": 4, "shift": 0.5, "w": 1.5}),
    ({}, "usual", (DistillOptions(w=(1.0, 1.2)),), {"w": 1.2}),  # the nearest that was learned
    ({"solver": "euler"}, "usual", (DistillOptions(),), {"solver": "euler", "shift": 0.5}),
    ({"tol": 0.1}, "usual", (), {"tol": 0.1, "steps": None, "solver": "adaptive"}),
    ({"tol": 0.1}, "usual", (DistillOptions(),), {"tol": 0.1, "steps": None, "solver": "leap"}),
])  # fmt: skip
def test_asked_over_conversion_over_field_over_process(asked, name, adaptations, right):
    walk = resolved(Walk(**asked), name, _Habits(), d.Gaussian(), adaptations)
    assert {key: getattr(walk, key) for key in right} == right


@pytest.mark.parametrize("process", [d.Masked(5), d.Geodesic(d.SO3()), d.Equilibrium(), d.OneHot(5)], ids=repr)
def test_fresh_noise_alone_changes_no_solver_that_draws_some_or_has_no_other(process: Any):
    usual = process.habits["solver"]
    assert resolved(Walk(eta=0.5), "usual", _Habits(), process, ()).solver == usual


@pytest.mark.parametrize(
    "process", [d.Gaussian(), d.Masked(5), d.Geodesic(d.SO3()), d.Equilibrium(), d.OneHot(5)], ids=repr
)
def test_nothing_is_left_open_but_how_long(process: Any):
    walk = Walk(**process.habits).over(USUAL)
    assert [name for name in NAMES if getattr(walk, name) is None] == ["tol"]


@pytest.mark.parametrize(("given", "message"), [
    ({"steps": 0}, "steps = 0: must be at least 1"), ({"tol": 0.0}, "tol = 0.0: must be above 0"),
    ({"steps": 3, "tol": 0.1}, "tol = 0.1: must be given without steps"), ({"eta": -1.0}, "eta = -1.0: must be 0 or more"),
    ({"eta": float("nan")}, "eta = nan"), ({"shift": 0.0}, "shift"), ({"batch": 0}, "batch"), ({"w": float("inf")}, "w = inf"),
    ({"guide_from": 0.8, "guide_to": 0.2}, "guide_from = 0.8: must be at most guide_to"),
])  # fmt: skip
def test_a_walk_that_makes_no_sense_is_refused(given: dict[str, Any], message: str):
    with pytest.raises(Wrong, match=message):
        Walk(**given)


# ---- spelling ------------------------------------------------------------------------------------------------------------

EVERY: dict[str, Any] = {**d.SOLVERS, **TOKEN_SOLVERS, "leap": Leap(), "descent": d.Descent()}
OTHER = {"gamma": 0.25, "rtol": 0.25, "order": 2}


def chosen(solver: Any) -> list[str]:
    """What a solver can be told. The order is a choice where another solver of the class has another one."""
    graded = any(type(other) is type(solver) and other.order != solver.order for other in EVERY.values())
    return [f.name for f in dataclasses.fields(solver) if f.init and (graded or f.name != "order")]


@pytest.mark.parametrize(("name", "parameter"), [(n, p) for n, solver in EVERY.items() for p in chosen(solver)])
def test_every_parameter_of_every_solver_can_be_spelt(name: str, parameter: str):
    usual = getattr(EVERY[name], parameter)
    other = not usual if isinstance(usual, bool) else OTHER.get(parameter, usual + 1)
    found = spelt("solver", f"{name}: {parameter} = {str(other).lower()} ", EVERY)
    assert found == dataclasses.replace(EVERY[name], **{parameter: other})
    assert type(getattr(found, parameter)) is type(usual)
    assert other != usual or name == "ab2"


def test_several_parameters_at_once():
    assert spelt("solver", "churn:churn=2.5,low=0.75", EVERY) == Churn(churn=2.5, low=0.75)
    assert spelt("solver", "leap:gamma=1,mean=true", EVERY) == Leap(1.0, True)
    assert spelt("solver", "unipc:order=2", EVERY) == d.unipc(2)


@pytest.mark.parametrize(("text", "message"), [
    ("dpmp_2m", "solver = 'dpmp_2m': must be one of euler, .*; did you mean 'dpmpp_2m'?"),
    ("zzz", r"solver = 'zzz': must be one of euler, [a-z0-9_, ]*$"),
    ("churn:chrun=2", "churn has no parameter 'chrun'; it has churn=40.0, low=0.05, .*; did you mean 'churn'?"),
    ("heun:order=3", "heun has no parameter 'order'; it has none"), ("euler:eta", "euler has no parameter 'eta'; it has eta=0.0"),
    ("churn:churn=lots", "churn must be a number, not 'lots'"), ("churn:churn=nan", "churn must be a number, not 'nan'"),
    ("leap:mean=maybe", "mean must be true or false, not 'maybe'"), ("leap:gamma=2", "gamma = 2.0: must be from 0 to 1"),
    ("predictor_corrector:corrections=1.5", "corrections must be a whole number, not '1.5'"),
    ("unipc:oder=2", "unipc has no parameter 'oder'; .*; did you mean 'order'?"),
])  # fmt: skip
def test_a_misspelling_says_what_is_right(text: str, message: str):
    with pytest.raises(Wrong, match=message) as caught:
        spelt("solver", text, EVERY)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("text", "same"), [
    ("karras:sigma_min=0.03", lambda s, n: d.karras(s, n, sigma_min=0.03)),
    ("karras:rho=5,sigma_max=20", lambda s, n: d.karras(s, n, sigma_max=20.0, rho=5.0)),
    ("logsnr:sigma_max=9", lambda s, n: d.logsnr(s, n, sigma_max=9.0)), ("uniform", d.uniform), ("auto", d.cosine),
])  # fmt: skip
def test_grids_are_spelt_with_their_parameters(text: str, same: Any):
    found = grid_of(Walk(grid=text, shift=1.0), None)(d.Linear(), 6)
    torch.testing.assert_close(found, same(d.Linear(), 6))


def test_the_grid_that_a_run_measured_is_auto():
    measured = d.Auto((1.5, 0.5, 0.0), (0.0, 0.8, 1.0))
    torch.testing.assert_close(grid_of(Walk(grid="auto"), measured)(d.Linear(), 4), measured(d.Linear(), 4))
    with pytest.raises(Wrong, match=r"grid = 'karas': must be one of auto, .*; did you mean 'karras'\?"):
        grid_of(Walk(grid="karas"), None)
    with pytest.raises(Wrong, match="karras has no parameter 'sigma'"):
        grid_of(Walk(grid="karras:sigma=1"), None)


# ---- worlds --------------------------------------------------------------------------------------------------------------

PARTS = Product(states=d.Masked(5), values=d.Gaussian())
WORLDS = {"vectors": d.Gaussian(), "tokens": d.Masked(5), "points": d.Geodesic(d.SO3()), "parts": PARTS}


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("name", [*d.SOLVERS, *TOKEN_SOLVERS])
def test_a_solver_for_another_world_is_refused_by_name(world: str, name: str):
    process, solver = WORLDS[world], EVERY[name]
    if world in solver.states:
        assert type(solver_of(Walk(solver=name), process, {})) is type(solver)
    else:
        with pytest.raises(
            Wrong, match=rf"solver = '{name}': it walks {solver.states[0]}.*, not {world}; must be one of euler"
        ):
            solver_of(Walk(solver=name), process, {})


@pytest.mark.parametrize("name", ["leap", "descent"])
def test_a_solver_of_some_runs_says_of_which(name: str):
    with pytest.raises(Wrong, match=rf"{name} is for (flow maps|equilibrium matching)"):
        solver_of(Walk(solver=name), d.Gaussian(), {})
    assert solver_of(Walk(solver=name), d.Gaussian(), {name: EVERY[name]}) == EVERY[name]


def test_each_part_of_a_product_has_its_own_solver():
    found = solver_of(Walk(solver="states=euler:eta=1; values = dpmpp_2m:eta=0.25"), PARTS, {})
    assert found == d.Parts({"states": Euler(1.0), "values": d.dpmpp_2m(0.25)})
    habitual = solver_of(Walk(solver="values=dpmpp_2m", eta=0.75), PARTS, {})
    assert habitual == d.Parts({"values": d.dpmpp_2m(0.75)})


@pytest.mark.parametrize(("text", "process", "message"), [
    ("state=euler", PARTS, "no part 'state'; the parts are states, values"), ("states=heun", PARTS, "it walks vectors, not to"),
    ("states=euler; values=confidence", PARTS, "it walks tokens, not"), ("values=dpmp_2m", PARTS, "did you mean 'dpmpp_2m'"),
    ("values=dpmpp_2m", d.Gaussian(), "names parts, and the data of this run has none"), ("dpmpp_2m", PARTS, "not parts"),
])  # fmt: skip
def test_parts_that_are_not_there_are_refused(text: str, process: Any, message: str):
    with pytest.raises(Wrong, match=message):
        solver_of(Walk(solver=text), process, {})


def test_fresh_noise_is_the_walks_unless_the_solver_says_it():
    """The habit of pictures is 0.5: it must not come back where `euler:eta=0` was spelt."""
    process = d.Gaussian()
    assert solver_of(Walk(solver="euler", eta=0.5), process, {}).eta == 0.5
    assert solver_of(Walk(solver="euler:eta=0", eta=0.5), process, {}).eta == 0.0
    assert solver_of(Walk(solver="ancestral", eta=0.0), process, {}).eta == 1.0


def test_every_solver_that_fits_is_offered():
    for process in WORLDS.values():
        assert {n for n, s in {**d.SOLVERS, **TOKEN_SOLVERS}.items() if process.states in s.states} == set(
            solvers_of(process)
        )


# ---- guidance ------------------------------------------------------------------------------------------------------------


class Labels:
    """A network whose answer, at the level of any time, is its label's own picture, or for none the mean of all."""

    pictures = torch.tensor([[1.0, 0.5, -2.0], [0.2, 2.0, 0.4]])

    def __call__(self, x: torch.Tensor, level: torch.Tensor, *, label: torch.Tensor) -> torch.Tensor:
        return torch.where(label[:, None] < 0, self.pictures.mean(0), self.pictures[label])


LABEL, X_T = torch.tensor([0, 1]), torch.tensor([[0.3, -0.2, 0.1], [1.0, 0.4, -0.7]])


def guessed(t: float = 0.5, instead: dict[str, torch.Tensor] | None = None, **walk: Any) -> torch.Tensor:
    """The data that a guided guess expects."""
    plain: Any = d.Denoiser(Labels(), d.Gaussian(predicts="data"))  # type: ignore[arg-type]
    guide = guidance_of(Walk(**walk).over(USUAL), plain.process)
    return guide(plain, ["label"], instead)(X_T, torch.tensor(t), label=LABEL).x


def test_a_projected_push_is_at_right_angles_to_the_guess_and_the_plain_one_is_not():
    strong = guessed(w=1.0)
    plain, projected = (guessed(w=3.0, guide_by=how) - strong for how in (None, "apg"))
    assert (projected * strong).sum(1).abs().max() < 1e-5
    assert (plain * strong).sum(1).abs().min() > 0.1
    assert projected.norm(dim=1).min() > 0.1
    fifth = guessed(w=3.0, guide_by="apg:parallel=0.2") - strong
    torch.testing.assert_close(fifth, projected + 0.2 * (plain - projected))
    limited = guessed(w=2.0, guide_by="apg:parallel=1,limit=0.1") - strong
    torch.testing.assert_close(limited.norm(dim=1), torch.full((2,), 0.1))


def test_projected_or_not_zero_is_unconditional_one_is_conditional_and_the_whole_push_is_plain():
    for w in (0.0, 0.5, 1.0):
        assert torch.equal(guessed(w=w, guide_by="apg"), guessed(w=w))
    torch.testing.assert_close(guessed(w=3.0, guide_by="apg:parallel=1"), guessed(w=3.0))
    outside = {"guide_from": 0.6, "guide_to": 0.9}
    assert torch.equal(guessed(w=3.0, guide_by="apg", **outside), guessed(w=1.0))
    assert torch.equal(guessed(0.7, w=3.0, guide_by="apg", **outside), guessed(0.7, w=3.0, guide_by="apg"))


def test_a_projected_push_leads_away_from_what_is_not_to_be_seen():
    same, other = (guessed(w=3.0, guide_by="apg", instead={"label": label}) for label in (LABEL, LABEL.flip(0)))
    torch.testing.assert_close(same, guessed(w=1.0))
    assert (other - guessed(w=3.0, guide_by="apg")).abs().max() > 0.1


@pytest.mark.parametrize(("text", "process", "message"), [
    ("agp", d.Gaussian(), "guide_by = 'agp': must be one of plain, apg; did you mean 'apg'"),
    ("apg:limit=0", d.Gaussian(), "limit = 0.0: must be above 0"),
    ("apg:parallel=2", d.Gaussian(), "parallel = 2.0: must be a share"),
    ("apg:w=2", d.Gaussian(), "apg has no parameter 'w'; it has parallel=0.0, limit=inf"),
    ("apg", d.Masked(5), "guide_by = 'apg': it pushes vectors, and the states of this run are tokens"),
])  # fmt: skip
def test_guidance_that_makes_no_sense_is_refused(text: str, process: Any, message: str):
    with pytest.raises(Wrong, match=message):
        guidance_of(Walk(guide_by=text).over(USUAL), process)
