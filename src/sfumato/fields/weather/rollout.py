"""Forecasts lead by lead: each step is drawn for the forecast's own last two states.

A query is a start; its samples are the members of the ensemble. The randomness of a member's k-th step is a function of (seed,
"lead", k, start, member) alone, so member m is the same in any ensemble, batch and order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sfumato.errors import NonFiniteSample, Wrong
from sfumato.fields.weather.data import Store, places
from sfumato.fields.weather.grid import clock, moment, said

if TYPE_CHECKING:
    from sfumato.diffusion import Drawn
    from sfumato.diffusion.tree import Tree
    from sfumato.jobs.model import Model

FAR = 10.0
"""Spreads of the data from their mean that a forecast may reach, where the data never went as far."""


@dataclass(frozen=True, eq=False)
class Forecasts:
    """``members`` forecasts of ``leads`` steps from each of some starts, places in the time of a store: sample i is member
    i mod ``members`` of start i div ``members``."""

    store: Store
    starts: np.ndarray
    members: int
    leads: int
    buckets: None = None

    def __len__(self) -> int:
        return len(self.starts) * self.members

    def at(self, number: int) -> tuple[int, int]:
        """The place of its start in time, and the number of the member."""
        return int(self.starts[number // self.members]), number % self.members

    def name(self, number: int) -> tuple[str, int]:
        place, member = self.at(number)
        return said(self.store.times[place]), member

    def first(self, numbers: Sequence[int]) -> Tensor:
        """The frames at the start and a step before, (b, 2, C, rows, columns) in standard units."""
        now = np.array([self.at(number)[0] for number in numbers])
        before = places(self.store.times, self.store.times[now] - self.store.facts.step)
        return torch.from_numpy(np.stack((self.store.standard(now), self.store.standard(before)), 1))

    def due(self, numbers: Sequence[int], lead: int) -> np.ndarray:
        """The times that the k-th step forecasts, (b,) int64."""
        now = np.array([self.at(number)[0] for number in numbers])
        return np.asarray(self.store.times[now] + lead * self.store.facts.step)

    def batch(self, numbers: Sequence[int]) -> dict[str, Tree]:
        """The first step of each."""
        state = self.first(numbers)
        return _shown(state, self.due(numbers, 1))


@dataclass(frozen=True, eq=False)
class Step:
    """One step of some forecasts, from the states that they have come to (b, 2, C, rows, columns): sample i of it is of forecast
    ``numbers[i]``."""

    forecasts: Forecasts
    numbers: Sequence[int]
    state: Tensor
    lead: int
    buckets: None = None

    def __len__(self) -> int:
        return len(self.numbers)

    def name(self, number: int) -> tuple[str, int]:
        return self.forecasts.name(self.numbers[number])

    def batch(self, numbers: Sequence[int]) -> dict[str, Tree]:
        own = list(numbers)
        return _shown(self.state[own], self.forecasts.due([self.numbers[i] for i in own], self.lead))


def _shown(state: Tensor, due: np.ndarray) -> dict[str, Tree]:
    return {"x": torch.zeros_like(state[:, 0]), "state": state.flatten(1, 2), "clock": torch.from_numpy(clock(due))}


def asked(model: Model, start: Sequence[str], leads: int, members: int) -> Forecasts:
    """The forecasts that somebody asks for. Raises Wrong for a date that cannot be forecast from."""
    store, facts = model.companions, model.facts
    if members < 1:
        raise Wrong(f"n = {members}: must be at least 1")
    if not start:
        known = store.starts(facts.until, facts.held_until, leads)
        if not len(known):
            raise Wrong(f"leads = {leads}: no held-out start has its truth for as long; give --start DATE, or fewer")
        return Forecasts(store, known[-1:], members, leads)
    chosen = []
    for text in start:
        seconds = int(store.times[-1]) if text == "latest" else moment("start", text)
        now, before = (int(places(store.times, np.array([seconds - k * facts.step]))[0]) for k in (0, 1))
        if now < 0 or before < 0:
            lacks = said(seconds) if now < 0 else f"{said(seconds - facts.step)}, a step before,"
            raise Wrong(
                f"start = {text!r}: {lacks} is not among the times of the run, {said(store.times[0])} to "
                f"{said(store.times[-1])} every {np.diff(store.times).min() / 3600:g} h; two frames are needed"
            )
        chosen.append(now)
    return Forecasts(store, np.array(chosen), members, leads)


def drawn(model: Model, forecasts: Forecasts, numbers: Sequence[int]) -> Iterator[Drawn]:
    """Forecasts of these numbers, x (b, leads, C, rows, columns) in standard units. Raises NonFiniteSample, which names the lead
    and the channel, for one that runs away."""
    from sfumato.diffusion import Drawn
    from sfumato.diffusion.generate import bunches

    facts = model.facts
    bounds = zip(facts.low, facts.high, facts.mean, facts.spread)
    far = torch.tensor([max(FAR, 2 * max(high - mean, mean - low) / spread) for low, high, mean, spread in bounds])
    for own in bunches(forecasts, numbers, model.walk.batch or 16):
        state, made = forecasts.first(own), []
        for lead in range(1, forecasts.leads + 1):
            step = Step(forecasts, own, state, lead)
            now = torch.empty_like(state[:, 0])
            for rows, whole, x in _stepped(model, step):
                now[rows] = arrived(forecasts, [own[i] for i in rows], lead, state[rows], x, whole)
            _held(model, forecasts, own, lead, now.abs().amax((2, 3)) / far)
            state = torch.stack((now, state[:, 0]), 1)
            made.append(now)
        query: Mapping[str, Any] = {}
        yield Drawn(torch.stack(made, 1), query, own, {})


def _stepped(model: Model, step: Step) -> Iterator[tuple[list[int], bool, Tensor]]:
    """A step of each forecast, by the network that its member is of (a flow map is of one alone): some rows of the step, whether
    the whole change was drawn, and what was drawn."""
    others = () if model.adaptations else step.forecasts.store.others
    every = ((model, False), *((replace(model, denoiser=each.denoiser), each.whole) for each in others))
    for place, (each, whole) in enumerate(every):
        own = [i for i in range(len(step)) if step.forecasts.at(step.numbers[i])[1] % len(every) == place]
        for part in each.draw(step, own, stream=("lead", step.lead)) if own else ():
            assert isinstance(part.x, Tensor)
            yield list(part.numbers), whole, part.x.float().cpu()


def arrived(
    forecasts: Forecasts, own: Sequence[int], lead: int, state: Tensor, drawn: Tensor, whole: bool = False
) -> Tensor:
    """Where a drawn step (b, C, rows, columns) leads from the states (b, 2, C, rows, columns), in standard units; 0
    where there is no value. ``whole``: the change itself was drawn, though the run has a regression."""
    store, facts = forecasts.store, forecasts.store.facts
    plain = whole or store.mean is None
    change = drawn if plain else store.mean.restored(drawn, state, forecasts.due(own, lead))  # type: ignore[union-attr]
    share = torch.tensor([d / s for d, s in zip(facts.change, facts.spread)])[:, None, None]
    return (state[:, 0] + change * share) * torch.from_numpy(~store.hidden)


def _held(model: Model, forecasts: Forecasts, own: Sequence[int], lead: int, reach: Tensor) -> None:
    if bool((reach <= 1).all()):
        return
    row, c = (int(i) for i in (~(reach <= 1)).nonzero()[0])
    start, member = forecasts.name(own[row])
    raise NonFiniteSample(
        f"{model.run.path}: member {member} of {start} leaves the climate at lead {lead}, in {model.facts.channels[c].label}; "
        "train longer, ask for fewer --leads, or give another --solver"
    )
