"""Captioned pictures made ready in a run, and opened again.

cache/pictures-HxW.npy   bytes (n, 3, H, W) of each bucket
cache/codes-HxW.npy      float16 (n, c, h, w), where codes of an autoencoder are learned
cache/items.npz          of each picture: its bucket and place there, its captions' rows, which part it belongs to
cache/tokens.npy         (captions, S) int32, -1 behind the end; cache/states-*.npy where states are given instead
cache/captions.json      the captions, and the names of the pictures
tokenizer.json           the vocabulary, which samples need too
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sfumato.data import DataError, check_budget, gather, scan, shown, split
from sfumato.data.pictures import Scan
from sfumato.fields.captions.facts import CaptionFacts
from sfumato.fields.captions.reading import Asked, Listing, listed
from sfumato.fields.captions.sizes import Size, buckets
from sfumato.fields.captions.weighing import ROUNDS
from sfumato.jobs.recipe import Say
from sfumato.networks.words import chosen, longer, read, reader
from sfumato.training.run import Run, write_text

if TYPE_CHECKING:
    from sfumato.networks.words import Told

ITEMS, CAPTIONS = "items.npz", "captions.json"
EXAMPLES = 64


@dataclass(frozen=True)
class Wanted:
    """How captioned pictures are to be made ready. side and patch None: chosen."""

    asked: Asked
    side: int | None
    patch: int | None
    square: bool
    held_out: float
    broken_budget: float
    encoder: str
    vocab: int
    tokens: int
    shift: float | None
    latent: Path | None = None


@dataclass(frozen=True, eq=False)
class Seen:
    """Pictures that can be decoded, each with its captions."""

    scan: Scan
    captions: tuple[tuple[str, ...], ...]
    listing: Listing

    @classmethod
    def of(cls, data: Path, asked: Asked, room: Path, workers: int, tell: Say) -> Seen:
        """Find captions, decode every picture once. Raises DataError."""
        from sfumato.training.progress import Watch

        listing = listed(data, asked, room)
        with Watch("look at pictures", len(listing.files), unit="pictures") as watch:
            found = scan(
                data if data.is_dir() else data.parent, files=listing.files, workers=workers,
                progress=lambda done, total: watch.show(done),
            )  # fmt: skip
        if found.complaints:
            tell(f"{len(found.complaints)} of {len(listing.files)} pictures cannot be used:")
            for complaint in found.complaints[:10]:
                tell(f"  {complaint}")
        whole = dict(zip(listing.files, listing.captions))
        return cls(found, tuple(whole[path] for path in found.files), listing)


@dataclass(frozen=True, eq=False)
class Laid:
    """Pictures as they lie in the cache: sizes of the buckets, of each picture its bucket and place there, the numbers of those
    to learn from and of those held out, and what was measured of the former. said: what is to be said of it."""

    sizes: list[Size]
    bucket: np.ndarray
    place: np.ndarray
    train: np.ndarray
    held: np.ndarray
    side: int
    patch: int
    mean: float
    spread: float
    factor: int
    said: list[str]


def prepare(run: Run, data: Path, wanted: Wanted, tell: Say, base: CaptionFacts | None = None) -> CaptionFacts:
    """Read everything into the run, and decide what is open; with ``base``, the facts of a run that is trained further, units,
    what reads the words, patches and shift are its. Raises DataError."""
    import os

    from sfumato.diffusion import key

    with tempfile.TemporaryDirectory(dir=run.path) as room:
        seen = Seen.of(data, wanted.asked, Path(room), os.cpu_count() or 1, tell)
        check_budget(seen.scan, wanted.broken_budget)
        laid = lay(seen, wanted, run.cache)
    flat, first = _flat(seen.captions)
    own, different = [text for i in laid.train for text in seen.captions[i]], distinct(flat)
    words, said = (
        chosen(wanted.encoder, own, wanted.vocab, wanted.tokens, different)
        if base is None
        else (longer(reader(run.path, base.encoder, wanted.tokens, base.checksum), flat, base.tokens), [])
    )
    words.save(run.path)
    longest, cut = words.write(flat, run.cache)
    np.savez(
        run.cache / ITEMS, bucket=laid.bucket, place=laid.place, first=first, train=laid.train, held_out=laid.held
    )  # fmt: skip
    root = seen.scan.root
    names = [shown(path.relative_to(root)) if path.is_relative_to(root) else shown(path) for path in seen.scan.files]
    write_text(run.cache / CAPTIONS, json.dumps({"captions": flat, "names": names}, ensure_ascii=False))
    order = sorted((int(i) for i in laid.held), key=lambda i: key("examples", seen.captions[i][0]))
    examples = list(dict.fromkeys(seen.captions[i][0] for i in order if seen.captions[i][0]))[:EXAMPLES]
    counts = np.bincount(laid.bucket, minlength=len(laid.sizes))
    facts = CaptionFacts(
        mean=laid.mean, spread=laid.spread, count=len(laid.train), held=len(laid.held),
        captions=sum(len(set(texts[:ROUNDS])) for texts in seen.captions), sizes=tuple(laid.sizes),
        shares=tuple((counts / counts.sum()).tolist()), patch=laid.patch,
        shift=wanted.shift or usual_shift(laid.side, laid.factor), encoder=words.name, vocab=words.vocab, width=words.width,
        tokens=words.length, longest=longest, cut=cut, distinct=different, checksum=words.checksum,
        hidden=sum(not any(texts) for texts in seen.captions), how=seen.listing.how, examples=tuple(examples or [""]),
        source=source(seen.scan.digests, flat), said=(*seen.listing.said, *said, *many(seen.captions), *laid.said),
    )  # fmt: skip
    if base is not None:
        facts = dataclasses.replace(facts, mean=base.mean, spread=base.spread, shift=base.shift)
    if wanted.latent is not None:
        facts = coded(run, facts, laid, wanted.latent)
    facts.write(run)
    return facts


def coded(run: Run, facts: CaptionFacts, laid: Laid, source: Path) -> CaptionFacts:
    """The facts, once the codes of the pictures are worked out by the autoencoder of the run ``source``. Raises RunError."""
    from sfumato.jobs import latents

    learned = np.zeros(len(laid.bucket), dtype=bool)
    learned[laid.train] = True
    arrays = [
        (
            np.load(run.cache / pictures_name(size), mmap_mode="r", allow_pickle=False),
            learned[laid.bucket == number],
            run.cache / pictures_name(size, "codes"),
        )
        for number, size in enumerate(laid.sizes)
    ]
    return dataclasses.replace(facts, latent=latents.prepare(source, run, arrays).plain())


def lay(seen: Seen, wanted: Wanted, cache: Path) -> Laid:
    """Choose sizes, and put every picture into the file of its bucket. Raises DataError."""
    from sfumato.jobs import latents
    from sfumato.networks import fitting_patch
    from sfumato.training.parallel import pick_device

    scan, fast = seen.scan, pick_device().type != "cpu"
    factor = 1 if wanted.latent is None else latents.factor(wanted.latent)
    side = wanted.side or usual_side(scan.median_side, fast or factor > 1)
    if side % factor:
        raise DataError(f"side = {side}: is not divisible by {factor}, as {wanted.latent} has it")
    patch = wanted.patch or fitting_patch((3, side // factor, side // factor), fast)
    if patch is None:
        raise DataError(
            f"side = {side}: no patch from 2 to 16 divides it; choose another, such as {max(8, side - side % 8)}"
        )
    if side % (patch * factor):
        times = f" times {factor}, as {wanted.latent} has it" if factor > 1 else ""
        raise DataError(f"side = {side}: is not divisible by network.patch = {patch}{times}")
    train, held = split(list(scan.digests), wanted.held_out)
    if not len(held):
        raise DataError(f"{shown(scan.root)}: 1 distinct picture ({len(scan)} files); two at least are needed")
    shapes = [(1, 1)] * len(scan) if wanted.square else list(scan.shapes)
    sizes, numbers = buckets(shapes, side, patch * factor)
    bucket, place = np.array(numbers), np.zeros(len(numbers), dtype=np.int64)
    learned = np.zeros(len(numbers), dtype=bool)
    learned[train] = True
    sums = np.zeros(3)
    for number, size in enumerate(sizes):
        own = np.flatnonzero(bucket == number)
        place[own] = np.arange(len(own))
        array = gather(scan, side if wanted.square else size, cache / pictures_name(size), which=own.tolist())
        sums += _sums(array, learned[own])
    mean = sums[1] / sums[0]
    spread = math.sqrt(max(0.0, sums[2] / sums[0] - mean**2))
    if spread < 1e-6:
        raise DataError(f"{shown(scan.root)}: every picture is of one colour, the same: there is nothing to learn")
    said = stretched(shapes, sizes, numbers)
    return Laid(sizes, bucket, place, train, held, side, patch, float(mean), spread, factor, said)


def many(captions: Sequence[Sequence[str]]) -> list[str]:
    """A word about pictures with more captions than are learned from."""
    more = sum(len(texts) > ROUNDS for texts in captions)
    return [f"{more} pictures have more than {ROUNDS} captions: the first {ROUNDS} are learned from"] if more else []


def stretched(shapes: Sequence[Size], sizes: Sequence[Size], bucket: Sequence[int], most: float = 1.25) -> list[str]:
    """A word about pictures whose proportions are changed by more than a quarter."""
    changes = (height / width * sizes[i][1] / sizes[i][0] for (height, width), i in zip(shapes, bucket))
    far = sum(max(change, 1 / change) > most for change in changes)
    if not far:
        return []
    return [
        f"{far} pictures are stretched by more than {most - 1:.0%} to a size that is there: a smaller --network.patch makes "
        "more sizes, --square cuts squares out"
    ]


def usual_side(median: int, fast: bool) -> int:
    """48 pixels on a CPU, 64 on an accelerator, less for smaller pictures: a multiple of 8."""
    return max(8, min(64 if fast else 48, median - median % 8))


def usual_shift(side: int, factor: int = 1) -> float:
    """Times more noise for the signal than at 64 pixels, 1 below (Hoogeboom et al. 2023, arXiv 2301.11093): neighbouring
    pixels of large pictures are alike, so noise of the same strength hides less of them. The same of codes, each of which
    stands for ``factor`` pixels of a side."""
    return max(1.0, side / factor / 64)


def distinct(texts: Sequence[str]) -> int:
    """Different words in all of the captions."""
    return len({word for text in texts for word in re.findall(r"\w+", text.lower())})


def source(digests: Sequence[bytes], captions: Sequence[str]) -> str:
    """16 digits for all pictures and captions in their order."""
    digest = hashlib.blake2b(b"".join(digests), digest_size=8)
    digest.update("\n".join(captions).encode())
    return digest.hexdigest()


def pictures_name(size: Size, kind: str = "pictures") -> str:
    """The file of a bucket in the cache: of its pictures, or of their codes."""
    return f"{kind}-{size[0]}x{size[1]}.npy"


def _sums(array: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Count, sum and sum of squares of the raw numbers (value / 127.5 - 1) of the chosen items, (3,)."""
    total = np.zeros(3)
    for rows in np.array_split(np.flatnonzero(chosen), max(1, array.nbytes >> 24)):
        histogram = np.bincount(np.asarray(array[rows]).ravel(), minlength=256)
        raw = np.arange(256) / 127.5 - 1
        total += [histogram.sum(), histogram @ raw, histogram @ raw**2]
    return total


