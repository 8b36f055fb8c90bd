"""Exact teachers for tokens: a table of the joint law of all sequences, and what follows from it by enumeration."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from sfumato.diffusion.grids import uniform
from sfumato.diffusion.masked import Masked
from sfumato.diffusion.onehot import OneHot
from sfumato.diffusion.process import Endpoints
from sfumato.diffusion.rng import Streams, key
from sfumato.diffusion.sample import sample
from sfumato.diffusion.schedule import VP, Cosine, Linear, Schedule, Sigmoid, ZeroTerminal
from sfumato.diffusion.solvers import SOLVERS
from sfumato.diffusion.tokens import UniformTokens, share
from sfumato.diffusion.unmasking import Remask
from tests.laws.worlds import F64, Told, scalar

TOKEN_SCHEDULES: dict[str, Schedule] = {
    "linear": Linear(),
    "cosine": Cosine(),
    "zero_terminal": ZeroTerminal(VP()),
    "sigmoid": Sigmoid(),
}


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sequences(vocab: int, length: int) -> Tensor:
    """All sequences: (V^L, L)."""
    return torch.cartesian_prod(*[torch.arange(vocab)] * length).reshape(-1, length)


def random_table(vocab: int, length: int, seed: int = 0) -> Tensor:
    """A joint law (V^L,) in which tokens depend strongly on each other."""
    logits = 1.5 * torch.randn(vocab**length, dtype=F64, generator=generator(seed))
    return torch.softmax(logits, 0)


@dataclass(frozen=True)
class TableData(Told):
    """The exact denoiser of a table. law (V^L,) in the order of :func:`sequences`."""

    law: Tensor
    vocab: int
    length: int
    process: Any

    def answer(self, x_t: Tensor, t: Tensor, s: Tensor | None = None, **condition: Any) -> Tensor:
        """Logits (B, L, V): what the other tokens tell about each one, by summing over all sequences."""
        data = sequences(self.vocab, self.length)
        here = x_t[:, None] == data  # (B, N, L)
        if isinstance(self.process, UniformTokens):
            alpha = self.process.share(x_t, t).expand(x_t.shape)[:, None]
            each = alpha * here + (1 - alpha) / self.vocab
        else:
            each = (here | self.process.open(x_t)[:, None]).to(F64)
        out = []
        for place in range(self.length):
            others = torch.cat([each[..., :place], each[..., place + 1 :]], -1).prod(-1) * self.law  # (B, N)
            mass = [others[:, data[:, place] == token].sum(1) for token in range(self.vocab)]
            out.append(torch.stack(mass, -1))
        return torch.stack(out, 1).log().clamp_min(-700)

    def guess(self, x_t: Tensor, t: Tensor, s: Tensor | None = None, **condition: Any) -> Endpoints:
        ends: Endpoints = self.process.endpoints(self.answer(x_t, t), x_t, t)
        return ends


def chain(guess: Any, times: Tensor, states: Tensor, solver: Remask | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """The walk's exact law: over all states (N, L), from the start on, the law (N,) at every time; no sampling."""
    process, count = guess.process, len(states)
    where = {tuple(row): i for i, row in enumerate(states.tolist())}
    z = torch.zeros(1, states.shape[1], dtype=F64)
    law = torch.zeros(count, dtype=F64)
    if isinstance(process, UniformTokens):
        law += 1 / count
    else:
        law[where[tuple(process.start(z)[0].tolist())]] = 1
    yield times[0], law
    for t, s in pairwise(times):
        step = process.transition if solver is None else partial(solver.transition, process)
        each = step(guess(states, t), states, t, s)  # (N, L, K)
        moves = torch.ones(count, count, dtype=F64)
        for place in range(states.shape[1]):
            moves = moves * each[:, place][:, states[:, place]]
        law = law @ moves
        yield s, law


def sampled_law(data: TableData, steps: int, solver: Remask | None = None) -> Tensor:
    """Exact law (V^L,) of what a walk of even steps writes."""
    masks = isinstance(data.process, Masked)
    states = sequences(data.vocab + masks, data.length)
    *_, (_, law) = chain(data, uniform(data.process.schedule, steps), states, solver)
    return law[(states < data.vocab).all(1)]


def marginals(data: TableData) -> Tensor:
    """The table's law of each token: (L, V)."""
    rows = sequences(data.vocab, data.length)
    return torch.stack([(data.law[:, None] * (rows == token)).sum(0) for token in range(data.vocab)], -1)


def _time_nodes(points: int = 64) -> tuple[Tensor, Tensor]:
    """Quadrature over t in (0, 1), denser at the ends, where rates and logarithms may be infinite."""
    k = torch.arange(1, points, dtype=F64)
    off = k / (4 * k**2 - 1).sqrt()
    nodes, vectors = torch.linalg.eigh(torch.diag(off, 1) + torch.diag(off, -1))
    v, weight = (nodes + 1) / 2, vectors[0] ** 2
    v, weight = v * v * (3 - 2 * v), weight * 6 * v * (1 - v)
    return v**2, weight * 2 * v


