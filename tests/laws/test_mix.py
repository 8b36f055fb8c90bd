"""Guidance in every world: what ``mix`` makes of two guesses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.diffusion import (
    SO3,
    Clean,
    Gaussian,
    Geodesic,
    Heat,
    Linear,
    Masked,
    Product,
    Sphere,
    Torus,
    UniformTokens,
    autoguide,
    guide,
)
from tests.laws.worlds import F64, Told, normal, scalar

PARTS: dict[str, Any] = {
    "place": Gaussian(Linear(), "data"),
    "angles": Geodesic(Torus()),
    "turn": Heat(SO3()),
    "flow": Geodesic(SO3()),
    "direction": Heat(Sphere()),
    "text": Masked(4),
    "noisy": UniformTokens(4),
    "label": Clean(),
}
PRODUCT = Product(**PARTS)
ROWS, T = 5, 0.4


def points() -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(3)
    tokens = torch.randint(4, (2, ROWS, 3), generator=rng)
    turns = SO3().uniform(torch.empty(2, ROWS, 3, 3, dtype=F64), rng)
    return {
        "place": normal(ROWS, 3), "angles": Torus().uniform(torch.empty(ROWS, 2, dtype=F64), rng), "turn": turns[0],
        "flow": turns[1], "direction": Sphere().uniform(torch.empty(ROWS, 3, dtype=F64), rng), "text": tokens[0],
        "noisy": tokens[1], "label": torch.arange(ROWS),
    }  # fmt: skip


def answers(seed: int) -> dict[str, Tensor]:
    """Short tangent vectors, so that none is beyond what a score can say, and any logits."""
    shapes = {
        "place": (3,),
        "angles": (2,),
        "turn": (3,),
        "flow": (3,),
        "direction": (3,),
        "text": (3, 4),
        "noisy": (3, 4),
    }
    return {name: 0.3 * normal(ROWS, *shape, seed=seed + i) for i, (name, shape) in enumerate(shapes.items())}


@dataclass(frozen=True)
class Fixed(Told):
    """Always the same answer, and another one where its label, a whole number, is hidden."""

    process: Any
    process_answer: Any
    without: Any = None

    def guess(self, x_t: Any, t: Tensor, s: Tensor | None = None, label: Tensor | None = None) -> Any:
        hidden = self.without is not None and label is not None and bool((label < 0).all())
        return self.process.endpoints(self.without if hidden else self.process_answer, x_t, t)


def x_t() -> dict[str, Tensor]:
    x = points()
    noisy: dict[str, Tensor] = PRODUCT.interpolate(
        x, PRODUCT.prior(x, torch.Generator().manual_seed(9)), torch.full((ROWS,), T, dtype=F64)
    )
    return noisy


def distance(a: Any, b: Any) -> float:
    if isinstance(a, dict):
        return max(distance(a[name], b[name]) for name in a)
    if a.is_floating_point():
        return float((a - b).abs().clamp_max(1e20).max())
    return float((a != b).sum())


@pytest.mark.parametrize("t", [scalar(T), torch.full((ROWS,), T, dtype=F64)], ids=["one time", "a time a row"])
def test_strength_1_is_the_condition_and_0_none(t: Tensor) -> None:
    here = x_t()
    strong, weak = (PRODUCT.endpoints(answers(seed), here, t) for seed in (0, 100))
    for w, wanted in ((1.0, strong), (0.0, weak), (torch.ones(ROWS, dtype=F64), strong)):
        mixed = PRODUCT.mix(weak, strong, w, here, t)
        assert distance(mixed.x, wanted.x) < 2e-9
        assert distance({**mixed.z, "text": 0 * here["place"], "noisy": 0 * here["place"]},
                        {**wanted.z, "text": 0 * here["place"], "noisy": 0 * here["place"]}) < 2e-9  # fmt: skip


def test_guided_guesses_still_explain_x_t() -> None:
    """Law 3 holds for them too, so a guided walk stays on its manifold."""
    here, t = x_t(), scalar(T)
    guided = guide(Fixed(PRODUCT, answers(0), answers(100)), 1.7)(here, t, label=here["label"])
    again = PRODUCT.interpolate(guided.x, guided.z, t)
    known = PRODUCT.processes.keys() - {"text", "noisy"}  # a guess of tokens is drawn, not interpolated
    assert distance({name: again[name] for name in known}, {name: here[name] for name in known}) < 1e-9
    turn = guided.x["turn"]
    assert float((turn @ turn.mT - torch.eye(3, dtype=F64)).abs().max()) < 1e-12


def test_guidance_on_a_manifold_is_guidance_of_the_answer() -> None:
    here, t = x_t(), scalar(T)
    strong, weak = answers(0), answers(100)
    mixed = autoguide(Fixed(PRODUCT, strong), Fixed(PRODUCT, weak), 1.5)(here, t)
    for name in ("place", "angles", "flow", "turn"):
        wanted = PARTS[name].endpoints(1.5 * strong[name] - 0.5 * weak[name], here[name], t)
        assert distance(mixed.x[name], wanted.x) < 2e-9


def test_guided_tokens_have_mixed_log_probabilities() -> None:
    here, t = x_t(), scalar(T)
    open_ = here["text"] == 4
    assert bool(open_.any())
    mixed = autoguide(Fixed(PRODUCT, answers(0)), Fixed(PRODUCT, answers(100)), 2.0)(here, t).x["text"][open_][:, :4]
    wanted = 2 * answers(0)["text"][open_] - answers(100)["text"][open_]
    assert torch.allclose(mixed.log_softmax(-1), wanted.log_softmax(-1), atol=1e-12)
