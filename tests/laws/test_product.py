"""Laws 1 to 6 and 11 for products of worlds, part by part; times per part; conditions as clean parts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.diffusion.denoiser import Denoiser
from sfumato.diffusion.geodesic import Geodesic
from sfumato.diffusion.grids import uniform
from sfumato.diffusion.heat import Heat
from sfumato.diffusion.loss import loss
from sfumato.diffusion.manifold import SO3, Torus
from sfumato.diffusion.masked import Masked
from sfumato.diffusion.parts import Parts
from sfumato.diffusion.process import Gaussian
from sfumato.diffusion.product import CLEAN_LEVEL, Clean, Product, product_log_likelihood
from sfumato.diffusion.rng import Streams, key
from sfumato.diffusion.sample import Euler, sample, trajectory
from sfumato.diffusion.schedule import VP, Cosine, Linear
from sfumato.diffusion.solvers import dpmpp_2m
from sfumato.diffusion.times import PerPart, Uniform
from tests.laws.product_tables import (
    HIDDEN,
    JointNormal,
    Reveal,
    apart,
    data,
    joint_normal,
    leaves,
    network,
    times,
    world,
    worst_errors,
)
from tests.laws.worlds import F64, normal, scalar

LIMITS = {"1": 1e-14, "2": 1e-12, "3": 2e-14, "4": 1e-14, "5": 5.0, "6": 1e-12}


@pytest.mark.parametrize("law", LIMITS)
def test_laws_1_to_6(law: str) -> None:
    assert worst_errors()[law] <= LIMITS[law]


# ---- a map over the parts --------------------------------------------------------------------------------------------


def test_a_product_of_one_part_is_that_part() -> None:
    part = Gaussian(Linear(), "data", "velocity")
    whole = Product(only=part)
    x, z, t = normal(6, 4), normal(6, 4, seed=1), torch.linspace(0.1, 0.9, 6, dtype=F64)
    rng, same = Streams(key("one"), range(6)), Streams(key("one"), range(6))
    assert torch.equal(whole.prior({"only": x}, rng)["only"], part.prior(x, same))
    x_t = part.interpolate(x, z, t)
    assert torch.equal(whole.interpolate({"only": x}, {"only": z}, t)["only"], x_t)
    shown, level = whole.precondition({"only": x_t}, t)
    assert torch.equal(shown["only"], part.precondition(x_t, t)[0])
    assert torch.equal(level["only"], part.precondition(x_t, t)[1])
    assert torch.equal(whole.loss({"only": x_t}, {"only": x}, {"only": z}, t), part.loss(x_t, x, z, t))
    ends, single = whole.endpoints({"only": z}, {"only": x_t}, t), part.endpoints(z, x_t, t)
    moved = whole.step(ends, {"only": x_t}, t, t / 2, 1.0, rng)["only"]
    assert torch.equal(moved, part.step(single, x_t, t, t / 2, 1.0, same))


def test_the_network_gets_each_parts_own_level() -> None:
    process, x = world(), data(3)
    for t in times(3).values():
        shown, level = process.precondition(x, t)
        assert leaves(shown).keys() == leaves(level).keys() == leaves(x).keys()
        assert torch.equal(shown["words"], x["words"])
        assert level["inner"]["label"].tolist() == [CLEAN_LEVEL] * 3
    t = times(3)["per part"]
    level = process.precondition(x, t)[1]
    assert torch.equal(level["frames"], Gaussian(VP()).precondition(x["frames"], t["frames"])[1])
    assert level["frames"].shape == (3, 4)


def test_the_loss_is_the_weighted_sum_of_the_parts() -> None:
    """Through the same ``loss`` as any process, with a time for each part."""
    weights = {"position": 0.5, "inner": 3.0, "words": 0.0}
    plain, x = world(), data(5)
    weighted = Product(weights, **plain.processes)
    for t in times(5).values():
        z = plain.prior(x, Streams(key("z"), range(5)))
        answer = Denoiser(network, plain).answer(plain.interpolate(x, z, t), t)
        parts = plain.losses(answer, x, z, t)
        for process, factors in ((plain, {}), (weighted, weights)):
            found = loss(Denoiser(network, process), x, t, Streams(key("z"), range(5)))
            wanted = sum(factors.get(name, 1.0) * part for name, part in parts.items())
            assert found.shape == (5,)
            assert (found - wanted).abs().max() < 1e-14
    # a part's loss is its own process's, whatever the times of the others
    t = times(5)["per part"]
    alone = plain.processes["frames"].loss(answer["frames"], x["frames"], z["frames"], t["frames"])
    assert torch.equal(plain.losses(answer, x, z, t)["frames"], alone)


def test_gradients_reach_every_part() -> None:
    x = {"a": normal(4, 2), "inner": {"b": normal(4, 3, seed=1), "label": torch.arange(4)}}
    process = Product(a=Gaussian(), inner=Product(b=Gaussian(VP(), "v"), label=Clean()))
    scale = torch.ones(2, dtype=F64, requires_grad=True)

    def network(shown: dict[str, Any], level: dict[str, Any]) -> dict[str, Any]:
        return {"a": scale[0] * shown["a"], "inner": {"b": scale[1] * shown["inner"]["b"]}}

    loss(Denoiser(network, process), x, torch.rand(4, dtype=F64), Streams(1, range(4))).sum().backward()
    assert scale.grad is not None
    assert (scale.grad != 0).all()


# ---- sampling --------------------------------------------------------------------------------------------------------

ROWS = [[5], [0, 1, 2, 3, 4, 5, 6, 7], [7, 5, 3], [5, 2**32 - 1]]


def separate(steps: int) -> list[dict[str, Any]]:
    """First the position and the words, then the frames, then the picture."""
    fall, one, zero = torch.linspace(1, 0, steps + 1, dtype=F64), scalar(1.0), scalar(0.0)
    first = [{"position": t, "words": t, "frames": one, "inner": {"picture": one}} for t in fall]
    second = [{"position": zero, "words": zero, "frames": t, "inner": {"picture": one}} for t in fall[1:]]
    third = [{"position": zero, "words": zero, "frames": zero, "inner": {"picture": t}} for t in fall[1:]]
    return first + second + third


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("plan", ["together", "one after the other"])
def test_truth_50_sample_i_is_the_same_everywhere(plan: str, eta: float) -> None:
    process = world("data", "data", "data")  # an untrained network's other answers grow without bound
    steps: Any = torch.linspace(1, 0, 9, dtype=F64) if plan == "together" else separate(4)

    def draw(rows: list[int]) -> dict[str, Any]:
        x = data(1)
        x = {k: v.expand(len(rows), *v.shape[1:]) for k, v in x.items() if k != "inner"} | {
            "inner": {k: v.expand(len(rows), *v.shape[1:]) for k, v in x["inner"].items()}
        }
        rng = Streams(key("sample"), rows)
        found = sample(Denoiser(network, process), process.prior(x, rng), steps, Euler(eta), rng)
        return {name: part[rows.index(5)] for name, part in leaves(found).items()}

    alone = draw([5])
    assert all(part.double().isfinite().all() for part in alone.values())
    assert (alone["/words"] != HIDDEN).all()
    for rows in ROWS:
        assert all(torch.equal(part, alone[name]) for name, part in draw(rows).items())


def test_one_part_arrives_before_the_other_starts() -> None:
    process, x = world("data", "data", "data"), data(3)
    z = process.prior(x, Streams(key("z"), range(3)))
    path = list(trajectory(Denoiser(network, process), z, separate(4), Euler(1.0), Streams(1, range(3))))  # type: ignore[arg-type]
    assert len(path) == 13
    start = process.start(z)
    for i, state in enumerate(path):
        assert torch.equal(state["inner"]["label"], x["inner"]["label"])
        if i >= 4:
            assert torch.equal(state["position"], path[4]["position"])
            assert torch.equal(state["words"], path[4]["words"])
        if i >= 8:
            assert torch.equal(state["frames"], path[8]["frames"])
        if i < 8:  # still pure noise
            assert torch.allclose(state["inner"]["picture"], start["inner"]["picture"], rtol=0, atol=1e-12)
    assert apart(path[-1], path[8]) > 0.1


def spread_of_walk(data: JointNormal, steps: Any, clean: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Exact mean and covariance of what the sampler makes of unit normal noise: it is affine in it."""
    noise = torch.cat([torch.zeros(1, 5, dtype=F64), torch.eye(5, dtype=F64)])
    z = data.split(noise)
    if clean is not None:
        z["a"] = clean.expand(6, 2)
    found = torch.cat(list(sample(data, z, steps).values()), 1)
    return found[0], (found[1:] - found[0]).T @ (found[1:] - found[0])


