"""Worlds to multiply, and the worst error of every law on their product.

python -m tests.laws.product_tables
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor

from sfumato.diffusion.process import Endpoints, Gaussian, States, along
from sfumato.diffusion.product import Clean, Product
from sfumato.diffusion.rng import Rng, Streams, key, uniform_like
from sfumato.diffusion.sample import Euler, trajectory
from sfumato.diffusion.schedule import VP, Cosine, Linear, Schedule
from sfumato.diffusion.weights import mean_counted
from tests.laws.worlds import ANSWERS, F64, Told, normal, scalar

HIDDEN = -1


@dataclass(frozen=True)
class Reveal:
    """A tiny world of whole numbers (B, L): each is hidden from its own moment z on. The network answers the numbers."""

    states: ClassVar[States] = "tokens"
    habits: ClassVar[Mapping[str, Any]] = {}
    schedule: ClassVar[Schedule] = Linear()

    def prior(self, x: Tensor, rng: Rng = None) -> Tensor:
        return uniform_like(x, rng)

    def start(self, z: Tensor) -> Tensor:
        return torch.full(z.shape, HIDDEN)

    def interpolate(self, x: Tensor, z: Tensor, t: Tensor) -> Tensor:
        return torch.where(z > along(t, z), x, HIDDEN)

    def precondition(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return x_t, t.expand(len(x_t)).float()

    def target(self, x: Tensor, z: Tensor, t: Tensor) -> Tensor:
        return x

    def loss(self, answer: Tensor, x: Tensor, z: Tensor, t: Tensor, weight: Tensor | None = None) -> Tensor:
        return mean_counted((answer != x).double(), t, weight)

    def endpoints(self, answer: Tensor, x_t: Tensor, t: Tensor, rng: Rng = None) -> Endpoints:
        hidden = x_t == HIDDEN
        return Endpoints(torch.where(hidden, answer, x_t), torch.where(hidden, along(t, x_t.double()) / 2, 1.0))

    def step(self, ends: Endpoints, x_t: Tensor, t: Tensor, s: Tensor, eta: float = 0.0, rng: Rng = None) -> Tensor:
        if eta == 0:
            return self.interpolate(ends.x, ends.z, s)
        shown = uniform_like(x_t, rng) >= along(s / t, x_t.double())
        return torch.where((x_t == HIDDEN) & ~shown, HIDDEN, ends.x)


def world(first: Any = "velocity", second: Any = "v", third: Any = "data") -> Product:
    inner = Product(picture=Gaussian(Cosine(), third, "velocity"), label=Clean())
    return Product(position=Gaussian(Linear(), first), frames=Gaussian(VP(), second), words=Reveal(), inner=inner)


def data(rows: int, seed: int = 0) -> dict[str, Any]:
    whole = torch.Generator().manual_seed(seed)
    return {
        "position": normal(rows, 3, seed=seed),
        "frames": normal(rows, 4, 2, seed=seed + 1),
        "words": torch.randint(0, 5, (rows, 6), generator=whole),
        "inner": {
            "picture": normal(rows, 2, 2, 2, seed=seed + 2),
            "label": torch.randint(0, 9, (rows,), generator=whole),
        },
    }


def times(rows: int, seed: int = 0) -> dict[str, Any]:
    """Of every kind: one time for all; one per row; a dict with one per row, one per frame, and a nested dict."""
    rng = torch.Generator().manual_seed(seed)

    def some(*shape: int) -> Tensor:
        return 0.02 + 0.95 * torch.rand(shape, dtype=F64, generator=rng)

    inner = {"picture": some(rows), "label": some()}
    return {
        "scalar": some(),
        "per row": some(rows),
        "per part": {"position": some(rows), "frames": some(rows, 4), "words": some(), "inner": inner},
        "clean left out": {
            "position": some(rows),
            "frames": some(rows),
            "words": some(rows),
            "inner": {"picture": some(rows)},
        },
    }


def leaves(tree: Any, path: str = "") -> dict[str, Tensor]:
    if isinstance(tree, Mapping):
        return {k: v for name, part in tree.items() for k, v in leaves(part, f"{path}/{name}").items()}
    return {path: tree}


def apart(one: Any, two: Any, *ignored: str) -> float:
    """Largest difference between two trees of the same parts."""
    one, two = leaves(one), leaves(two)
    assert one.keys() == two.keys()
    return max(float((one[k].double() - two[k].double()).abs().max()) for k in one if not k.endswith(ignored or ("?",)))


def network(shown: dict[str, Any], level: dict[str, Any], **condition: Any) -> dict[str, Any]:
    """Every part's answer depends on every part and on every level, row by row."""
    label = shown["inner"]["label"].double() / 9 + shown["position"].mean(1) + shown["words"].double().mean(1) / 5
    picture = shown["inner"]["picture"].double()
    levels = {k: v.double().reshape(len(label), -1).mean(1) for k, v in leaves(level).items()}
    mood = torch.sin(label + picture[:, 0, 0, 0] + sum(levels.values()) / 10)
    return {
        "position": torch.cos(shown["position"] + mood[:, None]),
        "frames": torch.cos(shown["frames"] * mood[:, None, None]),
        "words": (7 * (mood[:, None] + shown["position"][:, :1]).abs() + torch.arange(6)).long() % 5,
        "inner": {"picture": torch.sin(picture + mood[:, None, None, None])},
    }