def _flat(captions: Sequence[Sequence[str]]) -> tuple[list[str], np.ndarray]:
    """All captions one after the other, at most ROUNDS of a picture, and where each picture's begin, (N + 1,)."""
    kept = [list(texts[:ROUNDS]) for texts in captions]
    first = np.cumsum([0, *map(len, kept)])
    return [text for texts in kept for text in texts], first.astype(np.int64)


@dataclass(frozen=True, eq=False)
class Stock:
    """What `prepare` wrote, memory-mapped. pictures: bytes of each bucket. codes: of each bucket, where they are learned. told:
    all captions as the network is told them."""

    facts: CaptionFacts
    pictures: tuple[np.ndarray, ...]
    codes: tuple[np.ndarray, ...]
    bucket: np.ndarray
    place: np.ndarray
    first: np.ndarray
    parts: tuple[np.ndarray, np.ndarray]
    captions: list[str]
    names: list[str]
    told: Told

    @classmethod
    def open(cls, run: Run, facts: CaptionFacts) -> Stock:
        """From the run alone. Raises DataError where something is missing or damaged."""
        try:
            with np.load(run.cache / ITEMS, allow_pickle=False) as stored:
                bucket, place, first, train, held = (
                    stored[name] for name in ("bucket", "place", "first", "train", "held_out")
                )
            kinds = ("pictures",) if facts.space is None else ("pictures", "codes")
            arrays = [
                tuple(
                    np.load(run.cache / pictures_name(size, kind), mmap_mode="r", allow_pickle=False)
                    for size in facts.sizes
                )
                for kind in kinds
            ]
            about = json.loads((run.cache / CAPTIONS).read_text(encoding="utf-8"))
            captions, names = list(about["captions"]), list(about["names"])
            told = read(run.cache, len(captions))
        except (OSError, ValueError, EOFError, KeyError, TypeError, zipfile.BadZipFile) as error:
            raise DataError(
                f"{run.cache}: the prepared data cannot be read ({error}); train again from the data"
            ) from error
        pictures, codes = (*arrays, ())[:2]
        return cls(facts, pictures, codes, bucket, place, first, (train, held), captions, names, told)

    def train(self) -> Pairs:
        """The items to learn from: each picture once for each of its captions, and as often as the others."""
        most = int((self.first[1:] - self.first[:-1])[self.parts[0]].max(initial=1))
        return Pairs(self, self.parts[0], most)

    def held_out(self) -> Pairs:
        """The pictures held out, with their first captions."""
        return Pairs(self, self.parts[1], 1)


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pictures ``of`` a stock with their captions: item k is picture k mod N with caption k // N of it, in turn."""

    stock: Stock
    of: np.ndarray
    rounds: int

    def __len__(self) -> int:
        return len(self.of) * self.rounds

    @cached_property
    def buckets(self) -> np.ndarray | None:
        """The sizes; None where there is one."""
        kinds = self.stock.bucket[self.of]
        return None if len(self.stock.pictures) == 1 else np.tile(kinds, self.rounds)

    def rows(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of the pictures and of the captions of items (B,)."""
        turn, which = np.divmod(np.asarray(indices, dtype=np.int64), len(self.of))
        picture, first = self.of[which], self.stock.first
        return picture, first[picture] + turn % (first[picture + 1] - first[picture])

    def batch(self, indices: np.ndarray) -> dict[str, Any]:
        """{"x": (B, 3, H, W) or codes (B, c, h, w), standard, "caption": tokens or states, "caption_mask"}. Of one bucket."""
        facts, told = self.stock.facts, self.stock.told.batch(self.rows(indices)[1])
        if self.codes:
            kind, rows = self._where(indices)
            space = facts.space
            assert space is not None
            return {"x": space.statistics(*facts.sizes[kind]).standardise(self.codes[kind][rows]), **told}
        return {"x": (self.pictures(indices) - np.float32(facts.mean)) / np.float32(facts.spread), **told}

    @property
    def codes(self) -> tuple[np.ndarray, ...]:
        """Of each bucket, where they are learned."""
        return self.stock.codes

    def pictures(self, indices: np.ndarray) -> np.ndarray:
        """Items (B,) as pictures from -1 (black) to 1 (white), float32 (B, 3, H, W). Of one bucket."""
        kind, rows = self._where(indices)
        return np.asarray(self.stock.pictures[kind][rows].astype(np.float32) / np.float32(127.5) - np.float32(1))

    def _where(self, indices: np.ndarray) -> tuple[int, np.ndarray]:
        """The bucket of items, and their rows in it."""
        picture, _ = self.rows(indices)
        kinds = self.stock.bucket[picture]
        if len(kinds) and (kinds != kinds[0]).any():
            raise ValueError("pictures of different sizes cannot stand in one batch: take items of one bucket")
        return int(kinds[0]) if len(kinds) else 0, self.stock.place[picture]

    def caption(self, index: int) -> str:
        """What an item's caption says."""
        return self.stock.captions[int(self.rows(np.array([index]))[1][0])]

    def name(self, index: int) -> str:
        """The file of an item's picture."""
        if not 0 <= index < len(self):
            raise IndexError(f"item {index} of a data set of {len(self)}")
        return self.stock.names[int(self.rows(np.array([index]))[0][0])]