@pytest.mark.parametrize("plan", ["together", "a first", "b first", "a ahead of b"])
def test_the_joint_distribution_is_recovered_on_any_plan(plan: str) -> None:
    """Parts that depend on each other: the noise levels may fall in any order, and the error falls with the steps."""
    world = joint_normal(a=Gaussian(Linear(), "data"), b=Gaussian(Cosine(), "velocity"))

    def error(n: int) -> float:
        fall = torch.linspace(1, 0, n + 1, dtype=F64)
        if plan == "together":
            steps: Any = fall
        elif plan == "a ahead of b":
            steps = [{"a": t**3, "b": t} for t in fall]
        else:
            early, late = ("a", "b") if plan == "a first" else ("b", "a")
            steps = [{early: t, late: scalar(1.0)} for t in fall] + [{early: scalar(0.0), late: t} for t in fall[1:]]
        mean, covariance = spread_of_walk(world, steps)
        return max(float((mean - world.mean).abs().max()), float((covariance - world.covariance).abs().max()))

    errors = [error(n) for n in (40, 80)]
    print(plan, errors)
    assert errors[1] < 0.1
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.25)  # first order


def test_a_clean_part_is_a_condition() -> None:
    """Given a, b has the conditional distribution, with mean and covariance in closed form."""
    world = joint_normal(a=Clean(), b=Gaussian(Linear(), "data"))
    value = torch.tensor([[1.2, -0.7]], dtype=F64)
    c = world.covariance
    gain = c[2:, :2] @ torch.linalg.inv(c[:2, :2])
    wanted_mean = world.mean[2:] + gain @ (value[0] - world.mean[:2])
    wanted = c[2:, 2:] - gain @ c[:2, 2:]
    errors = []
    for n in (100, 200):
        mean, covariance = spread_of_walk(world, torch.linspace(1, 0, n + 1, dtype=F64), value)
        assert torch.equal(mean[:2], value[0])
        assert (mean[2:] - wanted_mean).abs().max() < 1e-10  # exact: it does not move along the flow
        errors.append(float((covariance[2:, 2:] - wanted).abs().max()))
    assert errors[1] < 0.02
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.25)