@dataclass(frozen=True)
class JointNormal(Told):
    """Jointly normal parts (B, D_part): the exact denoiser at any noise of each part, clean parts included."""

    mean: Tensor
    covariance: Tensor
    sizes: dict[str, int] = field(default_factory=lambda: {"a": 2, "b": 3})
    process: Product = field(default_factory=lambda: Product(a=Gaussian(Linear(), "data"), b=Gaussian(VP(), "data")))

    def split(self, x: Tensor) -> dict[str, Tensor]:
        return dict(zip(self.sizes, x.split(list(self.sizes.values()), 1), strict=True))

    def guess(self, x_t: dict[str, Tensor], t: Any, s: Any = None, **condition: Any) -> Endpoints:
        alphas, sigmas = [], []
        for name, size in self.sizes.items():
            part, rows = self.process.processes[name], len(x_t[name])
            if isinstance(part, Gaussian):
                time = t[name] if isinstance(t, Mapping) else t
                alpha, sigma = part.schedule.alpha(time), part.schedule.sigma(time)
            else:
                alpha, sigma = scalar(1.0), scalar(0.0)
            alphas.append(alpha.expand(rows)[:, None].expand(rows, size))
            sigmas.append(sigma.expand(rows)[:, None].expand(rows, size))
        alpha, sigma, flat = torch.cat(alphas, 1), torch.cat(sigmas, 1), torch.cat([x_t[n] for n in self.sizes], 1)
        spread = alpha[:, :, None] * self.covariance * alpha[:, None] + torch.diag_embed(sigma**2)
        away = torch.linalg.solve(spread, (flat - alpha * self.mean)[..., None])
        x = self.split(self.mean + (self.covariance @ (alpha[..., None] * away))[..., 0])
        z = {}
        for name, part in self.process.parts:
            time = t.get(name) if isinstance(t, Mapping) else t
            z[name] = part.noise_given(x[name], x_t[name], time) if isinstance(part, Gaussian) else x_t[name]
        return self.process.endpoints(self.process.target(x, z, t), x_t, t)


def joint_normal(**processes: Any) -> JointNormal:
    root = 0.35 * normal(5, 5, seed=3) + 0.8 * torch.eye(5, dtype=F64)
    found = JointNormal(normal(5, seed=4), root @ root.T)
    return JointNormal(found.mean, found.covariance, found.sizes, Product(**processes)) if processes else found


def law_1() -> float:
    """At t = 0 the data; at t = 1 the start, on schedules that end in pure noise."""
    process, x = Product(a=Gaussian(Linear()), inner=Product(b=Gaussian(Cosine()), c=Clean()), w=Reveal()), data(4)
    x = {"a": x["position"], "inner": {"b": x["frames"], "c": x["inner"]["label"]}, "w": x["words"]}
    z = process.prior(x, Streams(key("law"), range(4)))
    begin = apart(process.interpolate(x, z, scalar(0.0)), x)
    return max(begin, apart(process.interpolate(x, z, scalar(1.0)), process.start(z)))


def law_2() -> float:
    worst = 0.0
    for seed in range(10):
        x = data(5, seed)
        for first, second, third in zip(ANSWERS, ANSWERS[1:] + ANSWERS[:1], ANSWERS[2:] + ANSWERS[:2]):
            process = world(first, second, third)
            z = process.prior(x, Streams(key("law", seed), range(5)))
            for t in times(5, seed).values():
                ends = process.endpoints(process.target(x, z, t), process.interpolate(x, z, t), t)
                worst = max(worst, apart(ends.x, x), apart(ends.z, z, "words"))
    return worst


