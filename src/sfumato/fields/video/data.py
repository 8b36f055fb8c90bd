"""Clips made ready in a run, and opened again.

cache/frames.raw     bytes (frames, H, W, 3) of all films, one after the other
cache/clips.npz      of each clip: its first frame there and how many it has, its film, its seconds, its captions' rows, its part
cache/tokens.npy     (captions, S) int32, -1 behind the end; cache/states-*.npy where states are given instead
cache/captions.json  the captions, and the names of the films
tokenizer.json       the vocabulary, which samples need too
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sfumato.data import DataError, shown, split
from sfumato.fields.video.facts import ClipFacts
from sfumato.fields.video.films import USUAL_RATE, BrokenOff, Film, Frame, about, frames, paced, resized
from sfumato.fields.video.listing import Listing, Said, listed
from sfumato.fields.video.options import Kind
from sfumato.fields.video.stock import CAPTIONS, CLIPS, FRAMES
from sfumato.fields.video.units import BACKGROUND
from sfumato.jobs.recipe import Say
from sfumato.networks.words import Reader, chosen, longer, reader
from sfumato.training.run import Run, write_text

if TYPE_CHECKING:
    pass

EXAMPLES = 64
LOOKED = 20
"""Films whose sides and rate are looked at before any is decoded."""
CUT_SIDE = 16
"""Side of the small grey frames by which cuts are found."""
MANY_FILMS = 10
"""From so many films on whole films are held out; of fewer the end of each."""


@dataclass(frozen=True)
class Wanted:
    """How clips are to be made ready. side, rate and patch None: chosen."""

    captions: Kind
    frames: int
    stride: int
    side: int | None
    rate: float | None
    cut: float
    patch: int | None
    held_out: float
    broken_budget: float
    strict: bool
    encoder: str
    vocab: int
    tokens: int
    shift: float | None
    still: bool = False


@dataclass(frozen=True, eq=False)
class Cuts:
    """Clips as they lie in frames.raw: first frame, frames, film and seconds of each, in order; digests: of their content; texts:
    what is said of each; complaints and warnings: of films."""

    first: list[int]
    count: list[int]
    film: list[int]
    seconds: list[float]
    digests: list[bytes]
    texts: list[tuple[str, ...]]
    total: int
    sums: np.ndarray
    cuts: int
    short: int
    complaints: list[str]
    warnings: list[str]


def usual_shift(frames: int, size: tuple[int, int]) -> float:
    """Times more noise for the signal than of a still picture of 64 pixels squared: neighbours in place and time are alike, so
    noise of the same strength hides less of many."""
    return max(1.0, math.sqrt(frames * size[0] * size[1] / (4 * 64**2)))


def shaped(films: Sequence[Film], wanted: Wanted) -> tuple[tuple[int, int], float | None, float, list[str]]:
    """(height, width) of frames, the rate that films are brought to (None: each as it is), the rate to speak of, and what is to
    be said. By the first films alone. Raises DataError where none can be read."""
    shapes: Counter[tuple[int, int]] = Counter()
    rates: Counter[float] = Counter()
    fault: DataError | None = None
    for film in films[:LOOKED]:
        try:
            told = about(film)
        except DataError as error:
            fault = error
            continue
        shapes[told.height, told.width] += 1
        if told.rate is not None:
            rates[round(told.rate, 3)] += 1
    if not shapes:
        assert fault is not None
        raise fault
    (height, width), _ = shapes.most_common(1)[0]
    patch = wanted.patch or 8
    side = wanted.side or max(patch, min(48, round(math.sqrt(height * width)) // patch * patch))
    ratio = math.sqrt(height / width)
    size = (max(patch, round(side * ratio / patch) * patch), max(patch, round(side / ratio / patch) * patch))
    said = []
    if len(shapes) > 1:
        said.append(f"frames of {len(shapes)} sizes: the middle of each is brought to {size[0]}x{size[1]}")
    usual = rates.most_common(1)[0][0] if rates else USUAL_RATE
    paced_to = wanted.rate if wanted.rate is not None else usual if len(rates) > 1 else None
    if wanted.rate is None and len(rates) > 1:
        said.append(f"films of {len(rates)} rates, brought to {usual:g} frames a second; choose with --fps")
    return size, paced_to if rates else None, wanted.rate or usual, said


def prepare(run: Run, data: Path, wanted: Wanted, tell: Say, base: ClipFacts | None = None) -> ClipFacts:
    """Read everything into the run, and decide what is open; with ``base``, the facts of a run that is trained further, size,
    rate, units and what reads the words are its. Raises DataError."""
    listing = listed(data, wanted.captions)
    if base is not None:
        wanted = dataclasses.replace(wanted, frames=base.frames, rate=base.rate, patch=base.patch, shift=base.shift)
    size, paced_to, rate, said = shaped(listing.films, wanted)
    size = size if base is None else base.size
    cuts = cut_all(run, listing, size, paced_to, rate, wanted, tell)
    train, held = parted(cuts, wanted.held_out, data)
    flat, first = _flat(cuts.texts)
    worded = any(flat) if base is None else base.worded
    told: dict[str, Any] = {"encoder": "none", "vocab": 0, "width": 0, "tokens": 0, "checksum": ""}
    if worded:
        own = [text for i in train for text in cuts.texts[i]]
        words, more = _reader(run, wanted, own, flat, base)
        words.save(run.path)
        words.write(flat, run.cache)
        said += more
        told = {"encoder": words.name, "vocab": words.vocab, "width": words.width, "tokens": words.length,
                "checksum": words.checksum}  # fmt: skip
    part = np.full(len(cuts.first), -1, dtype=np.int8)  # of neither: what has frames in common with clips held out
    part[train], part[held] = 0, 1
    np.savez(
        run.cache / CLIPS, first=np.array(cuts.first), count=np.array(cuts.count), film=np.array(cuts.film),
        seconds=np.array(cuts.seconds), texts=first, part=part,
    )  # fmt: skip
    names = [film.name for film in listing.films]
    write_text(run.cache / CAPTIONS, json.dumps({"captions": flat, "names": names}, ensure_ascii=False))
    number, whole, squares = cuts.sums
    mean = whole / number
    spread = math.sqrt(max(0.0, squares / number - mean**2))
    if spread < 1e-6:
        raise DataError(f"{shown(data)}: every frame is of one colour, the same: there is nothing to learn")
    examples = list(dict.fromkeys(cuts.texts[i][0] for i in held if cuts.texts[i][0]))[:EXAMPLES]
    facts = ClipFacts(
        mean=float(mean) if base is None else base.mean, spread=spread if base is None else base.spread, size=size,
        frames=wanted.frames, rate=rate, count=len(train), held=len(held), films=len(set(cuts.film)),
        padded=sum(n < wanted.frames for n in cuts.count), patch=wanted.patch or 8,
        shift=wanted.shift or usual_shift(wanted.frames, size), distinct=distinct(flat),
        how=listing.how if worded else "none", examples=tuple(examples or [""]), source=source(cuts.digests, flat),
        said=(*listing.said, *said, *cuts.warnings[:3]), **told,
    )  # fmt: skip
    if base is None and wanted.still:
        facts = stood(run, facts, cuts, train)
    elif base is not None:
        facts = dataclasses.replace(facts, still=base.still)
    facts.write(run)
    return facts


def stood(run: Run, facts: ClipFacts, cuts: Cuts, train: np.ndarray) -> ClipFacts:
    """The facts of a camera that stands still: the mean frame of what is learned from is kept in the run, and the spread is that
    around it."""
    pixels = np.memmap(run.cache / FRAMES, np.uint8, "r", shape=(cuts.total, *facts.size, 3))
    which = np.unique(np.concatenate([np.arange(cuts.first[i], cuts.first[i] + cuts.count[i]) for i in train]))
    parts = np.array_split(which, max(1, len(which) // 256))
    mean = np.sum([pixels[part].sum(0, dtype=np.float64) for part in parts], axis=0) / len(which) / 127.5 - 1
    around = sum(float(np.square(pixels[part] / 127.5 - 1 - mean).sum()) for part in parts)
    spread = math.sqrt(around / (len(which) * mean.size))
    if spread < 1e-6:
        raise DataError("every frame is the same: there is nothing to learn; leave out --still")
    np.save(run.path / BACKGROUND, np.moveaxis(mean, -1, 0).astype(np.float32))
    return dataclasses.replace(facts, spread=spread, still=True)


def _reader(
    run: Run, wanted: Wanted, own: list[str], flat: list[str], base: ClipFacts | None
) -> tuple[Reader, list[str]]:
    if base is None:
        return chosen(wanted.encoder, own, wanted.vocab, wanted.tokens, distinct(flat))
    return longer(reader(run.path, base.encoder, wanted.tokens, base.checksum), flat, base.tokens), []


def cut_all(
    run: Run, listing: Listing, size: tuple[int, int], paced_to: float | None, rate: float, wanted: Wanted, tell: Say
) -> Cuts:
    """Every film decoded once, its frames written to frames.raw, and cut into clips. Raises DataError where more films are broken
    than may be, or no clip is left."""
    from sfumato.training.progress import Watch

    made = Cuts([], [], [], [], [], [], 0, np.zeros(3), 0, 0, [], [])
    with (run.cache / FRAMES).open("wb") as file, Watch("read films", len(listing.films), unit="films") as watch:
        for number, film in enumerate(listing.films):
            kept = Taken(size, file, made.total)
            try:
                for frame in paced(frames(film), paced_to):
                    kept.take(frame)
            except BrokenOff as error:
                if wanted.strict:
                    raise
                made.warnings.append(f"{error} ({len(kept.seconds)} frames before the break are used)")
            except DataError as error:
                if wanted.strict:
                    raise
                made.complaints.append(str(error))
            made = _with_clips(made, kept, number, listing.captions[number], rate, wanted)
            watch.show(number + 1)
    for line in made.warnings[:10]:
        tell(f"warning: {line}")
    if made.complaints:
        tell(f"{len(made.complaints)} of {len(listing.films)} films cannot be used:")
        for line in made.complaints[:10]:
            tell(f"  {line}")
        if len(made.complaints) > wanted.broken_budget * len(listing.films):
            raise DataError(
                f"{len(made.complaints)} of {len(listing.films)} films are broken, more than --broken-budget "
                f"{wanted.broken_budget:g} allows; the first: {made.complaints[0]}"
            )
    if made.cuts:
        tell(f"cuts      {made.cuts} found, where small grey frames differ by more than {wanted.cut:g} (--cut)")
    if made.short:
        tell(
            f"short     {made.short} pieces of at most {wanted.frames // 2} frames are left out: a clip has {wanted.frames}"
        )
    if not made.first:
        raise DataError(f"no clip of {wanted.frames} frames in {len(listing.films)} films; give fewer --frames")
    return made


class Taken:
    """Frames of one film as they are written: seconds, content and small grey pictures of each."""

    def __init__(self, size: tuple[int, int], file: Any, first: int):
        self.size, self.file, self.first = size, file, first
        self.seconds: list[float] = []
        self.digests: list[bytes] = []
        self.jumps: list[float] = []
        self.histogram = np.zeros(256)
        self._grey: np.ndarray | None = None

    def take(self, frame: Frame) -> None:
        """The next one."""
        pixels = np.ascontiguousarray(resized(frame.pixels, self.size))
        self.file.write(pixels.tobytes())
        self.seconds.append(frame.seconds)
        self.digests.append(hashlib.blake2b(pixels.tobytes(), digest_size=8).digest())
        self.histogram += np.bincount(pixels.ravel(), minlength=256)
        grey = resized(pixels, (CUT_SIDE, CUT_SIDE)).mean(2)
        self.jumps.append(0.0 if self._grey is None else float(np.abs(grey - self._grey).mean()) / 255)
        self._grey = grey


def _with_clips(
    made: Cuts, kept: Taken, film: int, said: tuple[Said, ...], rate: float, wanted: Wanted
) -> Cuts:  # fmt: skip
    """With the clips of one more film: between cuts, ``stride`` frames apart; a rest of more than half a clip is filled up."""
    length, half = wanted.frames, wanted.frames / 2
    total = len(kept.seconds)
    edges = [0, *(i for i, jump in enumerate(kept.jumps) if jump > wanted.cut), total] if total else [0]
    short = 0
    for begin, end in pairwise(edges):
        for at in _starts(begin, end, length, wanted.stride):
            count = min(length, end - at)
            if count <= half and count < length:
                short += 1
                continue
            made.first.append(kept.first + at)
            made.count.append(count)
            made.film.append(film)
            made.seconds.append(kept.seconds[at])
            made.digests.append(hashlib.blake2b(b"".join(kept.digests[at : at + count]), digest_size=16).digest())
            made.texts.append(spoken(said, kept.seconds[at] + count / 2 / rate))
    raw = np.arange(256) / 127.5 - 1
    made.sums[:] += [kept.histogram.sum(), kept.histogram @ raw, kept.histogram @ raw**2]
    late = [each for each in said if math.isfinite(each.end) and total and each.end > kept.seconds[-1] + 2 / rate]
    if late:
        made.warnings.append(
            f"film {film + 1}: a caption ends at {late[0].end:g} s, and the film at {kept.seconds[-1] + 1 / rate:g} s"
        )
    return dataclasses.replace(
        made, total=made.total + total, cuts=made.cuts + max(0, len(edges) - 2), short=made.short + short
    )


def _starts(begin: int, end: int, length: int, stride: int) -> Iterator[int]:
    """First frames of the clips between two cuts. A rest is a clip of its own where clips do not overlap."""
    at = begin
    while at + length <= end:
        yield at
        at += stride
    if (stride >= length and at < end) or (at == begin and begin < end):
        yield at


def spoken(said: Sequence[Said], seconds: float) -> tuple[str, ...]:
    """What is said at a time; of windows that cover it these alone, else what is said of the whole; "" where nothing is."""
    now = [each.text for each in said if each.start <= seconds < each.end]
    return tuple(dict.fromkeys(now)) or ("",)


def parted(cuts: Cuts, share: float, data: Path) -> tuple[np.ndarray, np.ndarray]:
    """Clips to learn from and held out: of many films whole films, of few the end of each, and no frame of a clip held out is in
    one that is learned from."""
    film, first = np.array(cuts.film), np.array(cuts.first)
    whole: dict[int, bytes] = {}
    for number, digest in zip(cuts.film, cuts.digests):
        whole[number] = whole.get(number, b"") + digest
    if len(whole) >= MANY_FILMS:
        _, chosen_films = split(list(whole.values()), share)
        held = np.isin(film, np.array(list(whole))[chosen_films])
        if not held.any() or held.all():
            raise DataError(f"{shown(data)}: 1 distinct film; two at least are needed")
        return np.flatnonzero(~held), np.flatnonzero(held)
    train, held_out = [], []
    for number in whole:
        own = np.flatnonzero(film == number)
        last = own[-max(1, round(share * len(own))) :] if len(own) > 1 else own[:0]
        held_out.append(last)
        train.append(own[first[own] + np.array(cuts.count)[own] <= first[last[0]]] if len(last) else own)
    found = np.concatenate(train), np.concatenate(held_out)
    if not len(found[0]) or not len(found[1]):
        raise DataError(
            f"{shown(data)}: {len(cuts.first)} clip(s) are too few to hold one out; give fewer --frames, or more film"
        )
    return found


def distinct(texts: Sequence[str]) -> int:
    """Different words in all of the captions."""
    return len({word for text in texts for word in re.findall(r"\w+", text.lower())})


def source(digests: Sequence[bytes], captions: Sequence[str]) -> str:
    """16 digits for all clips and captions in their order."""
    digest = hashlib.blake2b(b"".join(digests), digest_size=8)
    digest.update("\n".join(captions).encode())
    return digest.hexdigest()


def _flat(captions: Sequence[Sequence[str]]) -> tuple[list[str], np.ndarray]:
    """All captions one after the other, and where each clip's begin, (N + 1,)."""
    first = np.cumsum([0, *map(len, captions)])
    return [text for texts in captions for text in texts], first.astype(np.int64)
