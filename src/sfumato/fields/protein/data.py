"""Chains made ready in a run: cache/chains.npz, in the run's frame and in Angstrom, once for all.

    file --read_chains--> Chain --framed--> cache --Backbones--> {"x" (L, 12), "weight", "residue", "region", "place", "mask"}

x is N, CA, C, O of a residue, divided by the spread of all coordinates. The padded length depends on the item alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sfumato.data.arrays import kept_arrays
from sfumato.data.writing import appearing
from sfumato.errors import DataError, Wrong, shown
from sfumato.fields.protein.alphabet import ATOMS
from sfumato.fields.protein.chains import SPLITS, Chain, read_chains
from sfumato.fields.protein.clusters import clusters, split
from sfumato.fields.protein.facts import ProteinFacts
from sfumato.fields.protein.regions import Known, is_whole, lengths, places, runs, starts

if TYPE_CHECKING:
    from sfumato.training.run import Run

STEP = 16
"""Lengths are padded to multiples of this."""
LEAST = 8
"""Residues of the shortest chain."""
REMEDY = "train again from the structures"


@dataclass(frozen=True)
class Wanted:
    """What is asked of the data: the options of the recipe that bear on it."""

    held_out: float
    test: float
    longest: int
    frame: str


def padded(length: int) -> int:
    """The length that a chain is padded to."""
    return -(-length // STEP) * STEP


# ---- from files into a run -------------------------------------------------------------------------------------------------


def chosen(path: Path, wanted: Wanted, tell: Callable[[str], None]) -> tuple[list[Chain], int, int]:
    """The chains that can be learned from, and how many were left out: broken in the middle, and too short or long. Raises
    DataError where too few are left."""
    found = read_chains(path, tell)
    fits = [chain for chain in found if LEAST <= len(chain) <= wanted.longest]
    whole = [chain for chain in fits if not len(chain.breaks)]
    broken, odd = len(fits) - len(whole), len(found) - len(fits)
    if broken:
        first = next(chain for chain in fits if len(chain.breaks))
        tell(
            f"left out  {broken} chain(s) broken in the middle, as {first.name} after residue {int(first.breaks[0]) + 1}"
        )
    if odd:
        tell(f"left out  {odd} chain(s) of fewer than {LEAST} or more than {wanted.longest} residues")
    if len(whole) < 3:
        raise DataError(
            f"{shown(path)}: {len(whole)} of its {len(found)} chain(s) can be learned from ({broken} broken in the middle, {odd} "
            "too short or long); three at least are needed, to learn from, hold out and test"
        )
    return whole, broken, odd


def frame_of(chains: Sequence[Chain], asked: str) -> str:
    """The frame that the chains have, or that is asked for. Raises Wrong for a framework that they do not have."""
    there = all(is_whole(chain.cdr) for chain in chains)
    if asked == "framework" and not there:
        raise Wrong(
            "frame = 'framework': the data have no regions (cdr) of heavy chains; leave it out, or give them in an .npz"
        )
    return "framework" if there and asked != "free" else "free"


def prepare(run: Run, path: Path, wanted: Wanted, tell: Callable[[str], None]) -> ProteinFacts:
    """Chains into the run. Raises DataError, Wrong."""
    chains, broken, odd = chosen(path, wanted, tell)
    kin = clusters(chains)
    sides = np.array([chain.split for chain in chains])
    if not all(sides):
        sides = split(kin, wanted.held_out, wanted.test)
    for name, what in (("train", "learn from"), ("val", "hold out")):
        if not (sides == name).any():
            raise DataError(
                f"{shown(path)}: no chain is left to {what}; its {len(chains)} chains are of {kin.max() + 1} cluster(s) of kin, "
                "which are never parted; give more, or a split of your own in an .npz"
            )
    frame = frame_of(chains, wanted.frame)
    coords = framed(chains, np.flatnonzero(sides == "train"), frame)
    size = np.array([len(chain) for chain in chains])
    learned = np.concatenate([coords[i] for i in np.flatnonzero(sides == "train")])
    scale = float(np.sqrt(np.nanmean(np.square(learned, dtype=np.float64))))
    every = np.concatenate(coords)
    with appearing(run.cache / "chains.npz") as file:
        np.savez(
            file, coords=np.nan_to_num(every), there=~np.isnan(every).any(2), codes=np.concatenate([c.codes for c in chains]),
            offsets=np.r_[0, size.cumsum()], cluster=kin, side=np.array([SPLITS.index(side) for side in sides]),
            cdr=np.concatenate([np.full(len(c), -1) if frame == "free" else c.cdr for c in chains]).astype(np.int8),
            names=np.frombuffer("\n".join(c.name for c in chains).encode(), dtype=np.uint8),
        )  # fmt: skip
    count = {name: int((sides == name).sum()) for name in SPLITS}
    facts = ProteinFacts(
        count["train"], count["val"], count["test"], count["spare"], int(kin.max()) + 1, int(size.sum()), int(size.min()),
        int(size.max()), int(np.median(size)), scale, frame, broken, odd, float(np.isnan(every).any(2).mean()),
    )  # fmt: skip
    facts.write(run)
    return facts


def framed(chains: Sequence[Chain], learned: np.ndarray, frame: str) -> list[np.ndarray]:
    """The coordinates of every chain, (L, 4, 3) float32, in the common frame: centred; or laid on the mean of the chains to
    learn from by the CA of FR2 and FR3, whose lengths hardly ever differ, and the whole set centred."""
    if frame == "free":
        return [chain.coords - np.nanmean(chain.coords, (0, 1)) for chain in chains]
    usual = np.array([lengths(np.asarray(chain.cdr))[[2, 4]] for chain in chains])
    length = tuple(int(np.bincount(usual[learned, k]).argmax()) for k in (0, 1))
    anchors = [_anchor(chain, length) for chain in chains]
    typical = [i for i in learned if tuple(usual[i]) == length and not np.isnan(anchors[i]).any()]
    target = anchors[typical[0]] if typical else next(a for a in anchors if not np.isnan(a).any())
    for _ in range(3):
        laid = [_moved(anchors[i], anchors[i], target) for i in typical]
        target = np.mean(laid, 0) if laid else target
    moved = [_moved(chain.coords, anchor, target) for chain, anchor in zip(chains, anchors)]
    centre = np.nanmean(np.concatenate([moved[i] for i in learned]), (0, 1))
    return [(each - centre).astype(np.float32) for each in moved]


def _anchor(chain: Chain, length: tuple[int, ...]) -> np.ndarray:
    """The CA of FR2 from its beginning and of FR3 from its end, NaN where a chain has fewer, (sum of lengths, 3)."""
    first = starts(np.asarray(chain.cdr))
    ca = chain.coords[:, 1].astype(np.float64)
    second, third = ca[first[2] : first[3]][: length[0]], ca[first[4] : first[5]][-length[1] :]
    anchor = np.full((sum(length), 3), np.nan)
    anchor[: len(second)], anchor[len(anchor) - len(third) :] = second, third
    return anchor


def _moved(coords: np.ndarray, anchor: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Coordinates (..., 3) moved as the anchor is best laid on the target."""
    import torch

    from sfumato.metrics.superpose import fit

    own = ~np.isnan(anchor).any(1) & ~np.isnan(target).any(1)
    motion = fit(torch.from_numpy(anchor[own]), torch.from_numpy(target[own]))
    return np.asarray(coords.astype(np.float64) @ motion.rotation.numpy() + motion.shift.numpy()[0], dtype=np.float64)


