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

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sfumato.fields.text.believing import (
    APART,
    CANDIDATES,
    LONGEST,
    Belief,
    Edit,
    Look,
    Page,
    apart,
    beliefs,
    laws,
    log_runs,
)  # fmt: skip
from sfumato.fields.text.echo import known_around, learned
from sfumato.fields.text.originals import Hole, Original
from sfumato.fields.text.slips import Lexicon, counted, words

if TYPE_CHECKING:
    from sfumato.jobs.model import Model

BESIDE = 3
"""Tokens on each side of a change that are asked whether it makes them likelier."""
FEW = 64
"""Places, at most, that are all looked at alone at once; of more only those that are doubted beside others masked."""
AT_HAND = 50
"""For how many words of the training text one of the text itself counts, when it is chosen which are weighed."""


@dataclass(frozen=True)
class Change:
    """What stood at byte `start` of the repaired text, what stands there now, and the probability that each was meant."""

    start: int
    was: bytes
    now: bytes
    doubted: float
    sure: float


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
    """Tokens that were not meant where the best of the others was, with a probability of `sure` and above that of the token
    itself; each looked at alone."""
    comes = page.comes(tokens)

    def wrong(belief: Belief, places: np.ndarray) -> np.ndarray:
        same, other = belief.meant(doubt, comes)
        return places[(other[places] >= sure) & (other[places] > same[places])]

    if len(places) > FEW:
        places = wrong(beliefs(page, tokens, apart(places, page.window), look), places)
    alone = beliefs(page, tokens, [np.array([place]) for place in places], look if len(places) <= FEW else None)
    same, other = alone.meant(doubt, comes)
    return [
        Edit(p, p + 1, alone.best[p : p + 1], float(same[p]), float(other[p])) for p in wrong(alone, places).tolist()
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