def test_conditions_may_be_a_product_of_clean_parts() -> None:
    """They need no times, no answer and no solver, and the pace is that of the first part that moves."""
    process = Product(
        told=Product(label=Clean(), image=Clean()), place=Gaussian(VP(), "data"), other=Gaussian(Linear())
    )
    assert process.schedule == VP()
    assert list(process.moving()) == ["place", "other"]
    x = {"told": {"label": torch.arange(4), "image": normal(4, 2)}, "place": normal(4, 3), "other": normal(4, 1)}
    t = {"place": torch.full((4,), 0.5, dtype=F64), "other": torch.full((4,), 0.3, dtype=F64)}
    denoiser = Denoiser(lambda shown, level: {name: shown[name].sin() for name in ("place", "other")}, process)
    rng = Streams(key("told"), range(4))
    lost = loss(denoiser, x, t, rng)
    assert lost.shape == (4,)
    assert bool((lost > 0).all())
    times = PerPart(Uniform()).draw(torch.full((4,), 0.5, dtype=F64), rng, process, {"x": x})
    assert list(times) == ["place", "other"]
    plan = [{"place": u, "other": u} for u in uniform(VP(), 5)]
    for solver in (Euler(), Parts({"place": dpmpp_2m()})):
        end = sample(denoiser, process.prior(x, rng), plan, solver)  # type: ignore[arg-type]
        assert end["told"]["label"] is x["told"]["label"]
        assert end["place"].isfinite().all()
    with pytest.raises(TypeError, match="nothing moves"):
        Product(told=Product(label=Clean())).moving()


