"""A text repaired by a model: tokens that it doubts, with all others in sight, and whose replacement it is sure of.

Every token is masked, a few at a time and far apart, and two numbers are read: the probability of the token that stands
there, and that of the likeliest one. Where the first is below `doubt` and the second at least `sure`, the token is masked
once more, alone, and replaced if both still hold. That goes on with the new text in sight until nothing changes, each place
once at most, so nothing is drawn, and where the model is sure nothing changes. (LLaDA 2.1 edits by two such thresholds.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sfumato.diffusion import Denoiser
from sfumato.fields.text.originals import Hole, Original
from sfumato.fields.text.writing import in_window
from sfumato.metrics.distances import MetricError

if TYPE_CHECKING:
    from sfumato.jobs.model import Model

APART = 8
"""Tokens between two that are masked together."""

Look = Callable[[int, int], None]  # how many of how many rows are done


@dataclass(frozen=True)
class Change:
    """A token at byte `start` of the repaired text: what stood there, what stands there now, and the probability of each when
    it was replaced, with everything else in sight."""

    start: int
    was: bytes
    now: bytes
    doubted: float
    sure: float


@dataclass(frozen=True, eq=False)
class Belief:
    """Of tokens (N,): the probability of each, the likeliest token at its place, and the probability of that one; NaN and -1
    where nobody asked."""

    own: np.ndarray
    best: np.ndarray
    top: np.ndarray


@torch.no_grad()
def beliefs(
    denoiser: Denoiser,
    tokens: np.ndarray,
    groups: Sequence[np.ndarray],
    *,
    window: int,
    batch: int = 32,
    device: torch.device | str = "cpu",
    look: Look | None = None,
) -> Belief:
    """What a masked model believes at each place of `groups`, arrays of places (k,) that are masked together, with all other
    tokens (N,) of a window around them in sight. The end of a document is never the likeliest.

    Raises MetricError where the network answers NaN or infinity.
    """
    process: Any = denoiser.process
    count, end = len(tokens), process.mask_id - 1
    own, top, best = np.full(count, np.nan), np.full(count, np.nan), np.full(count, -1)
    for start in range(0, len(groups), batch):
        part = groups[start : start + batch]
        firsts = [in_window(int(group[0]), int(group[-1]) + 1, count, window)[0] for group in part]
        x = torch.from_numpy(np.stack([tokens[first : first + window] for first in firsts])).to(device)
        open_ = torch.zeros(x.shape, dtype=torch.bool, device=device)
        for row, (group, first) in enumerate(zip(part, firsts)):
            open_[row, torch.from_numpy(group - first).to(device)] = True
        t = torch.where(open_, open_.double().mean(1, keepdim=True), 0.0)
        x_t = torch.where(open_, process.mask_id, x)
        log_p = process.endpoints(denoiser.answer(x_t, t), x_t, t).x[open_]  # (masks, V), row by row
        places = np.concatenate(part)
        own[places] = log_p.gather(-1, x[open_][:, None])[:, 0].double().exp().cpu().numpy()
        likeliest = log_p[:, :end].max(-1)
        top[places], best[places] = likeliest.values.double().exp().cpu().numpy(), likeliest.indices.cpu().numpy()
        if not np.isfinite(own[places]).all():
            raise MetricError("the network answers NaN or infinity: nothing is repaired")
        if look is not None:
            look(min(start + batch, len(groups)), len(groups))
    return Belief(own, best, top)


def apart(places: np.ndarray, window: int) -> list[np.ndarray]:
    """The places in groups that are masked together: neighbours in a group are APART or more, all lie within half a window."""
    found: list[np.ndarray] = []
    for block in np.unique(places // max(1, window // 2)):
        here = places[places // max(1, window // 2) == block]
        found += [here[here % APART == turn] for turn in range(APART) if (here % APART == turn).any()]
    return found


def repair(
    model: Model,
    original: Original,
    where: Sequence[Hole] = (),
    *,
    doubt: float,
    sure: float,
    rounds: int,
    look: Look | None = None,
) -> tuple[bytes, list[Change]]:
    """The text repaired, as UTF-8, and what was changed, in order of its place.

    Args:
        where: stretches of the text in which alone tokens are changed; none: all of it.
        doubt, sure: a token below the one, and a replacement of at least the other, is changed.
        rounds: times, at most, that the text is looked through.

    A change that would leave half a character, or one that the file's encoding has not, is not made.
    """
    recipe: Any = model.recipe
    vocabulary, window = recipe.vocabulary(model.run), model.facts.window
    ids = vocabulary.encode(original.text)
    tokens = np.concatenate([[vocabulary.end], ids, [vocabulary.end]]).astype(np.int64)
    lengths = vocabulary.lengths()
    starts = np.cumsum(lengths[tokens]) - lengths[tokens]
    free = np.ones(len(tokens), dtype=bool)
    if where:
        free[:] = False
        for hole in where:
            free |= (starts >= hole.start) & (starts + lengths[tokens] <= hole.stop)
    free[[0, -1]] = False
    batch = model.given.batch or (32 if torch.device(model.device).type == "cpu" else 256)
    seen = {"window": window, "batch": batch, "device": model.device}
    changed: dict[int, Callable[..., Change]] = {}
    for _ in range(rounds):
        places = np.flatnonzero(free)
        if not len(places):
            break
        first = beliefs(model.denoiser, tokens, apart(places, window), look=look, **seen)
        chosen = _wrong(first, places, tokens, doubt, sure)
        again = beliefs(model.denoiser, tokens, [np.array([place]) for place in chosen], **seen)
        found = 0
        for place in _spaced(_wrong(again, chosen, tokens, doubt, sure), again.top):
            was, new = tokens[place], again.best[place]
            tokens[place] = new
            if not original.can(vocabulary.decode(tokens)):
                tokens[place] = was
                continue
            old, now = vocabulary.decode([was]), vocabulary.decode([new])
            changed[place] = partial(
                Change, was=old, now=now, doubted=float(again.own[place]), sure=float(again.top[place])
            )
            free[place], found = False, found + 1
        if not found:
            break
    starts = np.cumsum(lengths[tokens]) - lengths[tokens]
    return vocabulary.decode(tokens), [changed[place](start=int(starts[place])) for place in sorted(changed)]


def _wrong(belief: Belief, places: np.ndarray, tokens: np.ndarray, doubt: float, sure: float) -> np.ndarray:
    """Those of the places at which the token is doubted and another one is sure."""
    found = (belief.own[places] < doubt) & (belief.top[places] >= sure) & (belief.best[places] != tokens[places])
    return places[found]


def _spaced(places: np.ndarray, top: np.ndarray) -> list[int]:
    """The surest places first, none closer than APART to a surer one: the others wait until that stands."""
    chosen: list[int] = []
    for place in places[np.argsort(-top[places], kind="stable")].tolist():
        if all(abs(place - other) >= APART for other in chosen):
            chosen.append(place)
    return chosen
