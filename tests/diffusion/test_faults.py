"""What the core refuses by name, and types that a state keeps."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sfumato.diffusion import (
    SO3,
    SOLVERS,
    Confidence,
    Denoiser,
    EntropyBound,
    Equilibrium,
    Gaussian,
    Geodesic,
    Heat,
    Linear,
    LogitNormal,
    LogNormal,
    Masked,
    OneHot,
    Parts,
    PerPart,
    Product,
    Ramp,
    Remask,
    Sphere,
    Torus,
    Uniform,
    UniformTokens,
    guide,
    log_likelihood,
    loss,
    manifold_log_likelihood,
    product_log_likelihood,
    sample,
    steer,
    tree,
    uniform,
    walk,
)
from sfumato.diffusion.guidance import APG, Clip, During
from sfumato.diffusion.rng import Streams, key
from sfumato.diffusion.solvers import AdaptiveSolver, Churn, PredictorCorrector
from sfumato.errors import NonFiniteSample

GAUSSIAN = Gaussian(Linear(), predicts="velocity")
NARROW = (torch.bfloat16, torch.float16)


def linear(dtype: torch.dtype) -> torch.nn.Linear:
    torch.manual_seed(0)
    return torch.nn.Linear(2, 2).to(dtype)


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize(
    "name", [name for name in SOLVERS if name != "euler_maruyama"]
)  # it cannot start at pure noise
@pytest.mark.parametrize("streams", [False, True])
def test_a_state_keeps_its_type_on_every_walk(dtype: torch.dtype, name: str, streams: bool):
    net = linear(dtype)
    seen = []

    def network(x: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        seen.append(x.dtype)
        return net(x)

    rng = Streams(key("types"), range(4)) if streams else None
    found = sample(Denoiser(network, GAUSSIAN), torch.ones(4, 2, dtype=dtype), uniform(Linear(), 5), SOLVERS[name], rng)
    assert found.dtype == dtype
    assert set(seen) == {dtype}
    assert found.isfinite().all()


def _bent(process: Any) -> Any:
    """A network of this world with small answers, in whatever type it is shown."""
    tangent = lambda x: process.manifold.like_tangent(x) if getattr(process, "manifold", None) == SO3() else 0.1 * x  # noqa: E731
    return lambda x, level: tree.each(lambda value: tangent(value), x)


WORLDS = {
    "angles": (Geodesic(Torus()), torch.ones(4, 2)), "rotations": (Geodesic(SO3()), torch.eye(3).repeat(4, 1, 1)),
    "heat": (Heat(Torus()), torch.ones(4, 2)), "heat of rotations": (Heat(SO3()), torch.eye(3).repeat(4, 1, 1)),
    "heat of directions": (Heat(Sphere()), torch.eye(3)[:1].repeat(4, 1)), "no time": (Equilibrium(), torch.ones(4, 2)),
    "letters": (OneHot(5), torch.eye(5)[:3].repeat(4, 1, 1)),
    "parts": (Product(a=Gaussian(), b=Geodesic(Torus())), {"a": torch.ones(4, 2), "b": torch.ones(4, 2)}),
}  # fmt: skip


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("world", WORLDS)
def test_a_state_keeps_its_type_in_every_world(world: str, dtype: torch.dtype):
    process, x = WORLDS[world]
    x = tree.each(lambda value: value.to(dtype), x)
    denoiser, rng = Denoiser(_bent(process), process), torch.Generator().manual_seed(0)
    assert loss(denoiser, x, torch.full((4,), 0.4), rng).isfinite().all()
    for state in tree.leaves(sample(denoiser, process.prior(x, rng), uniform(process.schedule, 4), rng=rng)):
        assert state.dtype == dtype
        assert state.isfinite().all()


@pytest.mark.parametrize("dtype", NARROW)
def test_the_loss_of_a_narrow_network_has_a_gradient(dtype: torch.dtype):
    net = linear(dtype)
    x = torch.ones(4, 2, dtype=dtype)
    loss(Denoiser(lambda x, level: net(x), GAUSSIAN), x, torch.full((4,), 0.3)).mean().backward()
    assert net.weight.grad.dtype == dtype
    assert net.weight.grad.isfinite().all()
    assert net.weight.grad.abs().sum() > 0


def test_noise_of_a_narrow_type_is_the_same_noise_rounded():
    wide, narrow = (
        GAUSSIAN.prior(torch.zeros(3, 5, dtype=d), Streams(key("z"), range(3))) for d in (torch.float32, torch.bfloat16)
    )
    assert torch.equal(narrow, wide.to(torch.bfloat16))
    whole = GAUSSIAN.prior(torch.zeros(3, 5, dtype=torch.float64), Streams(key("z"), range(3)))
    assert whole.dtype == torch.float64


X, NET = torch.zeros(4, 2), Denoiser(lambda x, level: x, GAUSSIAN)
PRODUCT = Product(a=GAUSSIAN)


@pytest.mark.parametrize("kind", [torch.int64, torch.uint8, torch.bool])
def test_whole_numbers_are_no_data_of_a_gaussian_process(kind: torch.dtype):
    x = torch.ones(4, 2).to(kind)
    for work in (
        lambda: loss(NET, x, torch.full((4,), 0.3), z=X),
        lambda: GAUSSIAN.interpolate(x, X, torch.full((4,), 0.3)),
    ):
        with pytest.raises(TypeError, match=str(kind)):
            work()


SPELLERS = {"euler": SOLVERS["euler"], "confidence": Confidence(), "entropy": EntropyBound(), "remask": Remask()}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", [*SPELLERS, "uniform tokens"])
def test_no_token_is_drawn_from_what_is_no_probability(name: str, value: float):
    """A number beyond the vocabulary would be a wrong text without a word."""

    def network(x: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(*x.shape, 5)
        logits[1] = value
        return logits

    process = UniformTokens(5) if name == "uniform tokens" else Masked(mask_id=5)
    rng = torch.Generator().manual_seed(0)
    z = process.prior(torch.zeros(3, 4, dtype=torch.int64), rng)
    with pytest.raises(NonFiniteSample, match="NaN or infinity, so there is no token to draw"):
        sample(Denoiser(network, process), z, uniform(Linear(), 4), SPELLERS.get(name, SOLVERS["euler"]), rng)


POINTS = {"torus": Torus(), "rotations": SO3(), "sphere": Sphere()}


@pytest.mark.parametrize("kind", [torch.int64, torch.uint8, torch.bool])
@pytest.mark.parametrize("where", POINTS)
@pytest.mark.parametrize("make", [Geodesic, Heat])
def test_whole_numbers_are_no_points_either(make: type, where: str, kind: torch.dtype):
    """On manifolds too: in the type of whole numbers a step along the heat kernel would be none."""
    process = make(POINTS[where])
    points = POINTS[where].uniform(torch.zeros(4, *({"torus": (2,), "rotations": (3, 3), "sphere": (3,)}[where])))
    z = process.prior(points)
    found = Denoiser(lambda x, level: 0 * z, process)
    for work in (
        lambda: process.interpolate(points.to(kind), z, torch.full((4,), 0.3)),
        lambda: loss(found, points.to(kind), torch.full((4,), 0.3), z=z),
        lambda: manifold_log_likelihood(found, points.to(kind)),
        lambda: list(walk(found, z, uniform(process.schedule, 3), x_t=points.to(kind))),
    ):
        with pytest.raises(TypeError, match=str(kind)):
            work()


@pytest.mark.parametrize("kind", [torch.int64, torch.uint8, torch.bool])
def test_no_walk_and_no_likelihood_is_of_whole_numbers(kind: torch.dtype):
    x = torch.ones(4, 2).to(kind)
    for work in (
        lambda: list(walk(NET, X, uniform(Linear(), 3), x_t=x)), lambda: log_likelihood(NET, x),
        lambda: product_log_likelihood(Denoiser(lambda x, level: x, PRODUCT), {"a": x}),
        lambda: loss(Denoiser(lambda x, level: x, PRODUCT), {"a": x}, torch.full((4,), 0.3)),
        lambda: loss(Denoiser(lambda x, level: x, Equilibrium()), x, torch.full((4,), 0.3), z=X),
    ):  # fmt: skip
        with pytest.raises(TypeError, match=str(kind)):
            work()


NAN = float("nan")
ODD: dict[str, Any] = {
    **{f"{kind.__name__}.{name}": (kind, name) for kind, names in {
        Churn: ("churn", "low", "high", "inflation"), PredictorCorrector: ("strength",),
        AdaptiveSolver: ("rtol", "atol", "finest"),
        type(SOLVERS["euler"]): ("eta",), type(SOLVERS["dpmpp_2m"]): ("eta",)}.items() for name in names},
}  # fmt: skip


@pytest.mark.parametrize("what", ODD)
@pytest.mark.parametrize("inside", [False, True])
def test_no_parameter_of_a_solver_is_nan(what: str, inside: bool):
    """With which every comparison is False: a churn between NaN and 50 would be none, and nobody told."""
    kind, name = ODD[what]
    solver, process = kind(**{name: NAN}), Product(a=GAUSSIAN) if inside else GAUSSIAN
    denoiser = Denoiser(lambda x, level: x, process)
    with pytest.raises(ValueError, match=f"^{name} = nan: must be a number"):
        sample(denoiser, {"a": X} if inside else X, uniform(Linear(), 3), Parts({"a": solver}) if inside else solver)


@pytest.mark.parametrize(("what", "make"), [
    ("w", lambda: guide(NET, NAN)), ("low", lambda: During(guide(NET, 2.0), NAN, 1.0)),
    ("high", lambda: During(guide(NET, 2.0), 0.0, NAN)), ("limit", lambda: APG(NET, 2.0, 0.0, NAN)),
    ("low", lambda: Clip(NET, NAN, 1.0)), ("low", lambda: Uniform(NAN, 1.0)), ("mean", lambda: LogNormal(NAN, 1.0)),
    ("std", lambda: LogitNormal(0.0, NAN)), ("share", lambda: Ramp(Uniform(0.0, 1.0), NAN)),
    ("together", lambda: PerPart(Uniform(0.0, 1.0), NAN)),
])  # fmt: skip
def test_no_number_of_guidance_and_times_is_nan(what: str, make: Any):
    with pytest.raises(ValueError, match=f"{what} = nan: must be a"):
        make()


WRONG = {
    "a float": (TypeError, "got float", lambda: loss(NET, X, 0.5)),
    "a list": (TypeError, "got list", lambda: loss(NET, X, [0.5] * 4)),
    "whole numbers": (TypeError, "got torch.int64", lambda: loss(NET, X, torch.ones(4, dtype=torch.int64))),
    "above 1": (ValueError, "from 0.5 to 2: they must lie between 0 and 1", lambda: loss(NET, X, torch.tensor([0.5, 2, 1, 1]))),
    "below 0": (ValueError, "from -0.1", lambda: loss(NET, X, torch.full((4,), -0.1))),
    "no number": (ValueError, "between 0 and 1", lambda: loss(NET, X, torch.full((4,), float("nan")))),
    "too few": (ValueError, "for 4 row", lambda: loss(NET, X, torch.full((3,), 0.5))),
    "of a part": (
        ValueError, "of part 'a'",
        lambda: loss(Denoiser(lambda x, level: x, PRODUCT), {"a": X}, {"a": torch.full((4,), 1.5)}),
    ),
    "no rows": (ValueError, "an empty batch", lambda: loss(NET, torch.zeros(0, 2), torch.zeros(0))),
    "no rows of tokens": (
        ValueError, "an empty batch",
        lambda: loss(
            Denoiser(lambda x, level: torch.zeros(*x.shape, 5), Masked(mask_id=5)), torch.zeros(0, 7, dtype=torch.int64),
            torch.zeros(0),
        ),
    ),
    "no rows of a likelihood": (ValueError, "no rows", lambda: log_likelihood(NET, torch.zeros(0, 2))),
    "no angles of a likelihood": (
        ValueError, "no rows",
        lambda: manifold_log_likelihood(Denoiser(lambda x, level: x, Geodesic(Torus())), torch.zeros(0, 2)),
    ),
    "no rows of parts": (
        ValueError, "no rows", lambda: product_log_likelihood(Denoiser(lambda x, level: x, PRODUCT), {"a": torch.zeros(0, 2)}),
    ),
    "a part above 1": (
        ValueError, "between 0 and 1",
        lambda: loss(Denoiser(lambda x, level: 0 * x, Heat(Torus())), X, torch.full((4,), 1.5)),
    ),
    "rising in one row": (
        ValueError, "must fall",
        lambda: sample(NET, X, torch.tensor([[1.0, 1.0, 1.0, 1.0], [0.5, 0.5, 0.5, 0.5], [0.2, 0.7, 0.2, 0.2]])),
    ),
    "times of tokens as a list": (
        TypeError, "must be a tensor",
        lambda: sample(Denoiser(lambda x, level: x, Masked(mask_id=5)), torch.full((2, 3), 5), [1.0, 0.0]),
    ),
    "points by a solver of vectors": (
        ValueError, "Heun walks vectors, and the states of Geodesic are points",
        lambda: sample(Denoiser(lambda x, level: x, Geodesic(Torus())), X, uniform(Linear(), 3), SOLVERS["heun"]),
    ),
    "no particles": (
        ValueError, "no particles", lambda: steer(NET, torch.zeros(0, 2), uniform(Linear(), 5), lambda x, t: x.sum(1)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_wrong_times_and_empty_batches_are_refused_by_name(what: str):
    kind, message, work = WRONG[what]
    with pytest.raises(kind, match=message):
        work()


def test_one_time_may_stand_for_all_rows():
    one, each = (loss(NET, X, t, z=torch.ones(4, 2)) for t in (torch.tensor(0.3), torch.full((4,), 0.3)))
    assert torch.allclose(one, each)
    plain = Denoiser(
        lambda x, level: x, Gaussian(Linear(), "data")
    )  # and times without numbers of their own are no fault
    found = torch.func.vmap(lambda t: loss(plain, X, t.expand(4), z=torch.ones(4, 2)))(torch.tensor([0.1, 0.9]))
    assert found.shape == (2, 4)
