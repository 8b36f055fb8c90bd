"""What a model believes stands at the places of a text, each masked with the others in sight, and what echoes counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sfumato.diffusion import Denoiser
from sfumato.fields.text.echo import Echo, Source, known_around
from sfumato.fields.text.slips import Lexicon
from sfumato.fields.text.writing import in_window
from sfumato.metrics.distances import MetricError

if TYPE_CHECKING:
    from sfumato.data.vocabulary import Vocabulary

APART = 8
"""Tokens between two that are masked together, or changed in one round."""
LONGEST, CANDIDATES = 10, 4
"""Tokens of a word, at most, that is weighed; words that it is weighed against."""

Look = Callable[[int, int], None]  # how many of how many rows are done


@dataclass(frozen=True, eq=False)
class Belief:
    """Of tokens (N,): the probability of each given all others, the likeliest others at its place (N, K), and their
    probabilities (N, K); NaN and -1 where nobody asked."""

    own: np.ndarray
    best: np.ndarray
    top: np.ndarray

    def meant(self, doubt: np.ndarray, comes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The probability that each token was meant (N,), and that each of its `best` was (N, K), by the channel above, in
        which each was not meant with probability ``doubt`` (N,), and comes with ``comes`` (N,)."""
        same = (1 - doubt) * self.own
        whole = same + doubt * (1 - self.own) * comes
        with np.errstate(invalid="ignore", divide="ignore"):
            return same / whole, self.top * (doubt * comes / whole)[:, None]


@dataclass(frozen=True, eq=False)
class Page:
    """What a text is looked at with: a denoiser, windows of so many tokens, so many at once; what echoes, and which words there
    are."""

    denoiser: Denoiser
    vocabulary: Vocabulary
    window: int
    batch: int
    device: torch.device | str = "cpu"
    learned: tuple[Source, ...] | None = ()
    """Texts that echo beside the text itself; None: nothing does."""
    lexicon: Lexicon = field(default_factory=lambda: Lexicon({}))
    common: np.ndarray | None = None
    """How often each token comes, (V,); None: all alike."""

    @property
    def end(self) -> int:
        """The first token that is no text."""
        return len(self.vocabulary)

    def comes(self, tokens: np.ndarray) -> np.ndarray:
        """How often each of tokens (N,) comes."""
        if self.common is None:
            return np.full(len(tokens), 1 / self.end)
        return np.where(tokens < self.end, self.common[tokens.clip(max=self.end - 1)], 0.0)

    def echo(self, tokens: np.ndarray) -> Echo:
        """What echoes in a text of tokens (N,)."""
        return Echo(() if self.learned is None else (*self.learned, Source(tokens)), self.end)


@torch.no_grad()
def laws(page: Page, rows: Sequence[tuple[np.ndarray, np.ndarray]], look: Look | None = None) -> list[np.ndarray]:
    """What the model believes where rows, tokens (N,) and masked places (k,), are masked, with a window around them in sight: the
    law (k, V) of each, of what is text. Raises MetricError where the network answers NaN or infinity."""
    process: Any = page.denoiser.process
    found = []
    for start in range(0, len(rows), page.batch):
        part = rows[start : start + page.batch]
        seen = []
        for tokens, places in part:
            first, last = in_window(int(places.min()), int(places.max()) + 1, len(tokens), page.window)
            seen.append((tokens[first:last], places - first))
        sizes = {len(tokens) for tokens, _ in seen}
        answers: dict[int, np.ndarray] = {}
        for size in sizes:
            which = [i for i, (tokens, _) in enumerate(seen) if len(tokens) == size]
            x = torch.from_numpy(np.stack([seen[i][0] for i in which])).to(page.device)
            open_ = torch.zeros(x.shape, dtype=torch.bool, device=page.device)
            for row, i in enumerate(which):
                open_[row, torch.from_numpy(seen[i][1]).to(page.device)] = True
            t = torch.where(open_, open_.double().mean(1, keepdim=True), 0.0)
            x_t = torch.where(open_, process.mask_id, x)
            log_p = process.endpoints(page.denoiser.answer(x_t, t), x_t, t).x[..., : page.end]
            for row, i in enumerate(which):
                answers[i] = log_p[row, torch.from_numpy(seen[i][1]).to(page.device)].double().exp().cpu().numpy()
        found += [answers[i] for i in range(len(part))]
        if not all(np.isfinite(law).all() for law in found[start:]):
            raise MetricError("the network answers NaN or infinity: nothing is repaired")
        if look is not None:
            look(min(start + page.batch, len(rows)), len(rows))
    return found


def beliefs(
    page: Page, tokens: np.ndarray, groups: Sequence[np.ndarray], look: Look | None = None, *, most: int = 1
) -> Belief:
    """What is believed at each place of `groups`, arrays of places (k,) that are masked together, with all other tokens (N,) of a
    window around them in sight, and the ``most`` likeliest others. The end of a document is never among them."""
    count = len(tokens)
    own, top, best = np.full(count, np.nan), np.full((count, most), np.nan), np.full((count, most), -1)
    echo, none = page.echo(tokens), np.zeros(count, dtype=bool)
    for group, found in zip(groups, laws(page, [(tokens, group) for group in groups], look), strict=True):
        for place, law in zip(group.tolist(), found, strict=True):
            law = echo.between(law, *known_around(tokens, place, none), skip=(place, place + 1))
            there = tokens[place]
            own[place] = law[there] if there < page.end else 0.0
            law[there if there < page.end else 0] = -1.0
            best[place] = np.argsort(-law, kind="stable")[:most]
            top[place] = law[best[place]]
    return Belief(own, best, top)


def apart(places: np.ndarray, window: int) -> list[np.ndarray]:
    """The places in groups that are masked together: neighbours in a group are APART or more, all lie within half a window."""
    found: list[np.ndarray] = []
    for block in np.unique(places // max(1, window // 2)):
        here = places[places // max(1, window // 2) == block]
        found += [here[here % APART == turn] for turn in range(APART) if (here % APART == turn).any()]
    return found


def log_runs(page: Page, tokens: np.ndarray, first: int, last: int, runs: Sequence[np.ndarray]) -> list[float]:
    """log p of runs of tokens in the place of [first, last) of tokens (N,), from left to right with both sides in sight."""
    rows, echoes, wanted = [], [], []
    echo = page.echo(tokens)
    for run in runs:
        whole = np.concatenate([tokens[:first], run, tokens[last:]])
        for k in range(len(run)):
            open_ = np.zeros(len(whole), dtype=bool)
            open_[first + k : first + len(run)] = True
            rows.append((whole, np.arange(first + k, first + len(run))))
            echoes.append(known_around(whole, first + k, open_))
            wanted.append(int(run[k]))
    found = laws(page, rows)
    log_p = [
        float(np.log(max(echo.between(law[0], *around, skip=(first, last))[token], 1e-30)))
        for law, around, token in zip(found, echoes, wanted, strict=True)
    ]
    sums, place = [], 0
    for run in runs:
        sums.append(sum(log_p[place : place + len(run)]))
        place += len(run)
    return sums