def test_clean_parts_of_any_dtype_pass_through() -> None:
    process = Clean()
    for x in (torch.arange(4), torch.tensor([True, False]), normal(3, 2), torch.zeros(2, 3, dtype=torch.bfloat16)):
        t = torch.full((len(x),), 0.7)
        z = process.prior(x, Streams(0, range(len(x))))
        assert all(torch.equal(y, x) for y in (z, process.start(z), process.interpolate(x, z, t)))
        ends = process.endpoints(None, x, t)
        assert torch.equal(process.step(ends, x, t, t / 2, 1.0), x)
        assert torch.equal(ends.x, x)
        assert torch.equal(ends.z, x)
        lost = process.loss(None, x, z, t)
        assert lost.shape == (len(x),)
        assert (lost == 0).all()


# ---- law 11 ----------------------------------------------------------------------------------------------------------


def normal_log_density(x: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    return torch.distributions.MultivariateNormal(mean, covariance).log_prob(x)


JOINT = joint_normal(a=Gaussian(Linear(), "velocity"), b=Gaussian(Cosine(), "data"))
X = JOINT.mean + normal(8, 5, seed=9) @ torch.linalg.cholesky(JOINT.covariance).T


def test_law_11_the_parts_sum_to_the_joint_density() -> None:
    """The walk begins at sigma / alpha = 1e-3, so it measures the density blurred by that."""
    blurred = JOINT.covariance + 1e-6 * torch.eye(5, dtype=F64)
    wanted = normal_log_density(X, JOINT.mean, blurred)
    errors = []
    for steps in (10, 20, 40):
        found = product_log_likelihood(JOINT, JOINT.split(X), steps)
        assert {name: part.shape for name, part in found.items()} == {"a": (8,), "b": (8,)}
        errors.append(float((found["a"] + found["b"] - wanted).abs().max()))
    print("largest error of the joint log p at 10, 20, 40 steps:", *(f"{error:.1e}" for error in errors))
    assert errors[2] < 1e-5
    assert errors[0] / errors[1] > 9
    assert (found["a"] + found["b"] - normal_log_density(X, JOINT.mean, JOINT.covariance)).abs().max() < 1e-4


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
def test_law_11_one_part_after_the_other_is_the_chain_rule(order: tuple[str, str]) -> None:
    """The first share is the density given the other part, the second the other part's own."""
    found = product_log_likelihood(JOINT, JOINT.split(X), 40, order=order)
    last = slice(0, 2) if order[1] == "a" else slice(2, 5)
    own = normal_log_density(X[:, last], JOINT.mean[last], JOINT.covariance[last, last])
    whole = normal_log_density(X, JOINT.mean, JOINT.covariance)
    assert (found[order[1]] - own).abs().max() < 1e-4
    assert (found[order[0]] - (whole - own)).abs().max() < 1e-4


def test_law_11_given_a_clean_part() -> None:
    world = joint_normal(a=Clean(), b=Gaussian(Linear(), "v"))
    found = product_log_likelihood(world, world.split(X), 40)
    assert list(found) == ["b"]
    given = normal_log_density(X[:, :2], world.mean[:2], world.covariance[:2, :2])
    assert (found["b"] - (normal_log_density(X, world.mean, world.covariance) - given)).abs().max() < 1e-4


def test_likelihood_by_probes_has_the_same_mean() -> None:
    x = JOINT.split(X[:1].expand(600, 5))
    found = product_log_likelihood(JOINT, x, 12, probes=1, rng=torch.Generator().manual_seed(1))
    exact = product_log_likelihood(JOINT, JOINT.split(X[:1]), 12)
    for name, part in found.items():
        assert part.std() > 1e-3
        assert abs(part.mean() - exact[name]) < 4 * part.std() / 600**0.5


def test_likelihood_has_gradients_when_asked() -> None:
    x = X.clone().requires_grad_()
    found = product_log_likelihood(JOINT, JOINT.split(x), 30, differentiable=True)
    (grad,) = torch.autograd.grad(sum(part.sum() for part in found.values()), x)  # type: ignore[arg-type]
    (wanted,) = torch.autograd.grad(normal_log_density(x, JOINT.mean, JOINT.covariance).sum(), x)
    assert (grad - wanted).abs().max() < 1e-3
    assert not any(part.requires_grad for part in product_log_likelihood(JOINT, JOINT.split(x), 2).values())


@pytest.mark.parametrize("part", [Heat(SO3()), Geodesic(Torus()), Masked(7)], ids=["heat", "geodesic", "masked"])
def test_likelihood_says_which_part_it_cannot_do(part: Any) -> None:
    world = Product(a=Gaussian(), b=part)
    with pytest.raises(ValueError, match=f"needs Gaussian or clean parts, and part 'b' is {type(part).__name__}"):
        product_log_likelihood(Denoiser(network, world), {"a": normal(2, 2), "b": normal(2, 3)})


# ---- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "says", "build"),
    [
        (ValueError, "at least one part", lambda: Product()),
        (TypeError, "'wieghts' must be a process", lambda: Product(a=Gaussian(), wieghts={"a": 2.0})),
        (TypeError, "'a' must be a process", lambda: Product(a=Gaussian)),
        (TypeError, "weights must be a dict", lambda: Product(a=Gaussian(), weights=Gaussian())),
        (ValueError, "weights has unknown 'b': the parts are a", lambda: Product({"b": 1.0}, a=Gaussian())),
        (ValueError, "weight of part 'a' must be finite and not negative", lambda: Product({"a": -1.0}, a=Gaussian())),
        (ValueError, "weight of part 'a' must be finite", lambda: Product({"a": float("nan")}, a=Gaussian())),
    ],
)
def test_products_are_built_of_processes(error: type[Exception], says: str, build: Any) -> None:
    with pytest.raises(error, match=says):
        build()


