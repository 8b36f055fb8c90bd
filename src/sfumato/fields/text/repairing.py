r"""A text repaired by a model: what stands there is weighed against what could have been meant.

A token o was meant to be v with probability (noisy channel, Shannon 1948; for spelling Kernighan 1990)

    p(v | o, rest)  ~  p(v | rest) p(o | v),       p(o | o) = 1 - doubt,   p(o | v) = doubt c(o) for every other v:

any token may have come in its place, a share `doubt` of all, each as often as it comes at all (c, counted in the training text,
or 1 / V). p(v | rest) is what the model believes when the place is masked
and all others are in sight, with what stands between the same neighbours elsewhere (`echo`). Words are weighed likewise against
those of the text and of the training text that one slip of typing away (`slips`), whatever number of tokens they have. Where
one thing was meant with a probability of `sure` at least, it is put there; then the text is looked through again, each place
once at most. Nothing is drawn, and where nothing is sure nothing changes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sfumato.diffusion import Denoiser
from sfumato.fields.text.echo import Echo, Source, known_around, learned
from sfumato.fields.text.originals import Hole, Original
from sfumato.fields.text.slips import Lexicon, counted, words
from sfumato.fields.text.writing import in_window
from sfumato.metrics.distances import MetricError

if TYPE_CHECKING:
    from sfumato.data.vocabulary import Vocabulary
    from sfumato.jobs.model import Model

APART = 8
"""Tokens between two that are masked together, or changed in one round."""
LONGEST, CANDIDATES = 10, 4
"""Tokens of a word, at most, that is weighed; words that it is weighed against."""
BESIDE = 3
"""Tokens on each side of a change that are asked whether it makes them likelier."""
AT_HAND = 50
"""For how many words of the training text one of the text itself counts, when it is chosen which are weighed."""

Look = Callable[[int, int], None]  # how many of how many rows are done


@dataclass(frozen=True)
class Change:
    """What stood at byte `start` of the repaired text, what stands there now, and the probability that each was meant."""

    start: int
    was: bytes
    now: bytes
    doubted: float
    sure: float


@dataclass(frozen=True, eq=False)
class Belief:
    """Of tokens (N,): the probability of each given all others, the likeliest other token at its place, and the probability of
    that one; NaN and -1 where nobody asked."""

    own: np.ndarray
    best: np.ndarray
    top: np.ndarray

    def meant(self, doubt: float, comes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The probability that each token was meant, and that its `best` was: (N,) each, by the channel above, in which the
        token of each place comes with probability ``comes`` (N,)."""
        same = (1 - doubt) * self.own
        whole = same + doubt * (1 - self.own) * comes
        with np.errstate(invalid="ignore", divide="ignore"):
            return same / whole, doubt * self.top * comes / whole


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


def beliefs(page: Page, tokens: np.ndarray, groups: Sequence[np.ndarray], look: Look | None = None) -> Belief:
    """What is believed at each place of `groups`, arrays of places (k,) that are masked together, with all other tokens (N,) of a
    window around them in sight. The end of a document is never the likeliest."""
    count = len(tokens)
    own, top, best = np.full(count, np.nan), np.full(count, np.nan), np.full(count, -1)
    echo, none = page.echo(tokens), np.zeros(count, dtype=bool)
    for group, found in zip(groups, laws(page, [(tokens, group) for group in groups], look), strict=True):
        for place, law in zip(group.tolist(), found, strict=True):
            law = echo.mixed(law, *known_around(tokens, place, none), skip=(place, place + 1))
            there = tokens[place]
            own[place] = law[there] if there < page.end else 0.0
            law[there if there < page.end else 0] = -1.0
            best[place] = law.argmax()
            top[place] = law[best[place]]
    return Belief(own, best, top)


