"""The laws of every world in one table: `python -m tests.laws.table` prints process x law, the worst error found.

Distances, or differences of probabilities, in float64; where a law is known only by drawing, the figure says so. What
each number counts is said beside the function that finds it, in the sibling tables.
"""

from __future__ import annotations

import math

import torch

from sfumato.diffusion.exact import GaussianData
from sfumato.diffusion.likelihood import log_likelihood
from sfumato.diffusion.manifold_likelihood import manifold_log_likelihood
from sfumato.diffusion.process import Gaussian
from sfumato.diffusion.sample import Euler
from sfumato.diffusion.schedule import Linear, Schedule
from tests.laws import manifold_tables, product_tables, token_tables
from tests.laws.test_manifold_likelihood import near, single
from tests.laws.weak import gauss_hermite
from tests.laws.worlds import ANSWERS, F64, HELD, SCHEDULES, Constant, normal, scalar, walk

LAWS = ("1", "2", "3", "4", "5", "6", "7", "11")
MEANING = {
    "1": "ends", "2": "endpoints invert targets", "3": "any guess explains x_t", "4": "steps compose",
    "5": "moments or frequencies", "6": "answers agree", "7": "symmetry", "11": "likelihood",
}  # fmt: skip


def gaussian_errors() -> dict[str, float]:
    """Laws 2 to 4 and 6 over all schedules and answers, at times from 0.02 to 0.98; law 1 at t = 0, on schedules that end
    in data; law 5 the mean and variance of x_t by quadrature over z; law 11 at 40 steps, on normal data."""
    worst = dict.fromkeys(("1", "2", "3", "4", "5", "6", "11"), 0.0)
    x, z, answer = normal(3, 64, 5)

    def note(law: str, a: torch.Tensor, b: torch.Tensor) -> None:
        worst[law] = max(worst[law], float((a - b).abs().max() / b.abs().max().clamp_min(1)))

    def safe(schedule: Schedule, t: torch.Tensor, predicts: str) -> bool:
        return predicts not in ("noise", "score") or bool((schedule.alpha(t) > HELD).all())

    for schedule in SCHEDULES.values():
        if float(schedule.sigma(scalar(0.0))) == 0:
            note("1", Gaussian(schedule).interpolate(x, z, scalar(0.0)), x)
        constant = Constant(x, z, Gaussian(schedule))
        t, r, s = (scalar(v) for v in (0.9, 0.5, 0.1))
        x_t = Gaussian(schedule).interpolate(x, z, t)
        note("4", walk(Euler(), constant, x_t, (t, r, s)), walk(Euler(), constant, x_t, (t, s)))
        nodes, weights = gauss_hermite(5)
        here = constant.process.interpolate(torch.full_like(nodes, 0.7), nodes, t)
        mean = (weights * here).sum()
        note("5", torch.stack([mean, (weights * (here - mean) ** 2).sum()]),
             torch.stack([0.7 * schedule.alpha(t), schedule.sigma(t) ** 2]))  # fmt: skip
        for predicts in ANSWERS:
            process = Gaussian(schedule, predicts)
            for value in (0.02, 0.3, 0.7, 0.98):
                t = torch.full((64,), value, dtype=F64)
                if not safe(schedule, t, predicts):
                    continue
                x_t = process.interpolate(x, z, t)
                ends = process.endpoints(process.target(x, z, t), x_t, t)
                note("2", ends.x, x)
                note("2", ends.z, z)
                note("3", process.interpolate(*process.endpoints(answer, x_t, t), t), x_t)
                other = Gaussian(schedule, "v")
                encoded = other.target(*process.endpoints(answer, x_t, t), t)
                s = t / 2
                note("6", process.step(process.endpoints(answer, x_t, t), x_t, t, s),
                     other.step(other.endpoints(encoded, x_t, t), x_t, t, s))  # fmt: skip
    variance = torch.tensor([0.25, 1.0, 4.0], dtype=F64)
    normals = GaussianData(torch.zeros(3, dtype=F64), variance, process=Gaussian(Linear(), "data"))
    points = normal(16, 3) * variance.sqrt()
    true = -(points**2 / variance + (2 * math.pi * variance).log()).sum(1) / 2
    note("11", log_likelihood(normals, points, 40), true)
    return worst


def manifold_likelihood_error(name: str) -> float:
    """Law 11: data that is a heat kernel of deviation 0.4, whose score is exact at every level, at 40 steps; against its
    density blurred by the 0.01 at which the schedule begins."""
    data = single(name)
    x = near(data, 12)
    return float((manifold_log_likelihood(data, x, 40) - data.log_density(x, 0.01)).abs().max())


def table() -> dict[str, dict[str, float]]:
    """Process -> law -> worst error."""
    found = {"Gaussian (12 schedules, 5 answers)": gaussian_errors()}
    for name in ("Masked", "UniformTokens", "OneHot"):
        found[name] = {law.removeprefix("law "): error for law, error in token_tables.worst_errors(name).items()}
    for name, laws in manifold_tables.worst_errors().items():
        found[name.replace("_", " ")] = {law.removeprefix("law "): error for law, error in laws.items()}
    for name in ("torus", "so3", "sphere"):
        found[f"heat {name}"]["11"] = manifold_likelihood_error(name)
    found["Product (nested)"] = product_tables.worst_errors()
    return found


def main() -> None:
    """Print the table in Markdown."""
    print("| process | " + " | ".join(f"{law}: {MEANING[law]}" for law in LAWS) + " |")
    print("|" + "---|" * (len(LAWS) + 1))
    for name, laws in table().items():
        print(f"| {name} | " + " | ".join(f"{laws[law]:.1e}" if law in laws else "" for law in LAWS) + " |")
    print("\nscore of IGSO(3) against autograd of the log-density, worst relative error by deviation and angle:")
    for eps, places in manifold_tables.igso3_score_table().items():
        print(f"  {eps:8.3g}  " + "  ".join(f"{place}: {error:.1e}" for place, error in places.items()))


if __name__ == "__main__":
    main()