# ---- from the run ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Store:
    """The chains of a run: coords (sum L, 4, 3) float32 in Angstrom, there (sum L, 4) bool, codes and cdr (sum L,), offsets
    (n + 1,), cluster and side (n,), names."""

    facts: ProteinFacts
    coords: np.ndarray
    there: np.ndarray
    codes: np.ndarray
    cdr: np.ndarray
    offsets: np.ndarray
    cluster: np.ndarray
    side: np.ndarray
    names: tuple[str, ...]

    @classmethod
    def of(cls, run: Run, facts: ProteinFacts) -> Store:
        """From a run. Raises DataError."""
        kept = kept_arrays(run.cache / "chains.npz", REMEDY)
        own = ("coords", "there", "codes", "cdr", "offsets", "cluster", "side", "names")
        if any(name not in kept for name in own):
            raise DataError(f"{shown(run.cache)}: is not what data.json tells of; {REMEDY}")
        names = tuple(kept.pop("names").tobytes().decode().split("\n"))
        found = cls(facts, **{name: kept[name] for name in own[:-1]}, names=names)
        if not len(found.coords) == len(found.codes) == len(found.cdr) == found.offsets[-1] == facts.residues:
            raise DataError(f"{shown(run.cache)}: is not what data.json tells of; {REMEDY}")
        return found

    def part(self, *names: str) -> Backbones:
        """The chains of these sides: train, val, test, spare."""
        return Backbones(self, np.flatnonzero(np.isin(self.side, [SPLITS.index(name) for name in names])))

    def rows(self, chain: int) -> slice:
        """Where the residues of a chain stand."""
        return slice(int(self.offsets[chain]), int(self.offsets[chain + 1]))

    def regions(self, chain: int) -> np.ndarray | None:
        """The regions (L,) of a chain, None where there are none."""
        return self.cdr[self.rows(chain)] if self.facts.regions else None

    @cached_property
    def known(self) -> Known:
        """The chains to learn from, for the regions of other sequences."""
        own = [i for i in range(len(self.names)) if self.side[i] == 0]
        return Known([self.codes[self.rows(i)] for i in own], [self.cdr[self.rows(i)] for i in own])