def apart(places: np.ndarray, window: int) -> list[np.ndarray]:
    """The places in groups that are masked together: neighbours in a group are APART or more, all lie within half a window."""
    found: list[np.ndarray] = []
    for block in np.unique(places // max(1, window // 2)):
        here = places[places // max(1, window // 2) == block]
        found += [here[here % APART == turn] for turn in range(APART) if (here % APART == turn).any()]
    return found


@dataclass(frozen=True, eq=False)
class Edit:
    """Tokens [first, last) of a text and what was meant in their place; the probability that they were meant, and that it was;
    how much likelier it makes what is around it, in nats."""

    first: int
    last: int
    tokens: np.ndarray
    doubted: float
    sure: float
    gain: float = 0.0


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
        float(np.log(max(echo.mixed(law[0], *around, skip=(first, last))[token], 1e-30)))
        for law, around, token in zip(found, echoes, wanted, strict=True)
    ]
    sums, place = [], 0
    for run in runs:
        sums.append(sum(log_p[place : place + len(run)]))
        place += len(run)
    return sums


def slipped(page: Page, text: bytes, tokens: np.ndarray, free: np.ndarray, doubt: float) -> list[Edit]:
    """Words of a text (its tokens (N,), an end before and after, of which those `free` (N,) may change) weighed against what
    may have been meant. Words that stand in the text more than once are taken as meant."""
    lengths = page.vocabulary.lengths()[tokens]
    starts = np.cumsum(lengths) - lengths
    own = counted([text])
    here = Lexicon(own)

    def often(word: bytes) -> int:
        return page.lexicon.counts.get(word, 0) + AT_HAND * own[word]

    found = []
    for start, word in words(text):
        first = int(np.searchsorted(starts, start, side="right")) - 1
        last = int(np.searchsorted(starts, start + len(word)))
        if own[word] > 1 or last - first > LONGEST or not free[first:last].all():
            continue
        every = {**page.lexicon.meant(word), **here.meant(word)}
        near = [(meant, p) for meant, p in every.items() if often(meant) > page.lexicon.counts.get(word, 0)]
        near = sorted(near, key=lambda each: (-each[1] * often(each[0]), each[0]))[:CANDIDATES]
        if not near:
            continue
        head = text[starts[first] : start]
        tail = text[start + len(word) : starts[last - 1] + lengths[last - 1]]
        runs = [tokens[first:last], *(page.vocabulary.encode(head + meant + tail) for meant, _ in near)]
        log_p = np.array(log_runs(page, tokens, first, last, runs))
        log_p[1:] += np.log(doubt * np.array([p for _, p in near]))
        log_p[0] += np.log(1 - doubt)
        share = np.exp(log_p - log_p.max())
        share /= share.sum()
        best = 1 + int(share[1:].argmax())
        found.append(Edit(first, last, runs[best].astype(np.int64), float(share[0]), float(share[best])))
    return found


def single(
    page: Page, tokens: np.ndarray, places: np.ndarray, doubt: float, sure: float, look: Look | None
) -> list[Edit]:
    """Tokens that were not meant with a probability of `sure`, each looked at alone."""

    comes = page.comes(tokens)

    def wrong(belief: Belief, places: np.ndarray) -> np.ndarray:
        return places[belief.meant(doubt, comes)[1][places] >= sure]

    chosen = wrong(beliefs(page, tokens, apart(places, page.window), look), places)
    again = beliefs(page, tokens, [np.array([place]) for place in chosen])
    same, other = again.meant(doubt, comes)
    return [
        Edit(p, p + 1, again.best[p : p + 1], float(same[p]), float(other[p])) for p in wrong(again, chosen).tolist()
    ]


def weighed(page: Page, tokens: np.ndarray, edits: Sequence[Edit]) -> list[Edit]:
    """The edits with their gains, where there is a choice between neighbours."""
    ordered = sorted(edits, key=lambda each: each.first)
    if all(b.first - a.last >= APART - 1 for a, b in pairwise(ordered)):
        return ordered
    return [replace(edit, gain=gain) for edit, gain in zip(ordered, around(page, tokens, ordered), strict=True)]


def around(page: Page, tokens: np.ndarray, edits: Sequence[Edit]) -> list[float]:
    """How much likelier each edit makes the tokens up to BESIDE places from it, each given all others, in nats. A wrong token is
    doubted, and so are its neighbours: the edit that makes the others likelier is the one that was meant."""
    rows, wanted, echoes, sizes = [], [], [], []
    for edit in edits:
        after = np.concatenate([tokens[: edit.first], edit.tokens, tokens[edit.last :]])
        for text, last in ((tokens, edit.last), (after, edit.first + len(edit.tokens))):
            echo, none = page.echo(text), np.zeros(len(text), dtype=bool)
            places = range(max(1, edit.first - BESIDE), min(len(text) - 1, last + BESIDE))
            rows += [(text, np.array([place])) for place in places]
            wanted += [int(text[place]) for place in places]
            echoes += [(echo, known_around(text, place, none), (place, place + 1)) for place in places]
            sizes.append(len(places))
    log_p = [
        np.log(max(float(echo.mixed(law[0], *sides, skip=skip)[token]), 1e-30)) if token < page.end else 0.0
        for law, token, (echo, sides, skip) in zip(laws(page, rows), wanted, echoes, strict=True)
    ]
    sums = [float(sum(part)) for part in np.split(np.array(log_p), np.cumsum(sizes)[:-1])]
    return [after - before for before, after in zip(sums[::2], sums[1::2], strict=True)]


def spaced(edits: Sequence[Edit]) -> list[Edit]:
    """Those that make most likelier first, of equal ones the surest, none closer than APART to one before: the others wait until
    that stands."""
    chosen: list[Edit] = []
    for edit in sorted(edits, key=lambda each: (-each.gain, -each.sure, each.first)):
        if all(edit.first - other.last >= APART - 1 or other.first - edit.last >= APART - 1 for other in chosen):
            chosen.append(edit)
    return chosen


def repair(
    model: Model,
    original: Original,
    where: Sequence[Hole] = (),
    *,
    doubt: float,
    sure: float,
    rounds: int,
    alone: bool = False,
    look: Look | None = None,
) -> tuple[bytes, list[Change]]:
    """The text repaired, as UTF-8, and what was changed, in order of its place.

    Args:
        where: stretches of the text in which alone something is changed; none: all of it.
        doubt, sure: the share of tokens that were not meant, before looking; how probable what is put there must be.
        rounds: times, at most, that the text is looked through.
        alone: ask the model alone: neither echoes nor slips.

    A change that would leave half a character, or one that the file's encoding has not, is not made.
    """
    return repaired(page_of(model, alone), original, where, doubt=doubt, sure=sure, rounds=rounds, look=look)


def repaired(
    page: Page,
    original: Original,
    where: Sequence[Hole] = (),
    *,
    doubt: float,
    sure: float,
    rounds: int,
    look: Look | None = None,
) -> tuple[bytes, list[Change]]:
    """See `repair`: of many texts, looked at with the same."""
    vocabulary, lengths = page.vocabulary, page.vocabulary.lengths()
    ends = np.array([page.end])
    tokens = np.concatenate([ends, vocabulary.encode(original.text), ends]).astype(np.int64)
    free = _free(tokens, lengths, where)
    made: list[tuple[int, Edit, bytes]] = []  # the edit's first token as the text stands now
    for _ in range(rounds):
        places = np.flatnonzero(free)
        if not len(places):
            break
        edits = single(page, tokens, places, doubt, sure, look)
        if page.learned is not None:
            text = vocabulary.decode(tokens[1:-1])
            edits += [edit for edit in slipped(page, text, tokens, free, doubt) if edit.sure >= sure]
        done = 0
        for edit in sorted(spaced(weighed(page, tokens, edits)), key=lambda each: -each.first):
            after = np.concatenate([tokens[: edit.first], edit.tokens, tokens[edit.last :]])
            if not original.can(vocabulary.decode(after[1:-1])):
                continue
            moved = len(edit.tokens) - (edit.last - edit.first)
            was = vocabulary.decode(tokens[edit.first : edit.last])
            made = [(at + moved * (at > edit.first), other, old) for at, other, old in made]
            made.append((edit.first, edit, was))
            free = np.concatenate([free[: edit.first], np.zeros(len(edit.tokens), dtype=bool), free[edit.last :]])
            tokens, done = after, done + 1
        if not done:
            break
    starts = np.cumsum(lengths[tokens]) - lengths[tokens]
    changes = [
        Change(int(starts[at]), was, vocabulary.decode(edit.tokens), edit.doubted, edit.sure)
        for at, edit, was in sorted(made, key=lambda each: each[0])
    ]
    return vocabulary.decode(tokens[1:-1]), changes


def page_of(model: Model, alone: bool = False) -> Page:
    """What texts are looked at with. The text that was learned from echoes where the run still has it."""
    recipe: Any = model.recipe
    vocabulary = recipe.vocabulary(model.run)
    batch = model.given.batch or (32 if torch.device(model.device).type == "cpu" else 256)
    if alone:
        return Page(model.denoiser, vocabulary, model.facts.window, batch, model.device, None)
    sources, lexicon, common = learned(model), Lexicon({}), None
    if sources:
        train = sources[0].tokens
        train = train[train < len(vocabulary)]
        common = np.bincount(train, minlength=len(vocabulary)) + 1.0
        common /= common.sum()
        lexicon = Lexicon({word: n for word, n in counted([vocabulary.decode(train)]).items() if n > 1})
    return Page(model.denoiser, vocabulary, model.facts.window, batch, model.device, sources, lexicon, common)


def _free(tokens: np.ndarray, lengths: np.ndarray, where: Sequence[Hole]) -> np.ndarray:
    """Which tokens lie within stretches of the text; all but the ends where there are none."""
    starts = np.cumsum(lengths[tokens]) - lengths[tokens]
    free = np.full(len(tokens), not where)
    for hole in where:
        free |= (starts >= hole.start) & (starts + lengths[tokens] <= hole.stop)
    free[[0, -1]] = False
    return free