def law_3() -> float:
    worst = 0.0
    for seed in range(10):
        for first, second, third in zip(ANSWERS, ANSWERS[1:] + ANSWERS[:1], ANSWERS[2:] + ANSWERS[:2]):
            process, x, answer = world(first, second, third), data(5, seed), data(5, seed + 99)
            z = process.prior(x, Streams(key("law", seed), range(5)))
            for t in times(5, seed).values():
                x_t = process.interpolate(x, z, t)
                ends = process.endpoints(answer, x_t, t)
                size = max(1.0, *(float(v.abs().max()) for end in ends for v in leaves(end).values()))
                worst = max(worst, apart(process.interpolate(*ends, t), x_t) / size)
    return worst


def scaled(t: Any, by: float) -> Any:
    return {k: scaled(v, by) for k, v in t.items()} if isinstance(t, Mapping) else t * by


def law_4() -> float:
    worst, process = 0.0, world()
    for seed in range(10):
        x = data(5, seed)
        ends = Endpoints(x, process.prior(x, Streams(key("law", seed), range(5))))  # type: ignore[arg-type]
        for t in times(5, seed).values():
            x_t, r, s = process.interpolate(*ends, t), scaled(t, 0.7), scaled(t, 0.4)
            twice = process.step(ends, process.step(ends, x_t, t, r), r, s)
            worst = max(worst, apart(twice, process.step(ends, x_t, t, s)))
    return worst


def law_5() -> float:
    """Largest deviation, in standard errors, of the noise's mean, variance and correlation between parts from those of
    independent unit normals: after noising each part at its own time, and again after a random step."""
    rows = 40_000
    process = Product(a=Gaussian(Linear()), inner=Product(b=Gaussian(VP())))
    x = {"a": normal(1, 2).expand(rows, 2), "inner": {"b": normal(1, 3, seed=1).expand(rows, 3)}}
    rng = torch.Generator().manual_seed(5)
    z, worst = process.prior(x, rng), 0.0
    t, s = {"a": scalar(0.3), "inner": {"b": scalar(0.8)}}, {"a": scalar(0.1), "inner": {"b": scalar(0.7)}}
    x_t = process.interpolate(x, z, t)
    for state, time in ((x_t, t), (process.step(Endpoints(x, z), x_t, t, s, 1.0, rng), s)):  # type: ignore[arg-type]
        left = {"a": Gaussian(Linear()).noise_given(x["a"], state["a"], time["a"])}
        left["b"] = Gaussian(VP()).noise_given(x["inner"]["b"], state["inner"]["b"], time["inner"]["b"])
        flat = torch.cat([left["a"], left["b"]], 1)
        error = (flat.T @ flat / rows - torch.eye(5)) / (1 + torch.eye(5)).sqrt()
        worst = max(worst, float(error.abs().max()) * rows**0.5, float(flat.mean(0).abs().max()) * rows**0.5)
    return worst


def law_6() -> float:
    """The same path whatever each part answers, deterministic and random."""
    worst = 0.0
    grid = torch.linspace(1, 0, 21, dtype=F64)
    separate = [{"a": t, "b": s} for t, s in zip(grid**0.5, grid)]
    for eta in (0.0, 1.0):
        for steps in (grid, separate):
            paths = []
            for answers in (("data", "data"), ("velocity", "noise"), ("v", "score")):
                denoiser = joint_normal(a=Gaussian(Linear(), answers[0]), b=Gaussian(VP(), answers[1]))  # type: ignore[arg-type]
                rng = Streams(key("law", 6), range(4))
                z = denoiser.process.prior(denoiser.split(torch.zeros(4, 5, dtype=F64)), rng)
                paths.append(list(trajectory(denoiser, z, steps, Euler(eta), rng)))  # type: ignore[arg-type]
            for one, two in pairwise(paths):
                worst = max(worst, *(apart(p, q) for p, q in zip(one, two, strict=True)))
    return worst


@cache
def worst_errors() -> dict[str, float]:
    """Law -> worst error of the product; law 5 in standard errors."""
    laws = {"1": law_1, "2": law_2, "3": law_3, "4": law_4, "5": law_5, "6": law_6}
    return {name: law() for name, law in laws.items()}


if __name__ == "__main__":
    for law, error in worst_errors().items():
        print(f"law {law}: {error:.1e}")