def exact_bound(data: Any, x: Tensor) -> Tensor:
    """The loss of the process, in nats per sequence, averaged over noise by enumeration and over time by quadrature: (B,)."""
    process, length, rows = data.process, data.length, len(x)
    states = sequences(2, length).bool() if isinstance(process, Masked) else sequences(process.vocab, length)
    many, xs = states.repeat(rows, 1), x.repeat_interleave(len(states), 0)
    total = torch.zeros(rows, dtype=F64)
    for t, weight in zip(*_time_nodes(), strict=True):
        alpha = share(process.schedule, t, x)
        gone = (1 + alpha) / 2
        if isinstance(process, Masked):
            z, chance = torch.where(many, gone, 0.0), torch.where(many, 1 - alpha, alpha)
        else:
            z, chance = many + gone, alpha * (many == xs) + (1 - alpha) / process.vocab
        loss = process.loss(data.answer(process.interpolate(xs, z, t), t), xs, z, t)
        total += weight * length * (chance.prod(1) * loss).reshape(rows, -1).sum(1)
    return total


# ---- worst errors per law --------------------------------------------------------------------------------------------


def _tokens(process: Any) -> tuple[int, int]:
    """Number of data tokens, and of logits."""
    return (
        (process.vocab, process.vocab) if isinstance(process, UniformTokens) else (process.mask_id, process.mask_id + 1)
    )


def random_times(shape: tuple[int, ...], seed: int) -> Tensor:
    """Times of which some are at the very ends."""
    t = torch.rand(shape, dtype=F64, generator=generator(seed))
    return torch.where(t < 0.1, 0.0, torch.where(t > 0.9, 1.0, t))


def _law_errors(process: Any, seed: int) -> dict[str, float]:
    vocab, width = _tokens(process)
    batch, length = 40, 6
    x = torch.randint(vocab, (batch, length), generator=generator(seed))
    z = process.prior(x, generator(seed + 1))
    zero, one = scalar(0.0), scalar(1.0)
    logits = 4 * torch.randn(batch, length, width, dtype=F64, generator=generator(seed + 2))
    errors = {"law 1": float((process.interpolate(x, z, zero) != x).sum())}
    errors["law 1"] += float((process.interpolate(x, z, one) != process.start(z)).sum())
    errors["law 2"] = errors["law 3"] = 0.0
    for shape in ((), (batch,), (batch, length)):
        t = random_times(shape, seed + 3)
        x_t = process.interpolate(x, z, t)
        ends = process.endpoints(process.target(x, z, t), x_t, t)
        guess = ends.x if ends.x.ndim == 2 else ends.x.argmax(-1)
        errors["law 2"] = max(errors["law 2"], float((guess != x).sum() + (process.interpolate(*ends, t) != x_t).sum()))
        for answer in (logits, 1e3 * logits, torch.zeros_like(logits)):
            ends = process.endpoints(answer, x_t, t)
            errors["law 3"] = max(errors["law 3"], float((process.interpolate(*ends, t) != x_t).sum()))
    # law 4: every token's chain t -> r -> s against t -> s, the answer held
    s, r, t = (scalar(value) for value in sorted(torch.rand(3, dtype=F64, generator=generator(seed + 4)).tolist()))
    errors["law 4"] = max(_composition(process, logits[:1], *times) for times in ((s, r, t), (zero, r, one)))
    # law 5: noise spread evenly, so frequencies are exact to one over their number
    many = 20_000
    grid = (torch.arange(many, dtype=F64) + 0.5) / many
    each = torch.full((1, many), vocab - 1)
    spread = grid[None] * (vocab if isinstance(process, UniformTokens) else 1)
    errors["law 5"] = 0.0
    for when in (s, r, t):
        x_t, alpha = process.interpolate(each, spread, when), float(process.schedule.alpha(when))
        wanted = torch.zeros(width, dtype=F64)
        if isinstance(process, UniformTokens):
            wanted += (1 - alpha) / vocab
        else:
            wanted[process.mask_id] = 1 - alpha
        wanted[vocab - 1] += alpha
        seen = torch.bincount(x_t[0], minlength=width) / many
        errors["law 5"] = max(errors["law 5"], float((seen - wanted).abs().max()))
    # law 6: logits that differ by a constant, and (masks) by anything where the token is known
    x_t = process.interpolate(x, z, t)
    other = logits + torch.randn(batch, length, 1, dtype=F64, generator=generator(seed + 5))
    if not isinstance(process, UniformTokens):
        other = torch.where(process.open(x_t)[..., None], other, other.flip(0))
    laws = [process.transition(process.endpoints(answer, x_t, t), x_t, t, s) for answer in (logits, other)]
    errors["law 6"] = float((laws[0] - laws[1]).abs().max())
    # law 7: the tokens have no order, so renaming them all renames the step
    rename = torch.cat([torch.randperm(vocab, generator=generator(seed + 6)), torch.arange(vocab, width)])
    renamed = torch.empty_like(logits)
    renamed[..., rename] = logits
    law = process.transition(process.endpoints(renamed, rename[x_t], t), rename[x_t], t, s)
    errors["law 7"] = float((law[..., rename] - laws[0]).abs().max())
    return errors


