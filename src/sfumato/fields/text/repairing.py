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
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sfumato.fields.text.believing import CANDIDATES, LONGEST, Belief, Look, Page, apart, beliefs, log_runs
from sfumato.fields.text.echo import learned
from sfumato.fields.text.originals import Hole, Original
from sfumato.fields.text.recutting import Cutting
from sfumato.fields.text.slips import Lexicon, counted, words
from sfumato.fields.text.weighing import Edit, compared, spaced, weighed

if TYPE_CHECKING:
    from sfumato.jobs.model import Model

FEW = 64
"""Places, at most, that are all looked at alone at once; of more only those that are doubted beside others masked."""
OTHERS = 3
"""Tokens that may have been meant in the place of one that is looked at alone."""
AGAIN = 0.001
"""How much the rest of a line is doubted, of what it was, when something in it was changed: of few places."""
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


def slipped(page: Page, text: bytes, tokens: np.ndarray, doubt: np.ndarray) -> list[Edit]:
    """Words of a text (its tokens (N,), an end before and after, of which those that are not in `doubt` (N,) stay) weighed
    against what may have been meant. Words that stand in the text more than once are taken as meant."""
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
        if own[word] > 1 or last - first > LONGEST or not doubt[first:last].all():
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
        log_p[1:] += np.log(doubt[first] * np.array([p for _, p in near]))
        log_p[0] += np.log(1 - doubt[first])
        share = np.exp(log_p - log_p.max())
        share /= share.sum()
        best = 1 + int(share[1:].argmax())
        found.append(Edit(first, last, runs[best].astype(np.int64), float(share[0]), float(share[best])))
    return found


def single(
    page: Page, tokens: np.ndarray, places: np.ndarray, doubt: np.ndarray, sure: float, look: Look | None
) -> list[Edit]:
    """Of many places the tokens that were not meant where the best of the others was, with a probability of `sure` and above
    that of the token itself; those that are doubted beside others masked are looked at alone."""
    comes = page.comes(tokens)

    def wrong(belief: Belief, places: np.ndarray) -> np.ndarray:
        same, other = belief.meant(doubt, comes)
        return places[(other[places, 0] >= sure) & (other[places, 0] > same[places])]

    places = wrong(beliefs(page, tokens, apart(places, page.window), look), places)
    alone = beliefs(page, tokens, [np.array([place]) for place in places])
    same, other = alone.meant(doubt, comes)
    return [Edit(p, p + 1, alone.best[p], float(same[p]), float(other[p, 0])) for p in wrong(alone, places).tolist()]


def singly(
    page: Page, tokens: np.ndarray, places: np.ndarray, doubt: np.ndarray, look: Look | None
) -> tuple[list[Edit], np.ndarray]:
    """Of few places, each looked at alone, OTHERS that may have been meant in the place of each token, and the probability of
    each token (N,), 1 where nobody asked."""
    belief = beliefs(page, tokens, [np.array([place]) for place in places], look, most=OTHERS)
    same, other = belief.meant(doubt, page.comes(tokens))
    edits = [
        Edit(
            p,
            p + 1,
            belief.best[p, k : k + 1],
            float(same[p]),
            float(other[p, k]),
            rest=float(1 - same[p] - other[p].sum()),
        )
        for p in places.tolist()
        for k in range(OTHERS)
    ]
    return edits, np.nan_to_num(belief.own, nan=1.0)


def found(page: Page, tokens: np.ndarray, doubt: np.ndarray, sure: float, few: bool, look: Look | None) -> list[Edit]:
    """What is changed in tokens (N,), each doubted so much (N,): the most promising first, none close to another, of `few`
    doubted ones one a line."""
    places, text = np.flatnonzero(doubt), page.vocabulary.decode(tokens[1:-1])
    slips = [] if page.learned is None else slipped(page, text, tokens, doubt)
    if not few:
        edits = weighed(page, tokens, [*single(page, tokens, places, doubt, sure, look), *slips])
        return spaced([edit for edit in edits if edit.sure >= sure and edit.sure > edit.doubted])
    edits, own = singly(page, tokens, places, doubt, look)
    if page.learned is not None:
        slips += Cutting(page, tokens, places, own).edits(doubt)
    edits = compared(page, tokens, [*edits, *slips])
    chosen: dict[int, Edit] = {}
    for edit in spaced([edit for edit in edits if edit.sure >= sure and edit.sure > edit.doubted]):
        chosen.setdefault(int(lines_of(page, tokens)[edit.first]), edit)
    return list(chosen.values())


def lines_of(page: Page, tokens: np.ndarray) -> np.ndarray:
    """The line that each token (N,) is of, or begins in."""
    ends = np.array([*(b"\n" in piece for piece in page.vocabulary.pieces), False])[tokens.clip(max=page.end)]
    line: np.ndarray = np.cumsum(ends) - ends
    return line


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
    doubts = np.where(_free(tokens, lengths, where), doubt, 0.0)
    few = bool(np.count_nonzero(doubts) <= FEW)
    made: list[tuple[int, Edit, bytes]] = []  # the edit's first token as the text stands now
    for _ in range(rounds):
        if not doubts.any():
            break
        done = 0
        for edit in sorted(found(page, tokens, doubts, sure, few, look), key=lambda each: -each.first):
            after = np.concatenate([tokens[: edit.first], edit.tokens, tokens[edit.last :]])
            if not original.can(vocabulary.decode(after[1:-1])):
                continue
            moved = len(edit.tokens) - (edit.last - edit.first)
            was = vocabulary.decode(tokens[edit.first : edit.last])
            made = [(at + moved * (at > edit.first), other, old) for at, other, old in made]
            made.append((edit.first, edit, was))
            doubts = np.concatenate([doubts[: edit.first], np.zeros(len(edit.tokens)), doubts[edit.last :]])
            tokens, done = after, done + 1
            if few:
                line = lines_of(page, tokens)
                doubts = np.where(line == line[edit.first], AGAIN * doubts, doubts)
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
