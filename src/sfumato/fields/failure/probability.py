"""How likely failure is: two estimators that must agree, on calls that the campaign has not seen.

A, islands: levels, moves and networks are those of the campaign and fixed; so many particles start from the prior, the share
that passes to the first level is counted, those that passed are drawn again and moved, all states of the moves are counted for
the next level, and so on (subset simulation, Au and Beck 2001, with all states kept: waste-free, Dau and Chopin 2022,
arXiv 2011.02328). Every move leaves its law unchanged, so the product of the shares has mean p exactly; and eight islands that
know nothing of each other say how far it is off.

B, weighing: draws of the last network with their exact weights (`chain`), as part of a mixture with plain runs, those of the
islands' beginning: p is the mean of 1(fails) / (d + (1 - d) / w), d the plain share. No weight is above 1 / d.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sfumato.fields.failure.campaign import Round, Setting, metric_of
from sfumato.fields.failure.chain import Chain
from sfumato.fields.failure.data import Calls
from sfumato.fields.failure.metric import Metric, alike
from sfumato.fields.failure.moves import Population, drawn_again, guided, pcn

ISLANDS = 8
HEAVY = 0.1
"""Share of the whole of one weight above which B says nothing."""
APART = 3.0
"""Errors by which the estimators may differ."""
NORMAL, STUDENT = 1.96, 2.365
"""Factors of a 95 % interval: of many draws, and of eight islands."""


@dataclass(frozen=True)
class Step:
    """One level of the islands: where it is, how its population is moved before the next is counted."""

    level: float
    b: float
    metric: Metric
    chain: Chain | None
    begin: int = 0


@dataclass(frozen=True)
class Estimate:
    """p by one estimator, its standard error, and what there is to say about it by name."""

    p: float
    error: float
    about: dict[str, Any]

    @property
    def relative(self) -> float:
        """Error as a share of p; infinite where nothing failed."""
        return self.error / self.p if self.p > 0 else math.inf


@dataclass(frozen=True)
class Verdict:
    """What is said in the end. established: whether the estimators agree and are sound; why: where they are not."""

    p: float
    low: float
    high: float
    established: bool
    why: str
    islands: Estimate | None
    weighing: Estimate | None

    def plain(self) -> dict[str, Any]:
        """As names and values."""
        return asdict(self)

    def line(self) -> str:
        """In words."""
        if self.p <= 0:
            return f"p < {self.high:.3g} (95 %): {self.why}"
        said = f"p = {self.p:.3g}, 95 % interval {self.low:.3g} to {self.high:.3g}"
        return said if self.established else f"not established: {self.why}; {said} is no more than a guess"


# ---- A -------------------------------------------------------------------------------------------------------------------


def ladder(setting: Setting, done: Sequence[Round]) -> list[Step]:
    """The levels of the campaign, each with the moves of its round; the first of those that are 0 ends it."""
    steps: list[Step] = []
    for each in done:
        if each.level <= 0 or (steps and each.level >= steps[-1].level):
            continue
        chain, metric = setting.chain(each.number, each.level), metric_of(setting.folder(each.number))
        steps.append(Step(each.level, each.b, metric, chain, each.begin))
    return [*steps, Step(0.0, 0.5, alike(setting.facts.n), None)]


def islands(
    steps: Sequence[Step], size: int, moves: int, n: int, calls: Calls, words: Sequence[str | int], count: int = ISLANDS
) -> tuple[Estimate, Population]:
    """Estimator A, and the plain runs that it began with.

    size: particles of an island at the start, and states of it at each level, by ``moves`` moves of a population.
    """
    from sfumato.fields.failure.chain import normals

    x = normals((*words, "prior"), count * size, n)
    plain = Population(x, calls.ask(x, "islands").robustness)
    states = [plain.of(slice(i * size, (i + 1) * size)) for i in range(count)]
    log_p, shares = np.zeros(count), []
    for k, step in enumerate(steps):
        passed = [each.of(each.r <= step.level) for each in states]
        share = np.array([len(p) / max(1, len(s)) for p, s in zip(passed, states, strict=True)])
        shares.append(share)
        with np.errstate(divide="ignore"):
            log_p += np.log(share)
        alive = np.flatnonzero(np.isfinite(log_p))
        if k + 1 == len(steps) or not len(alive):
            break
        states = _walked(step, passed, alive, size, moves, calls, (*words, k))
    p = np.exp(log_p)
    mean, error = float(p.mean()), float(p.std(ddof=1) / math.sqrt(count)) if count > 1 else math.inf
    # what the shares alone cost, twice as much where states follow one another: eight that mostly died out say too little
    least = math.sqrt(sum(2 * (1 - s) / (s * count * size) for s in (float(s.mean()) for s in shares) if s > 0))
    about = {
        "each": p.tolist(),
        "least": least,
        "alive": int((p > 0).sum()),
        "levels": [s.level for s in steps],
        "shares": [float(s.mean()) for s in shares],
        "calls": calls.by.get("islands", 0),
    }
    return Estimate(mean, error, about), plain


def _walked(
    step: Step,
    passed: Sequence[Population],
    alive: np.ndarray,
    size: int,
    moves: int,
    calls: Calls,
    words: Sequence[str | int],
) -> list[Population]:
    """All states of the moves of each island; those that died out stay empty."""
    rows = max(1, round(size / moves))
    now = Population.joined([drawn_again(passed[i], rows, (*words, "island", int(i))) for i in alive])
    kept = []
    for move in range(moves):
        if step.chain is not None and move % 2 == 0:
            now, _, _ = guided(now, step.level, step.chain, step.begin, calls, (*words, move), "islands")
        else:
            now, _ = pcn(now, step.level, step.b, step.metric, calls, (*words, move), "islands")
        kept.append(now)
    found = [Population(now.x[:0], now.r[:0]) for _ in passed]
    for place, i in enumerate(alive):
        own = slice(place * rows, (place + 1) * rows)
        found[i] = Population.joined([each.of(own) for each in kept])
    return found


# ---- B -------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Weighed:
    """Draws with their weights under the prior, (N,): of the mixture."""

    drawn: Population
    weight: np.ndarray

    def failing(self) -> np.ndarray:
        """The weights of those that fail, and 0 of the others."""
        return np.where(self.drawn.r <= 0, self.weight, 0.0)


def weighing(
    chain: Chain, plain: Population, count: int, n: int, calls: Calls, words: Sequence[str | int]
) -> tuple[Estimate, Weighed]:
    """Estimator B: ``count`` draws of the walk beside plain runs, and all of them with their weights."""
    x, log_w = chain.propose((*words, "drawn"), count, n)
    drawn = Population(x, calls.ask(x, "weighing").robustness)
    log_plain = chain.weigh((*words, "plain"), plain.x) if len(plain) else np.zeros(0)
    share = len(plain) / (len(plain) + count)
    own, other = (1 / (share + (1 - share) * np.exp(np.minimum(-log, 700.0))) for log in (log_w, log_plain))
    every = Weighed(Population.joined([drawn, plain]), np.concatenate([own, other]))
    f = every.failing()
    p = float(f.mean())
    within = (f[:count].var() * count + (f[count:].var() * len(plain) if len(plain) else 0.0)) / len(f) ** 2
    total = float(f.sum())
    about = {
        "calls": count, "plain": len(plain), "failing": float((drawn.r <= 0).mean()),
        "effective": total**2 / float((f**2).sum()) if total > 0 else 0.0,
        "heaviest": float(f.max()) / total if total > 0 else 1.0,
        "nats": float((f[:count] * -log_w).sum() / f[:count].sum()) if f[:count].sum() > 0 else math.nan,
    }  # fmt: skip
    return Estimate(p, math.sqrt(within), about), every


# ---- together ------------------------------------------------------------------------------------------------------------


def verdict(a: Estimate | None, b: Estimate | None, asked: int, reached: bool) -> Verdict:
    """Both together: weighed by the inverse of their squared relative errors, and not established where they disagree.

    asked: plain runs and draws that could have failed. Where nothing failed: at most 3 in so many (95 %).
    """
    sound = [each for each in (a, b) if each is not None and each.p > 0 and math.isfinite(each.relative)]
    if not sound:
        return Verdict(0.0, 0.0, 3 / max(1, asked), False, f"nothing failed in {asked:,} calls", a, b)
    why = "" if reached else "the campaign did not reach failure"
    if b is not None and b.p > 0 and b.about["heaviest"] > HEAVY:
        why = why or f"one draw has {b.about['heaviest']:.0%} of all weight"
        sound = [each for each in sound if each is not b] or sound
    if a is not None and b is not None and a.p > 0 and b.p > 0:
        own = max(a.error, a.about.get("least", 0.0) * max(a.p, b.p))
        apart = abs(a.p - b.p) / math.hypot(own, b.error)
        if apart > APART:
            why = why or f"islands say {a.p:.3g} and weighing {b.p:.3g}, {apart:.1f} errors apart"
    if a is None or b is None or a.p <= 0 or b.p <= 0:
        why = why or "one estimator alone found failures"
    elif a.about.get("alive", ISLANDS) < ISLANDS / 2:
        why = why or f"{a.about['alive']} of {ISLANDS} islands came to a failure; give more calls"
    trust = [1 / max(each.relative, 1e-6) ** 2 for each in sound]
    p = math.exp(sum(t * math.log(each.p) for t, each in zip(trust, sound, strict=True)) / sum(trust))
    error = 1 / math.sqrt(sum(trust))
    factor = STUDENT if sound == [a] else NORMAL
    return Verdict(p, p * math.exp(-factor * error), p * math.exp(factor * error), not why, why, a, b)