def test_missing_and_unknown_parts_are_named() -> None:
    process, t = Product(a=Gaussian(), b=Gaussian(), label=Clean()), scalar(0.5)
    x = {"a": normal(2, 2), "b": normal(2, 3), "label": torch.arange(2)}
    z = process.prior(x, Streams(0, range(2)))
    few, many = {"a": x["a"], "label": x["label"]}, {**x, "c": x["a"]}
    with pytest.raises(ValueError, match="x lacks b: the parts are a, b, label"):
        process.prior(few)
    with pytest.raises(ValueError, match="x has unknown 'c'"):
        process.interpolate(many, z, t)
    with pytest.raises(ValueError, match="z lacks b and has unknown 'B'"):
        process.interpolate(x, {**few, "B": x["b"]}, t)
    with pytest.raises(TypeError, match="x_t must be a dict of the parts a, b, label, got Tensor"):
        process.precondition(x["a"], t)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="network's answer lacks b"):
        process.endpoints({"a": x["a"]}, x, t)
    with pytest.raises(ValueError, match=r"^t lacks b"):
        process.interpolate(x, z, {"a": t})
    with pytest.raises(ValueError, match=r"^s has unknown 'c'"):
        process.step(process.endpoints(x, x, t), x, t, {"a": t, "b": t, "c": t})
    assert process.endpoints({"a": x["a"], "b": x["b"]}, x, t).x["label"] is x["label"]  # type: ignore[call-overload]


def test_likelihood_refuses_what_it_cannot_do() -> None:
    x = JOINT.split(X)
    with pytest.raises(ValueError, match="at least 1"):
        product_log_likelihood(JOINT, x, 0)
    with pytest.raises(ValueError, match="order must name each of a, b once, got a, a"):
        product_log_likelihood(JOINT, x, order=("a", "a"))
    with pytest.raises(ValueError, match="part 'w' is Reveal"):
        product_log_likelihood(Denoiser(network, Product(a=Gaussian(), w=Reveal())), {})


def test_products_are_values() -> None:
    one, two = Product({"a": 2.0}, a=Gaussian(VP()), b=Clean()), Product({"a": 2}, a=Gaussian(VP()), b=Clean())
    assert one == two
    assert hash(one) == hash(two)
    assert one != Product(a=Gaussian(VP()), b=Clean())
    assert eval(repr(one), {"Product": Product, "Gaussian": Gaussian, "VP": VP, "Clean": Clean}) == one
