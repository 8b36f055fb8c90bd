"""`sfumato sample RUN --reward MODULE:FUNCTION`: samples that please a reward, without training and without its gradients.

Each sample is one of several particles that walk together and are drawn anew by what the reward says of their guessed data
(Feynman-Kac steering, `diffusion.steer`): the distribution is the run's own times exp(strength x reward).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sfumato.errors import Wrong, check
from sfumato.jobs.finite import refused, unfinite
from sfumato.jobs.judge import Judge
from sfumato.jobs.making import Making
from sfumato.jobs.model import Model
from sfumato.jobs.walk import Walk

if TYPE_CHECKING:
    from torch import Tensor

    from sfumato.diffusion import Drawn
    from sfumato.diffusion.generate import Queries
    from sfumato.diffusion.tree import Tree


@dataclass(frozen=True)
class SteerOptions:
    """How samples are steered by a reward."""

    particles: int = 8
    """With --reward: walks of which each sample is one; so many times the calls of the network."""
    strength: float = 1.0
    """With --reward: the distribution drawn from is the run's own times exp(strength x reward)."""

    def __post_init__(self) -> None:
        check(
            self,
            (2 <= self.particles <= 4096, "particles", "from 2 to 4096"),
            (abs(self.strength) < 1e6, "strength", "a number"),
        )


@dataclass(frozen=True)
class SteeredModel(Model):
    """A run whose samples are steered by a reward; all else is as it was."""

    judge: Judge | None = None
    steering: SteerOptions = SteerOptions()

    def making(self, ask: Any, suffix: str = "") -> Making:
        """As the run's, but of weights that no run has: a file must not make anybody run a reward again."""
        made = super().making(ask, suffix)
        return dataclasses.replace(made, weights=f"{made.weights} and a reward")

    def draw(
        self,
        queries: Queries,
        numbers: Sequence[int],
        *,
        walk: Walk | None = None,
        seed: int | None = None,
        stream: Sequence[str | int] = ("sample",),
        begin: Callable[[Any, Tree, Tree, Mapping[str, Tree]], tuple[Tree, Tree]] | None = None,
        look: Any = None,
        finite: bool = True,
        with_solver: Any = None,
    ) -> Iterator[Drawn]:
        """One sample at a time, of a population of its own. Raises Wrong for a walk that cannot be steered."""
        if begin is not None or with_solver is not None:
            raise Wrong("reward: this field draws in a way of its own, which cannot be steered")
        for number in numbers:
            drawn = self._drawn(queries, number, walk or self.walk, self.drawing.seed if seed is None else seed, stream)
            if finite and unfinite(drawn.x):
                raise refused([number], "", "steering")
            yield drawn

    def _drawn(self, queries: Queries, number: int, walk: Walk, seed: int, stream: Sequence[str | int]) -> Drawn:
        import torch

        from sfumato.diffusion import Drawn, Streams, key, steer, tree
        from sfumato.diffusion.generate import RESERVED
        from sfumato.diffusion.rng import uniform_like
        from sfumato.diffusion.sample import Euler

        name, place = queries.name(number)
        count = self.steering.particles
        rng = Streams(key(*stream, "steered", seed, name, place), range(count), self.device)
        query = tree.to(tree.take(dict(queries.batch([number])), torch.zeros(count, dtype=torch.int64)), self.device)
        guess = self.guided(walk)(self.denoiser, query)
        z = guess.process.prior(query["x"], rng)
        times = self.grid(walk)(guess.process.schedule, walk.steps or 20)
        condition = {of: value for of, value in query.items() if of not in RESERVED}

        def liked(x: Any, t: Any) -> Tensor:
            assert self.judge is not None
            things = self.recipe.things(self, queries, Drawn(x, query, [number] * count, {}))
            return self.steering.strength * self.judge(things, [name] * count)

        found = steer(guess, z, times, liked, Euler(1.0), rng, **condition)
        one = int(uniform_like(torch.empty(0), rng, (count,))[0] * count)
        row = slice(one, one + 1)
        return Drawn(tree.take(found.samples, row), tree.take(query, slice(1)), [number], {})


def steered(model: Model, judge: Judge, options: SteerOptions) -> SteeredModel:
    """The model, whose samples are steered from now on. Raises Wrong where its field draws from elsewhere than noise."""
    from sfumato.jobs.recipe import Recipe

    if type(model.recipe).begin is not Recipe.begin:
        raise Wrong("reward: runs of this field do not begin at noise alone, so that they cannot be steered yet")
    own = {f.name: getattr(model, f.name) for f in dataclasses.fields(model)}
    return SteeredModel(**own, judge=judge, steering=options)