def _composition(process: Any, logits: Tensor, s: Tensor, r: Tensor, t: Tensor) -> float:
    """Largest difference between a step t -> s and the steps t -> r -> s, over all tokens x_t."""
    width, length = logits.shape[-1], logits.shape[1]

    def moves(a: Tensor, b: Tensor) -> Tensor:  # (L, K, K)
        x_t = torch.arange(width)[:, None].expand(width, length)
        ends = process.endpoints(logits.expand(width, -1, -1), x_t, a)
        law: Tensor = process.transition(ends, x_t, a, b)
        return law.transpose(0, 1)

    return float((moves(t, r) @ moves(r, s) - moves(t, s)).abs().max())


def worst_errors(world: str) -> dict[str, float]:
    """Worst error per law of "Masked", "UniformTokens" or "OneHot", over the token schedules.

    Laws 1 to 3 count tokens that are wrong (OneHot: the greatest distance); 4, 6 and 7 compare probabilities; law 5
    frequencies, where 1e-4 is the resolution; law 11 is the greatest |bound + log p| of a random table, by enumeration.
    """
    worst: dict[str, float] = {}
    for number, schedule in enumerate(TOKEN_SCHEDULES.values()):
        if world == "OneHot":
            errors = _onehot_errors(OneHot(5, schedule), number)
        else:
            process = Masked(5, schedule) if world == "Masked" else UniformTokens(5, schedule)
            errors = _law_errors(process, number)
            errors["law 11"] = _bound_error(Masked(3, schedule) if world == "Masked" else UniformTokens(3, schedule))
        for law, error in errors.items():
            worst[law] = max(worst.get(law, 0.0), error)
    return worst


def _bound_error(process: Any) -> float:
    data = TableData(random_table(3, 3), 3, 3, process)
    rows = torch.arange(0, 27, 5)
    return float((exact_bound(data, sequences(3, 3)[rows]) + data.law[rows].log()).abs().max())


def _onehot_errors(process: OneHot, seed: int) -> dict[str, float]:
    batch, length, vocab = 8, 6, process.vocab
    x = torch.randint(vocab, (batch, length), generator=generator(seed))
    z = torch.randn(batch, length, vocab, dtype=F64, generator=generator(seed + 1))
    logits = 3 * torch.randn(batch, length, vocab, dtype=F64, generator=generator(seed + 2))
    points = process.embed(x, F64)
    away = [process.interpolate(x, z, scalar(0.0)) - points, process.interpolate(x, z, scalar(1.0)) - process.start(z)]
    errors = {"law 1": max(float(a.abs().max()) for a in away), "law 2": 0.0, "law 3": 0.0}
    for shape in ((), (batch,), (batch, length)):
        t = random_times(shape, seed + 3).clamp_min(1e-3)
        x_t = process.interpolate(x, z, t)
        ends = process.endpoints(process.target(x, z, t), x_t, t)
        error = max(float((ends.x - points).abs().max()), float((ends.z - z).abs().max()))
        errors["law 2"] = max(errors["law 2"], error)
        back = process.interpolate(*process.endpoints(logits, x_t, t), t)
        errors["law 3"] = max(errors["law 3"], float((back - x_t).abs().max()))
    s, r, t = scalar(0.2), scalar(0.5), scalar(0.8)
    ends, x_t = Endpoints(points, z), process.interpolate(x, z, t)
    there = process.step(ends, process.step(ends, x_t, t, r), r, s)
    errors["law 4"] = float((there - process.step(ends, x_t, t, s)).abs().max())
    many = process.interpolate(
        torch.zeros(1, 100_000, dtype=torch.int64),
        process.prior(torch.zeros(1, 100_000, dtype=torch.int64), generator(seed)),
        r,
    )[0].double()
    centre, spread = float(process.schedule.alpha(r)) * process.scale, float(process.schedule.sigma(r))
    wanted = torch.tensor([centre] + [0.0] * (vocab - 1), dtype=F64)
    errors["law 5"] = float(((many.mean(0) - wanted).abs() / spread).max())
    paths = []
    for answer in (logits, logits + 7.0):
        guess = Held(answer, process)
        paths.append(sample(guess, z, uniform(process.schedule, 8), SOLVERS["ab3"], Streams(key("6"), range(batch))))
    errors["law 6"] = float((paths[0] - paths[1]).abs().max())
    rename = torch.randperm(vocab, generator=generator(seed))
    law = process.endpoints(logits[..., rename], x_t[..., rename], t).x
    errors["law 7"] = float((law - process.endpoints(logits, x_t, t).x[..., rename]).abs().max())
    return errors


@dataclass(frozen=True)
class Held(Told):
    """A network that gives the same answer everywhere."""

    logits: Tensor
    process: Any

    def guess(self, x_t: Tensor, t: Tensor, s: Tensor | None = None, **condition: Any) -> Endpoints:
        ends: Endpoints = self.process.endpoints(self.logits, x_t, t)
        return ends
