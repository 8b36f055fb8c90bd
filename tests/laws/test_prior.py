"""All noise is the process's own: what ``prior`` makes of it, at the start and on the way, is the law of every state."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.diffusion import (
    SO3,
    SOLVERS,
    VP,
    Blanks,
    Denoiser,
    FromNoise,
    Gaussian,
    Heat,
    OneHot,
    Product,
    Renoised,
    Streams,
    dpmpp_2m,
    euler,
    generate,
    guide,
    inpaint,
    key,
    loss,
    remember,
    uniform,
    walk,
)
from sfumato.diffusion.rng import Rng
from sfumato.diffusion.solvers import Churn, PredictorCorrector
from tests.laws.eight import ROWS, turned
from tests.laws.worlds import F64, scalar

PLACES = 7


class Even:
    """Noise that is the same at every place of a row: of the second axis only the first is drawn."""

    def prior(self, x: Tensor, rng: Rng = None) -> Tensor:
        first: Tensor = super().prior(x[:, :1], rng)  # type: ignore[misc]
        return first.expand(-1, x.shape[1], *first.shape[2:])


class EvenGaussian(Even, Gaussian):
    pass


class EvenOneHot(Even, OneHot):
    pass


class EvenHeat(Even, Heat):
    pass


GAUSSIAN, ONE_HOT, HEAT = EvenGaussian(VP(), "velocity"), EvenOneHot(4, VP()), EvenHeat(SO3())
STOCHASTIC: dict[str, Any] = {
    **{name: SOLVERS[name] for name in ("ancestral", "churn", "euler_maruyama", "predictor_corrector")},
    "euler half": euler(0.5),
    "dpmpp_2m half": dpmpp_2m(0.5),
    "renoised": Renoised(),
    "renoised euler": Renoised(euler(), 0.6),
    "much churn": Churn(200.0, 0.01, 100.0, 1.05),
    "two corrections": PredictorCorrector(1.0, 2),
    "remembering": remember(euler(1.0)),
}


def even(x: Tensor) -> bool:
    return bool((x - x[:, :1]).abs().max() < 1e-9)


def states(process: Any, data: Tensor, solver: Any, wrap: Any = lambda guess: guess) -> list[Tensor]:
    def network(shown: Tensor, level: Tensor, previous: Any = None) -> Tensor:
        return turned(process.manifold.like_tangent(shown) if isinstance(process, Heat) else shown, level)

    rng = Streams(key("even"), range(ROWS))
    z = process.prior(data, rng)
    return [x for x, _ in walk(wrap(Denoiser(network, process)), z, uniform(process.schedule, 7), solver, rng)]


@pytest.mark.parametrize("name", STOCHASTIC)
@pytest.mark.parametrize("process", [GAUSSIAN, ONE_HOT], ids=["gaussian", "one_hot"])
def test_fresh_noise_is_the_processs_own(name: str, process: Any) -> None:
    """A network that answers place by place alike, and noise that is even along the places: so is every state."""
    tokens = torch.zeros(ROWS, PLACES, dtype=torch.int64)
    data = tokens if process is ONE_HOT else torch.zeros(ROWS, PLACES, 3, dtype=F64)
    found = states(process, data, STOCHASTIC[name])
    assert len(found) == 8
    assert all(even(x) for x in found)
    ordinary = OneHot(4, VP()) if process is ONE_HOT else Gaussian(VP(), "velocity")
    assert not any(even(x) for x in states(ordinary, data, STOCHASTIC[name]))
    calm = states(process, data, remember(euler()) if name == "remembering" else euler())  # there is fresh noise in it
    assert (found[-1] - calm[-1]).abs().max() > 1e-3


def test_on_manifolds_and_in_products() -> None:
    turns = (
        SO3()
        .uniform(torch.empty(ROWS, 1, 3, 3, dtype=F64), torch.Generator().manual_seed(0))
        .expand(-1, PLACES, -1, -1)
    )
    assert all(even(x) for x in states(HEAT, turns, euler(1.0)))
    assert not any(even(x) for x in states(Heat(SO3()), turns, euler(1.0))[1:])

    def network(shown: Any, level: Any) -> Any:
        return {
            "a": turned(shown["a"], level["a"]),
            "inner": {"b": turned(shown["inner"]["b"][..., 0], level["inner"]["b"])},
        }

    process = Product(a=GAUSSIAN, inner=Product(b=HEAT))
    x, rng = {"a": torch.zeros(ROWS, PLACES, 3, dtype=F64), "inner": {"b": turns}}, Streams(key("even"), range(ROWS))
    z = process.prior(x, rng)
    for state, _ in walk(Denoiser(network, process), z, uniform(VP(), 6), euler(1.0), rng):
        assert even(state["a"])
        assert even(state["inner"]["b"])


def test_around_the_guess_it_stays_so() -> None:
    known, mask = torch.full((ROWS, PLACES, 3), 0.5, dtype=F64), torch.tensor([True, False, False])
    data = torch.zeros(ROWS, PLACES, 3, dtype=F64)
    for wrap in (lambda guess: guide(guess, 2.0), lambda guess: inpaint(guess, known, mask)):
        assert all(even(x) for x in states(GAUSSIAN, data, euler(1.0), wrap))


def test_training_and_drawing_use_it() -> None:
    """``loss`` shows the network the process's own noise, ``generate`` begins in it, and the forward kernel adds it."""
    shown_to = []

    def network(shown: Tensor, level: Tensor) -> Tensor:
        shown_to.append(shown)
        return turned(shown, level)

    denoiser = Denoiser(network, GAUSSIAN)
    data = torch.zeros(ROWS, PLACES, 3)
    loss(denoiser, data, torch.full((ROWS,), 0.5), Streams(key("z"), range(ROWS)))
    blanks = Blanks(torch.zeros(PLACES, 3, dtype=F64), 5)
    drawn = list(generate(denoiser, blanks, range(5), batch=2, solver=euler(1.0), begin=FromNoise(4)))
    assert all(even(shown) for shown in shown_to)
    assert all(even(d.x) for d in drawn)
    assert len({float(shown.abs().max()) for shown in shown_to}) > 3
    moved = GAUSSIAN.noised(data.double(), scalar(0.3), scalar(0.6), torch.Generator().manual_seed(0))
    assert even(moved)
    assert moved.abs().max() > 0.1
