r"""Learning from judgements instead of from data: which of two is better (diffusion DPO), or how good each is (DiffusionNFT).

Both compare the network with a copy of itself from before, at the same x_t, and neither looks at how a sample was walked to: a
judged sample is noised again as data are.

    DPO    -log sigmoid(-beta [(L_c - L_c before) - (L_r - L_r before)])       L_c, L_r: losses of the chosen and the rejected
    NFT    r |x+ - x|^2 / m+  +  (1 - r) |x- - x|^2 / m-                       r in [0, 1]: how good the sample x is
           x+- is the old guess moved by +-beta times the way from it to the new one, m+- its mean absolute error

So x+ is guidance of strength beta of the new guess over the old one, and x- that of strength -beta: what is good is learned, and
from what is bad the network is pushed away by the same loss.

Sources: diffusion DPO (Wallace 2023, arXiv 2311.12908), eq. 14; DiffusionNFT (Zheng 2025, arXiv 2509.16117), eq. 5 and 8. Of many
samples the best and the worst teach most (arXiv 2604.06916).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from sfumato.diffusion import Denoiser, Guess, tree
from sfumato.diffusion.rng import Rng
from sfumato.diffusion.tree import Tree
from sfumato.diffusion.weights import mean_counted

REJECTED, MERIT = "rejected", "merit"
"""In a batch beside x and its conditions: the other of the pair, shaped like x; how good x is, from 0 to 1, (B,)."""


class Unaware(Denoiser):
    """A denoiser whose batches bring a judgement beside the conditions, which its network is not told."""

    def given(self, **condition: Tree) -> Tree:
        return super().given(**_told(condition))


def _told(condition: Mapping[str, Tree]) -> dict[str, Tree]:
    return {name: value for name, value in condition.items() if name not in (REJECTED, MERIT)}


@dataclass(frozen=True)
class Preference:
    """The criterion of diffusion DPO: batches hold what was chosen as x, and what was rejected as the condition "rejected".

    Both of a pair meet the same noise at the same time, so what is compared is them alone. For every process.

    Args:
        before: the denoiser as it was, frozen.
        beta: how sharply: the network may leave ``before`` by about 1 / beta in loss.
    """

    before: Guess
    beta: float

    def __call__(
        self, denoiser: Denoiser, x: Tree, t: Tree, *, rng: Rng, z: Tree, weight: Tree | None, given: Tree,
        condition: Mapping[str, Tree],
    ) -> dict[str, Tensor]:  # fmt: skip
        """Loss per pair (B,): log 2 as long as nothing is learned."""
        process, rows = denoiser.process, tree.rows(x)
        both, noise, times = tree.join(x, condition[REJECTED]), tree.join(z, z), tree.join(t, t)
        counts = None if weight is None else tree.join(weight, weight)
        x_t = process.interpolate(both, noise, times)

        def losses(guess: Any, known: Tree) -> Tensor:
            answer = guess.answer(x_t, times, given=tree.join(known, known) if known else known)
            return process.loss(answer, both, noise, times, counts)

        now = losses(denoiser, given)
        with torch.no_grad():
            then = losses(self.before, self.before.given(**_told(condition)))
        gained = (now - then)[:rows] - (now - then)[rows:]
        return {"preference": softplus(self.beta * gained)}


@dataclass(frozen=True)
class Improvement:
    """The criterion of DiffusionNFT: batches hold samples of ``old`` as x, and how good they are as the condition "merit".

    Args:
        old: the denoiser that drew them, frozen. before: that of before any of this, which is not to be left far behind.
        beta: how far the two guesses that are judged lie from the old one, for the distance of the new one.
        leash: weight of the squared distance from ``before``, between velocities.

    Raises:
        TypeError: a process whose states are no vectors: distances of guessed data mean nothing there.
    """

    old: Guess
    before: Guess
    beta: float = 1.0
    leash: float = 1e-4

    def __post_init__(self) -> None:
        if self.old.process.states != "vectors":
            raise TypeError(
                f"the states of {type(self.old.process).__name__} are {self.old.process.states}, and rewards are learned by "
                "the distance of vectors: draw more and keep the best instead, or give pairs"
            )

    def __call__(
        self, denoiser: Denoiser, x: Tensor, t: Tensor, *, rng: Rng, z: Tensor, weight: Tensor | None, given: Tree,
        condition: Mapping[str, Tree],
    ) -> dict[str, Tensor]:  # fmt: skip
        """Losses per sample (B,): by merit, and the distance from before."""
        process: Any = denoiser.process
        merit: Tensor = condition[MERIT]
        x_t = process.interpolate(x, z, t)
        new = denoiser(x_t, t, given=given)
        told = _told(condition)
        with torch.no_grad():
            old = self.old(x_t, t, **told)
            first = self.before(x_t, t, **told) if self.leash > 0 else old

        def wrong(share: float) -> Tensor:
            error = process.mix(old, new, share, x_t, t).x - x
            with torch.no_grad():
                size = mean_counted(error.abs(), t, weight).clamp_min(1e-5)
            return mean_counted(error**2, t, weight) / size

        terms = {"merit": (merit * wrong(self.beta) + (1 - merit) * wrong(-self.beta)) / self.beta}
        if self.leash > 0:
            terms["leash"] = self.leash * process.apart(new, first, x_t, t, weight)
        return terms


def merits(rewards: Tensor, groups: Tensor, limit: float = 5.0) -> Tensor:
    """Rewards (N,) as merits (N,) from 0 to 1: 1/2 is the mean of the group, 0 and 1 lie ``limit`` deviations from it.

    Groups (N,) are what was asked for: samples are judged beside those of the same query. In a group without differences all
    merits are 1/2, from which nothing is learned.
    """
    found = torch.full((len(rewards),), 0.5, dtype=torch.float64)
    for group in groups.unique():
        own = groups == group
        away = rewards[own].double() - rewards[own].double().mean()
        deviation = away.std(correction=0)
        if deviation > 1e-12:
            found[own] = (away / deviation / limit).clamp(-1, 1) / 2 + 0.5
    return found


def extremes(merit: Tensor, groups: Tensor, share: float) -> Tensor:
    """Rows, rising, of the best and the worst of each group: ``share`` of it, half of them from either end (at least one)."""
    rows = []
    for group in groups.unique():
        own = (groups == group).nonzero().flatten()
        order = own[merit[own].argsort(stable=True)]
        half = max(1, round(share * len(own) / 2))
        rows.append(order if 2 * half >= len(own) else torch.cat([order[:half], order[-half:]]))
    return torch.cat(rows).sort().values


def variety(x: Tensor, groups: Tensor) -> float:
    """How different samples (N, ...) of one group are: the mean over pairs of their root mean square distance. NaN where no
    group has two."""
    total, count = 0.0, 0
    for group in groups.unique():
        own = x[groups == group].double().flatten(1)
        if len(own) > 1:
            total += float(torch.pdist(own).sum()) / own.shape[1] ** 0.5
            count += len(own) * (len(own) - 1) // 2
    return total / count if count else float("nan")