def condition(codes: np.ndarray, cdr: np.ndarray | None, size: int) -> dict[str, np.ndarray]:
    """What the network is told of one sequence, padded to ``size``: residue and region (size,) int64, place (size, 2) int64,
    mask (size,) bool."""
    length, run = len(codes), runs(cdr, len(codes))
    more = size - length
    return {
        "residue": np.pad(codes, (0, more)).astype(np.int64), "region": np.pad(run, (0, more)),
        "place": np.pad(places(run), ((0, more), (0, 0))), "mask": np.arange(size) < length,
    }  # fmt: skip


@dataclass(frozen=True, eq=False)
class Backbones:
    """Some chains of a store as items, grouped by padded length."""

    store: Store
    chains: np.ndarray
    heavy: float = 1.0
    """Weight of the third loop in the loss."""

    @cached_property
    def buckets(self) -> np.ndarray:
        """The padded length of each."""
        sizes = np.diff(self.store.offsets)[self.chains]
        return np.array([padded(int(size)) for size in sizes], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.chains)

    def name(self, index: int) -> str:
        return self.store.names[int(self.chains[index])]

    def batch(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """{"x" (B, L, 12), "weight" (B, L, 12), "residue", "region" (B, L), "place" (B, L, 2), "mask" (B, L)}."""
        size = int(self.buckets[np.asarray(indices)].max())
        items = [self._item(int(self.chains[int(i)]), size) for i in indices]
        return {name: np.stack([item[name] for item in items]) for name in items[0]}

    def _item(self, chain: int, size: int) -> dict[str, Any]:
        store, own = self.store, self.store.rows(chain)
        x, there, cdr = store.coords[own], store.there[own], store.regions(chain)
        heavy = np.where(cdr == 3, self.heavy, 1.0) if cdr is not None else np.ones(len(x))
        more = ((0, size - len(x)), (0, 0))
        flat = (x / store.facts.scale).reshape(len(x), -1)
        weight = (there * heavy[:, None]).repeat(3, 1)
        return {
            "x": np.pad(flat, more).astype(np.float32), "weight": np.pad(weight, more).astype(np.float32),
            **condition(store.codes[own], cdr, size),
        }  # fmt: skip


NUMBERS = 3 * len(ATOMS)
"""Numbers of a residue."""
